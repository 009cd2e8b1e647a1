//! The node's snapshot: loaded before clients are let in, written at the end or when
//! the admin API asks for it.

use super::{PATIENCE, Server, say};
use crate::storage::Storage;
use crate::storage::place::Place;
use crate::storage::snapshot::{self, Report, Shards, State};
use anyhow::{Context, Result, bail};
use engine::snapshot::Taken;
use engine::{KeyHash, Now, Shard};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a long load or save is reported.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Where snapshots go, and who writes them.
#[derive(Debug)]
pub(super) struct Snapshots {
    storage: Storage,
    place: Place,
}

impl Snapshots {
    /// Starts the storage thread and takes the file, which no other process may use.
    pub(super) fn claim(path: &Path) -> Result<Snapshots> {
        let storage = Storage::start().context("cannot start the storage thread")?;
        Ok(Snapshots { storage, place: Place::claim(path)? })
    }
}

impl Server {
    /// Loads the snapshot if it may be, and sees to it that it is not loaded again:
    /// from here on clients change items. An error: that cannot be seen to.
    pub(super) async fn load(self: &Arc<Server>) -> Result<()> {
        let Some(Snapshots { place, .. }) = &self.snapshots else { return Ok(()) };
        let Some(header) = place.header() else { return Ok(()) };
        let path = place.path().display();
        match header.map(|header| snapshot::refusal(header.taken, self.config.snapshot_stale)) {
            Ok(None) => self.load_file().await?,
            Ok(Some(why)) => say(&format!(
                "not loading the snapshot {path}: {why}; starting empty\n  to load it all the same:  --snapshot-load any"
            )),
            Err(error) => say(&format!("cannot load the snapshot {path}: {error}; starting empty")),
        }
        // Not in the background: a signal that ends the start must come before or after.
        place.use_up()?;
        Ok(())
    }

    async fn load_file(self: &Arc<Server>) -> Result<()> {
        let server = self.clone();
        let mut work = tokio::task::spawn_blocking(move || {
            let snapshots = server.snapshots.as_ref().context("no snapshot file is configured")?;
            let _ = server.progress.begin(State::Loading);
            let (storage, path) = (&snapshots.storage, snapshots.place.path());
            say(&format!("loading the snapshot {}", path.display()));
            snapshot::load(&*server, storage, path, &server.progress)
        });
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome?,
                () = tokio::time::sleep(PROGRESS_EVERY) => self.say_progress("loading"),
            }
        };
        match outcome {
            Ok(_) => {
                let Report { items, value_bytes, seconds, .. } = self.progress.report();
                say(&format!(
                    "snapshot loaded: {items} items, {} MiB of values, {seconds:.1} s",
                    value_bytes >> 20
                ));
            }
            Err(error) => say(&format!("{error:#}; starting empty")),
        }
        Ok(())
    }

    fn say_progress(&self, what: &str) {
        let Report { items, fraction, .. } = self.progress.report();
        say(&format!("{what} the snapshot: {items} items, {:.0} %", fraction * 100.0));
    }

    pub(super) fn save(&self, snapshots: &Snapshots, taken: Taken) -> Result<()> {
        // A snapshot asked for by the admin API may be under way: it is of the past.
        let _turn = self.saving.lock().expect("no holder panics");
        self.progress.begin(State::Saving).context("another snapshot is under way")?;
        self.write_snapshot(snapshots, taken)
    }

    fn write_snapshot(&self, snapshots: &Snapshots, taken: Taken) -> Result<()> {
        let (storage, path) = (&snapshots.storage, snapshots.place.path());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reporter = scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    std::thread::park_timeout(PROGRESS_EVERY);
                    if !done.load(Ordering::Acquire) {
                        self.say_progress("writing");
                    }
                }
            });
            let outcome = snapshot::save(self, storage, path, &self.progress, taken);
            done.store(true, Ordering::Release);
            reporter.thread().unpark();
            let totals = outcome?;
            let seconds = self.progress.report().seconds;
            say(&format!(
                "snapshot written to {}: {} items, {seconds:.1} s",
                path.display(),
                totals.items
            ));
            Ok(())
        })
    }

    /// Begins a snapshot in the background.
    pub fn start_snapshot(self: &Arc<Server>) -> Result<()> {
        if self.snapshots.is_none() {
            bail!("no snapshot file is configured; start with --snapshot FILE");
        }
        if self.draining.load(Ordering::Acquire) || self.progress.begin(State::Saving).is_none() {
            bail!("a snapshot is under way");
        }
        let server = self.clone();
        std::thread::Builder::new().name("snapshot".into()).spawn(move || {
            let _turn = server.saving.lock().expect("no holder panics");
            let Some(snapshots) = &server.snapshots else { return };
            if let Err(error) = server.write_snapshot(snapshots, Taken::WhileServing) {
                say(&format!("{error:#}"));
            }
        })?;
        Ok(())
    }

    /// How far the snapshot is.
    pub fn snapshot_report(&self) -> Report {
        self.progress.report()
    }
}

impl Shards for Server {
    fn count(&self) -> u32 {
        self.cores()
    }

    fn owner(&self, key: &[u8]) -> u32 {
        KeyHash::of(key, &self.seed).core(self.cores())
    }

    fn on_core<T: Send + 'static>(
        &self,
        core: u32,
        task: impl FnOnce(&mut Shard, Now) -> T + Send + 'static,
    ) -> Result<T> {
        Ok(self.node.on_core(core, PATIENCE, move |core| {
            let now = core.now;
            task(&mut core.shard, now)
        })?)
    }
}
