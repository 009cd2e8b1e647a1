//! The client against a real node.

mod common;

use bytes::Bytes;
use seawall_client::{
    Client, ClientOptions, CounterOptions, Error, LoadOptions, Loaded, SetOptions, Stored,
};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::sleep;

/// Generous limits: the machine may be busy.
fn options(daemon: &common::Daemon) -> ClientOptions {
    let mut options = ClientOptions::new([daemon.address()]);
    options.connect_timeout = common::PATIENCE;
    options.request_timeout = common::PATIENCE;
    options.attempt_timeout = common::PATIENCE;
    options.sweep_timeout = common::PATIENCE;
    options.stall_timeout = common::PATIENCE;
    options
}

fn plain() -> SetOptions {
    SetOptions::default()
}

#[tokio::test]
async fn verbs() {
    let daemon = common::single(&["--namespaces", "shop"]);
    let client = Client::connect(options(&daemon)).await.unwrap();
    assert_eq!(client.topology_revision(), None);
    assert_eq!(client.get("a").await.unwrap(), None);

    // Stores.
    let cas = client.set("a", "one", &plain().flags(7)).await.unwrap();
    let item = client.get("a").await.unwrap().unwrap();
    assert_eq!((&item.value[..], item.flags, item.cas), (&b"one"[..], 7, cas));
    assert!(!client.add("a", "x", &plain()).await.unwrap());
    assert!(client.add("b", "x", &plain()).await.unwrap());
    assert!(client.replace("b", "y", &plain()).await.unwrap());
    assert!(!client.replace("none", "y", &plain()).await.unwrap());
    assert!(client.append("b", "z").await.unwrap());
    assert!(client.prepend("b", "x").await.unwrap());
    assert_eq!(&client.get("b").await.unwrap().unwrap().value[..], b"xyz");
    assert!(!client.append("none", "z").await.unwrap());
    assert_eq!(client.cas("a", "no", cas + 1, &plain()).await.unwrap(), Stored::Exists);
    assert!(matches!(client.cas("a", "two", cas, &plain()).await.unwrap(), Stored::Stored(_)));
    assert_eq!(client.cas("none", "no", cas, &plain()).await.unwrap(), Stored::NotFound);

    // Keys that are no words, values that are no text, and large ones.
    let key = [b' ', 0, 255, b'\n'];
    client.set(key, vec![0, 13, 10], &plain()).await.unwrap();
    assert_eq!(&client.get(key).await.unwrap().unwrap().value[..], [0, 13, 10]);
    let large: Bytes = (0..900_000u32).map(|at| at as u8).collect();
    client.set("large", large.clone(), &plain()).await.unwrap();
    assert_eq!(client.get("large").await.unwrap().unwrap().value, large);
    client.set("empty", "", &plain()).await.unwrap();
    assert!(client.get("empty").await.unwrap().unwrap().value.is_empty());

    // Numbers.
    let create = CounterOptions::default().initial(40);
    assert_eq!(client.incr("n", 1, &CounterOptions::default()).await.unwrap(), None);
    assert_eq!(client.incr("n", 1, &create).await.unwrap(), Some(40));
    assert_eq!(client.incr("n", 2, &create).await.unwrap(), Some(42));
    assert_eq!(client.decr("n", 50, &create).await.unwrap(), Some(0));
    let error = client.incr("a", 1, &create).await.unwrap_err();
    assert!(matches!(&error, Error::Client { message } if message.contains("non-numeric")));

    // Removal.
    assert!(client.delete("a").await.unwrap());
    assert!(!client.delete("a").await.unwrap());
    client.set("stale", "old", &plain()).await.unwrap();
    assert!(client.mark_stale("stale").await.unwrap());
    let item = client.get("stale").await.unwrap().unwrap();
    assert!(item.stale && item.won);
    let item = client.get("stale").await.unwrap().unwrap();
    assert!(item.stale && !item.won);

    // What cannot be.
    assert!(matches!(client.get("x".repeat(251)).await, Err(Error::Client { .. })));
    let error = client.set("x", vec![0; 2 << 20], &plain()).await.unwrap_err();
    assert!(matches!(&error, Error::Client { message } if message.contains("too large")));
    assert!(client.get("b").await.unwrap().is_some(), "the connection goes on");
    assert_eq!(client.counters().connects, 1);
}

#[tokio::test]
async fn times_tags_and_namespaces() {
    let daemon = common::single(&["--namespaces", "shop"]);
    let client = Client::connect(options(&daemon)).await.unwrap();
    client.set("soon", "x", &plain().ttl(Duration::from_millis(200))).await.unwrap();
    client.set("later", "x", &plain().ttl(Duration::from_secs(86_400 * 60))).await.unwrap();
    assert!(client.touch("later", None).await.unwrap());
    assert!(!client.touch("none", None).await.unwrap());
    client.set("gat", "x", &plain()).await.unwrap();
    assert!(client.gat("gat", Some(Duration::from_millis(200))).await.unwrap().is_some());
    assert_eq!(client.gat("none", None).await.unwrap(), None);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(client.get("soon").await.unwrap(), None);
    assert_eq!(client.get("gat").await.unwrap(), None);
    assert!(client.get("later").await.unwrap().is_some());

    for (key, tag) in [("t1", "red"), ("t2", "red"), ("t3", "blue"), ("shop:1", "blue")] {
        client.set(key, "x", &plain().tag(tag).tag("all")).await.unwrap();
    }
    client.invalidate_tag("red").await.unwrap();
    let there: Vec<bool> = client
        .get_many(&["t1", "t2", "t3", "shop:1"])
        .await
        .into_iter()
        .map(|item| item.unwrap().is_some())
        .collect();
    assert_eq!(there, [false, false, true, true]);
    assert!(client.invalidate_namespace("shop").await.unwrap());
    assert!(!client.invalidate_namespace("other").await.unwrap());
    assert_eq!(client.get("shop:1").await.unwrap(), None);
    client.flush().await.unwrap();
    assert_eq!(client.get("t3").await.unwrap(), None);
}

#[tokio::test]
async fn many_keys_and_many_tasks_share_a_connection() {
    let daemon = common::single(&[]);
    let mut options = options(&daemon);
    // Small bounds: everybody has to wait for room.
    options.in_flight_max = 100;
    options.queue_max = 4;
    let client = Client::connect(options).await.unwrap();
    let tasks: Vec<_> = (0..200)
        .map(|task| {
            let client = client.clone();
            tokio::spawn(async move {
                for at in 0..10 {
                    let key = format!("{task}-{at}");
                    client.set(&key, key.clone(), &plain()).await.unwrap();
                    assert_eq!(&client.get(&key).await.unwrap().unwrap().value[..], key.as_bytes());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut keys: Vec<String> =
        (0..200).flat_map(|task| (0..12).map(move |at| format!("{task}-{at}"))).collect();
    keys[5] = "a".repeat(300);
    let items = client.get_many(&keys).await;
    for (key, item) in keys.iter().zip(items) {
        match item {
            Ok(Some(item)) => assert_eq!(&item.value[..], key.as_bytes()),
            Ok(None) => assert!(key.ends_with("-10") || key.ends_with("-11"), "{key}"),
            Err(error) => assert!(key.len() == 300, "{key}: {error}"),
        }
    }
    assert_eq!(client.counters().connects, 1);
    assert_eq!((client.counters().hits, client.counters().misses), (3999, 400));
}

#[tokio::test]
async fn a_login() {
    let path = std::env::temp_dir().join(format!("seawall-client-users-{}", std::process::id()));
    std::fs::File::create(&path).unwrap().write_all(b"me:secret\n").unwrap();
    let daemon = common::single(&["-Y", path.to_str().unwrap()]);
    let mut options = options(&daemon);
    options.login = Some(("me".into(), "secret".into()));
    let client = Client::connect(options.clone()).await.unwrap();
    client.set("a", "1", &plain()).await.unwrap();
    options.login = Some(("me".into(), "guess".into()));
    options.request_timeout = Duration::from_millis(300);
    let error = Client::connect(options).await.unwrap_err();
    assert!(error.to_string().contains("the login was refused"), "{error}");
    std::fs::remove_file(path).unwrap();
}

type Nothing = std::io::Error;

#[tokio::test]
async fn one_load_for_all() {
    let daemon = common::single(&[]);
    let clients = [
        Client::connect(options(&daemon)).await.unwrap(),
        Client::connect(options(&daemon)).await.unwrap(),
    ];
    let loads = Arc::new(AtomicU32::new(0));
    let how = LoadOptions::default().ttl(Duration::from_secs(60)).lease(common::PATIENCE);
    let tasks: Vec<_> = (0..200)
        .map(|at| {
            let (client, loads, how) = (clients[at % 2].clone(), loads.clone(), how.clone());
            tokio::spawn(async move {
                let load = move || async move {
                    loads.fetch_add(1, Relaxed);
                    sleep(Duration::from_millis(300)).await;
                    Ok::<_, Nothing>(Some("value"))
                };
                client.get_or_load("k", &how, load).await.unwrap().unwrap()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(&task.await.unwrap()[..], b"value");
    }
    assert_eq!(loads.load(Relaxed), 1, "two clients, one load");
    let counted: Vec<_> = clients.iter().map(Client::counters).collect();
    assert_eq!(counted[0].loads + counted[1].loads, 1);
    assert!(counted[0].coalesced + counted[1].coalesced > 100, "{counted:?}");
    assert_eq!(&clients[1].get("k").await.unwrap().unwrap().value[..], b"value");
}

#[tokio::test]
async fn a_failed_load_is_told_to_all_and_frees_the_key() {
    let daemon = common::single(&[]);
    let client = Client::connect(options(&daemon)).await.unwrap();
    let how = LoadOptions::default().lease(common::PATIENCE);
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (client, how) = (client.clone(), how.clone());
            tokio::spawn(async move {
                let load = || async {
                    sleep(Duration::from_millis(200)).await;
                    Err::<Option<Bytes>, _>("the origin is away")
                };
                client.get_or_load("k", &how, load).await.unwrap_err()
            })
        })
        .collect();
    for task in tasks {
        let error = task.await.unwrap();
        assert_eq!(error.to_string(), "the loader failed: the origin is away");
    }
    // Nobody waits for a lease that is gone; a panic is an error, too.
    let panics = || async { if true { panic!("on purpose") } else { Ok::<_, Nothing>(Some("")) } };
    let error = client.get_or_load("k", &how, panics).await.unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
    let quick = how.clone().load_timeout(Duration::from_millis(50));
    let slow = || async {
        sleep(common::PATIENCE).await;
        Ok::<_, Nothing>(Some(""))
    };
    let error = client.get_or_load("k", &quick, slow).await.unwrap_err();
    assert!(error.to_string().contains("took more than 50ms"), "{error}");
    let load = || async { Ok::<_, Nothing>(Some("there")) };
    let value = client.get_or_load("k", &how, load).await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"there"[..]));
    assert_eq!(client.counters().load_failures, 3 + client.counters().loads - 4);
}

#[tokio::test]
async fn what_the_origin_does_not_have() {
    let daemon = common::single(&[]);
    let client = Client::connect(options(&daemon)).await.unwrap();
    let loads = Arc::new(AtomicU32::new(0));
    let nothing = || {
        let loads = loads.clone();
        move || async move {
            loads.fetch_add(1, Relaxed);
            Ok::<Option<Bytes>, Nothing>(None)
        }
    };
    let how = LoadOptions::default();
    assert_eq!(client.get_or_load("forgotten", &how, nothing()).await.unwrap(), None);
    assert_eq!(client.get_or_load("forgotten", &how, nothing()).await.unwrap(), None);
    assert_eq!(loads.load(Relaxed), 2);
    let how = how.negative_ttl(Duration::from_secs(60));
    assert_eq!(client.get_or_load("kept", &how, nothing()).await.unwrap(), None);
    assert_eq!(client.get_or_load("kept", &how, nothing()).await.unwrap(), None);
    assert_eq!(loads.load(Relaxed), 3);
    assert_eq!(client.get("kept").await.unwrap(), None, "a plain read finds nothing");
}

#[tokio::test]
async fn what_changes_during_a_load_is_not_overwritten() {
    let daemon = common::single(&[]);
    let client = Client::connect(options(&daemon)).await.unwrap();
    let how = LoadOptions::default().ttl(Duration::from_secs(60));
    let writer = client.clone();
    let load = move || async move {
        writer.set("k", "newer", &plain()).await.unwrap();
        Ok::<_, Nothing>(Some("older"))
    };
    client.get_or_load("k", &how, load).await.unwrap();
    assert_eq!(&client.get("k").await.unwrap().unwrap().value[..], b"newer");
    let writer = client.clone();
    let load = move || async move {
        writer.delete("j").await.unwrap();
        Ok::<_, Nothing>(Some("older"))
    };
    client.get_or_load("j", &how, load).await.unwrap();
    assert_eq!(client.get("j").await.unwrap(), None);
    assert_eq!(client.counters().fills_refused, 2);
}

#[tokio::test]
async fn stale_values_are_served_while_one_refills() {
    let daemon = common::single(&[]);
    let client = Client::connect(options(&daemon)).await.unwrap();
    let how = LoadOptions::default()
        .ttl(Duration::from_secs(1))
        .stale_for(Duration::from_secs(300))
        .tag("all");
    let loads = Arc::new(AtomicU32::new(0));
    let load = || {
        let loads = loads.clone();
        move || async move {
            let number = loads.fetch_add(1, Relaxed);
            if number > 0 {
                sleep(Duration::from_millis(300)).await;
            }
            Ok::<_, Nothing>(Some(Loaded::new(number.to_string()).tag("one")))
        }
    };
    assert_eq!(client.get_or_load("k", &how, load()).await.unwrap().unwrap(), "0");
    assert_eq!(client.get_or_load("k", &how, load()).await.unwrap().unwrap(), "0");
    assert_eq!(client.counters().served_stale, 0);
    sleep(Duration::from_millis(2500)).await;
    // Old, but at once, for the one that refills and for the others.
    for _ in 0..5 {
        assert_eq!(client.get_or_load("k", &how, load()).await.unwrap().unwrap(), "0");
    }
    assert_eq!(loads.load(Relaxed), 2);
    assert_eq!(client.counters().served_stale, 5);
    let mut value = Bytes::new();
    for _ in 0..600 {
        value = client.get("k").await.unwrap().unwrap().value;
        if value != "0" {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(value, "1");
    // Marked stale it is served, and refilled, too.
    client.mark_stale("k").await.unwrap();
    assert_ne!(client.get_or_load("k", &how, load()).await.unwrap().unwrap(), "2");
    client.invalidate_tag("one").await.unwrap();
    assert_eq!(client.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_lease_that_nobody_uses_runs_out() {
    let daemon = common::single(&[]);
    let client = Client::connect(options(&daemon)).await.unwrap();
    // Somebody wins and is never heard of again.
    daemon.ask("mg k v N60").unwrap();
    let how = LoadOptions::default().lease(Duration::from_millis(300));
    let load = || async { Ok::<_, Nothing>(Some("mine")) };
    assert_eq!(client.get_or_load("k", &how, load).await.unwrap().unwrap(), "mine");
    assert_eq!(client.get("k").await.unwrap().unwrap().value, "mine");
}
