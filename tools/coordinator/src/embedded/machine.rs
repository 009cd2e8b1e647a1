//! What the log makes of the topology.
//!
//! Besides the topology it remembers which nodes have left for good and are
//! still among the keepers: whoever leads then replaces them. The state lives in
//! memory; a snapshot of it is on disk before the log behind it goes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::change::{Command, Outcome};
use cluster::topology::Topology;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError};
use serde::{Deserialize, Serialize};

use super::disk::{Disk, DiskError, write_meta};
use super::log::meta;
use super::types::{Entry, LogId, Membership, Order, SnapshotMeta, StorageError, Types, encode};
use crate::applied::Applied;

/// The state that the log leads to; copies are the same state.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    disk: Disk,
    applied: Arc<Applied>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<LogId>,
    membership: Membership,
    /// Names of nodes that left the topology and are still in the membership.
    left: BTreeSet<String>,
}

/// The content of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    left: BTreeSet<String>,
    topology: Vec<u8>,
}

/// A snapshot on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    meta: SnapshotMeta,
    bytes: Vec<u8>,
}

impl Machine {
    /// What the last snapshot remembers; later commands come from the log.
    pub async fn load(disk: Disk, applied: Arc<Applied>) -> Result<Machine, DiskError> {
        let machine = Machine { disk, applied, state: Arc::default() };
        if let Some(stored) = machine.stored().await? {
            // A topology that is further on than the snapshot is still right: it
            // came from the same log, which is read again from there.
            machine.restore(&stored.meta, &stored.bytes).map_err(|why| DiskError::Failed {
                path: super::disk::FILE.into(),
                why: why.into(),
            })?;
        } else {
            machine.applied.replace(Topology::default());
        }
        Ok(machine)
    }

    /// The members as of the last snapshot.
    pub async fn stored_membership(disk: &Disk) -> Result<Option<Membership>, DiskError> {
        let stored = disk.run(|database| meta::<Stored>(database, "snapshot")).await?;
        Ok(stored.map(|stored| stored.meta.last_membership))
    }

    /// Names of nodes that have left for good.
    pub fn left(&self) -> BTreeSet<String> {
        self.state().left.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn stored(&self) -> Result<Option<Stored>, DiskError> {
        self.disk.run(|database| meta(database, "snapshot")).await
    }

    fn restore(&self, meta: &SnapshotMeta, bytes: &[u8]) -> Result<(), &'static str> {
        let wrong = "the snapshot holds no topology";
        let content: Content = postcard::from_bytes(bytes).map_err(|_| wrong)?;
        let topology = Topology::decode(&content.topology).ok_or(wrong)?;
        *self.state() = State {
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
            left: content.left,
        };
        self.applied.replace(topology);
        Ok(())
    }
}

impl State {
    /// Who left, and who came back.
    fn note(&mut self, command: &Command, outcome: Outcome, leaving: Option<String>) {
        if !matches!(outcome, Outcome::Applied(_)) {
            return;
        }
        if let Some(name) = leaving {
            self.left.insert(name);
            self.forget_strangers();
        }
        if let Command::Join(node) = command {
            self.left.remove(&node.name);
        }
    }

    /// Who is not a keeper needs no replacement.
    fn forget_strangers(&mut self) {
        let State { membership, left, .. } = self;
        left.retain(|name| membership.nodes().any(|(_, keeper)| keeper.name == *name));
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        let state = self.state();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Option<Outcome>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let commands = entries.iter().filter_map(|entry| match &entry.payload {
            EntryPayload::Normal(Order(command)) => Some(command),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        });
        let mut state = self.state();
        let mut leaving = Vec::new();
        let outcomes = self.applied.apply_after(commands, |topology, command| {
            // Whose number it is can only be known before it is free.
            let Command::Leave { node } = command else { return leaving.push(None) };
            leaving.push(topology.member(*node).map(|member| member.node.name.clone()));
        });
        let mut results = outcomes.into_iter().zip(leaving);
        Ok(entries
            .into_iter()
            .map(|entry| {
                state.last = Some(entry.log_id);
                match entry.payload {
                    EntryPayload::Blank => None,
                    EntryPayload::Membership(membership) => {
                        state.membership = Membership::new(Some(entry.log_id), membership);
                        state.forget_strangers();
                        None
                    }
                    EntryPayload::Normal(Order(command)) => {
                        let (outcome, leaving) = results.next()?;
                        state.note(&command, outcome, leaving);
                        Some(outcome)
                    }
                }
            })
            .collect())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Vec<u8>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Vec<u8>>,
    ) -> Result<(), StorageError> {
        let failed =
            |error: &DiskError| StorageIOError::write_snapshot(Some(meta.signature()), error);
        let stored = encode(&Stored { meta: meta.clone(), bytes: (*snapshot).clone() });
        self.disk
            .run(move |database| write_meta(database, "snapshot", &stored))
            .await
            .map_err(|error| failed(&error))?;
        self.restore(meta, &snapshot).map_err(|why| {
            failed(&DiskError::Failed { path: super::disk::FILE.into(), why: why.into() }).into()
        })
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let stored =
            self.stored().await.map_err(|error| StorageIOError::read_snapshot(None, &error))?;
        Ok(stored.map(|Stored { meta, bytes }| Snapshot { meta, snapshot: Box::new(bytes) }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let (meta, left, topology) = {
            let state = self.state();
            let index = state.last.map_or(0, |last| last.index);
            let meta = SnapshotMeta {
                last_log_id: state.last,
                last_membership: state.membership.clone(),
                snapshot_id: format!("{index}-{:x}", crate::draw()),
            };
            (meta, state.left.clone(), self.applied.topology())
        };
        let built = meta.clone();
        // A topology of many partitions takes milliseconds to encode: not here.
        let bytes = self
            .disk
            .run(move |database| {
                let bytes = encode(&Content { left, topology: topology.encode() });
                let stored = Stored { meta, bytes };
                write_meta(database, "snapshot", &encode(&stored))?;
                Ok(stored.bytes)
            })
            .await
            .map_err(|error| StorageIOError::write_snapshot(Some(built.signature()), &error))?;
        Ok(Snapshot { meta: built, snapshot: Box::new(bytes) })
    }
}
