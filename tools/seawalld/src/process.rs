//! The daemon as a Unix process: background, user, limits, PID file, service manager.

use anyhow::{Context, Result, bail};
use net::listener::ListenAddress;
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{ForkResult, Uid, User, fork, initgroups, pipe, setgid, setsid, setuid};
use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Number of mimalloc's option `purge_delay`.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Freed memory goes back to the system at once instead of after a while. What
/// comes and goes per request is pooled; what the allocator gets back are large
/// buffers of clients that misbehave, and of those there can be many.
pub fn give_memory_back_at_once() {
    // SAFETY: sets a number in the allocator, before other threads are started.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) }
}

/// Descriptors that are not client connections: rings, listeners, files, logs.
const DESCRIPTORS_BESIDE_CLIENTS: u64 = 256;
/// With fewer the node cannot run at all.
const DESCRIPTORS_MIN: u64 = 64;

/// The child's end of `--daemon`: tells the waiting parent how the start went.
#[derive(Debug)]
pub struct Background {
    parent: File,
}

/// Forks into the background. The parent waits until the child serves, so that
/// a start that fails is an exit code and a message, not silence. Must run
/// before any thread exists.
pub fn background() -> Result<Background> {
    let (from_child, to_parent) = pipe().context("cannot go into the background")?;
    // SAFETY: the process has one thread here (main calls this before it starts
    // the runtime), so the child may go on as an ordinary process.
    match unsafe { fork() }.context("cannot go into the background")? {
        ForkResult::Parent { .. } => {
            drop(to_parent);
            let mut word = [0u8; 1];
            let served = matches!(File::from(from_child).read(&mut word), Ok(1));
            std::process::exit(i32::from(!served));
        }
        ForkResult::Child => {
            setsid().context("cannot leave the terminal")?;
            Ok(Background { parent: File::from(to_parent) })
        }
    }
}

impl Background {
    /// The start went well: lets the parent exit and leaves the terminal.
    pub fn served(mut self) -> Result<()> {
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .context("cannot open /dev/null")?;
        nix::unistd::dup2_stdin(&null)?;
        nix::unistd::dup2_stdout(&null)?;
        nix::unistd::dup2_stderr(&null)?;
        self.parent.write_all(&[1]).context("cannot tell the starting process")?;
        Ok(())
    }
}

/// Raises the limit of open files for `connections` clients, the locked memory
/// for the rings, and with `core_dumps` the core size. Returns for how many clients
/// the open files suffice: fewer than wanted only if that number was not `asked` for.
pub fn raise_limits(connections: u32, asked: bool, core_dumps: bool) -> Result<u32> {
    let needed = u64::from(connections) + DESCRIPTORS_BESIDE_CLIENTS;
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    let mut possible = connections;
    if soft < needed && setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).is_err() {
        let Some(found) = connections_within(connections, asked, hard) else {
            bail!(
                "cannot open files for {connections} connections: this needs {needed}, the limit is {hard}\n  \
                 to raise it:   ulimit -n {needed}, or LimitNOFILE={needed} in the unit\n  \
                 to need less:  --conn-limit {}",
                hard.saturating_sub(DESCRIPTORS_BESIDE_CLIENTS)
            );
        };
        possible = found;
        setrlimit(Resource::RLIMIT_NOFILE, needed.min(hard), hard)
            .context("cannot raise the limit of open files")?;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    // Without privilege this stays as it is, and the rings take what they get.
    if setrlimit(Resource::RLIMIT_MEMLOCK, u64::MAX, u64::MAX).is_err() {
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    }
    if core_dumps {
        setrlimit(Resource::RLIMIT_CORE, u64::MAX, u64::MAX)
            .context("cannot raise the core file limit (-r)")?;
    }
    Ok(possible)
}

/// For how many clients `files` suffice, if that is enough. A number that was asked for
/// and exceeds the limit by itself is refused, as in memcached.
fn connections_within(wanted: u32, asked: bool, files: u64) -> Option<u32> {
    if asked && u64::from(wanted) > files {
        return None;
    }
    let beside = DESCRIPTORS_BESIDE_CLIENTS.min(files / 4);
    let found = u32::try_from(files - beside).unwrap_or(u32::MAX).min(wanted);
    (found > 0 && files >= DESCRIPTORS_MIN).then_some(found)
}

/// What to say when there are fewer connections than wanted.
pub fn fewer_connections(wanted: u32, possible: u32) -> String {
    let needed = u64::from(wanted) + DESCRIPTORS_BESIDE_CLIENTS;
    format!(
        "at most {possible} clients at a time instead of {wanted}: the limit of open files cannot be raised\n  \
         for all of them:  ulimit -n {needed}, or LimitNOFILE={needed} in the unit"
    )
}

/// Locks all memory, present and future, as it comes into use (`-k`). Without
/// `MCL_ONFAULT` the kernel would take the whole address space that the cores
/// reserved, a gigabyte each and more, whatever `-m` says.
pub fn lock_memory() -> Result<()> {
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: it takes flags alone, and changes no contents.
    Errno::result(unsafe { libc::mlockall(flags) })
        .map(drop)
        .context("cannot lock memory (-k); raise the limit with ulimit -l or LimitMEMLOCK=infinity")
}

/// Becomes `name`; only root can.
pub fn become_user(name: &str) -> Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let user = user_of(name)?;
    let c_name = std::ffi::CString::new(name).context("a user name has no zero byte")?;
    initgroups(&c_name, user.gid).with_context(|| format!("cannot take the groups of {name}"))?;
    setgid(user.gid).with_context(|| format!("cannot take the group of {name}"))?;
    setuid(user.uid).with_context(|| format!("cannot become {name}"))
}

/// Writes the TCP ports in memcached's form, for whoever started the node with
/// `-p -1`: whole or not at all.
pub fn write_ports(path: &Path, addresses: &[ListenAddress]) -> Result<()> {
    let text: String = addresses
        .iter()
        .filter_map(|address| match address {
            ListenAddress::Tcp(SocketAddr::V4(v4)) => Some(format!("TCP INET: {}\n", v4.port())),
            ListenAddress::Tcp(SocketAddr::V6(v6)) => Some(format!("TCP INET6: {}\n", v6.port())),
            ListenAddress::Unix { .. } => None,
        })
        .collect();
    let mut partial = path.as_os_str().to_owned();
    partial.push(".lck");
    std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, path)).with_context(
        || format!("cannot write the ports to {} (MEMCACHED_PORT_FILENAME)", path.display()),
    )
}

fn user_of(name: &str) -> Result<User> {
    User::from_name(name)
        .context("cannot read the user database")?
        .with_context(|| format!("there is no user {name:?} (-u)"))
}

/// Makes a Unix socket that root has bound the user's, as memcached does, who binds it
/// as that user. A link in its place is not followed.
pub fn give_socket(path: &Path, name: &str) -> Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let user = user_of(name)?;
    std::os::unix::fs::lchown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .with_context(|| format!("cannot give the socket {} to {name} (-u)", path.display()))
}

/// A PID file that goes away with its owner.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes this process's id.
    pub fn create(path: &Path) -> Result<PidFile> {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .with_context(|| format!("cannot write the PID file {}", path.display()))?;
        Ok(PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Tells systemd (or whoever set `NOTIFY_SOCKET`) about the state; a no-op elsewhere.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() else { return };
    let _ = match path.to_string_lossy().strip_prefix('@') {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            std::os::unix::net::SocketAddr::from_abstract_name(name)
                .and_then(|address| socket.send_to_addr(state.as_bytes(), &address))
        }
        None => socket.send_to(state.as_bytes(), &path),
    };
}

/// Priority of the control thread among those that run in real time: a low one.
const REAL_TIME_PRIORITY: i32 = 10;

/// The calling thread runs before all ordinary ones: a node whose beats wait for
/// a processor is taken for dead.
pub fn run_in_real_time() -> std::io::Result<()> {
    let parameter = libc::sched_param { sched_priority: REAL_TIME_PRIORITY };
    // Threads that it starts are ordinary ones again.
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameter outlives the call; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::connections_within;

    #[test]
    fn a_low_limit_of_open_files_means_fewer_clients() {
        assert_eq!(connections_within(1024, false, 1024), Some(768));
        assert_eq!(connections_within(1024, true, 1024), Some(768));
        assert_eq!(connections_within(10_000, false, 4096), Some(3840));
        assert_eq!(connections_within(10_000, true, 4096), None);
        assert_eq!(connections_within(100, true, 256), Some(100));
        assert_eq!(connections_within(1024, false, 256), Some(192));
        assert_eq!(connections_within(1024, false, 20), None);
    }
}
