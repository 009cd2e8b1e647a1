//! The few socket calls that both backends and the listener share.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Turns a -1 into the error it stands for.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The last error's number.
pub(crate) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Sets an integer socket option.
pub fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which lives through the call.
    check(unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Reads an integer socket option.
pub fn option(fd: RawFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: both pointers describe locals that live through the call.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length) })?;
    Ok(value)
}

/// Switches the file's non-blocking flag.
pub fn set_nonblocking(fd: RawFd, on: bool) -> io::Result<()> {
    // SAFETY: plain fcntl on integers.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let wanted = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    if wanted != flags {
        // SAFETY: plain fcntl on integers.
        check(unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) })?;
    }
    Ok(())
}

/// Sends without waiting and without SIGPIPE.
pub(crate) fn send_now(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of `bytes`.
    let sent = unsafe {
        libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Receives without waiting.
pub(crate) fn recv_now(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of `into`.
    let received =
        unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
    if received < 0 { Err(io::Error::last_os_error()) } else { Ok(received as usize) }
}

/// Accepts one connection, close-on-exec.
pub(crate) fn accept(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: null address pointers are allowed: the peer's address is not wanted.
    let socket = check(unsafe {
        libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
    })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Address of the other side of a TCP connection.
pub fn peer_address(fd: RawFd) -> io::Result<SocketAddr> {
    address_by(fd, libc::getpeername)
}

/// Our side's address of a TCP connection.
pub fn own_address(fd: RawFd) -> io::Result<SocketAddr> {
    address_by(fd, libc::getsockname)
}

type AddressCall =
    unsafe extern "C" fn(RawFd, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn address_by(fd: RawFd, call: AddressCall) -> io::Result<SocketAddr> {
    // SAFETY: an all-zero address is valid.
    let mut name: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&name) as libc::socklen_t;
    // SAFETY: both pointers describe locals that live through the call.
    check(unsafe { call(fd, (&raw mut name).cast(), &raw mut length) })?;
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure the kernel has written.
            let name = unsafe { *(&raw const name).cast::<libc::sockaddr_in>() };
            let address = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            Ok(SocketAddr::from((address, u16::from_be(name.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says which structure the kernel has written.
            let name = unsafe { *(&raw const name).cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(name.sin6_addr.s6_addr);
            Ok(SocketAddr::from((address, u16::from_be(name.sin6_port))))
        }
        _ => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    }
}

/// Bytes that have arrived and were not received yet.
pub fn unread_bytes(fd: RawFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one integer, which lives through it.
    let done = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) };
    if done < 0 { 0 } else { bytes.max(0) as usize }
}

/// Tells the peer that nothing more will be sent. What it sends still arrives.
pub fn end_output(fd: RawFd) {
    // SAFETY: a call on an open descriptor. It fails where the peer is gone.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// A number that changes whenever the peer has taken more of what was sent to it:
/// its acknowledgements for TCP, else what the socket still holds.
pub fn taken_by_peer(fd: RawFd) -> u64 {
    let mut bytes = [0u8; TCP_INFO_BYTES];
    let mut length = bytes.len() as libc::socklen_t;
    // SAFETY: pointer and length describe `bytes`.
    let done = unsafe {
        libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let acknowledged = bytes[TCP_INFO_BYTES_ACKED..].first_chunk::<8>();
    if done == 0
        && length as usize >= TCP_INFO_BYTES
        && let Some(acknowledged) = acknowledged
    {
        return u64::from_ne_bytes(*acknowledged);
    }
    let mut held: libc::c_int = 0;
    // SAFETY: the call writes one integer, which lives through it.
    unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut held) };
    held.max(0) as u64
}

/// `tcpi_bytes_acked` in the kernel's `struct tcp_info` (Linux 4.1), which the libc
/// crate does not have: behind 8 bytes of small fields, 24 numbers of 32 bits and two
/// of 64.
const TCP_INFO_BYTES_ACKED: usize = 8 + 24 * 4 + 2 * 8;
const TCP_INFO_BYTES: usize = TCP_INFO_BYTES_ACKED + 8;

/// An eventfd that another thread writes to end a core's wait.
#[derive(Debug)]
pub struct WakeFd(OwnedFd);

impl WakeFd {
    /// A new one.
    pub fn new() -> io::Result<WakeFd> {
        // SAFETY: plain call on integers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the kernel has just given us this descriptor; nobody else has it.
        Ok(WakeFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The descriptor, to be watched.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Ends the wait. A full counter (2^64 - 1 unread wakes) ends it as well.
    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: the pointer and length describe `one`.
        unsafe { libc::write(self.raw(), (&raw const one).cast(), size_of::<u64>()) };
    }

    /// Forgets earlier wakes.
    pub fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: the pointer and length describe `count`.
        unsafe { libc::read(self.raw(), (&raw mut count).cast(), size_of::<u64>()) };
    }
}
