//! The order of commands in etcd: real servers, on free ports of loopback.

use std::net::TcpListener;
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::change::{Command, Outcome};
use cluster::topology::{Incarnation, Introduction, Revision};
use coordinator::etcd::{Etcd, EtcdOptions};
use coordinator::{Coordinator, CoordinatorError, Role};
use tempfile::TempDir;

/// These tests share two CPUs with others, and a disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// Servers that end with the test.
struct Servers {
    folder: TempDir,
    /// As they were started, and running or not.
    servers: Vec<(Vec<String>, Option<Child>)>,
    clients: Vec<String>,
    /// Of the nodes.
    append_timeout: Duration,
}

impl Servers {
    fn start(count: usize) -> Servers {
        let folder = tempfile::tempdir().unwrap();
        // Bound all at once, so that they differ.
        let ports: Vec<TcpListener> =
            (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |at: usize| ports[at].local_addr().unwrap().to_string();
        let clients: Vec<String> = (0..count).map(address).collect();
        let peers: Vec<String> = (count..2 * count).map(address).collect();
        drop(ports);
        let all: Vec<String> =
            peers.iter().enumerate().map(|(at, peer)| format!("n{at}=http://{peer}")).collect();
        let mut servers =
            Servers { folder, servers: Vec::new(), clients, append_timeout: PATIENCE };
        for (at, peer) in peers.iter().enumerate() {
            let (client, peer) =
                (format!("http://{}", servers.clients[at]), format!("http://{peer}"));
            let data = servers.folder.path().join(format!("n{at}"));
            let flags = [
                ("name", format!("n{at}")),
                ("data-dir", data.display().to_string()),
                ("listen-client-urls", client.clone()),
                ("advertise-client-urls", client),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer),
                ("initial-cluster", all.join(",")),
                ("initial-cluster-token", servers.folder.path().display().to_string()),
            ];
            let flags = flags.iter().map(|(name, value)| format!("--{name}={value}")).collect();
            servers.servers.push((flags, None));
            servers.run(at);
        }
        servers
    }

    fn run(&mut self, at: usize) {
        let (flags, running) = &mut self.servers[at];
        let started =
            Process::new("etcd").args(flags).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        *running = Some(started.unwrap_or_else(|error| {
            panic!("cannot start etcd ({error}); install it:  apt-get install etcd-server")
        }));
    }

    fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.servers[at].1.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn node(&self, name: &str) -> Node {
        self.node_as(name, "")
    }

    /// `user` is `name:password@`, or empty.
    fn node_as(&self, name: &str, user: &str) -> Node {
        let log = {
            let name = name.to_owned();
            Arc::new(move |line: &str| eprintln!("{name}: {line}"))
        };
        let url = format!("etcd://{user}{}", self.clients.join(","));
        let address = format!("{name}:11212");
        let mut options = EtcdOptions::new(&url, "tide", name, &address, log).unwrap();
        options.snapshot_every = 50;
        options.timing.append_timeout = self.append_timeout;
        Node { name: name.into(), etcd: Etcd::start(options) }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for at in 0..self.servers.len() {
            self.kill(at);
        }
    }
}

struct Node {
    name: String,
    etcd: Arc<Etcd>,
}

impl Node {
    fn leads(&self) -> bool {
        matches!(*self.etcd.role().borrow(), Role::Leader { .. })
    }

    async fn append(&self, command: Command) -> Outcome {
        let started = Instant::now();
        let mut perhaps_done = false;
        loop {
            match self.etcd.append(command.clone()).await {
                Ok(Outcome::Refused(_)) if perhaps_done => {
                    return Outcome::Applied(self.etcd.watch().borrow().revision());
                }
                Ok(outcome) => return outcome,
                Err(error) if started.elapsed() > PATIENCE => {
                    panic!("{}: {error}\n{}", self.name, self.etcd.health())
                }
                // etcd may not be up yet, or elects.
                Err(error) => perhaps_done |= matches!(error, CoordinatorError::Unknown { .. }),
            }
        }
    }

    async fn applied(&self, revision: u64) {
        let mut topology = self.etcd.watch();
        let wait = topology.wait_for(|topology| topology.revision() >= Revision(revision));
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{} does not follow: {}", self.name, self.etcd.health());
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn create() -> Command {
    Command::Create { name: "tide".into(), ring_bits: 6, copies: 2, seed: 1 }
}

fn join(name: &str) -> Command {
    Command::Join(Introduction {
        name: name.into(),
        incarnation: Incarnation(7),
        client_address: "127.0.0.1:1".into(),
        peer_address: "127.0.0.1:2".into(),
        zone: String::new(),
        weight: 100,
        cores: 1,
        core_ports: 0,
    })
}

#[tokio::test]
async fn commands_have_one_order_for_all() {
    let servers = Servers::start(1);
    let nodes = [servers.node("a"), servers.node("b"), servers.node("c")];
    // Large enough for a snapshot in several parts.
    let create = Command::Create { name: "tide".into(), ring_bits: 18, copies: 2, seed: 1 };
    nodes[0].append(create).await;
    // All at once: each command has its own place, none is lost or doubled.
    let mut appending = tokio::task::JoinSet::new();
    for at in 0..60 {
        let etcd = nodes[at % 3].etcd.clone();
        appending.spawn(async move {
            let started = Instant::now();
            loop {
                // Whose outcome is not known may be in the order: it is not repeated.
                match etcd.append(join(&format!("n{at}"))).await {
                    Ok(outcome) => return outcome,
                    Err(CoordinatorError::NoLeader { .. }) if started.elapsed() < PATIENCE => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    let mut revisions = Vec::new();
    while let Some(outcome) = appending.join_next().await {
        match outcome.unwrap() {
            Outcome::Applied(revision) => revisions.push(revision.0),
            outcome @ Outcome::Refused(_) => panic!("{outcome:?}"),
        }
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..62).collect::<Vec<_>>());
    for node in &nodes {
        node.applied(61).await;
        let since = node.etcd.commands_since(Revision(1));
        assert!(since.is_none_or(|since| since.len() == 60));
    }
    let topologies: Vec<_> = nodes.iter().map(|node| node.etcd.watch().borrow().encode()).collect();
    assert!(topologies.iter().all(|topology| *topology == topologies[0]));

    // Alone, one after the other.
    let mut took = Vec::new();
    for at in 0..50 {
        let started = Instant::now();
        nodes[0].append(Command::Copies(1 + at % 2)).await;
        took.push(started.elapsed());
    }
    took.sort();
    eprintln!("a command is applied after {} us (median)", took[25].as_micros());

    // By now there is a snapshot, and a log that does not begin with the first.
    let cut = || nodes.iter().any(Node::leads);
    until("a leader", cut).await;
    let last = nodes[0].etcd.watch().borrow().revision().0;
    let started = Instant::now();
    loop {
        let late = servers.node("late");
        late.applied(last).await;
        if late.etcd.commands_since(Revision(1)).is_none() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "no snapshot comes");
    }
}

#[tokio::test]
async fn one_leads_and_another_takes_over() {
    let servers = Servers::start(1);
    let mut nodes = vec![servers.node("a"), servers.node("b"), servers.node("c")];
    until("a leader", || nodes.iter().any(Node::leads)).await;
    let mut took = Vec::new();
    let mut terms = Vec::new();
    let mut last: Option<Instant> = None;
    for round in 0..3 {
        let others_know = || {
            let Some(leader) = nodes.iter().find(|node| node.leads()) else { return false };
            let known = Role::Follower { leader: Some(format!("{}:11212", leader.name)) };
            nodes.iter().filter(|node| *node.etcd.role().borrow() == known).count() == 2
        };
        until("that the others know the leader", others_know).await;
        let before = Instant::now();
        // On a loaded machine it changes.
        let leader = loop {
            let leader = nodes.iter().position(Node::leads).unwrap_or(0);
            if let Ok(confirmed) = nodes[leader].etcd.confirm_leadership().await {
                assert!(confirmed.at >= before);
                // Nobody was confirmed since, neither another leader nor this one.
                let since = confirmed.vacant_since.expect("it took over");
                assert!(since <= confirmed.at && last.is_none_or(|last| since >= last));
                last = Some(confirmed.at);
                break leader;
            }
            assert!(before.elapsed() < PATIENCE, "no leader can confirm that it is");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        terms.push(nodes[leader].etcd.health().term);
        let dead = nodes.remove(leader);
        dead.etcd.abandon();
        let died = Instant::now();
        until("another leader", || nodes.iter().any(Node::leads)).await;
        took.push(died.elapsed().as_millis());
        nodes.push(servers.node(&format!("r{round}")));
    }
    eprintln!("leader dead: another leads after {took:?} ms");
    assert!(terms.is_sorted_by(|a, b| a < b), "{terms:?}");
    // One that goes in order is not waited for.
    let leader = nodes.iter().position(Node::leads).unwrap_or(0);
    let gone = nodes.remove(leader);
    gone.etcd.stop().await;
    assert!(!gone.leads());
    let went = Instant::now();
    until("another leader", || nodes.iter().any(Node::leads)).await;
    eprintln!("leader gone in order: another leads after {} ms", went.elapsed().as_millis());
}

#[tokio::test]
async fn a_server_of_etcd_may_die() {
    let mut servers = Servers::start(3);
    servers.append_timeout = Duration::from_secs(3);
    let nodes = [servers.node("a"), servers.node("b")];
    nodes[0].append(create()).await;
    for at in 0..3 {
        servers.kill(at);
        nodes[0].append(join(&format!("during-{at}"))).await;
        nodes[1].append(join(&format!("also-{at}"))).await;
        servers.run(at);
        nodes[1].append(join(&format!("after-{at}"))).await;
    }
    for node in &nodes {
        node.applied(10).await;
    }
    let [first, second] = nodes.each_ref().map(|node| node.etcd.watch().borrow().encode());
    assert_eq!(first, second);
    until("a leader", || nodes.iter().any(Node::leads)).await;

    // Two of them, and nothing is decided any more.
    servers.kill(0);
    servers.kill(1);
    let started = Instant::now();
    let answer = nodes[0].etcd.append(join("never")).await;
    assert!(answer.is_err(), "{answer:?}");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(15), "it took {} ms", took.as_millis());
    until("that there is no leader", || !nodes.iter().any(Node::leads)).await;
    assert!(nodes[0].etcd.confirm_leadership().await.is_err());
    until("that health tells", || !nodes[0].etcd.health().quorum_reachable).await;

    // What was under way may be decided later, but once at most.
    servers.run(0);
    nodes[0].append(join("later")).await;
    nodes[1].append(join("later still")).await;
    nodes[0].applied(12).await;
    let never = nodes[0].etcd.watch().borrow().named("never").is_some();
    eprintln!("the command without a majority was carried out later: {never}");
}

/// One request to etcd's gateway, without the code under test.
fn post(server: &str, path: &str, body: &str) {
    use std::io::{Read, Write};
    let started = Instant::now();
    loop {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n");
        let mut answer = String::new();
        let asked = std::net::TcpStream::connect(server).and_then(|mut stream| {
            stream.write_all((head + body).as_bytes())?;
            stream.read_to_string(&mut answer)
        });
        if asked.is_ok() && answer.contains("200 OK") {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{path}: {answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test]
async fn etcd_may_ask_for_a_password() {
    let mut servers = Servers::start(1);
    let server = &servers.clients[0];
    post(server, "/v3/auth/user/add", r#"{"name":"root","password":"of the sea"}"#);
    post(server, "/v3/auth/role/add", r#"{"name":"root"}"#);
    post(server, "/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#);
    post(server, "/v3/auth/enable", "{}");
    let known = servers.node_as("known", "root:of the sea@");
    assert!(matches!(known.append(create()).await, Outcome::Applied(_)));
    until("a leader", || known.leads()).await;
    servers.append_timeout = Duration::from_secs(3);
    let stranger = servers.node("stranger");
    let refused = stranger.etcd.append(join("a")).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(stranger.etcd.watch().borrow().revision(), Revision(0));
}

#[tokio::test]
async fn an_etcd_that_forgot_everything_is_told() {
    let mut servers = Servers::start(1);
    let node = servers.node("a");
    let last = node.append(create()).await;
    assert!(matches!(last, Outcome::Applied(_)));
    // All keys, from the least one on.
    post(&servers.clients[0], "/v3/kv/deleterange", r#"{"key":"AA==","range_end":"AA=="}"#);
    // It looks again when its watch ends.
    servers.kill(0);
    servers.run(0);
    let told = || {
        let trouble = node.etcd.health().waits_for;
        trouble.is_some_and(|text| text.contains("neither command 1 nor a later snapshot"))
    };
    until("that it is reported", told).await;
    assert_eq!(node.etcd.watch().borrow().name(), "tide");
}
