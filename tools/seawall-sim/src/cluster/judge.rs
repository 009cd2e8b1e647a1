//! What is to be said about a run when it is over.

use super::machine::{Clock, add, machine_of};
use super::world::World;
use cluster::replication::{Counters, Mode};
use history::check;
use serde::Serialize;

/// A run, in numbers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    pub seed: u64,
    /// Fingerprint: the same for the same seed and code.
    pub trace: u64,
    pub operations: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub refused: u64,
    pub invalidations: u64,
    /// Of these, of unknown outcome.
    pub unsure: u64,
    pub failovers: u64,
    pub fills: u64,
    /// Fills that went on where a link broke.
    pub fills_resumed: u64,
    pub resumes: u64,
    pub fenced: u64,
    /// Times that a hot key was granted to a node without a copy of its partition.
    pub granted: u64,
    /// Reads answered there.
    pub copy_reads: u64,
    /// Writes that took such a key back.
    pub revoked: u64,
    /// Reads passed on to a copy in the zone of the node that was asked.
    pub zone_reads: u64,
    /// Frames that a core could not make sense of.
    pub garbage: u64,
    /// Partitions that began anew, as every in-sync copy was lost.
    pub born: u64,
    /// Acknowledged writes of asynchronous keys that a change of primary lost.
    pub lost_asynchronous: u64,
    /// Milliseconds from the last fault until the cluster was whole.
    pub whole_after_ms: Option<u64>,
    /// By key, the longest time without an answer.
    pub unavailable_ms: Vec<u64>,
    pub faults: Vec<String>,
    pub violations: Vec<String>,
}

/// Judges a run.
pub fn judge(mut world: World) -> Verdict {
    let mut violations = std::mem::take(&mut world.problems);
    if world.whole_at.is_some() {
        compare_copies(&mut world, &mut violations);
    }
    let mut counters = Counters::default();
    for machine in &world.machines {
        add(&mut counters, machine.counters());
    }
    let recorder = world.recorder;
    let (invalidations, unsure) = recorder.invalidations();
    let settings = recorder.settings();
    let verdict = Verdict {
        invalidations,
        unsure,
        seed: world.setup.seed,
        trace: world.hub.trace(),
        operations: recorder.operations,
        acknowledged: recorder.acknowledged,
        unknown: recorder.unknown,
        refused: recorder.refused,
        failovers: world.failovers,
        fills: counters.fills,
        fills_resumed: counters.fills_resumed,
        resumes: counters.resumed,
        fenced: counters.fenced,
        granted: counters.granted,
        copy_reads: counters.copy_reads,
        revoked: counters.revoked,
        zone_reads: world.zone_reads,
        garbage: world.garbage,
        born: world.born,
        lost_asynchronous: 0,
        whole_after_ms: world.whole_at.map(|at| (at - world.setup.calm_at) / super::hub::MS),
        unavailable_ms: recorder.unavailable_ms(),
        faults: world.faults.iter().map(ToString::to_string).collect(),
        violations: Vec::new(),
    };
    if verdict.garbage > 0 {
        violations.push(format!("{} links brought what makes no sense", verdict.garbage));
    }
    if counters.unstored > 0 {
        violations.push(format!("{} records found no room", counters.unstored));
    }
    let (history, more, lost_asynchronous) = recorder.finish();
    violations.extend(more);
    match history {
        Ok(history) => {
            let report = check(&history, &settings);
            violations.extend(report.violations.iter().map(ToString::to_string));
        }
        Err(malformed) => violations.push(malformed.to_string()),
    }
    Verdict { violations, lost_asynchronous, ..verdict }
}

/// All copies of a key hold the same, and nobody else holds it.
fn compare_copies(world: &mut World, violations: &mut Vec<String>) {
    let topology = world.coordinator.latest().clone();
    let keys = std::sync::Arc::clone(&world.setup.node.keys);
    for (key, hash) in world.hashes.iter().enumerate() {
        let unsure = world.recorder.unsure(key as u32).iter().any(|(_, to)| *to == u64::MAX);
        let (name, mode) = (keys.name(key as u32), keys.mode(key as u32));
        let partition = topology.ring().of(*hash);
        let owners = topology.owners(partition);
        let mut values = Vec::new();
        for (at, machine) in world.machines.iter_mut().enumerate() {
            // What has expired by anybody's clock may be gone already.
            let now = Clock::latest(world.hub.at);
            let Some(process) = &mut machine.process else { continue };
            let cores = process.cores.len() as u32;
            let core = &mut process.cores[hash.core(cores) as usize];
            if core.replicator.copy_state(*hash).is_none() {
                values.push((at, core.value(key as u32, *hash, now)));
            }
        }
        let node_at = |at: usize| {
            let found = |(_, member): &(_, &cluster::topology::Member)| {
                machine_of(&member.node.name) == Some(at)
            };
            topology.nodes().find(found).map(|(node, _)| node)
        };
        let in_sync = |at: usize| node_at(at).is_some_and(|node| owners.is_in_sync(node));
        let holds = |at: usize| {
            let position = node_at(at).and_then(|node| owners.position(node));
            // Without replication there is one copy.
            position.is_some_and(|position| position == 0 || mode != Mode::None)
        };
        let mut copies = values.iter().filter(|(at, _)| in_sync(*at)).map(|(_, value)| *value);
        let first = copies.next().flatten();
        if copies.any(|value| value != first) && !unsure && mode != Mode::None {
            let text = format!("copies differ: {name} of partition {}: {values:?}", partition.0);
            violations.push(text);
        }
        if let Some((at, value)) = values.iter().find(|(at, value)| !holds(*at) && value.is_some())
        {
            let text = format!("left over: n{at} holds {name} ({value:?}), and {owners:?}");
            violations.push(text);
        }
    }
}
