//! The owners of all partitions, as a table that is cheap to copy and to compare.
//!
//! ```text
//! table ──► chunk 0 (shared) ── 256 × Owners
//!           chunk 1 (own)    ── 256 × Owners      changed since the copy
//!           ...
//! ```
//!
//! A topology is copied for every change, and every data core compares it with the
//! one before. Most changes touch few partitions, so the table is cut into chunks
//! that copies share until one of them is changed. A copy costs one counter a chunk
//! ([`CHUNK`] partitions), and [`OwnersTable::changed`] skips what is shared.

use crate::ring::Partition;
use crate::topology::Owners;
use alloc::{sync::Arc, vec::Vec};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Partitions in a chunk: 5 KiB are copied for the first change of one.
const CHUNK: usize = 256;

type Chunk = [Owners; CHUNK];

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnersTable {
    chunks: Vec<Arc<Chunk>>,
    len: usize,
}

impl OwnersTable {
    /// `len` partitions that nobody owns.
    pub fn new(len: usize) -> OwnersTable {
        let empty = Arc::new([Owners::NONE; CHUNK]);
        OwnersTable { chunks: alloc::vec![empty; len.div_ceil(CHUNK)], len }
    }

    /// Number of partitions.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Who owns a partition; `None` if the table is shorter.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&Owners> {
        if at < self.len {
            self.chunks.get(at / CHUNK).map(|chunk| &chunk[at % CHUNK])
        } else {
            None
        }
    }

    /// The same, to be changed. Copies the chunk if another table shares it: ask
    /// only for what does change.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut Owners> {
        if at >= self.len {
            return None;
        }
        self.chunks.get_mut(at / CHUNK).map(|chunk| &mut Arc::make_mut(chunk)[at % CHUNK])
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Owners> {
        (0..self.len).map(|at| &self.chunks[at / CHUNK][at % CHUNK])
    }

    /// Changes those for which `is_one` holds.
    pub fn change(
        &mut self,
        is_one: impl Fn(&Owners) -> bool,
        mut change: impl FnMut(&mut Owners),
    ) {
        for at in 0..self.len {
            if is_one(&self.chunks[at / CHUNK][at % CHUNK]) {
                change(&mut Arc::make_mut(&mut self.chunks[at / CHUNK])[at % CHUNK]);
            }
        }
    }

    /// The partitions whose owners are not those of `old`, with both. Partitions
    /// that only one of the tables has count as owned by nobody in the other.
    pub fn changed<'a>(
        &'a self,
        old: &'a OwnersTable,
    ) -> impl Iterator<Item = (Partition, &'a Owners, &'a Owners)> + 'a {
        let chunks = self.chunks.len().max(old.chunks.len());
        let differ =
            (0..chunks).filter(|chunk| match (self.chunks.get(*chunk), old.chunks.get(*chunk)) {
                (Some(is), Some(was)) => !Arc::ptr_eq(is, was),
                _ => true,
            });
        let places = differ.flat_map(|chunk| chunk * CHUNK..(chunk + 1) * CHUNK);
        places.filter_map(|at| {
            let is = self.get(at).unwrap_or(&Owners::NONE);
            let was = old.get(at).unwrap_or(&Owners::NONE);
            (is != was).then_some((Partition(at as u32), was, is))
        })
    }
}

impl core::ops::Index<usize> for OwnersTable {
    type Output = Owners;

    #[inline]
    fn index(&self, at: usize) -> &Owners {
        &self.chunks[at / CHUNK][at % CHUNK]
    }
}

impl PartialEq for OwnersTable {
    fn eq(&self, other: &OwnersTable) -> bool {
        self.len == other.len && self.changed(other).next().is_none()
    }
}

impl Eq for OwnersTable {}

impl FromIterator<Owners> for OwnersTable {
    fn from_iter<T: IntoIterator<Item = Owners>>(owners: T) -> OwnersTable {
        let mut table = OwnersTable::default();
        for owners in owners {
            let at = table.len % CHUNK;
            if at == 0 {
                table.chunks.push(Arc::new([Owners::NONE; CHUNK]));
            }
            if let Some(chunk) = table.chunks.last_mut() {
                Arc::make_mut(chunk)[at] = owners;
            }
            table.len += 1;
        }
        table
    }
}

/// As a sequence, as if it were one vector.
impl Serialize for OwnersTable {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for OwnersTable {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<OwnersTable, D::Error> {
        Ok(Vec::<Owners>::deserialize(from)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Epoch, NodeIndex};

    fn owned_by(node: u16) -> Owners {
        let mut owners = Owners::NONE;
        owners.add(NodeIndex(node));
        owners.epoch = Epoch(u32::from(node));
        owners
    }

    #[test]
    fn a_copy_shares_all_but_what_is_changed() {
        let mut table: OwnersTable = (0..1_000).map(|at| owned_by(at % 7)).collect();
        assert_eq!(table.len(), 1_000);
        let before = table.clone();
        *table.get_mut(700).unwrap() = owned_by(9);
        let changed: Vec<_> = table.changed(&before).collect();
        assert_eq!(changed, [(Partition(700), &owned_by(0), &owned_by(9))]);
        assert_eq!((before[700], table[700]), (owned_by(0), owned_by(9)));
        let shared = table.chunks.iter().zip(&before.chunks).filter(|(a, b)| Arc::ptr_eq(a, b));
        assert_eq!(shared.count(), table.chunks.len() - 1);
        table.change(|owners| owners.primary() == Some(NodeIndex(3)), |owners| owners.epoch.0 += 1);
        let threes = before.iter().filter(|owners| owners.primary() == Some(NodeIndex(3))).count();
        assert_eq!(table.changed(&before).count(), threes + 1, "and the one of before");
        assert!(table.get(1_000).is_none() && table.get_mut(1_000).is_none());
    }

    #[test]
    fn tables_of_other_lengths_differ_where_one_has_owners() {
        let (short, long) = (OwnersTable::new(3), OwnersTable::new(600));
        assert_ne!(short, long);
        assert_eq!(long.changed(&short).count(), 0, "nobody owns any of them");
        let mut owned = long.clone();
        *owned.get_mut(599).unwrap() = owned_by(1);
        assert_eq!(owned.changed(&short).count(), 1);
        assert_eq!(short.changed(&owned).count(), 1);
    }

    #[test]
    fn it_is_written_as_a_sequence() {
        let table: OwnersTable = (0..300).map(owned_by).collect();
        let plain: Vec<Owners> = table.iter().copied().collect();
        let bytes = postcard::to_allocvec(&table).unwrap();
        assert_eq!(bytes, postcard::to_allocvec(&plain).unwrap());
        assert_eq!(postcard::from_bytes::<OwnersTable>(&bytes).unwrap(), table);
    }
}
