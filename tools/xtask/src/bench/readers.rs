//! Many clients that read at once, or not at all, beside memcached: whether any is
//! closed, what memory it takes, and how long somebody else waits.

mod load;

use std::time::Duration;

use anyhow::Result;

use super::{Options, PROFILE, Page};
use crate::build;
use crate::server::{Program, Setup};
use load::{Load, Manner, Outcome};

/// The servers' threads; Seawall's other settings are the defaults, 64 MiB.
const FLAGS: [&str; 2] = ["-t", "2"];

/// What is done at once is done long before.
const NOT_READING: Duration = Duration::from_secs(3);

const LOADS: &[(&str, Load)] = &[
    ("300 ask 64 x 20 kB and read", asks(300, 64, 20_000, Manner::Read(2))),
    ("300 ask 100 x 5 kB and read", asks(300, 100, 5_000, Manner::Read(4))),
    ("400 ask 64 x 100 kB and read", asks(400, 64, 100_000, Manner::Read(1))),
    (
        "150 ask 100 times 64 x 20 kB and do not read",
        asks(150, 64, 20_000, Manner::Ignore(100, NOT_READING)),
    ),
    (
        "150 ask 1000 times 100 x 100 B and do not read",
        asks(150, 100, 100, Manner::Ignore(1000, NOT_READING)),
    ),
];

const fn asks(connections: usize, keys: usize, value_bytes: usize, manner: Manner) -> Load {
    Load { connections, keys, value_bytes, manner }
}

/// Every load on a fresh server of each.
pub fn table(options: &Options, page: &mut Page) -> Result<u64> {
    let seawall = Program::Seawall(build::binary(PROFILE, "seawalld")?);
    page.say("`-t 2`, 64 MiB for items. The bystander asks for one small key every 10 ms;");
    page.say("its delays count from when a request was due, in milliseconds.\n");
    page.head(&["", "closed", "RSS, MiB", "connections, MiB", "p50", "p99", "longest"]);
    for (what, load) in LOADS {
        for program in [&Program::Memcached, &seawall] {
            for _ in 0..options.rounds {
                let server = Setup::new(program, &FLAGS).start()?;
                let outcome = load::run(load, server.address, server.pid())?;
                page.row(row(&format!("{}: {what}", program.name()), &outcome));
            }
        }
    }
    Ok((LOADS.len() * 2 * options.rounds) as u64)
}

fn row(what: &str, outcome: &Outcome) -> Vec<String> {
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let ms = |delay: Duration| format!("{:.2}", delay.as_secs_f64() * 1e3);
    vec![
        what.to_owned(),
        outcome.closed.to_string(),
        mib(outcome.resident_bytes),
        outcome.connection_bytes.map_or("-".into(), mib),
        ms(outcome.delay(50)),
        ms(outcome.delay(99)),
        ms(outcome.delay(100)),
    ]
}
