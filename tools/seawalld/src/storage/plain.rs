//! The storage thread with ordinary file calls, where glommio cannot run.

use super::{Job, READ_CHUNK_BYTES};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender};

/// Works until the last [`super::Storage`] is gone.
pub fn run(jobs: &Receiver<Job>) {
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
    let mut file = File::create(path)?;
    for chunk in chunks {
        file.write_all(&chunk)?;
    }
    file.sync_all()
}

fn read(path: &Path, chunks: &SyncSender<io::Result<Vec<u8>>>) -> io::Result<()> {
    let file = File::open(path)?;
    loop {
        let mut chunk = Vec::with_capacity(READ_CHUNK_BYTES);
        if (&file).take(READ_CHUNK_BYTES as u64).read_to_end(&mut chunk)? == 0 {
            return Ok(());
        }
        if chunks.send(Ok(chunk)).is_err() {
            return Ok(()); // The reader has seen enough.
        }
    }
}
