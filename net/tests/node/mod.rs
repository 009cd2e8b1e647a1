//! A node over real sockets, and a client that speaks just enough.

#![allow(dead_code)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use seawall_net::node::{Node, NodeConfig, NodeHandle};
use seawall_net::sys::{BackendChoice, BackendKind, BackendOptions, probe};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// The ways a node is run here: backend and cores.
pub fn ways() -> Vec<(BackendChoice, u32)> {
    let mut ways = vec![(BackendChoice::Epoll, 1), (BackendChoice::Epoll, 2)];
    if probe(&BackendOptions::default()).is_ok() {
        ways.extend([(BackendChoice::Uring, 1), (BackendChoice::Uring, 2)]);
    }
    ways
}

pub fn start(way: (BackendChoice, u32), change: impl FnOnce(&mut NodeConfig)) -> NodeHandle {
    let mut config = NodeConfig::local(64 << 20);
    config.backend = way.0;
    config.cores = Some(way.1);
    change(&mut config);
    let node = Node::start(config).unwrap_or_else(|error| panic!("{error}"));
    let expected =
        if way.0 == BackendChoice::Epoll { BackendKind::Epoll } else { BackendKind::Uring };
    assert!(node.cores().iter().all(|core| core.backend == expected));
    node
}

pub fn over_all(test: impl Fn(NodeHandle)) {
    for way in ways() {
        eprintln!("{way:?}");
        test(start(way, |_| {}));
    }
}

/// A client that speaks just enough.
pub struct Client<S: Read + Write> {
    pub stream: BufReader<S>,
}

impl Client<TcpStream> {
    pub fn new(node: &NodeHandle) -> Client<TcpStream> {
        Client::to(node.tcp_address().unwrap())
    }

    pub fn to(address: SocketAddr) -> Client<TcpStream> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// Whether the server has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]), Ok(0))
            || matches!(self.stream.read(&mut [0; 1]), Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset)
    }
}

impl<S: Read + Write> Client<S> {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line
    }

    pub fn set(&mut self, key: &str, value: &[u8]) {
        self.send(&set(key, value));
        assert_eq!(self.line(), "STORED\r\n", "{key}");
    }

    pub fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.send(format!("get {key}\r\n").as_bytes());
        self.value(key)
    }

    /// Reads the answer to a `get`.
    pub fn value(&mut self, key: &str) -> Option<Vec<u8>> {
        let head = self.line();
        if head == "END\r\n" {
            return None;
        }
        let bytes = head
            .trim_end()
            .strip_prefix(&format!("VALUE {key} 0 "))
            .unwrap_or_else(|| panic!("{head:?} is no answer for {key}"));
        let mut value = vec![0; bytes.parse::<usize>().unwrap() + 2];
        self.stream.read_exact(&mut value).unwrap();
        value.truncate(value.len() - 2);
        assert_eq!(self.line(), "END\r\n");
        Some(value)
    }
}

pub fn set(key: &str, value: &[u8]) -> Vec<u8> {
    let mut request = format!("set {key} 0 0 {}\r\n", value.len()).into_bytes();
    request.extend_from_slice(value);
    request.extend_from_slice(b"\r\n");
    request
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn stats_of(client: &mut Client<TcpStream>) -> HashMap<String, String> {
    client.send(b"stats\r\n");
    let mut stats = HashMap::new();
    loop {
        let line = client.line();
        let mut words = line.split_whitespace().skip(1);
        match (words.next(), words.next()) {
            (Some(name), Some(value)) => stats.insert(name.to_owned(), value.to_owned()),
            _ => return stats,
        };
    }
}
