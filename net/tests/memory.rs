//! What a node's clients can make resident: measured in a process of its own,
//! for other tests would be measured with it.

mod node;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use node::{Client, over_all};

/// One at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Resident bytes of this process.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_client_that_does_not_read_costs_bounded_memory_and_nobody_else() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    over_all(|node| {
        let mut slow = Client::new(&node);
        let value: Vec<u8> = (0..100_000u32).map(|byte| byte as u8).collect();
        slow.set("large", &value);
        let before = resident_bytes();
        // 100 MB of answers.
        slow.send("get large\r\n".repeat(1000).as_bytes());
        let mut other = Client::new(&node);
        let begin = Instant::now();
        for round in 0..500 {
            other.set("small", format!("{round}").as_bytes());
            assert_eq!(other.get("small").unwrap(), format!("{round}").into_bytes());
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 24 << 20, "{} MiB for one client", grown >> 20);
        for _ in 0..1000 {
            assert!(slow.value("large").unwrap() == value);
        }
    });
}

#[test]
fn many_large_values_at_once_stay_within_bounds() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    over_all(|node| {
        let mut client = Client::new(&node);
        let value: Vec<u8> = (0..400_000u32).map(|byte| (byte / 3) as u8).collect();
        for key in 0..8 {
            client.set(&format!("large-{key}"), &value);
        }
        let before = resident_bytes();
        let requests: String = (0..200).map(|key| format!("get large-{}\r\n", key % 8)).collect();
        client.send(requests.as_bytes());
        std::thread::sleep(Duration::from_millis(100));
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 40 << 20, "{} MiB", grown >> 20);
        for key in 0..200 {
            assert!(client.value(&format!("large-{}", key % 8)).unwrap() == value);
        }
    });
}
