//! Starts the real binary and talks to it as a user would.
#![allow(dead_code)] // Every test binary uses its part.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than anything here should take, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A folder of this test's own, removed with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("seawalld-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seawalld")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// A start that is to fail: exit code and log.
pub fn run_until_exit(args: &[&str]) -> (Option<i32>, String) {
    let port = free_port().to_string();
    let mut all = vec!["-l", "127.0.0.1", "-p", &port, "--admin-listen", "off", "-t", "1"];
    all.extend(args);
    let out = run(&all);
    (out.status.code(), text(&out.stderr))
}

/// A running server.
pub struct Daemon {
    child: Child,
    pub port: u16,
    pub admin: u16,
    log: Arc<Mutex<String>>,
}

impl Daemon {
    /// Starts with `args` on free ports of loopback and waits until it is ready.
    pub fn start(args: &[&str]) -> Daemon {
        Daemon::start_at("127.0.0.1", args)
    }

    /// The same, listening elsewhere.
    pub fn start_at(listen: &str, args: &[&str]) -> Daemon {
        let (port, admin) = (free_port(), free_port());
        let mut all = vec!["-l".to_owned(), listen.into(), "-p".into(), port.to_string()];
        all.extend([
            "--admin-listen".into(),
            format!("127.0.0.1:{admin}"),
            "-t".into(),
            "2".into(),
        ]);
        all.extend(args.iter().map(ToString::to_string));
        let daemon = Daemon::spawn(&all, port, admin);
        // A node of a cluster is ready when others are there, too.
        let clustered = args.contains(&"--cluster-listen");
        daemon.wait_for(if clustered { "open to clients" } else { "ready" });
        daemon
    }

    fn spawn(args: &[String], port: u16, admin: u16) -> Daemon {
        let mut child = Command::new(env!("CARGO_BIN_EXE_seawalld"))
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let shared = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = shared.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Daemon { child, port, admin, log }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the log has `text`.
    pub fn wait_for(&self, text: &str) {
        let began = Instant::now();
        while !self.log().contains(text) {
            assert!(began.elapsed() < PATIENCE, "no {text:?} in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// As the machine would: without a word.
    pub fn kill(self) {
        self.signal("KILL");
        self.wait();
    }

    /// Waits for its end; the exit code and the whole log.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        };
        // The log's reader may lag behind the exit.
        std::thread::sleep(Duration::from_millis(50));
        (status.code(), self.log())
    }

    pub fn stop(self) -> String {
        self.signal("TERM");
        let (code, log) = self.wait();
        assert_eq!(code, Some(0), "{log}");
        log
    }

    pub fn connect(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client(BufReader::new(stream))
    }

    /// An admin request: status code and body.
    pub fn http(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of the text protocol.
pub struct Client<S: Read>(pub BufReader<S>);

impl<S: Read + Write> Client<S> {
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Reads past a line that need not be text.
    pub fn skip_line(&mut self) {
        self.0.read_until(b'\n', &mut Vec::new()).unwrap();
    }

    pub fn ask(&mut self, request: &str) -> String {
        self.send(format!("{request}\r\n").as_bytes());
        self.line()
    }

    pub fn set(&mut self, key: &str, flags: u32, ttl: u32, value: &[u8]) {
        let mut request = format!("set {key} {flags} {ttl} {}\r\n", value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        self.send(&request);
        assert_eq!(self.line(), "STORED", "{key}");
    }

    /// Value and flags.
    pub fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32)> {
        let head = self.ask(&format!("get {key}"));
        if head == "END" {
            return None;
        }
        let fields: Vec<&str> = head.split(' ').collect();
        assert_eq!(fields.get(..2), Some(&["VALUE", key][..]), "{head:?}");
        let mut value = vec![0; fields[3].parse::<usize>().unwrap() + 2];
        self.0.read_exact(&mut value).unwrap();
        value.truncate(value.len() - 2);
        assert_eq!(self.line(), "END");
        Some((value, fields[2].parse().unwrap()))
    }
}

/// A line of `seawalld --check-config` and the like.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn exists(path: &Path) -> bool {
    path.exists()
}
