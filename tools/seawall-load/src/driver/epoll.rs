//! The epoll driver: level-triggered readiness, one `recv` a ready socket and
//! turn, one `send` a buffer. Interest in writability is registered only while
//! a send stands half done.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::{RecvFlags, SendFlags};

use super::{Driver, Input};
use crate::target::Socket;

/// Bytes of one `recv`: what a deep pipeline brings between two turns.
const RECEIVE_BYTES: usize = 256 * 1024;
/// Ready sockets of one turn; more wait for the next.
const EVENTS_MAX: usize = 256;

/// The driver.
pub struct Epoll {
    epoll: OwnedFd,
    sockets: Vec<Option<Flying>>,
    events: Vec<epoll::Event>,
    next_event: usize,
    /// Whether the current event's writable half was already reported.
    half_done: bool,
    received: Box<[u8]>,
    /// Sockets that failed while sending; reported by `next`.
    failed: Vec<(usize, io::Error)>,
}

#[derive(Debug)]
struct Flying {
    socket: Socket,
    bytes: Vec<u8>,
    sent: usize,
}

impl Driver for Epoll {
    fn new(sockets: usize) -> io::Result<Self> {
        Ok(Epoll {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sockets: (0..sockets).map(|_| None).collect(),
            events: Vec::with_capacity(EVENTS_MAX),
            next_event: 0,
            half_done: false,
            received: vec![0; RECEIVE_BYTES].into(),
            failed: Vec::new(),
        })
    }

    fn add(&mut self, index: usize, socket: Socket) -> io::Result<()> {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
        self.sockets[index] = Some(Flying { socket, bytes: Vec::new(), sent: 0 });
        Ok(())
    }

    fn remove(&mut self, index: usize) {
        // Closing the descriptor also takes it out of the epoll set.
        self.sockets[index] = None;
    }

    fn send(&mut self, index: usize, out: &mut Vec<u8>) {
        let Some(flying) = &mut self.sockets[index] else { return };
        if !flying.bytes.is_empty() || out.is_empty() {
            return;
        }
        match rustix::net::send(&flying.socket, out, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) if sent == out.len() => out.clear(),
            Ok(sent) => flying.keep(&self.epoll, index, out, sent),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                flying.keep(&self.epoll, index, out, 0)
            }
            Err(error) => self.failed.push((index, error.into())),
        }
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.events.clear();
        self.next_event = 0;
        self.half_done = false;
        if !self.failed.is_empty() {
            return Ok(());
        }
        let timeout = Timespec {
            tv_sec: timeout.as_secs().min(3600) as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn next(&mut self) -> Option<(usize, Input<'_>)> {
        if let Some((index, error)) = self.failed.pop() {
            self.remove(index);
            return Some((index, Input::Closed(Some(error))));
        }
        loop {
            let event = *self.events.get(self.next_event)?;
            let (index, flags) = (event.data.u64() as usize, event.flags);
            if !self.half_done && flags.contains(epoll::EventFlags::OUT) {
                self.half_done = true;
                match self.sockets[index].as_mut().map(|flying| flying.resume(&self.epoll, index)) {
                    Some(Ok(true)) => return Some((index, Input::Writable)),
                    Some(Err(error)) => {
                        self.next_event += 1;
                        self.half_done = false;
                        self.remove(index);
                        return Some((index, Input::Closed(Some(error))));
                    }
                    Some(Ok(false)) | None => {}
                }
            }
            self.next_event += 1;
            self.half_done = false;
            let readable = epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            if !flags.intersects(readable) {
                continue;
            }
            // A socket that was removed during this turn may still be listed.
            let Some(flying) = &self.sockets[index] else { continue };
            let count =
                match rustix::net::recv(&flying.socket, &mut *self.received, RecvFlags::DONTWAIT) {
                    Ok((count, _)) => count,
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
                    Err(error) => {
                        self.remove(index);
                        return Some((index, Input::Closed(Some(error.into()))));
                    }
                };
            if count == 0 {
                self.remove(index);
                return Some((index, Input::Closed(None)));
            }
            return Some((index, Input::Bytes(&self.received[..count])));
        }
    }
}

impl Flying {
    /// Keeps the unsent rest of `out` and asks for an event when there is room.
    fn keep(&mut self, epoll: &OwnedFd, index: usize, out: &mut Vec<u8>, sent: usize) {
        std::mem::swap(&mut self.bytes, out);
        self.sent = sent;
        self.watch(epoll, index, epoll::EventFlags::IN | epoll::EventFlags::OUT);
    }

    fn watch(&self, epoll: &OwnedFd, index: usize, flags: epoll::EventFlags) {
        // It can only fail for a descriptor that is not in the set.
        let changed =
            epoll::modify(epoll, &self.socket, epoll::EventData::new_u64(index as u64), flags);
        debug_assert!(changed.is_ok(), "{changed:?}");
    }

    /// Sends more of the rest; true when all of it has left.
    fn resume(&mut self, epoll: &OwnedFd, index: usize) -> io::Result<bool> {
        let rest = &self.bytes[self.sent..];
        match rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => self.sent += sent,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if self.sent < self.bytes.len() {
            return Ok(false);
        }
        self.bytes.clear();
        self.sent = 0;
        self.watch(epoll, index, epoll::EventFlags::IN);
        Ok(true)
    }
}
