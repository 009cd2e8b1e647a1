//! What a core hears from its node's control thread, and what it tells that.

use super::{Answer, Core, CoreTell, Turn};
use crate::cluster::hub::{Event, MS};
use crate::cluster::machine::Message;
use cluster::node::{Report, Tell};
use cluster::replication::Effect;
use cluster::spread::Word;
use engine::Version;
use engine::snapshot::{Generation, GenerationScope};

impl Core {
    pub(super) fn hear(&mut self, turn: &mut Turn<'_>) {
        while let Some(tell) = self.tells.pop_front() {
            match tell {
                CoreTell::Control(Tell::Topology { topology, me }) => {
                    self.me = me;
                    let (now, clock) = (turn.now, turn.clock);
                    self.replicator.set_topology(topology, me, &mut self.shard, now, clock);
                }
                // All cores see it at once: `set_lease`.
                CoreTell::Control(Tell::Lease(_)) => {}
                CoreTell::Control(Tell::Settled(revision)) => self.replicator.set_settled(revision),
                CoreTell::Control(Tell::Pause(partitions)) => self.replicator.pause(&partitions),
                CoreTell::Control(Tell::Resume(partitions)) => self.replicator.resume(&partitions),
                CoreTell::Word { ask, word } => self.hear_word(ask, &word, turn),
                CoreTell::Close(node) => {
                    let outs = self.outs.iter().filter(|(peer, _)| peer.node == node);
                    let outs: Vec<u64> = outs.filter_map(|(_, out)| out.link).collect();
                    let ins = self.ins.iter().filter(|(peer, _)| peer.node == node);
                    let ins: Vec<u64> = ins.map(|(_, own)| own.link).collect();
                    for link in outs.into_iter().chain(ins) {
                        turn.net.reset(link, 2 * MS, turn.hub);
                    }
                }
            }
        }
    }

    /// What the server's `spread::on_core` does.
    fn hear_word(&mut self, ask: u64, word: &Word, turn: &mut Turn<'_>) {
        let shard = &mut self.shard;
        let mut latest = 0;
        match word {
            Word::Latest(number) => {
                self.replicator.suspend_near_reads(*number, turn.clock);
                latest = shard.last_version().0.max(turn.now.0 << 20);
            }
            Word::Take(number, all) => {
                self.replicator.suspend_near_reads(*number, turn.clock);
                let generation = |(scope, id, version): &(u8, u64, u64)| {
                    let scope = GenerationScope::from_number(*scope)?;
                    Some(Generation { scope, id: *id, version: Version(*version) })
                };
                let all: Vec<Generation> = all.iter().filter_map(generation).collect();
                return self.untaken.push((ask, all));
            }
            Word::Over(number) => self.replicator.resume_near_reads(*number),
        }
        self.said(ask, latest, turn);
    }

    pub(super) fn say_told(&mut self, turn: &mut Turn<'_>) {
        for (ask, all) in std::mem::take(&mut self.untaken) {
            if self.replicator.invalidate(&all, &mut self.shard) {
                self.untold.push(ask);
            } else {
                self.untaken.push((ask, all));
            }
        }
        if !self.untold.is_empty() && self.replicator.is_told() {
            std::mem::take(&mut self.untold).into_iter().for_each(|ask| self.said(ask, 0, turn));
        }
    }

    fn said(&self, ask: u64, latest: u64, turn: &mut Turn<'_>) {
        let acts = self.replicator.topology().revision();
        let message = Box::new(Message::Said { ask, core: self.core, acts, latest });
        turn.hub.after(100, Event::Message { to: self.who.machine, message });
    }

    pub(super) fn take_effects(&mut self, turn: &mut Turn<'_>) {
        let effects: Vec<Effect> = self.replicator.effects().collect();
        for effect in effects {
            match effect {
                Effect::Completed { ticket, unknown } => {
                    let Some(mut places) = self.tickets.remove(&ticket) else { continue };
                    for number in unknown {
                        if let Some(done) = places.get_mut(number as usize) {
                            done.answer = Answer::Unknown;
                            done.acknowledges = None;
                        }
                    }
                    self.done.append(&mut places);
                }
                Effect::Suspect { node, cannot_follow } => {
                    self.report(Report::Suspect { node, cannot_follow }, turn);
                }
                Effect::CaughtUp { node, core, partitions } => {
                    self.report(Report::CaughtUp { node, core, partitions }, turn);
                }
                Effect::Paused(partitions) => self.report(Report::Paused(partitions), turn),
                Effect::Garbage(peer) => {
                    turn.garbage += 1;
                    if let Some(own) = self.ins.remove(&peer) {
                        turn.net.reset(own.link, MS, turn.hub);
                    }
                }
            }
        }
    }

    pub(super) fn report(&mut self, report: Report, turn: &mut Turn<'_>) {
        self.reported = self.replicator.acts();
        self.reported_at = turn.hub.at;
        let caught_up = matches!(report, Report::CaughtUp { .. });
        let known = self.replicator.topology().revision();
        let acts = if caught_up { known } else { self.reported };
        let (who, core) = (self.who, self.core);
        // One delay for all keeps the ring's order.
        turn.hub.after(100, Event::Report { who, core, acts, report });
    }
}
