//! A link as a state machine, without its socket: one connection between a core
//! of this node and a core of another.
//!
//! The core that opened it passes requests on and replicates over it; the other
//! answers and confirms. What goes out is asked of [`Peers`](super::Peers) once a
//! turn; this part reads.

use super::PeerId;
use super::wire::{self, Frame};
use crate::conn::{Next, Progress};
use crate::core::Core;
use crate::hop::ConnToken;

/// Encrypts what goes out over a link, and decrypts what comes in.
pub trait Cipher: std::fmt::Debug + Send {
    /// Appends the plain bytes of what was received. False: it was tampered with,
    /// or the other end has ended the session.
    fn open(&mut self, sealed: &[u8], plain: &mut Vec<u8>) -> bool;

    /// Appends what is to be sent for `plain`.
    fn seal(&mut self, plain: &[u8], sealed: &mut Vec<u8>);
}

/// Which end of a link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It passes requests on, and replicates.
    Opened,
    /// It answers, and confirms.
    Accepted,
}

/// See the module's text.
#[derive(Debug)]
pub struct Link {
    token: ConnToken,
    peer: PeerId,
    end: End,
    /// Of the frame at the start of the input, bytes that are done with.
    done: usize,
    /// The rest of that frame cannot be taken yet.
    waits: bool,
    cipher: Option<Box<dyn Cipher>>,
    /// Decrypted and not consumed.
    plain: Vec<u8>,
}

impl Link {
    /// A fresh link to or from `peer`.
    pub fn new(token: ConnToken, peer: PeerId, end: End, cipher: Option<Box<dyn Cipher>>) -> Link {
        Link { token, peer, end, done: 0, waits: false, cipher, plain: Vec::new() }
    }

    /// Whether `on_bytes` should be called in about a millisecond.
    pub fn waits_for_time(&self) -> bool {
        self.waits
    }

    /// Bytes of its own buffers.
    pub fn buffer_bytes(&self) -> usize {
        self.plain.capacity()
    }

    /// Makes what is to be sent of what was put out.
    pub fn seal(&mut self, out: &mut Vec<u8>) {
        if let Some(cipher) = &mut self.cipher {
            let plain = std::mem::take(out);
            cipher.seal(&plain, out);
        }
    }

    /// Received bytes: what was left last time, then what is new.
    pub fn on_bytes(&mut self, core: &mut Core, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let Some(cipher) = &mut self.cipher else { return self.on_plain(core, input, out) };
        if !cipher.open(input, &mut self.plain) {
            return Progress { consumed: input.len(), next: Next::Close };
        }
        let mut plain = std::mem::take(&mut self.plain);
        let progress = self.on_plain(core, &plain, out);
        plain.drain(..progress.consumed);
        // Those that wait for the rest of a frame keep their memory for it.
        if !plain.is_empty() {
            self.plain = plain;
        }
        // What it needs is counted in plain bytes: any more may do.
        let next = match progress.next {
            Next::Read { .. } => Next::Read { need: 1 },
            next => next,
        };
        Progress { consumed: input.len(), next }
    }

    fn on_plain(&mut self, core: &mut Core, input: &[u8], out: &mut Vec<u8>) -> Progress {
        self.waits = false;
        // Out of the core for the time being, since it works on the core.
        let Some(mut peers) = core.peers.take() else {
            return Progress { consumed: 0, next: Next::Close };
        };
        let mut consumed = 0;
        let next = loop {
            let frame = wire::read_frame(&input[consumed..], peers.limits.frame_bytes_max);
            let (kind, payload, bytes) = match frame {
                Frame::Incomplete(need) => break Next::Read { need },
                Frame::Garbage => break Next::Close,
                Frame::Complete { kind, payload, bytes } => (kind, payload, bytes),
            };
            let good = match (self.end, kind) {
                (End::Accepted, wire::REQUESTS) => peers.execute_frame(payload, self.token, core),
                (End::Accepted, wire::PEERING) => {
                    let start = wire::begin_frame(wire::PEERING, out);
                    let rest = &payload[self.done..];
                    let (shard, now) = (&mut core.shard, core.now);
                    let used = peers.peering.receive(self.peer, rest, shard, now, out);
                    wire::end_frame(start, out);
                    match used {
                        Some(used) if used < rest.len() => {
                            self.done += used;
                            self.waits = true;
                            break Next::Later;
                        }
                        used => used.is_some(),
                    }
                }
                (End::Opened, wire::ANSWERS) => peers.answers(payload),
                (End::Opened, wire::PEERING) => {
                    peers.peering.replied(self.peer, payload, &mut core.shard, core.now)
                }
                _ => false,
            };
            if !good {
                break Next::Close;
            }
            self.done = 0;
            consumed += bytes;
        };
        core.peers = Some(peers);
        Progress { consumed, next }
    }

    /// The socket is gone.
    pub fn on_closed(&mut self, core: &mut Core) {
        let Some(peers) = &mut core.peers else { return };
        match self.end {
            End::Opened => peers.disconnected(self.peer, core.now),
            End::Accepted => peers.forget_accepted(self.peer, self.token),
        }
    }
}
