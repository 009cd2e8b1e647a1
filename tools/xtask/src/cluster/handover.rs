//! How long a planned hand-over keeps writers waiting, as each of them sees it.
//!
//! Clients write keys all over the ring, one at a time each. What counts is the longest
//! time between two acknowledged writes of a client while a node hands over all that it
//! leads, beside the same without; and what it costs the nodes that stay.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::in_own_network;
use super::load::{Load, Shape, Tally};
use super::node::{Node, Waits};
use super::scene::{Coordinator, Programs, Scene, member};
use crate::bench::Page;
use crate::report::Done;

/// More writers would keep the machine's two CPUs so busy that they wait for those.
const WRITERS: Shape =
    Shape { threads: 3, keys_per_thread: 33_334, pace: Duration::from_millis(1), gets_percent: 0 };
/// All that is compared goes on for so long at least.
const WINDOW: Duration = Duration::from_millis(1_500);

const PATIENCE: Duration = Duration::from_secs(10);

const CALM: &str = "undisturbed";
const DRAINED: &str = "a node is drained, or comes back from that";
const RESTARTED: &str = "a node hands over, ends and comes back";

/// What is measured: windows, one after the other, in each of which something happens.
struct Windows {
    load: Load,
    happened: Vec<&'static str>,
    waits: BTreeMap<&'static str, Waits>,
}

impl Windows {
    /// One more, of which these nodes live to tell.
    fn add(
        &mut self,
        scene: &mut Scene,
        what: &'static str,
        nodes: &[usize],
        happen: impl FnOnce(&mut Scene) -> Result<()>,
    ) -> Result<()> {
        let waits = |scene: &Scene| -> Result<Vec<Waits>> {
            nodes.iter().map(|node| scene.nodes[*node].waits()).collect()
        };
        let before = waits(scene)?;
        self.load.phase(self.happened.len());
        self.happened.push(what);
        let until = Instant::now() + WINDOW;
        happen(scene)?;
        sleep(until.saturating_duration_since(Instant::now()));
        let all = self.waits.entry(what).or_default();
        for (before, after) in before.iter().zip(waits(scene)?) {
            for (bound, count) in after {
                *all.entry(bound).or_default() += count - before[&bound];
            }
        }
        Ok(())
    }
}

/// Every node in turn is drained and taken back, and ended and started again, `runs`
/// times.
pub fn run(programs: &Programs, by: Coordinator, runs: usize, save: bool) -> Result<Done> {
    let name = format!("handover-{}", by.name());
    in_own_network(&name, |folder| {
        let mut scene = Scene::without_clients(programs, by, &[], folder)?;
        let all = |scene: &Scene| scene.nodes.iter().map(Node::clients).collect::<Vec<_>>();
        let load = Load::start(WRITERS, all(&scene))?;
        let mut windows = Windows { load, happened: Vec::new(), waits: BTreeMap::new() };
        let nodes: Vec<usize> = (0..scene.nodes.len()).collect();
        let nothing = |_: &mut Scene| Ok(());
        for at in nodes.repeat(runs) {
            let name = scene.nodes[at].name.clone();
            windows.add(&mut scene, CALM, &nodes, nothing)?;
            windows.add(&mut scene, DRAINED, &nodes, |scene| {
                scene.control(&["drain", &name]).map(drop)
            })?;
            windows.add(&mut scene, DRAINED, &nodes, |scene| {
                scene.control(&["drain", &name, "--undo"])?;
                wait_until_it_leads(scene, at)
            })?;
            windows.add(&mut scene, CALM, &nodes, nothing)?;
            let (clients, others) = (all(&scene), scene.others(at));
            windows.load.nodes(others.iter().map(|other| clients[*other]).collect());
            windows.add(&mut scene, RESTARTED, &others, |scene| {
                scene.nodes[at].terminate()?;
                scene.restart(at)?;
                scene.wait_until_settled()
            })?;
            windows.load.nodes(all(&scene));
        }
        let Windows { load, happened, waits } = windows;
        let phases = load.end()?;
        let title = format!("Nodes hand over what they lead ({} coordinator)", by.name());
        let mut page = Page::new(&by.page("handover"), &title);
        page.say("Milliseconds between two acknowledged writes of a client, the longest of each window of 1.5 s and");
        page.say("each of 3 clients. Each writes one of its 33,334 keys in a millisecond, through all nodes that");
        page.say("stay. Three nodes of one core, built as for tests, 2 copies, the default number of partitions;");
        page.say("other work on the machine.");
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
        page.say("");
        page.say("Of these writes, those that found nobody to take them at first, for their partition was being");
        page.say("handed over; how long they took in all, by the nodes' own `seawall_cluster_wait_seconds`: how");
        page.say("many took up to so many milliseconds.");
        page.say("");
        let bounds: Vec<String> = waits[CALM].keys().map(|bound| in_ms(*bound)).collect();
        let head = [&["meanwhile".to_owned()], bounds.as_slice()].concat();
        page.head(&head.iter().map(String::as_str).collect::<Vec<_>>());
        for what in [CALM, DRAINED, RESTARTED] {
            let counts = waits[what].values().map(u64::to_string);
            page.row([what.to_owned()].into_iter().chain(counts));
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

fn in_ms(bound_us: u64) -> String {
    if bound_us == u64::MAX { "all".into() } else { (bound_us as f64 / 1e3).to_string() }
}

/// Waits until a node has its share of primaries again.
fn wait_until_it_leads(scene: &mut Scene, at: usize) -> Result<()> {
    scene.wait_until_settled()?;
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
