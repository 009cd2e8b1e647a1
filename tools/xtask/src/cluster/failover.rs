//! How long a failover takes, with clients on it: from the SIGKILL of a node with
//! primaries until every key can be written again.

use std::time::Duration;

use anyhow::Result;

use super::load::{Load, Shape};
use super::node::Node;
use super::scene::{Coordinator, Programs, Scene};
use super::{faults, in_own_network};
use crate::bench::Page;
use crate::report::Done;

/// What the nodes hold beside the keys that are measured.
const FILLED: Shape =
    Shape { threads: 2, keys_per_thread: 50_000, pace: Duration::from_millis(1), gets_percent: 0 };

/// Who is killed.
const VICTIMS: &[(&str, faults::Round)] =
    &[("another node", faults::kill), ("the coordinator's leader", faults::keeper)];

/// Kills each victim `runs` times and judges what clients saw meanwhile.
pub fn run(programs: &Programs, by: Coordinator, runs: usize, save: bool) -> Result<Done> {
    let name = format!("failover-{}", by.name());
    in_own_network(&name, |folder| {
        let mut scene = Scene::new(programs, by, &[], folder)?;
        let nodes = scene.nodes.iter().map(Node::clients).collect();
        Load::start(FILLED, nodes)?.end()?;
        let mut rows = Vec::new();
        for (victim, kill) in VICTIMS {
            for run in 1..=runs {
                kill(&mut scene)?;
                let last = scene.writable_ms.last().copied().unwrap_or_default();
                println!("   {run:3}  {last:.0} ms, {victim}");
            }
            let mut times = std::mem::take(&mut scene.writable_ms);
            times.sort_by(f64::total_cmp);
            rows.push((*victim, times));
        }
        let seen = scene.judge()?;
        let title = format!("A node is killed under load ({} coordinator)", by.name());
        let mut page = Page::new(&by.page("failover"), &title);
        page.say("Milliseconds from the SIGKILL of a node with primaries until all 48 keys were written again");
        page.say("through each of the two others. Three nodes of one core, built as for tests, 2 copies, default");
        page.say("settings, 100,000 keys; each in a network of its own, files in memory; other work on the");
        page.say("machine.");
        page.say("");
        page.head(&["killed", "runs", "least", "p50", "max"]);
        for (victim, times) in &rows {
            let cell = |at: usize| times.get(at).map_or_else(String::new, |ms| format!("{ms:.0}"));
            page.row([
                (*victim).to_owned(),
                times.len().to_string(),
                cell(0),
                cell(times.len() / 2),
                cell(times.len().saturating_sub(1)),
            ]);
        }
        page.say("");
        page.say(&format!(
            "Six clients read and wrote meanwhile: {} operations. By the history checker, 0 acknowledged",
            seen.operations
        ));
        page.say("writes were lost and every key was linearizable; otherwise there would be no such page.");
        if save {
            let command = format!("failover --runs {runs} --coordinator {}", by.name());
            println!("   {}", page.save_as(&command)?);
        }
        let note = format!("{} operations, {}", seen.operations, seen.kinds());
        Ok(Done::new((runs * VICTIMS.len()) as u64, note))
    })
}
