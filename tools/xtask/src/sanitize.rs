//! What only a nightly toolchain finds: AddressSanitizer over whatever runs,
//! and Miri over the unsafe code that it can interpret.
//!
//! Both build into folders of their own, so that ordinary builds stay as they
//! are.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::report::Done;
use crate::{paths, process};

/// The crates that hold the house's unsafe code.
const PACKAGES: &[&str] = &["-p", "seawall-engine", "-p", "seawall-net"];
/// A named target keeps the sanitizer out of build scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const PATIENCE: Duration = Duration::from_secs(3_600);

/// What Miri runs: a package, and filters on the names of its unit tests. All
/// of the engine's unsafe code is memory; of net's, Miri knows no io_uring and
/// no epoll, so only the modules without system calls are there.
const MIRI: &[(&str, &[&str])] = &[
    (
        "seawall-engine",
        &["slab::", "item::", "index::", "pins::", "chain::", "expiry::", "sizes::"],
    ),
    ("seawall-net", &["proto::", "hop::", "watch::", "conn::", "detail::", "lend::"]),
];
/// Some tests read the clock or a file, which Miri refuses otherwise.
const MIRI_FLAGS: &str = "-Zmiri-disable-isolation";

/// Whether this machine has what [`addresses`] needs.
pub fn has_nightly() -> bool {
    succeeds(nightly().arg("--version"))
}

/// Whether this machine has what [`miri`] needs.
pub fn has_miri() -> bool {
    succeeds(nightly().args(["miri", "--version"]))
}

/// The unit and integration tests of engine and net under AddressSanitizer,
/// leaks included.
pub fn addresses() -> Result<Done> {
    need_nightly()?;
    let mut command = nightly();
    command.args(["test", "--target", TARGET]).args(PACKAGES);
    command.env("RUSTFLAGS", "-Zsanitizer=address");
    // Freed memory is kept to see it used again; a little of it, for some tests
    // bound what is resident.
    command.env("ASAN_OPTIONS", "quarantine_size_mb=4");
    command.env("CARGO_TARGET_DIR", paths::target().join("sanitize"));
    process::run(&mut command, PATIENCE)?;
    Ok(Done::new(1, "AddressSanitizer and LeakSanitizer over engine and net"))
}

/// Unit tests under Miri.
pub fn miri() -> Result<Done> {
    need_nightly()?;
    if !has_miri() {
        bail!(
            "Miri is not installed for the nightly toolchain\n  \
             to install it:  rustup +nightly component add miri"
        );
    }
    for (package, filters) in MIRI {
        let mut command = nightly();
        command.args(["miri", "test", "-p", package, "--lib", "--"]).args(*filters);
        command.env("MIRIFLAGS", MIRI_FLAGS);
        command.env("CARGO_TARGET_DIR", paths::target().join("miri"));
        process::run(&mut command, PATIENCE)?;
    }
    Ok(Done::new(MIRI.len() as u64, "unit tests of engine and net, interpreted"))
}

fn need_nightly() -> Result<()> {
    if has_nightly() {
        return Ok(());
    }
    bail!(
        "no nightly toolchain is installed, and only it has sanitizers and Miri\n  \
         to install it:  rustup toolchain install nightly"
    )
}

/// Cargo of the nightly toolchain, through rustup's proxy: the cargo that runs
/// us knows no toolchains.
fn nightly() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(paths::root()).arg("+nightly");
    // What the running cargo has set for us would name its own compiler.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
