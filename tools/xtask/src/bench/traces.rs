//! Miss ratios of real traces, through the engine that serves.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::page::Page;
use super::{Options, PATIENCE, PROFILE};
use crate::{build, process};

/// Every policy at 0.1, 1, 10 and 40% of the objects; then in sixteen shards.
pub fn table(options: &Options, page: &mut Page) -> Result<u64> {
    let Some(folder) = &options.traces else {
        page.say("skipped: name a folder of *.swtr.zst traces with --traces");
        return Ok(0);
    };
    let mut traces: Vec<_> = std::fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".swtr.zst"))
        .collect();
    traces.sort();
    ensure!(!traces.is_empty(), "no *.swtr.zst in {}", folder.display());
    for shards in ["1", "16"] {
        let mut command = Command::new(build::binary(PROFILE, "seawall-sim")?);
        command.arg("replay").args(&traces).args(["--shards", shards]);
        let reference = folder.join("reference.json");
        if reference.exists() {
            command.arg("--reference").arg(reference);
        }
        let (good, text) = process::capture(&mut command, PATIENCE)?;
        ensure!(good, "{}:\n{text}", process::describe(&command));
        page.say(&format!("\nIn {shards} shard{}:\n", if shards == "1" { "" } else { "s" }));
        page.fence(text.lines());
    }
    Ok(2 * traces.len() as u64)
}
