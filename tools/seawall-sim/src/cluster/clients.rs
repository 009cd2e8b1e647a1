//! The clients: what they ask.

use super::data::{Answer, Op, Store, TAGS};
use super::keys::Keys;
use super::random::Random;

/// How keys and values are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Keys.
    pub keys: u32,
    /// Longest pause of a client between two requests, in microseconds.
    pub think_us: u64,
    /// Reads in a hundred requests.
    pub reads: u64,
    /// Of a hundred reads, those whose value is then replaced.
    pub replaced: u64,
    /// Bytes behind a value, at most.
    pub padding_max: u64,
    /// Clients invalidate now and then.
    pub invalidates: bool,
    /// Some values expire.
    pub expires: bool,
}

/// What an invalidation covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Values with this tag.
    Tag(u8),
    /// All keys of a namespace.
    Namespace(&'static str),
    /// Everything.
    All,
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// About one key.
    Key(u32, Op),
    /// That many values die.
    Invalidate(Target),
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
pub struct Going {
    /// Its number.
    pub operation: u64,
    pub ask: Ask,
    pub invoked: u64,
}

/// A client.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// The machine that it talks to.
    pub machine: usize,
    pub going: Option<Going>,
    /// What it read last, to be replaced if nobody did so meanwhile.
    read: Option<(u32, u64)>,
}

impl Client {
    /// What it asks next.
    pub fn next(&mut self, random: &mut Random, load: &Load, keys: &Keys, value: u64) -> Ask {
        if load.invalidates && random.below(1_000) < 6 {
            return Ask::Invalidate(match random.below(4) {
                0 => Target::All,
                1 => Target::Namespace(keys.any_namespace(random)),
                tag => Target::Tag(tag as u8 - 1),
            });
        }
        let padding = random.below(load.padding_max + 1) as u16;
        let mut store = Store { value, padding, ttl_ms: 0, tag: 0 };
        if load.invalidates {
            store.tag = random.below(u64::from(TAGS) + 1) as u8;
        }
        if load.expires && random.percent(30) {
            store.ttl_ms = random.between(20, 900) as u16;
        }
        if let Some((key, compare)) = self.read.take().filter(|_| random.percent(load.replaced)) {
            return Ask::Key(key, Op::Cas { store, compare });
        }
        // A quarter of the keys gets most of the requests.
        let hot = u64::from(load.keys / 4).max(1);
        let of = if random.percent(60) { hot } else { u64::from(load.keys) };
        let key = random.below(of) as u32;
        let op = match random.below(100) {
            at if at < load.reads => Op::Get,
            at if at < 92 => Op::Set(store),
            _ => Op::Delete,
        };
        Ask::Key(key, op)
    }

    /// What it makes of an answer.
    pub fn remember(&mut self, going: &Going, answer: Answer) {
        if let (Answer::Value(Some((_, cas))), Ask::Key(key, _)) = (answer, going.ask) {
            self.read = Some((key, cas));
        }
    }
}
