//! Which processors we may use, and pinning a thread to one.

use std::fs;
use std::io;

/// The processors this process may run on, in order.
pub fn usable_processors() -> Vec<usize> {
    // SAFETY: an all-zero set is a valid, empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and size describe `set`.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        return (0..count).collect();
    }
    (0..libc::CPU_SETSIZE as usize)
        // SAFETY: the index is below CPU_SETSIZE.
        .filter(|processor| unsafe { libc::CPU_ISSET(*processor, &set) })
        .collect()
}

/// How many cores are worth a data thread each: the processors we may run on,
/// but no more than the control group's CPU quota pays for. A thread more than
/// the quota would not add work, only be stopped in the middle of a turn.
pub fn usable_cores() -> usize {
    let processors = usable_processors().len().max(1);
    match cgroup_quota() {
        Some(quota) => processors.min((quota.floor() as usize).max(1)),
        None => processors,
    }
}

/// CPUs that the control group pays for, if it limits them (v2, then v1).
fn cgroup_quota() -> Option<f64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) {
        // A limit of any ancestor counts.
        let mut path = path.trim().trim_end_matches('/').to_owned();
        let mut least: Option<f64> = None;
        loop {
            let file = format!("/sys/fs/cgroup{path}/cpu.max");
            if let Some(quota) = fs::read_to_string(file).ok().as_deref().and_then(parse_cpu_max) {
                least = Some(least.map_or(quota, |least| least.min(quota)));
            }
            match path.rfind('/') {
                Some(end) => path.truncate(end),
                None => break,
            }
        }
        if least.is_some() {
            return least;
        }
    }
    let number = |file| fs::read_to_string(file).ok()?.trim().parse::<f64>().ok();
    let quota = number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")?;
    let period = number("/sys/fs/cgroup/cpu/cpu.cfs_period_us")?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// `"max 100000"` or `"150000 100000"`.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// Pins the calling thread.
pub fn pin_to(processor: usize) -> io::Result<()> {
    if processor >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: an all-zero set is a valid, empty one; the index is in range.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        set
    };
    // SAFETY: the pointer and size describe `set`.
    super::socket::check(unsafe {
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_read() {
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max(""), None);
    }

    #[test]
    fn a_thread_pins_to_a_processor_it_may_use() {
        let processors = usable_processors();
        assert!(!processors.is_empty() && usable_cores() >= 1);
        let last = *processors.last().unwrap();
        std::thread::spawn(move || {
            pin_to(last).unwrap();
            assert_eq!(usable_processors(), [last]);
        })
        .join()
        .unwrap();
    }
}
