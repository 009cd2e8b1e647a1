//! Servers under test: Seawall and Debian's memcached, started alike on a free
//! port of 127.0.0.1 and gone when dropped.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{paths, process};

/// Which program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Debian's memcached, the one that is right by definition.
    Memcached,
    /// A seawalld binary.
    Seawall(PathBuf),
    /// Debian's redis-server, for comparisons only.
    Redis,
    /// The program that answers fixed bytes.
    Floor(PathBuf),
}

impl Program {
    /// What tables call it.
    pub fn name(&self) -> &'static str {
        match self {
            Program::Memcached => "memcached",
            Program::Seawall(_) => "seawalld",
            Program::Redis => "redis-server",
            Program::Floor(_) => "floor",
        }
    }
}

/// How to start one.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which program.
    pub program: Program,
    /// Flags, in memcached's spelling.
    pub flags: Vec<String>,
    /// Extra environment.
    pub environment: Vec<(String, String)>,
    /// CPU to pin it to.
    pub cpu: Option<usize>,
    /// Listen on this Unix socket instead of TCP.
    pub unix_socket: Option<PathBuf>,
}

impl Setup {
    /// A program with flags.
    pub fn new(program: &Program, flags: &[&str]) -> Setup {
        Setup {
            program: program.clone(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            environment: Vec::new(),
            cpu: None,
            unix_socket: None,
        }
    }

    /// Pinned to a CPU.
    pub fn on_cpu(mut self, cpu: usize) -> Setup {
        self.cpu = Some(cpu);
        self
    }

    /// Starts it and waits until it accepts connections.
    pub fn start(&self) -> Result<Server> {
        let port = free_port()?;
        let mut command = self.command(port);
        let log_path = log_path(self.program.name())?;
        let log = File::create(&log_path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        let child = process::bind_to_parent(&mut command)
            .spawn()
            .with_context(|| format!("cannot start `{}`", process::describe(&command)))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Server {
            child,
            address,
            unix_socket: self.unix_socket.clone(),
            name: self.program.name(),
            command: process::describe(&command),
            log_path,
        };
        server.wait_for_listener()?;
        Ok(server)
    }

    fn command(&self, port: u16) -> Command {
        let program = match &self.program {
            Program::Memcached => PathBuf::from("memcached"),
            Program::Seawall(path) => path.clone(),
            Program::Redis => PathBuf::from("redis-server"),
            Program::Floor(path) => path.clone(),
        };
        let mut command = match self.cpu {
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(cpu.to_string()).arg(program);
                command
            }
            None => Command::new(program),
        };
        let port = port.to_string();
        match (&self.program, &self.unix_socket) {
            (Program::Redis, _) => {
                command.args([
                    "--port",
                    &port,
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                ]);
            }
            (Program::Floor(_), _) => {
                command.arg(&port);
            }
            (_, Some(path)) => {
                command.arg("-s").arg(path);
            }
            (_, None) => {
                command.args(["-l", "127.0.0.1", "-p", &port]);
            }
        }
        match self.program {
            // As root it wants a user; root itself keeps the parent-death signal.
            Program::Memcached => command.args(["-U", "0", "-u", "root"]),
            Program::Seawall(_) => command.args(["-U", "0", "--admin-listen", "off"]),
            Program::Redis | Program::Floor(_) => &mut command,
        };
        command.args(&self.flags);
        command
    }
}

/// A running server; dropped, it is killed.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens, unless it was given a Unix socket.
    pub address: SocketAddr,
    /// Its Unix socket.
    pub unix_socket: Option<PathBuf>,
    /// What tables call it.
    pub name: &'static str,
    /// The command line it was started with.
    pub command: String,
    log_path: PathBuf,
}

impl Server {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `host:port`, or `unix:path`.
    pub fn target(&self) -> String {
        match &self.unix_socket {
            Some(path) => format!("unix:{}", path.display()),
            None => self.address.to_string(),
        }
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line =
            status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS line")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib * 1024)
    }

    /// Asks it to end and waits.
    pub fn terminate(mut self, patience: Duration) -> Result<ExitStatus> {
        process::signal(self.pid(), libc::SIGTERM);
        match process::wait_until(&mut self.child, Instant::now() + patience)? {
            Some(status) => Ok(status),
            None => bail!(
                "{} did not end within {} s of SIGTERM; its log ends:\n{}",
                self.name,
                patience.as_secs(),
                self.log_tail()
            ),
        }
    }

    /// The last lines it printed.
    pub fn log_tail(&self) -> String {
        let bytes = std::fs::read(&self.log_path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn wait_for_listener(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let reached = match &self.unix_socket {
                Some(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
                None => TcpStream::connect(self.address).is_ok(),
            };
            if reached {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("`{}` ended with {status}:\n{}", self.command, self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("`{}` does not listen after 20 s:\n{}", self.command, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(path) = &self.unix_socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A port nobody uses at this moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn log_path(name: &str) -> Result<PathBuf> {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let folder = paths::target().join("xtask");
    std::fs::create_dir_all(&folder)?;
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    Ok(folder.join(format!("{name}-{}-{number}.log", std::process::id())))
}
