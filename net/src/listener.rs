//! Listening sockets: TCP over IPv4 and IPv6, and Unix.
//!
//! One socket an address, accepted by core 0, which hands each connection to
//! the core with the fewest. The alternatives were tried on paper and dropped:
//! a socket a core with `SO_REUSEPORT` lets the kernel spread by hash, which at
//! 50 connections over 8 cores leaves the fullest with about twice its share,
//! and lets a second server of the same user take the same port without an
//! error; all cores accepting from one socket lets the idlest core take a whole
//! burst. An accept costs a few microseconds, once a connection.
//!
//! With core ports (`NodeConfig::core_ports`) core *i* listens
//! on base + *i* as well and keeps what it accepts, so that a client can go
//! straight to the core that owns a key.
//!
//! Options are memcached's: `SO_REUSEADDR`, `SO_KEEPALIVE`, no linger,
//! `TCP_NODELAY`, and IPv6 sockets that leave IPv4 alone. Accepted sockets
//! inherit them.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::sys::socket::{check, set_option};

/// How long an address that is in use is tried again. The ring of a process that was
/// killed holds its sockets for some milliseconds after its end.
pub const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries.
pub const ADDRESS_RETRY: Duration = Duration::from_millis(20);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP address. Port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket: its path and access bits (`-s`, `-a`).
    Unix {
        /// Path of the socket.
        path: PathBuf,
        /// Access bits, for example 0o700.
        mask: u32,
    },
}

impl ListenAddress {
    /// The port, of a TCP address.
    pub fn tcp_port(&self) -> Option<u16> {
        match self {
            ListenAddress::Tcp(address) => Some(address.port()),
            ListenAddress::Unix { .. } => None,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => write!(formatter, "{address}"),
            ListenAddress::Unix { path, .. } => write!(formatter, "{}", path.display()),
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct ListenError {
    /// The address.
    pub address: String,
    /// The kernel's or resolver's reason.
    pub error: io::Error,
    /// What to do, one piece of advice a line.
    pub advice: Vec<String>,
}

impl fmt::Display for ListenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cannot listen on {}: {}", self.address, plain(&self.error))?;
        for line in &self.advice {
            write!(formatter, "\n  {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ListenError {}

/// An error's text without Rust's "(os error 98)", in lower case.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}

/// Addresses of a host name or literal; `None` stands for all interfaces.
pub fn resolve(host: Option<&str>, port: u16) -> Result<Vec<ListenAddress>, ListenError> {
    let Some(host) = host.filter(|host| *host != "*") else {
        return Ok(["0.0.0.0", "::"]
            .iter()
            .map(|any| ListenAddress::Tcp(SocketAddr::new(any.parse().expect("literal"), port)))
            .collect());
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match (host, port).to_socket_addrs() {
        Ok(addresses) => {
            let mut found: Vec<ListenAddress> = Vec::new();
            for address in addresses.map(ListenAddress::Tcp) {
                if !found.contains(&address) {
                    found.push(address);
                }
            }
            Ok(found)
        }
        Err(error) => Err(ListenError {
            address: format!("{host}:{port}"),
            error,
            advice: vec!["the host name is not known here; an IP address always works".into()],
        }),
    }
}

/// Binds and listens. The second value is where it really listens. An address in use
/// is tried for [`ADDRESS_PATIENCE`].
pub fn bind(
    address: &ListenAddress,
    backlog: u32,
) -> Result<(OwnedFd, ListenAddress), ListenError> {
    let began = Instant::now();
    loop {
        let result = match address {
            ListenAddress::Tcp(address) => bind_tcp(*address, backlog),
            ListenAddress::Unix { path, mask } => bind_unix(path, *mask, backlog),
        };
        match result {
            Ok(bound) => return Ok(bound),
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && began.elapsed() < ADDRESS_PATIENCE =>
            {
                std::thread::sleep(ADDRESS_RETRY);
            }
            Err(error) => {
                let advice = advice(address, &error);
                return Err(ListenError { address: address.to_string(), error, advice });
            }
        }
    }
}

/// Whether a wildcard address failed only because the machine lacks its family.
pub fn is_missing_family(error: &ListenError) -> bool {
    matches!(
        error.error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT)
    )
}

fn bind_tcp(address: SocketAddr, backlog: u32) -> io::Result<(OwnedFd, ListenAddress)> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = new_socket(family)?;
    let fd = socket.as_raw_fd();
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    if address.is_ipv6() {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    match address {
        SocketAddr::V4(address) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            bind_name(&socket, &name, size_of_val(&name))?;
        }
        SocketAddr::V6(address) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            bind_name(&socket, &name, size_of_val(&name))?;
        }
    }
    start_listening(&socket, backlog)?;
    let listener = std::net::TcpListener::from(socket);
    let bound = listener.local_addr()?;
    Ok((listener.into(), ListenAddress::Tcp(bound)))
}

fn bind_unix(path: &PathBuf, mask: u32, backlog: u32) -> io::Result<(OwnedFd, ListenAddress)> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: an all-zero address is valid.
    let mut name: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    if bytes.is_empty() || bytes.len() >= name.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    name.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (place, byte) in name.sun_path.iter_mut().zip(bytes) {
        *place = *byte as libc::c_char;
    }
    // What a dead server left behind goes, as in memcached; a live one's stays.
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    if std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        if is_served(&name, length)? {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        std::fs::remove_file(path)?;
    }
    let socket = new_socket(libc::AF_UNIX)?;
    bind_name(&socket, &name, length)?;
    // Nobody can connect before the socket listens, so there is no moment with
    // other permissions.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mask & 0o777))?;
    start_listening(&socket, backlog)?;
    Ok((socket, ListenAddress::Unix { path: path.clone(), mask }))
}

/// Whether somebody listens on a Unix socket. One that has no room for a connection
/// now is not waited for.
fn is_served(name: &libc::sockaddr_un, length: usize) -> io::Result<bool> {
    let probe = std::os::unix::net::UnixStream::from(new_socket(libc::AF_UNIX)?);
    probe.set_nonblocking(true)?;
    // SAFETY: `name` is an address of its family, `length` within it.
    let connected = check(unsafe {
        libc::connect(probe.as_raw_fd(), std::ptr::from_ref(name).cast(), length as libc::socklen_t)
    });
    Ok(connected.err().is_none_or(|error| error.kind() == io::ErrorKind::WouldBlock))
}

fn new_socket(family: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain call on integers.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind_name<T>(socket: &OwnedFd, name: &T, bytes: usize) -> io::Result<()> {
    debug_assert!(bytes <= size_of::<T>());
    // SAFETY: `name` is an address structure of its family, `bytes` within it.
    check(unsafe {
        libc::bind(socket.as_raw_fd(), std::ptr::from_ref(name).cast(), bytes as libc::socklen_t)
    })?;
    Ok(())
}

fn start_listening(socket: &OwnedFd, backlog: u32) -> io::Result<()> {
    // SAFETY: plain call on integers.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog.min(i32::MAX as u32) as i32) })?;
    Ok(())
}

fn advice(address: &ListenAddress, error: &io::Error) -> Vec<String> {
    match (address, error.raw_os_error()) {
        (ListenAddress::Tcp(address), Some(libc::EADDRINUSE)) => {
            let port = address.port();
            let other = port.checked_add(100).unwrap_or(11311);
            vec![
                format!("who holds it:  ss -ltnp 'sport = :{port}'"),
                format!("to move:       --port {other}, or [listen] port in seawall.toml"),
            ]
        }
        (ListenAddress::Tcp(address), Some(libc::EACCES)) => vec![format!(
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; {} is one",
            address.port()
        )],
        (ListenAddress::Tcp(_), Some(libc::EADDRNOTAVAIL)) => {
            vec!["no interface of this machine has that address:  ip -brief address".into()]
        }
        (ListenAddress::Unix { .. }, Some(libc::EADDRINUSE)) => {
            vec!["another server answers on it, or a file that is no socket is in the way".into()]
        }
        (ListenAddress::Unix { path, .. }, Some(libc::ENOENT | libc::EACCES)) => {
            let parent = path.parent().map(|parent| parent.display().to_string());
            vec![format!(
                "its directory must exist and be writable:  ls -ld {}",
                parent.unwrap_or_default()
            )]
        }
        (ListenAddress::Unix { .. }, Some(libc::ENAMETOOLONG)) => {
            vec!["a Unix socket's path has at most 107 bytes".into()]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_says_who_to_ask() {
        let any = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let (_held, bound) = bind(&any, 16).unwrap();
        let error = bind(&bound, 16).unwrap_err().to_string();
        let ListenAddress::Tcp(address) = bound else { unreachable!() };
        let expected =
            format!("cannot listen on {address}: address already in use\n  who holds it:");
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.contains(&format!("sport = :{}", address.port())), "{error}");
    }

    #[test]
    fn an_address_that_becomes_free_is_taken() {
        let folder = std::env::temp_dir().join(format!("seawall-free-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let tcp = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let unix = ListenAddress::Unix { path: folder.join("s"), mask: 0o600 };
        for address in [tcp, unix] {
            let (held, bound) = bind(&address, 16).unwrap();
            let waiting = std::thread::spawn({
                let bound = bound.clone();
                move || bind(&bound, 16).map(|(_, address)| address)
            });
            std::thread::sleep(ADDRESS_RETRY * 3);
            drop(held);
            assert_eq!(waiting.join().unwrap().unwrap(), bound);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let directory =
            std::env::temp_dir().join(format!("seawall-listener-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let address = ListenAddress::Unix { path: directory.join("s"), mask: 0o600 };
        let (live, _) = bind(&address, 16).unwrap();
        assert!(bind(&address, 16).is_err(), "somebody listens there");
        drop(live);
        let (_again, _) = bind(&address, 16).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn names_and_literals_resolve() {
        assert_eq!(resolve(None, 1).unwrap().len(), 2);
        assert_eq!(resolve(Some("[::1]"), 7).unwrap()[0].to_string(), "[::1]:7");
        assert_eq!(resolve(Some("127.0.0.1"), 7).unwrap()[0].to_string(), "127.0.0.1:7");
        let error = resolve(Some("no.such.host.invalid"), 7).unwrap_err();
        assert!(error.to_string().contains("no.such.host.invalid:7"), "{error}");
    }
}
