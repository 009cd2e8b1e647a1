//! Conversations between nodes, and attempts of others to have one.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::topology::Incarnation;
use coordinator::wire::{
    Boxed, CallError, Handler, PeerInfo, Peers, Server, Tls, TlsFiles, WireSettings,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(30);
const ECHO: u8 = 1;
const SLEEP: u8 = 2;

/// Answers with what it was sent, or never.
struct Echo;

impl Handler for Echo {
    fn kinds(&self) -> RangeInclusive<u8> {
        ECHO..=SLEEP
    }

    fn handle<'a>(&'a self, _: &'a PeerInfo, kind: u8, body: Vec<u8>) -> Boxed<'a, Vec<u8>> {
        Box::pin(async move {
            if kind == SLEEP {
                std::future::pending::<()>().await;
            }
            body
        })
    }
}

/// The lines that a node has logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn settings(&self, cluster: &str, node: &str) -> WireSettings {
        let lines = self.0.clone();
        let log = Arc::new(move |line: &str| lines.lock().unwrap().push(line.to_owned()));
        let mut settings = WireSettings::new(cluster, node, Incarnation(1), log);
        // These tests share two CPUs with others.
        settings.connect_timeout = PATIENCE;
        settings.greeting_timeout = PATIENCE;
        settings.silence_max = PATIENCE;
        settings
    }

    async fn until(&self, part: &str) {
        let found = async {
            while !self.0.lock().unwrap().iter().any(|line| line.contains(part)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, found).await.is_err() {
            panic!("no line with {part:?} in {:#?}", self.0.lock().unwrap());
        }
    }
}

async fn listen(settings: WireSettings) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(Server::new(Arc::new(settings), vec![Arc::new(Echo)], None).serve(listener));
    address
}

#[tokio::test]
async fn calls_are_answered_and_overtake_each_other() {
    let lines = Lines::default();
    let address = listen(lines.settings("tide", "b")).await;
    let peers = Peers::new(Arc::new(lines.settings("tide", "a")));
    let slow = {
        let (peers, address) = (peers.clone(), address.clone());
        tokio::spawn(async move { peers.call(&address, SLEEP, Vec::new(), PATIENCE).await })
    };
    for body_bytes in [0, 5, 5_000, 3 << 20] {
        let body = vec![3; body_bytes];
        let answer = peers.call(&address, ECHO, body.clone(), PATIENCE).await;
        assert_eq!(answer, Ok(body));
    }
    let answer = peers.call(&address, 77, Vec::new(), PATIENCE).await;
    assert_eq!(answer, Err(CallError::Unhandled { address: address.clone(), kind: 77 }));
    let answer = peers.call(&address, ECHO, vec![0; 17 << 20], PATIENCE).await;
    assert!(matches!(answer, Err(CallError::TooLong { .. })), "{answer:?}");
    let short = Duration::from_millis(20);
    let answer = peers.call(&address, SLEEP, Vec::new(), short).await;
    assert_eq!(answer, Err(CallError::TimedOut { address, after: short }));
    assert!(!slow.is_finished());
    slow.abort();
}

#[tokio::test]
async fn a_call_to_nobody_fails_at_once_and_works_when_somebody_comes() {
    let lines = Lines::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let peers = Peers::new(Arc::new(lines.settings("tide", "a")));
    let answer = peers.call(&address, ECHO, vec![1], PATIENCE).await;
    assert!(matches!(answer, Err(CallError::Unreachable { .. })), "{answer:?}");
    lines.until("cannot reach").await;
    let listener = TcpListener::bind(&address).await.unwrap();
    let settings = Arc::new(lines.settings("tide", "b"));
    let serving =
        tokio::spawn(Server::new(settings.clone(), vec![Arc::new(Echo)], None).serve(listener));
    assert_eq!(peers.call(&address, ECHO, vec![1], PATIENCE).await, Ok(vec![1]));

    // It restarts in the middle of a call.
    let lost = {
        let (peers, address) = (peers.clone(), address.clone());
        tokio::spawn(async move { peers.call(&address, SLEEP, Vec::new(), PATIENCE).await })
    };
    // Calls are written in order: this one's answer shows that the other is there.
    tokio::task::yield_now().await;
    assert_eq!(peers.call(&address, ECHO, vec![2], PATIENCE).await, Ok(vec![2]));
    serving.abort();
    let answer = lost.await.unwrap();
    assert!(answer.as_ref().is_err_and(CallError::may_have_been_heard), "{answer:?}");
    lines.until("lost").await;
    let listener = TcpListener::bind(&address).await.unwrap();
    tokio::spawn(Server::new(settings, vec![Arc::new(Echo)], None).serve(listener));
    assert_eq!(peers.call(&address, ECHO, vec![3], PATIENCE).await, Ok(vec![3]));
}

#[tokio::test]
async fn another_cluster_is_refused_on_both_sides() {
    let (dialler, listener) = (Lines::default(), Lines::default());
    let address = listen(listener.settings("tide", "b")).await;
    let peers = Peers::new(Arc::new(dialler.settings("ebb", "a")));
    let answer = peers.call(&address, ECHO, vec![1], PATIENCE).await;
    let Err(CallError::Unreachable { why, .. }) = answer else { panic!("{answer:?}") };
    let reason = r#"node a belongs to cluster "ebb", node b to "tide""#;
    assert!(why.contains(reason), "{why}");
    dialler.until(reason).await;
    listener.until(reason).await;
}

#[tokio::test]
async fn another_version_is_told_why() {
    let lines = Lines::default();
    let settings = Arc::new(lines.settings("tide", "b"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let refusals = settings.refusals.clone();
    tokio::spawn(Server::new(settings, vec![Arc::new(Echo)], None).serve(listener));
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A preface, and a greeting that only a later version could read.
    stream.write_all(b"SWL\x63C\0\0\0\x03\0\0\0abc").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let why = "speaks version 99 of the peer protocol, this node 1";
    assert!(answer.contains(why), "{answer}");
    lines.until(why).await;
    let (count, latest) = refusals.seen();
    assert_eq!(count, 1);
    assert!(latest.is_some_and(|refusal| refusal.what.contains(why)));
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let lines = Lines::default();
    let address = listen(lines.settings("tide", "b")).await;
    let peers = Peers::new(Arc::new(lines.settings("tide", "a")));
    assert_eq!(peers.call(&address, ECHO, vec![1], PATIENCE).await, Ok(vec![1]));
    let after_preface = [b"SWL\x01C\0\0\0".as_slice(), &[0xff; 100]].concat();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &after_preface] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        // Closed, perhaps with a reset for what was not read.
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(answer, b"");
    }
    lines.until("refused: it does not speak Seawall's peer protocol").await;
    assert_eq!(peers.call(&address, ECHO, vec![2], PATIENCE).await, Ok(vec![2]));
    let lost = lines.0.lock().unwrap().iter().any(|line| line.contains("lost"));
    assert!(!lost, "the good connection was closed");
}

#[tokio::test]
async fn a_data_connection_is_handed_over_unread() {
    let lines = Lines::default();
    let (hand, taken) = oneshot::channel();
    let hand = Mutex::new(Some(hand));
    let settings = Arc::new(lines.settings("tide", "b"));
    let take = Arc::new(move |stream: TcpStream, core: u16| {
        hand.lock().unwrap().take().unwrap().send((stream, core)).unwrap();
    });
    let server = Server::new(settings, Vec::new(), Some(take));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    dialled.write_all(b"SWL\x01D\x05\x01\0and the rest").await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    server.accept_one(accepted).await;
    let (mut stream, core) = taken.await.unwrap();
    assert_eq!(core, 0x105);
    let mut rest = [0; 12];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"and the rest");
}

#[tokio::test]
async fn a_silent_peer_is_noticed() {
    let lines = Lines::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Greets, and then is as a machine that hangs.
    let mute = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut preface = [0; 8];
        stream.read_exact(&mut preface).await.unwrap();
        let hello_bytes = stream.read_u32_le().await.unwrap();
        let mut hello = vec![0; hello_bytes as usize];
        stream.read_exact(&mut hello).await.unwrap();
        stream.write_u32_le(hello_bytes).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut settings = lines.settings("tide", "a");
    settings.silence_max = Duration::from_millis(300);
    settings.ping_every = Duration::from_millis(100);
    let peers = Peers::new(Arc::new(settings));
    let answer = peers.call(&address, ECHO, Vec::new(), PATIENCE).await;
    let Err(CallError::Lost { why, .. }) = answer else { panic!("{answer:?}") };
    assert!(why.contains("no sign of life"), "{why}");
    mute.abort();
}

/// An authority that signs nodes' certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Files for a node, signed by this authority, that believes in `trusted`.
    fn files(&self, folder: &Path, node: &str, trusted: &Authority) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let path = |end: &str| folder.join(format!("{node}.{end}"));
        std::fs::write(path("crt"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        std::fs::write(path("ca"), trusted.0.pem()).unwrap();
        TlsFiles { certificate: path("crt"), key: path("key"), authority: path("ca"), name: None }
    }
}

#[tokio::test]
async fn without_a_certificate_of_the_authority_there_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(), Authority::new());
    let lines = Lines::default();
    let tls = |files| Some(Arc::new(Tls::load(files).unwrap()));
    let mut settings = lines.settings("tide", "b");
    settings.tls = tls(ours.files(folder.path(), "b", &ours));
    let address = listen(settings).await;

    let mut settings = lines.settings("tide", "a");
    settings.tls = tls(ours.files(folder.path(), "a", &ours));
    let good = Peers::new(Arc::new(settings));
    assert_eq!(good.call(&address, ECHO, vec![1], PATIENCE).await, Ok(vec![1]));

    // In the clear.
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"SWL\x01C\0\0\0\x09\0\0\0hello you").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    // At most a TLS alert: record type 21, a level and a reason.
    assert!(answer.is_empty() || answer.len() == 7 && answer[0] == 21, "{answer:?}");

    // A certificate of another authority.
    let mut settings = lines.settings("tide", "c");
    settings.tls = tls(theirs.files(folder.path(), "c", &ours));
    let foreign = Peers::new(Arc::new(settings));
    let answer = foreign.call(&address, ECHO, vec![1], PATIENCE).await;
    assert!(matches!(answer, Err(CallError::Unreachable { .. })), "{answer:?}");

    // A listener of another authority.
    let mut settings = lines.settings("tide", "d");
    settings.tls = tls(theirs.files(folder.path(), "d", &theirs));
    let address = listen(settings).await;
    let answer = good.call(&address, ECHO, vec![1], PATIENCE).await;
    let Err(CallError::Unreachable { why, .. }) = answer else { panic!("{answer:?}") };
    assert!(why.contains("TLS"), "{why}");
}

#[tokio::test]
async fn certificates_can_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = (Authority::new(), Authority::new());
    let lines = Lines::default();
    let served = Arc::new(Tls::load(before.files(folder.path(), "b", &before)).unwrap());
    let mut settings = lines.settings("tide", "b");
    settings.tls = Some(served.clone());
    let address = listen(settings).await;
    let mut settings = lines.settings("tide", "a");
    settings.tls = Some(Arc::new(Tls::load(after.files(folder.path(), "a", &after)).unwrap()));
    let peers = Peers::new(Arc::new(settings));
    let answer = peers.call(&address, ECHO, vec![1], PATIENCE).await;
    assert!(matches!(answer, Err(CallError::Unreachable { .. })), "{answer:?}");

    // A broken file changes nothing.
    let key = std::fs::read(folder.path().join("b.key")).unwrap();
    std::fs::write(folder.path().join("b.key"), "no key").unwrap();
    let error = served.reload().unwrap_err().to_string();
    assert!(error.contains("b.key"), "{error}");
    std::fs::write(folder.path().join("b.key"), key).unwrap();

    after.files(folder.path(), "b", &after);
    served.reload().unwrap();
    assert_eq!(peers.call(&address, ECHO, vec![1], PATIENCE).await, Ok(vec![1]));
}
