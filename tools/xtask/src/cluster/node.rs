//! A node of the cluster under test: started, killed, stopped and asked.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::network::{End, Network};
use crate::process;

const CLIENT_PORT: u16 = 11211;
const PEER_PORT: u16 = 7946;
const ADMIN_PORT: u16 = 9150;

/// A histogram: by upper bound in microseconds the number of those that are not above
/// it; of all at the end.
pub type Waits = BTreeMap<u64, u64>;

/// One node, whether it runs or not.
#[derive(Debug)]
pub struct Node {
    pub host: usize,
    pub name: String,
    child: Option<Child>,
    folder: PathBuf,
}

impl Node {
    /// One that does not run yet.
    pub fn new(host: usize, folder: &Path) -> Node {
        let name = format!("node{}", host + 1);
        Node { host, folder: folder.to_owned(), name, child: None }
    }

    /// Where clients reach it.
    pub fn clients(&self) -> SocketAddr {
        SocketAddr::from((End::Host(self.host).address(), CLIENT_PORT))
    }

    /// Where operators reach it.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::from((End::Host(self.host).address(), ADMIN_PORT))
    }

    /// Where other nodes reach it.
    pub fn peers(&self) -> SocketAddr {
        SocketAddr::from((End::Host(self.host).address(), PEER_PORT))
    }

    /// Starts it, or starts it again, on what it had written.
    pub fn start(&mut self, network: &Network, seawalld: &Path, flags: &[String]) -> Result<()> {
        let own = End::Host(self.host).address();
        let mut command = network.command(self.host, seawalld);
        command.args(["-l", &own.to_string(), "-p", &CLIENT_PORT.to_string(), "-U", "0"]);
        command.args(["-t", "1", "-m", "64", "--pin-cores", "no"]);
        command.args(["--admin-listen", &format!("{own}:{ADMIN_PORT}")]);
        command.args(["--cluster-listen", &format!("{own}:{PEER_PORT}")]);
        command.args(["--node-name", &self.name]);
        command.arg("--cluster-directory").arg(self.folder.join(&self.name));
        let join: Vec<_> =
            (0..3).map(|host| format!("{}:{PEER_PORT}", End::Host(host).address())).collect();
        command.args(["--join", &join.join(",")]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process::bind_to_parent(&mut command)
            .spawn()
            .with_context(|| format!("cannot start `{}`", process::describe(&command)))?;
        let log = self.log()?;
        log_lines(child.stdout.take().context("a pipe was asked for")?, log.try_clone()?);
        log_lines(child.stderr.take().context("a pipe was asked for")?, log);
        self.child = Some(child);
        Ok(())
    }

    fn log(&self) -> Result<File> {
        let path = self.folder.join(format!("{}.log", self.name));
        Ok(OpenOptions::new().create(true).append(true).open(path)?)
    }

    /// A word of ours in its log.
    pub fn note(&self, what: &str) -> Result<()> {
        let milliseconds = process::monotonic_ns() / 1_000_000;
        Ok(self.log()?.write_all(format!("{milliseconds} ms: -- {what}\n").as_bytes())?)
    }

    /// Sends a signal to it.
    pub fn signal(&self, number: i32) -> Result<()> {
        let child = self.child.as_ref().context("the node does not run")?;
        process::signal(child.id(), number);
        self.note(&format!("signal {number}"))
    }

    /// Kills it; nothing of it runs when this returns.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(libc::SIGKILL)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(libc::SIGTERM)?;
        let mut child = self.child.take().context("the node does not run")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        match process::wait_until(&mut child, deadline)? {
            Some(status) => ensure!(status.success(), "{} ended with {status}", self.name),
            None => {
                child.kill()?;
                child.wait()?;
                bail!("{} did not end within 30 s of SIGTERM", self.name);
            }
        }
        Ok(())
    }

    /// Whether it was started and has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// `GET /ring`.
    pub fn ring(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.fetch("/ring")?)?)
    }

    /// A metric's sum over all cores.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let page = self.fetch("/metrics")?;
        let values = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next())?
        });
        values.map(|value| Ok(value.parse::<f64>()? as u64)).sum()
    }

    /// How long batches of requests took of which one found nobody to take it at first,
    /// of all cores.
    pub fn waits(&self) -> Result<Waits> {
        let page = self.fetch("/metrics")?;
        let mut waits = Waits::new();
        for line in page.lines() {
            let Some(rest) = line.strip_prefix("seawall_cluster_wait_seconds_bucket{") else {
                continue;
            };
            let (_, rest) = rest.split_once("le=\"").context("a bucket has a bound")?;
            let (bound, count) = rest.split_once("\"} ").context("a bucket has a count")?;
            let bound_us = match bound {
                "+Inf" => u64::MAX,
                seconds => (seconds.parse::<f64>()? * 1e6).round() as u64,
            };
            *waits.entry(bound_us).or_default() += count.parse::<u64>()?;
        }
        Ok(waits)
    }

    fn fetch(&self, path: &str) -> Result<String> {
        let address = self.admin();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(300))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
        ensure!(head.contains(" 200 "), "{path} answers:\n{text}");
        Ok(body.to_owned())
    }

    /// What it has said since our latest word in its log.
    pub fn said(&self) -> Result<String> {
        let log = std::fs::read_to_string(self.folder.join(format!("{}.log", self.name)))?;
        let since = log.rfind(" ms: -- ").unwrap_or(0);
        Ok(log[since..].to_owned())
    }
}

/// Copies lines until the writer ends, with the moments at which they came, by the
/// clock of the clients' histories.
fn log_lines(from: impl Read + Send + 'static, mut log: File) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let milliseconds = process::monotonic_ns() / 1_000_000;
            let _ = log.write_all(format!("{milliseconds} ms: {line}\n").as_bytes());
        }
    });
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
