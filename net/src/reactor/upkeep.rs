//! What a core does beside serving: the shard's background work in slices,
//! closing connections that are silent for too long, draining at the end.

use std::time::{Duration, Instant};

use super::Reactor;
use crate::conn::CloseReason;
use crate::sys::socket::{end_output, unread_bytes};
use crate::sys::{Backend, Slot};
use engine::Now;

/// Between two slices of the shard's background work when there is little of it.
const MAINTAIN_EVERY: Duration = Duration::from_millis(1);
/// Between two slices when more is waiting: a slice takes up to 50 us, so a
/// busy core gives at most a fifth of its time to them.
const MAINTAIN_EVERY_BACKLOG: Duration = Duration::from_micros(250);
/// Between two tries of what waits for other values to arrive.
const RETRY_EVERY: Duration = Duration::from_millis(2);
/// Between two sweeps over the connections.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Connections looked at in one turn of a sweep.
const SWEEP_SLOTS: Slot = 1024;
/// A connection that is to be closed and does not take its last output is cut
/// off after this long.
const LINGER_MS: u64 = 60_000;
/// Between two looks at the connections of a draining core.
const DRAIN_EVERY: Duration = Duration::from_millis(5);
/// A client of a draining core that goes on sending for so long without a pause is
/// closed behind the answer to whatever was executed last.
const DRAIN_BUSY_MS: u64 = 1_000;
/// What a client sends after the end of its answers is taken in and thrown away for
/// so long: to close at once would reset the connection, and the client might lose
/// answers that it has not read yet.
const DRAIN_LINGER_MS: u64 = 100;

/// Where the background work stands.
#[derive(Debug)]
pub(super) struct Upkeep {
    maintained: Instant,
    more: bool,
    retried: Instant,
    swept: Instant,
    /// The next slot of a sweep under way.
    sweep_at: Option<Slot>,
    drained: Option<Instant>,
    /// Since when the core drains.
    draining_since: Option<Now>,
    /// The clients that were left have been cut off.
    cut_off: bool,
}

impl Upkeep {
    pub fn new(now: Instant) -> Upkeep {
        Upkeep {
            maintained: now,
            more: false,
            retried: now,
            swept: now,
            sweep_at: None,
            drained: None,
            draining_since: None,
            cut_off: false,
        }
    }

    /// How long the core may wait.
    pub fn timeout(&self, turn: Instant) -> Duration {
        if self.more || self.sweep_at.is_some() {
            return Duration::ZERO;
        }
        if self.drained.is_some() {
            return DRAIN_EVERY;
        }
        (self.swept + SWEEP_EVERY).saturating_duration_since(turn).max(Duration::from_millis(1))
    }
}

impl<B: Backend> Reactor<B> {
    pub(super) fn upkeep(&mut self, turn: Instant) {
        let passed = turn.saturating_duration_since(self.upkeep.maintained);
        let due = if self.upkeep.more { MAINTAIN_EVERY_BACKLOG } else { MAINTAIN_EVERY };
        // With nothing else to do the backlog is worked off at once.
        if passed >= due || (self.upkeep.more && !self.busy) {
            self.upkeep.maintained = turn;
            self.upkeep.more = self.core.shard.maintain(self.core.now);
            self.release_memory();
        }
        if !self.patient.is_empty()
            && turn.saturating_duration_since(self.upkeep.retried) >= RETRY_EVERY
        {
            self.upkeep.retried = turn;
            self.retry_patient();
        }
        if turn.saturating_duration_since(self.upkeep.swept) >= SWEEP_EVERY {
            self.upkeep.swept = turn;
            self.show_buffers();
            self.upkeep.sweep_at.get_or_insert(0);
        }
        if let Some(from) = self.upkeep.sweep_at {
            let to = (from + SWEEP_SLOTS).min(self.table.slots());
            for slot in from..to {
                self.sweep(slot);
            }
            self.upkeep.sweep_at = (to < self.table.slots()).then_some(to);
        }
    }

    /// Gives pages that the shard does not use any more back to the kernel.
    fn release_memory(&mut self) {
        let page = 4096;
        while let Some((offset, bytes)) = self.core.shard.take_released() {
            // Whole pages of the kernel inside the range.
            let from = offset.next_multiple_of(page);
            let to = (offset + bytes) / page * page;
            if from < to {
                // SAFETY: the shard has declared the range free and expects
                // nothing of its contents.
                unsafe { self.memory.release(from, to - from) };
            }
        }
    }

    /// memcached's rules: a client that has sent no command for longer than the
    /// timeout is closed, unless its last one is still being answered or its
    /// value is still arriving.
    fn sweep(&mut self, slot: Slot) {
        self.look_whether_stuck(slot);
        let now = self.core.now;
        if let Some(since) = self.table.closing_since(slot) {
            if now.0.saturating_sub(since.0) > LINGER_MS {
                self.backend.abort(slot, &mut self.buffers);
            }
            return;
        }
        let Some(connection) = self.table.get(slot) else { return };
        if let Some((reason, since)) = connection.closing {
            if now.0.saturating_sub(since.0) > LINGER_MS {
                self.drop_now(slot, reason);
            }
            return;
        }
        let timeout = u64::from(self.core.shared.settings.idle_timeout_seconds) * 1000;
        if timeout == 0 {
            return;
        }
        let waits_for_us = !connection.conn.is_client()
            || connection.blocked
            || connection.ready
            || !connection.out.is_empty()
            || connection.conn.has_pending()
            || self.backend.is_sending(slot);
        let heard = match connection.conn.state() {
            "conn_nread" | "conn_swallow" => connection.heard,
            _ => connection.conn.last_command(now),
        };
        if !waits_for_us && now.0.saturating_sub(heard.0) > timeout {
            self.core.stats.idle_kicks += 1;
            connection.begin_close(CloseReason::IdleTimeout, now);
            self.note_output(slot);
        }
    }

    /// The node drains: no new connections, and those that are between two
    /// commands are closed, however soon their next one may come.
    pub(super) fn drain_idle(&mut self, turn: Instant) {
        let now = self.core.now;
        let since = *self.upkeep.draining_since.get_or_insert(now);
        match self.upkeep.drained {
            None => {
                self.unopened.clear();
                self.backend.close_listeners();
                // What clients had sent by now is taken in first.
                self.upkeep.drained = Some(turn);
                return;
            }
            Some(at) if turn.saturating_duration_since(at) < DRAIN_EVERY => return,
            Some(_) => {}
        }
        self.upkeep.drained = Some(turn);
        if self.table.occupied_count() == 0 {
            return;
        }
        let is_late = now.0.saturating_sub(since.0) > DRAIN_BUSY_MS;
        for slot in 0..self.table.slots() {
            let Some(connection) = self.table.get(slot) else { continue };
            if let Some((CloseReason::Shutdown, _)) = connection.closing {
                // Whether it may be closed by now.
                self.note_output(slot);
            } else if connection.closing.is_none() && connection.may_end(is_late) {
                let unread = self.backend.descriptor(slot).map_or(0, unread_bytes);
                if unread == 0 || is_late {
                    connection.begin_close(CloseReason::Shutdown, now);
                    self.note_output(slot);
                }
            }
        }
    }

    /// A connection of a draining core, all of whose answers were handed over: says
    /// that no more will come once they are out, and closes it when the client has
    /// closed its side or had the time to.
    pub(super) fn end_gently(&mut self, slot: Slot) {
        let is_sending = self.backend.is_sending(slot);
        let now = self.core.now;
        let Some(connection) = self.table.get(slot) else { return };
        match (connection.said_end, connection.closing) {
            // Looked at again every few milliseconds.
            _ if is_sending => {}
            (None, Some(_)) if !connection.ended => {
                connection.said_end = Some(now);
                if let Some(descriptor) = self.backend.descriptor(slot) {
                    end_output(descriptor);
                }
            }
            (Some(since), Some(_))
                if !connection.ended && now.0.saturating_sub(since.0) <= DRAIN_LINGER_MS => {}
            _ => self.close(slot),
        }
    }

    /// The time to drain is over: every client's connection goes at once, whatever is
    /// under way on it, so that nobody changes an item any more.
    pub(super) fn cut_off(&mut self) {
        if std::mem::replace(&mut self.upkeep.cut_off, true) {
            return;
        }
        self.unopened.clear();
        self.backend.close_listeners();
        for slot in 0..self.table.slots() {
            if self.table.closing_since(slot).is_some() {
                self.backend.abort(slot, &mut self.buffers);
            } else if self.table.get(slot).is_some_and(|connection| connection.conn.is_client()) {
                self.drop_now(slot, CloseReason::Shutdown);
            }
        }
    }
}
