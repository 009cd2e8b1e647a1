//! What the tests share: a notation for small histories, chance, and a real
//! register to take large histories from.

#![allow(dead_code)] // Each test uses its part.

use history::{Action, Builder, History, KeyId, Operation};

/// A history of one key, `k`. Operations are separated by semicolons and each
/// gets a client of its own: `w7 10 20` writes, `x7 10 20` is refused, `d 10 ?`
/// deletes with unknown outcome, `r7 10 20` hits, `m 10 20` misses.
pub fn history(text: &str) -> History {
    let mut builder = Builder::default();
    let key = builder.key("k");
    for (client, part) in (1..).zip(text.split(';')) {
        let mut words = part.split_whitespace();
        let mut word = || words.next().unwrap_or_else(|| panic!("{part:?} is too short"));
        let (what, invoked, completed) = (word(), word(), word());
        let value = || what[1..].parse().unwrap();
        let action = match what.as_bytes()[0] {
            b'w' => Action::write(value()),
            b'x' => Action::Refused { value: value() },
            b'd' => Action::Delete,
            b'r' => Action::Hit { value: value() },
            b'm' => Action::Miss,
            _ => panic!("{part:?}"),
        };
        let completed_ns = (completed != "?").then(|| completed.parse().unwrap());
        let invoked_ns = invoked.parse().unwrap();
        builder.push(Operation { client, key, invoked_ns, completed_ns, action });
    }
    builder.finish().unwrap()
}

/// The same, back into the notation.
pub fn notation(operations: &[Operation]) -> String {
    let part = |operation: &Operation| {
        let what = match operation.action {
            Action::Write { value, .. } => format!("w{value}"),
            Action::Refused { value } => format!("x{value}"),
            Action::Delete => "d".to_owned(),
            Action::Hit { value } => format!("r{value}"),
            Action::Miss => "m".to_owned(),
        };
        let completed = operation.completed_ns.map_or("?".to_owned(), |ns| ns.to_string());
        format!("{what} {} {completed}", operation.invoked_ns)
    };
    operations.iter().map(part).collect::<Vec<_>>().join("; ")
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub struct Chance(pub u64);

impl Chance {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// How a register is used.
#[derive(Clone, Copy)]
pub struct Use {
    pub clients: u32,
    pub operations: usize,
    /// One operation in so many is a delete (0: none).
    pub deletes: u64,
    /// One operation in so many has no known outcome (0: none).
    pub unknown: u64,
    /// At one step in so many, the register forgets its value (0: never).
    pub evictions: u64,
}

#[derive(Clone, Copy)]
enum Wish {
    Write(u64),
    Delete,
    Read,
}

struct Pending {
    invoked_ns: u64,
    wish: Wish,
    /// Once it took effect: what a read found.
    found: Option<Option<u64>>,
}

/// Operations on a real register, interleaved at random: each takes effect at
/// one step between its invocation and its completion. One of unknown outcome
/// does so at any later step, or never.
pub fn register(key: KeyId, used: Use, chance: &mut Chance) -> Vec<Operation> {
    let mut register = None;
    let mut pending: Vec<Option<Pending>> = (0..used.clients).map(|_| None).collect();
    let mut floating: Vec<Wish> = Vec::new();
    let mut done = Vec::with_capacity(used.operations);
    let mut value = 0;
    let once_in = |chance: &mut Chance, times| times > 0 && chance.once_in(times);
    let apply = |register: &mut Option<u64>, wish| {
        match wish {
            Wish::Write(value) => *register = Some(value),
            Wish::Delete => *register = None,
            Wish::Read => {}
        }
        *register
    };
    for at_ns in 1.. {
        if done.len() >= used.operations {
            break;
        }
        if once_in(chance, used.evictions) {
            register = None;
        }
        if !floating.is_empty() && chance.once_in(8) {
            let wish = floating.swap_remove(chance.below(floating.len() as u64) as usize);
            apply(&mut register, wish);
        }
        let client = chance.below(u64::from(used.clients)) as u32;
        let slot = &mut pending[client as usize];
        match slot.take() {
            None => {
                value += 1;
                let wish = match chance.below(2) {
                    _ if once_in(chance, used.deletes) => Wish::Delete,
                    0 => Wish::Write(value),
                    _ => Wish::Read,
                };
                *slot = Some(Pending { invoked_ns: at_ns, wish, found: None });
            }
            Some(Pending { invoked_ns, wish, found: None }) => {
                let action = match wish {
                    Wish::Write(value) => Action::write(value),
                    Wish::Delete => Action::Delete,
                    Wish::Read => Action::Miss,
                };
                if !matches!(wish, Wish::Read) && once_in(chance, used.unknown) {
                    done.push(Operation { client, key, invoked_ns, completed_ns: None, action });
                    if chance.once_in(2) {
                        floating.push(wish);
                    }
                } else {
                    let found = Some(apply(&mut register, wish));
                    *slot = Some(Pending { invoked_ns, wish, found });
                }
            }
            Some(Pending { invoked_ns, wish, found: Some(found) }) => {
                let action = match (wish, found) {
                    (Wish::Write(value), _) => Action::write(value),
                    (Wish::Delete, _) => Action::Delete,
                    (Wish::Read, Some(value)) => Action::Hit { value },
                    (Wish::Read, None) => Action::Miss,
                };
                let completed_ns = Some(at_ns);
                done.push(Operation { client, key, invoked_ns, completed_ns, action });
            }
        }
    }
    // What is still under way never ends; a write may have been seen.
    for (client, pending) in (0..).zip(pending) {
        let Some(Pending { invoked_ns, wish, .. }) = pending else { continue };
        let action = match wish {
            Wish::Write(value) => Action::write(value),
            Wish::Delete => Action::Delete,
            Wish::Read => continue,
        };
        done.push(Operation { client, key, invoked_ns, completed_ns: None, action });
    }
    done
}

/// The history of these operations, all on the key `k`.
pub fn of_one_key(operations: Vec<Operation>) -> History {
    let mut builder = Builder::default();
    builder.key("k");
    for operation in operations {
        builder.push(operation);
    }
    builder.finish().unwrap()
}

/// The key `k`, for operations made before their history.
pub fn k() -> KeyId {
    Builder::default().key("k")
}
