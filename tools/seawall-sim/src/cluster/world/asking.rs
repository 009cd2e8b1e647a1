//! Clients ask, and are answered.

use super::World;
use crate::cluster::clients::{Ask, Going};
use crate::cluster::data::{Answer, Origin, Request};
use crate::cluster::hub::{Event, MS, Who};

impl World {
    pub(super) fn ask(&mut self, client: u32) {
        if self.calm {
            return;
        }
        let value = self.next_value;
        self.next_value += 1;
        let own = &mut self.clients[client as usize];
        if self.hub.random.percent(15) {
            own.machine = self.hub.random.below(self.setup.nodes as u64) as usize;
        }
        let ask = own.next(&mut self.hub.random, &self.setup.load, &self.setup.node.keys, value);
        self.issue(client, ask);
    }

    pub(super) fn issue(&mut self, client: u32, ask: Ask) {
        let (operation, at) = (self.next_operation, self.hub.at);
        self.next_operation += 1;
        let own = &mut self.clients[client as usize];
        own.going = Some(Going { operation, ask, invoked: at });
        let mut patience = self.hub.random.between(200 * MS, 2_600 * MS);
        if matches!(ask, Ask::Invalidate(_)) {
            // It is told what became of it.
            patience = 4_000 * MS;
        }
        self.hub.after(patience, Event::Timeout { client, operation });
        let machine = own.machine;
        match self.machines[machine].process.as_ref().map(|process| process.who) {
            Some(who) => {
                let late = self.hub.random.between(30, 300);
                let event = match ask {
                    Ask::Key(key, op) => {
                        let origin = Origin::Client { client, operation };
                        let hash = self.hashes[key as usize];
                        Event::Request { who, request: Request { origin, key, hash, op } }
                    }
                    Ask::Invalidate(target) => Event::Invalidate { who, client, operation, target },
                };
                self.hub.after(late, event);
            }
            None => {
                // Nobody listens.
                let answer = Answer::Refused;
                self.hub.after(MS, Event::Answer { client, operation, answer, epoch: 0 });
            }
        }
    }

    pub(super) fn request(&mut self, who: Who, request: Request) {
        let core = request.hash.core(u32::from(self.setup.node.cores(who.machine))) as u16;
        let Origin::Client { client, operation } = request.origin else { return };
        match self.machines[who.machine].process(who) {
            Some(process) => {
                process.cores[usize::from(core)].requests.push_back(request);
                self.wake(who, core, 20);
            }
            None => {
                let answer = Answer::Unknown;
                self.hub.after(MS, Event::Answer { client, operation, answer, epoch: 0 });
            }
        }
    }

    pub(super) fn answered(&mut self, client: u32, operation: u64, answer: Answer, epoch: u32) {
        let at = self.hub.at;
        let own = &mut self.clients[client as usize];
        let Some(going) = own.going.take_if(|going| going.operation == operation) else { return };
        self.hub.note(operation);
        self.hub.note(match answer {
            Answer::Value(Some((value, cas))) => value ^ cas,
            other => format!("{other:?}").len() as u64,
        });
        own.remember(&going, answer);
        let failed = !answer.is_known();
        if failed {
            own.machine = self.hub.random.below(self.setup.nodes as u64) as usize;
        }
        self.recorder.ended(client, &going, at, answer, epoch);
        if self.whole_at.is_some() {
            if let Ask::Key(key, _) = going.ask {
                self.read_back[key as usize] |= !failed;
            }
            return self.read_next(client);
        }
        let think = self.hub.random.below(self.setup.load.think_us);
        self.hub.after(think, Event::Client { client });
    }
}
