//! Warm restart, with the real binary: what comes back, what must not, and
//! files that are no snapshots.

mod common;
use common::{Daemon, Folder};

fn value(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + seed * 7 + at / 251) as u8).collect()
}

#[test]
fn a_restart_keeps_every_item_with_all_its_state() {
    let folder = Folder::new("restart");
    let file = folder.path("cache.snapshot");
    let args =
        ["-m", "256", "-I", "8m", "--namespaces", "user", "--snapshot", file.to_str().unwrap()];

    let daemon = Daemon::start(&args);
    let mut client = daemon.connect();
    for number in 0..5_000 {
        client.set(&format!("small{number}"), number as u32, 0, &value(number, number % 300));
    }
    let lengths = [16_000, 20_000, 1 << 20, (8 << 20) - 1000];
    for (number, length) in lengths.into_iter().enumerate() {
        client.set(&format!("long{number}"), 9, 0, &value(number, length));
    }
    client.set("ttl", 0, 1_000, b"x");
    client.set("brief", 0, 1, b"x");
    client.set("gone", 0, 0, b"x");
    assert_eq!(client.ask("delete gone"), "DELETED");
    assert_eq!(client.ask("ms tagged 3 G(red,blue)\r\nabc"), "HD");
    assert_eq!(client.ask("ms kept 3 G(green)\r\nabc"), "HD");
    client.set("user:1", 0, 0, b"x");
    let answer = client.ask("invalidate tag blue");
    assert!(answer.starts_with("INVALIDATED"), "{answer}");
    let answer = client.ask("invalidate ns user");
    assert!(answer.starts_with("INVALIDATED"), "{answer}");
    client.set("user:2", 0, 0, b"x");
    let cas = client.ask("mg small7 c");
    assert_eq!(client.ask("md small8 I T500"), "HD");
    let log = daemon.stop();
    assert!(log.contains("snapshot written"), "{log}");
    std::thread::sleep(std::time::Duration::from_millis(1_100));

    let daemon = Daemon::start(&args);
    assert!(daemon.log().contains("snapshot loaded"), "{}", daemon.log());
    let mut client = daemon.connect();
    assert_eq!(client.ask("mg small7 c"), cas, "the CAS is kept");
    assert_eq!(client.ask("mg small8 v"), "VA 8 X W", "the stale mark is kept");
    client.skip_line();
    for number in (0..5_000).filter(|number| *number != 8) {
        let (found, flags) = client
            .get(&format!("small{number}"))
            .unwrap_or_else(|| panic!("small{number} is lost"));
        assert_eq!(flags, number as u32);
        assert!(found == value(number, number % 300), "small{number}");
    }
    for (number, length) in lengths.into_iter().enumerate() {
        let (found, flags) =
            client.get(&format!("long{number}")).unwrap_or_else(|| panic!("long{number} is lost"));
        assert!(flags == 9 && found == value(number, length), "long{number}");
    }
    let ttl: u32 = client.ask("mg ttl t").strip_prefix("HD t").unwrap().parse().unwrap();
    assert!((900..=1_000).contains(&ttl), "{ttl}");
    for key in ["brief", "gone", "tagged", "user:1"] {
        assert_eq!(client.get(key), None, "{key} must not come back");
    }
    assert!(client.get("kept").is_some() && client.get("user:2").is_some());
    // The tag came along: it can still be invalidated.
    client.ask("invalidate tag green");
    assert_eq!(client.get("kept"), None);
    daemon.stop();
}

#[test]
fn another_number_of_cores_loads_the_same_file() {
    let folder = Folder::new("cores");
    let file = folder.path("cache.snapshot");
    let file = file.to_str().unwrap();
    let daemon = Daemon::start(&["--snapshot", file]);
    let mut client = daemon.connect();
    for number in 0..1_000 {
        client.set(&format!("key{number}"), 0, 0, &value(number, 50));
    }
    daemon.stop();
    let daemon = Daemon::start(&["--snapshot", file, "-t", "1"]);
    let mut client = daemon.connect();
    for number in 0..1_000 {
        assert!(client.get(&format!("key{number}")).is_some(), "key{number}");
    }
    daemon.stop();
}

#[test]
fn torn_and_foreign_files_are_refused_and_the_node_starts_empty() {
    let folder = Folder::new("torn");
    let file = folder.path("cache.snapshot");
    let args = ["--snapshot", file.to_str().unwrap()];
    let daemon = Daemon::start(&args);
    let mut client = daemon.connect();
    for number in 0..2_000 {
        client.set(&format!("key{number}"), 0, 0, &value(number, 100));
    }
    daemon.stop();
    let good = std::fs::read(&file).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for (bytes, reason) in [
        (&good[..good.len() - 10], "torn"),
        (&good[..10], "torn"),
        (
            &b"something else entirely, but long enough to hold a header"[..],
            "not a Seawall snapshot",
        ),
        (&b""[..], "not a Seawall snapshot"),
        (&flipped[..], "wrong checksum"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let daemon = Daemon::start(&args);
        let log = daemon.log();
        assert!(log.contains(reason) && log.contains("starting empty"), "{reason}: {log}");
        let mut client = daemon.connect();
        for number in [0, 999, 1_999] {
            assert_eq!(client.get(&format!("key{number}")), None);
        }
        client.set("new", 0, 0, b"works");
        daemon.signal("KILL");
        daemon.wait();
    }
}

#[test]
fn a_snapshot_on_demand_is_written_while_clients_are_served() {
    let folder = Folder::new("demand");
    let file = folder.path("cache.snapshot");
    let daemon = Daemon::start(&["-m", "128", "--snapshot", file.to_str().unwrap()]);
    let mut client = daemon.connect();
    for number in 0..20_000 {
        client.set(&format!("key{number}"), 0, 0, &value(number, 1_000));
    }
    let (status, body) = daemon.http("POST", "/snapshot");
    assert_eq!(status, 202, "{body}");
    let mut served = 0;
    loop {
        let (_, body) = daemon.http("GET", "/snapshot");
        if body.contains("\"done\"") {
            break;
        }
        assert!(!body.contains("\"failed\""), "{body}");
        assert!(client.get("key1").is_some());
        served += 1;
    }
    let _ = served;
    daemon.signal("KILL");
    daemon.wait();
    let daemon = Daemon::start(&["-m", "128", "--snapshot", file.to_str().unwrap()]);
    let mut client = daemon.connect();
    for number in 0..20_000 {
        assert!(client.get(&format!("key{number}")).is_some(), "key{number}");
    }
    daemon.stop();
}

#[test]
fn a_snapshot_that_cannot_be_written_says_so() {
    let daemon = Daemon::start(&["--snapshot", "/proc/no/such/place"]);
    daemon.connect().set("key", 0, 0, b"x");
    daemon.signal("TERM");
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("cannot write the snapshot /proc/no/such/place"), "{log}");
}
