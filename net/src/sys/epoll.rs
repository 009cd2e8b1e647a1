//! The epoll backend: `epoll_wait`, `recv(2)`, `send(2)`.
//!
//! It serves where io_uring is refused: in containers with the default seccomp
//! profile, on kernels before 6.0, under `kernel.io_uring_disabled`. It costs
//! 1.1 to 1.5 times the CPU, because every receive and every send is a system
//! call of its own.
//!
//! Level-triggered: one receive a connection a turn into one big buffer, which
//! the reactor consumes at once, so a connection that sends faster than it is
//! served waits its turn like everybody else. A socket's interest in writing
//! is on only while the rest of a short send waits.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::buffers::Buffers;
use super::socket::{accept, check, errno, recv_now, send_now, set_nonblocking};
use super::{Backend, BackendKind, BackendOptions, Event, Received, Slot};

/// Readiness reports taken in one call.
const EVENTS_PER_TURN: usize = 512;
/// Connections accepted from one listener in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// The receive buffer is this many times an io_uring receive buffer, for there is only one.
const RECEIVE_BUFFER_FACTOR: usize = 4;

const TAG_WAKE: u64 = 1 << 62;
const TAG_LISTENER: u64 = 1 << 63;

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    /// Receiving is wanted.
    reading: bool,
    /// The peer has ended its side.
    ended: bool,
    /// The events asked for now.
    interest: u32,
    /// In epoll's set. A socket that broke while nothing is wanted of it is
    /// taken out, for epoll reports that for ever.
    watched: bool,
    /// Rest of a short send, from `sent` on.
    rest: Vec<u8>,
    sent: usize,
    /// Close when `rest` is out.
    closing: bool,
}

#[derive(Debug)]
struct Listener {
    fd: OwnedFd,
    number: u32,
}

/// See the module's text.
#[derive(Debug)]
pub struct EpollBackend {
    epoll: OwnedFd,
    sockets: Vec<Option<Socket>>,
    listeners: Vec<Listener>,
    accepting: bool,
    ready: Vec<libc::epoll_event>,
    ready_next: usize,
    /// Things that happened outside `epoll_wait`.
    events: VecDeque<Event>,
    /// What the last receive brought, until the reactor releases it.
    buffer: Vec<u8>,
    buffer_out: bool,
    accepts_left: usize,
    /// Bytes of the buffers in `rest`, of all sockets.
    unsent_bytes: usize,
}

impl EpollBackend {
    /// A new one.
    pub fn new(options: &BackendOptions) -> io::Result<EpollBackend> {
        // SAFETY: plain call on integers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(EpollBackend {
            // SAFETY: the kernel has just given us this descriptor; nobody else has it.
            epoll: unsafe { OwnedFd::from_raw_fd(fd) },
            sockets: Vec::new(),
            listeners: Vec::new(),
            accepting: true,
            ready: Vec::with_capacity(EVENTS_PER_TURN),
            ready_next: 0,
            events: VecDeque::new(),
            buffer: vec![0; options.receive_buffer_bytes as usize * RECEIVE_BUFFER_FACTOR],
            buffer_out: false,
            accepts_left: ACCEPTS_PER_TURN,
            unsent_bytes: 0,
        })
    }

    fn control(&self, operation: i32, fd: RawFd, events: u32, tag: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: tag };
        // SAFETY: `event` lives through the call.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) })?;
        Ok(())
    }

    /// Asks epoll for what the socket's state needs.
    fn update_interest(&mut self, slot: Slot) {
        let Some(socket) = self.sockets[slot as usize].as_mut() else { return };
        let mut wanted = 0;
        if socket.reading && !socket.ended && !socket.closing {
            wanted |= libc::EPOLLIN as u32;
        }
        if !socket.rest.is_empty() {
            wanted |= libc::EPOLLOUT as u32;
        }
        let operation = match (socket.watched, wanted) {
            (true, _) if wanted == socket.interest => return,
            (true, _) => libc::EPOLL_CTL_MOD,
            (false, 0) => return,
            (false, _) => libc::EPOLL_CTL_ADD,
        };
        socket.interest = wanted;
        socket.watched = true;
        let fd = socket.fd.as_raw_fd();
        if let Err(error) = self.control(operation, fd, wanted, u64::from(slot)) {
            // Only want of kernel memory can bring us here.
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            self.events.push_back(Event::Failed { slot, errno });
        }
    }

    /// Drops the socket, which closes it and takes it out of epoll.
    fn drop_socket(&mut self, slot: Slot, buffers: Option<&mut Buffers>) {
        if let Some(socket) = self.sockets[slot as usize].take() {
            self.unsent_bytes -= socket.rest.capacity();
            if let Some(buffers) = buffers {
                buffers.put(socket.rest);
            }
            self.events.push_back(Event::Closed { slot });
        }
    }

    /// The socket can take more.
    fn send_rest(&mut self, slot: Slot, buffers: &mut Buffers) {
        let Some(socket) = self.sockets[slot as usize].as_mut() else { return };
        if socket.rest.is_empty() {
            return;
        }
        match send_now(socket.fd.as_raw_fd(), &socket.rest[socket.sent..]) {
            Ok(sent) => socket.sent += sent,
            Err(error) if would_block(&error) => return,
            Err(error) => {
                self.unsent_bytes -= socket.rest.capacity();
                buffers.put(std::mem::take(&mut socket.rest));
                if socket.closing {
                    self.drop_socket(slot, None);
                } else {
                    socket.ended = true;
                    self.update_interest(slot);
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    self.events.push_back(Event::Failed { slot, errno });
                }
                return;
            }
        }
        if socket.sent == socket.rest.len() {
            self.unsent_bytes -= socket.rest.capacity();
            buffers.put(std::mem::take(&mut socket.rest));
            if socket.closing {
                self.drop_socket(slot, None);
            } else {
                self.update_interest(slot);
                self.events.push_back(Event::Sent { slot });
            }
        }
    }

    /// Turns one readiness report into an event.
    fn on_ready(&mut self, report: libc::epoll_event) -> Option<Event> {
        let tag = report.u64;
        if tag == TAG_WAKE {
            return None;
        }
        if tag & TAG_LISTENER != 0 {
            return self.accept_one((tag & !TAG_LISTENER) as usize);
        }
        let slot = tag as Slot;
        let socket = self.sockets.get_mut(slot as usize)?.as_mut()?;
        let failed = report.events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0;
        if socket.closing {
            if failed {
                self.drop_socket(slot, None);
            }
            return None;
        }
        if !socket.reading || socket.ended {
            // It broke, or both directions are shut. Whoever still has answers
            // for it will learn so from `send`.
            if failed && socket.rest.is_empty() {
                socket.watched = false;
                let fd = socket.fd.as_raw_fd();
                let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
            }
            return None;
        }
        if report.events & (libc::EPOLLIN | libc::EPOLLERR | libc::EPOLLHUP) as u32 == 0 {
            return None;
        }
        debug_assert!(!self.buffer_out, "the last buffer was not released");
        match recv_now(socket.fd.as_raw_fd(), &mut self.buffer) {
            Ok(0) => {
                socket.ended = true;
                self.update_interest(slot);
                Some(Event::Ended { slot })
            }
            Ok(bytes) => {
                self.buffer_out = true;
                let received = Received { buffer: 0, bytes: bytes as u32 };
                Some(Event::Received { slot, received })
            }
            Err(error) if would_block(&error) => None,
            Err(error) => {
                socket.ended = true;
                self.update_interest(slot);
                Some(Event::Failed { slot, errno: error.raw_os_error().unwrap_or(libc::EIO) })
            }
        }
    }

    fn accept_one(&mut self, index: usize) -> Option<Event> {
        let listener = self.listeners.get(index)?;
        if !self.accepting || self.accepts_left == 0 {
            return None;
        }
        self.accepts_left -= 1;
        let number = listener.number;
        match accept(listener.fd.as_raw_fd()) {
            Ok(socket) => {
                // Look again after this one: accept until nobody waits.
                self.ready_next -= 1;
                Some(Event::Accepted { listener: number, socket })
            }
            Err(error) if would_block(&error) => None,
            Err(error) => match error.raw_os_error() {
                Some(libc::ECONNABORTED) => None,
                errno => {
                    let errno = errno.unwrap_or(libc::EIO);
                    Some(Event::AcceptFailed { listener: number, errno })
                }
            },
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl Backend for EpollBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Epoll
    }

    fn watch_wake(&mut self, wake: RawFd) -> io::Result<()> {
        // Edge-triggered: each write is reported once and needs no read.
        let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
        self.control(libc::EPOLL_CTL_ADD, wake, events, TAG_WAKE)
    }

    fn listen(&mut self, listener: u32, socket: OwnedFd) -> io::Result<()> {
        set_nonblocking(socket.as_raw_fd(), true)?;
        let tag = TAG_LISTENER | self.listeners.len() as u64;
        let events = if self.accepting { libc::EPOLLIN as u32 } else { 0 };
        self.control(libc::EPOLL_CTL_ADD, socket.as_raw_fd(), events, tag)?;
        self.listeners.push(Listener { fd: socket, number: listener });
        Ok(())
    }

    fn set_accepting(&mut self, accepting: bool) {
        if self.accepting == accepting {
            return;
        }
        self.accepting = accepting;
        let events = if accepting { libc::EPOLLIN as u32 } else { 0 };
        for (index, listener) in self.listeners.iter().enumerate() {
            let tag = TAG_LISTENER | index as u64;
            let _ = self.control(libc::EPOLL_CTL_MOD, listener.fd.as_raw_fd(), events, tag);
        }
    }

    fn close_listeners(&mut self) {
        self.listeners.clear();
    }

    fn attach(&mut self, slot: Slot, socket: OwnedFd) -> io::Result<()> {
        let interest = libc::EPOLLIN as u32;
        self.control(libc::EPOLL_CTL_ADD, socket.as_raw_fd(), interest, u64::from(slot))?;
        let index = slot as usize;
        if index >= self.sockets.len() {
            self.sockets.resize_with(index + 1, || None);
        }
        debug_assert!(self.sockets[index].is_none());
        self.sockets[index] = Some(Socket {
            fd: socket,
            reading: true,
            ended: false,
            interest,
            watched: true,
            rest: Vec::new(),
            sent: 0,
            closing: false,
        });
        Ok(())
    }

    fn pause(&mut self, slot: Slot) {
        if let Some(socket) = self.sockets[slot as usize].as_mut() {
            socket.reading = false;
        }
        self.update_interest(slot);
    }

    fn resume(&mut self, slot: Slot) {
        if let Some(socket) = self.sockets[slot as usize].as_mut() {
            socket.reading = true;
        }
        self.update_interest(slot);
    }

    fn set_multishot(&mut self, _slot: Slot, _multishot: bool) {
        // One buffer at a time in any case.
    }

    fn send(&mut self, slot: Slot, bytes: Vec<u8>, buffers: &mut Buffers) {
        let Some(socket) = self.sockets[slot as usize].as_mut() else {
            return buffers.put(bytes);
        };
        debug_assert!(socket.rest.is_empty(), "one send at a time");
        let mut sent = 0;
        // A signal may cut a send short; a second try tells a full socket.
        while sent < bytes.len() {
            match send_now(socket.fd.as_raw_fd(), &bytes[sent..]) {
                Ok(more) => sent += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if would_block(&error) => {
                    socket.rest = bytes;
                    socket.sent = sent;
                    super::keep_rest(&mut socket.rest, &mut socket.sent);
                    self.unsent_bytes += socket.rest.capacity();
                    return self.update_interest(slot);
                }
                Err(error) => {
                    socket.ended = true;
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    self.events.push_back(Event::Failed { slot, errno });
                    self.update_interest(slot);
                    break;
                }
            }
        }
        buffers.put(bytes);
    }

    fn descriptor(&self, slot: Slot) -> Option<RawFd> {
        self.sockets.get(slot as usize)?.as_ref().map(|socket| socket.fd.as_raw_fd())
    }

    fn is_sending(&self, slot: Slot) -> bool {
        self.sockets[slot as usize].as_ref().is_some_and(|socket| !socket.rest.is_empty())
    }

    fn unsent_bytes(&self, slot: Slot) -> usize {
        let socket = self.sockets.get(slot as usize).and_then(Option::as_ref);
        socket.map_or(0, |socket| socket.rest.capacity())
    }

    fn all_unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    fn close(&mut self, slot: Slot, buffers: &mut Buffers) {
        let Some(socket) = self.sockets[slot as usize].as_mut() else { return };
        if socket.rest.is_empty() {
            return self.drop_socket(slot, Some(buffers));
        }
        socket.closing = true;
        self.update_interest(slot);
    }

    fn abort(&mut self, slot: Slot, buffers: &mut Buffers) {
        self.drop_socket(slot, Some(buffers));
    }

    fn poll(&mut self, timeout: Duration, buffers: &mut Buffers) -> io::Result<()> {
        let milliseconds = if self.events.is_empty() {
            // Rounded up: waking early would only mean waking twice.
            timeout.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32
        } else {
            0
        };
        self.ready.clear();
        self.ready_next = 0;
        self.accepts_left = ACCEPTS_PER_TURN;
        // SAFETY: the vector has room for EVENTS_PER_TURN reports.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.ready.as_mut_ptr(),
                EVENTS_PER_TURN as i32,
                milliseconds,
            )
        };
        if count < 0 {
            let errno = errno();
            return if errno == libc::EINTR {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(errno))
            };
        }
        // SAFETY: the kernel has written `count` reports.
        unsafe { self.ready.set_len(count as usize) };
        for index in 0..self.ready.len() {
            let report = self.ready[index];
            let tag = report.u64;
            let writable = (libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP) as u32;
            if tag & (TAG_WAKE | TAG_LISTENER) == 0 && report.events & writable != 0 {
                self.send_rest(tag as Slot, buffers);
            }
        }
        Ok(())
    }

    fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        while self.ready_next < self.ready.len() {
            let report = self.ready[self.ready_next];
            self.ready_next += 1;
            if let Some(event) = self.on_ready(report) {
                return Some(event);
            }
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
        }
        None
    }

    fn has_event(&self) -> bool {
        !self.events.is_empty() || self.ready_next < self.ready.len()
    }

    fn bytes(&self, received: &Received) -> &[u8] {
        &self.buffer[..received.bytes as usize]
    }

    fn release(&mut self, _received: Received) {
        self.buffer_out = false;
    }

    fn memory_bytes(&self) -> usize {
        self.buffer.len()
    }
}
