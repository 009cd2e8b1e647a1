//! A node's network is gone for a while, under writes, and comes back: the node goes
//! on from the others' logs and nothing is copied as a whole.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::load::{Load, Shape};
use super::scene::Scene;

/// An outage that fits into a test, and settings that bear it as the default ones
/// bear a long one.
const SHORT: Duration = Duration::from_secs(4);
pub const SHORT_SETTINGS: &[&str] =
    &["-m", "256", "--repair-after-ms", "8000", "--abandon-after-ms", "16000"];
/// What the default settings are to bear.
const LONG: Duration = Duration::from_secs(30);
pub const LONG_SETTINGS: &[&str] = &["-m", "256"];

/// A thousand writes a second, over 100,000 keys.
const WRITES: Shape =
    Shape { threads: 4, keys_per_thread: 25_000, pace: Duration::from_millis(2), gets_percent: 50 };

pub fn short(scene: &mut Scene) -> Result<()> {
    round(scene, SHORT)
}

pub fn long(scene: &mut Scene) -> Result<()> {
    round(scene, LONG)
}

fn round(scene: &mut Scene, outage: Duration) -> Result<()> {
    let victim = scene.busiest_follower()?;
    let others = scene.others(victim);
    let clients = others.iter().map(|at| scene.nodes[*at].clients()).collect();
    let load = Load::start(WRITES, clients)?;
    let before = counted(scene)?;
    scene.network.drop_packets(&scene.network.around(victim, true))?;
    scene.nodes[victim].note("its network is gone")?;
    sleep(outage);
    scene.network.heal()?;
    scene.nodes[victim].note("healed")?;
    let healed = Instant::now();
    scene.wait_until_whole()?;
    let whole_ms = healed.elapsed().as_millis();
    let after = counted(scene)?;
    let phases = load.end()?;
    let [resumed, fills, items, logged] = [0, 1, 2, 3].map(|at| after[at] - before[at]);
    scene.notes.push(format!(
        "{} s without network, {logged} writes in the logs meanwhile; whole {whole_ms} ms after it was \
         back: {resumed} resumed, {fills} fills of {items} items; longest answer {:.0} ms",
        outage.as_secs(),
        phases[0].latency_ms(1.0)
    ));
    phases[0].is_true()?;
    ensure!(phases[0].misses == 0, "{} keys were lost", phases[0].misses);
    ensure!(resumed > 0 && items == 0, "it was filled anew: {}", scene.notes.join("; "));
    Ok(())
}

/// Of all nodes: replicas that went on from the log, fills, items of fills, writes
/// that were logged.
fn counted(scene: &Scene) -> Result<[u64; 4]> {
    let mut sums = [0; 4];
    for node in &scene.nodes {
        for (sum, name) in sums.iter_mut().zip(["resumed", "fills", "filled_items", "logged"]) {
            *sum += node.metric(&format!("seawall_replication_{name}_total"))?;
        }
    }
    Ok(sums)
}
