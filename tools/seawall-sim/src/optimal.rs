//! The limit: what a cache would miss that knew the future.
//!
//! Belady's rule evicts the object whose next use is farthest away. No policy
//! misses less; how far one is from here tells what is left to gain.

use crate::trace::Trace;
use std::collections::BTreeSet;

/// Never asked for again.
const NEVER: u32 = u32::MAX;

/// Misses of Belady's rule with room for `capacity` objects.
pub fn misses(trace: &Trace, capacity: u64) -> u64 {
    let next_use = next_uses(trace);
    // By the position of their next use, which is also their only name.
    let mut resident = BTreeSet::new();
    let mut never_again = 0;
    let mut misses = 0;
    for (position, &next) in next_use.iter().enumerate() {
        let hit = resident.remove(&(position as u32));
        if !hit {
            misses += 1;
            if resident.len() as u64 + never_again == capacity {
                if never_again > 0 {
                    never_again -= 1;
                } else {
                    resident.pop_last();
                }
            }
        }
        if next == NEVER {
            never_again += 1;
        } else {
            resident.insert(next);
        }
    }
    misses
}

/// For each request, the position of the next one for the same object.
fn next_uses(trace: &Trace) -> Vec<u32> {
    let mut next_of = vec![NEVER; trace.objects as usize];
    let mut next_use = vec![NEVER; trace.requests.len()];
    for (position, &id) in trace.requests.iter().enumerate().rev() {
        next_use[position] = next_of[id as usize];
        next_of[id as usize] = position as u32;
    }
    next_use
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_textbook_example() {
        let requests = vec![7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1];
        let trace = Trace { requests, objects: 8, ..Trace::default() };
        assert_eq!(misses(&trace, 3), 9);
        assert_eq!(misses(&trace, 8), 6);
    }
}
