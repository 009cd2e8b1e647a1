//! Tests that we did not write: memccapable, and client libraries in four languages,
//! over the classic, the meta and the binary protocol.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::report::Done;
use crate::server::{Program, Server, Setup};
use crate::{install, paths, process};

const PATIENCE: Duration = Duration::from_secs(180);

/// The ways in which a node can run that a client must not notice.
pub const VARIANTS: &[&[&str]] =
    &[&["-t", "2"], &["-t", "1", "--cas-bits", "32"], &["-t", "2", "--io-backend", "epoll"]];

/// libmemcached's conformance suites, text and binary.
pub fn memccapable(seawalld: &Path) -> Result<Done> {
    install::apt(&["libmemcached-tools"], &["memccapable"])?;
    let program = Program::Seawall(seawalld.to_owned());
    let mut checks = 0;
    for flags in VARIANTS {
        for suite in ["-a", "-b"] {
            let server = Setup::new(&program, flags).start()?;
            let mut command = Command::new("memccapable");
            command.args(["-h", "127.0.0.1", "-p", &server.address.port().to_string(), suite]);
            let (good, text) = process::capture(&mut command, PATIENCE)?;
            let passed = text.lines().filter(|line| line.contains("[pass]")).count();
            if !good || passed == 0 || text.contains("[FAIL]") {
                bail!("memccapable {suite} with {}:\n{text}", flags.join(" "));
            }
            checks += passed as u64;
        }
    }
    Ok(Done::new(checks, "text and binary, over 1 and 2 cores, io_uring and epoll"))
}

/// Client libraries: what runs, and with which arguments before host and port.
struct Clients {
    python: PathBuf,
}

/// Drives Debian's memcached and then every variant of Seawall with each library.
pub fn clients(seawalld: &Path) -> Result<Done> {
    let clients = Clients { python: python()? };
    node()?;
    install::apt(&["php-cli", "php-memcached"], &["php", "/usr/share/doc/php-memcached"])?;
    let perl = "libcache-memcached-fast-perl";
    install::apt(&["perl", perl], &["perl", &format!("/usr/share/doc/{perl}")])?;
    install::apt(&["memcached"], &["memcached"])?;
    install::apt(&["libmemcached-tools"], &["memcdump"])?;
    let reference = Setup::new(&Program::Memcached, &["-t", "1"]);
    let mut servers = vec![reference];
    let program = Program::Seawall(seawalld.to_owned());
    servers.extend(VARIANTS.iter().map(|flags| Setup::new(&program, flags)));
    // Much of what they do is to wait for an expiry: the servers take no turns.
    let checks = std::thread::scope(|scope| {
        let running: Vec<_> =
            servers.iter().map(|setup| scope.spawn(|| clients.drive(setup))).collect();
        running.into_iter().map(|thread| thread.join().expect("a driver panicked")).sum()
    });
    let checks: Result<u64> = checks;
    let libraries = clients.commands()?.len();
    Ok(Done::new(checks?, format!("{libraries} libraries against memcached and Seawall")))
}

impl Clients {
    /// Runs every library against one server.
    fn drive(&self, setup: &Setup) -> Result<u64> {
        let server = setup.start()?;
        let (host, port) = ("127.0.0.1", server.address.port().to_string());
        // While there is nothing else: a dump is bounded.
        dump(&server)?;
        let mut checks = 1;
        for mut command in self.commands()? {
            command.args([host, &port]);
            let (good, text) = process::capture(&mut command, PATIENCE)?;
            let line = text.lines().find(|line| line.starts_with("ok "));
            let Some(line) = line.filter(|_| good) else {
                bail!("{} against `{}`:\n{text}", process::describe(&command), server.command);
            };
            let words: Vec<_> = line.split_whitespace().collect();
            checks += words.iter().rev().find_map(|word| word.parse::<u64>().ok()).unwrap_or(1);
        }
        Ok(checks)
    }

    fn commands(&self) -> Result<Vec<Command>> {
        let folder = paths::xtask().join("clients");
        let mut commands = Vec::new();
        for script in [
            "pymemcache_text",
            "pylibmc_binary",
            "bmemcached_binary",
            "meta_memcache_meta",
            "meta_socket_cas",
            "async_text",
        ] {
            let mut command = Command::new(&self.python);
            command.arg(folder.join("python").join(format!("{script}.py")));
            commands.push(command);
        }
        for script in ["memjs.mjs", "memcached.mjs"] {
            let mut command = Command::new("node");
            command.current_dir(node_folder()).arg(script);
            commands.push(command);
        }
        for (interpreter, script) in [("php", "php/memcached.php"), ("perl", "perl/fast.pl")] {
            let mut command = Command::new(interpreter);
            command.arg(folder.join(script));
            commands.push(command);
        }
        Ok(commands)
    }
}

/// libmemcached's memcdump finds a key by `stats cachedump`.
fn dump(server: &Server) -> Result<()> {
    let mut stream = std::net::TcpStream::connect(server.address)?;
    stream.write_all(b"set dumped 0 0 1\r\nx\r\n")?;
    let mut answer = [0; b"STORED\r\n".len()];
    stream.read_exact(&mut answer)?;
    let mut command = Command::new("memcdump");
    command.arg(format!("--servers={}", server.address));
    let (good, text) = process::capture(&mut command, PATIENCE)?;
    if !good || !text.lines().any(|key| key == "dumped") {
        bail!("memcdump against `{}` does not find the key:\n{text}", server.command);
    }
    Ok(())
}

/// A Python with the client libraries.
pub fn python() -> Result<PathBuf> {
    install::apt(&["python3", "python3-venv"], &["python3"])?;
    let folder = paths::target().join("xtask/python");
    let python = folder.join("bin/python");
    if !python.exists() {
        install::quiet(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let requirements = paths::xtask().join("clients/python/requirements.txt");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
        .arg(requirements);
    install::quiet(&mut pip)?;
    Ok(python)
}

/// Where the scripts for Node.js lie beside their modules.
pub fn node_folder() -> PathBuf {
    paths::target().join("xtask/node")
}

/// Modules are found beside the script, so scripts and modules live under target.
pub fn node() -> Result<()> {
    install::apt(&["nodejs", "npm"], &["node", "npm"])?;
    let folder = node_folder();
    std::fs::create_dir_all(&folder)?;
    let lock = |folder: &Path| std::fs::read(folder.join("package-lock.json")).ok();
    let source = paths::xtask().join("clients/node");
    // What npm writes last.
    let installed = folder.join("node_modules/.package-lock.json").exists();
    let same = installed && lock(&folder) == lock(&source);
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    if same {
        return Ok(());
    }
    let mut npm = Command::new("npm");
    npm.current_dir(&folder).args(["ci", "--silent", "--no-audit", "--no-fund"]);
    install::quiet(&mut npm)
}
