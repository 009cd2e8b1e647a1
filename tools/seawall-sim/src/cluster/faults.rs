//! What goes wrong, and when: a schedule made from the seed before the run.

use super::hub::MS;
use super::random::Random;
use clap::ValueEnum;
use std::fmt;

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum FaultKind {
    /// Every kind but those that say otherwise.
    All,
    /// No faults.
    None,
    /// The network splits in two.
    Partition,
    /// One machine reaches the others no more, or is reached no more.
    OneWay,
    /// A process does nothing for a while, sometimes in the middle of a turn.
    Pause,
    /// A single core does nothing for a while.
    Stall,
    /// A process dies and starts again.
    Crash,
    /// Links break.
    Reset,
    /// Messages are lost, doubled, and late.
    Loss,
    /// Leadership of the coordinator moves.
    Leader,
    /// Cores hear late of topologies.
    Lag,
    /// Clocks drift apart.
    Drift,
    /// Clients invalidate many values at once.
    Invalidate,
    /// Values expire.
    Expire,
    /// A node is emptied, for a while.
    Drain,
    /// A process hands over, ends, and starts again.
    Leave,
    /// A machine is new in the cluster.
    Join,
    /// What only a dead node held is given up soon.
    Abandon,
    /// Links break again and again, and fills are slow.
    Cut,
    /// A replica is left out and hears late of it, and meanwhile its primary hands over:
    /// for runs of three copies. Not one of "all", which it would crowd.
    Unheard,
    /// Some namespaces are replicated asynchronously, or not at all.
    Modes,
    /// Nodes are in zones.
    Zones,
}

impl FaultKind {
    const ALL: [FaultKind; 19] = [
        FaultKind::Partition,
        FaultKind::OneWay,
        FaultKind::Pause,
        FaultKind::Stall,
        FaultKind::Crash,
        FaultKind::Reset,
        FaultKind::Loss,
        FaultKind::Leader,
        FaultKind::Lag,
        FaultKind::Drift,
        FaultKind::Invalidate,
        FaultKind::Expire,
        FaultKind::Drain,
        FaultKind::Leave,
        FaultKind::Join,
        FaultKind::Abandon,
        FaultKind::Cut,
        FaultKind::Modes,
        FaultKind::Zones,
    ];

    /// Whether it happens at some moments, and not all the time.
    fn is_moment(self) -> bool {
        !matches!(
            self,
            FaultKind::Drift
                | FaultKind::Invalidate
                | FaultKind::Expire
                | FaultKind::Join
                | FaultKind::Abandon
                | FaultKind::Modes
                | FaultKind::Zones
        )
    }

    /// What an option means.
    pub fn chosen(options: &[FaultKind]) -> Vec<FaultKind> {
        if options.contains(&FaultKind::All) {
            return FaultKind::ALL.to_vec();
        }
        options.iter().copied().filter(|kind| *kind != FaultKind::None).collect()
    }
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Machines of the set, as bits, and the others do not reach each other.
    Partition(u64),
    /// Nothing gets from the first set to the second.
    OneWay(u64, u64),
    /// A process stands still, if so in the middle of a core's turn.
    Pause { machine: usize, in_turn: bool },
    /// A core stands still.
    Stall { machine: usize, core: u16 },
    /// A process is gone until the end of the fault.
    Crash(usize),
    /// Every link between two machines breaks.
    Reset(usize, usize),
    /// So many of a hundred messages.
    Loss { lost: u64, disordered: u64 },
    /// Somebody else is elected.
    Leader,
    /// A machine's cores.
    Lag(usize),
    /// This one is emptied.
    Drain(usize),
    /// It hands over for so long at most, and ends.
    Leave { machine: usize, patience_ms: u64 },
    /// It starts for the first time when this ends.
    Late(usize),
}

/// A fault of the schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it begins.
    pub from: u64,
    /// When it ends.
    pub to: u64,
    /// What.
    pub what: What,
}

impl fmt::Display for Fault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:>7.1} to {:>7.1} ms  {:?}", ms(self.from), ms(self.to), self.what)
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / MS as f64
}

/// A schedule between two moments.
pub fn schedule(
    random: &mut Random,
    kinds: &[FaultKind],
    machines: usize,
    cores: &dyn Fn(usize) -> u16,
    from: u64,
    to: u64,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    // A majority is there from the begin.
    if kinds.contains(&FaultKind::Join) && machines > 2 {
        for machine in (machines / 2 + 1).max(2)..machines {
            if random.percent(50) {
                let starts = random.between(from, to);
                faults.push(Fault { from: 0, to: starts, what: What::Late(machine) });
            }
        }
    }
    let kinds: Vec<FaultKind> = kinds.iter().copied().filter(|kind| kind.is_moment()).collect();
    // Some runs are calm for long, others are not.
    let pause_ms = random.between(80, 1_200);
    let mut at = from;
    loop {
        at += random.below(2 * pause_ms * MS);
        let Some(kind) = random.pick(&kinds).copied().filter(|_| at < to) else { break };
        let lasts = match random.below(3) {
            0 => random.between(1, 60),
            1 => random.between(60, 500),
            _ => random.between(300, 2_500),
        };
        let machine = random.below(machines as u64) as usize;
        let other = (machine + random.between(1, machines as u64 - 1) as usize) % machines;
        let what = match kind {
            FaultKind::Partition if random.percent(60) => What::Partition(1 << machine),
            FaultKind::Partition => What::Partition(random.between(1, (1 << machines) - 2)),
            FaultKind::OneWay => {
                let (one, all) = (1 << machine, (1 << machines) - 1);
                match random.below(3) {
                    0 => What::OneWay(one, all & !one),
                    1 => What::OneWay(all & !one, one),
                    _ => What::OneWay(one, 1 << other),
                }
            }
            FaultKind::Pause => What::Pause { machine, in_turn: random.percent(50) },
            FaultKind::Stall => {
                What::Stall { machine, core: random.below(u64::from(cores(machine))) as u16 }
            }
            FaultKind::Crash => What::Crash(machine),
            FaultKind::Reset => What::Reset(machine, other),
            FaultKind::Loss => {
                What::Loss { lost: random.between(1, 40), disordered: random.between(0, 30) }
            }
            FaultKind::Leader => What::Leader,
            FaultKind::Lag => What::Lag(machine),
            FaultKind::Drain => What::Drain(machine),
            FaultKind::Leave => What::Leave { machine, patience_ms: random.between(50, 2_000) },
            FaultKind::Cut => {
                let end = (at + lasts * MS).min(to);
                let mut next = at;
                while next < end {
                    let what = What::Reset(machine, other);
                    faults.push(Fault { from: next, to: next, what });
                    next += random.between(20, 200) * MS;
                }
                continue;
            }
            FaultKind::Unheard => {
                unheard(random, machine, other, at, to, &mut faults);
                continue;
            }
            FaultKind::All
            | FaultKind::None
            | FaultKind::Drift
            | FaultKind::Invalidate
            | FaultKind::Expire
            | FaultKind::Join
            | FaultKind::Abandon
            | FaultKind::Modes
            | FaultKind::Zones => continue,
        };
        faults.push(Fault { from: at, to: (at + lasts * MS).min(to), what });
    }
    faults
}

/// A primary's messages do not reach a replica, which it leaves out when that has not
/// confirmed a write in time. The replica hears late of that: its lease still runs, it
/// believes itself in sync, and answers reads. In just this time another one leads.
fn unheard(
    random: &mut Random,
    primary: usize,
    replica: usize,
    from: u64,
    to: u64,
    faults: &mut Vec<Fault>,
) {
    let end = (from + 700 * MS).min(to);
    let leaves = (from + random.between(150, 450) * MS).min(to);
    for (from, what) in [
        (from, What::Lag(replica)),
        (from, What::OneWay(1 << primary, 1 << replica)),
        (leaves, What::Leave { machine: primary, patience_ms: 500 }),
    ] {
        faults.push(Fault { from, to: end.max(from), what });
    }
}

/// So long without a fault, a primary has told its copies all that it has, or they are
/// out.
const QUIET: u64 = 500 * MS;
/// What a fault does may last for so long: processes start, leaders are elected.
const AFTERMATH: u64 = 1_000 * MS;

/// What primaries had acknowledged by then, their copies had by `at`: it was quiet for
/// long enough between. 0: nothing.
pub fn copied_until(faults: &[Fault], at: u64) -> u64 {
    let harms = |fault: &&Fault| !matches!(fault.what, What::Drain(_) | What::Late(_));
    let harms = faults.iter().filter(harms);
    let is_quiet = |from: &u64| {
        let until = from + QUIET;
        !harms.clone().any(|fault| fault.from < until && fault.to + AFTERMATH > *from)
    };
    let ends = harms.clone().map(|fault| fault.from.min(at)).chain([at]);
    ends.map(|end| end.saturating_sub(QUIET)).filter(is_quiet).max().unwrap_or(0)
}
