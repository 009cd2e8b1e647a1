//! Keepers over loopback: how they find each other, decide, and lose each other.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster::change::{Command, Outcome};
use cluster::topology::{Incarnation, Introduction, NodeIndex, Revision};
use coordinator::embedded::disk::{DiskError, FILE};
use coordinator::embedded::{Embedded, EmbeddedOptions};
use coordinator::wire::{Boxed, Handler, PeerInfo, Peers, Server, WireSettings};
use coordinator::{Confirmation, Coordinator, CoordinatorError, Role};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// These tests share two CPUs with others, and a disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that this node has now, and after a restart.
async fn port() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

type Names = Arc<Mutex<BTreeSet<String>>>;

/// Passes on what some nodes say, and never answers others: as a network that
/// loses everything between them.
struct Ears {
    deaf_to: Names,
    handler: Arc<dyn Handler>,
}

impl Handler for Ears {
    fn kinds(&self) -> RangeInclusive<u8> {
        self.handler.kinds()
    }

    fn handle<'a>(&'a self, from: &'a PeerInfo, kind: u8, body: Vec<u8>) -> Boxed<'a, Vec<u8>> {
        if self.deaf_to.lock().unwrap().contains(&from.node) {
            return Box::pin(std::future::pending());
        }
        self.handler.handle(from, kind, body)
    }
}

/// Cuts a node off from the others, or no longer.
fn cut_off(keepers: &[Keeper], at: usize, cut: bool) {
    let mut names: BTreeSet<String> = keepers.iter().map(|keeper| keeper.name.clone()).collect();
    names.remove(&keepers[at].name);
    for (other, keeper) in keepers.iter().enumerate() {
        let own = BTreeSet::from([keepers[at].name.clone()]);
        let from = if other == at { names.clone() } else { own };
        *keeper.deaf_to.lock().unwrap() = if cut { from } else { BTreeSet::new() };
    }
}

struct Keeper {
    name: String,
    address: String,
    embedded: Arc<Embedded>,
    serving: JoinHandle<()>,
    /// Names of those whom it does not hear.
    deaf_to: Names,
    lines: Arc<Mutex<Vec<String>>>,
}

struct Setup<'a> {
    folder: &'a Path,
    join: &'a [String],
    keepers_wanted: usize,
    snapshot_every: u64,
}

impl<'a> Setup<'a> {
    fn new(folder: &'a TempDir, join: &'a [String]) -> Setup<'a> {
        Setup { folder: folder.path(), join, keepers_wanted: 3, snapshot_every: 1000 }
    }

    async fn start(&self, name: &str, (listener, address): (TcpListener, String)) -> Keeper {
        let started = self.try_start(name, listener, &address).await;
        started.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    async fn try_start(
        &self,
        name: &str,
        listener: TcpListener,
        address: &str,
    ) -> Result<Keeper, DiskError> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let log = {
            let (lines, name) = (lines.clone(), name.to_owned());
            Arc::new(move |line: &str| {
                eprintln!("{name}: {line}");
                lines.lock().unwrap().push(line.to_owned());
            })
        };
        let settings = Arc::new(WireSettings::new("tide", name, Incarnation(1), log));
        let peers = Peers::new(settings.clone());
        let directory = self.folder.join(name);
        let mut options = EmbeddedOptions::new(directory, name, address, self.join);
        options.keepers_wanted = self.keepers_wanted;
        options.snapshot_every = self.snapshot_every;
        let embedded = Embedded::start(options, peers).await?;
        let deaf_to = Names::default();
        let ears = Arc::new(Ears { deaf_to: deaf_to.clone(), handler: embedded.handler() });
        let serving = tokio::spawn(Server::new(settings, vec![ears], None).serve(listener));
        let (name, address) = (name.to_owned(), address.to_owned());
        Ok(Keeper { name, address, embedded, serving, deaf_to, lines })
    }
}

impl Keeper {
    fn leads(&self) -> bool {
        matches!(*self.embedded.role().borrow(), Role::Leader { .. })
    }

    /// Ends as if killed: without a word to others.
    async fn kill(self) {
        self.serving.abort();
        let _ = self.serving.await;
        self.embedded.stop().await;
    }

    async fn applied(&self, outcome: Outcome) {
        let Outcome::Applied(revision) = outcome else { panic!("{outcome:?}") };
        let mut topology = self.embedded.watch();
        let wait = topology.wait_for(|topology| topology.revision() >= revision);
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{} does not follow: {}", self.name, self.embedded.health());
    }

    async fn append(&self, command: Command) -> Outcome {
        let started = Instant::now();
        let mut perhaps_done = false;
        loop {
            match self.embedded.append(command.clone()).await {
                Ok(Outcome::Refused(_)) if perhaps_done => {
                    return Outcome::Applied(self.embedded.watch().borrow().revision());
                }
                Ok(outcome) => return outcome,
                Err(error) if started.elapsed() > PATIENCE => {
                    panic!("{}: {error}\n{}", self.name, self.embedded.health())
                }
                // On a loaded machine leaders change.
                Err(error) => perhaps_done |= matches!(error, CoordinatorError::Unknown { .. }),
            }
        }
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    started.elapsed()
}

async fn leader(keepers: &[Keeper]) -> usize {
    until("a leader", || keepers.iter().any(Keeper::leads)).await;
    keepers.iter().position(Keeper::leads).unwrap_or(0)
}

async fn until_voters(keepers: &[Keeper], addresses: &[&str]) {
    let mut wanted: Vec<&str> = addresses.to_vec();
    wanted.sort();
    until("the right set of keepers", || {
        keepers.iter().all(|keeper| {
            let mut voters = keeper.embedded.health().keepers;
            voters.sort();
            voters == wanted
        })
    })
    .await;
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

/// Three that were given the same list.
async fn three(folder: &TempDir) -> Vec<Keeper> {
    let ports = [port().await, port().await, port().await];
    let join: Vec<String> = ports.iter().map(|(_, address)| address.clone()).collect();
    let setup = Setup::new(folder, &join);
    let mut keepers = Vec::new();
    for (at, port) in ports.into_iter().enumerate() {
        keepers.push(setup.start(&format!("k{at}"), port).await);
    }
    keepers
}

fn addresses(keepers: &[Keeper]) -> Vec<&str> {
    keepers.iter().map(|keeper| &*keeper.address).collect()
}

#[tokio::test]
async fn three_with_the_same_list_begin_one_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let keepers = three(&folder).await;
    until_voters(&keepers, &addresses(&keepers)).await;
    // From each of them, leader or not.
    assert!(matches!(keepers[0].append(create()).await, Outcome::Applied(_)));
    let mut last = None;
    for keeper in &keepers {
        last = Some(keeper.append(join(&keeper.name)).await);
    }
    let last = last.unwrap();
    for keeper in &keepers {
        keeper.applied(last).await;
    }
    let first = keepers[0].embedded.watch().borrow().encode();
    for keeper in &keepers {
        let topology = keeper.embedded.watch().borrow().clone();
        assert_eq!(topology.encode(), first);
        assert_eq!(topology.nodes().count(), 3);
        let since = keeper.embedded.commands_since(Revision(1)).unwrap();
        assert_eq!(since.len(), 3);
    }
    let at = leader(&keepers).await;
    let before = Instant::now();
    let mut confirmed = keepers[at].embedded.confirm_leadership().await;
    for _ in 0..100 {
        if confirmed.is_ok() {
            break;
        }
        confirmed = keepers[leader(&keepers).await].embedded.confirm_leadership().await;
    }
    assert!(confirmed.unwrap().at >= before);
}

#[tokio::test]
async fn one_begins_and_others_join() {
    let folder = tempfile::tempdir().unwrap();
    let first = port().await;
    let contact = [first.1.clone()];
    let mut keepers = vec![Setup::new(&folder, &[]).start("k0", first).await];
    let created = keepers[0].append(create()).await;
    keepers.push(Setup::new(&folder, &contact).start("k1", port().await).await);
    keepers[1].applied(created).await;
    // Two keepers would be worse than one.
    until_voters(&keepers, &[&contact[0]]).await;
    keepers.push(Setup::new(&folder, &contact).start("k2", port().await).await);
    until_voters(&keepers, &addresses(&keepers)).await;
    // A fourth one follows, and takes the place of one that leaves.
    keepers.push(Setup::new(&folder, &contact).start("k3", port().await).await);
    for at in 0..4 {
        let joined = keepers[3].append(join(&format!("k{at}"))).await;
        keepers[3].applied(joined).await;
    }
    assert_eq!(keepers[3].embedded.health().learners, [keepers[3].address.clone()]);
    let k1 = keepers[0].embedded.watch().borrow().named("k1").unwrap().0;
    keepers[3].append(Command::Leave { node: k1 }).await;
    keepers.remove(1).kill().await;
    until_voters(&keepers, &addresses(&keepers)).await;
}

#[tokio::test]
async fn another_leads_when_the_leader_dies() {
    let folder = tempfile::tempdir().unwrap();
    let mut keepers = three(&folder).await;
    keepers[0].append(create()).await;
    until_voters(&keepers, &addresses(&keepers)).await;
    let mut took: Vec<Duration> = Vec::new();
    for at in 0..50 {
        let started = Instant::now();
        keepers[at % 3].append(Command::Copies(1 + at as u8 % 2)).await;
        took.push(started.elapsed());
    }
    took.sort();
    eprintln!("a command is applied after {} us (median)", took[25].as_micros());
    let dead = keepers.remove(leader(&keepers).await);
    // Dropped sockets are its last sign, as when a process is killed.
    dead.serving.abort();
    let killed = Instant::now();
    dead.embedded.stop().await;
    let mut role = keepers[0].embedded.role();
    let mut other = keepers[1].embedded.role();
    let leads = |role: &Role| matches!(role, Role::Leader { .. });
    tokio::time::timeout(PATIENCE, async {
        tokio::select! {
            _ = role.wait_for(leads) => {}
            _ = other.wait_for(leads) => {}
        }
    })
    .await
    .expect("nobody takes over");
    let led = killed.elapsed();
    keepers[0].append(join("a")).await;
    eprintln!(
        "leader killed: another leads after {} ms, a command is applied after {} ms",
        led.as_millis(),
        killed.elapsed().as_millis()
    );
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let keepers = three(&folder).await;
    keepers[0].append(create()).await;
    let mut last = keepers[0].append(join("a")).await;
    for at in 0..20 {
        last = keepers[at % 3].append(Command::Copies(1 + at as u8 % 2)).await;
    }
    keepers[0].applied(last).await;
    let before = keepers[0].embedded.watch().borrow().encode();
    let mut names = Vec::new();
    for keeper in keepers {
        names.push(keeper.name.clone());
        keeper.kill().await;
    }
    // All with other addresses: their disks know each other, their lists say where.
    let ports = [port().await, port().await, port().await];
    let list: Vec<String> = ports.iter().map(|(_, address)| address.clone()).collect();
    let setup = Setup::new(&folder, &list);
    let mut keepers = Vec::new();
    for (name, port) in names.iter().zip(ports) {
        keepers.push(setup.start(name, port).await);
    }
    leader(&keepers).await;
    for keeper in &keepers {
        keeper.applied(last).await;
        assert_eq!(keeper.embedded.watch().borrow().encode(), before);
    }
    until_voters(&keepers, &addresses(&keepers)).await;
    assert!(matches!(keepers[0].append(join("b")).await, Outcome::Applied(_)));
}

#[tokio::test]
async fn a_snapshot_stands_for_a_long_log() {
    let folder = tempfile::tempdir().unwrap();
    let first = port().await;
    let contact = [first.1.clone()];
    let mut setup = Setup::new(&folder, &[]);
    setup.snapshot_every = 20;
    let keeper = setup.start("k0", first).await;
    let mut last = keeper.append(create()).await;
    for at in 0..200 {
        last = keeper.append(Command::Copies(1 + at % 2)).await;
    }
    let late = Setup::new(&folder, &contact).start("k1", port().await).await;
    late.applied(last).await;
    let since = late.embedded.commands_since(Revision(1));
    assert_eq!(since, None, "it came by a snapshot");
    let before = keeper.embedded.watch().borrow().encode();
    assert_eq!(late.embedded.watch().borrow().encode(), before);
    let (_, address) = (late.kill().await, keeper.address.clone());
    keeper.kill().await;
    let listener = TcpListener::bind(&address).await.unwrap();
    let again = setup.start("k0", (listener, address)).await;
    again.applied(last).await;
    assert_eq!(again.embedded.watch().borrow().encode(), before);
}

#[tokio::test]
async fn a_minority_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let mut keepers = three(&folder).await;
    let created = keepers[0].append(create()).await;
    for keeper in &keepers {
        keeper.applied(created).await;
    }
    until_voters(&keepers, &addresses(&keepers)).await;
    let at = leader(&keepers).await;
    let old = keepers.remove(at);
    for keeper in keepers {
        keeper.kill().await;
    }
    let started = Instant::now();
    let answer = old.embedded.append(join("a")).await;
    let took = started.elapsed();
    assert!(
        matches!(answer, Err(CoordinatorError::Unknown { .. } | CoordinatorError::NoLeader { .. })),
        "{answer:?}"
    );
    assert!(took < Duration::from_secs(15), "it took {} ms", took.as_millis());
    let confirmed = old.embedded.confirm_leadership().await;
    assert_eq!(confirmed, Err(CoordinatorError::NotLeader));
    until("that it does not believe itself to lead", || !old.leads()).await;
    assert!(!old.embedded.health().quorum_reachable);
    assert_eq!(old.embedded.watch().borrow().nodes().count(), 0);
}

#[tokio::test]
async fn who_returns_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let keepers = three(&folder).await;
    keepers[0].append(create()).await;
    until_voters(&keepers, &addresses(&keepers)).await;
    let at = leader(&keepers).await;
    let cut = (at + 1) % 3;
    let term = keepers[at].embedded.health().term;
    cut_off(&keepers, cut, true);
    until("that it misses its leader", || keepers[cut].embedded.health().leader.is_none()).await;
    // Time for some elections, which it does not begin.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let counted = keepers[cut].embedded.health().term;
    cut_off(&keepers, cut, false);
    let follows = || keepers[cut].embedded.health().quorum_reachable;
    until("that it follows again", follows).await;
    keepers[cut].append(join("a")).await;
    // On a loaded machine the others may have had an election of their own.
    let latest = keepers.iter().map(|keeper| keeper.embedded.health().term).max().unwrap();
    assert!(term <= latest && counted <= latest, "{term}, {counted} where it was cut off");
    eprintln!("term {term} before, {counted} where it was cut off, {latest} after");
}

#[tokio::test]
async fn a_leader_that_is_cut_off_stops_before_it_harms() {
    let folder = tempfile::tempdir().unwrap();
    let keepers = three(&folder).await;
    keepers[0].append(create()).await;
    until_voters(&keepers, &addresses(&keepers)).await;
    let old = leader(&keepers).await;
    cut_off(&keepers, old, true);
    let cut = Instant::now();
    let others: Vec<&Keeper> =
        keepers.iter().filter(|keeper| keeper.name != keepers[old].name).collect();
    // What it is asked now is refused, or not known to be done.
    let lost = keepers[old].embedded.append(join("lost"));
    let kept = async {
        until("another leader", || others.iter().any(|keeper| keeper.leads())).await;
        let led = cut.elapsed();
        others[0].append(join("kept")).await;
        (led, cut.elapsed())
    };
    let (lost, (led, kept)) = tokio::join!(lost, kept);
    assert!(lost.is_err(), "{lost:?}");
    eprintln!(
        "leader cut off: another leads after {} ms, a command is applied after {} ms",
        led.as_millis(),
        kept.as_millis()
    );
    assert!(keepers[old].embedded.confirm_leadership().await.is_err());
    until("that it does not believe itself to lead", || !keepers[old].leads()).await;

    cut_off(&keepers, old, false);
    let last = keepers[old].append(join("after")).await;
    for keeper in &keepers {
        keeper.applied(last).await;
        let topology = keeper.embedded.watch().borrow().clone();
        assert!(topology.named("kept").is_some());
        assert!(topology.named("lost").is_none(), "a refused command was carried out");
    }
}

#[tokio::test]
async fn a_new_leader_knows_since_when_nobody_was_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let keepers = three(&folder).await;
    keepers[0].append(create()).await;
    until_voters(&keepers, &addresses(&keepers)).await;
    let mut last: Option<Confirmation> = None;
    for _ in 0..4 {
        let at = leader(&keepers).await;
        // It asks until it hears that it leads no more.
        let asking = async {
            let mut confirmed = 0;
            while let Ok(confirmation) = keepers[at].embedded.confirm_leadership().await {
                if let (Some(last), Some(since)) = (last, confirmation.vacant_since) {
                    assert!(since >= last.at, "{:?} too early", last.at - since);
                    assert!(since <= confirmation.at && confirmation.term >= last.term);
                    confirmed += 1;
                }
                last = Some(confirmation);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            confirmed
        };
        let cutting = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            cut_off(&keepers, at, true);
            let others = || keepers.iter().filter(|it| it.name != keepers[at].name);
            until("another leader", || others().any(|keeper| keeper.leads())).await;
        };
        let (confirmed, ()) = tokio::join!(asking, cutting);
        eprintln!("{} was confirmed {confirmed} times", keepers[at].name);
        until("that it does not believe itself to lead", || !keepers[at].leads()).await;
        cut_off(&keepers, at, false);
    }
    let last = last.expect("somebody was confirmed");
    assert!(last.vacant_since.is_some(), "an elected leader knows it");
}

#[tokio::test]
async fn a_large_topology_travels() {
    let folder = tempfile::tempdir().unwrap();
    let first = port().await;
    let contact = [first.1.clone()];
    let mut setup = Setup::new(&folder, &[]);
    setup.snapshot_every = 10;
    let keeper = setup.start("k0", first).await;
    let seed = 1;
    let create = Command::Create { name: "tide".into(), ring_bits: 18, copies: 2, seed };
    let mut last = keeper.append(create).await;
    for at in 0..40 {
        last = keeper.append(Command::Copies(1 + at % 2)).await;
    }
    let late = Setup::new(&folder, &contact).start("k1", port().await).await;
    late.applied(last).await;
    let before = keeper.embedded.watch().borrow().encode();
    assert!(before.len() > 1 << 20);
    assert_eq!(late.embedded.watch().borrow().encode(), before);
    assert_eq!(late.embedded.commands_since(Revision(1)), None, "it came by a snapshot");
}

#[tokio::test]
async fn a_foreign_or_torn_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = port().await;
    let address = first.1.clone();
    let setup = Setup::new(&folder, &[]);
    let keeper = setup.start("k0", first).await;
    keeper.append(create()).await;
    // While another one has it open.
    let (listener, elsewhere) = port().await;
    let again = setup.try_start("k0", listener, &elsewhere).await.err().unwrap();
    assert!(matches!(again, DiskError::InUse { .. }), "{again}");
    keeper.kill().await;
    let path = folder.path().join("k0").join(FILE);
    let whole = std::fs::read(&path).unwrap();
    let mut scribbled = whole.clone();
    scribbled[..64].fill(0xee);
    let damaged: [&[u8]; 4] = [b"", b"[listen]\nport = 11211\n", &whole[..5000], &scribbled];
    for bytes in damaged {
        std::fs::write(&path, bytes).unwrap();
        let listener = TcpListener::bind(&address).await.unwrap();
        let error = setup.try_start("k0", listener, &address).await.err();
        let error = error.unwrap_or_else(|| panic!("{} bytes were taken", bytes.len()));
        assert!(matches!(error, DiskError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("not a keeper's file"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "it was changed");
    }
    std::fs::write(&path, whole).unwrap();
    let listener = TcpListener::bind(&address).await.unwrap();
    let keeper = setup.start("k0", (listener, address)).await;
    assert!(matches!(keeper.append(join("a")).await, Outcome::Applied(_)));
}

#[tokio::test]
async fn who_lost_its_disk_comes_back_as_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut keepers = three(&folder).await;
    keepers[0].append(create()).await;
    until_voters(&keepers, &addresses(&keepers)).await;
    let at = leader(&keepers).await;
    let lost = keepers.remove((at + 1) % 3);
    let (name, address) = (lost.name.clone(), lost.address.clone());
    lost.kill().await;
    std::fs::remove_dir_all(folder.path().join(&name)).unwrap();
    let contact: Vec<String> = keepers.iter().map(|keeper| keeper.address.clone()).collect();
    let listener = TcpListener::bind(&address).await.unwrap();
    let setup = Setup::new(&folder, &contact);
    keepers.push(setup.start(&name, (listener, address)).await);
    let joined = keepers[2].append(join("a")).await;
    keepers[2].applied(joined).await;
    until_voters(&keepers, &addresses(&keepers)).await;

    // While it lives, nobody else may have its name.
    let (listener, elsewhere) = port().await;
    std::fs::create_dir(folder.path().join("other")).unwrap();
    let other = folder.path().join("other");
    let impostor = Setup { folder: &other, ..Setup::new(&folder, &contact) };
    let impostor = impostor.start(&name, (listener, elsewhere)).await;
    let refused = || impostor.lines.lock().unwrap().iter().any(|line| line.contains("is taken"));
    until("the refusal of a name that is taken", refused).await;
    assert!(!impostor.leads());
}

#[tokio::test]
async fn a_stranger_cannot_disturb() {
    use tokio::io::AsyncWriteExt;
    let folder = tempfile::tempdir().unwrap();
    let keeper = Setup::new(&folder, &[]).start("k0", port().await).await;
    let created = keeper.append(create()).await;
    // Garbage of every kind that a coordinator answers, after a good greeting.
    let quiet = Arc::new(|_: &str| {});
    let settings = WireSettings::new("tide", "x", Incarnation(1), quiet);
    let peers = Peers::new(Arc::new(settings));
    for kind in 0xc0..=0xcf {
        for body in [vec![], vec![0xff; 40], vec![0; 200]] {
            let _ = peers.call(&keeper.address, kind, body, PATIENCE).await;
        }
    }
    let mut stream = TcpStream::connect(&keeper.address).await.unwrap();
    stream.write_all(&[0; 64]).await.unwrap();
    assert!(matches!(keeper.append(join("a")).await, Outcome::Applied(_)));
    keeper.applied(created).await;
    assert!(keeper.embedded.watch().borrow().member(NodeIndex(0)).is_some());
}
