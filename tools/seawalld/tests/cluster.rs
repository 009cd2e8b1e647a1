//! Three daemons as a user starts them: one cache, whoever dies.

mod common;

use common::{Daemon, Folder, free_port};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Partitions: few, so that many nodes fit onto a small machine.
const PARTITIONS: &str = "256";
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    folder: Folder,
    peers: Vec<u16>,
    extra: Vec<String>,
    nodes: Vec<Option<Daemon>>,
}

impl Cluster {
    fn start(name: &str, extra: &[&str]) -> Cluster {
        let mut cluster = Cluster {
            folder: Folder::new(name),
            peers: (0..3).map(|_| free_port()).collect(),
            extra: extra.iter().map(ToString::to_string).collect(),
            nodes: vec![None, None, None],
        };
        for node in 0..3 {
            cluster.restart(node);
        }
        cluster.wait_until_whole();
        cluster
    }

    fn join(&self) -> Vec<String> {
        self.peers.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    fn directory(&self, node: usize) -> std::path::PathBuf {
        self.folder.path(&format!("n{node}"))
    }

    /// What makes it this node of this cluster.
    fn membership(&self, node: usize) -> Vec<String> {
        let (join, directory) = (self.join(), self.directory(node));
        let pairs = [
            ("--cluster-listen", join[node].clone()),
            ("--join", join.join(",")),
            ("--node-name", format!("n{node}")),
            ("--cluster-directory", directory.to_string_lossy().into_owned()),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    /// Begins the cluster anew on a node that does not run: exit code and log.
    fn recover(&self, node: usize, lost: &str) -> (Option<i32>, String) {
        let mut args = self.membership(node);
        args.extend(["--cluster-recover".to_owned(), lost.to_owned()]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let out = common::run(&args);
        (out.status.code(), common::text(&out.stderr))
    }

    fn restart(&mut self, node: usize) {
        let membership = self.membership(node);
        let mut args: Vec<&str> = membership.iter().map(String::as_str).collect();
        args.extend([
            "--partitions",
            PARTITIONS,
            "--pin-cores",
            "no",
            // A busy machine may take its time to notice a death.
            "--cluster-patience-ms",
            "30000",
            "--drain-seconds",
            "30",
        ]);
        args.extend(self.extra.iter().map(String::as_str));
        self.nodes[node] = Some(Daemon::start(&args));
    }

    fn node(&self, node: usize) -> &Daemon {
        self.nodes[node].as_ref().expect("it runs")
    }

    fn ring(&self, node: usize) -> serde_json::Value {
        let (status, body) = self.node(node).http("GET", "/ring");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until every running node says that every partition has all copies.
    fn wait_until_whole(&self) {
        let began = Instant::now();
        for node in (0..3).filter(|node| self.nodes[*node].is_some()) {
            loop {
                let ring = self.ring(node);
                let whole = ring["partitions"]["whole"].as_u64() == Some(256);
                if whole && ring["leased"] == true && ring["nodes"].as_array().unwrap().len() == 3 {
                    break;
                }
                assert!(began.elapsed() < PATIENCE, "{ring:#}\n{}", self.node(node).log());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn kill(&mut self, node: usize) {
        let daemon = self.nodes[node].take().expect("it runs");
        daemon.signal("KILL");
        daemon.wait();
    }

    /// Asks about a hundred keys, each through the next of these nodes.
    fn each(&self, from: &[usize], mut ask: impl FnMut(&mut Asker, usize)) {
        let mut clients: Vec<_> = from.iter().map(|node| self.node(*node).connect()).collect();
        for key in 0..100 {
            let at = key % clients.len();
            ask(&mut clients[at], key);
        }
    }
}

/// The sum of a metric over a node's cores.
fn metric(node: &Daemon, name: &str) -> f64 {
    let (status, page) = node.http("GET", "/metrics");
    assert_eq!(status, 200, "{page}");
    let of = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    let values = page.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse().ok());
    values.collect::<Vec<f64>>().iter().sum()
}

type Asker = common::Client<std::net::TcpStream>;

/// Of a hundred keys of a namespace, how many have this value, asked of these nodes.
fn found(cluster: &Cluster, from: &[usize], namespace: &str, value: &str) -> usize {
    let mut found = 0;
    cluster.each(from, |client, key| {
        let got = client.get(&format!("{namespace}:{key}"));
        assert!(got.as_ref().is_none_or(|(got, _)| got == value.as_bytes()), "{namespace}:{key}");
        found += usize::from(got.is_some());
    });
    found
}

fn set(client: &mut Asker, key: usize, value: &str) {
    client.set(&format!("key:{key}"), 0, 0, value.as_bytes());
}

fn get(client: &mut Asker, key: usize) -> Option<String> {
    let (value, _) = client.get(&format!("key:{key}"))?;
    Some(String::from_utf8(value).unwrap())
}

/// `GET /topology` is what the command answers: all nodes and all partitions.
fn the_admin_api_shows_the_topology(cluster: &Cluster) {
    let began = Instant::now();
    loop {
        let (status, page) = cluster.node(0).http("GET", "/topology");
        assert_eq!(status, 200, "{page}");
        // Between the two, the topology may change.
        if page == cluster.node(0).connect().ask("topology") {
            let page: serde_json::Value = serde_json::from_str(&page).unwrap();
            assert_eq!(page["nodes"].as_array().unwrap().len(), 3, "{page}");
            let width = page["width"].as_u64().unwrap() as usize;
            let partitions = page["owners"].as_str().unwrap().len() / width;
            assert_eq!(page["partitions"], partitions, "{page}");
            assert!(partitions > 1, "{page}");
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{page}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What every cluster must do, whatever its traffic travels in.
fn lives(mut cluster: Cluster) {
    // Whoever is asked, everybody knows.
    cluster.each(&[0, 1, 2], |client, key| set(client, key, &format!("first {key}")));
    cluster.each(&[1, 2, 0], |client, key| {
        assert_eq!(get(client, key).as_deref(), Some(format!("first {key}").as_str()));
    });
    the_admin_api_shows_the_topology(&cluster);
    // A value that is longer than any buffer.
    let long = "x".repeat(300_000);
    cluster.each(&[2], |client, key| {
        if key < 3 {
            set(client, key, &long);
        }
    });
    cluster.each(&[0, 1], |client, key| {
        if key < 3 {
            assert_eq!(get(client, key).map(|value| value.len()), Some(300_000));
        }
    });
    // One dies: what was acknowledged is there, at once or after a moment.
    cluster.kill(1);
    cluster.each(&[0, 2], |client, key| {
        let expected = if key < 3 { long.clone() } else { format!("first {key}") };
        assert_eq!(get(client, key), Some(expected), "key:{key}");
    });
    cluster.each(&[0, 2], |client, key| set(client, key, &format!("second {key}")));
    // It comes back, empty, is filled, and another one may die.
    cluster.restart(1);
    cluster.wait_until_whole();
    cluster.kill(2);
    cluster.each(&[0, 1], |client, key| {
        assert_eq!(get(client, key), Some(format!("second {key}")), "key:{key}");
    });
    cluster.restart(2);
    cluster.wait_until_whole();
    // What is flushed at one node is flushed at all.
    let mut client = cluster.node(0).connect();
    assert_eq!(client.ask("flush_all"), "OK");
    cluster.each(&[2, 1], |client, key| assert_eq!(get(client, key), None));
    // Each ends as it should, while the others serve.
    cluster.each(&[0, 1, 2], |client, key| set(client, key, &format!("third {key}")));
    for node in 0..3 {
        let daemon = cluster.nodes[node].take().expect("it runs");
        let log = daemon.stop();
        assert!(log.contains("handing over"), "{log}");
        let others: Vec<usize> = (0..3).filter(|other| *other != node).collect();
        cluster.each(&others, |client, key| {
            assert_eq!(get(client, key), Some(format!("third {key}")), "key:{key}");
            set(client, key, &format!("third {key}"));
        });
        cluster.restart(node);
        cluster.wait_until_whole();
    }
}

#[test]
fn a_namespace_says_how_it_is_replicated() {
    let modes = "feed=async,tmp=none";
    let mut cluster = Cluster::start("modes", &["-m", "64", "-t", "1", "--replication-of", modes]);
    for value in ["first", "second"] {
        for namespace in ["key", "feed", "tmp"] {
            cluster.each(&[0, 1, 2], |client, key| {
                client.set(&format!("{namespace}:{key}"), 0, 0, value.as_bytes());
            });
            // Who is asked knows what was answered, in every mode.
            assert_eq!(found(&cluster, &[1, 2, 0], namespace, value), 100);
        }
    }
    let items = |cluster: &Cluster, node: usize| {
        let (_, metrics) = cluster.node(node).http("GET", "/metrics");
        let line = metrics.lines().find_map(|line| line.strip_prefix("memcached_current_items "));
        line.expect("it is there").parse::<usize>().unwrap()
    };
    let began = Instant::now();
    while (0..3).map(|node| items(&cluster, node)).sum::<usize>() != 500 {
        assert!(began.elapsed() < PATIENCE, "two copies of two namespaces, one of the third");
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.kill(1);
    assert_eq!(found(&cluster, &[0, 2], "key", "second"), 100);
    assert_eq!(found(&cluster, &[0, 2], "feed", "second"), 100, "all had arrived");
    let kept = found(&cluster, &[0, 2], "tmp", "second");
    assert!((40..95).contains(&kept), "a third had its only copy there; left are {kept}");
    cluster.restart(1);
    cluster.wait_until_whole();
    assert!(found(&cluster, &[0, 1, 2], "tmp", "second") <= kept);
    assert_eq!(found(&cluster, &[0, 1, 2], "key", "second"), 100);
}

/// Until it is so.
fn wait_for(cluster: &Cluster, node: usize, what: impl Fn(&serde_json::Value) -> bool) {
    let began = Instant::now();
    while !what(&cluster.ring(node)) {
        assert!(
            began.elapsed() < PATIENCE,
            "{:#}\n{}",
            cluster.ring(node),
            cluster.node(node).log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_node_that_was_told_other_settings_is_found() {
    // One keeper: no other node becomes it while this looks, and finds the rest odd.
    let told = |modes: &str| {
        ["--keepers", "1", "-m", "64", "-t", "1", "--replication-of", modes].map(str::to_owned)
    };
    let even = told("a=async");
    let mut cluster = Cluster::start("alike", &even.each_ref().map(String::as_str));
    assert!(cluster.ring(0)["settings_complaint"].is_null());
    let odd = (0..3).find(|node| cluster.ring(*node)["coordinator"]["leads"] == false).unwrap();
    let others = (0..3).filter(|node| *node != odd);
    cluster.kill(odd);
    cluster.extra = told("a=none").into();
    cluster.restart(odd);
    let words = r#"cluster.replication_of is "a=none" here and "a=async" there"#;
    wait_for(&cluster, odd, |ring| {
        ring["settings_complaint"].as_str().is_some_and(|said| said.contains(words))
    });
    cluster.node(odd).wait_for(words);
    assert!((metric(cluster.node(odd), "seawall_cluster_settings_differ") - 1.0).abs() < 0.1);
    let name = format!("n{odd}");
    for other in others {
        wait_for(&cluster, other, |ring| ring["settings_differ"] == serde_json::json!([name]));
        assert!(cluster.ring(other)["settings_complaint"].is_null());
        assert!(
            (metric(cluster.node(other), "seawall_cluster_nodes_settings_differ") - 1.0).abs()
                < 0.1
        );
    }
    // It serves all the same: without it there would be a copy less.
    cluster.wait_until_whole();
    cluster.kill(odd);
    cluster.extra = even.into();
    cluster.restart(odd);
    cluster.wait_until_whole();
    wait_for(&cluster, odd, |ring| ring["settings_differ"] == serde_json::json!([]));
    assert!(cluster.ring(odd)["settings_complaint"].is_null());
}

#[test]
fn three_daemons_are_one_cache_whoever_dies() {
    lives(Cluster::start("cluster", &[]));
}

/// Reads of one key at every node, without end, by connections on all cores. What
/// they see never goes back behind what was acknowledged before they asked.
fn hammer(cluster: &Cluster, key: &str, acknowledged: &AtomicU64, over: &AtomicBool) {
    std::thread::scope(|scope| {
        for node in [0, 1, 2].repeat(4) {
            scope.spawn(move || {
                let mut client = cluster.node(node).connect();
                while !over.load(SeqCst) {
                    let before = acknowledged.load(SeqCst);
                    let value = client.get(key).map(|(value, _)| value);
                    if before > 0 {
                        let value = String::from_utf8(value.expect("it was stored")).unwrap();
                        let value: u64 = value.parse().unwrap();
                        assert!(value >= before, "{value} at n{node}, {before} was acknowledged");
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
    });
}

#[test]
fn a_hot_key_is_answered_everywhere_and_never_late() {
    const KEY: &str = "user:page";
    let cluster = Cluster::start(
        "cluster-hot",
        &["--replicas", "1", "--hot-rate", "100", "--namespaces", "user"],
    );
    let (acknowledged, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut clients: Vec<_> = (0..3).map(|node| cluster.node(node).connect()).collect();
    clients[0].set(KEY, 0, 0, b"0");
    let sum = |name: &str| (0..3).map(|node| metric(cluster.node(node), name)).sum::<f64>();
    let both_kinds = || {
        let began = Instant::now();
        while sum("seawall_hot_copies") < 2.0 || sum("seawall_hot_core_copies") < 1.0 {
            assert!(
                began.elapsed() < PATIENCE,
                "no copies: {}",
                cluster.node(0).http("GET", "/hot").1
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| hammer(&cluster, KEY, &acknowledged, &over));
        let stop = StopAtEnd(&over);
        both_kinds();
        // Two nodes hold what the third leads, and /hot says so there.
        let hot = |node: usize| -> serde_json::Value {
            serde_json::from_str(&cluster.node(node).http("GET", "/hot").1).unwrap()
        };
        let told = |node: usize| {
            let hot = hot(node);
            let mut rows = hot.as_array().unwrap().iter().filter(|row| row["key"] == KEY);
            rows.any(|row| row["copies"]["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2))
        };
        let began = Instant::now();
        while !(0..3).any(told) {
            assert!(began.elapsed() < PATIENCE, "{:#}", hot(0));
            std::thread::sleep(Duration::from_millis(20));
        }
        let (copies, cores) =
            (sum("seawall_hot_copy_reads_total"), sum("seawall_hot_core_copy_reads_total"));
        // A write at any node is seen by the next read at every other.
        for value in 1..=60u64 {
            let writer = value as usize % 3;
            clients[writer].set(KEY, 0, 0, value.to_string().as_bytes());
            acknowledged.store(value, SeqCst);
            for client in &mut clients {
                assert_eq!(client.get(KEY).unwrap().0, value.to_string().as_bytes());
                let mut meta = client.ask(&format!("mg {KEY} v"));
                meta += &client.line();
                assert!(meta.ends_with(&value.to_string()), "{meta}");
            }
            // Now and then there is time for the copies to come back.
            std::thread::sleep(Duration::from_millis(if value % 6 == 0 { 150 } else { 5 }));
        }
        both_kinds();
        assert!(sum("seawall_hot_copy_reads_total") > copies);
        assert!(sum("seawall_hot_core_copy_reads_total") > cores);
        assert!(sum("seawall_hot_revoked_total") >= 5.0);
        // What is invalidated or flushed is so at holders, too.
        acknowledged.store(0, SeqCst);
        for word in ["invalidate ns user", "flush_all"] {
            assert!(["INVALIDATED 1", "OK"].contains(&clients[1].ask(word).as_str()));
            for client in &mut clients {
                assert_eq!(client.get(KEY), None, "after {word}");
            }
            clients[2].set(KEY, 0, 0, b"100");
            for client in &mut clients {
                assert!(client.get(KEY).is_some());
            }
            both_kinds();
        }
        drop(stop);
        reader.join().unwrap();
    });
}

/// So that a failed test ends.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn with_certificates_it_is_the_same_and_strangers_get_nothing() {
    let folder = Folder::new("cluster-certificates");
    let names = vec!["node.test".to_owned()];
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority =
        rcgen::CertifiedIssuer::self_signed(authority, rcgen::KeyPair::generate().unwrap())
            .unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let certificate = write("node.pem", certificate.pem());
    let key = write("node.key", key.serialize_pem());
    let ca = write("ca.pem", authority.pem());
    let cluster = Cluster::start(
        "cluster-tls",
        &[
            "--cluster-tls-certificate",
            &certificate,
            "--cluster-tls-key",
            &key,
            "--cluster-tls-ca",
            &ca,
            "--cluster-tls-name",
            "node.test",
        ],
    );
    // In the clear, on either kind of connection: no byte comes back.
    for kind in [b'C', b'D'] {
        let mut stranger = std::net::TcpStream::connect(("127.0.0.1", cluster.peers[0])).unwrap();
        stranger.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut words = vec![b'S', b'W', b'L', 1, kind, 0, 0, 0];
        words.extend_from_slice(&[0; 64]);
        std::io::Write::write_all(&mut stranger, &words).unwrap();
        let mut answer = Vec::new();
        // An alert of TLS at most.
        let _ = std::io::Read::read_to_end(&mut stranger, &mut answer);
        assert!(answer.len() <= 7, "{answer:?}");
    }
    cluster.node(1).signal("HUP");
    cluster.node(1).wait_for("certificates read again");
    lives(cluster);
}

/// How a client that asks without end is answered.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The connection was closed before an answer.
    Closed,
    /// This came instead of one.
    Wrong(String),
}

/// Asks `depth` times at once, again and again with a pause, until the connection is
/// closed. How many answers came, and what ended it.
fn ask_without_end(client: Asker, depth: usize, pause: Duration, answers: &AtomicU64) -> End {
    use std::io::{BufRead, Write};
    let request = (0..depth).map(|at| format!("get key:{}\r\n", at % 100)).collect::<String>();
    let mut stream = client.0;
    for round in 0.. {
        // What does not fit any more behind the end is not sent.
        if stream.get_mut().write_all(request.as_bytes()).is_err() && round == 0 {
            return End::Wrong("it could not even begin".into());
        }
        for at in 0..depth {
            let (mut answer, expected) = (String::new(), at % 100);
            for part in ["VALUE key:", "first ", "END"] {
                let before = answer.len();
                match stream.read_line(&mut answer) {
                    Ok(0) if before == 0 => return End::Closed,
                    Ok(bytes) if bytes > 0 && answer[before..].starts_with(part) => {}
                    other => return End::Wrong(format!("{other:?}: {answer:?}")),
                }
            }
            let value = format!("first {expected}");
            let whole = format!("VALUE key:{expected} 0 {}\r\n{value}\r\nEND\r\n", value.len());
            if answer != whole {
                return End::Wrong(answer);
            }
            answers.fetch_add(1, SeqCst);
        }
        std::thread::sleep(pause);
    }
    unreachable!("the loop has no end")
}

#[test]
fn clients_of_a_node_that_ends_are_answered_until_they_are_closed() {
    let mut cluster = Cluster::start("cluster-ends", &[]);
    cluster.each(&[0, 1, 2], |client, key| set(client, key, &format!("first {key}")));
    let paces: Vec<(usize, Duration)> = [(1, 0), (1, 1), (1, 10), (1, 100), (50, 0), (1000, 1)]
        .map(|(depth, ms)| (depth, Duration::from_millis(ms)))
        .to_vec();
    for node in 0..3 {
        let answers: Vec<AtomicU64> = paces.iter().map(|_| AtomicU64::new(0)).collect();
        let daemon = cluster.nodes[node].take().expect("it runs");
        std::thread::scope(|scope| {
            let asking: Vec<_> = paces
                .iter()
                .zip(&answers)
                .map(|((depth, pause), answers)| {
                    let client = daemon.connect();
                    scope.spawn(move || ask_without_end(client, *depth, *pause, answers))
                })
                .collect();
            let began = Instant::now();
            while answers.iter().any(|answers| answers.load(SeqCst) < 20) {
                assert!(began.elapsed() < PATIENCE, "{answers:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
            daemon.signal("TERM");
            for (asking, pace) in asking.into_iter().zip(&paces) {
                let end = asking.join().unwrap();
                assert_eq!(end, End::Closed, "node {node}, {pace:?}\n{}", daemon.log());
            }
        });
        let (code, log) = daemon.wait();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("drained\n"), "{log}");
        cluster.restart(node);
        cluster.wait_until_whole();
    }
}

/// Waits for something that `/ring` of a node shows.
fn until_ring(node: &Daemon, what: &str, shows: impl Fn(&serde_json::Value) -> bool) {
    let began = Instant::now();
    loop {
        let ring: serde_json::Value = serde_json::from_str(&node.http("GET", "/ring").1).unwrap();
        if shows(&ring) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: {ring:#}\n{}", node.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn when_most_keepers_are_lost_the_cluster_begins_anew_by_command() {
    let mut cluster = Cluster::start("lost", &["-m", "64", "-t", "1"]);
    cluster.each(&[0, 1, 2], |client, key| set(client, key, "old"));
    let leader = cluster.ring(0)["coordinator"]["leader"].as_str().unwrap().to_owned();
    let left = cluster.join().iter().position(|address| *address == leader).unwrap();
    let lost: Vec<usize> = (0..3).filter(|node| *node != left).collect();
    (0..3).for_each(|node| cluster.kill(node));
    for node in &lost {
        std::fs::remove_dir_all(cluster.directory(*node)).unwrap();
    }
    (0..3).for_each(|node| cluster.restart(node));
    // Everybody says why nothing goes on, and nobody claims to lead.
    for node in 0..3 {
        until_ring(cluster.node(node), "who is lost", |ring| {
            let coordinator = &ring["coordinator"];
            let waits = coordinator["waits_for"].as_str().unwrap_or_default();
            coordinator["quorum"] == false
                && coordinator["leader"].is_null()
                && lost
                    .iter()
                    .all(|node| waits.contains(&format!("n{node} has lost its cluster directory")))
        });
        assert_eq!(cluster.node(node).http("GET", "/readyz").0, 503);
        let log = cluster.node(node).log();
        assert!(!log.contains("LogId") && !log.contains("keeps the cluster"), "{log}");
        assert!(!log.contains("seawalld: ready"), "{log}");
    }
    // The way back is refused while it is not safe.
    let names = format!("n{},n{}", lost[0], lost[1]);
    let (code, log) = cluster.recover(left, &names);
    assert!(code == Some(1) && log.contains("stop it first"), "{log}");
    cluster.kill(left);
    let (code, log) = cluster.recover(left, &format!("n{}", lost[0]));
    assert!(code == Some(1) && log.contains("2 of 3 keepers are enough"), "{log}");
    let (code, log) = cluster.recover(left, "n7");
    assert!(code == Some(1) && log.contains("n7 is no keeper of this cluster"), "{log}");
    let (code, log) = cluster.recover(left, &names);
    assert_eq!(code, Some(0), "{log}");
    cluster.restart(left);
    cluster.wait_until_whole();
    for node in 0..3 {
        cluster.node(node).wait_for("seawalld: ready");
    }
    cluster.each(&[1, 2, 0], |client, key| assert_eq!(get(client, key), None));
    cluster.each(&[0, 1, 2], |client, key| set(client, key, "new"));
    cluster.each(&[1, 2, 0], |client, key| assert_eq!(get(client, key).as_deref(), Some("new")));
}

#[test]
fn who_remembers_a_cluster_that_was_begun_anew_forgets_it() {
    let mut cluster = Cluster::start("anew", &["-m", "64", "-t", "1", "--keepers", "1"]);
    let keeper = cluster.ring(0)["coordinator"]["keepers"][0].as_str().unwrap().to_owned();
    let lost = cluster.join().iter().position(|address| *address == keeper).unwrap();
    let [left, other] = [(lost + 1) % 3, (lost + 2) % 3];
    (0..3).for_each(|node| cluster.kill(node));
    std::fs::remove_dir_all(cluster.directory(lost)).unwrap();
    let (code, log) = cluster.recover(left, &format!("n{lost}"));
    assert_eq!(code, Some(0), "{log}");
    cluster.restart(left);
    cluster.node(left).wait_for("seawalld: ready");
    cluster.restart(other);
    // What it remembers is of the old cluster, so it must be started once more.
    let (code, log) = cluster.nodes[other].take().unwrap().wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("this node forgets the old one"), "{log}");
    cluster.restart(other);
    cluster.restart(lost);
    cluster.wait_until_whole();
}

#[test]
fn a_node_that_began_a_cluster_of_its_own_says_so_and_is_not_ready() {
    let folder = Folder::new("own");
    let (own, directory) = (format!("127.0.0.1:{}", free_port()), folder.path("n9"));
    let directory = directory.to_string_lossy().into_owned();
    let start = |join: &str| {
        let mut args = vec!["-m", "64", "--partitions", PARTITIONS, "--pin-cores", "no"];
        args.extend(["--cluster-listen", &own, "--node-name", "n9"]);
        args.extend(["--cluster-directory", &directory, "--join", join]);
        Daemon::start(&args)
    };
    let daemon = start(&own);
    daemon.wait_for("seawalld: ready");
    daemon.kill();
    let cluster = Cluster::start("others", &["-m", "64", "-t", "1"]);
    let daemon = start(&cluster.join().join(","));
    daemon.wait_for("another cluster of the same name is at");
    until_ring(&daemon, "the other cluster", |ring| {
        let what = ring["coordinator"]["other_cluster"].as_str().unwrap_or_default();
        what.contains(&cluster.join()[0]) && what.contains("keeper.redb, start it")
    });
    let (status, body) = daemon.http("GET", "/readyz");
    assert!(status == 503 && body.contains("another cluster of the same name"), "{body}");
    // Those whom it should join are as they were.
    for node in 0..3 {
        assert_eq!(cluster.node(node).http("GET", "/readyz").0, 200);
    }
    // The remedy that it named.
    daemon.kill();
    std::fs::remove_file(std::path::Path::new(&directory).join("keeper.redb")).unwrap();
    let daemon = start(&cluster.join().join(","));
    daemon.wait_for("seawalld: ready");
    until_ring(&daemon, "four nodes", |ring| ring["nodes"].as_array().unwrap().len() == 4);
    assert_eq!(daemon.http("GET", "/readyz").0, 200);
}

#[test]
fn a_node_without_a_cluster_draws_no_ring_and_is_not_ready() {
    let own = format!("127.0.0.1:{}", free_port());
    let absent = format!("127.0.0.1:{}", free_port());
    let folder = Folder::new("absent");
    let directory = folder.path("n0").to_string_lossy().into_owned();
    let daemon = Daemon::start(&[
        "--cluster-listen",
        &own,
        "--join",
        &absent,
        "--node-name",
        "n0",
        "--cluster-directory",
        &directory,
    ]);
    daemon.wait_for("no answer yet");
    let ring: serde_json::Value = serde_json::from_str(&daemon.http("GET", "/ring").1).unwrap();
    assert_eq!((&ring["arcs"], &ring["partitions"]["all"]), (&serde_json::json!([]), &0.into()));
    assert_eq!(daemon.http("GET", "/readyz").0, 503);
    assert!(!daemon.log().contains("seawalld: ready"), "{}", daemon.log());
}

/// What `config get cluster` answers: the nodes.
fn discovered(daemon: &Daemon) -> String {
    let mut client = daemon.connect();
    let head = client.ask("config get cluster");
    assert!(head.starts_with("CONFIG cluster 0 "), "{head}");
    let (_version, nodes, empty, end) =
        (client.line(), client.line(), client.line(), client.line());
    assert_eq!((empty.as_str(), end.as_str()), ("", "END"));
    nodes
}

#[test]
fn auto_discovery_names_what_clients_can_reach() {
    for (advertise, expected) in [
        ("localhost:7000", "localhost|127.0.0.1|7000"),
        ("cache.example|10.0.0.7|5", "cache.example|10.0.0.7|5"),
        ("[::1]:9", "::1|::1|9"),
        ("10.0.0.7:8", "10.0.0.7|10.0.0.7|8"),
    ] {
        let alone = Daemon::start(&["--advertise", advertise]);
        assert_eq!(discovered(&alone), expected);
        alone.stop();
        let (own, folder) = (format!("127.0.0.1:{}", free_port()), Folder::new("advertise"));
        let directory = folder.path("n0").to_string_lossy().into_owned();
        let one = Daemon::start(&[
            "--cluster-listen",
            &own,
            "--cluster-directory",
            &directory,
            "--advertise",
            advertise,
        ]);
        one.wait_for("seawalld: ready");
        let began = Instant::now();
        // A name's address is asked for in the background.
        while discovered(&one) != expected {
            assert!(began.elapsed() < PATIENCE, "{advertise}: {}", discovered(&one));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // Listening everywhere, a node tells clients the host that it tells its peers.
    let (port, folder) = (free_port(), Folder::new("everywhere"));
    let (listen, advertise) = (format!("0.0.0.0:{port}"), format!("127.0.0.2:{port}"));
    let directory = folder.path("n0").to_string_lossy().into_owned();
    let everywhere = Daemon::start_at(
        "0.0.0.0",
        &[
            "--cluster-listen",
            &listen,
            "--cluster-advertise",
            &advertise,
            "--cluster-directory",
            &directory,
        ],
    );
    everywhere.wait_for("seawalld: ready");
    assert_eq!(discovered(&everywhere), format!("127.0.0.2|127.0.0.2|{}", everywhere.port));
}
