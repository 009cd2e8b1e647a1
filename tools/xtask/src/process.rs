//! Child processes that never outlive us, and the only `unsafe` of xtask.
//!
//! Every child asks the kernel to be killed when the thread that started it
//! ends, so neither a panic nor Ctrl-C leaves a server behind. That is why
//! children are started from the main thread, or from one that joins them.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Makes the child die with us.
pub fn bind_to_parent(command: &mut Command) -> &mut Command {
    // SAFETY: prctl with PR_SET_PDEATHSIG only writes a field of the calling
    // process, allocates nothing, and so may run between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        })
    }
}

/// Sends a signal; a process that is already gone is no error.
pub fn signal(pid: u32, number: i32) {
    // SAFETY: kill touches no memory of ours; the pid is that of a child we
    // have not yet waited for, so it can't belong to anybody else.
    unsafe { libc::kill(pid as i32, number) };
}

/// Moves the calling thread, and what it starts from now on, into a network of
/// its own: nothing but a loopback that is down. It vanishes with the last of them.
pub fn leave_network() -> io::Result<()> {
    // SAFETY: unshare with CLONE_NEWNET changes which network this thread's
    // later system calls see, and touches no memory of ours.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Moves the calling thread into the network of another process.
pub fn enter_network(pid: u32) -> io::Result<()> {
    let network = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
    // SAFETY: setns changes which network this thread's later system calls see;
    // the descriptor is open for as long as the call lasts.
    match unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The clock that every process of this machine shares.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, which outlives the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    assert_eq!(failed, 0, "every Linux has this clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Waits for the child until `deadline`; `None` when it still runs then.
pub fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs to the end with our own output, or kills the whole tree at the timeout.
pub fn run(command: &mut Command, timeout: Duration) -> Result<()> {
    let name = describe(command);
    let mut child = bind_to_parent(command.stdin(Stdio::null()))
        .spawn()
        .with_context(|| format!("cannot start `{name}`"))?;
    match wait_until(&mut child, Instant::now() + timeout)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("`{name}` ended with {status}"),
        None => {
            kill_tree(child.id());
            child.wait()?;
            bail!("`{name}` did not end within {} s", timeout.as_secs())
        }
    }
}

/// Like [`run`], but gathers standard output and error into one text.
/// The flag says whether the command succeeded in time.
pub fn capture(command: &mut Command, timeout: Duration) -> Result<(bool, String)> {
    let name = describe(command);
    let folder = crate::paths::target().join("xtask");
    std::fs::create_dir_all(&folder)?;
    let path =
        folder.join(format!("capture-{}-{:?}.log", std::process::id(), thread::current().id()));
    let file = std::fs::File::create(&path)?;
    command.stdout(file.try_clone()?).stderr(file);
    let outcome = run(command, timeout);
    let mut text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
    let _ = std::fs::remove_file(&path);
    if let Err(error) = &outcome {
        text.push_str(&format!("\n[{name}: {error:#}]\n"));
    }
    Ok((outcome.is_ok(), text))
}

/// The command as a person would type it.
pub fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether a program of this name is on the PATH.
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Kills a process and its descendants, children first found first.
pub fn kill_tree(root: u32) {
    let mut doomed = vec![root];
    let mut next = 0;
    while next < doomed.len() {
        doomed.extend(children_of(doomed[next]));
        next += 1;
    }
    for pid in doomed {
        signal(pid, libc::SIGKILL);
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|line| {
            line.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}
