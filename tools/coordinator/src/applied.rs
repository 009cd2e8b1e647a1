//! The topology as applied here, and the last commands that led to it.
//!
//! Whoever orders the commands, their effect is the same. Followers of a
//! topology (clients, other nodes) ask for what changed since their revision;
//! what is kept for them is bounded in number and in bytes, and whoever is
//! further behind gets the whole.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::change::{Command, Outcome};
use cluster::topology::{Revision, Topology};
use tokio::sync::watch;

/// Commands that are kept at most.
pub const COMMANDS_MAX: usize = 4096;
/// Bytes of commands that are kept at most, as they are encoded.
pub const COMMANDS_BYTES_MAX: usize = 8 << 20;

/// The topology of this node.
#[derive(Debug)]
pub struct Applied {
    topology: watch::Sender<Arc<Topology>>,
    recent: Mutex<Recent>,
}

/// The present topology, and the commands that led to it from an earlier one.
#[derive(Debug, Default)]
struct Recent {
    /// Is shown unless something later has been: a keeper that reads its log
    /// again after its disk failed begins from an old one.
    current: Arc<Topology>,
    commands: VecDeque<(Command, usize)>,
    bytes: usize,
    /// The revision that the first of them led to.
    first: Revision,
    changed: Option<Instant>,
}

impl Recent {
    fn push(&mut self, revision: Revision, command: &Command) {
        let bytes = command_bytes(command);
        if self.commands.is_empty() {
            self.first = revision;
        }
        self.commands.push_back((command.clone(), bytes));
        self.bytes += bytes;
        while self.commands.len() > COMMANDS_MAX || self.bytes > COMMANDS_BYTES_MAX {
            let Some((_, bytes)) = self.commands.pop_front() else { break };
            self.bytes -= bytes;
            self.first.0 += 1;
        }
    }
}

/// Length of a command, encoded.
pub(crate) fn command_bytes(command: &Command) -> usize {
    postcard::experimental::serialized_size(command).unwrap_or(usize::MAX)
}

impl Applied {
    /// Begins with a topology, and no commands.
    pub fn new(topology: Topology) -> Arc<Applied> {
        let current = Arc::new(topology);
        let (topology, _) = watch::channel(current.clone());
        Arc::new(Applied { topology, recent: Mutex::new(Recent { current, ..Recent::default() }) })
    }

    /// The latest one that was ever here, and those to come.
    pub fn watch(&self) -> watch::Receiver<Arc<Topology>> {
        self.topology.subscribe()
    }

    /// The present one.
    pub fn topology(&self) -> Arc<Topology> {
        self.recent().current.clone()
    }

    /// How long ago it changed, if it did since the start.
    pub fn changed(&self) -> Option<Duration> {
        self.recent().changed.map(|at| at.elapsed())
    }

    /// Applies commands in their order. Whoever watches sees the last result only:
    /// what belongs together should come together, since the first command of
    /// each call copies the topology.
    pub fn apply<'a>(&self, commands: impl IntoIterator<Item = &'a Command>) -> Vec<Outcome> {
        self.apply_after(commands, |_, _| {})
    }

    /// The same, with a look at each command and the topology before it.
    pub(crate) fn apply_after<'a>(
        &self,
        commands: impl IntoIterator<Item = &'a Command>,
        mut look: impl FnMut(&Topology, &Command),
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut recent = self.recent();
        for command in commands {
            look(&recent.current, command);
            let outcome = Arc::make_mut(&mut recent.current).apply(command);
            if let Outcome::Applied(revision) = outcome {
                recent.push(revision, command);
                recent.changed = Some(Instant::now());
            }
            outcomes.push(outcome);
        }
        self.show(&recent.current);
        outcomes
    }

    /// Replaces the whole: what led to it is not known here.
    pub fn replace(&self, topology: Topology) {
        let mut recent = self.recent();
        let current = Arc::new(topology);
        *recent = Recent { current, changed: Some(Instant::now()), ..Recent::default() };
        self.show(&recent.current);
    }

    fn show(&self, current: &Arc<Topology>) {
        self.topology.send_if_modified(|shown| {
            let later = current.revision() > shown.revision();
            if later {
                *shown = current.clone();
            }
            later
        });
    }

    /// What changed the topology after `revision`; `None` if it is not known
    /// any more, or not yet here.
    pub fn commands_since(&self, revision: Revision) -> Option<Vec<Command>> {
        let recent = self.recent();
        let now = recent.current.revision();
        if revision >= now {
            return (revision == now).then(Vec::new);
        }
        let skip = (revision.0 + 1).checked_sub(recent.first.0)?;
        if recent.commands.is_empty() {
            return None;
        }
        Some(
            recent
                .commands
                .iter()
                .skip(skip as usize)
                .map(|(command, _)| command.clone())
                .collect(),
        )
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create() -> Command {
        Command::Create { name: "tide".into(), ring_bits: 4, copies: 2, seed: 1 }
    }

    #[test]
    fn what_changed_since_leads_to_the_same() {
        let applied = Applied::new(Topology::default());
        let seen = applied.watch();
        let mut commands = vec![create(), create()];
        commands.extend((0..10).map(|at| Command::Copies(1 + at % 3)));
        let outcomes = applied.apply(&commands);
        assert!(matches!(outcomes[1], Outcome::Refused(_)));
        let now = applied.topology();
        assert!(seen.has_changed().unwrap());
        for from in 0..=now.revision().0 {
            let since = applied.commands_since(Revision(from)).unwrap();
            assert_eq!(since.len() as u64, now.revision().0 - from);
        }
        assert_eq!(applied.commands_since(Revision(now.revision().0 + 1)), None);
        let mut other = Topology::default();
        for command in applied.commands_since(Revision(0)).unwrap() {
            other.apply(&command);
        }
        assert_eq!(other, *now);
    }

    #[test]
    fn old_commands_are_forgotten() {
        let applied = Applied::new(Topology::default());
        applied.apply(&[create()]);
        for at in 0..COMMANDS_MAX + 10 {
            applied.apply(&[Command::Copies(1 + at as u8 % 2)]);
        }
        let now = applied.topology().revision().0;
        assert_eq!(applied.commands_since(Revision(0)), None);
        let oldest = Revision(now - COMMANDS_MAX as u64);
        assert_eq!(applied.commands_since(oldest).unwrap().len(), COMMANDS_MAX);
        assert_eq!(applied.commands_since(Revision(oldest.0 - 1)), None);
        applied.replace((*applied.topology()).clone());
        assert_eq!(applied.commands_since(oldest), None);
        assert_eq!(applied.commands_since(Revision(now)), Some(Vec::new()));
    }
}
