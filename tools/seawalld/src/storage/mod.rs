//! The storage thread: long files, written and read while the cores serve.
//!
//! One thread does the disk's work, so that a snapshot takes no time from a data core.
//! Jobs reach it over bounded channels; a full one makes the producer wait. `file`
//! has the system calls, `place` the checks of the snapshot's path, `snapshot` what
//! is written. A job that fails says why and leaves the thread as it was.

mod file;
pub mod place;
pub mod snapshot;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Chunks that may wait between a producer and the disk.
const CHUNKS_WAITING_MAX: usize = 4;
/// Bytes of a chunk read from disk.
const READ_CHUNK_BYTES: usize = 1 << 20;

/// What the storage thread is asked to do.
enum Job {
    /// Write the chunks to a new file, then sync it.
    Write { path: PathBuf, chunks: Receiver<Vec<u8>>, done: SyncSender<io::Result<()>> },
    /// Read the file to its end.
    Read { path: PathBuf, chunks: SyncSender<io::Result<Vec<u8>>> },
}

/// The storage thread.
#[derive(Debug)]
pub struct Storage {
    jobs: Mutex<SyncSender<Job>>,
}

impl Storage {
    /// Starts the thread.
    pub fn start() -> io::Result<Storage> {
        let (jobs, inbox) = sync_channel(1);
        std::thread::Builder::new().name("storage".into()).spawn(move || run(&inbox))?;
        Ok(Storage { jobs: Mutex::new(jobs) })
    }

    fn submit(&self, job: Job) -> io::Result<()> {
        let jobs = self.jobs.lock().expect("no holder panics");
        jobs.send(job).map_err(|_| io::Error::other("the storage thread is gone"))
    }

    /// Begins a file beside `path`; it takes that name when it is finished.
    pub fn create(&self, path: &Path) -> io::Result<FileWriter> {
        let temporary = place::temporary(path);
        let (chunks, inbox) = sync_channel(CHUNKS_WAITING_MAX);
        let (done, outcome) = sync_channel(1);
        self.submit(Job::Write { path: temporary.clone(), chunks: inbox, done })?;
        Ok(FileWriter {
            chunks: Some(chunks),
            outcome,
            temporary,
            path: path.to_owned(),
            finished: false,
        })
    }

    /// Reads `path` from its start, chunk by chunk.
    pub fn read(
        &self,
        path: &Path,
    ) -> io::Result<impl Iterator<Item = io::Result<Vec<u8>>> + use<>> {
        let (chunks, inbox) = sync_channel(CHUNKS_WAITING_MAX);
        self.submit(Job::Read { path: path.to_owned(), chunks })?;
        Ok(inbox.into_iter())
    }
}

/// Takes one job after the other until the last [`Storage`] is gone.
fn run(jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Write { path, chunks, done } => {
                let _ = done.send(write(&path, &chunks));
            }
            Job::Read { path, chunks } => {
                if let Err(error) = read(&path, &chunks) {
                    let _ = chunks.send(Err(error));
                }
            }
        }
    }
}

fn write(path: &Path, chunks: &Receiver<Vec<u8>>) -> io::Result<()> {
    let mut file = file::Writer::create(path)?;
    for chunk in chunks {
        file.write(&chunk)?;
    }
    file.finish()
}

fn read(path: &Path, chunks: &SyncSender<io::Result<Vec<u8>>>) -> io::Result<()> {
    let mut file = file::Reader::open(path)?;
    loop {
        let chunk = file.next(READ_CHUNK_BYTES)?;
        // The reader may have seen enough.
        if chunk.is_empty() || chunks.send(Ok(chunk)).is_err() {
            return Ok(());
        }
    }
}

/// A file being written. Dropped unfinished, it leaves nothing behind.
#[derive(Debug)]
pub struct FileWriter {
    chunks: Option<SyncSender<Vec<u8>>>,
    outcome: Receiver<io::Result<()>>,
    temporary: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl FileWriter {
    /// Appends a chunk; waits while the disk is behind.
    pub fn write(&mut self, chunk: Vec<u8>) -> io::Result<()> {
        let chunks =
            self.chunks.as_ref().ok_or_else(|| io::Error::other("the file is finished"))?;
        if chunks.send(chunk).is_ok() {
            return Ok(());
        }
        self.chunks = None;
        // The storage thread stopped taking chunks: its outcome says why.
        Err(self
            .outcome()?
            .err()
            .unwrap_or_else(|| io::Error::other("the storage thread stopped early")))
    }

    fn outcome(&self) -> io::Result<io::Result<()>> {
        self.outcome.recv().map_err(|_| io::Error::other("the storage thread is gone"))
    }

    /// Waits until everything is on disk and gives the file its name.
    pub fn finish(mut self) -> io::Result<()> {
        self.chunks = None;
        self.outcome()??;
        std::fs::rename(&self.temporary, &self.path)?;
        self.finished = true;
        place::sync_folder_of(&self.path)
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if !self.finished {
            self.chunks = None;
            let _ = self.outcome.recv();
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("seawall-storage-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn files_survive_the_round_trip() {
        let storage = Storage::start().unwrap();
        let folder = folder("trip");
        let path = folder.join("file");
        let mut writer = storage.create(&path).unwrap();
        let mut expected = Vec::new();
        // More than two windows of write-behind, and a rest.
        for round in 0..400u32 {
            let chunk: Vec<u8> = (0..70_001u32).map(|at| (at ^ round) as u8).collect();
            expected.extend_from_slice(&chunk);
            writer.write(chunk).unwrap();
        }
        writer.finish().unwrap();
        let read: Vec<u8> = storage.read(&path).unwrap().flat_map(|chunk| chunk.unwrap()).collect();
        assert!(read == expected, "{} bytes read, {} written", read.len(), expected.len());

        // An unfinished file leaves neither itself nor harm to the old one.
        let mut writer = storage.create(&path).unwrap();
        writer.write(vec![1; 10]).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), expected.len() as u64);

        let missing = storage.read(&folder.join("missing")).unwrap().next().unwrap();
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
        let refused = storage.create(&folder.join("no/such/folder/file")).unwrap().finish();
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
