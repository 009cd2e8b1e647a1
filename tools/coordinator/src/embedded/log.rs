//! The keeper's log and vote, as Raft wants to have them.
//!
//! Recent entries are kept in memory as well, so that those who are up to date
//! are served without the disk. What was not synced is never acknowledged: the
//! disk's thread says when.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader, StorageIOError};
use redb::{Database, ReadableDatabase, ReadableTable};
use serde::de::DeserializeOwned;

use super::disk::{Disk, DiskError, LOG, META, read_meta};
use super::types::{Entry, LogId, StorageError, Types, Vote, encode};

/// Entries that are kept in memory, as they are encoded.
const CACHE_BYTES_MAX: usize = 16 << 20;
/// About as much is sent to a follower at once; one entry always is.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The log of one keeper; copies are the same log.
#[derive(Clone, Debug)]
pub(super) struct Log {
    disk: Disk,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    /// The last entries, each with its encoded length.
    recent: BTreeMap<u64, (Entry, usize)>,
    bytes: usize,
    /// Encoded length of the whole log since the last purge, roughly.
    written_bytes: usize,
    last: Option<LogId>,
    purged: Option<LogId>,
    /// Is written with the next entries: it need not be exact.
    committed: Option<LogId>,
}

impl Memory {
    fn push(&mut self, entry: Entry, bytes: usize) {
        self.last = Some(entry.log_id);
        self.written_bytes += bytes;
        self.bytes += bytes;
        self.recent.insert(entry.log_id.index, (entry, bytes));
        while self.bytes > CACHE_BYTES_MAX {
            let Some((_, (_, bytes))) = self.recent.pop_first() else { break };
            self.bytes -= bytes;
        }
    }

    fn remove(&mut self, range: impl RangeBounds<u64>) {
        let gone: Vec<u64> = self.recent.range(range).map(|(index, _)| *index).collect();
        for index in gone {
            if let Some((_, bytes)) = self.recent.remove(&index) {
                self.bytes -= bytes;
                self.written_bytes = self.written_bytes.saturating_sub(bytes);
            }
        }
    }
}

impl Log {
    /// What the file remembers.
    pub async fn load(disk: Disk) -> Result<Log, DiskError> {
        let memory = disk
            .run(|database| {
                let reading = database.begin_read()?;
                let log = reading.open_table(LOG)?;
                let last = match log.last()? {
                    Some((_, entry)) => Some(decode::<Entry>(entry.value())?.log_id),
                    None => None,
                };
                let purged = meta::<LogId>(database, "purged")?;
                let committed = meta::<LogId>(database, "committed")?;
                Ok(Memory { last: last.or(purged), purged, committed, ..Memory::default() })
            })
            .await?;
        Ok(Log { disk, memory: Arc::new(Mutex::new(memory)) })
    }

    /// How much has been written since the last purge, roughly.
    pub fn written_bytes(&self) -> usize {
        self.memory().written_bytes
    }

    /// The last entry, written or about to be.
    pub fn last(&self) -> Option<LogId> {
        self.memory().last
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let cached = {
            let memory = self.memory();
            let covered = memory.recent.first_key_value().is_some_and(|(first, _)| *first <= from);
            covered.then(|| {
                let mut bytes = 0;
                memory
                    .recent
                    .range(from..to)
                    .take_while(|(_, (_, entry_bytes))| {
                        let first = bytes == 0;
                        bytes += entry_bytes;
                        first || bytes <= bytes_max
                    })
                    .map(|(_, (entry, _))| entry.clone())
                    .collect()
            })
        };
        if let Some(entries) = cached {
            return Ok(entries);
        }
        self.disk
            .run(move |database| {
                let reading = database.begin_read()?;
                let log = reading.open_table(LOG)?;
                let mut entries = Vec::new();
                let mut bytes = 0;
                for item in log.range(from..to)? {
                    let (_, value) = item?;
                    bytes += value.value().len();
                    if bytes > bytes_max && !entries.is_empty() {
                        break;
                    }
                    entries.push(decode::<Entry>(value.value())?);
                }
                Ok(entries)
            })
            .await
            .map_err(|error| StorageIOError::read_logs(&error).into())
    }
}

/// Reads what [`encode`] wrote.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, redb::Error> {
    postcard::from_bytes(bytes).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

/// A value of the meta table, decoded.
pub(super) fn meta<T: DeserializeOwned>(
    database: &Database,
    name: &str,
) -> Result<Option<T>, redb::Error> {
    read_meta(database, name)?.map(|bytes| decode(&bytes)).transpose()
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        if from >= to { Ok(Vec::new()) } else { self.read(from, to, usize::MAX).await }
    }

    async fn limited_get_log_entries(
        &mut self,
        from: u64,
        to: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(from, to, BATCH_BYTES_MAX).await
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let memory = self.memory();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let bytes = encode(vote);
        self.disk
            .run(move |database| super::disk::write_meta(database, "vote", &bytes))
            .await
            .map_err(|error| StorageIOError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let read = self.disk.run(|database| meta(database, "vote")).await;
        read.map_err(|error| StorageIOError::read_vote(&error).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.memory().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let memory = self.memory();
        // A file that was cut short may not have what was committed.
        Ok(memory.committed.min(memory.last))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        flushed: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut rows = Vec::new();
        let committed = {
            let mut memory = self.memory();
            for entry in entries {
                let bytes = encode(&entry);
                let bytes_len = bytes.len();
                rows.push((entry.log_id.index, bytes));
                memory.push(entry, bytes_len);
            }
            memory.committed.map(|committed| encode(&committed))
        };
        let write = move |database: &Database| {
            let writing = database.begin_write()?;
            {
                let mut log = writing.open_table(LOG)?;
                for (index, bytes) in &rows {
                    log.insert(index, &bytes[..])?;
                }
                if let Some(committed) = committed {
                    writing.open_table(META)?.insert("committed", &committed[..])?;
                }
            }
            writing.commit()?;
            Ok(())
        };
        self.disk
            .submit(write, |written| flushed.log_io_completed(written.map_err(io::Error::other)));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let last = self
            .disk
            .run(move |database| {
                let writing = database.begin_write()?;
                let last = {
                    let mut log = writing.open_table(LOG)?;
                    log.retain_in(since.index.., |_, _| false)?;
                    let last = log.last()?.map(|(_, entry)| decode::<Entry>(entry.value()));
                    last.transpose()?.map(|entry| entry.log_id)
                };
                writing.commit()?;
                Ok(last)
            })
            .await
            .map_err(|error| StorageIOError::write_logs(&error))?;
        let mut memory = self.memory();
        memory.remove(since.index..);
        memory.last = last.or(memory.purged);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        self.disk
            .run(move |database| {
                let writing = database.begin_write()?;
                writing.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?;
                writing.open_table(META)?.insert("purged", &encode(&upto)[..])?;
                writing.commit()?;
                Ok(())
            })
            .await
            .map_err(|error| StorageIOError::write_logs(&error))?;
        let mut memory = self.memory();
        memory.remove(..=upto.index);
        memory.purged = Some(upto);
        memory.last = memory.last.max(Some(upto));
        if memory.recent.is_empty() {
            memory.written_bytes = 0;
        }
        Ok(())
    }
}
