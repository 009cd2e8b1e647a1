//! A keeper whose disk takes nothing more.
//!
//! The disk is full by a limit on the length of files, which holds for a whole
//! process: so the test runs itself once more, under a shell that ignores the
//! signal which would come with it.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster::change::{Command as Change, Outcome};
use cluster::topology::Incarnation;
use coordinator::embedded::{Embedded, EmbeddedOptions};
use coordinator::wire::{Peers, WireSettings};
use coordinator::{Coordinator, CoordinatorError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_full_disk_is_told_and_nothing_is_acknowledged() {
    let own = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-c", r#"trap '' XFSZ; exec "$0" --exact within_limits --ignored --nocapture"#])
        .arg(own)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn limit(file_bytes_max: Option<u64>) {
    let hard = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: file_bytes_max, maximum: hard }).unwrap();
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
#[ignore = "is run by the other test, in a process of its own"]
async fn within_limits() {
    let folder = tempfile::tempdir().unwrap();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = {
        let lines = lines.clone();
        Arc::new(move |line: &str| lines.lock().unwrap().push(line.to_owned()))
    };
    let peers = Peers::new(Arc::new(WireSettings::new("tide", "k0", Incarnation(1), log)));
    let options = EmbeddedOptions::new(folder.path().join("k0"), "k0", "127.0.0.1:1", &[]);
    let keeper = Embedded::start(options, peers).await.unwrap();
    let create = Change::Create { name: "tide".into(), ring_bits: 6, copies: 2, seed: 1 };
    assert!(matches!(keeper.append(create).await, Ok(Outcome::Applied(_))));

    limit(Some(4096));
    let refused = keeper.append(Change::Copies(1)).await;
    assert!(matches!(refused, Err(CoordinatorError::Unknown { .. })), "{refused:?}");
    until("the disk's error", || keeper.health().disk_error.is_some()).await;
    assert!(!keeper.health().leads && !keeper.health().quorum_reachable);
    let refused = keeper.append(Change::Copies(1)).await;
    assert!(matches!(refused, Err(CoordinatorError::Disabled { .. })), "{refused:?}");
    let told = lines.lock().unwrap().iter().any(|line| line.contains("takes no part"));
    assert!(told, "{:#?}", lines.lock().unwrap());

    limit(None);
    until("that it leads again", || keeper.health().leads).await;
    assert_eq!(keeper.health().disk_error, None);
    // The first attempt may have been written before the second copy of it failed.
    let outcome = keeper.append(Change::Copies(3)).await;
    assert!(matches!(outcome, Ok(Outcome::Applied(_))), "{outcome:?}");
    assert_eq!(keeper.watch().borrow().name(), "tide");
    assert_eq!(keeper.watch().borrow().copies_wanted(), 3);
}
