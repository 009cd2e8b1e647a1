//! Whole runs against a small server inside this process.

mod fake;

use std::time::Duration;

use fake::{Fake, Faults};
use seawall_load::plan::{Arrivals, CorePorts, Distribution, Io, Plan, Protocol, Ratio, Span};
use seawall_load::{LoadError, Report, run};

fn plan(fake: &Fake) -> Plan {
    Plan {
        target: fake.address.parse().expect("an address"),
        connections: 4,
        threads: 2,
        pipeline: 8,
        keys: 500,
        value_bytes: Span { min: 0, max: 3000 },
        requests: Some(5000),
        warmup: Duration::ZERO,
        preload: true,
        verify: true,
        ..Plan::default()
    }
}

const PROTOCOLS: [Protocol; 4] = [Protocol::Text, Protocol::Meta, Protocol::Binary, Protocol::Resp];

fn report(plan: &Plan) -> Report {
    run(plan, |_| ()).expect("the run succeeds")
}

/// io_uring may be refused where the tests run; then epoll must do.
fn drivers() -> Vec<Io> {
    let mut drivers = vec![Io::Epoll];
    let fake = Fake::start(Faults::default());
    let probe = Plan { io: Io::Uring, requests: Some(1), preload: false, ..plan(&fake) };
    if run(&probe, |_| ()).is_ok() {
        drivers.push(Io::Uring);
    }
    drivers
}

#[test]
fn every_protocol_reads_what_was_written() {
    for io in drivers() {
        for protocol in PROTOCOLS {
            for multiget in [1, 7] {
                let fake = Fake::start(Faults::default());
                let ttl = if multiget == 1 { 600 } else { 0 };
                let report = report(&Plan { io, protocol, multiget, ttl, ..plan(&fake) });
                let what = format!("{io:?} {protocol:?} {multiget}");
                assert_eq!(fake.items(), 500, "{what}");
                assert!(report.is_clean(), "{what}: {:?}", report.warnings());
                assert_eq!(report.requests, 5000, "{what}");
                assert_eq!(report.misses, 0, "{what}");
                assert_eq!(report.hits, report.gets * u64::from(multiget), "{what}");
                assert!((300..700).contains(&report.sets), "{what}: {} sets", report.sets);
                assert_eq!(report.latency.count, 5000, "{what}");
            }
        }
    }
}

#[test]
fn values_larger_than_any_buffer_are_checked_too() {
    for io in drivers() {
        let fake = Fake::start(Faults::default());
        let report = report(&Plan {
            io,
            keys: 8,
            value_bytes: Span::fixed(1 << 20),
            requests: Some(40),
            ratio: Ratio { gets: 1, sets: 1 },
            ..plan(&fake)
        });
        assert!(report.is_clean(), "{:?}", report.warnings());
        assert_eq!(report.requests, 40);
    }
}

#[test]
fn wrong_values_are_counted() {
    for protocol in PROTOCOLS {
        let fake = Fake::start(Faults { corrupt_every: 10, ..Faults::default() });
        let report = report(&Plan {
            protocol,
            ratio: Ratio { gets: 1, sets: 0 },
            value_bytes: Span::fixed(20),
            ..plan(&fake)
        });
        assert_eq!(report.corrupt, 500, "{protocol:?}");
        assert!(!report.is_clean());
    }
}

#[test]
fn misses_are_counted_and_filled() {
    let fake = Fake::start(Faults::default());
    let gets = Plan { preload: false, ratio: Ratio { gets: 1, sets: 0 }, ..plan(&fake) };
    assert_eq!(report(&gets).misses, 5000);
    assert_eq!(fake.items(), 0);
    let report = report(&Plan { fill: true, distribution: Distribution::Sequential, ..gets });
    assert!(report.is_clean(), "{:?}", report.warnings());
    assert_eq!(fake.items(), 500);
    assert!(report.hit_ratio.is_some_and(|ratio| ratio > 0.7), "{:?}", report.hit_ratio);
}

#[test]
fn the_servers_errors_are_counted() {
    for protocol in [Protocol::Meta, Protocol::Binary, Protocol::Resp] {
        let fake = Fake::start(Faults { no_memory: true, ..Faults::default() });
        let report = report(&Plan { protocol, ratio: Ratio { gets: 0, sets: 1 }, ..plan(&fake) });
        assert_eq!(report.errors, 5000);
        assert_eq!(report.preload.as_ref().map(|preload| preload.errors), Some(500));
        let example = report.error_example.unwrap_or_default();
        assert!(example.to_lowercase().contains("out of memory"), "{example}");
    }
}

#[test]
fn broken_connections_are_made_anew() {
    for io in drivers() {
        let fake = Fake::start(Faults { close_after: 400, ..Faults::default() });
        let report = report(&Plan { io, preload: false, ..plan(&fake) });
        assert!(report.disconnects >= 8, "{}", report.disconnects);
        assert!(report.errors > 0 && report.errors <= report.disconnects * 8);
        assert_eq!(report.requests + report.errors, 5000);
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    for io in drivers() {
        for arrivals in [Arrivals::Poisson, Arrivals::Constant] {
            let fake = Fake::start(Faults::default());
            let report = report(&Plan {
                io,
                arrivals,
                rate: Some(2000.0),
                requests: None,
                duration: Duration::from_millis(1000),
                warmup: Duration::from_millis(200),
                ..plan(&fake)
            });
            assert!(report.errors == 0 && report.corrupt == 0, "{:?}", report.warnings());
            let sent = report.latency.count + report.unanswered + report.unsent;
            assert!((1700..2300).contains(&sent), "{io:?} {arrivals:?}: {sent}");
        }
    }
}

#[test]
fn keys_go_to_the_port_of_their_core() {
    // Two neighbouring ports that are free.
    let (base, first, second) = (0..100)
        .find_map(|_| {
            let first = std::net::TcpListener::bind("127.0.0.1:0").ok()?;
            let port = first.local_addr().ok()?.port();
            let second = std::net::TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok()?;
            Some((port, first, second))
        })
        .expect("two neighbouring ports");
    let cores = [Fake::on(first, Faults::default()), Fake::on(second, Faults::default())];
    for rate in [None, Some(20_000.0)] {
        let report = report(&Plan {
            rate,
            core_ports: Some(CorePorts { base, cores: 2, seed: 77 }),
            preload: false,
            ratio: Ratio { gets: 0, sets: 1 },
            ..plan(&cores[0])
        });
        assert!(report.is_clean(), "{:?}", report.warnings());
    }
    let seed = engine::HashSeed::new(77);
    for (core, fake) in cores.iter().enumerate() {
        assert!(fake.items() > 150, "core {core} has {} keys", fake.items());
        for key in fake.keys() {
            assert_eq!(engine::KeyHash::of(&key, &seed).core(2), core as u32);
        }
    }
}

#[test]
fn a_stall_is_felt_by_every_request_that_was_due_in_it() {
    let pause = Duration::from_millis(500);
    let fake = Fake::start(Faults { stall: Some((600, pause)), ..Faults::default() });
    let report = report(&Plan {
        rate: Some(1000.0),
        requests: None,
        connections: 2,
        pipeline: 1,
        preload: false,
        duration: Duration::from_millis(2000),
        ..plan(&fake)
    });
    // Half a second of 1,000 requests a second stood still: a quarter of all
    // requests waited, half of those for more than a quarter of a second. A
    // generator that waits for answers would have reported two slow requests.
    assert!(report.latency.p90_us > 150_000.0, "p90 {} us", report.latency.p90_us);
    assert!(report.latency.max_us > 400_000.0, "max {} us", report.latency.max_us);
}

#[test]
fn no_server_and_a_wrong_server_are_named() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = unused.local_addr().expect("bound").to_string();
    drop(unused);
    let plan = Plan { target: address.parse().expect("an address"), ..Plan::default() };
    let error = run(&plan, |_| ()).expect_err("nobody listens");
    assert!(matches!(error, LoadError::Connect { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("cannot reach {address}")), "{error}");

    let foreign = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = foreign.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for mut stream in foreign.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut stream, b"-ERR unknown command\r\n");
            std::mem::forget(stream);
        }
    });
    let plan =
        Plan { target: address.parse().expect("an address"), connections: 1, ..Plan::default() };
    let error = run(&plan, |_| ()).expect_err("it speaks something else");
    assert!(error.to_string().contains("does not speak the text protocol"), "{error}");
}

#[test]
fn the_program_writes_its_files() {
    let fake = Fake::start(Faults::default());
    let folder = std::env::temp_dir().join(format!("seawall-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (json, svg) = (folder.join("run.json"), folder.join("run.svg"));
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_seawall-load"))
        .args([
            "--server",
            &fake.address,
            "--keys",
            "100",
            "--requests",
            "1000",
            "--preload",
            "--warmup",
            "0",
        ])
        .args([
            "--distribution",
            "zipf",
            "--verify",
            "--server-pid",
            &std::process::id().to_string(),
        ])
        .arg("--json")
        .arg(&json)
        .arg("--svg")
        .arg(&svg)
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        text.contains("throughput") && text.contains("p99.99") && text.contains("server CPU"),
        "{text}"
    );
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&json).expect("a report")).expect("JSON");
    assert_eq!(report["requests"], 1000);
    assert!(report["latency"]["p99_us"].as_f64().is_some_and(|p99| p99 > 0.0));
    assert!(std::fs::read_to_string(&svg).expect("a plot").starts_with("<svg"));

    let output = std::process::Command::new(env!("CARGO_BIN_EXE_seawall-load"))
        .args(["sweep", "--rates", "500,1000", "--peer", &format!("a={}", fake.address)])
        .args(["--peer", &format!("b={}", fake.address), "--duration", "200ms", "--warmup", "50ms"])
        .args(["--keys", "100", "--preload"])
        .arg("--svg")
        .arg(&svg)
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        text.lines().filter(|line| line.starts_with("a ") || line.starts_with("b ")).count(),
        4,
        "{text}"
    );
    assert!(std::fs::read_to_string(&svg).expect("a plot").contains("a p99"));
    std::fs::remove_dir_all(&folder).expect("our own folder");
    assert!(fake.requests() > 1000);
}
