//! What happens to the cluster, round by round.
//!
//! A round does its harm, measures until every key can be written again through
//! the nodes that clients can still use, repairs, and waits until all is whole.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::clients::Seen;
use super::network::End;
use super::scene::{Coordinator, Scene};
use super::{libraries, moves, outage, strangers};
use crate::process::monotonic_ns;

/// One round of a fault.
pub type Round = fn(&mut Scene) -> Result<()>;

/// One kind of fault.
pub struct Fault {
    pub name: &'static str,
    pub round: Round,
    /// Flags of every node.
    pub settings: &'static [&'static str],
    /// What clients may not have met with, beside what the judge finds.
    pub expects: fn(&Seen) -> Result<()>,
    /// Coordinators with which it is part of `cargo xtask test`.
    pub in_test: &'static [Coordinator],
}

const BOTH: &[Coordinator] = &[Coordinator::Embedded, Coordinator::Etcd];
const EMBEDDED: &[Coordinator] = &[Coordinator::Embedded];
const NEITHER: &[Coordinator] = &[];

#[rustfmt::skip]
pub const FAULTS: &[Fault] = &[
    Fault { name: "kill", round: kill, settings: &[], expects: anything, in_test: BOTH },
    Fault { name: "keeper", round: keeper, settings: &[], expects: anything, in_test: EMBEDDED },
    Fault { name: "pause", round: pause, settings: &[], expects: anything, in_test: EMBEDDED },
    Fault { name: "cut", round: cut, settings: &[], expects: anything, in_test: BOTH },
    Fault { name: "oneway", round: one_way, settings: &[], expects: anything, in_test: EMBEDDED },
    Fault { name: "isolated", round: isolated, settings: &[], expects: anything, in_test: EMBEDDED },
    Fault { name: "delay", round: delay, settings: &[], expects: anything, in_test: EMBEDDED },
    Fault { name: "rolling", round: rolling, settings: &[], expects: no_error, in_test: BOTH },
    Fault { name: "join", round: moves::join_and_drain, settings: moves::SETTINGS, expects: no_error, in_test: BOTH },
    Fault { name: "outage", round: outage::short, settings: outage::SHORT_SETTINGS, expects: anything, in_test: BOTH },
    Fault { name: "long-outage", round: outage::long, settings: outage::LONG_SETTINGS, expects: anything, in_test: NEITHER },
    Fault { name: "libraries", round: libraries::round, settings: &[], expects: anything, in_test: EMBEDDED },
    Fault { name: "strangers", round: strangers::round, settings: &[], expects: no_error, in_test: BOTH },
];

fn anything(_: &Seen) -> Result<()> {
    Ok(())
}

/// Between two faults clients work undisturbed.
fn calm() {
    sleep(Duration::from_millis(500));
}

/// A node with primaries dies and comes back.
pub fn kill(scene: &mut Scene) -> Result<()> {
    let victim = scene.busiest_follower()?;
    kill_one(scene, victim)
}

/// The node that leads the coordinator dies and comes back.
pub fn keeper(scene: &mut Scene) -> Result<()> {
    let victim = scene.leader()?;
    kill_one(scene, victim)
}

fn kill_one(scene: &mut Scene, victim: usize) -> Result<()> {
    calm();
    let at_ns = monotonic_ns();
    scene.nodes[victim].kill()?;
    scene.measure(at_ns, &scene.others(victim))?;
    scene.restart(victim)?;
    scene.wait_until_whole()
}

/// A node stops for two seconds, and goes on as if nothing had happened.
fn pause(scene: &mut Scene) -> Result<()> {
    calm();
    let victim = scene.busiest_follower()?;
    let at_ns = monotonic_ns();
    scene.nodes[victim].signal(libc::SIGSTOP)?;
    scene.measure(at_ns, &scene.others(victim))?;
    sleep_until(at_ns, Duration::from_secs(2));
    scene.nodes[victim].signal(libc::SIGCONT)?;
    scene.wait_until_whole()
}

/// Nothing reaches a node and nothing comes from it, for three seconds.
fn cut(scene: &mut Scene) -> Result<()> {
    let victim = scene.busiest_follower()?;
    lose(scene, victim, scene.network.around(victim, true))?;
    scene.wait_until_whole()
}

/// A node hears the others, and is not heard.
fn one_way(scene: &mut Scene) -> Result<()> {
    let victim = scene.busiest_follower()?;
    let around = scene.network.around(victim, false);
    let lost = around.into_iter().filter(|(from, _)| *from == End::Host(victim)).collect();
    lose(scene, victim, lost)?;
    scene.wait_until_whole()
}

/// A node is cut off from its cluster, but not from its clients: once its lease is
/// over it must refuse them everything.
fn isolated(scene: &mut Scene) -> Result<()> {
    calm();
    let victim = scene.busiest_follower()?;
    let at_ns = monotonic_ns();
    scene.network.drop_packets(&scene.network.around(victim, false))?;
    scene.nodes[victim].note("isolated")?;
    scene.measure(at_ns, &scene.others(victim))?;
    sleep_until(at_ns, Duration::from_secs(1));
    scene.clients().shut(victim)?;
    scene.network.heal()?;
    scene.nodes[victim].note("healed")?;
    scene.wait_until_whole()
}

fn lose(scene: &mut Scene, victim: usize, packets: Vec<(End, End)>) -> Result<()> {
    calm();
    let at_ns = monotonic_ns();
    scene.network.drop_packets(&packets)?;
    scene.nodes[victim].note("packets are lost")?;
    scene.measure(at_ns, &scene.others(victim))?;
    sleep_until(at_ns, Duration::from_secs(3));
    scene.network.heal()?;
    scene.nodes[victim].note("healed")
}

/// A node's packets take 20 ms longer each way, and some are lost, for three
/// seconds: it is slow, and neither dead nor well.
fn delay(scene: &mut Scene) -> Result<()> {
    calm();
    let victim = scene.busiest_follower()?;
    let at_ns = monotonic_ns();
    let cable = scene.network.slow(victim, at_ns)?;
    scene.nodes[victim].note("packets are slow")?;
    scene.measure(at_ns, &scene.others(victim))?;
    sleep_until(at_ns, Duration::from_secs(3));
    drop(cable);
    scene.nodes[victim].note("healed")?;
    scene.wait_until_whole()
}

/// Every node in turn ends as it is asked to, and starts again.
fn rolling(scene: &mut Scene) -> Result<()> {
    for at in 0..scene.nodes.len() {
        calm();
        scene.nodes[at].terminate()?;
        scene.measure(monotonic_ns(), &scene.others(at))?;
        scene.restart(at)?;
        scene.wait_until_whole()?;
    }
    Ok(())
}

/// Nobody was told of an error. A request may cross the end of the connection that
/// it was sent on, as with any server that ends; no more than that.
fn no_error(seen: &Seen) -> Result<()> {
    let told = seen.errors.iter().filter(|(_, kind, _)| kind != "closed").count();
    ensure!(told == 0, "clients met with errors: {:?}", seen.errors);
    Ok(())
}

fn sleep_until(at_ns: u64, later: Duration) {
    let gone = Duration::from_nanos(monotonic_ns() - at_ns);
    sleep(later.saturating_sub(gone));
}
