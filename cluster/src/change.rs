//! Changes of the topology: the commands, and what each does.
//!
//! The coordinator puts commands in one order; every node applies them in that
//! order and ends with the same [`Topology`]. So applying depends on the
//! topology and the command alone. A command whose condition no longer holds
//! changes nothing: two nodes may ask for the same thing, one of them late.
//!
//! Two rules keep acknowledged writes:
//! - only a copy that is *in sync* is made primary, and it was made so only when
//!   it had everything;
//! - a copy leaves the in-sync set before any write is acknowledged without it.
//!
//! Whoever loses a role by a command without having agreed gets a *fence*: it
//! may still serve until its lease ends. The keeper declares a revision
//! [settled](crate::keeper) when nobody can believe in an older one any more, and
//! new owners wait for that.

use crate::owners::OwnersTable;
use crate::ring::{Partition, Ring};
use crate::topology::{
    COPIES_WANTED_MAX, Epoch, Incarnation, Introduction, Keeping, MEMBERS_MAX, Member, NodeIndex,
    Owners, Revision, Topology,
};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Makes the cluster, once.
    Create {
        /// Its name.
        name: String,
        /// Partitions, as a power of two.
        ring_bits: u32,
        /// Copies of every partition, the primary included.
        copies: u8,
        /// Seed of the key hash.
        seed: u64,
    },
    /// A node joins, returns, or starts again.
    Join(Introduction),
    /// A node no longer answers.
    Down {
        /// The node that is down.
        node: NodeIndex,
        /// Which life of it: not a later one.
        incarnation: Incarnation,
    },
    /// A node that was down answers again, with its memory.
    Up {
        /// The node that is up again.
        node: NodeIndex,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// A replica does not confirm what a primary sends: out of the in-sync set.
    Exclude {
        /// The primary of the partitions.
        primary: NodeIndex,
        /// The replica.
        replica: NodeIndex,
        /// In-sync copies that must be left, the primary's included. Where there would
        /// be fewer the replica stays, and writes wait for it.
        keep: u8,
    },
    /// A replica has everything that the primary has acknowledged.
    InSync {
        /// The replica.
        node: NodeIndex,
        /// What the primary knew. If the replica was excluded after that, this
        /// comes too late.
        known: Revision,
        /// The partitions, and the epoch in which it is so.
        partitions: Vec<(Partition, Epoch)>,
    },
    /// Steps of a plan.
    Steps(Vec<(Partition, Step)>),
    /// A primary hands over: it has let writes pause, and lets them go on only when the
    /// topology says that this will not come about any more.
    HandOver {
        /// Who leads from now on.
        to: NodeIndex,
        /// What the primary knew when it let them pause. If something was taken from
        /// the heir after that, this comes too late.
        known: Revision,
        /// The partitions, and the epoch which this ends.
        partitions: Vec<(Partition, Epoch)>,
    },
    /// Empty a node, or no longer.
    Drain {
        /// The node to empty.
        node: NodeIndex,
        /// Empty it.
        on: bool,
    },
    /// A node is about to end, and comes back soon.
    Leaving {
        /// The node that is about to end.
        node: NodeIndex,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// Nobody waits any longer for the copies of a node that is down: partitions
    /// that only it held begin anew, empty, elsewhere.
    Abandon {
        /// The node that is given up.
        node: NodeIndex,
    },
    /// A node that holds nothing is forgotten.
    Leave {
        /// The node to forget.
        node: NodeIndex,
    },
    /// From now on as many copies.
    Copies(u8),
    /// This node's keeper grants leases from now on, and has found everything up to
    /// some revision settled. Its successor waits less for what it knows from this.
    Keep {
        /// The keeper's node.
        keeping: Keeping,
        /// What is settled.
        settled: Revision,
    },
}

/// One step for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// A node becomes a copy, to be filled. The first one of a partition that
    /// nobody holds is its primary at once.
    Add(NodeIndex),
    /// A copy that is not the primary goes.
    Drop(NodeIndex),
    /// An in-sync copy becomes the primary.
    HandOver(NodeIndex),
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The topology changed.
    Applied(Revision),
    /// Its condition does not hold (any more): nothing changed.
    Refused(Refusal),
}

/// Why a command changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// There is a cluster already.
    Exists,
    /// There is none yet.
    NoCluster,
    /// No such node, or not that life of it.
    UnknownNode,
    /// It is so already, or something else came first.
    Superseded,
    /// The node still holds partitions.
    NotEmpty,
    /// A number beyond its bounds.
    OutOfBounds,
    /// No slot for another node.
    Full,
}

impl Topology {
    /// Applies one command.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        let next = Revision(self.revision.0 + 1);
        let changed = match command {
            Command::Create { name, ring_bits, copies, seed } => {
                self.create(name, *ring_bits, *copies, *seed)
            }
            _ if self.name.is_empty() => Err(Refusal::NoCluster),
            Command::Join(node) => self.join(node, next),
            Command::Down { node, incarnation } => self.down(*node, *incarnation, next),
            Command::Up { node, incarnation } => self.up(*node, *incarnation),
            Command::Exclude { primary, replica, keep } => {
                self.exclude(*primary, *replica, *keep, next)
            }
            Command::InSync { node, known, partitions } => {
                self.mark_in_sync(*node, *known, partitions)
            }
            Command::Steps(steps) => self.steps(steps, next),
            Command::HandOver { to, known, partitions } => {
                self.hand_over(*to, *known, partitions, next)
            }
            Command::Drain { node, on } => self.drain(*node, *on),
            Command::Leaving { node, incarnation } => self.leaving(*node, *incarnation),
            Command::Abandon { node } => self.abandon(*node, next),
            Command::Leave { node } => self.leave(*node, next),
            Command::Copies(copies) => self.set_copies(*copies),
            Command::Keep { keeping, settled } => self.keep(keeping, *settled),
        };
        match changed {
            Ok(()) => {
                self.revision = next;
                Outcome::Applied(next)
            }
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    fn create(&mut self, name: &str, bits: u32, copies: u8, seed: u64) -> Result<(), Refusal> {
        if !self.name.is_empty() {
            return Err(Refusal::Exists);
        }
        let ring = Ring::new(bits).ok_or(Refusal::OutOfBounds)?;
        if name.is_empty() || copies == 0 || copies > COPIES_WANTED_MAX {
            return Err(Refusal::OutOfBounds);
        }
        *self = Topology {
            revision: self.revision,
            name: name.into(),
            ring,
            copies,
            seed,
            owners: OwnersTable::new(ring.partitions() as usize),
            ..Topology::default()
        };
        Ok(())
    }

    fn join(&mut self, node: &Introduction, next: Revision) -> Result<(), Refusal> {
        let member = |fence, draining| Member {
            node: node.clone(),
            up: true,
            leaving: false,
            draining,
            fence,
        };
        let known = self.named(&node.name).map(|(index, member)| (index, member.clone()));
        if let Some((index, old)) = known {
            if old.node == *node && old.up || node.incarnation < old.node.incarnation {
                // What an earlier process asked for, and came late.
                return Err(Refusal::Superseded);
            }
            if old.node.incarnation != node.incarnation {
                // Its memory is gone, but the process before may still believe
                // in its lease.
                self.depose(index, true);
                self.forget_content(index);
                self.forgot = next;
                self.members[usize::from(index.0)] = Some(member(next, old.draining));
            } else {
                self.members[usize::from(index.0)] = Some(member(old.fence, old.draining));
            }
            return Ok(());
        }
        let free = self.members.iter().position(Option::is_none);
        match free {
            Some(slot) => self.members[slot] = Some(member(next, false)),
            None if self.members.len() < MEMBERS_MAX => {
                self.members.push(Some(member(next, false)))
            }
            None => return Err(Refusal::Full),
        }
        Ok(())
    }

    /// Where the node is primary, another in-sync copy takes over: the first that
    /// is up, or if the node's content is `lost`, the first there is.
    ///
    /// That a node is silent does not take it out of in-sync sets, not even where
    /// another one leads now. A primary does that itself, before it acknowledges
    /// a write without the node. Else, if the heir were dead and nobody knew yet, a
    /// copy that has everything would be thrown away for one that is gone.
    fn depose(&mut self, node: NodeIndex, lost: bool) {
        let up = self.up_by_number();
        let heir = |owners: &Owners| {
            let in_sync = |heir: &usize| owners.in_sync & 1 << heir != 0;
            let is_up = |heir: &usize| up[usize::from(owners.copies[*heir].0)];
            let mut heirs = (1..usize::from(owners.count)).filter(in_sync);
            heirs.clone().find(is_up).or_else(|| heirs.next().filter(|_| lost))
        };
        let is_one = |owners: &Owners| match owners.position(node) {
            Some(0) => heir(owners).is_some(),
            Some(_) => lost && owners.is_in_sync(node),
            None => false,
        };
        self.owners.change(is_one, |owners| {
            if owners.primary() == Some(node)
                && let Some(heir) = heir(owners)
            {
                owners.promote(heir);
            }
            if lost {
                let at = owners.position(node).expect("it is a copy");
                owners.set_in_sync(at, false);
            }
        });
    }

    /// The node starts again with empty memory. What only it held is lost: its
    /// partitions begin anew there, under an epoch of their own.
    fn forget_content(&mut self, node: NodeIndex) {
        let is_one = |owners: &Owners| owners.primary() == Some(node);
        self.owners.change(is_one, |owners| {
            owners.epoch.0 += 1;
            owners.born = owners.epoch;
            owners.in_sync = 1;
        });
    }

    fn down(
        &mut self,
        node: NodeIndex,
        incarnation: Incarnation,
        next: Revision,
    ) -> Result<(), Refusal> {
        let member = self.life(node, incarnation)?;
        if !member.up {
            return Err(Refusal::Superseded);
        }
        member.up = false;
        // It may believe in its lease even where it holds nothing now: what it
        // was told before counts.
        member.fence = next;
        let leaves = member.leaving;
        self.depose(node, false);
        if leaves {
            // It takes along what it holds. Writes need not wait until each primary has
            // noticed that and excluded it.
            self.take_out_of_sync(node, |owners| owners.primary() != Some(node));
        }
        Ok(())
    }

    /// A copy is in sync no more in the partitions for which `is_one` holds.
    fn take_out_of_sync(&mut self, node: NodeIndex, is_one: impl Fn(&Owners) -> bool) {
        self.owners.change(
            |owners| is_one(owners) && owners.is_in_sync(node),
            |owners| {
                let at = owners.position(node).expect("it is in sync");
                owners.set_in_sync(at, false);
            },
        );
    }

    fn up(&mut self, node: NodeIndex, incarnation: Incarnation) -> Result<(), Refusal> {
        let member = self.life(node, incarnation)?;
        if member.up {
            return Err(Refusal::Superseded);
        }
        member.up = true;
        Ok(())
    }

    fn exclude(
        &mut self,
        primary: NodeIndex,
        replica: NodeIndex,
        keep: u8,
        next: Revision,
    ) -> Result<(), Refusal> {
        if primary == replica {
            return Err(Refusal::OutOfBounds);
        }
        // Also where it is not in sync: the primary may have asked that it be
        // made so a moment ago, and that must not happen any more.
        self.slot(replica)?.fence = next;
        self.take_out_of_sync(replica, |owners| {
            owners.primary() == Some(primary) && owners.in_sync() > u32::from(keep)
        });
        Ok(())
    }

    fn mark_in_sync(
        &mut self,
        node: NodeIndex,
        known: Revision,
        partitions: &[(Partition, Epoch)],
    ) -> Result<(), Refusal> {
        if !self.is_up(node) {
            return Err(Refusal::UnknownNode);
        }
        if self.member(node).is_some_and(|member| member.fence > known) {
            return Err(Refusal::Superseded);
        }
        let mut changed = false;
        for (partition, epoch) in partitions {
            let at = partition.0 as usize;
            let Some(owners) = self.owners.get(at).filter(|owners| owners.epoch == *epoch) else {
                continue;
            };
            let lacking = owners.position(node).filter(|copy| owners.in_sync & 1 << copy == 0);
            if let (Some(copy), Some(owners)) = (lacking, self.owners.get_mut(at)) {
                owners.set_in_sync(copy, true);
                changed = true;
            }
        }
        if changed { Ok(()) } else { Err(Refusal::Superseded) }
    }

    fn steps(&mut self, steps: &[(Partition, Step)], next: Revision) -> Result<(), Refusal> {
        let mut changed = false;
        for (partition, step) in steps {
            let at = partition.0 as usize;
            let fenced = match *step {
                Step::Add(node) if self.is_up(node) => {
                    let Some(owners) = self.owners.get_mut(at) else { continue };
                    let first = owners.count == 0;
                    if !owners.add(node) {
                        continue;
                    }
                    if first {
                        owners.in_sync = 1;
                        owners.epoch.0 += 1;
                        owners.born = owners.epoch;
                    }
                    None
                }
                Step::Drop(node) => {
                    let Some(owners) = self.owners.get_mut(at) else { continue };
                    // The last in-sync copy is the primary, which cannot be dropped.
                    let Some(copy) = owners.position(node).filter(|copy| *copy > 0) else {
                        continue;
                    };
                    owners.remove(copy);
                    // Also where it was not in sync: its primary may just have
                    // asked that it be made so, and it may soon be a copy again.
                    Some(node)
                }
                Step::HandOver(node) if self.is_up(node) => {
                    let owners = self.owners.get_mut(at);
                    let Some(before) = owners.and_then(|owners| owners.lead(node)) else {
                        continue;
                    };
                    Some(before)
                }
                Step::Add(_) | Step::HandOver(_) => continue,
            };
            changed = true;
            if let Some(node) = fenced {
                self.fence(node, next);
            }
        }
        if changed { Ok(()) } else { Err(Refusal::Superseded) }
    }

    fn hand_over(
        &mut self,
        to: NodeIndex,
        known: Revision,
        partitions: &[(Partition, Epoch)],
        next: Revision,
    ) -> Result<(), Refusal> {
        if !self.may_take_over(to, known) {
            return Err(Refusal::Superseded);
        }
        let mut changed = false;
        for (partition, epoch) in partitions {
            let at = partition.0 as usize;
            if self.owners.get(at).is_none_or(|owners| owners.epoch != *epoch) {
                continue;
            }
            let owners = self.owners.get_mut(at);
            let Some(before) = owners.and_then(|owners| owners.lead(to)) else { continue };
            self.fence(before, next);
            changed = true;
        }
        if changed { Ok(()) } else { Err(Refusal::Superseded) }
    }

    /// Whether [`Command::HandOver`] to a node that is in sync still comes about.
    pub(crate) fn may_take_over(&self, to: NodeIndex, known: Revision) -> bool {
        self.member(to).is_some_and(|member| member.up && member.fence <= known)
    }

    fn fence(&mut self, node: NodeIndex, next: Revision) {
        if let Some(member) = &mut self.members[usize::from(node.0)] {
            member.fence = next;
        }
    }

    fn drain(&mut self, node: NodeIndex, on: bool) -> Result<(), Refusal> {
        let member = self.slot(node)?;
        if member.draining == on {
            return Err(Refusal::Superseded);
        }
        member.draining = on;
        Ok(())
    }

    fn abandon(&mut self, node: NodeIndex, next: Revision) -> Result<(), Refusal> {
        let member = self.slot(node)?;
        if member.up {
            return Err(Refusal::Superseded);
        }
        let up = self.up_by_number();
        let mut changed = false;
        self.owners.change(
            |owners| owners.position(node).is_some(),
            |owners| {
                let Some(at) = owners.position(node) else { return };
                changed = true;
                owners.remove(at);
                if at > 0 {
                    return;
                }
                let in_sync =
                    (0..usize::from(owners.count)).find(|at| owners.in_sync & 1 << at != 0);
                if let Some(heir) = in_sync {
                    // Down as well, else it would be primary: it may come back.
                    owners.promote(heir);
                    return;
                }
                let epoch = Epoch(owners.epoch.0 + 1);
                let heir = owners.copies().iter().position(|copy| up[usize::from(copy.0)]);
                match heir {
                    Some(heir) => {
                        owners.promote(heir);
                        owners.in_sync = 1;
                    }
                    None => *owners = Owners::NONE,
                }
                owners.epoch = epoch;
                owners.born = epoch;
            },
        );
        if !changed {
            return Err(Refusal::Superseded);
        }
        // When it went down it kept what only it had; should it return, it must
        // not lead that again before it knows.
        self.slot(node)?.fence = next;
        Ok(())
    }

    fn leaving(&mut self, node: NodeIndex, incarnation: Incarnation) -> Result<(), Refusal> {
        let member = self.life(node, incarnation)?;
        if member.leaving {
            return Err(Refusal::Superseded);
        }
        member.leaving = true;
        Ok(())
    }

    fn leave(&mut self, node: NodeIndex, next: Revision) -> Result<(), Refusal> {
        self.slot(node)?;
        if self.owners.iter().any(|owners| owners.position(node).is_some()) {
            return Err(Refusal::NotEmpty);
        }
        self.members[usize::from(node.0)] = None;
        self.forgot = next;
        Ok(())
    }

    fn set_copies(&mut self, copies: u8) -> Result<(), Refusal> {
        if copies == 0 || copies > COPIES_WANTED_MAX {
            return Err(Refusal::OutOfBounds);
        }
        if self.copies == copies {
            return Err(Refusal::Superseded);
        }
        self.copies = copies;
        Ok(())
    }

    fn keep(&mut self, keeping: &Keeping, settled: Revision) -> Result<(), Refusal> {
        let settled = settled.min(self.revision).max(self.settled);
        let later = self.keeping.as_ref().is_some_and(|known| known.term > keeping.term);
        if later || self.keeping.as_ref() == Some(keeping) && settled == self.settled {
            return Err(Refusal::Superseded);
        }
        self.keeping = Some(keeping.clone());
        self.settled = settled;
        Ok(())
    }

    fn slot(&mut self, node: NodeIndex) -> Result<&mut Member, Refusal> {
        self.members
            .get_mut(usize::from(node.0))
            .and_then(Option::as_mut)
            .ok_or(Refusal::UnknownNode)
    }

    fn life(&mut self, node: NodeIndex, incarnation: Incarnation) -> Result<&mut Member, Refusal> {
        let member = self.slot(node)?;
        if member.node.incarnation != incarnation {
            return Err(Refusal::UnknownNode);
        }
        Ok(member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction(name: &str) -> Introduction {
        Introduction {
            name: name.into(),
            incarnation: Incarnation(1),
            weight: 100,
            cores: 1,
            ..Introduction::default()
        }
    }

    /// Two nodes, all of one partition, both in sync; `a` leads.
    fn pair() -> (Topology, NodeIndex, NodeIndex) {
        let mut topology = Topology::default();
        let (a, b) = (NodeIndex(0), NodeIndex(1));
        topology.apply(&Command::Create { name: "t".into(), ring_bits: 0, copies: 2, seed: 0 });
        topology.apply(&Command::Join(introduction("a")));
        topology.apply(&Command::Join(introduction("b")));
        let steps = alloc::vec![(Partition(0), Step::Add(a)), (Partition(0), Step::Add(b))];
        topology.apply(&Command::Steps(steps));
        let partitions = alloc::vec![(Partition(0), Epoch(1))];
        topology.apply(&Command::InSync { node: b, known: topology.revision, partitions });
        assert_eq!(topology.owners(Partition(0)).in_sync(), 2);
        (topology, a, b)
    }

    #[test]
    fn a_silent_replica_is_not_thrown_away_for_a_primary_that_is_dead() {
        let (mut topology, a, b) = pair();
        let life = Incarnation(1);
        // The primary has died. Nobody knows, and the replica is silent for a moment.
        topology.apply(&Command::Down { node: b, incarnation: life });
        assert!(topology.owners(Partition(0)).is_in_sync(b), "it has everything");
        // The primary starts again, empty.
        let again = Introduction { incarnation: Incarnation(2), ..introduction("a") };
        topology.apply(&Command::Join(again));
        let owners = *topology.owners(Partition(0));
        assert_eq!((owners.primary(), owners.in_sync(), owners.born), (Some(b), 1, Epoch(1)));
        assert!(!owners.is_in_sync(a));
        topology.apply(&Command::Up { node: b, incarnation: life });
        assert!(topology.is_up(b));
        // If it does not come back, somebody has to say so.
        topology.apply(&Command::Down { node: b, incarnation: life });
        topology.apply(&Command::Abandon { node: b });
        let owners = *topology.owners(Partition(0));
        assert_eq!((owners.primary(), owners.born), (Some(a), owners.epoch));
    }

    #[test]
    fn a_silent_primary_is_not_thrown_away_for_an_heir_that_is_dead() {
        let (mut topology, a, b) = pair();
        // The replica has died. Nobody knows, and the primary is silent for a moment.
        topology.apply(&Command::Down { node: a, incarnation: Incarnation(1) });
        let owners = *topology.owners(Partition(0));
        assert_eq!((owners.primary(), owners.in_sync()), (Some(b), 2));
        // The heir starts again, empty, before it ever led.
        let again = Introduction { incarnation: Incarnation(2), ..introduction("b") };
        topology.apply(&Command::Join(again));
        let owners = *topology.owners(Partition(0));
        assert_eq!((owners.primary(), owners.in_sync(), owners.born), (Some(a), 1, Epoch(1)));
    }

    #[test]
    fn a_replica_is_not_left_out_where_too_few_copies_would_be_left() {
        let (mut topology, a, b) = pair();
        topology.apply(&Command::Exclude { primary: a, replica: b, keep: 2 });
        assert!(topology.owners(Partition(0)).is_in_sync(b));
        topology.apply(&Command::Exclude { primary: a, replica: b, keep: 1 });
        assert!(!topology.owners(Partition(0)).is_in_sync(b));
    }

    #[test]
    fn a_node_that_leaves_in_order_is_out_of_sync_at_once() {
        let (mut topology, a, b) = pair();
        let life = Incarnation(1);
        topology.apply(&Command::Leaving { node: b, incarnation: life });
        topology.apply(&Command::Down { node: b, incarnation: life });
        let owners = *topology.owners(Partition(0));
        assert_eq!((owners.primary(), owners.in_sync()), (Some(a), 1));
        // What only it has stays its own: it may still be reached.
        let (mut topology, a, b) = pair();
        topology.apply(&Command::Exclude { primary: a, replica: b, keep: 1 });
        topology.apply(&Command::Leaving { node: a, incarnation: life });
        topology.apply(&Command::Down { node: a, incarnation: life });
        let owners = *topology.owners(Partition(0));
        assert_eq!((owners.primary(), owners.is_in_sync(a)), (Some(a), true));
    }

    #[test]
    fn what_was_said_of_a_copy_does_not_count_for_the_next_one() {
        let (mut topology, a, b) = pair();
        topology.apply(&Command::Exclude { primary: a, replica: b, keep: 1 });
        let known = topology.revision;
        let step = |step| Command::Steps(alloc::vec![(Partition(0), step)]);
        topology.apply(&step(Step::Drop(b)));
        topology.apply(&step(Step::Add(b)));
        // The primary asked for this before the copy went, and it comes late.
        let partitions = alloc::vec![(Partition(0), Epoch(1))];
        let late = topology.apply(&Command::InSync { node: b, known, partitions });
        assert_eq!(late, Outcome::Refused(Refusal::Superseded));
    }

    #[test]
    fn what_two_silent_nodes_have_is_not_lost_with_one() {
        let (mut topology, a, b) = pair();
        topology.apply(&Command::Down { node: b, incarnation: Incarnation(1) });
        topology.apply(&Command::Down { node: a, incarnation: Incarnation(1) });
        topology.apply(&Command::Abandon { node: a });
        let owners = *topology.owners(Partition(0));
        assert_eq!((owners.primary(), owners.in_sync(), owners.born), (Some(b), 1, Epoch(1)));
    }

    #[test]
    fn a_late_word_of_an_earlier_process_does_not_undo_the_later_one() {
        let mut topology = Topology::default();
        topology.apply(&Command::Create { name: "t".into(), ring_bits: 1, copies: 1, seed: 0 });
        let first = introduction("a");
        let second = Introduction { incarnation: Incarnation(2), ..first.clone() };
        assert!(matches!(topology.apply(&Command::Join(first.clone())), Outcome::Applied(_)));
        assert!(matches!(topology.apply(&Command::Join(second)), Outcome::Applied(_)));
        assert_eq!(topology.apply(&Command::Join(first)), Outcome::Refused(Refusal::Superseded));
        assert_eq!(topology.named("a").unwrap().1.node.incarnation, Incarnation(2));
    }

    #[test]
    fn a_node_that_was_given_up_is_fenced_from_what_only_it_had() {
        let mut topology = Topology::default();
        let (a, b) = (NodeIndex(0), NodeIndex(1));
        topology.apply(&Command::Create { name: "t".into(), ring_bits: 1, copies: 1, seed: 0 });
        topology.apply(&Command::Join(introduction("a")));
        topology.apply(&Command::Join(introduction("b")));
        topology.apply(&Command::Steps(alloc::vec![(Partition(0), Step::Add(a))]));
        topology.apply(&Command::Down { node: a, incarnation: Incarnation(1) });
        let down = topology.member(a).unwrap().fence;
        assert_eq!(topology.owners(Partition(0)).primary(), Some(a));
        let given_up = topology.apply(&Command::Abandon { node: a });
        let fence = topology.member(a).unwrap().fence;
        assert!(fence > down && given_up == Outcome::Applied(fence));
        // Nothing is left to give up.
        let again = topology.apply(&Command::Abandon { node: a });
        assert_eq!(again, Outcome::Refused(Refusal::Superseded));
        topology.apply(&Command::Steps(alloc::vec![(Partition(0), Step::Add(b))]));
        assert_eq!(topology.owners(Partition(0)).primary(), Some(b));
    }
}
