//! The path of the snapshot: checked at start, and claimed by one process.
//!
//! A path that cannot be used is a mistake that must show at start, not when the
//! process ends and the cache is lost. Beside the file there are `FILE.tmp` while a
//! snapshot is written, and `FILE.lock`, which stays: two processes with one path
//! would each throw away what the other saved.
//!
//! A snapshot of a clean end may be loaded once. [`Place::use_up`] marks it before the
//! node serves, on disk, so that after a crash the same items do not come back,
//! which clients may have changed or deleted since.

use anyhow::{Context, Result, bail};
use engine::snapshot::{self as codec, HEADER_BYTES, Header, SnapshotError, Taken};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the lock of another process is waited for: a killed one may be ending.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// A path where this process keeps its snapshot.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// Closed, it lets others in.
    _lock: File,
}

impl Place {
    /// Checks that snapshots can be written there, and keeps other processes away.
    pub fn claim(path: &Path) -> Result<Place> {
        Place::try_claim(path)
            .with_context(|| format!("cannot keep snapshots in {} (--snapshot)", path.display()))
    }

    fn try_claim(path: &Path) -> Result<Place> {
        // A link stays one: the file that it names is replaced.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if path.file_name().is_none() {
            bail!("it is not the name of a file");
        }
        check_replaceable(&path)?;
        let lock = lock(&beside(&path, "lock"))?;
        let temporary = temporary(&path);
        // What a process left that was killed while it wrote is replaced, too.
        File::create(&temporary)
            .and_then(|_| std::fs::remove_file(&temporary))
            .with_context(|| format!("cannot write {}", temporary.display()))?;
        Ok(Place { path, _lock: lock })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The header of the file, if there is one.
    pub fn header(&self) -> Option<Result<Header, SnapshotError>> {
        let file = File::open(&self.path).ok()?;
        let length = file.metadata().ok()?.len().min(HEADER_BYTES as u64);
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).ok()?;
        Some(codec::read_header(&bytes))
    }

    /// Before the node serves: a snapshot of a clean end that is there will not be
    /// loaded at another start. True if there was one.
    pub fn use_up(&self) -> Result<bool> {
        let Some(Ok(header @ Header { taken: Taken::AtTheEnd, .. })) = self.header() else {
            return Ok(false);
        };
        let marked = self.mark(Header { taken: Taken::Loaded, ..header });
        // A full disk may refuse to change a file and still let it go.
        marked.or_else(|_| self.remove()).with_context(|| {
            format!(
                "cannot mark the snapshot {} as loaded, and after a crash its items would come back older than clients know them",
                self.path.display()
            )
        })?;
        Ok(true)
    }

    fn mark(&self, header: Header) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        codec::write_header(header, &mut bytes);
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()
    }

    fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)?;
        sync_folder_of(&self.path)
    }
}

/// Fails if a file is there that is not a snapshot: nobody wants it overwritten.
pub fn check_replaceable(path: &Path) -> Result<()> {
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !found.is_file() {
        bail!("it is not a regular file");
    }
    let mut start = vec![0; found.len().min(HEADER_BYTES as u64) as usize];
    File::open(path)?.read_exact_at(&mut start, 0)?;
    if !start.is_empty() && !codec::is_snapshot(&start) {
        bail!(
            "the file there is not a Seawall snapshot, and would be overwritten\n  \
             to keep it:     give another --snapshot FILE\n  \
             to replace it:  remove it first"
        );
    }
    Ok(())
}

/// Where a snapshot is written before it is whole.
pub fn temporary(path: &Path) -> PathBuf {
    beside(path, "tmp")
}

/// Makes a new name in the folder of `path` survive a power loss.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

fn lock(path: &Path) -> Result<File> {
    let open = |write: bool| {
        let mut options = OpenOptions::new();
        options.read(true).write(write).create(write).truncate(false).open(path)
    };
    // Another user's lock can be held without writing to it.
    let file = open(true)
        .or_else(|error| open(false).map_err(|_| error))
        .with_context(|| format!("cannot open {}", path.display()))?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => bail!(
                "another process uses it\n  who it is:  fuser {}\n  each node needs a file of its own",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("seawall-place-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn header(taken: Taken) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::write_header(Header { taken, created_unix_ms: 5 }, &mut bytes);
        bytes
    }

    #[test]
    fn only_a_snapshot_of_a_clean_end_is_used_up_and_only_once() {
        let folder = folder("use");
        let path = folder.join("file");
        let place = Place::claim(&path).unwrap();
        assert!(place.header().is_none() && !place.use_up().unwrap());
        std::fs::write(&path, header(Taken::WhileServing)).unwrap();
        assert!(!place.use_up().unwrap());
        std::fs::write(&path, [header(Taken::AtTheEnd), vec![9; 100]].concat()).unwrap();
        assert!(place.use_up().unwrap() && !place.use_up().unwrap());
        let expected = Header { taken: Taken::Loaded, created_unix_ms: 5 };
        assert_eq!(place.header(), Some(Ok(expected)));
        assert_eq!(std::fs::read(&path).unwrap()[HEADER_BYTES..], [9; 100]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_no_place_for_snapshots_is_refused() {
        let folder = folder("refused");
        let refusal = |path: &Path| format!("{:#}", Place::claim(path).unwrap_err());
        assert!(refusal(&folder).contains("not a regular file"));
        assert!(refusal(Path::new("/dev/null")).contains("not a regular file"));
        assert!(refusal(&folder.join("no/such/folder")).contains("cannot open"));
        let foreign = folder.join("foreign");
        std::fs::write(&foreign, b"[memory]\nlimit = 64\n").unwrap();
        assert!(refusal(&foreign).contains("would be overwritten"));
        // A link to one is one, and stays a link.
        let link = folder.join("link");
        std::os::unix::fs::symlink(&foreign, &link).unwrap();
        assert!(refusal(&link).contains("would be overwritten"));
        // An empty file, and one that is torn in its first bytes, are nobody's loss.
        std::fs::write(&foreign, b"").unwrap();
        assert_eq!(Place::claim(&link).unwrap().path(), foreign.canonicalize().unwrap());
        std::fs::write(&foreign, b"SEAW").unwrap();
        let held = Place::claim(&foreign).unwrap();
        assert!(refusal(&foreign).contains("another process uses it"));
        drop(held);
        Place::claim(&foreign).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }
}
