//! CPU time of processes and threads, from `/proc`.
//!
//! `schedstat` counts nanoseconds; `stat` counts ticks of 10 ms and is the
//! fallback where the kernel keeps no scheduler statistics.

use std::fs;

/// Nanoseconds that all threads of process `pid` have run. A thread that ends
/// between two readings takes its time along; cache servers keep theirs.
pub fn process_cpu_ns(pid: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let total: u64 = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| first_number(&text))
        .sum();
    if total > 0 {
        Some(total)
    } else {
        ticks_ns(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }
}

/// Nanoseconds that the calling thread has run.
pub fn thread_cpu_ns() -> u64 {
    fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| first_number(&text))
        .unwrap_or(0)
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// User and system ticks of a `/proc/PID/stat` line. The command's name, in
/// parentheses, may hold spaces and parentheses itself.
fn ticks_ns(stat: &str) -> Option<u64> {
    // USER_HZ is 100 on every Linux of our architectures.
    const TICK_NS: u64 = 10_000_000;
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * TICK_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_an_odd_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 1 0 0 0 7 3 0 0 20 0 1 0 1 1 1";
        assert_eq!(ticks_ns(stat), Some(100_000_000));
    }

    #[test]
    fn our_own_time_is_known() {
        assert!(process_cpu_ns(std::process::id()).is_some());
        assert_eq!(process_cpu_ns(u32::MAX), None);
    }
}
