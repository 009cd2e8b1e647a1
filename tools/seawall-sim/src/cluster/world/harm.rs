//! Faults of the schedule, as they begin and end.

use super::World;
use crate::cluster::faults::{Fault, What};
use crate::cluster::hub::{Event, MS};

impl World {
    pub(super) fn begin_fault(&mut self, number: usize) {
        let Fault { from, to, what } = self.faults[number].clone();
        if self.calm {
            return;
        }
        let lasts = to - from;
        self.hub.after(lasts, Event::Heal(number));
        let machines = self.machines.len();
        match what {
            What::Partition(set) => self.sever(set, !set, true),
            What::OneWay(one, other) => self.sever(one, other, false),
            What::Pause { machine, in_turn: true } => {
                self.machines[machine].interrupt = Some(lasts);
            }
            What::Pause { machine, in_turn: false } => {
                let until = &mut self.machines[machine].paused_until;
                *until = (*until).max(to);
            }
            What::Stall { machine, core } => {
                if let Some(process) = &mut self.machines[machine].process {
                    process.cores[usize::from(core)].stalled_until = to;
                }
            }
            What::Crash(machine) => self.crash(machine),
            What::Reset(a, b) => {
                for link in self.net.between(a, b) {
                    self.net.reset(link, 30 * MS, &mut self.hub);
                }
            }
            What::Loss { lost, disordered } => {
                self.net.loss = lost;
                self.net.disorder = disordered;
            }
            What::Leader => self.elect(),
            What::Lag(machine) => self.machines[machine % machines].lag_us = 250 * MS,
            What::Drain(machine) => self.drained[machine] = true,
            What::Leave { machine, patience_ms } => self.begin_farewell(machine, patience_ms),
            What::Late(_) => {}
        }
    }

    pub(super) fn end_fault(&mut self, number: usize) {
        match self.faults[number].what {
            What::Partition(set) => self.join(set, !set, true),
            What::OneWay(one, other) => self.join(one, other, false),
            What::Pause { .. }
            | What::Stall { .. }
            | What::Reset(..)
            | What::Leader
            | What::Leave { .. } => {}
            What::Drain(machine) => self.drained[machine] = false,
            What::Crash(machine) | What::Late(machine) => {
                if self.machines[machine].process.is_none() {
                    self.start(machine);
                }
            }
            What::Loss { .. } => {
                self.net.loss = 0;
                self.net.disorder = 0;
            }
            What::Lag(machine) => self.machines[machine].lag_us = 0,
        }
    }

    fn pairs(&self, one: u64, other: u64) -> Vec<(usize, usize)> {
        let machines = 0..self.machines.len();
        let pairs = machines.clone().flat_map(|a| machines.clone().map(move |b| (a, b)));
        pairs.filter(|(a, b)| a != b && one & 1 << a != 0 && other & 1 << b != 0).collect()
    }

    fn sever(&mut self, one: u64, other: u64, both: bool) {
        for (a, b) in self.pairs(one, other) {
            self.net.block(a, b);
            if both {
                self.net.block(b, a);
            }
            // Some connections break, others hold and come late.
            if self.hub.random.percent(50) {
                for link in self.net.between(a, b) {
                    self.net.reset(link, 400 * MS, &mut self.hub);
                }
            }
        }
    }

    fn join(&mut self, one: u64, other: u64, both: bool) {
        for (a, b) in self.pairs(one, other) {
            self.net.unblock(a, b, &mut self.hub);
            if both {
                self.net.unblock(b, a, &mut self.hub);
            }
        }
    }

    pub(super) fn crash(&mut self, machine: usize) {
        if self.machines[machine].process.is_none() {
            return;
        }
        self.machines[machine].stop();
        for link in self.net.between(machine, machine) {
            self.net.reset(link, 20 * MS, &mut self.hub);
        }
    }
}
