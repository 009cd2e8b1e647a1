//! The binary as an operator meets it: flags, mistakes, banner, admin, signals.

mod common;
use common::{Daemon, Folder, free_port, run, text};
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

#[test]
fn help_version_and_licence_are_printed() {
    for flag in ["-h", "--help"] {
        let help = run(&[flag]);
        assert!(help.status.success());
        assert!(text(&help.stdout).contains("-m, --memory-limit=<size>"));
    }
    assert!(
        text(&run(&["-V"]).stdout).starts_with(concat!("seawalld ", env!("CARGO_PKG_VERSION")))
    );
    assert!(text(&run(&["-i"]).stdout).contains("Apache License"));
    assert!(text(&run(&["--man-page"]).stdout).starts_with(".TH SEAWALLD"));
}

#[test]
fn all_mistakes_are_named_at_once() {
    let folder = Folder::new("mistakes");
    let file = folder.path("seawall.toml");
    std::fs::write(&file, "[memory]\nlimt = 64\neviction = 'lrru'\n").unwrap();
    let out = run(&["--config", file.to_str().unwrap(), "--prot=1", "-t", "many", "-Z"]);
    assert_eq!(out.status.code(), Some(64));
    let log = text(&out.stderr);
    for part in [
        "5 mistakes in the configuration",
        "seawall.toml:2:1: unknown setting memory.limt; did you mean memory.limit?",
        "seawall.toml:3:1: \"lrru\" is not one of clock-pro, lru, lfu, s3-fifo; did you mean lru?",
        "--prot: unknown option; did you mean --port?",
        "-t: \"many\" is not a whole number from 0 to 256",
        "-Z: is not supported",
    ] {
        assert!(log.contains(part), "{part}\nis not in\n{log}");
    }
}

#[test]
fn check_config_prints_every_value_and_its_source() {
    let out = run(&["--check-config", "-m", "128"]);
    assert!(out.status.success());
    let table = text(&out.stdout);
    assert!(
        table.lines().any(|line| line.contains("memory.limit")
            && line.contains("128m")
            && line.contains("-m")),
        "{table}"
    );
    assert!(
        table.lines().any(|line| line.contains("listen.port") && line.contains("default")),
        "{table}"
    );
}

#[test]
fn the_banner_tells_what_runs() {
    let daemon = Daemon::start(&["-m", "100"]);
    let log = daemon.log();
    for part in [env!("CARGO_PKG_VERSION"), "2 cores", "100 MiB", "clock-pro", "ready"] {
        assert!(log.contains(part), "{part}\nis not in\n{log}");
    }
    assert!(log.contains(&format!("127.0.0.1:{}", daemon.port)), "{log}");
    assert!(log.contains("io_uring") || log.contains("epoll"), "{log}");
    daemon.stop();
}

#[test]
fn a_free_port_is_taken_and_written_down() {
    let folder = Folder::new("free-port");
    let file = folder.path("port");
    let mut child = Command::new(env!("CARGO_BIN_EXE_seawalld"))
        .args(["-l", "127.0.0.1", "-p", "-1", "-t", "1", "--admin-listen", "off"])
        .env("MEMCACHED_PORT_FILENAME", &file)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = std::time::Instant::now();
    while !file.exists() {
        assert!(began.elapsed().as_secs() < 60);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let written = std::fs::read_to_string(&file).unwrap();
    let port = written.strip_prefix("TCP INET: ").unwrap().trim_end();
    let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    use std::io::{BufRead, Write};
    stream.write_all(b"stats settings\r\n").unwrap();
    let shown = BufReader::new(stream)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("STAT tcpport ").map(str::to_owned));
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(shown.as_deref(), Some(port));
}

#[test]
fn too_few_huge_pages_are_a_warning() {
    // No machine that runs tests has so many of them set aside.
    let daemon = Daemon::start(&["-L", "-m", "65536"]);
    let log = daemon.log();
    assert!(log.contains("WARNING: -L asks for explicit huge pages"), "{log}");
    assert!(log.contains("sysctl vm.nr_hugepages=32768"), "{log}");
    daemon.stop();
}

#[test]
fn a_taken_port_is_explained() {
    let daemon = Daemon::start(&[]);
    let port = daemon.port.to_string();
    let out = run(&["-l", "127.0.0.1", "-p", &port, "--admin-listen", "off"]);
    assert_eq!(out.status.code(), Some(1));
    let log = text(&out.stderr);
    assert!(
        log.contains(&format!("cannot listen on 127.0.0.1:{port}: address already in use")),
        "{log}"
    );
    daemon.stop();
}

#[test]
fn a_taken_default_admin_port_does_not_stop_the_cache() {
    // Two nodes of one machine, both with the default admin address: at most one has it.
    let start = || {
        let port = free_port();
        let child = Command::new(env!("CARGO_BIN_EXE_seawalld"))
            .args(["-l", "127.0.0.1", "-p", &port.to_string(), "-t", "1"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        (child, port)
    };
    let mut both = [start(), start()];
    for (_, port) in &both {
        let began = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", *port)).is_err() {
            assert!(began.elapsed().as_secs() < 30);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    for (child, _) in &mut both {
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[test]
fn the_admin_api_answers() {
    let daemon = Daemon::start(&["--namespaces", "user,session"]);
    let mut client = daemon.connect();
    client.set("user:1", 0, 0, b"x");
    client.set("key", 0, 0, b"x");
    assert!(client.get("key").is_some());

    let (status, metrics) = daemon.http("GET", "/metrics");
    assert_eq!(status, 200);
    for line in [
        "memcached_up 1",
        "memcached_commands_total{command=\"get\",status=\"hit\"} 1",
        "memcached_current_items 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\nis not in\n{metrics}");
    }
    for core in ["0", "1"] {
        assert!(metrics.contains(&format!("seawall_core_items{{core=\"{core}\"}}")), "{metrics}");
    }
    assert_eq!(daemon.http("GET", "/livez"), (200, "ok\n".into()));
    assert_eq!(daemon.http("GET", "/readyz").0, 200);
    let (_, config) = daemon.http("GET", "/config");
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let port = config.as_array().unwrap().iter().find(|row| row["key"] == "listen.port").unwrap();
    assert_eq!((&port["value"], &port["source"]), (&daemon.port.to_string().into(), &"-p".into()));
    let (status, hot) = daemon.http("GET", "/hot");
    assert_eq!(status, 200, "{hot}");
    let (_, cores) = daemon.http("GET", "/cores");
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&cores).unwrap().as_array().unwrap().len(),
        2
    );
    assert!(daemon.http("GET", "/topology").1.contains(&daemon.port.to_string()));

    assert_eq!(daemon.http("POST", "/invalidate").0, 400);
    assert_eq!(daemon.http("POST", "/invalidate?ns=stranger").0, 404);
    assert_eq!(daemon.http("POST", "/invalidate?ns=user").0, 200);
    assert_eq!((client.get("user:1"), client.get("key").is_some()), (None, true));
    assert_eq!(daemon.http("GET", "/flush").0, 405);
    assert_eq!(daemon.http("POST", "/flush").0, 200);
    assert_eq!(client.get("key"), None);
    let (status, pages) = daemon.http("GET", "/nowhere");
    assert_eq!(status, 404);
    assert!(pages.contains("GET /ring") && pages.contains("POST /drain?node=NAME"), "{pages}");
    assert_eq!(daemon.http("POST", "/snapshot").0, 409, "no file is configured");
    daemon.stop();
}

#[test]
fn a_unix_socket_replaces_tcp_and_has_its_mode() {
    let folder = Folder::new("unix");
    let socket = folder.path("socket");
    let mut child = Command::new(env!("CARGO_BIN_EXE_seawalld"))
        .args(["-s", socket.to_str().unwrap(), "-a", "600", "--admin-listen", "off", "-t", "1"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = std::time::Instant::now();
    let stream = loop {
        match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(_) if began.elapsed().as_secs() < 30 => {
                std::thread::sleep(std::time::Duration::from_millis(20))
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = common::Client(BufReader::new(stream));
    client.set("key", 3, 0, b"over a file");
    assert_eq!(client.get("key"), Some((b"over a file".to_vec(), 3)));
    Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!socket.exists(), "the socket is removed");
}

#[test]
fn the_background_start_reports_success_and_failure() {
    let folder = Folder::new("background");
    let pid_file = folder.path("pid");
    let port = free_port().to_string();
    let args = [
        "-d",
        "-l",
        "127.0.0.1",
        "-p",
        &port,
        "-P",
        pid_file.to_str().unwrap(),
        "--admin-listen",
        "off",
        "-t",
        "1",
    ];
    let out = run(&args);
    assert!(out.status.success(), "{}", text(&out.stderr));
    // It serves by the time that the command returned.
    let stream = std::net::TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
    let mut client = common::Client(BufReader::new(stream));
    client.set("key", 0, 0, b"x");
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let again = run(&args);
    assert_eq!(again.status.code(), Some(1), "the port is taken");
    Command::new("kill").args(["-s", "TERM", pid.trim()]).status().unwrap();
    let began = std::time::Instant::now();
    while pid_file.exists() {
        assert!(began.elapsed().as_secs() < 30, "it does not end");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn users_are_read_again_on_sighup() {
    let folder = Folder::new("users");
    let file = folder.path("users");
    std::fs::write(&file, "ann:one\n").unwrap();
    let daemon = Daemon::start(&["-Y", file.to_str().unwrap()]);
    let login = |user: &str| {
        let mut client = daemon.connect();
        let answer = client.ask(&format!("set auth 0 0 {}\r\n{user}", user.len()));
        (client, answer)
    };
    assert_eq!(login("ann one").1, "STORED");
    assert!(login("bob two").1.starts_with("CLIENT_ERROR"));
    std::fs::write(&file, "bob:two\n").unwrap();
    daemon.signal("HUP");
    daemon.wait_for("users read again");
    let (mut client, answer) = login("bob two");
    assert_eq!(answer, "STORED");
    client.set("key", 0, 0, b"x");
    assert!(login("ann one").1.starts_with("CLIENT_ERROR"));
    // A broken file keeps the users that are known.
    std::fs::write(&file, "no colon here\n").unwrap();
    daemon.signal("HUP");
    daemon.wait_for("keeping the users");
    assert_eq!(login("bob two").1, "STORED");
    daemon.stop();
}

#[test]
fn shutdown_by_a_client_ends_the_process() {
    let daemon = Daemon::start(&["-A"]);
    daemon.connect().send(b"shutdown\r\n");
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn sigterm_answers_what_was_asked_before() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.connect();
    client.set("key", 0, 0, b"value");
    let mut pipeline = Vec::new();
    for _ in 0..1_000 {
        pipeline.extend_from_slice(b"get key\r\n");
    }
    client.send(&pipeline);
    daemon.signal("TERM");
    for _ in 0..1_000 {
        assert_eq!(client.line(), "VALUE key 0 5");
        assert_eq!((client.line(), client.line()), ("value".into(), "END".into()));
    }
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(0), "{log}");
}

/// Root, who alone can become others.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// Of the user `nobody`, whose number is the same everywhere.
const NOBODY: u32 = 65_534;

#[test]
fn a_unix_socket_belongs_to_the_user_that_the_node_becomes() {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    if !is_root() {
        return eprintln!("skipped: only root can become another user");
    }
    let folder = Folder::new("owner");
    std::fs::set_permissions(folder.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let socket = folder.path("socket");
    let daemon = Daemon::start(&["-u", "nobody", "-s", socket.to_str().unwrap(), "-a", "770"]);
    let found = std::fs::metadata(&socket).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (NOBODY, 0o770));
    let tried = Command::new("python3")
        .args(["-c", "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"])
        .arg(&socket)
        .uid(NOBODY)
        .gid(found.gid())
        .output();
    match tried {
        Ok(tried) => assert!(tried.status.success(), "{}", text(&tried.stderr)),
        Err(error) => eprintln!("nobody did not try to connect: {error}"),
    }
    daemon.stop();
}

#[test]
fn with_few_open_files_it_serves_fewer_clients() {
    use std::os::unix::process::CommandExt;
    // A place where everybody may run it, under another user who may not raise limits.
    let folder = Folder::new("files");
    std::fs::set_permissions(folder.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let binary = folder.path("seawalld");
    std::fs::copy(env!("CARGO_BIN_EXE_seawalld"), &binary).unwrap();
    let start = |files: u32, extra: &str| {
        let port = free_port();
        let script = format!(
            "ulimit -n {files} && exec {} -l 127.0.0.1 -p {port} --admin-listen off -t 1 {extra}",
            binary.display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::null()).stderr(Stdio::piped());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        (command.spawn().unwrap(), port)
    };
    let (mut child, port) = start(1024, "");
    let mut log = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    while !log.contains("ready\n") {
        assert_ne!(std::io::BufRead::read_line(&mut lines, &mut log).unwrap(), 0, "{log}");
    }
    assert!(log.contains("at most 768 clients at a time instead of 1024"), "{log}");
    let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut client = common::Client(BufReader::new(stream));
    client.send(b"stats settings\r\n");
    let mut line = client.line();
    while !line.starts_with("STAT maxconns ") {
        line = client.line();
    }
    assert_eq!(line, "STAT maxconns 768");
    child.kill().unwrap();
    child.wait().unwrap();
    // A number that was asked for and cannot be had is a mistake.
    let (child, _) = start(1024, "-c 5000");
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("this needs 5256, the limit is 1024"));
}

#[test]
fn a_killed_node_is_replaced_at_once() {
    let folder = Folder::new("at-once");
    let socket = folder.path("socket");
    let (port, admin) = (free_port().to_string(), free_port().to_string());
    let admin = format!("127.0.0.1:{admin}");
    let args = [
        "-l",
        "127.0.0.1",
        "-p",
        &port,
        "-t",
        "2",
        "--admin-listen",
        &admin,
        "-s",
        socket.to_str().unwrap(),
    ];
    let mut before: Option<std::process::Child> = None;
    for round in 0..8 {
        if let Some(before) = &mut before {
            before.kill().unwrap();
        }
        // The one before may not even have ended.
        let mut child = Command::new(env!("CARGO_BIN_EXE_seawalld"))
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        while !log.contains("ready\n") {
            let read = std::io::BufRead::read_line(&mut lines, &mut log).unwrap();
            assert_ne!(read, 0, "round {round}: {log}");
        }
        assert!(log.contains("admin API on"), "{log}");
        // Sockets that its ring holds are what stays a little longer.
        let streams: Vec<_> = (0..20)
            .map(|_| std::net::TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap())
            .collect();
        drop(streams);
        std::os::unix::net::UnixStream::connect(&socket).unwrap();
        if let Some(mut before) = before.replace(child) {
            before.wait().unwrap();
        }
    }
    let mut last = before.unwrap();
    last.kill().unwrap();
    last.wait().unwrap();
}

#[test]
fn variables_of_a_kubernetes_service_do_not_keep_it_from_starting() {
    let out = Command::new(env!("CARGO_BIN_EXE_seawalld"))
        .arg("--check-config")
        .env("SEAWALL_PORT", "tcp://10.0.0.7:11211")
        .env("SEAWALL_SERVICE_HOST", "10.0.0.7")
        .env("SEAWALL_LISTEN_PORT", "tcp://10.0.0.8:11211")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("listen.port                      11211 "));
}
