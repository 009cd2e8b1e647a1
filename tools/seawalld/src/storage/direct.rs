//! The storage thread on glommio: direct I/O with write-behind and read-ahead.

use super::{Job, READ_CHUNK_BYTES};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::io::{DmaFile, DmaStreamReaderBuilder, DmaStreamWriterBuilder};
use glommio::{GlommioError, LocalExecutorBuilder, Placement};
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender};

/// Bytes of one direct write or read.
const BUFFER_BYTES: usize = 1 << 20;
/// Buffers under way at once; together with the one being filled they fit the
/// memory that the executor registers.
const BUFFERS_AHEAD: usize = 4;
const IO_MEMORY_BYTES: usize = 16 << 20;
const RING_DEPTH: usize = 32;

/// Starts the thread, or hands the inbox back with the reason why it can't run.
pub fn start(jobs: Receiver<Job>) -> Result<(), (Receiver<Job>, String)> {
    // The executor is made on its thread, so a refusal only shows there: it
    // reports back before it takes the inbox.
    let (report, started) = std::sync::mpsc::sync_channel::<()>(1);
    let (hand_over, inbox) = std::sync::mpsc::sync_channel::<Receiver<Job>>(1);
    let spawned = LocalExecutorBuilder::new(Placement::Unbound)
        .name("storage")
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(RING_DEPTH)
        .spawn(move || async move {
            let _ = report.send(());
            if let Ok(jobs) = inbox.recv() {
                run(&jobs).await;
            }
        });
    let refused = match spawned {
        Err(error) => error.to_string(),
        Ok(handle) => match started.recv() {
            Ok(()) => {
                hand_over.send(jobs).expect("the executor waits for it");
                return Ok(());
            }
            Err(_) => match handle.join() {
                Err(error) => error.to_string(),
                Ok(()) => "the executor ended at once".into(),
            },
        },
    };
    Err((jobs, refused))
}

/// Takes one job after the other. Waiting for a job or a chunk blocks the
/// executor on purpose: nothing else runs on it, and an idle one should sleep
/// without timers.
async fn run(jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Write { path, chunks, done } => {
                let _ = done.send(write(&path, &chunks).await);
            }
            Job::Read { path, chunks } => {
                if let Err(error) = read(&path, &chunks).await {
                    let _ = chunks.send(Err(error));
                }
            }
        }
    }
}

async fn write(path: &Path, chunks: &Receiver<Vec<u8>>) -> io::Result<()> {
    let file = DmaFile::create(path).await.map_err(plain_error)?;
    let mut writer = DmaStreamWriterBuilder::new(file)
        .with_buffer_size(BUFFER_BYTES)
        .with_write_behind(BUFFERS_AHEAD)
        .build();
    let mut outcome = Ok(());
    for chunk in chunks {
        outcome = writer.write_all(&chunk).await;
        if outcome.is_err() {
            break;
        }
    }
    if outcome.is_ok() {
        outcome = writer.sync().await.map(|_| ()).map_err(plain_error);
    }
    outcome.and(writer.close().await)
}

async fn read(path: &Path, chunks: &SyncSender<io::Result<Vec<u8>>>) -> io::Result<()> {
    let file = DmaFile::open(path).await.map_err(plain_error)?;
    let mut left = file.file_size().await.map_err(plain_error)?;
    let mut reader = DmaStreamReaderBuilder::new(file)
        .with_buffer_size(BUFFER_BYTES)
        .with_read_ahead(BUFFERS_AHEAD)
        .build();
    while left > 0 {
        let mut chunk = vec![0; left.min(READ_CHUNK_BYTES as u64) as usize];
        reader.read_exact(&mut chunk).await?;
        left -= chunk.len() as u64;
        if chunks.send(Ok(chunk)).is_err() {
            break; // The reader has seen enough.
        }
    }
    reader.close().await.map_err(plain_error)
}

fn plain_error(error: GlommioError<()>) -> io::Error {
    error.into()
}
