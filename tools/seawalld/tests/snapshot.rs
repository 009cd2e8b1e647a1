//! Warm restart, with the real binary: what comes back, what must not, files that are
//! no snapshots, and disks that are full.

mod common;
use common::{Daemon, Folder, run_until_exit};
use std::process::Command;

fn value(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + seed * 7 + at / 251) as u8).collect()
}

#[test]
fn a_restart_keeps_every_item_with_all_its_state() {
    let folder = Folder::new("restart");
    let file = folder.path("cache.snapshot");
    let args =
        ["-m", "256", "-I", "8m", "--namespaces", "user", "--snapshot", file.to_str().unwrap()];

    let daemon = Daemon::start(&args);
    let mut client = daemon.connect();
    for number in 0..5_000 {
        client.set(&format!("small{number}"), number as u32, 0, &value(number, number % 300));
    }
    let lengths = [16_000, 20_000, 1 << 20, (8 << 20) - 1000];
    for (number, length) in lengths.into_iter().enumerate() {
        client.set(&format!("long{number}"), 9, 0, &value(number, length));
    }
    client.set("ttl", 0, 1_000, b"x");
    client.set("brief", 0, 1, b"x");
    client.set("gone", 0, 0, b"x");
    assert_eq!(client.ask("delete gone"), "DELETED");
    assert_eq!(client.ask("ms tagged 3 G(red,blue)\r\nabc"), "HD");
    assert_eq!(client.ask("ms kept 3 G(green)\r\nabc"), "HD");
    client.set("user:1", 0, 0, b"x");
    let answer = client.ask("invalidate tag blue");
    assert!(answer.starts_with("INVALIDATED"), "{answer}");
    let answer = client.ask("invalidate ns user");
    assert!(answer.starts_with("INVALIDATED"), "{answer}");
    client.set("user:2", 0, 0, b"x");
    let cas = client.ask("mg small7 c");
    assert_eq!(client.ask("md small8 I T500"), "HD");
    let log = daemon.stop();
    assert!(log.contains("snapshot written"), "{log}");
    std::thread::sleep(std::time::Duration::from_millis(1_100));

    let daemon = Daemon::start(&args);
    assert!(daemon.log().contains("snapshot loaded"), "{}", daemon.log());
    let mut client = daemon.connect();
    assert_eq!(client.ask("mg small7 c"), cas, "the CAS is kept");
    assert_eq!(client.ask("mg small8 v"), "VA 8 X W", "the stale mark is kept");
    client.skip_line();
    for number in (0..5_000).filter(|number| *number != 8) {
        let (found, flags) = client
            .get(&format!("small{number}"))
            .unwrap_or_else(|| panic!("small{number} is lost"));
        assert_eq!(flags, number as u32);
        assert!(found == value(number, number % 300), "small{number}");
    }
    for (number, length) in lengths.into_iter().enumerate() {
        let (found, flags) =
            client.get(&format!("long{number}")).unwrap_or_else(|| panic!("long{number} is lost"));
        assert!(flags == 9 && found == value(number, length), "long{number}");
    }
    let ttl: u32 = client.ask("mg ttl t").strip_prefix("HD t").unwrap().parse().unwrap();
    assert!((900..=1_000).contains(&ttl), "{ttl}");
    for key in ["brief", "gone", "tagged", "user:1"] {
        assert_eq!(client.get(key), None, "{key} must not come back");
    }
    assert!(client.get("kept").is_some() && client.get("user:2").is_some());
    // The tag came along: it can still be invalidated.
    client.ask("invalidate tag green");
    assert_eq!(client.get("kept"), None);
    daemon.stop();
}

#[test]
fn another_number_of_cores_loads_the_same_file() {
    let folder = Folder::new("cores");
    let file = folder.path("cache.snapshot");
    let file = file.to_str().unwrap();
    let daemon = Daemon::start(&["--snapshot", file]);
    let mut client = daemon.connect();
    for number in 0..1_000 {
        client.set(&format!("key{number}"), 0, 0, &value(number, 50));
    }
    daemon.stop();
    let daemon = Daemon::start(&["--snapshot", file, "-t", "1"]);
    let mut client = daemon.connect();
    for number in 0..1_000 {
        assert!(client.get(&format!("key{number}")).is_some(), "key{number}");
    }
    daemon.stop();
}

#[test]
fn torn_and_damaged_files_are_refused_and_the_node_starts_empty() {
    let folder = Folder::new("torn");
    let file = folder.path("cache.snapshot");
    let args = ["--snapshot", file.to_str().unwrap()];
    let daemon = Daemon::start(&args);
    let mut client = daemon.connect();
    for number in 0..2_000 {
        client.set(&format!("key{number}"), 0, 0, &value(number, 100));
    }
    daemon.stop();
    let good = std::fs::read(&file).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for (bytes, reason) in [
        (&good[..good.len() - 10], "torn"),
        (&good[..10], "torn"),
        (&b""[..], "not a Seawall snapshot"),
        (&flipped[..], "wrong checksum"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let daemon = Daemon::start(&args);
        let log = daemon.log();
        assert!(log.contains(reason) && log.contains("starting empty"), "{reason}: {log}");
        let mut client = daemon.connect();
        for number in [0, 999, 1_999] {
            assert_eq!(client.get(&format!("key{number}")), None);
        }
        client.set("new", 0, 0, b"works");
        daemon.signal("KILL");
        daemon.wait();
    }
}

#[test]
fn a_snapshot_on_demand_is_written_while_clients_are_served() {
    let folder = Folder::new("demand");
    let file = folder.path("cache.snapshot");
    let daemon = Daemon::start(&["-m", "128", "--snapshot", file.to_str().unwrap()]);
    let mut client = daemon.connect();
    for number in 0..20_000 {
        client.set(&format!("key{number}"), 0, 0, &value(number, 1_000));
    }
    let (status, body) = daemon.http("POST", "/snapshot");
    assert_eq!(status, 202, "{body}");
    let mut served = 0;
    loop {
        let (_, body) = daemon.http("GET", "/snapshot");
        if body.contains("\"done\"") {
            break;
        }
        assert!(!body.contains("\"failed\""), "{body}");
        assert!(client.get("key1").is_some());
        served += 1;
    }
    let _ = served;
    // What clients did since is not in it: it is loaded only for who wants that.
    client.set("key1", 0, 0, b"newer");
    daemon.kill();
    let file = file.to_str().unwrap();
    let daemon = Daemon::start(&["-m", "128", "--snapshot", file]);
    let log = daemon.log();
    assert!(log.contains("taken while the node served") && log.contains("starting empty"), "{log}");
    assert_eq!(daemon.connect().get("key1"), None);
    daemon.kill();
    let daemon = Daemon::start(&["-m", "128", "--snapshot", file, "--snapshot-load", "any"]);
    let mut client = daemon.connect();
    for number in 0..20_000 {
        assert!(client.get(&format!("key{number}")).is_some(), "key{number}");
    }
    daemon.stop();
}

#[test]
fn after_a_crash_nothing_old_comes_back() {
    let folder = Folder::new("crash");
    let file = folder.path("cache.snapshot");
    let args = ["--namespaces", "user", "--snapshot", file.to_str().unwrap()];
    let keys = ["overwritten", "deleted", "tagged", "user:1", "flushed"];
    let daemon = Daemon::start(&args);
    let mut client = daemon.connect();
    for key in keys {
        assert_eq!(client.ask(&format!("ms {key} 3 G(red)\r\nold")), "HD");
    }
    daemon.stop();

    let daemon = Daemon::start(&args);
    assert!(daemon.log().contains("snapshot loaded: 5 items"), "{}", daemon.log());
    let mut client = daemon.connect();
    for key in keys {
        assert_eq!(client.get(key), Some((b"old".to_vec(), 0)), "{key}");
    }
    client.set("overwritten", 0, 0, b"new");
    assert_eq!(client.ask("delete deleted"), "DELETED");
    assert!(client.ask("invalidate tag red").starts_with("INVALIDATED"));
    assert!(client.ask("invalidate ns user").starts_with("INVALIDATED"));
    assert_eq!(client.ask("flush_all"), "OK");
    daemon.kill();

    // However often it is started: the file is used up.
    for _ in 0..2 {
        let daemon = Daemon::start(&args);
        let log = daemon.log();
        assert!(log.contains("started from it already") && log.contains("starting empty"), "{log}");
        assert!(log.contains("--snapshot-load any"), "{log}");
        let mut client = daemon.connect();
        for key in keys {
            assert_eq!(client.get(key), None, "{key}");
        }
        daemon.kill();
    }

    // Who wants old items all the same gets them.
    let mut any = args.to_vec();
    any.extend(["--snapshot-load", "any"]);
    let daemon = Daemon::start(&any);
    assert_eq!(daemon.connect().get("overwritten"), Some((b"old".to_vec(), 0)));
    // A clean end makes a snapshot that anybody may load, once.
    daemon.stop();
    let daemon = Daemon::start(&args);
    assert_eq!(daemon.connect().get("overwritten"), Some((b"old".to_vec(), 0)));
    daemon.kill();
    let daemon = Daemon::start(&args);
    assert_eq!(daemon.connect().get("overwritten"), None);
    daemon.stop();
}

#[test]
fn a_node_that_could_not_load_a_snapshot_does_not_load_it_later() {
    let folder = Folder::new("later");
    let file = folder.path("cache.snapshot");
    let args = ["--snapshot", file.to_str().unwrap()];
    let daemon = Daemon::start(&args);
    daemon.connect().set("key", 0, 0, b"old");
    daemon.stop();
    // The end is damaged, and repaired behind the node's back.
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, [&good[..good.len() - 1], b"?"].concat()).unwrap();
    let daemon = Daemon::start(&args);
    assert!(daemon.log().contains("starting empty"), "{}", daemon.log());
    daemon.connect().set("key", 0, 0, b"new");
    daemon.kill();
    let mut mended = std::fs::read(&file).unwrap();
    let last = mended.len() - 1;
    mended[last] = good[last];
    std::fs::write(&file, mended).unwrap();
    let daemon = Daemon::start(&args);
    assert_eq!(daemon.connect().get("key"), None);
    daemon.stop();
}

#[test]
fn a_client_that_stays_cannot_write_behind_the_snapshot() {
    let folder = Folder::new("stays");
    let file = folder.path("cache.snapshot");
    let args = ["--snapshot", file.to_str().unwrap(), "--drain-seconds", "1"];
    let daemon = Daemon::start(&args);
    let mut client = daemon.connect();
    for number in 0..2_000 {
        client.set(&format!("key{number}"), 0, 0, b"old");
    }
    // A request that is never finished, on as many connections as there are cores.
    let mut halves: Vec<_> = (0..8).map(|_| daemon.connect()).collect();
    for half in &mut halves {
        half.send(b"set key1 0 0 1000\r\nhalf");
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    let log = daemon.stop();
    assert!(log.contains("8 connections were still open"), "{log}");
    for half in &mut halves {
        assert_eq!(half.line(), "", "nothing was acknowledged");
    }
    let daemon = Daemon::start(&args);
    let mut client = daemon.connect();
    assert_eq!(client.get("key1"), Some((b"old".to_vec(), 0)), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn a_path_that_is_no_place_for_snapshots_is_refused_at_start() {
    let folder = Folder::new("place");
    let foreign = folder.path("seawall.toml");
    std::fs::write(&foreign, "[memory]\nlimit = 64\n").unwrap();
    let folder_itself = folder.path("");
    for (path, why) in [
        ("/proc/no/such/place", "cannot open /proc/no/such/place.lock"),
        ("/dev/null", "not a regular file"),
        (folder_itself.to_str().unwrap(), "not a regular file"),
        (foreign.to_str().unwrap(), "not a Seawall snapshot, and would be overwritten"),
    ] {
        let (code, log) = run_until_exit(&["--snapshot", path]);
        assert_eq!(code, Some(1), "{path}: {log}");
        let begin = format!("cannot keep snapshots in {path}");
        assert!(log.contains(&begin) && log.contains(why), "{path}: {log}");
    }
    assert_eq!(std::fs::read(&foreign).unwrap(), b"[memory]\nlimit = 64\n");
    // What comes to lie there later is not overwritten either.
    let path = folder.path("cache.snapshot");
    let daemon = Daemon::start(&["--snapshot", path.to_str().unwrap()]);
    // Two processes would throw away each other's snapshots.
    let (code, log) = run_until_exit(&["--snapshot", path.to_str().unwrap()]);
    assert!(code == Some(1) && log.contains("another process uses it"), "{log}");
    std::fs::write(&path, "a letter").unwrap();
    daemon.signal("TERM");
    let (code, log) = daemon.wait();
    assert!(code == Some(1) && log.contains("would be overwritten"), "{log}");
    assert_eq!(std::fs::read(&path).unwrap(), b"a letter");
}

/// A small disk, gone with the value.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// None where this user may not mount one.
    fn mount(path: std::path::PathBuf) -> Option<SmallDisk> {
        std::fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&path);
        mount.status().is_ok_and(|status| status.success()).then_some(SmallDisk(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_costs_one_snapshot_and_not_the_next() {
    let folder = Folder::new("full");
    let Some(disk) = SmallDisk::mount(folder.path("disk")) else {
        return eprintln!("skipped: a small disk cannot be mounted here");
    };
    let file = disk.0.join("cache.snapshot");
    let daemon = Daemon::start(&["--snapshot", file.to_str().unwrap()]);
    let mut client = daemon.connect();
    let snapshot = || {
        assert_eq!(daemon.http("POST", "/snapshot").0, 202);
        loop {
            let (_, body) = daemon.http("GET", "/snapshot");
            let report: serde_json::Value = serde_json::from_str(&body).unwrap();
            if report["state"] != "saving" {
                return report;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    };
    client.set("small", 0, 0, b"x");
    assert_eq!(snapshot()["state"], "done");
    let small = std::fs::read(&file).unwrap();
    for round in 0..12 {
        for number in 0..6 + round {
            client.set(&format!("large{number}"), 0, 0, &value(number, 500_000 + round * 7_777));
        }
        let report = snapshot();
        assert_eq!(report["state"], "failed", "{report}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains("No space left on device"), "{error}");
        assert!(std::fs::read(&file).unwrap() == small, "the old file is as it was");
        assert!(!disk.0.join("cache.snapshot.tmp").exists());
    }
    assert_eq!(client.ask("flush_all"), "OK");
    client.set("small", 0, 0, b"y");
    assert_eq!(snapshot()["state"], "done");
    // The same at the end of the process: it says so, and the old file stays.
    let small = std::fs::read(&file).unwrap();
    for number in 0..10 {
        client.set(&format!("large{number}"), 0, 0, &value(number, 500_000));
    }
    daemon.signal("TERM");
    let (code, log) = daemon.wait();
    assert_eq!(code, Some(1), "{log}");
    let said = format!("cannot write the snapshot {}", file.canonicalize().unwrap().display());
    assert!(log.contains(&said) && log.contains("No space left"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert!(std::fs::read(&file).unwrap() == small);
}
