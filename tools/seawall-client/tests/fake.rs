//! The client against servers that fail on purpose.

use seawall_client::{Client, ClientOptions, Error, LoadOptions, SetOptions};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

/// What a fake server does about a line.
enum Act {
    Say(String),
    /// The same, later.
    Slow(Duration, String),
    /// Nothing, ever.
    Hang,
    Close,
}

fn say(text: &str) -> Act {
    Act::Say(text.into())
}

const SINGLE: &str = "{\"epoch\":1,\"partitions\":65536,\"nodes\":[]}\r\n";

/// A fake server: its address, and how often each verb was asked for.
#[derive(Clone)]
struct Fake {
    address: String,
    lines: Arc<Mutex<Vec<String>>>,
    open: Arc<AtomicUsize>,
}

impl Fake {
    /// Each line (a value is swallowed) is given to `act`, with the number of lines
    /// of the same verb before it.
    async fn start(act: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Fake::serve(listener, act)
    }

    fn serve(
        listener: TcpListener,
        act: impl Fn(&str, usize) -> Act + Send + Sync + 'static,
    ) -> Fake {
        let address = listener.local_addr().unwrap().to_string();
        let fake = Fake { address, lines: Arc::default(), open: Arc::default() };
        let (shared, act) = (fake.clone(), Arc::new(act));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (fake, act) = (shared.clone(), act.clone());
                tokio::spawn(async move {
                    let _open = Open::new(&fake.open);
                    let mut stream = BufReader::new(stream);
                    let mut line = String::new();
                    while matches!(stream.read_line(&mut line).await, Ok(1..)) {
                        let words: Vec<&str> = line.split_whitespace().collect();
                        if words[0] == "ms" {
                            let mut value = vec![0; words[2].parse::<usize>().unwrap() + 2];
                            if stream.read_exact(&mut value).await.is_err() {
                                return;
                            }
                        }
                        let before = fake.count(words[0]);
                        fake.lines.lock().unwrap().push(line.trim_end().into());
                        match act(line.trim_end(), before) {
                            Act::Say(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                            Act::Slow(pause, text) => {
                                sleep(pause).await;
                                stream.write_all(text.as_bytes()).await.unwrap();
                            }
                            Act::Hang => std::future::pending().await,
                            Act::Close => return,
                        }
                        line.clear();
                    }
                });
            }
        });
        fake
    }

    /// Lines of this verb so far.
    fn count(&self, verb: &str) -> usize {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line.split(' ').next() == Some(verb)).count()
    }
}

/// Counts a connection while it is open.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(open: &Arc<AtomicUsize>) -> Open {
        open.fetch_add(1, Relaxed);
        Open(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A node alone whose data commands do as `act` says.
async fn node(act: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> (Fake, Client) {
    let fake = Fake::start(move |line, before| match line {
        "topology" => say(SINGLE),
        line => act(line, before),
    })
    .await;
    let client = Client::connect(options(&fake)).await.unwrap();
    (fake, client)
}

fn options(fake: &Fake) -> ClientOptions {
    let mut options = ClientOptions::new([&fake.address]);
    options.connect_timeout = Duration::from_secs(10);
    options.request_timeout = Duration::from_secs(20);
    options.attempt_timeout = Duration::from_secs(10);
    options.stall_timeout = Duration::from_secs(30);
    options
}

/// An address at which nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

fn plain() -> SetOptions {
    SetOptions::default()
}

#[tokio::test]
async fn a_read_is_tried_again_when_the_connection_breaks() {
    let (fake, client) = node(|_, before| match before {
        0 | 1 => Act::Close,
        _ => say("VA 1 f0 c1\r\nx\r\n"),
    })
    .await;
    assert_eq!(&client.get("k").await.unwrap().unwrap().value[..], b"x");
    assert_eq!(fake.count("mg"), 3);
    let counters = client.counters();
    assert_eq!((counters.requests, counters.retries, counters.reconnects), (1, 2, 2));
}

#[tokio::test]
async fn a_write_is_not() {
    let (fake, client) = node(|_, _| Act::Close).await;
    let error = client.set("k", "x", &plain()).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert!(!error.is_retry_safe());
    let error = client.incr("k", 1, &Default::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert_eq!((fake.count("ms"), fake.count("ma")), (1, 1));
    assert_eq!(client.counters().retries, 0);
}

#[tokio::test]
async fn a_write_that_was_surely_not_executed_is_tried_again() {
    let (fake, client) = node(|_, before| match before {
        0 => say("SERVER_ERROR no node takes this key now\r\n"),
        1 => say("ERROR Too many open connections\r\n"),
        _ => say("HD c5\r\n"),
    })
    .await;
    assert_eq!(client.set("k", "x", &plain()).await.unwrap(), 5);
    assert_eq!(fake.count("ms"), 3);
}

#[tokio::test]
async fn errors_of_the_server_keep_their_meaning() {
    let (fake, client) = node(|line, _| match line.split(' ').nth(1) {
        Some("lost") => say("SERVER_ERROR the outcome is unknown: the node was lost\r\n"),
        Some("full") => say("SERVER_ERROR out of memory storing object\r\n"),
        Some("odd") => say("SERVER_ERROR words of the future\r\n"),
        _ => say("SERVER_ERROR object too large for cache\r\n"),
    })
    .await;
    let set = async |key: &str| client.set(key, "x", &plain()).await.unwrap_err();
    assert!(matches!(set("lost").await, Error::Unknown { .. }));
    assert!(matches!(set("full").await, Error::Server { not_executed: true, .. }));
    assert!(matches!(set("odd").await, Error::Server { not_executed: false, .. }));
    assert!(matches!(set("large").await, Error::Client { .. }));
    assert_eq!(fake.count("ms"), 4, "each once");
}

#[tokio::test]
async fn nonsense_closes_the_connection() {
    let (fake, client) = node(|line, before| match (line.split(' ').next(), before) {
        (Some("mg"), 0) => say("HELLO\r\n"),
        (Some("mg"), _) => say("EN\r\n"),
        _ => say("VA x\r\n"),
    })
    .await;
    assert_eq!(client.get("k").await.unwrap(), None);
    let error = client.set("k", "x", &plain()).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { maybe_executed: true, .. }), "{error}");
    assert_eq!((fake.count("mg"), fake.count("ms")), (2, 1));
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_in_time() {
    let fake = Fake::start(|line, _| match line {
        "topology" => say(SINGLE),
        _ => Act::Hang,
    })
    .await;
    let mut options = options(&fake);
    options.request_timeout = Duration::from_millis(600);
    options.attempt_timeout = Duration::from_millis(200);
    options.stall_timeout = Duration::from_secs(5);
    options.poll_interval = Duration::from_secs(600);
    let client = Client::connect(options).await.unwrap();
    let began = Instant::now();
    let error = client.get("k").await.unwrap_err();
    assert!(matches!(error, Error::Timeout { maybe_executed: false, .. }), "{error}");
    let error = client.set("k", "x", &plain()).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { maybe_executed: true, .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(client.counters().timeouts >= 2);
    // The connection stalls, and is made anew.
    let connects = client.counters().connects;
    timeout(Duration::from_secs(30), async {
        while client.counters().connects == connects {
            let _ = client.get("k").await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_does_not_leave_the_queue_was_not_executed() {
    let fake = Fake::start(|line, _| match line {
        "topology" => say(SINGLE),
        _ => Act::Hang,
    })
    .await;
    let mut options = options(&fake);
    options.request_timeout = Duration::from_millis(500);
    options.in_flight_max = 1;
    options.queue_max = 1;
    options.retries_max = 0;
    let client = Client::connect(options).await.unwrap();
    let tasks: Vec<_> = (0..5)
        .map(|at| {
            let client = client.clone();
            tokio::spawn(async move { client.set(format!("k{at}"), "x", &plain()).await })
        })
        .collect();
    let mut sent = 0;
    for task in tasks {
        match task.await.unwrap().unwrap_err() {
            Error::Timeout { maybe_executed, .. } => sent += usize::from(maybe_executed),
            error => panic!("{error}"),
        }
    }
    assert_eq!(sent, 1, "one was sent, the others waited");
    assert_eq!(fake.count("ms"), 1);
}

#[tokio::test]
async fn nobody_there_is_an_error_in_time() {
    let mut options = ClientOptions::new([nobody().await]);
    options.request_timeout = Duration::from_millis(300);
    let error = Client::connect(options).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.is_retry_safe());
    assert!(Client::connect(ClientOptions::new(Vec::<String>::new())).await.is_err());
}

#[tokio::test]
async fn a_dead_server_in_the_list_is_passed_over() {
    let (fake, _) = node(|_, _| say("EN\r\n")).await;
    let mut both = options(&fake);
    both.servers.insert(0, nobody().await);
    // Two that are no cluster would be two homes for one key.
    let error = Client::connect(both).await.unwrap_err();
    assert!(matches!(error, Error::Client { .. }), "{error}");
}

/// Two nodes; all partitions belong to the first, as long as `revision` is 1.
fn two_nodes(first: &str, second: &str, revision: u32, second_up: bool) -> String {
    let owners = if revision == 1 { "A" } else { "B" }.repeat(16);
    format!(
        "{{\"revision\":{revision},\"name\":\"x\",\"partitions\":16,\"copies\":2,\"seed\":\"7\",\
         \"nodes\":[{{\"slot\":0,\"name\":\"a\",\"address\":\"{first}\",\"core_ports\":0,\"cores\":2,\
         \"zone\":\"\",\"up\":true,\"draining\":false}},{{\"slot\":1,\"name\":\"b\",\"address\":\
         \"{second}\",\"core_ports\":0,\"cores\":2,\"zone\":\"\",\"up\":{second_up},\"draining\":false}}],\
         \"sets\":[[0,1],[1]],\"width\":1,\"owners\":\"{owners}\"}}\r\n"
    )
}

fn config(revision: u32) -> Act {
    let body = format!("{revision}\nh|i|1\n");
    Act::Say(format!("CONFIG cluster 0 {}\r\n{body}\r\nEND\r\n", body.len()))
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_has_a_stand_in() {
    let dead = nobody().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().to_string();
    let topology = two_nodes(&dead, &own, 1, true);
    let fake = Fake::serve(listener, move |line, _| match line.split(' ').next() {
        Some("topology") => say(&topology),
        Some("config") => config(1),
        Some("ms") => say("HD c1\r\n"),
        _ => say("EN\r\n"),
    });
    let client = Client::connect(options(&fake)).await.unwrap();
    assert_eq!(client.topology_revision(), Some(1));
    // Not even a connection was made, so a write may go elsewhere.
    client.set("k", "x", &plain()).await.unwrap();
    client.get("k").await.unwrap();
    for item in client.get_many(&["a", "b", "c"]).await {
        assert_eq!(item.unwrap(), None);
    }
    let counters = client.counters();
    assert!(counters.detours >= 2 && counters.connect_failures >= 1, "{counters:?}");
    assert_eq!((fake.count("ms"), fake.count("mg")), (1, 4));
}

#[tokio::test]
async fn a_new_revision_is_taken_over() {
    let listeners = [
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    ];
    let addresses: Vec<String> =
        listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
    let revision = Arc::new(Mutex::new(1));
    let fakes: Vec<Fake> = listeners
        .into_iter()
        .map(|listener| {
            let (addresses, revision) = (addresses.clone(), revision.clone());
            Fake::serve(listener, move |line, _| {
                let revision = *revision.lock().unwrap();
                match line.split(' ').next() {
                    Some("topology") => {
                        Act::Say(two_nodes(&addresses[0], &addresses[1], revision, true))
                    }
                    Some("config") => config(revision),
                    _ => say("EN\r\n"),
                }
            })
        })
        .collect();
    let mut options = options(&fakes[0]);
    options.poll_interval = Duration::from_millis(50);
    let client = Client::connect(options).await.unwrap();
    client.get("k").await.unwrap();
    assert_eq!((fakes[0].count("mg"), fakes[1].count("mg")), (1, 0));
    sleep(Duration::from_millis(300)).await;
    let asked = fakes[0].count("topology") + fakes[1].count("topology");
    assert_eq!(asked, 1, "an unchanged topology is not asked for again");
    *revision.lock().unwrap() = 2;
    timeout(Duration::from_secs(30), async {
        while client.topology_revision() != Some(2) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    client.get("k").await.unwrap();
    assert_eq!((fakes[0].count("mg"), fakes[1].count("mg")), (1, 1));
    assert_eq!(client.address_of("k"), fakes[1].address);
    assert_eq!(client.counters().topology_changes, 1);
}

#[tokio::test]
async fn many_keys_survive_a_broken_connection() {
    let values = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let (fake, client) = node(move |line, before| {
        let key = line.split(' ').nth(1).unwrap().to_owned();
        *values.lock().unwrap().entry(key.clone()).or_default() += 1;
        match before {
            100 => Act::Close,
            _ => Act::Say(format!("VA {} f0 c1\r\n{key}\r\n", key.len())),
        }
    })
    .await;
    let keys: Vec<String> = (0..300).map(|at| format!("key{at}")).collect();
    let items = client.get_many(&keys).await;
    for (key, item) in keys.iter().zip(items) {
        assert_eq!(&item.unwrap().unwrap().value[..], key.as_bytes());
    }
    assert!(fake.count("mg") >= 301);
}

#[tokio::test]
async fn without_the_cache_the_loader_is_run() {
    let (_, client) = node(|_, _| say("SERVER_ERROR no node takes this key now\r\n")).await;
    let mut options = LoadOptions::default();
    let load = || async { Ok::<_, std::io::Error>(Some("loaded")) };
    let value = client.get_or_load("k", &options, load).await.unwrap().unwrap();
    assert_eq!(&value[..], b"loaded");
    assert_eq!((client.counters().bypasses, client.counters().fills_refused), (1, 1));
    options = options.needs_cache();
    let error = client.get_or_load("k", &options, load).await.unwrap_err();
    assert!(matches!(error, Error::Server { not_executed: true, .. }), "{error}");
}

#[tokio::test]
async fn a_client_that_is_dropped_leaves_nothing_behind() {
    let (fake, client) = node(|_, _| say("EN\r\n")).await;
    let clone = client.clone();
    client.get("k").await.unwrap();
    drop(client);
    assert_eq!(clone.get("k").await.unwrap(), None, "its clone goes on");
    assert_eq!(fake.open.load(Relaxed), 1);
    drop(clone);
    timeout(Duration::from_secs(30), async {
        while fake.open.load(Relaxed) > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the connection is closed");
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_the_others_their_answers() {
    let (fake, client) = node(|line, _| match line.split(' ').nth(1) {
        Some("slow") => Act::Slow(Duration::from_millis(300), "VA 4 f0 c1\r\nslow\r\n".into()),
        _ => say("VA 5 f0 c1\r\nquick\r\n"),
    })
    .await;
    let gone = timeout(Duration::from_millis(100), client.get("slow")).await;
    assert!(gone.is_err());
    assert_eq!(client.get("quick").await.unwrap().unwrap().value, "quick");
    assert_eq!(fake.count("mg"), 2);
}

#[tokio::test]
async fn loads_have_a_bound() {
    let (fake, _) = node(|_, _| say("EN\r\n")).await;
    let mut options = options(&fake);
    options.loads_max = 2;
    let client = Client::connect(options).await.unwrap();
    let running = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..10)
        .map(|at| {
            let (client, running) = (client.clone(), running.clone());
            tokio::spawn(async move {
                let load = move || async move {
                    let _open = Open::new(&running);
                    assert!(running.load(Relaxed) <= 2);
                    sleep(Duration::from_millis(20)).await;
                    Ok::<_, std::io::Error>(Some("x"))
                };
                client.get_or_load(format!("k{at}"), &LoadOptions::default(), load).await.unwrap()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), "x");
    }
    assert_eq!(client.counters().loads, 10);
}
