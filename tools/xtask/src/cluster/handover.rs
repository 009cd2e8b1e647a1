//! How long a planned hand-over keeps writers waiting, as each of them sees it.
//!
//! Every client has one key and writes it again and again. What counts is the
//! longest time between two acknowledged writes of a key while every node in turn
//! hands over all that it leads, ends and comes back, beside the same without.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::in_own_network;
use super::load::{Load, Shape, Tally};
use super::node::Node;
use super::scene::{Coordinator, Programs, Scene};
use crate::bench::Page;
use crate::report::Done;

const WRITERS: Shape =
    Shape { threads: 32, keys_per_thread: 1, pace: Duration::from_millis(2), gets_percent: 0 };

/// Rolls over all nodes `runs` times.
pub fn run(programs: &Programs, by: Coordinator, runs: usize, save: bool) -> Result<Done> {
    let name = format!("handover-{}", by.name());
    in_own_network(&name, |folder| {
        let mut scene = Scene::without_clients(programs, by, &[], folder)?;
        let all = |scene: &Scene| scene.nodes.iter().map(Node::clients).collect::<Vec<_>>();
        let load = Load::start(WRITERS, all(&scene))?;
        let mut took = Duration::ZERO;
        for run in 0..runs {
            // As long without as the last took with.
            load.phase(2 * run);
            sleep(if run == 0 { Duration::from_secs(5) } else { took });
            load.phase(2 * run + 1);
            let began = Instant::now();
            for at in 0..scene.nodes.len() {
                let clients = all(&scene);
                load.nodes(scene.others(at).into_iter().map(|other| clients[other]).collect());
                scene.nodes[at].terminate()?;
                scene.restart(at)?;
                scene.wait_until_whole()?;
                load.nodes(all(&scene));
            }
            took = began.elapsed();
        }
        let phases = load.end()?;
        let file = match by {
            Coordinator::Embedded => "handover",
            Coordinator::Etcd => "handover-etcd",
        };
        let title = format!("Nodes hand over what they lead ({} coordinator)", by.name());
        let mut page = Page::new(file, &title);
        page.say("Milliseconds between two acknowledged writes of a key, the longest of each of 32 keys: while");
        page.say("every node in turn hands over, ends by SIGTERM and comes back, and without. Every key has a");
        page.say("client that writes it every 2 ms, through the nodes that stay. Three nodes of one core, built");
        page.say("as for tests, 2 copies, 256 partitions; other work on the machine.");
        page.say("");
        page.head(&["", "keys", "p50", "p90", "p99", "max", "errors"]);
        for (what, first) in [("undisturbed", 0), ("handed over", 1)] {
            let phases: Vec<&Tally> = phases.iter().skip(first).step_by(2).collect();
            let mut gaps: Vec<u32> =
                phases.iter().flat_map(|phase| phase.gaps_us.clone()).collect();
            gaps.sort_unstable();
            let cell = |part: f64| {
                let at = (gaps.len().saturating_sub(1) as f64 * part) as usize;
                gaps.get(at)
                    .map_or_else(String::new, |us| format!("{:.1}", f64::from(*us) / 1000.0))
            };
            let errors: u64 = phases.iter().flat_map(|phase| phase.errors.values()).sum();
            page.row([
                what.to_owned(),
                gaps.len().to_string(),
                cell(0.5),
                cell(0.9),
                cell(0.99),
                cell(1.0),
                errors.to_string(),
            ]);
        }
        if save {
            println!(
                "   {}",
                page.save_as(&format!("handover --runs {runs} --coordinator {}", by.name()))?
            );
        }
        Ok(Done::new(runs as u64, format!("{:.1} s a roll", took.as_secs_f64())))
    })
}
