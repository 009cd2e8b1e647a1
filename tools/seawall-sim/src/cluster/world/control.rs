//! The control thread of a node: what the server's does, turn by turn.

use super::spreads::hear_node;
use super::{World, machine_at};
use crate::cluster::data::CoreTell;
use crate::cluster::hub::{Event, MS, Who};
use crate::cluster::machine::{Message, Process, machine_name};
use cluster::keeper;
use cluster::node::{Effect, Tell};
use cluster::planner;
use std::sync::Arc;

/// The control thread looks around so often.
const CONTROL_US: u64 = 5 * MS;
/// The coordinator's leader writes to all so often.
const LOG_MS: u64 = 50;

impl World {
    pub(super) fn control_turn(&mut self, who: Who) {
        let at = self.hub.at;
        let machine = &mut self.machines[who.machine];
        let (now, paused_until) = (machine.clock.millis(at), machine.paused_until);
        let Some(process) = machine.process(who) else { return };
        if process.due != at {
            return;
        }
        process.due = u64::MAX;
        if paused_until > at {
            return self.wake_control(who, paused_until - at);
        }
        let Some(mut process) = machine.process.take() else { return };
        let mut effects = Vec::new();
        if let Some(lead) = &process.lead {
            let at = lead.confirmed_at(now, who.machine);
            let until = at.plus(self.setup.node.timing.leadership_ms);
            process.control.on_keeping(now, Some(until), &mut effects);
        }
        while let Some(message) = process.inbox.pop_front() {
            self.take_message(&mut process, message, &mut effects);
        }
        let topology = Arc::clone(self.coordinator.state(process.applied));
        process.control.on_topology(topology, &mut effects);
        while let Some((core, acts, report)) = process.reports.pop_front() {
            process.control.on_report(now, core, acts, report, &mut effects);
        }
        process.control.tick(now, &mut effects);
        self.spread(&mut process);
        let gone = self.say_farewell(&mut process, &mut effects);
        self.lead(&mut process);
        let ends = effects.contains(&Effect::Superseded);
        for effect in effects {
            self.control_effect(&mut process, effect);
        }
        self.machines[who.machine].process = Some(process);
        if gone {
            self.crash(who.machine);
            let late = self.hub.random.between(MS, 800 * MS);
            self.hub.after(late, Event::Start(who.machine));
            return;
        }
        if ends {
            self.problems.push(format!("{} ended itself at {at}", machine_name(who.machine)));
        }
        self.wake_control(who, CONTROL_US);
    }

    fn take_message(&mut self, process: &mut Process, message: Message, effects: &mut Vec<Effect>) {
        let own = process.who.machine;
        let now = self.machines[own].clock.millis(self.hub.at);
        match message {
            Message::Log { term, leader, upto, sent } => {
                if term < self.coordinator.promised[own] {
                    return;
                }
                self.coordinator.promised[own] = term;
                self.coordinator.followed[own] = self.hub.at;
                if term > process.term {
                    process.term = term;
                    process.leader = Some(leader);
                    process.lead = process.lead.take().filter(|lead| lead.term == term);
                    if process.lead.is_none() {
                        process.keeper = None;
                        process.control.on_keeping(now, None, effects);
                    }
                    process.control.on_leader();
                }
                process.applied = process.applied.max(upto);
                self.send(own, leader, Message::LogAck { term, from: own, sent });
            }
            Message::LogAck { term, from, sent } => {
                if let Some(lead) = process.lead.as_mut().filter(|lead| lead.term == term) {
                    lead.acks[from] = lead.acks[from].max(Some(sent));
                }
            }
            Message::Propose { command, hops } => match (&process.lead, process.leader) {
                (Some(lead), _) => {
                    let (term, late) = (lead.term, false);
                    let agreed = self.hub.random.between(300, 2_500);
                    let command = Box::new(command);
                    self.hub.after(agreed, Event::Commit { term, command, late });
                }
                (None, Some(leader)) if leader != own && hops < 2 => {
                    self.send(own, leader, Message::Propose { command, hops: hops + 1 });
                }
                _ => {}
            },
            Message::Beat { from, beat } => {
                let topology = Arc::clone(self.coordinator.state(process.applied));
                let (Some(keeper), Some(lead)) = (&mut process.keeper, &process.lead) else {
                    return;
                };
                let leader_at = lead.confirmed_at(now, own);
                let reply = keeper.on_beat(now, &topology, leader_at, &beat);
                self.send(own, from, Message::Reply(reply));
            }
            Message::Reply(reply) => process.control.on_reply(now, &reply, effects),
            Message::HandOver(request) => process.control.on_hand_over(now, &request, effects),
            Message::Invalidate { client, operation, target } => {
                self.begin_spread(process, client, operation, target);
            }
            Message::Word { from, word } => self.hear_word(process, from, word),
            Message::Said { ask, core, acts, latest } => {
                self.hear_core(process, ask, core, acts, latest);
            }
            Message::Answered { from, word, answer } => {
                hear_node(process, from, &word, answer);
            }
        }
    }

    /// What the coordinator's leader does beside.
    fn lead(&mut self, process: &mut Process) {
        let own = process.who.machine;
        let now = self.machines[own].clock.millis(self.hub.at);
        let Some(lead) = &mut process.lead else { return };
        let news = lead.wrote_at.0 == 0;
        if news || now.since(lead.wrote_at) >= LOG_MS {
            lead.wrote_at = now;
            self.coordinator.followed[own] = self.hub.at;
            let (term, leader, upto, sent) = (lead.term, own, process.applied, now);
            for to in (0..self.machines.len()).filter(|to| *to != own) {
                self.send(own, to, Message::Log { term, leader, upto, sent });
            }
        }
        let Some(lead) = &mut process.lead else { return };
        if now.since(lead.ticked_at) < 20 {
            return;
        }
        lead.ticked_at = now;
        let topology = Arc::clone(self.coordinator.state(process.applied));
        let mut effects = Vec::new();
        if let Some(keeper) = &mut process.keeper {
            keeper.tick(now, &topology, &mut effects);
        }
        for effect in effects {
            match effect {
                keeper::Effect::Propose(command) => {
                    self.send(own, own, Message::Propose { command, hops: 0 });
                }
                keeper::Effect::HandOver(request) => {
                    if let Some(to) = machine_at(&topology, request.primary) {
                        self.send(own, to, Message::HandOver(request));
                    }
                }
                keeper::Effect::Plan(request) => {
                    let wishes = planner::wishes(&topology, |node| request.counts(node));
                    let (who, late) = (process.who, self.hub.random.between(MS, 40 * MS));
                    self.hub.after(late, Event::Planned { who, request, wishes });
                }
                keeper::Effect::Probe(node) => {
                    let Some(to) = machine_at(&topology, node) else { continue };
                    if self.machines[to].process.is_none() && self.net.both_ways(own, to) {
                        let who = process.who;
                        self.hub.after(MS, Event::ProbeRefused { who, node });
                    }
                }
            }
        }
    }

    fn control_effect(&mut self, process: &mut Process, effect: Effect) {
        let own = process.who.machine;
        match effect {
            Effect::Beat(mut beat) => {
                beat.healthy &= process.farewell.is_none_or(|own| own.ends_at.is_none());
                if let Some(leader) = process.leader {
                    self.send(own, leader, Message::Beat { from: own, beat });
                }
            }
            Effect::Propose(command) => {
                self.send(own, own, Message::Propose { command, hops: 0 });
            }
            Effect::Tell(Tell::Lease(until)) => {
                process.cores.iter_mut().for_each(|core| core.set_lease(until));
            }
            Effect::Tell(tell) => self.tell_cores(process, &CoreTell::Control(tell)),
            Effect::Disconnect(node) => self.tell_cores(process, &CoreTell::Close(node)),
            Effect::Connect { .. } | Effect::Superseded => {}
        }
    }

    /// Through the rings, to each core in its own time.
    pub(super) fn tell_cores(&mut self, process: &mut Process, tell: &CoreTell) {
        let who = process.who;
        let lag = self.machines[who.machine].lag_us;
        for core in 0..self.setup.node.cores(who.machine) {
            let late = self.hub.random.between(20, 300) + self.hub.random.below(lag + 1);
            let at = &mut process.tell_at[usize::from(core)];
            *at = (self.hub.at + late).max(*at);
            let event = Event::Tell { who, core, tell: tell.clone() };
            self.hub.after(*at - self.hub.at, event);
        }
    }

    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        for late in self.net.send(from, to, &mut self.hub) {
            self.hub.after(late, Event::Message { to, message: Box::new(message.clone()) });
        }
    }
}
