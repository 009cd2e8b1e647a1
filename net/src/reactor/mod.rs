//! The loop of one data core.
//!
//! A turn: take what other cores sent, take what the kernel brought and feed it
//! to the connections, go on with those whose share ran out last time, do a
//! slice of the shard's background work, post requests to other cores, send
//! each connection's output with one send, and wait for more. The kernel is
//! entered once a turn.
//!
//! What keeps one connection from harming the others:
//! - a turn's share of requests ([`Next::Yield`]): the rest waits in `ready`;
//! - a bounded backlog: a connection that cannot go on and has more than
//!   [`ReactorOptions::backlog_bytes_max`] waiting is not received from, so its
//!   client meets TCP's own back-pressure;
//! - while the socket does not take its output, nothing more is executed for
//!   it, so its output stays below the high-water mark plus one answer.
//!
//! | file | idea |
//! |---|---|
//! | `mod.rs` | the turn, and what a connection goes through in it |
//! | `table.rs` | connections by slot |
//! | `accept.rs` | new connections, their limit, the core they go to |
//! | `mail.rs` | what travels over the mesh |
//! | `speaker.rs` | who is on a connection: a client, or another node |
//! | `peers.rs` | links to other nodes, and requests that wait for them |
//! | `ledger.rs` | the memory of all connections together, bounded |
//! | `upkeep.rs` | background work, idle connections, draining |

mod accept;
mod ledger;
mod mail;
mod peers;
mod speaker;
mod table;
mod upkeep;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::conn::{CloseReason, Next, Progress};
use crate::core::Core;
use crate::limits::CALM_RECEIVES_MIN;
use crate::listener::ListenAddress;
use crate::mesh::{Life, Post};
use crate::sys::buffers::Buffers;
use crate::sys::memory::Mapping;
use crate::sys::{Backend, Event, Received, Slot};
use accept::Acceptor;
use ledger::Ledger;
use peers::PeerWork;
use table::{Connection, Table};
use upkeep::Upkeep;

/// Longest wait of a core with nothing to do.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Connections that waited for this turn and get on in it, however much others ask.
const CONTINUED_PER_TURN_MIN: usize = 16;
/// A wait for something that announces itself by no event.
const WAIT_FOR_ROOM: Duration = Duration::from_millis(1);

/// Bounds and habits of a core's loop.
#[derive(Clone, Copy, Debug)]
pub struct ReactorOptions {
    /// Bytes that may wait for a connection that cannot go on before its
    /// socket is no longer read. Four receive buffers.
    pub backlog_bytes_max: usize,
    /// Bytes that all connections of the core may hold in buffers; past it the
    /// one that holds most is closed.
    pub connection_bytes_max: usize,
    /// Bytes of idle buffers that the core keeps.
    pub spare_buffer_bytes_max: usize,
    /// How long to look for work before sleeping. Burns CPU to save the wake-up.
    pub busy_poll: Duration,
}

impl Default for ReactorOptions {
    fn default() -> Self {
        ReactorOptions {
            backlog_bytes_max: 64 << 10,
            connection_bytes_max: 64 << 20,
            spare_buffer_bytes_max: 4 << 20,
            busy_poll: Duration::ZERO,
        }
    }
}

/// A listener as every core knows it.
#[derive(Clone, Debug)]
pub struct ListenerInfo {
    /// Where it listens.
    pub address: ListenAddress,
    /// Set for a core port: the core that keeps what comes in there.
    pub core: Option<u32>,
}

/// One data core's loop. Built and run on its own thread.
pub struct Reactor<B: Backend> {
    core: Core,
    backend: B,
    post: Post,
    clock: Clock,
    options: ReactorOptions,
    listeners: Arc<[ListenerInfo]>,
    /// Bound sockets that nobody can connect to yet, with their listener's number.
    unopened: Vec<(u32, OwnedFd)>,
    /// The shard's memory, to give pages back.
    memory: Arc<Mapping>,
    buffers: Buffers,
    table: Table,
    acceptor: Acceptor,
    ledger: Ledger,
    upkeep: Upkeep,
    peer_work: PeerWork,
    /// Slots that belong to links.
    links: HashSet<Slot>,
    /// Connections that go on next turn.
    ready: Vec<Slot>,
    /// Connections with output, or to be closed, at the end of this turn.
    dirty: Vec<Slot>,
    /// Connections to be told when their send is out.
    draining: Vec<Slot>,
    /// Connections that wait for room toward a peer.
    stalled: Vec<Slot>,
    /// Connections that wait for a millisecond to pass.
    patient: Vec<Slot>,
    /// Emptied lists, kept for their memory.
    spare_list: Vec<Slot>,
    /// Set when something happened in this turn.
    busy: bool,
}

impl<B: Backend> Reactor<B> {
    /// A loop around its parts.
    pub fn new(
        mut core: Core,
        mut backend: B,
        post: Post,
        clock: Clock,
        options: ReactorOptions,
        listeners: Arc<[ListenerInfo]>,
        sockets: Vec<(u32, OwnedFd)>,
        memory: Arc<Mapping>,
    ) -> std::io::Result<Reactor<B>> {
        backend.watch_wake(post.wake_fd())?;
        core.watch.first_connection = listeners.len() as u64;
        // A buffer that grew far beyond what one turn puts out is not kept.
        let buffer_bytes_max = 2 * core.shared.settings.output_bytes_high_water;
        Ok(Reactor {
            core,
            backend,
            post,
            clock,
            options,
            listeners,
            unopened: sockets,
            memory,
            buffers: Buffers::new(options.spare_buffer_bytes_max, buffer_bytes_max),
            table: Table::default(),
            acceptor: Acceptor::default(),
            ledger: Ledger::default(),
            upkeep: Upkeep::new(Instant::now()),
            peer_work: PeerWork::new(Instant::now()),
            links: HashSet::new(),
            ready: Vec::new(),
            dirty: Vec::new(),
            draining: Vec::new(),
            stalled: Vec::new(),
            patient: Vec::new(),
            spare_list: Vec::new(),
            busy: false,
        })
    }

    /// Runs until the node stops.
    pub fn run(mut self) -> std::io::Result<()> {
        loop {
            let instant = Instant::now();
            self.core.now = self.clock.at(instant);
            self.core.stats.turns += 1;
            self.core.begin_turn(self.crowding(), self.options.connection_bytes_max);
            self.busy = false;
            self.begin_peers();
            let life = self.post.doors().life();
            match life {
                Life::Closed | Life::Draining | Life::CutOff => {}
                Life::Running => self.open()?,
                Life::Stopping => break,
            }
            self.take_mail();
            self.take_events();
            // In a long turn mostly the first of these gets on.
            if self.core.stats.turns.is_multiple_of(2) {
                self.on_drained();
                self.run_ready();
            } else {
                self.run_ready();
                self.on_drained();
            }
            self.accept_waiting(instant);
            self.upkeep(instant);
            self.post_mail();
            self.serve_peers(instant);
            if life == Life::Draining {
                // After the turn's events: what woke this core may be a request,
                // whose connection only looked idle before it was taken in.
                self.drain_idle(instant);
            } else if life == Life::CutOff {
                self.cut_off();
            }
            self.check_lease();
            self.flush();
            self.bound_buffers();
            self.wait(instant)?;
        }
        self.post.leave();
        self.shut_down()
    }

    /// Starts accepting, once.
    fn open(&mut self) -> std::io::Result<()> {
        for (number, socket) in std::mem::take(&mut self.unopened) {
            self.backend.listen(number, socket)?;
        }
        Ok(())
    }

    /// Hands the turn's sends to the kernel and waits for the next thing.
    fn wait(&mut self, turn: Instant) -> std::io::Result<()> {
        let timeout = self.timeout(turn);
        if timeout.is_zero() {
            return self.backend.poll(Duration::ZERO, &mut self.buffers);
        }
        if !self.options.busy_poll.is_zero() && self.busy {
            // Keep looking for a while; whatever comes ends the search.
            let until = turn + self.options.busy_poll;
            self.backend.poll(Duration::ZERO, &mut self.buffers)?;
            while !self.backend.has_event() && !self.post.has_mail() && Instant::now() < until {
                std::hint::spin_loop();
                self.backend.poll(Duration::ZERO, &mut self.buffers)?;
            }
            if self.backend.has_event() || self.post.has_mail() {
                return Ok(());
            }
        }
        if !self.post.prepare_sleep() {
            return self.backend.poll(Duration::ZERO, &mut self.buffers);
        }
        self.core.shard.put_down();
        let result = self.backend.poll(timeout, &mut self.buffers);
        self.core.shard.take_up();
        self.post.awake();
        result
    }

    fn timeout(&self, turn: Instant) -> Duration {
        if !self.ready.is_empty() || !self.draining.is_empty() || self.outbox_has_own_mail() {
            return Duration::ZERO;
        }
        let mut timeout = self.upkeep.timeout(turn).min(WAIT_MAX);
        if self.waits_for_room() || !self.patient.is_empty() {
            timeout = timeout.min(WAIT_FOR_ROOM);
        }
        if let Some(pause) = self.acceptor.timeout(turn) {
            timeout = timeout.min(pause);
        }
        if let Some(pause) = self.peers_timeout() {
            timeout = timeout.min(pause);
        }
        timeout
    }

    fn take_events(&mut self) {
        while let Some(event) = self.backend.next_event() {
            self.busy = true;
            match event {
                Event::Received { slot, received } => self.on_received(slot, received),
                Event::Sent { slot } => self.on_sent(slot),
                Event::Ended { slot } => self.on_ended(slot),
                Event::Failed { slot, .. } => self.drop_now(slot, CloseReason::Error),
                Event::Closed { slot } => self.on_closed(slot),
                Event::Accepted { listener, socket } => self.on_accepted(listener, socket),
                Event::AcceptFailed { errno, .. } => self.on_accept_failed(errno),
            }
        }
    }

    fn on_received(&mut self, slot: Slot, received: Received) {
        self.core.stats.bytes_read += u64::from(received.bytes);
        let Some(connection) = self.table.get(slot).filter(|open| open.closing.is_none()) else {
            return self.backend.release(received);
        };
        connection.heard = self.core.now;
        let bytes = self.backend.bytes(&received);
        let waits = connection.blocked || connection.ready || self.backend.is_sending(slot);
        if !waits && connection.backlog.is_empty() {
            // The usual way: straight from the receive buffer.
            connection.prepare_out(&mut self.buffers);
            let progress = connection.conn.on_bytes(&mut self.core, bytes, &mut connection.out);
            let rest = &bytes[progress.consumed..];
            connection.backlog.append(rest, &mut self.buffers);
            self.backend.release(received);
            if connection.calm < CALM_RECEIVES_MIN && connection.backlog.is_empty() {
                connection.calm += 1;
                if connection.calm == CALM_RECEIVES_MIN {
                    self.backend.set_multishot(slot, true);
                }
            }
            return self.after_bytes(slot, progress);
        }
        connection.backlog.append(bytes, &mut self.buffers);
        self.ledger.count(connection);
        self.backend.release(received);
        if !waits && connection.has_enough(self.options.backlog_bytes_max) {
            return self.run_backlog(slot);
        }
        if waits && !connection.paused && connection.backlog.len() > self.options.backlog_bytes_max
        {
            connection.paused = true;
            connection.calm = 0;
            self.backend.set_multishot(slot, false);
            self.backend.pause(slot);
        }
    }

    /// Offers a connection what it has left unconsumed, be it nothing.
    fn run_backlog(&mut self, slot: Slot) {
        let Some(connection) = self.table.get(slot).filter(|open| open.closing.is_none()) else {
            return;
        };
        if self.backend.is_sending(slot) {
            // It goes on when its output is out.
            return;
        }
        connection.prepare_out(&mut self.buffers);
        let backlog = connection.backlog.bytes();
        let progress = connection.conn.on_bytes(&mut self.core, backlog, &mut connection.out);
        connection.backlog.consume(progress.consumed, &mut self.buffers);
        self.after_bytes(slot, progress);
    }

    fn after_bytes(&mut self, slot: Slot, progress: Progress) {
        let next = progress.next;
        let Some(connection) = self.table.get(slot) else { return };
        connection.blocked = false;
        connection.need = 0;
        let resumes = connection.backlog.len() <= self.options.backlog_bytes_max / 2
            || matches!(next, Next::Read { .. });
        if connection.paused && resumes {
            connection.paused = false;
            self.backend.resume(slot);
        }
        match next {
            Next::Read { need } => {
                connection.need = connection.backlog.len() + need.max(1);
                if connection.is_finished() {
                    connection.begin_close(CloseReason::Normal, self.core.now);
                }
            }
            Next::Yield if progress.consumed > 0 || !is_congested(&self.core) => {
                self.core.stats.conn_yields += 1;
                if !connection.ready {
                    connection.ready = true;
                    self.ready.push(slot);
                }
            }
            // A yield without progress while a peer is too far behind: trying
            // again before a batch comes home would only burn time.
            Next::Yield | Next::Blocked => {
                connection.blocked = true;
                if !connection.stalled && is_congested(&self.core) {
                    self.stall(slot);
                }
            }
            Next::Later => connection.blocked = true,
            Next::Close => {
                let reason = connection.conn.close_reason();
                connection.begin_close(reason, self.core.now);
            }
        }
        self.note_patience(slot);
        self.note_output(slot);
    }

    /// Remembers a connection that is to be tried again in a millisecond.
    fn note_patience(&mut self, slot: Slot) {
        let Some(connection) = self.table.get(slot) else { return };
        if connection.conn.waits_for_time() && !connection.patient {
            connection.patient = true;
            self.patient.push(slot);
        }
    }

    /// A millisecond has passed.
    fn retry_patient(&mut self) {
        let mut list = std::mem::take(&mut self.patient);
        for slot in list.drain(..) {
            let Some(connection) = self.table.get(slot) else { continue };
            connection.patient = false;
            if connection.conn.waits_for_time() && !connection.ready {
                connection.ready = true;
                self.ready.push(slot);
            }
        }
        self.patient = list;
    }

    /// Remembers a connection to be tried again when a batch comes home.
    fn stall(&mut self, slot: Slot) {
        if let Some(connection) = self.table.get(slot) {
            connection.stalled = true;
            self.stalled.push(slot);
        }
    }

    /// After an event that is not `on_bytes`: go on with the input if the
    /// connection can, and see whether its end has come.
    fn settle(&mut self, slot: Slot) {
        let Some(connection) = self.table.get(slot).filter(|open| open.closing.is_none()) else {
            return;
        };
        if connection.conn.is_ready() && !connection.ready {
            if !self.core.is_long_turn() {
                return self.run_backlog(slot);
            }
            connection.ready = true;
            self.ready.push(slot);
        }
        if connection.is_finished() {
            connection.begin_close(CloseReason::Normal, self.core.now);
        }
        self.note_patience(slot);
        self.note_output(slot);
    }

    /// Remembers a connection that has something to send, or is to be closed.
    fn note_output(&mut self, slot: Slot) {
        let Some(connection) = self.table.get(slot) else { return };
        if connection.out.is_empty() {
            if connection.out.capacity() > 0 {
                self.buffers.put(std::mem::take(&mut connection.out));
            }
            if connection.closing.is_none() {
                return self.ledger.count(connection);
            }
        }
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(slot);
        }
    }

    fn on_ended(&mut self, slot: Slot) {
        let Some(connection) = self.table.get(slot) else { return };
        connection.ended = true;
        // What is under way is still answered: the client may read on.
        if connection.is_finished() {
            connection.begin_close(CloseReason::Normal, self.core.now);
        }
        self.note_output(slot);
    }

    /// The rest of a short send is out.
    fn on_sent(&mut self, slot: Slot) {
        let Some(connection) = self.table.get(slot) else { return };
        if connection.closing.is_some() {
            return self.note_output(slot);
        }
        if !self.core.is_long_turn() {
            return self.tell_drained(slot);
        }
        if !connection.draining {
            connection.draining = true;
            self.draining.push(slot);
        }
    }

    /// Connections whose silent send of the last turn is out by now.
    fn on_drained(&mut self) {
        let mut list = std::mem::take(&mut self.draining);
        let mut told = 0;
        for slot in &list {
            if self.core.is_long_turn() && told >= CONTINUED_PER_TURN_MIN {
                break;
            }
            told += 1;
            let Some(connection) = self.table.get(*slot) else { continue };
            connection.draining = false;
            if connection.closing.is_none() && !self.backend.is_sending(*slot) {
                self.tell_drained(*slot);
            }
        }
        // The others are the first of the next turn. Telling may have put new ones into
        // the list.
        list.drain(..told);
        list.append(&mut self.draining);
        self.draining = list;
    }

    fn tell_drained(&mut self, slot: Slot) {
        let Some(connection) = self.table.get(slot) else { return };
        connection.prepare_out(&mut self.buffers);
        connection.conn.on_drained(&mut self.core, &mut connection.out);
        // A short send may have kept input waiting that needs nothing else.
        let waiting = !connection.blocked
            && !connection.ready
            && !connection.backlog.is_empty()
            && connection.has_enough(self.options.backlog_bytes_max);
        if waiting { self.run_backlog(slot) } else { self.settle(slot) }
    }

    /// Those whose share of the last turn ran out.
    fn run_ready(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        self.busy = true;
        let mut list = std::mem::replace(&mut self.ready, std::mem::take(&mut self.spare_list));
        let mut ran = 0;
        for slot in &list {
            if self.core.is_long_turn() && ran >= CONTINUED_PER_TURN_MIN {
                break;
            }
            ran += 1;
            if let Some(connection) = self.table.get(*slot) {
                connection.ready = false;
                self.run_backlog(*slot);
            }
        }
        if ran == list.len() {
            list.clear();
            self.spare_list = list;
        } else {
            // The others are the first of the next turn.
            list.drain(..ran);
            list.append(&mut self.ready);
            self.spare_list = std::mem::replace(&mut self.ready, list);
        }
    }

    /// One send a connection; then the closing ones are closed.
    fn flush(&mut self) {
        let mut list = std::mem::take(&mut self.dirty);
        for slot in list.drain(..) {
            let Some(connection) = self.table.get(slot) else { continue };
            connection.dirty = false;
            if self.backend.is_sending(slot) && !connection.out.is_empty() {
                // `on_sent` brings it back.
                connection.trim_out(&mut self.buffers);
                self.ledger.count(connection);
                continue;
            }
            if !connection.out.is_empty() {
                connection.conn.seal(&mut connection.out);
            }
            let bytes = connection.out.len();
            if bytes > 0 {
                self.core.stats.bytes_written += bytes as u64;
                self.backend.send(slot, std::mem::take(&mut connection.out), &mut self.buffers);
            }
            self.ledger.count(connection);
            if let Some((reason, _)) = connection.closing {
                if reason == CloseReason::Shutdown {
                    self.end_gently(slot);
                } else {
                    self.close(slot);
                }
            } else if (connection.blocked || connection.conn.has_pending()) && !connection.draining
            {
                connection.draining = true;
                self.draining.push(slot);
            }
        }
        self.dirty = list;
    }

    /// Everything is handed over: the socket is closed when it is out.
    fn close(&mut self, slot: Slot) {
        if let Some(mut connection) = self.table.take(slot, self.core.now) {
            self.say_goodbye(slot, &mut connection);
            self.backend.close(slot, &mut self.buffers);
        }
    }

    /// The socket is closed at once.
    fn drop_now(&mut self, slot: Slot, reason: CloseReason) {
        if let Some(mut connection) = self.table.take(slot, self.core.now) {
            connection.begin_close(reason, self.core.now);
            self.say_goodbye(slot, &mut connection);
            self.backend.abort(slot, &mut self.buffers);
        }
    }

    fn say_goodbye(&mut self, slot: Slot, connection: &mut Connection) {
        connection.conn.on_closed(&mut self.core);
        if self.core.watch.connections() {
            let (ip, port, transport) = self.remote(slot, connection.listener);
            let reason = connection.closing.map_or(CloseReason::Normal, |(reason, _)| reason);
            let now = self.core.now;
            let number = self.core.watch.connection_number(self.core.id, slot);
            self.core.watch.connection_closed(now, &ip, port, transport, reason, number);
        }
        self.ledger.forget(connection);
        connection.backlog.clear(&mut self.buffers);
        self.buffers.put(std::mem::take(&mut connection.out));
    }

    fn on_closed(&mut self, slot: Slot) {
        self.table.release(slot);
        if !self.links.remove(&slot) {
            self.count_out();
        }
    }

    /// The node stops: every socket goes.
    fn shut_down(mut self) -> std::io::Result<()> {
        self.backend.close_listeners();
        for slot in 0..self.table.slots() {
            self.drop_now(slot, CloseReason::Shutdown);
        }
        // Two turns bring the last completions; nobody waits for stragglers.
        for _ in 0..2 {
            self.backend.poll(Duration::ZERO, &mut self.buffers)?;
            while let Some(event) = self.backend.next_event() {
                match event {
                    Event::Received { received, .. } => self.backend.release(received),
                    Event::Closed { slot } => self.on_closed(slot),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Whether some peer takes no more requests for now.
fn is_congested(core: &Core) -> bool {
    (0..core.cores).any(|peer| core.outbox.is_full(peer))
}
