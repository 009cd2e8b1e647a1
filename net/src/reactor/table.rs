//! A core's connections, by slot.

use engine::Now;

use super::speaker::Speaker;
use crate::conn::CloseReason;
use crate::core::Core;
use crate::hop::ConnToken;
use crate::sys::Slot;
use crate::sys::buffers::Buffers;

/// A connection with what the reactor keeps for it.
#[derive(Debug)]
pub(super) struct Connection {
    pub conn: Speaker,
    /// Output of this turn; empty and without memory when there is none.
    pub out: Vec<u8>,
    /// Received and not consumed.
    pub backlog: Backlog,
    /// Bytes that the backlog must hold before the connection can go on.
    pub need: usize,
    /// The listener it came in by.
    pub listener: u32,
    /// When bytes last came in.
    pub heard: Now,
    /// It waits for answers, or for its output to drain.
    pub blocked: bool,
    /// In the list of those that go on next turn.
    pub ready: bool,
    /// In the list of those with output, or to be closed, at the end of the turn.
    pub dirty: bool,
    /// In the list of those to be told when their send is out.
    pub draining: bool,
    /// In the list of those that wait for room toward a peer.
    pub stalled: bool,
    /// In the list of those that wait for a millisecond to pass.
    pub patient: bool,
    /// Receives in a row that left nothing over.
    pub calm: u8,
    /// Receiving is paused, for its backlog is long.
    pub paused: bool,
    /// The client will send no more.
    pub ended: bool,
    /// To be closed once its output is out; since when.
    pub closing: Option<(CloseReason, Now)>,
    /// Bytes of its buffers as the ledger has counted them.
    pub counted: usize,
    /// While room is short: how much the peer has taken, and since when no more.
    pub taken: Option<(u64, Now)>,
    /// When the client was told that no more output will come.
    pub said_end: Option<Now>,
}

/// What a slot holds.
#[derive(Debug)]
pub(super) enum Place {
    /// The slot is free.
    Free,
    /// A connection.
    Open(Box<Connection>),
    /// A socket being closed by the backend, since that moment.
    Closing(Now),
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    place: Place,
}

/// The table. A slot's generation counts its owners, so that an answer which
/// comes for an earlier one is told apart.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    free: Vec<Slot>,
    open: usize,
    occupied: usize,
}

impl Table {
    /// The token that the next connection will have.
    pub fn reserve(&mut self) -> ConnToken {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.entries.push(Entry { generation: 0, place: Place::Free });
                (self.entries.len() - 1) as Slot
            }
        };
        ConnToken { index: slot, generation: self.entries[slot as usize].generation }
    }

    /// Gives a reserved slot back unused.
    pub fn cancel(&mut self, token: ConnToken) {
        self.free.push(token.index);
    }

    /// Fills a reserved slot.
    pub fn open(&mut self, token: ConnToken, connection: Box<Connection>) {
        self.entries[token.index as usize].place = Place::Open(connection);
        self.open += 1;
        self.occupied += 1;
    }

    /// The connection in a slot.
    #[inline]
    pub fn get(&mut self, slot: Slot) -> Option<&mut Connection> {
        match self.entries.get_mut(slot as usize) {
            Some(Entry { place: Place::Open(connection), .. }) => Some(connection),
            _ => None,
        }
    }

    /// The connection of a token, unless it is gone.
    #[inline]
    pub fn by_token(&mut self, token: ConnToken) -> Option<&mut Connection> {
        match self.entries.get_mut(token.index as usize) {
            Some(Entry { generation, place: Place::Open(connection) })
                if *generation == token.generation =>
            {
                Some(connection)
            }
            _ => None,
        }
    }

    /// Takes the connection out; the slot stays occupied until the socket is gone.
    pub fn take(&mut self, slot: Slot, now: Now) -> Option<Box<Connection>> {
        let entry = &mut self.entries[slot as usize];
        if !matches!(entry.place, Place::Open(_)) {
            return None;
        }
        let Place::Open(connection) = std::mem::replace(&mut entry.place, Place::Closing(now))
        else {
            unreachable!("matched above")
        };
        entry.generation = entry.generation.wrapping_add(1);
        self.open -= 1;
        Some(connection)
    }

    /// The socket is gone: the slot is free.
    pub fn release(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot as usize];
        debug_assert!(matches!(entry.place, Place::Closing(_)));
        entry.place = Place::Free;
        self.free.push(slot);
        self.occupied -= 1;
    }

    /// Since when a slot's socket is being closed.
    pub fn closing_since(&self, slot: Slot) -> Option<Now> {
        match self.entries[slot as usize].place {
            Place::Closing(since) => Some(since),
            _ => None,
        }
    }

    /// Slots there are, used or not.
    pub fn slots(&self) -> Slot {
        self.entries.len() as Slot
    }

    /// Connections that are open.
    pub fn open_count(&self) -> usize {
        self.open
    }

    /// Connections whose socket is not gone yet.
    pub fn occupied_count(&self) -> usize {
        self.occupied
    }

    /// All open connections.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Connection)> {
        self.entries.iter().enumerate().filter_map(|(slot, entry)| match &entry.place {
            Place::Open(connection) => Some((slot as Slot, &**connection)),
            _ => None,
        })
    }
}

impl Connection {
    /// A fresh one.
    pub fn new(conn: Speaker, listener: u32, core: &Core) -> Connection {
        Connection {
            conn,
            out: Vec::new(),
            backlog: Backlog::default(),
            need: 0,
            listener,
            heard: core.now,
            blocked: false,
            ready: false,
            dirty: false,
            draining: false,
            stalled: false,
            patient: false,
            calm: 0,
            paused: false,
            ended: false,
            closing: None,
            said_end: None,
            counted: 0,
            taken: None,
        }
    }

    /// An output buffer is there from now on.
    #[inline]
    pub fn prepare_out(&mut self, buffers: &mut Buffers) {
        if self.out.capacity() == 0 {
            self.out = buffers.take();
        }
    }

    /// The output waits for the socket, perhaps for long: it must not hold a buffer
    /// that is much larger.
    pub fn trim_out(&mut self, buffers: &mut Buffers) {
        const WASTE_BYTES_MAX: usize = 4 << 10;
        if self.out.capacity() > 2 * self.out.len() + WASTE_BYTES_MAX {
            let large = std::mem::take(&mut self.out);
            self.out.extend_from_slice(&large);
            buffers.put(large);
        }
    }

    /// Whether the backlog is long enough to be worth offering. What needs more
    /// than a backlog may hold (a large value) is taken in pieces.
    #[inline]
    pub fn has_enough(&self, backlog_bytes_max: usize) -> bool {
        self.backlog.len() >= self.need.min(backlog_bytes_max)
    }

    /// No more of its input will be executed; its output still goes out.
    pub fn begin_close(&mut self, reason: CloseReason, now: Now) {
        self.closing.get_or_insert((reason, now));
    }

    /// The client will send no more, and nothing that it sent waits for its
    /// turn or its answer. What is left of its input is half a request.
    pub fn is_finished(&self) -> bool {
        self.ended
            && !self.blocked
            && !self.ready
            && !self.conn.has_pending()
            && self.backlog.len() < self.need.max(1)
    }

    /// Whether a client's connection may end here: all that it has sent is answered.
    /// `late`: what has begun to arrive is not waited for any more.
    pub fn may_end(&self, late: bool) -> bool {
        self.conn.is_client()
            && !self.conn.has_pending()
            && !self.blocked
            && !self.ready
            && (late || self.backlog.is_empty() && self.conn.is_between_commands())
    }
}

/// Received bytes that wait. Their buffer is no larger than they need: one from
/// the pool may have served a megabyte, and would make this connection look as
/// if it held that.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    start: usize,
}

impl Backlog {
    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// How many.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Bytes of its buffer.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == self.start
    }

    /// Puts bytes behind the others.
    pub fn append(&mut self, bytes: &[u8], buffers: &mut Buffers) {
        if bytes.is_empty() {
            return;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = buffers.take_small(bytes.len());
        }
        // Moving what is left to the front costs less than growing, and happens
        // at most once for every byte that goes through, since the front part
        // is at least as long.
        if self.start >= self.bytes.len() - self.start {
            self.bytes.copy_within(self.start.., 0);
            self.bytes.truncate(self.bytes.len() - self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Drops consumed bytes from the front.
    pub fn consume(&mut self, bytes: usize, buffers: &mut Buffers) {
        self.start += bytes;
        debug_assert!(self.start <= self.bytes.len());
        if self.is_empty() {
            self.clear(buffers);
        }
    }

    /// Drops everything.
    pub fn clear(&mut self, buffers: &mut Buffers) {
        self.start = 0;
        if self.bytes.capacity() > 0 {
            buffers.put(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_keeps_the_order_and_gives_its_memory_back() {
        let mut buffers = Buffers::new(1 << 20, 1 << 20);
        let mut backlog = Backlog::default();
        let mut next_in = 0u8;
        let mut next_out = 0u8;
        for round in 0..1000usize {
            let bytes: Vec<u8> = (0..round % 13)
                .map(|_| {
                    next_in = next_in.wrapping_add(1);
                    next_in
                })
                .collect();
            backlog.append(&bytes, &mut buffers);
            let eaten = backlog.len().min(round % 11);
            for byte in &backlog.bytes()[..eaten] {
                next_out = next_out.wrapping_add(1);
                assert_eq!(*byte, next_out);
            }
            backlog.consume(eaten, &mut buffers);
        }
        let rest = backlog.len();
        backlog.consume(rest, &mut buffers);
        assert!(backlog.is_empty() && backlog.bytes.capacity() == 0);
        assert!(buffers.spare_bytes() > 0);
    }
}
