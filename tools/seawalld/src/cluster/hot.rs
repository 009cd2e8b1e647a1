//! Hot keys on a data core: which they are, and which copies the core holds.
//!
//! There are two kinds of copies, and a key can have both. Keys of other nodes are
//! granted by their primaries (`cluster::replication`, which decides everything
//! about them): here it is only found which of them are hot, from the reads that
//! the core passes on. Keys of this core that are hot are shown to the node's other
//! cores on the [`Board`], and keys that those show are held here.
//!
//! Copies lie in the core's own shard. What makes it answer from one is never that
//! it is there, but a grant or the board.

use super::board::{Board, SLOTS, Shown};
use cluster::replication::Replicator;
use cluster::time::Millis;
use engine::{Glance, HotKey, HotKeys, KeyHash, Now, Shard, snapshot};
use std::sync::Arc;

/// Which keys are hot is looked at so often.
const CHOOSE_EVERY_MS: u64 = 100;
/// A key that is shown stays so while another core has used it within this time.
const USED_MS: u64 = 1_000;

/// When a key is hot.
#[derive(Clone, Copy, Debug)]
pub struct HotSettings {
    /// Copies of other nodes' keys that a core holds; 0: there are no copies at all.
    pub copies: usize,
    /// The key's part of the reads, 0 to 1.
    pub share: f64,
    /// Its reads a second.
    pub per_second: f64,
}

impl HotSettings {
    /// A key that has copies already keeps them down to half of what it took to get
    /// them.
    fn is_hot(&self, key: &HotKey<'_>, has_copies: bool) -> bool {
        let less = if has_copies { 0.5 } else { 1.0 };
        key.share >= self.share * less && key.per_second >= self.per_second * less
    }
}

/// A key of this core that it shows.
#[derive(Debug)]
struct Mine {
    hash: KeyHash,
    key: Box<[u8]>,
}

/// A key that another core shows.
#[derive(Clone, Copy, Debug)]
struct Other {
    hash: KeyHash,
    core: u16,
    slot: usize,
}

/// The copy of such a key in this core's shard.
#[derive(Debug)]
struct Held {
    of: Other,
    key: Box<[u8]>,
    sequence: u64,
    /// The shard had no room for it.
    refused: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct Hot {
    settings: HotSettings,
    core: u16,
    cores: u16,
    board: Arc<Board>,
    /// Reads that are passed on to other nodes, and those that copies spared that.
    passed: HotKeys,
    chosen_at: Millis,
    mine: [Option<Mine>; SLOTS],
    /// The last number given to what is shown.
    sequence: u64,
    /// As of which change of the board `others` is.
    seen: u64,
    others: Vec<Other>,
    held: Vec<Held>,
    /// Reads answered from what other cores show.
    reads: u64,
}

impl Hot {
    /// Nothing is hot yet.
    pub fn new(settings: HotSettings, core: u16, cores: u16, board: Arc<Board>) -> Hot {
        Hot {
            settings,
            core,
            cores,
            board,
            passed: HotKeys::new(u64::from(core) << 32 | 0x5ea),
            chosen_at: Millis(0),
            mine: Default::default(),
            sequence: 0,
            seen: 0,
            others: Vec::new(),
            held: Vec::new(),
            reads: 0,
        }
    }

    /// Reads answered from what other cores show.
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// Whether there are to be no copies.
    pub fn is_off(&self) -> bool {
        self.settings.copies == 0
    }

    /// Keys that this core shows at this moment.
    pub fn shown(&self) -> usize {
        self.board.slots(self.core).iter().filter(|slot| slot.sequence() > 0).count()
    }

    /// Whether this core keeps a slot for a key.
    pub fn keeps(&self, hash: KeyHash) -> bool {
        self.mine.iter().flatten().any(|mine| mine.hash == hash)
    }

    /// Whether others may answer it at this moment.
    pub fn shows(&self, hash: KeyHash) -> bool {
        let slots = self.board.slots(self.core).iter().zip(&self.mine);
        let mut own = slots.filter(|(_, mine)| mine.as_ref().is_some_and(|mine| mine.hash == hash));
        own.any(|(slot, _)| slot.sequence() > 0)
    }

    /// Keys of other cores that this one answers at this moment.
    pub fn held_keys(&self) -> impl Iterator<Item = KeyHash> + '_ {
        let current =
            |held: &&Held| self.board.slots(held.of.core)[held.of.slot].sequence() == held.sequence;
        self.held.iter().filter(current).map(|held| held.of.hash)
    }

    /// A read of another node's key is passed on, or was answered from a copy.
    #[inline]
    pub fn passed(&mut self, key: &[u8], hash: KeyHash) {
        self.passed.record(key, hash);
    }

    /// Nobody may answer any more from what this core showed of a key.
    pub fn retract(&mut self, hash: KeyHash) {
        for (slot, mine) in self.board.slots(self.core).iter().zip(&self.mine) {
            if mine.as_ref().is_some_and(|mine| mine.hash == hash) {
                slot.retract();
            }
        }
    }

    /// A turn begins: which keys others show.
    #[inline]
    pub fn begin_turn(&mut self) {
        if self.board.changes() != self.seen {
            self.look();
        }
    }

    #[cold]
    fn look(&mut self) {
        self.seen = self.board.changes();
        self.others.clear();
        for core in (0..self.cores).filter(|core| *core != self.core) {
            for (slot, shown) in self.board.slots(core).iter().enumerate() {
                let hash = shown.hash();
                if hash != KeyHash(0) {
                    self.others.push(Other { hash, core, slot });
                }
            }
        }
    }

    /// Whether a read of a key that another core owns may be answered from the copy
    /// in this core's shard: until when. The caller holds a lease.
    #[inline]
    pub fn find(
        &mut self,
        key: &[u8],
        hash: KeyHash,
        clock: Millis,
        shard: &mut Shard,
        now: Now,
    ) -> Option<Millis> {
        let of = *self.others.iter().find(|other| other.hash == hash)?;
        self.read(of, key, clock, shard, now)
    }

    fn read(
        &mut self,
        of: Other,
        key: &[u8],
        clock: Millis,
        shard: &mut Shard,
        now: Now,
    ) -> Option<Millis> {
        let board = Arc::clone(&self.board);
        let slot = &board.slots(of.core)[of.slot];
        let sequence = slot.sequence();
        let until = slot.until();
        if sequence == 0 || clock >= until {
            return None;
        }
        let at = self.held.iter().position(|held| held.of.hash == of.hash);
        let fresh = at.is_some_and(|at| {
            let held = &self.held[at];
            (held.of.core, held.of.slot, held.sequence) == (of.core, of.slot, sequence)
        });
        if !fresh {
            let shown = slot.item(sequence).filter(|shown| shown.hash == of.hash)?;
            let record = snapshot::records(&shown.record).next()??;
            let refused = !matches!(shard.adopt(&record, now), Ok(true));
            let held = Held { of, key: record.key.into(), sequence, refused };
            match at {
                Some(at) => self.held[at] = held,
                None => self.held.push(held),
            }
        }
        let at = at.unwrap_or(self.held.len() - 1);
        if self.held[at].refused {
            return None;
        }
        if !is_readable(key, of.hash, shard, now) {
            // Evicted, or another key of the same hash: it is taken over anew.
            self.held[at].sequence = 0;
            return None;
        }
        // As of this moment the copy is what its owner would answer.
        if slot.sequence() != sequence {
            return None;
        }
        slot.note_use(clock);
        self.reads += 1;
        Some(until)
    }

    /// Every millisecond or so.
    pub fn upkeep(
        &mut self,
        replicator: &mut Replicator,
        clock: Millis,
        shard: &mut Shard,
        now: Now,
    ) {
        if self.settings.copies == 0 {
            return;
        }
        if clock.since(self.chosen_at) >= CHOOSE_EVERY_MS {
            self.chosen_at = clock;
            self.choose_copies(replicator, shard, now);
            if self.cores > 1 {
                self.choose_mine(replicator, clock, shard, now);
                self.drop_held(shard, now);
            }
        }
        if self.cores > 1 {
            self.show(replicator, clock, shard, now);
        }
    }

    /// The hottest keys of other nodes.
    fn choose_copies(&mut self, replicator: &mut Replicator, shard: &mut Shard, now: Now) {
        self.passed.decay(now);
        let top = self.passed.top(now);
        let hot = top
            .iter()
            .filter(|key| !replicator.is_read_at_primary(key.key))
            .filter(|key| self.settings.is_hot(key, replicator.copy_state(key.hash).is_some()));
        let keys: Vec<(KeyHash, &[u8])> =
            hot.take(self.settings.copies).map(|key| (key.hash, key.key)).collect();
        replicator.want_copies(&keys, shard, now);
    }

    /// The hottest keys of this core: those get its slots.
    fn choose_mine(
        &mut self,
        replicator: &mut Replicator,
        clock: Millis,
        shard: &mut Shard,
        now: Now,
    ) {
        let slots = self.board.slots(self.core);
        let top = shard.hot_keys(now);
        let hot: Vec<(KeyHash, &[u8])> = (top.iter())
            .filter(|key| !replicator.is_read_at_primary(key.key))
            // What other cores own is here as a copy.
            .filter(|key| key.hash.core(u32::from(self.cores)) == u32::from(self.core))
            .filter(|key| self.settings.is_hot(key, self.keeps(key.hash)))
            .take(SLOTS)
            .map(|key| (key.hash, key.key))
            .collect();
        for (slot, mine) in self.mine.iter_mut().enumerate() {
            let Some(own) = mine else { continue };
            // What others answer is not counted here.
            let used = clock.since(slots[slot].used()) < USED_MS;
            if !used && !hot.iter().any(|(hash, _)| *hash == own.hash) {
                replicator.unshow(own.hash);
                self.board.free(self.core, slot);
                *mine = None;
            }
        }
        for (hash, key) in hot {
            if self.mine.iter().flatten().any(|mine| mine.hash == hash) {
                continue;
            }
            let Some(free) = self.mine.iter_mut().find(|mine| mine.is_none()) else { return };
            *free = Some(Mine { hash, key: key.into() });
        }
    }

    /// Shows what may be shown and is not.
    fn show(&mut self, replicator: &mut Replicator, clock: Millis, shard: &mut Shard, now: Now) {
        for (at, mine) in self.mine.iter().enumerate() {
            let Some(mine) = mine else { continue };
            let slot = &self.board.slots(self.core)[at];
            let until = replicator.may_show(mine.hash, clock);
            match until {
                Some(until) if slot.sequence() > 0 => slot.extend(until),
                Some(until) if is_readable(&mine.key, mine.hash, shard, now) => {
                    let mut record = Vec::new();
                    if !shard.export(&mine.key, mine.hash, now, &mut record)
                        || record.len() > replicator.limits().copy_bytes_max
                    {
                        continue;
                    }
                    self.sequence += 1;
                    let (sequence, hash) = (self.sequence, mine.hash);
                    self.board.show(self.core, at, Shown { sequence, hash, record }, until);
                    replicator.show(hash);
                }
                _ => {}
            }
        }
    }

    /// Copies of what is not shown any more.
    fn drop_held(&mut self, shard: &mut Shard, now: Now) {
        let others = &self.others;
        self.held.retain(|held| {
            let kept = others.iter().any(|other| other.hash == held.of.hash);
            if !kept {
                shard.unlink_key(&held.key, held.of.hash, now);
            }
            kept
        });
    }
}

/// Whether the shard has an item that a read changes nothing of.
pub fn is_readable(key: &[u8], hash: KeyHash, shard: &mut Shard, now: Now) -> bool {
    let found = shard.glance(key, hash, now);
    matches!(found, Glance::Item(_)) && !found.is_marked()
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Arena, HashSeed, ShardConfig, Value, Write};

    const NOW: Now = Now(1_800_000_000_000);
    const KEY: &[u8] = b"front page";

    fn shard() -> Shard {
        Shard::new(ShardConfig::new(HashSeed::new(1), 8 << 20), Arena::heap(8 << 20))
    }

    fn write(shard: &mut Shard, value: &[u8]) -> Vec<u8> {
        let hash = shard.hash_of(KEY);
        shard.write(Write::set(KEY, hash, Value::Bytes(value)), NOW).unwrap();
        let mut record = Vec::new();
        assert!(shard.export(KEY, hash, NOW, &mut record));
        record
    }

    #[test]
    fn a_reader_answers_what_is_shown_and_nothing_else() {
        let board = Arc::new(Board::new(2));
        let settings = HotSettings { copies: 16, share: 0.01, per_second: 1.0 };
        let mut reader = Hot::new(settings, 1, 2, Arc::clone(&board));
        let (mut owner, mut own) = (shard(), shard());
        let hash = owner.hash_of(KEY);
        let show = |sequence, record| {
            board.show(0, 2, Shown { sequence, hash, record }, Millis(100));
        };
        show(1, write(&mut owner, b"one"));
        let read = |reader: &mut Hot, own: &mut Shard, clock| {
            reader.begin_turn();
            let until = reader.find(KEY, hash, Millis(clock), own, NOW)?;
            assert_eq!(until, Millis(100));
            Some(own.peek(KEY, hash, NOW)?.head.to_vec())
        };
        assert_eq!(read(&mut reader, &mut own, 50).as_deref(), Some(&b"one"[..]));
        assert_eq!(read(&mut reader, &mut own, 100), None, "it is over");
        board.slots(0)[2].retract();
        assert_eq!(read(&mut reader, &mut own, 50), None);
        assert_eq!(reader.held_keys().count(), 0);
        show(2, write(&mut owner, b"two"));
        assert_eq!(read(&mut reader, &mut own, 50).as_deref(), Some(&b"two"[..]));
        // Evicted here: not told as missing, and taken over again.
        own.unlink_key(KEY, hash, NOW);
        assert_eq!(read(&mut reader, &mut own, 50), None);
        assert_eq!(read(&mut reader, &mut own, 50).as_deref(), Some(&b"two"[..]));
        assert_eq!((reader.reads(), reader.held_keys().count()), (3, 1));
        board.free(0, 2);
        assert_eq!(read(&mut reader, &mut own, 50), None);
        reader.drop_held(&mut own, NOW);
        assert!(own.peek(KEY, hash, NOW).is_none(), "it does not stay");
    }
}
