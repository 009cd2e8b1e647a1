//! Does this kernel let us use io_uring? Asked once, at start, by doing it.
//!
//! A version number says little: containers refuse by seccomp, distributions by
//! sysctl, sandboxes implement half. So the probe makes a ring as the cores
//! will, and sends itself a few bytes over a socket pair with a multishot
//! receive into a provided buffer.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::uring::UringBackend;
use super::{Backend, BackendKind, BackendOptions, Event};

/// Why io_uring cannot be used, for a person to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What refused it.
    pub reason: String,
    /// What to do about it.
    pub advice: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "io_uring is not available: {}; epoll takes its place, at 1.1 to 1.5 times the CPU ({})",
            self.reason, self.advice
        )
    }
}

/// Tries io_uring on a thread of its own (a ring belongs to its thread).
pub fn probe(options: &BackendOptions) -> Result<BackendKind, Refusal> {
    let options = *options;
    let result = std::thread::Builder::new()
        .name("seawall-probe".into())
        .spawn(move || exercise(&options))
        .and_then(|thread| thread.join().map_err(|_| io::Error::other("the probe panicked"))?);
    match result {
        Ok(()) => Ok(BackendKind::Uring),
        Err(error) => Err(explain(&error)),
    }
}

fn exercise(options: &BackendOptions) -> io::Result<()> {
    let mut backend = UringBackend::new(options)?;
    let mut buffers = Buffers::new(0, 0);
    let (ours, theirs) = UnixStream::pair()?;
    backend.attach(0, ours.into())?;
    backend.attach(1, theirs.into())?;
    backend.send(1, b"seawall".to_vec(), &mut buffers);
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut heard = Vec::new();
    while heard != b"seawall" {
        if Instant::now() > deadline {
            return Err(io::Error::other("a test message did not arrive"));
        }
        backend.poll(Duration::from_millis(50), &mut buffers)?;
        while let Some(event) = backend.next_event() {
            match event {
                Event::Received { received, .. } => {
                    heard.extend_from_slice(backend.bytes(&received));
                    backend.release(received);
                }
                Event::Failed { errno, .. } => return Err(io::Error::from_raw_os_error(errno)),
                _ => {}
            }
        }
    }
    Ok(())
}

fn explain(error: &io::Error) -> Refusal {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
        .unwrap_or(0);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let (reason, advice) = match error.raw_os_error() {
        Some(libc::EPERM) if disabled > 0 => (
            format!("switched off by the sysctl kernel.io_uring_disabled = {disabled}"),
            "sysctl kernel.io_uring_disabled=0 allows it",
        ),
        Some(libc::EPERM | libc::EACCES) => (
            "refused with EPERM, as the default seccomp profiles of Docker and containerd do"
                .into(),
            "run with a seccomp profile that allows io_uring_setup, io_uring_enter, io_uring_register",
        ),
        Some(libc::ENOSYS) => (
            format!("this kernel ({release}) was built without it, or a sandbox hides it"),
            "Linux 6.1 or newer has it",
        ),
        Some(libc::ENOMEM) => (
            format!("no memory for a ring under the memory-lock limit of {}", memory_lock_limit()),
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit",
        ),
        Some(libc::EINVAL) => (
            format!("the kernel ({release}) is older than 6.0 and lacks multishot receive"),
            "Linux 6.1 or newer has it",
        ),
        _ => (error.to_string(), "--io-backend epoll silences this"),
    };
    Refusal { reason, advice }
}

fn memory_lock_limit() -> String {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer describes `limit`.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    match limit.rlim_cur {
        libc::RLIM_INFINITY => "(none)".into(),
        bytes => format!("{} KiB", bytes / 1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let text = explain(&io::Error::from_raw_os_error(libc::ENOSYS)).to_string();
        assert!(text.contains("epoll takes its place") && text.contains("6.1"), "{text}");
        let text = explain(&io::Error::from_raw_os_error(libc::ENOMEM)).to_string();
        assert!(text.contains("memory-lock") && text.contains("ulimit -l"), "{text}");
    }

    #[test]
    fn the_probe_comes_to_a_verdict() {
        match probe(&BackendOptions::default()) {
            Ok(kind) => assert_eq!(kind, BackendKind::Uring),
            Err(refusal) => assert!(!refusal.reason.is_empty()),
        }
    }
}
