//! What a primary shows its replicas, and what a node drops that it no longer
//! holds: items as whole records, chosen by their keys' hashes.

use super::Shard;
use super::exchange::{ScanCursor, ScanLimits};
use crate::item::View;
use crate::slab::page::Map;
use crate::{KeyHash, Now, Record, RecordValue, snapshot};
use alloc::vec::Vec;

impl Shard {
    /// Appends the live item of a key as a [record](snapshot::write_record) with
    /// its whole value; false if there is none. Nothing is counted.
    pub fn export(&mut self, key: &[u8], hash: KeyHash, now: Now, out: &mut Vec<u8>) -> bool {
        self.at(now);
        let Some((at, view)) = self.lookup(key, hash) else { return false };
        self.write_whole(at, &view, out);
        true
    }

    /// Shows the next live items whose hash `wanted` takes, as records with
    /// their whole values.
    pub fn export_next(
        &self,
        cursor: &mut ScanCursor,
        limits: ScanLimits,
        now: Now,
        wanted: &mut dyn FnMut(KeyHash, &[u8]) -> bool,
        each: &mut dyn FnMut(KeyHash, &[u8]),
    ) {
        let mut record = Vec::new();
        self.walk(cursor, limits, now, &mut |at, view| {
            let key = view.key(&self.store.slab);
            let hash = self.hash_of(key);
            if !wanted(hash, key) {
                return 0;
            }
            record.clear();
            self.write_whole(at, view, &mut record);
            each(hash, &record);
            record.len()
        });
    }

    /// Frees the next items that `unwanted` takes. Returns how many.
    pub fn purge_next(
        &mut self,
        cursor: &mut ScanCursor,
        items_max: usize,
        now: Now,
        unwanted: &mut dyn FnMut(KeyHash, &[u8]) -> bool,
    ) -> usize {
        self.at(now);
        let mut found = Vec::new();
        let limits = ScanLimits { items: items_max, bytes: usize::MAX };
        self.walk(cursor, limits, now, &mut |at, view| {
            let key = view.key(&self.store.slab);
            let hash = self.hash_of(key);
            if unwanted(hash, key) {
                found.push((at, hash));
            }
            0
        });
        // Nothing moves between the walk and this.
        for (at, hash) in &found {
            if self.store.slab.bit(*at, Map::Live) {
                self.unlink(*at, *hash);
            }
        }
        found.len()
    }

    fn write_whole(&self, at: crate::ChunkRef, view: &View, out: &mut Vec<u8>) {
        let item = self.item(at, view);
        // The first piece goes with the record, the others follow it: together
        // they are the value, as `Inline` says.
        let record = Record { value: RecordValue::Inline(item.head), ..self.record(view) };
        snapshot::write_record(&record, out);
        for piece in item.pieces().skip(1) {
            out.extend_from_slice(piece);
        }
    }
}
