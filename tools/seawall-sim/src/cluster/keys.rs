//! The keys of a run, and how each is replicated.

use super::random::Random;
use cluster::replication::{Mode, Modes};

/// The namespaces of all keys, and what is said of each where modes differ.
pub const NAMESPACES: [(&str, Mode); 3] =
    [("key", Mode::Sync), ("feed", Mode::Async), ("tmp", Mode::None)];

/// Which modes a run has; its keys have them in turn.
const PATTERNS: [&[Mode]; 6] = [
    &[Mode::Sync, Mode::Async, Mode::None],
    &[Mode::Async, Mode::Sync],
    &[Mode::None, Mode::Sync],
    &[Mode::Async],
    &[Mode::None, Mode::Async],
    &[Mode::Async, Mode::None, Mode::Sync, Mode::Sync],
];

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Keys {
    names: Vec<String>,
    modes: Vec<Mode>,
    /// What every node is told.
    pub replication: Modes,
}

impl Keys {
    /// So many keys, all replicated synchronously.
    pub fn all_sync(count: u32) -> Keys {
        Keys::new(count, &[Mode::Sync], Mode::Sync)
    }

    /// So many keys, replicated as chance has it.
    pub fn mixed(count: u32, random: &mut Random) -> Keys {
        let pattern = PATTERNS[random.below(PATTERNS.len() as u64) as usize];
        // What is not said of a namespace goes for it.
        let usual = pattern[random.below(pattern.len() as u64) as usize];
        Keys::new(count, pattern, usual)
    }

    fn new(count: u32, pattern: &[Mode], usual: Mode) -> Keys {
        let modes: Vec<Mode> = pattern.iter().copied().cycle().take(count as usize).collect();
        let name = |(key, mode): (usize, &Mode)| format!("{}:{key}", namespace(*mode));
        let named = NAMESPACES.iter().filter(|(_, mode)| *mode != usual && pattern.contains(mode));
        let named = named.map(|(name, mode)| (Box::from(name.as_bytes()), *mode)).collect();
        Keys {
            names: modes.iter().enumerate().map(name).collect(),
            replication: Modes::new(b':', usual, named),
            modes,
        }
    }

    /// All keys, by number.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// A key by its number.
    pub fn name(&self, key: u32) -> &str {
        &self.names[key as usize]
    }

    /// How it is replicated.
    pub fn mode(&self, key: u32) -> Mode {
        self.modes[key as usize]
    }

    /// The namespace that it is in.
    pub fn namespace(&self, key: u32) -> &'static str {
        namespace(self.mode(key))
    }

    /// A namespace of some of them.
    pub fn any_namespace(&self, random: &mut Random) -> &'static str {
        if self.modes.iter().all(|mode| *mode == self.modes[0]) {
            return namespace(self.modes[0]);
        }
        namespace(self.modes[random.below(self.modes.len() as u64) as usize])
    }
}

fn namespace(mode: Mode) -> &'static str {
    let named = NAMESPACES.iter().find(|(_, own)| *own == mode);
    named.map_or("", |(name, _)| *name)
}
