//! How the writes of a key are replicated: by its namespace, the part of the key
//! before the delimiter.

use alloc::{boxed::Box, vec::Vec};

/// When a write is answered, and what survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// When every in-sync copy has it.
    #[default]
    Sync,
    /// At once; the copies get it right after. What they had not got yet when
    /// the primary died is lost.
    Async,
    /// At once, and there is one copy, at the primary.
    None,
}

impl Mode {
    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Mode> {
        match name {
            "sync" => Some(Mode::Sync),
            "async" => Some(Mode::Async),
            "none" => Some(Mode::None),
            _ => None,
        }
    }
}

/// The modes of all keys.
#[derive(Clone, Debug)]
pub struct Modes {
    delimiter: u8,
    usual: Mode,
    namespaces: Vec<(Box<[u8]>, Mode)>,
}

impl Default for Modes {
    fn default() -> Modes {
        Modes { delimiter: b':', usual: Mode::Sync, namespaces: Vec::new() }
    }
}

impl Modes {
    /// `usual` is that of keys in no namespace that is named here.
    pub fn new(delimiter: u8, usual: Mode, namespaces: Vec<(Box<[u8]>, Mode)>) -> Modes {
        Modes { delimiter, usual, namespaces }
    }

    /// The mode of a key.
    #[inline]
    pub fn of(&self, key: &[u8]) -> Mode {
        if self.namespaces.is_empty() {
            return self.usual;
        }
        let end = key.iter().position(|byte| *byte == self.delimiter);
        let name = end.map(|end| &key[..end]);
        let named = self.namespaces.iter().find(|(own, _)| name == Some(&**own));
        named.map_or(self.usual, |(_, mode)| *mode)
    }

    /// Whether all keys are replicated before a write is answered.
    #[inline]
    pub fn is_all_sync(&self) -> bool {
        self.usual == Mode::Sync && self.namespaces.is_empty()
    }

    /// Whether some keys have one copy only.
    #[inline]
    pub fn has_none(&self) -> bool {
        self.usual == Mode::None || self.namespaces.iter().any(|(_, mode)| *mode == Mode::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn the_namespace_decides() {
        let namespaces = vec![(Box::from(*b"feed"), Mode::Async), (Box::from(*b"tmp"), Mode::None)];
        let modes = Modes::new(b':', Mode::Sync, namespaces);
        let keys = ["feed:1", "tmp:a:b", "feed", "feeds:1", "a:feed:1", ":x", "x"];
        let found = keys.map(|key| modes.of(key.as_bytes()));
        let [sync, all_async, none] = [Mode::Sync, Mode::Async, Mode::None];
        assert_eq!(found, [all_async, none, sync, sync, sync, sync, sync]);
        assert!(modes.has_none() && !modes.is_all_sync());
        assert!(Modes::default().is_all_sync() && !Modes::default().has_none());
        assert_eq!(Modes::new(b'/', Mode::Async, Vec::new()).of(b"x"), Mode::Async);
    }
}
