//! How long a planned hand-over keeps writers waiting, as each of them sees it.
//!
//! Every client has one key and writes it again and again. What counts is the
//! longest time between two acknowledged writes of a key while a node hands over all
//! that it leads, beside the same without.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::in_own_network;
use super::load::{Load, Shape, Tally};
use super::node::Node;
use super::scene::{Coordinator, Programs, Scene, member};
use crate::bench::Page;
use crate::report::Done;

/// More writers would keep the machine's two CPUs so busy that they wait for those.
const WRITERS: Shape =
    Shape { threads: 3, keys_per_thread: 1, pace: Duration::from_millis(1), gets_percent: 0 };
/// All that is compared goes on for so long at least.
const WINDOW: Duration = Duration::from_millis(1_500);

const PATIENCE: Duration = Duration::from_secs(10);

const CALM: &str = "undisturbed";
const DRAINED: &str = "a node is drained, or comes back from that";
const RESTARTED: &str = "a node hands over, ends and comes back";

/// Every node in turn is drained and taken back, and ended and started again, `runs`
/// times.
pub fn run(programs: &Programs, by: Coordinator, runs: usize, save: bool) -> Result<Done> {
    let name = format!("handover-{}", by.name());
    in_own_network(&name, |folder| {
        let mut scene = Scene::without_clients(programs, by, &[], folder)?;
        let all = |scene: &Scene| scene.nodes.iter().map(Node::clients).collect::<Vec<_>>();
        let load = Load::start(WRITERS, all(&scene))?;
        let mut happened = Vec::new();
        let mut begin = |what| {
            load.phase(happened.len());
            happened.push(what);
            Instant::now() + WINDOW
        };
        let rest = |until: Instant| sleep(until.saturating_duration_since(Instant::now()));
        for _ in 0..runs {
            for at in 0..scene.nodes.len() {
                rest(begin(CALM));
                let name = scene.nodes[at].name.clone();
                let until = begin(DRAINED);
                scene.control(&["drain", &name])?;
                rest(until);
                let until = begin(DRAINED);
                scene.control(&["drain", &name, "--undo"])?;
                wait_until_it_leads(&mut scene, at)?;
                rest(until);
                rest(begin(CALM));
                let clients = all(&scene);
                load.nodes(scene.others(at).into_iter().map(|other| clients[other]).collect());
                let until = begin(RESTARTED);
                scene.nodes[at].terminate()?;
                scene.restart(at)?;
                scene.wait_until_whole()?;
                rest(until);
                load.nodes(all(&scene));
            }
        }
        let phases = load.end()?;
        let title = format!("Nodes hand over what they lead ({} coordinator)", by.name());
        let mut page = Page::new(&by.page("handover"), &title);
        page.say("Milliseconds between two acknowledged writes of a key, the longest of each window of 1.5 s and");
        page.say("each of 3 keys. Every key has a client that writes it once in a millisecond, through all nodes");
        page.say("that stay. Three nodes of one core, built as for tests, 2 copies, 256 partitions; other work on");
        page.say("the machine.");
        page.say("");
        page.head(&["meanwhile", "windows", "p50", "p90", "p99", "max", "errors"]);
        for what in [CALM, DRAINED, RESTARTED] {
            let of_these = happened.iter().zip(&phases).filter(|(this, _)| **this == what);
            let phases: Vec<&Tally> = of_these.map(|(_, phase)| phase).collect();
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
                phases.len().to_string(),
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
        Ok(Done::new(runs as u64, format!("{} windows", happened.len())))
    })
}

/// Waits until a node has its share of primaries again.
fn wait_until_it_leads(scene: &mut Scene, at: usize) -> Result<()> {
    scene.wait_until_whole()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ring = scene.nodes[at].ring()?;
        let share = ring["partitions"]["all"].as_u64().unwrap_or_default() / 4;
        let node = &scene.nodes[at].name;
        if member(&ring, node)["primaries"].as_u64() >= Some(share) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{node} does not lead {share} partitions: {ring}");
        sleep(Duration::from_millis(10));
    }
}
