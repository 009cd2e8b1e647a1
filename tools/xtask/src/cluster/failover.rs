//! How long a failover takes, with clients on it: from the SIGKILL of a node with
//! primaries until every key can be written again.

use anyhow::Result;

use super::scene::{Coordinator, Programs, Scene};
use super::{faults, in_own_network};
use crate::bench::Page;
use crate::report::Done;

/// Kills `runs` times and judges what clients saw meanwhile.
pub fn run(programs: &Programs, by: Coordinator, runs: usize, save: bool) -> Result<Done> {
    let name = format!("failover-{}", by.name());
    in_own_network(&name, |folder| {
        let mut scene = Scene::new(programs, by, folder)?;
        for run in 1..=runs {
            faults::kill(&mut scene)?;
            let last = scene.writable_ms.last().copied().unwrap_or_default();
            println!("   {run:3}  {last:.0} ms");
        }
        let seen = scene.judge()?;
        let mut times = std::mem::take(&mut scene.writable_ms);
        times.sort_by(f64::total_cmp);
        let cell = |at: usize| times.get(at).map_or("".into(), |ms| format!("{ms:.0}"));
        let file = match by {
            Coordinator::Embedded => "failover",
            Coordinator::Etcd => "failover-etcd",
        };
        let mut page =
            Page::new(file, "A node is killed under load, and every key is written again");
        page.say(
            "Milliseconds from the SIGKILL of a node with primaries until all 48 keys were written",
        );
        page.say("again through each of the two others. Three nodes of one core, 2 copies, 256 partitions;");
        page.say(
            "six clients read and write meanwhile, and the history checker finds no lost write.",
        );
        page.say("");
        page.head(&[
            "coordinator",
            "runs",
            "least",
            "p50",
            "max",
            "operations",
            "acknowledged writes lost",
        ]);
        page.row([
            by.name().to_owned(),
            times.len().to_string(),
            cell(0),
            cell(times.len() / 2),
            cell(times.len().saturating_sub(1)),
            seen.operations.to_string(),
            "0".to_owned(),
        ]);
        let note = format!("{} operations, {}", seen.operations, seen.kinds());
        if save {
            let command = format!("failover --runs {runs} --coordinator {}", by.name());
            println!("   {}", page.save_as(&command)?);
        }
        Ok(Done::new(times.len() as u64, note))
    })
}
