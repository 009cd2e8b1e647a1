//! Starts real daemons: a node alone, or a cluster of three.
#![allow(dead_code)] // Every test binary uses its part.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Longer than anything here should take, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The daemon: `$SEAWALLD`, or built beside this test.
fn seawalld() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("SEAWALLD") {
            return path.into();
        }
        // target/PROFILE/deps/this
        let own = std::env::current_exe().unwrap();
        let folder = own.parent().unwrap().parent().unwrap();
        let profile = match folder.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "-p", "seawalld", "--bin", "seawalld", "--profile", profile])
            .arg("--target-dir")
            .arg(folder.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(built.success(), "seawalld does not build");
        folder.join("seawalld")
    })
}

/// A folder of this test's own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("seawall-client-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    pub port: u16,
    pub admin: u16,
    folder: Folder,
}

impl Daemon {
    fn start(args: &[String], port: u16, admin: u16) -> Daemon {
        let folder = Folder::new();
        let log = std::fs::File::create(folder.0.join("log")).unwrap();
        let child = Command::new(seawalld())
            .args(["-l", "127.0.0.1", "-t", "2", "-m", "64", "--pin-cores", "no"])
            .args(["-p", &port.to_string(), "--admin-listen", &format!("127.0.0.1:{admin}")])
            .args(["--cluster-directory".into(), folder.0.join("state").display().to_string()])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Daemon { child, port, admin, folder }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }

    /// Whether it listens before it ends.
    fn is_up(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            // A node of a cluster says the second: it may wait for others.
            let log = self.log();
            if log.contains("seawalld: ready") || log.contains("seawalld: open to clients") {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Kills the process by SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Lets it hang (`STOP`) or go on (`CONT`).
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// One line for one line.
    pub fn ask(&self, line: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(format!("{line}\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        Some(answer)
    }

    /// What it tells of the topology.
    fn topology(&self) -> Option<Value> {
        serde_json::from_str(&self.ask("topology")?).ok()
    }

    /// The topology's revision that it knows.
    pub fn revision(&self) -> Option<u64> {
        self.topology()?["revision"].as_u64()
    }

    /// Requests that each core took from connections, less those that it executed:
    /// what stays is what was executed elsewhere. (In a cluster a core passes most
    /// requests on to itself.)
    pub fn passed_on(&self) -> Vec<i64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /cores HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let cores: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let number = |core: &Value, field: &str| core[field].as_i64().unwrap();
        let passed_on = |core| number(core, "hops_sent_total") - number(core, "hops_served_total");
        cores.as_array().unwrap().iter().map(passed_on).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("port {}:\n{}", self.port, self.log());
        }
        self.kill();
    }
}

/// Ports that were free a moment ago; each with the `pairs` after it.
fn free_ports(count: usize, after: u16) -> Vec<u16> {
    let mut held = Vec::new();
    let mut ports = Vec::new();
    while ports.len() < count {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let next: Vec<_> = (1..=after)
            .filter_map(|at| TcpListener::bind(("127.0.0.1", port.checked_add(at)?)).ok())
            .collect();
        if next.len() == usize::from(after) {
            ports.push(port);
            held.push((first, next));
        }
    }
    ports
}

/// A node alone. Another process may take a port in between: then again.
pub fn single(args: &[&str]) -> Daemon {
    for _ in 0..5 {
        let ports = free_ports(2, 0);
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let mut daemon = Daemon::start(&args, ports[0], ports[1]);
        if daemon.is_up() {
            return daemon;
        }
        eprintln!("{}", daemon.log());
    }
    panic!("it does not start");
}

/// Three nodes, each with two cores and a port for each, all partitions in two copies.
pub fn cluster() -> Vec<Daemon> {
    for _ in 0..5 {
        let ports = free_ports(9, 0);
        let core_ports = free_ports(3, 1);
        let join: Vec<String> = ports[..3].iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut daemons: Vec<Daemon> = (0..3)
            .map(|at| {
                let args = [
                    ("--core-ports", core_ports[at].to_string()),
                    ("--cluster-listen", join[at].clone()),
                    ("--join", join.join(",")),
                    ("--node-name", format!("n{at}")),
                    ("--partitions", "256".into()),
                    ("--namespaces", "shop".into()),
                ];
                let args: Vec<String> =
                    args.into_iter().flat_map(|(flag, value)| [flag.into(), value]).collect();
                Daemon::start(&args, ports[3 + at], ports[6 + at])
            })
            .collect();
        if daemons.iter_mut().all(Daemon::is_up) && is_whole(&daemons) {
            return daemons;
        }
        daemons.iter().for_each(|daemon| eprintln!("{}", daemon.log()));
    }
    panic!("it does not start");
}

/// Waits until each node knows that every partition has two copies in sync.
fn is_whole(daemons: &[Daemon]) -> bool {
    let whole = |daemon: &Daemon| {
        let told = daemon.topology()?;
        let sets = told["sets"].as_array()?;
        let in_sync = |set: &Value| {
            let set = set.as_array().map_or(&[][..], Vec::as_slice);
            set.iter().filter(|node| node.as_i64() >= Some(0)).count() == 2
        };
        Some(told["nodes"].as_array()?.len() == 3 && !sets.is_empty() && sets.iter().all(in_sync))
    };
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if daemons.iter().all(|daemon| whole(daemon) == Some(true)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}
