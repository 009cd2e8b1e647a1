//! `stats detail`: reads and writes counted by key prefix.

use crate::limits::DETAIL_PREFIXES_MAX;
use std::collections::HashMap;

/// Counters of one prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCounts {
    /// Keys that were read.
    pub gets: u64,
    /// Those that hit.
    pub hits: u64,
    /// Keys that were written.
    pub sets: u64,
    /// Keys that were deleted.
    pub deletes: u64,
}

/// The prefixes seen on one core.
#[derive(Clone, Debug, Default)]
pub struct Detail {
    prefixes: HashMap<Box<[u8]>, PrefixCounts>,
}

impl Detail {
    fn prefix(&mut self, key: &[u8], delimiter: u8) -> Option<&mut PrefixCounts> {
        let end = memchr::memchr(delimiter, key)?;
        let prefix = &key[..end];
        if !self.prefixes.contains_key(prefix) {
            if self.prefixes.len() >= DETAIL_PREFIXES_MAX {
                return None;
            }
            self.prefixes.insert(prefix.into(), PrefixCounts::default());
        }
        self.prefixes.get_mut(prefix)
    }

    /// A read.
    #[cold]
    pub fn get(&mut self, key: &[u8], delimiter: u8, hit: bool) {
        if let Some(counts) = self.prefix(key, delimiter) {
            counts.gets += 1;
            counts.hits += u64::from(hit);
        }
    }

    /// A write.
    #[cold]
    pub fn set(&mut self, key: &[u8], delimiter: u8) {
        if let Some(counts) = self.prefix(key, delimiter) {
            counts.sets += 1;
        }
    }

    /// A delete.
    #[cold]
    pub fn delete(&mut self, key: &[u8], delimiter: u8) {
        if let Some(counts) = self.prefix(key, delimiter) {
            counts.deletes += 1;
        }
    }

    /// Everything counted so far.
    pub fn counts(&self) -> Vec<(Box<[u8]>, PrefixCounts)> {
        self.prefixes.iter().map(|(prefix, counts)| (prefix.clone(), *counts)).collect()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.prefixes.clear();
    }
}
