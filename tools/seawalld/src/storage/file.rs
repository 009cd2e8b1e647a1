//! A long file, written or read once from its start, that leaves no trace in the
//! page cache.
//!
//! ```text
//! written   [ on disk, dropped from the cache | being written by the kernel | being filled ]
//!                                              <- BEHIND_WINDOWS ->          <- one window ->
//! ```
//! The kernel writes some windows while the next one is filled, so dirty pages never
//! pile up to a flush that holds up the whole machine, and pages of items do not
//! push other files out of the cache. Every error is an error of a system call: a
//! full disk is `ENOSPC` from `write`, or from the sync if the file system notices late.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Bytes that the kernel writes, or drops from its cache, at a time.
const WINDOW_BYTES: u64 = 8 << 20;
/// Windows that the kernel may be writing at a time.
const BEHIND_WINDOWS: u64 = 4;
/// Windows that a reader has the kernel read ahead.
const AHEAD_WINDOWS: u64 = 2;

/// A file being written.
#[derive(Debug)]
pub struct Writer {
    file: File,
    written: u64,
    /// Windows before this offset were given to the disk.
    begun: u64,
}

impl Writer {
    /// Makes the file, or empties it.
    pub fn create(path: &Path) -> io::Result<Writer> {
        Ok(Writer { file: File::create(path)?, written: 0, begun: 0 })
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        while self.written - self.begun >= WINDOW_BYTES {
            let start = libc::SYNC_FILE_RANGE_WRITE;
            sync_range(&self.file, self.begun, start)?;
            if let Some(before) = self.begun.checked_sub(BEHIND_WINDOWS * WINDOW_BYTES) {
                let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
                sync_range(&self.file, before, start | wait)?;
                advise(&self.file, before, WINDOW_BYTES, libc::POSIX_FADV_DONTNEED);
            }
            self.begun += WINDOW_BYTES;
        }
        Ok(())
    }

    /// Waits until everything is on disk.
    pub fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        advise(&self.file, 0, 0, libc::POSIX_FADV_DONTNEED);
        Ok(())
    }
}

/// A file being read.
#[derive(Debug)]
pub struct Reader {
    file: File,
    read: u64,
    dropped: u64,
}

impl Reader {
    /// Opens it.
    pub fn open(path: &Path) -> io::Result<Reader> {
        let file = File::open(path)?;
        // Left to itself the kernel reads 128 KiB ahead, half as fast as a disk can.
        advise(&file, 0, AHEAD_WINDOWS * WINDOW_BYTES, libc::POSIX_FADV_WILLNEED);
        Ok(Reader { file, read: 0, dropped: 0 })
    }

    /// The next bytes, at most `length`; none at the end.
    pub fn next(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut chunk = Vec::with_capacity(length);
        (&self.file).take(length as u64).read_to_end(&mut chunk)?;
        self.read += chunk.len() as u64;
        while self.read - self.dropped >= WINDOW_BYTES {
            advise(&self.file, self.dropped, WINDOW_BYTES, libc::POSIX_FADV_DONTNEED);
            let ahead = self.dropped + AHEAD_WINDOWS * WINDOW_BYTES;
            advise(&self.file, ahead, WINDOW_BYTES, libc::POSIX_FADV_WILLNEED);
            self.dropped += WINDOW_BYTES;
        }
        Ok(chunk)
    }
}

/// `sync_file_range` of one window. File systems that cannot do it are synced at the
/// end all the same.
fn sync_range(file: &File, offset: u64, flags: libc::c_uint) -> io::Result<()> {
    let (offset, bytes) = (offset as libc::off64_t, WINDOW_BYTES as libc::off64_t);
    // SAFETY: a call on numbers; the descriptor is open as long as `file` is borrowed.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS | libc::ESPIPE | libc::EOPNOTSUPP | libc::EINTR) => Ok(()),
        _ => Err(error),
    }
}

/// Only advice: that it was not taken changes nothing.
fn advise(file: &File, offset: u64, bytes: u64, advice: libc::c_int) {
    // SAFETY: a call on numbers; the descriptor is open as long as `file` is borrowed.
    unsafe {
        libc::posix_fadvise(file.as_raw_fd(), offset as libc::off_t, bytes as libc::off_t, advice);
    }
}
