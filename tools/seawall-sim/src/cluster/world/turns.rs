//! Cores that turn, and the links between them.

use super::World;
use crate::cluster::data::{Core, Turn};
use crate::cluster::hub::{End, Event, MS, Who};
use crate::cluster::machine::{Machine, machine_name};

/// A core's loop turns at least so often.
const TURN_US: u64 = 5 * MS;

impl World {
    pub(super) fn core_turn(&mut self, who: Who, core: u16) {
        let at = self.hub.at;
        let machine = &mut self.machines[who.machine];
        let (clock, paused_until) = (machine.clock, machine.paused_until);
        let Some(process) = machine.process(who) else { return };
        let own = &mut process.cores[usize::from(core)];
        if own.due != at {
            return;
        }
        own.due = u64::MAX;
        let asleep_until = paused_until.max(own.stalled_until);
        if asleep_until > at {
            return self.wake(who, core, asleep_until - at);
        }
        if let Some(lasts) = machine.interrupt.take() {
            // It has read the clocks, and sleeps before it does anything.
            machine.paused_until = at + lasts;
            let Some(process) = machine.process(who) else { return };
            process.cores[usize::from(core)].stale = Some((clock.millis(at), clock.now(at)));
            return self.wake(who, core, lasts);
        }
        self.with_core(who, core, |core, turn| core.turn(turn));
        let Some(process) = self.machines[who.machine].process(who) else { return };
        let own = &mut process.cores[usize::from(core)];
        own.stale = None;
        let within = if own.is_busy() { MS } else { TURN_US };
        self.wake(who, core, within);
    }

    /// Lets a core do something, and takes note of what came of it.
    pub(super) fn with_core(
        &mut self,
        who: Who,
        core: u16,
        act: impl FnOnce(&mut Core, &mut Turn<'_>),
    ) {
        let at = self.hub.at;
        let life = |machine: &Machine| machine.process.as_ref().map(|process| process.who.life);
        let lives: Vec<Option<u64>> = self.machines.iter().map(life).collect();
        let machine = &mut self.machines[who.machine];
        let now = machine.clock;
        let Some(process) = machine.process(who) else { return };
        let own = &mut process.cores[usize::from(core)];
        let (clock, wall) = own.stale.unwrap_or((now.millis(at), now.now(at)));
        let mut turn = Turn {
            hub: &mut self.hub,
            net: &mut self.net,
            lives: &lives,
            clock,
            now: wall,
            clock_at_end: now.millis(at),
            acknowledged: Vec::new(),
            garbage: 0,
            zone_reads: 0,
            watch: self.setup.watch,
        };
        act(own, &mut turn);
        self.garbage += turn.garbage;
        self.zone_reads += turn.zone_reads;
        let name = machine_name(who.machine);
        for (partition, epoch) in turn.acknowledged {
            self.recorder.acknowledge(partition, epoch, &name, at);
        }
    }

    pub(super) fn bytes(&mut self, link: u64, to: End, bytes: &[u8]) {
        let Some(found) = self.net.link(link).filter(|_| self.net.is_alive(link)) else { return };
        let (place, peer) = match to {
            End::Opener => (found.opener, found.acceptor_peer),
            End::Acceptor => (found.acceptor, found.opener_peer),
        };
        if let Some(process) = self.machines[place.who.machine].process(place.who) {
            process.cores[usize::from(place.core)].on_bytes(link, peer, to, bytes);
            let within = self.hub.random.between(5, 100);
            self.wake(place.who, place.core, within);
        }
    }

    pub(super) fn accept(&mut self, link: u64) {
        let Some(found) = self.net.link(link) else { return };
        let (place, peer) = (found.acceptor, found.opener_peer);
        let cores = usize::from(self.setup.node.cores(place.who.machine));
        let Some(process) = self.machines[place.who.machine].process(place.who) else {
            return self.net.reset(link, MS, &mut self.hub);
        };
        if usize::from(place.core) >= cores {
            return self.net.reset(link, MS, &mut self.hub);
        }
        let old = process.cores[usize::from(place.core)].on_accept(link, peer);
        if let Some(old) = old {
            self.net.reset(old, 5 * MS, &mut self.hub);
        }
        self.wake(place.who, place.core, 50);
    }

    pub(super) fn connected(&mut self, link: u64) {
        if !self.net.is_alive(link) {
            return;
        }
        let Some(found) = self.net.link(link) else { return };
        let (place, peer) = (found.opener, found.acceptor_peer);
        self.with_core(place.who, place.core, |core, turn| core.on_connected(link, peer, turn));
        self.wake(place.who, place.core, 50);
    }

    pub(super) fn closed(&mut self, link: u64, end: End) {
        let Some(found) = self.net.link(link) else { return };
        let (place, peer) = match end {
            End::Opener => (found.opener, found.acceptor_peer),
            End::Acceptor => (found.acceptor, found.opener_peer),
        };
        let machine = &self.machines[place.who.machine];
        if machine.paused_until > self.hub.at {
            // It learns of it when it wakes up.
            let late = machine.paused_until - self.hub.at;
            self.hub.after(late, Event::Closed { link, end });
            return;
        }
        self.with_core(place.who, place.core, |core, turn| core.on_closed(link, peer, end, turn));
        self.wake(place.who, place.core, 50);
    }
}
