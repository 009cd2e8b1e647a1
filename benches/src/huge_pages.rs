//! Huge pages for the heap.
//!
//! The engine's arena asks for transparent huge pages. Peers live in the heap,
//! and at millions of items ordinary pages would cost them a TLB miss for every
//! access: a comparison of page sizes. mimalloc asks for huge pages too if an
//! environment variable says so when the process starts.

use std::os::unix::process::CommandExt;
use std::process::Command;

const VARIABLE: &str = "MIMALLOC_ALLOW_LARGE_OS_PAGES";

/// Starts this program anew with huge pages in its heap, unless it has them or
/// the variable is set to something else.
pub fn ensure() {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let error = Command::new(program).args(std::env::args_os().skip(1)).env(VARIABLE, "1").exec();
    eprintln!("the heap stays on ordinary pages: {error}");
}
