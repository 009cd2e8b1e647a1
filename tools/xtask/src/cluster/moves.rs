//! A node joins a cluster in use, and is emptied again.
//!
//! Nothing may be lost, nothing stale, no request may fail, and the hit ratio must
//! not dip: a node is filled before it is asked.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::load::{Load, Shape, Tally};
use super::node::Node;
use super::scene::{Scene, member};

/// Memory for all keys many times over: a miss is a loss. Fills are slowed down, so
/// that there is something to measure while they go on.
pub const SETTINGS: &[&str] = &["-m", "256", "--fill-rate", "4m"];

/// 200,000 keys of some 270 bytes with what goes with them.
const READ_MOSTLY: Shape =
    Shape { threads: 4, keys_per_thread: 50_000, pace: Duration::from_millis(2), gets_percent: 95 };

/// Undisturbed, for comparison.
const CALM: Duration = Duration::from_secs(3);
/// Points of a hundred by which the hit ratio may dip.
const DIP_MAX: f64 = 0.1;

/// A fourth node joins under a read-mostly load; then it is emptied, ended and
/// forgotten.
pub fn join_and_drain(scene: &mut Scene) -> Result<()> {
    let clients = |scene: &Scene| scene.nodes.iter().map(Node::clients).collect::<Vec<_>>();
    let load = Load::start(READ_MOSTLY, clients(scene))?;
    sleep(CALM);

    load.phase(1);
    let began = Instant::now();
    scene.add_node()?;
    scene.wait_until_whole()?;
    let joined_ms = began.elapsed().as_millis();
    load.nodes(clients(scene));
    load.phase(2);
    sleep(CALM);

    load.phase(3);
    let (began, name) = (Instant::now(), scene.nodes[scene.nodes.len() - 1].name.clone());
    scene.control(&["drain", &name])?;
    let drained_ms = began.elapsed().as_millis();
    let ring = scene.nodes[0].ring()?;
    let held = ["primaries", "in_sync", "filling"].map(|field| member(&ring, &name)[field].clone());
    ensure!(held.iter().all(|count| count == 0), "{name} is empty and holds {held:?}");
    let rest = clients(scene);
    load.nodes(rest[..rest.len() - 1].to_vec());
    load.phase(4);
    scene.remove_node()?;
    scene.wait_until_whole()?;
    sleep(CALM);

    let phases = load.end()?;
    for phase in &phases {
        phase.is_spotless()?;
    }
    for (what, took_ms, before, during) in
        [("join", joined_ms, &phases[0], &phases[1]), ("drain", drained_ms, &phases[2], &phases[3])]
    {
        scene.notes.push(format!(
            "{what} in {:.1} s: {}, before {}",
            took_ms as f64 / 1000.0,
            words(during),
            words(before)
        ));
        let dip = before.hit_ratio() - during.hit_ratio();
        ensure!(dip < DIP_MAX, "hits fell by {dip:.2} points: {:?}", scene.notes);
    }
    Ok(())
}

/// `100.00 % of 4,711 gets hit, p99 0.31 ms`.
fn words(tally: &Tally) -> String {
    format!(
        "{:.2} % of {} gets hit, p50 {:.2} p99 {:.2} max {:.1} ms",
        tally.hit_ratio(),
        tally.gets,
        tally.latency_ms(0.5),
        tally.latency_ms(0.99),
        tally.latency_ms(1.0)
    )
}
