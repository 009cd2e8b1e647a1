//! The client against a cluster of three real nodes, one of which is killed or hangs.

mod common;

use seawall_client::{Client, ClientOptions, Error, LoadOptions, SetOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

fn options(daemons: &[common::Daemon]) -> ClientOptions {
    let mut options = ClientOptions::new(daemons.iter().map(common::Daemon::address));
    // Generous limits: the machine may be busy.
    options.request_timeout = common::PATIENCE;
    options.sweep_timeout = common::PATIENCE;
    options.attempt_timeout = Duration::from_secs(5);
    options.stall_timeout = Duration::from_secs(20);
    options.retries_max = 10_000;
    options
}

fn plain() -> SetOptions {
    SetOptions::default()
}

fn passed_on<'d>(daemons: impl IntoIterator<Item = &'d common::Daemon>) -> Vec<i64> {
    daemons.into_iter().flat_map(common::Daemon::passed_on).collect()
}

/// The revision that all nodes and the client know, once they agree.
async fn agreed_revision(client: &Client, daemons: &[common::Daemon]) -> u64 {
    let began = Instant::now();
    while began.elapsed() < common::PATIENCE {
        let revision = client.topology_revision().expect("it is a cluster");
        if daemons.iter().all(|daemon| daemon.revision() == Some(revision)) {
            return revision;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("the nodes and the client do not agree on a topology");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_straight_to_the_owning_core() {
    let daemons = common::cluster();
    let client = Client::connect(options(&daemons[..1])).await.unwrap();
    assert!(client.topology_revision().is_some());
    let mut keys: Vec<String> = (0..500).map(|at| format!("shop:{at}")).collect();
    // In base64 on the wire; their hash is that of the key itself.
    keys.extend((0..50).map(|at| format!("two words\n{at}")));
    // A cluster that has just begun may still even out its primaries, and for a
    // moment a client knows less than the nodes: then the round counts nothing.
    let began = Instant::now();
    loop {
        let revision = agreed_revision(&client, &daemons).await;
        let before = (passed_on(&daemons), client.counters().detours);
        for key in &keys {
            client.set(key, key.clone(), &plain().tag("all")).await.unwrap();
        }
        for key in &keys {
            assert_eq!(client.get(key).await.unwrap().unwrap().value, key.as_bytes());
        }
        for (key, item) in keys.iter().zip(client.get_many(&keys).await) {
            assert_eq!(item.unwrap().unwrap().value, key.as_bytes());
        }
        let after = (passed_on(&daemons), client.counters().detours);
        if agreed_revision(&client, &daemons).await == revision {
            assert_eq!(after, before, "each request is executed where it arrived");
            break;
        }
        assert!(began.elapsed() < common::PATIENCE, "the cluster does not come to rest");
    }

    // Another client, by another node, sees the same.
    let other = Client::connect(options(&daemons[2..])).await.unwrap();
    assert_eq!(other.get("shop:7").await.unwrap().unwrap().value, "shop:7");
    other.invalidate_tag("all").await.unwrap();
    for item in client.get_many(&keys).await {
        assert_eq!(item.unwrap(), None);
    }
    client.set("shop:x", "x", &plain()).await.unwrap();
    assert!(other.invalidate_namespace("shop").await.unwrap());
    assert_eq!(client.get("shop:x").await.unwrap(), None);
    let load = || async { Ok::<_, std::io::Error>(Some("loaded")) };
    let how = LoadOptions::default().lease(common::PATIENCE);
    assert_eq!(client.get_or_load("k", &how, load).await.unwrap().unwrap(), "loaded");
    assert_eq!(other.get_or_load("k", &how, load).await.unwrap().unwrap(), "loaded");
    assert_eq!(other.counters().loads, 0);
}

/// What one task met.
#[derive(Debug, Default)]
struct Met {
    acknowledged: Vec<String>,
    unknown: usize,
    longest: Duration,
}

/// Writes new keys and reads those that were acknowledged, until told to stop.
async fn traffic(client: Client, task: usize, stop: Arc<AtomicBool>) -> Met {
    let mut met = Met::default();
    for at in 0.. {
        if stop.load(Relaxed) {
            break;
        }
        let key = format!("{task}-{at}");
        let began = Instant::now();
        match client.set(&key, key.clone(), &plain()).await {
            Ok(_) => met.acknowledged.push(key),
            Err(error) => {
                let unknown = matches!(error, Error::Unknown { .. });
                assert!(unknown, "a write is stored or its outcome unknown: {error}");
                met.unknown += 1;
            }
        }
        if let Some(key) = met.acknowledged.get(at / 2) {
            let item = client.get(key).await.unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(item.unwrap_or_else(|| panic!("{key} is lost")).value, key.as_bytes());
        }
        if at % 5 == 0 {
            // All tasks want these at about the same time.
            let key = format!("page:{}", at / 10);
            let value = key.clone();
            let load = move || async move {
                sleep(Duration::from_millis(5)).await;
                Ok::<_, std::io::Error>(Some(value))
            };
            let how = LoadOptions::default().lease(Duration::from_secs(2));
            let value = client.get_or_load(&key, &how, load).await;
            let value = value.unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(value.unwrap(), key.as_bytes());
        }
        met.longest = met.longest.max(began.elapsed());
        // Not so much that something is evicted.
        sleep(Duration::from_millis(2)).await;
    }
    met
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_killed_under_traffic() {
    let mut daemons = common::cluster();
    let client = Client::connect(options(&daemons)).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> =
        (0..8).map(|task| tokio::spawn(traffic(client.clone(), task, stop.clone()))).collect();
    sleep(Duration::from_secs(2)).await;
    let revision = client.topology_revision().unwrap();
    // Not necessarily the one that leads the keepers: any will do.
    let dead_port = daemons[1].port;
    daemons[1].kill();
    sleep(Duration::from_secs(5)).await;
    stop.store(true, Relaxed);
    let mut keys = Vec::new();
    for task in tasks {
        let met = timeout(2 * common::PATIENCE, task).await.expect("nothing hangs").unwrap();
        println!("{} stored, {} unknown, {:?}", met.acknowledged.len(), met.unknown, met.longest);
        assert!(met.unknown <= 5, "only what was under way, not {}", met.unknown);
        keys.extend(met.acknowledged);
    }
    assert!(client.topology_revision().unwrap() > revision);

    // Everything acknowledged is there, and asked for at its new owner.
    let live = [&daemons[0], &daemons[2]];
    settled(&client).await;
    let (detours, failures) = (client.counters().detours, client.counters().connect_failures);
    let before = passed_on(live);
    for (key, item) in keys.iter().zip(client.get_many(&keys).await) {
        let item = item.unwrap().unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!(item.value, key.as_bytes());
    }
    assert_eq!(client.counters().detours, detours);
    assert_eq!(client.counters().connect_failures, failures);
    assert_eq!(passed_on(live), before, "each request is executed where it arrived");
    println!("{:?} without the node at {dead_port}", client.counters());
    client.invalidate_tag("any").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_hangs_under_traffic() {
    let daemons = common::cluster();
    let client = Client::connect(options(&daemons)).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> =
        (0..8).map(|task| tokio::spawn(traffic(client.clone(), task, stop.clone()))).collect();
    sleep(Duration::from_secs(1)).await;
    daemons[2].signal("STOP");
    sleep(Duration::from_secs(8)).await;
    daemons[2].signal("CONT");
    sleep(Duration::from_secs(2)).await;
    stop.store(true, Relaxed);
    for task in tasks {
        let met = timeout(2 * common::PATIENCE, task).await.expect("nothing hangs").unwrap();
        println!("{} stored, {} unknown, {:?}", met.acknowledged.len(), met.unknown, met.longest);
        assert!(met.unknown <= 5, "only what was under way, not {}", met.unknown);
        // Nobody waited until his time was over: the cluster said who is down.
        assert!(met.longest < common::PATIENCE / 2, "{:?}", met.longest);
        for (key, item) in met.acknowledged.iter().zip(client.get_many(&met.acknowledged).await) {
            assert!(item.unwrap().is_some(), "{key} is lost");
        }
    }
    println!("{:?}", client.counters());
}

/// Waits until a revision has been the newest for two seconds.
async fn settled(client: &Client) {
    let (mut revision, mut since) = (client.topology_revision(), Instant::now());
    while since.elapsed() < Duration::from_secs(2) {
        sleep(Duration::from_millis(50)).await;
        if client.topology_revision() != revision {
            (revision, since) = (client.topology_revision(), Instant::now());
        }
    }
}
