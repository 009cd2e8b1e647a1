//! The settings as the daemon uses them, typed, and the checks that need more than
//! one row.

use super::advertise::Advertise;
use super::choices::{self, Choices};
use super::cluster::ClusterConfig;
use super::collect::Problem;
use super::table::EPHEMERAL_PORT;
use super::value::{Value, bytes_text};
use super::{Effective, Source};
use engine::Eviction;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// What the daemon runs with. Rows that the cores take as they are have no field here:
/// `Config::node` reads them.
#[derive(Clone, Debug)]
pub struct Config {
    /// TCP addresses; empty with a Unix socket or `--port 0`.
    pub tcp: Vec<SocketAddr>,
    /// Whether an address that this machine does not have is skipped (the default wildcard pair).
    pub tcp_any: bool,
    /// Unix socket and its mode.
    pub unix: Option<(PathBuf, u32)>,
    /// First of the per-core ports.
    pub core_ports: Option<u16>,
    /// Bytes for items and index, all cores together.
    pub memory_bytes: u64,
    /// Largest value in bytes.
    pub value_bytes_max: u64,
    /// The policy, or that a full node refuses writes.
    pub eviction: Eviction,
    /// Explicit huge pages.
    pub large_pages: bool,
    /// Lock all memory into RAM.
    pub lock_memory: bool,
    /// Hash seed, if fixed.
    pub hash_seed: Option<u64>,
    /// Data cores; `None`: all.
    pub cores: Option<u32>,
    /// Connection limit.
    pub connections_max: u32,
    /// The user chose that number.
    pub connections_asked: bool,
    /// `-Y`.
    pub auth_file: Option<PathBuf>,
    /// `-S`.
    pub sasl: bool,
    /// SASL users.
    pub sasl_file: Option<PathBuf>,
    /// Configured namespaces.
    pub namespaces: Vec<String>,
    /// Namespace delimiter, also of `stats detail`.
    pub delimiter: u8,
    /// Admin address.
    pub admin: Option<SocketAddr>,
    /// The admin address was chosen by the user: failing to bind it is fatal.
    pub admin_required: bool,
    /// For auto-discovery.
    pub advertise: Option<Advertise>,
    /// Snapshot file.
    pub snapshot: Option<PathBuf>,
    /// Load a snapshot that may be older than what clients did since, too.
    pub snapshot_stale: bool,
    /// Grace of a drain, in seconds.
    pub drain_seconds: u64,
    /// The cluster, if the node belongs to one.
    pub cluster: Option<ClusterConfig>,
    /// User to become.
    pub user: Option<String>,
    /// Run in the background.
    pub daemon: bool,
    /// PID file.
    pub pid_file: Option<PathBuf>,
    /// `-r`.
    pub core_dumps: bool,
    /// `-v`.
    pub verbosity: u32,
}

impl Effective {
    pub(super) fn number(&self, key: &str) -> u64 {
        match self.row(key).1 {
            Value::Number(number) => number,
            _ => unreachable!("{key} is a number"),
        }
    }

    /// A number for which 0 stands for none.
    pub(super) fn nonzero(&self, key: &str) -> Option<u64> {
        Some(self.number(key)).filter(|number| *number != 0)
    }

    pub(super) fn switch(&self, key: &str) -> bool {
        matches!(self.row(key).1, Value::Switch(true))
    }

    pub(super) fn text(&self, key: &str) -> &str {
        match &self.row(key).1 {
            Value::Text(text) => text,
            _ => unreachable!("{key} is a text"),
        }
    }

    /// What the word of a setting means.
    pub(super) fn choice<T: Copy + PartialEq>(&self, key: &str, choices: &Choices<T>) -> T {
        choices.meaning(self.text(key)).expect("the table takes its words from the choices")
    }

    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.text(key)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    pub(super) fn list(&self, key: &str) -> &[String] {
        match &self.row(key).1 {
            Value::List(words) => words,
            _ => unreachable!("{key} is a list"),
        }
    }

    pub(super) fn is_given(&self, key: &str) -> bool {
        self.row(key).2 != Source::Default
    }

    pub(super) fn problem(&self, key: &str, text: String) -> Problem {
        Problem { place: format!("{key} ({})", self.row(key).2), text }
    }
}

impl Config {
    /// Types the values; reports what does not fit together.
    pub fn new(rows: &Effective) -> Result<Config, Vec<Problem>> {
        let mut problems = Vec::new();
        let (tcp, tcp_any) = tcp_addresses(rows, &mut problems);
        let unix_socket = rows.path("listen.unix_socket");
        if unix_socket.is_none() && tcp.is_empty() && problems.is_empty() {
            problems.push(rows.problem(
                "listen.port",
                "TCP is off and there is no --unix-socket: nothing to listen on".into(),
            ));
        }
        let core_ports = rows.nonzero("listen.core_ports");
        if core_ports.is_some() && tcp.is_empty() && unix_socket.is_some() {
            problems.push(rows.problem(
                "listen.core_ports",
                "core ports are TCP ports, and TCP is off; give --listen ADDRESS too".into(),
            ));
        }
        sizes(rows, &mut problems);
        let admin = admin(rows, &mut problems);
        let advertise = advertise(rows, &mut problems);
        let (namespaces, delimiter) = namespaces(rows, &mut problems);
        let sasl_file = rows
            .path("auth.sasl_file")
            .or_else(|| std::env::var_os("MEMCACHED_SASL_PWDB").map(PathBuf::from));
        logins(rows, sasl_file.is_some(), &mut problems);
        let value_bytes_max = rows.number("memory.value_max");
        let cluster = ClusterConfig::new(rows, value_bytes_max, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Config {
            tcp,
            tcp_any,
            unix: unix_socket.map(|path| (path, rows.number("listen.unix_mask") as u32)),
            core_ports: core_ports.map(|port| port as u16),
            memory_bytes: rows.number("memory.limit"),
            value_bytes_max,
            eviction: match rows.switch("memory.no_eviction") {
                true => Eviction::None,
                false => rows.choice("memory.eviction", &choices::EVICTION),
            },
            large_pages: rows.switch("memory.large_pages"),
            lock_memory: rows.switch("memory.lock"),
            hash_seed: rows.nonzero("memory.hash_seed"),
            cores: rows.nonzero("cores.count").map(|count| count as u32),
            connections_max: rows.number("connections.max") as u32,
            connections_asked: rows.is_given("connections.max"),
            auth_file: rows.path("auth.file"),
            sasl: rows.switch("auth.sasl"),
            sasl_file,
            namespaces,
            delimiter,
            admin,
            admin_required: rows.is_given("admin.listen"),
            advertise,
            snapshot: rows.path("snapshot.file"),
            snapshot_stale: rows.choice("snapshot.load", &choices::LOAD_STALE),
            drain_seconds: rows.number("snapshot.drain_seconds"),
            cluster,
            user: Some(rows.text("process.user").to_owned()).filter(|text| !text.is_empty()),
            daemon: rows.switch("process.daemon"),
            pid_file: rows.path("process.pid_file"),
            core_dumps: rows.switch("process.core_dumps"),
            verbosity: rows.number("process.verbosity") as u32,
        })
    }
}

/// Whether values fit the memory and each core's part of it, and buffers the ring.
fn sizes(rows: &Effective, problems: &mut Vec<Problem>) {
    let memory_bytes = rows.number("memory.limit");
    let value_bytes_max = rows.number("memory.value_max");
    let cores = rows.number("cores.count");
    if value_bytes_max > memory_bytes / 2 {
        problems.push(rows.problem(
            "memory.value_max",
            format!(
                "values of {} do not fit: memory.limit must be at least twice as much, and is {}",
                bytes_text(value_bytes_max),
                bytes_text(memory_bytes)
            ),
        ));
    } else if cores != 0 && value_bytes_max > memory_bytes / cores {
        problems.push(rows.problem(
            "memory.value_max",
            format!(
                "values of {} fit no core: each of {cores} has {}; a larger -m, or fewer cores",
                bytes_text(value_bytes_max),
                bytes_text(memory_bytes / cores)
            ),
        ));
    }
    if !rows.number("io.receive_buffers").is_power_of_two() {
        problems.push(rows.problem("io.receive_buffers", "must be a power of two".into()));
    }
}

/// Names and the byte that ends them.
fn namespaces(rows: &Effective, problems: &mut Vec<Problem>) -> (Vec<String>, u8) {
    let names = rows.list("namespace.names").to_vec();
    let delimiter = rows.text("namespace.delimiter").as_bytes()[0];
    for name in names.iter().filter(|name| name.as_bytes().contains(&delimiter)) {
        problems.push(rows.problem("namespace.names", format!("{name:?} contains the delimiter")));
    }
    (names, delimiter)
}

fn admin(rows: &Effective, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
    let text = rows.text("admin.listen");
    if ["off", "none", ""].contains(&text) {
        return None;
    }
    let address = text.parse().ok();
    if address.is_none() {
        problems.push(
            rows.problem("admin.listen", format!("{text:?} is not IP:PORT, [IPv6]:PORT or off")),
        );
    }
    address
}

fn advertise(rows: &Effective, problems: &mut Vec<Problem>) -> Option<Advertise> {
    let text = rows.text("admin.advertise");
    let advertise = Advertise::parse(text);
    if advertise.is_none() && !text.is_empty() {
        problems.push(rows.problem(
            "admin.advertise",
            format!("{text:?} is not HOST, HOST:PORT, [IPV6]:PORT or HOST|IP|PORT"),
        ));
    }
    advertise
}

/// Each way to log in belongs to one protocol: SASL to the binary one, a file of
/// users to the text one. As memcached does, this refuses a `-B` that allows
/// the other, for whoever speaks that would come in without a login; `auto`
/// counts as such only if it was asked for.
fn logins(rows: &Effective, has_sasl_users: bool, problems: &mut Vec<Problem>) {
    let sasl = rows.switch("auth.sasl");
    let file = rows.path("auth.file").is_some();
    let protocol = rows.text("protocol.only");
    let chosen = rows.is_given("protocol.only");
    if sasl && !has_sasl_users {
        problems.push(rows.problem(
            "auth.sasl",
            "needs users: give auth.sasl_file or MEMCACHED_SASL_PWDB".into(),
        ));
    }
    if sasl && chosen && protocol != "binary" {
        problems.push(rows.problem(
            "auth.sasl",
            format!("SASL is of the binary protocol alone, and protocol.only is {protocol}; leave it out or say binary"),
        ));
    }
    if file && chosen && protocol != "ascii" {
        problems.push(rows.problem(
            "auth.file",
            format!("these users log in by the text protocol alone, and protocol.only is {protocol}; leave it out or say ascii"),
        ));
    }
    if sasl && file {
        problems.push(rows.problem(
            "auth.file",
            "is for the text protocol and auth.sasl for the binary one: nobody could log in by both; users of SASL go into auth.sasl_file".into(),
        ));
    }
    if !sasl && rows.path("auth.sasl_file").is_some() {
        problems.push(rows.problem(
            "auth.sasl_file",
            "names users that nobody is asked for; add -S, or leave it out".into(),
        ));
    }
}

/// `-l` and `-p` together, with memcached's rules: an address may carry its own
/// port; a Unix socket turns TCP off unless an address is asked for.
fn tcp_addresses(rows: &Effective, problems: &mut Vec<Problem>) -> (Vec<SocketAddr>, bool) {
    let port = rows.number("listen.port");
    let off = port == 0;
    // Port 0 of an address lets the kernel choose.
    let port = if port == EPHEMERAL_PORT { 0 } else { port as u16 };
    if rows.number("listen.udp_port") != 0 {
        problems.push(rows.problem(
            "listen.udp_port",
            "there is no UDP here; leave it out or say 0, and let clients use TCP".into(),
        ));
    }
    let asked = rows.list("listen.address");
    if asked.is_empty() {
        if off || rows.path("listen.unix_socket").is_some() {
            return (Vec::new(), false);
        }
        return (every_address(port), true);
    }
    let mut addresses = Vec::new();
    for text in asked {
        match address(text, port) {
            Ok(found) => addresses.extend(found),
            Err(why) => problems.push(rows.problem("listen.address", format!("{text:?} {why}"))),
        }
    }
    let any = addresses.iter().all(|address| address.ip().is_unspecified());
    (addresses, any && asked.iter().any(|text| text.starts_with('*')))
}

/// What stands for all interfaces, of both families.
fn every_address(port: u16) -> Vec<SocketAddr> {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    any.map(|ip| SocketAddr::new(ip, port)).to_vec()
}

fn address(text: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    use std::net::ToSocketAddrs;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, digits)) => {
            (host, digits.parse().map_err(|_| format!("has no valid port after {host}:"))?)
        }
        None => (text, port),
    };
    if host == "*" {
        return Ok(every_address(port));
    }
    let found: Vec<_> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("is no address of this machine and cannot be looked up: {error}"))?
        .collect();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::collect;

    fn config(args: &[&str]) -> Result<Config, Vec<Problem>> {
        let found = collect(args.iter().map(std::ffi::OsString::from), [], |_| unreachable!());
        assert_eq!(found.problems, []);
        Config::new(&found.effective)
    }

    #[test]
    fn addresses_follow_memcached() {
        assert_eq!(config(&[]).unwrap().tcp.len(), 2);
        let addresses = config(&["-l", "127.0.0.1:11300,::1", "-p", "11400"]).unwrap().tcp;
        assert_eq!(addresses, ["127.0.0.1:11300".parse().unwrap(), "[::1]:11400".parse().unwrap()]);
        let unix = config(&["-s", "/tmp/x.sock", "-a", "755"]).unwrap();
        assert!(unix.tcp.is_empty());
        assert_eq!(unix.unix, Some(("/tmp/x.sock".into(), 0o755)));
        assert!(config(&["-p", "0"]).is_err());
        let every = ["0.0.0.0:11400".parse().unwrap(), "[::]:11400".parse().unwrap()];
        assert_eq!(config(&["-l", "*", "-p", "11400"]).unwrap().tcp, every);
        assert_eq!(config(&["-l", "*:11400"]).unwrap().tcp, every);
        let free = config(&["-p", "-1", "-l", "127.0.0.1"]).unwrap().tcp;
        assert_eq!(free, ["127.0.0.1:0".parse().unwrap()]);
        assert_eq!(config(&["-p", "-1"]).unwrap().tcp.len(), 2);
    }

    #[test]
    fn every_word_of_every_setting_has_a_meaning() {
        use crate::settings::table::{Kind, SETTINGS};
        for setting in SETTINGS {
            let Kind::Choice(words) = setting.kind else { continue };
            for word in words {
                let clustered = ["--cluster-listen", "127.0.0.1:7000"];
                let flag = format!("--{}", setting.long);
                // A meaning that lacks would panic; some words go with other settings only.
                let _ = config(&[clustered[0], clustered[1], &flag, word]);
            }
        }
    }

    #[test]
    fn udp_is_refused_in_words() {
        assert!(config(&["-U", "0"]).is_ok());
        let problems = config(&["-U", "11211"]).unwrap_err();
        assert_eq!(problems[0].place, "listen.udp_port (-U)");
        assert!(problems[0].text.contains("there is no UDP here"), "{problems:?}");
    }

    #[test]
    fn rows_that_contradict_each_other_are_all_reported() {
        let problems = config(&[
            "-m",
            "8",
            "-I",
            "16m",
            "--receive-buffers",
            "100",
            "--admin-listen",
            "nine",
            "-D",
            "/",
            "--namespaces",
            "a/b",
        ])
        .unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
    }

    /// Where the problems of a command line stand.
    fn places(args: &[&str]) -> Vec<String> {
        match config(args) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.into_iter().map(|problem| problem.place).collect(),
        }
    }

    #[test]
    fn logins_and_protocols_that_exclude_each_other_are_refused() {
        let (sasl, file) = ("auth.sasl (-S)", "auth.file (-Y)");
        let users = "--sasl-file=/users";
        for (args, expected) in [
            (&["-S", users][..], &[][..]),
            (&["-S", users, "-B", "binary"], &[]),
            (&["-S", users, "-B", "ascii"], &[sasl]),
            (&["-S", users, "-B", "auto"], &[sasl]),
            (&["-S"], &[sasl]),
            (&["-S", "-B", "ascii"], &[sasl, sasl]),
            (&["-Y", "/users"], &[]),
            (&["-Y", "/users", "-B", "ascii"], &[]),
            (&["-Y", "/users", "-B", "binary"], &[file]),
            (&["-Y", "/users", "-B", "auto-negotiate"], &[file]),
            (&["-S", users, "-Y", "/users"], &[file]),
            (&["-S", users, "-Y", "/users", "-B", "binary"], &[file, file]),
            (&["-S", users, "-Y", "/users", "-B", "ascii"], &[sasl, file]),
            (&[users], &["auth.sasl_file (--sasl-file)"]),
        ] {
            assert_eq!(places(args), expected, "{args:?}");
        }
    }

    #[test]
    fn values_fit_a_core_and_core_ports_need_tcp() {
        assert_eq!(places(&["-m", "64", "-I", "32m", "-t", "2"]), [""; 0]);
        assert_eq!(places(&["-m", "64", "-I", "32m", "-t", "4"]), ["memory.value_max (-I)"]);
        assert_eq!(places(&["-m", "64", "-I", "33m", "-t", "4"]), ["memory.value_max (-I)"]);
        let unix = ["-s", "/tmp/x", "--core-ports", "7000"];
        assert_eq!(places(&unix), ["listen.core_ports (--core-ports)"]);
        assert_eq!(places(&["-s", "/tmp/x", "--core-ports", "7000", "-l", "::1"]), [""; 0]);
    }
}
