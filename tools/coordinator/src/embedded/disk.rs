//! The file in which a keeper remembers what it promised.
//!
//! One redb file a node, `keeper.redb`: the log, the vote, the last snapshot, and
//! who this node is. One thread owns it and does one transaction after the
//! other, each synced before it is acknowledged; the control thread never waits.
//!
//! ```text
//! log    index -> entry
//! meta   "format" "id" "cluster" "beginning" "former" "vote" "committed" "purged" "snapshot"
//! ```
//!
//! After a failed write nothing more is promised: the caller closes the file and
//! opens it anew.

use std::any::Any;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use redb::{Builder, Database, DatabaseError, ReadableDatabase, TableDefinition, TableError};
use tokio::sync::oneshot;

/// Name of the file in its directory.
pub const FILE: &str = "keeper.redb";
const FORMAT: &[u8] = b"seawall keeper 1";
/// redb's cache of pages: the log that matters is kept in memory anyway.
const CACHE_BYTES: usize = 8 << 20;

pub(super) const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");
pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// Why the file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskError {
    /// It cannot be opened or made.
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// It is not a keeper's, or it is damaged.
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another process uses it.
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Reading or writing failed.
    Failed {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// It was closed.
    Closed,
}

impl fmt::Display for DiskError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::Open { path, why } => write!(out, "cannot open {}: {why}", path.display()),
            DiskError::Foreign { path, why } => write!(
                out,
                "{} is not a keeper's file, or it is damaged: {why}\n  \
                 to begin anew, as a node without a memory:  mv {0} {0}.bad",
                path.display()
            ),
            DiskError::InUse { path } => {
                write!(out, "{} is in use by another process", path.display())
            }
            DiskError::Failed { path, why } => {
                write!(out, "{} cannot be read or written: {why}", path.display())
            }
            DiskError::Closed => write!(out, "the keeper's file is closed"),
        }
    }
}

impl std::error::Error for DiskError {}

type Work = Box<dyn FnOnce(&Database) + Send>;

enum Job {
    Work(Work),
    Close(oneshot::Sender<()>),
}

/// The file, and the thread that owns it.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
}

impl Disk {
    /// Opens the file in the directory, or makes both.
    pub async fn open(
        directory: &Path,
        id_if_new: u64,
        on_thread: fn(),
    ) -> Result<Disk, DiskError> {
        let path = directory.join(FILE);
        let (jobs, queue) = mpsc::channel();
        let (tell, told) = oneshot::channel();
        let disk = Disk { path: path.clone(), jobs };
        let spawned = thread::Builder::new().name("keeper-disk".into()).spawn(move || {
            on_thread();
            own(&path, id_if_new, &queue, tell);
        });
        if let Err(error) = spawned {
            return Err(DiskError::Open { path: disk.path, why: error.to_string() });
        }
        told.await.map_err(|_| DiskError::Closed)??;
        Ok(disk)
    }

    /// Runs `work` after everything that came before, and then `done`, on the
    /// thread of the file.
    pub fn submit<T: 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
        done: impl FnOnce(Result<T, DiskError>) + Send + 'static,
    ) {
        let path = self.path.clone();
        let job = Job::Work(Box::new(move |database| {
            let result = catch_unwind(AssertUnwindSafe(|| work(database)));
            done(match result {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(DiskError::Failed { path, why: error.to_string() }),
                Err(panic) => Err(DiskError::Failed { path, why: panic_text(&*panic) }),
            });
        }));
        // If the thread has ended, `done` is dropped: whoever waits sees that.
        let _ = self.jobs.send(job);
    }

    /// Runs `work` and waits for it.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, DiskError> {
        let (tell, told) = oneshot::channel();
        self.submit(work, move |result| {
            let _ = tell.send(result);
        });
        told.await.map_err(|_| DiskError::Closed)?
    }

    /// Closes the file after everything that came before.
    pub async fn close(&self) {
        let (tell, told) = oneshot::channel();
        if self.jobs.send(Job::Close(tell)).is_ok() {
            let _ = told.await;
        }
    }
}

fn own(
    path: &Path,
    id_if_new: u64,
    queue: &mpsc::Receiver<Job>,
    tell: oneshot::Sender<Result<(), DiskError>>,
) {
    let opened = catch_unwind(|| open(path, id_if_new)).unwrap_or_else(|panic| {
        Err(DiskError::Foreign { path: path.to_owned(), why: panic_text(&*panic) })
    });
    let database = match opened {
        Ok(database) => database,
        Err(error) => {
            let _ = tell.send(Err(error));
            return;
        }
    };
    let _ = tell.send(Ok(()));
    let mut closed = None;
    for job in queue {
        match job {
            Job::Work(work) => work(&database),
            Job::Close(tell) => {
                closed = Some(tell);
                break;
            }
        }
    }
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(database)));
    drop(dropped);
    if let Some(tell) = closed {
        let _ = tell.send(());
    }
}

fn open(path: &Path, id_if_new: u64) -> Result<Database, DiskError> {
    let failed =
        |error: io::Error| DiskError::Open { path: path.to_owned(), why: error.to_string() };
    match fs::metadata(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path, id_if_new, &[])?,
        Err(error) => return Err(failed(error)),
    }
    let foreign = |why: String| DiskError::Foreign { path: path.to_owned(), why };
    let database =
        Builder::new().set_cache_size(CACHE_BYTES).open(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => DiskError::InUse { path: path.to_owned() },
            DatabaseError::Storage(redb::StorageError::Io(error))
                if error.kind() != io::ErrorKind::InvalidData
                    && error.kind() != io::ErrorKind::UnexpectedEof =>
            {
                failed(error)
            }
            error => foreign(error.to_string()),
        })?;
    let format = read_meta(&database, "format").map_err(|error| foreign(error.to_string()))?;
    if format.as_deref() == Some(FORMAT) {
        Ok(database)
    } else {
        Err(foreign("it lacks the mark of one".into()))
    }
}

/// Makes the file under another name, so that it is whole or not there. `more` is
/// written into its meta table.
pub(super) fn create(path: &Path, id: u64, more: &[(&str, Vec<u8>)]) -> Result<(), DiskError> {
    let failed = |why: String| DiskError::Open { path: path.to_owned(), why };
    let directory = path.parent().unwrap_or(Path::new("."));
    let new = path.with_extension("redb.new");
    let io = |result: io::Result<()>| result.map_err(|error| failed(error.to_string()));
    io(fs::create_dir_all(directory))?;
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => io(Err(error))?,
        _ => {}
    }
    let make = || -> Result<(), redb::Error> {
        let database = Builder::new().set_cache_size(CACHE_BYTES).create(&new)?;
        let writing = database.begin_write()?;
        writing.open_table(LOG)?;
        {
            let mut meta = writing.open_table(META)?;
            meta.insert("format", FORMAT)?;
            meta.insert("id", &id.to_le_bytes()[..])?;
            for (name, bytes) in more {
                meta.insert(*name, &bytes[..])?;
            }
        }
        writing.commit()?;
        Ok(())
    };
    make().map_err(|error| failed(error.to_string()))?;
    io(fs::rename(&new, path))?;
    io(File::open(directory).and_then(|directory| directory.sync_all()))
}

/// Gives the file another name, under which nobody opens it, and returns that.
pub(super) fn keep(path: &Path, cluster: u64) -> Result<PathBuf, DiskError> {
    let kept = path.with_extension(format!("redb.{cluster:016x}"));
    let renamed = fs::rename(path, &kept);
    renamed.map_err(|error| DiskError::Open { path: path.to_owned(), why: error.to_string() })?;
    Ok(kept)
}

/// The same, and the file stays where it is as well, until another one replaces it.
pub(super) fn copy(path: &Path, cluster: u64) -> Result<PathBuf, DiskError> {
    let kept = path.with_extension(format!("redb.{cluster:016x}"));
    let copied = fs::copy(path, &kept).and_then(|_| File::open(&kept)?.sync_all());
    copied.map_err(|error| DiskError::Open { path: kept.clone(), why: error.to_string() })?;
    Ok(kept)
}

/// One value of the meta table.
pub(super) fn read_meta(database: &Database, name: &str) -> Result<Option<Vec<u8>>, redb::Error> {
    let reading = database.begin_read()?;
    let meta = match reading.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(meta.get(name)?.map(|value| value.value().to_vec()))
}

/// Sets one value of the meta table, synced.
pub(super) fn write_meta(database: &Database, name: &str, value: &[u8]) -> Result<(), redb::Error> {
    let writing = database.begin_write()?;
    writing.open_table(META)?.insert(name, value)?;
    writing.commit()?;
    Ok(())
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}
