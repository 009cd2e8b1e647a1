//! Settings that are one of a few words, with what each word means.
//!
//! The table takes its words from here. So a word that a user may write has a
//! meaning, and none is taken for another by the last arm of a `match`.

use cluster::replication::Mode;
use engine::Eviction;
use net::core::Binding;
use net::sys::BackendChoice;

/// The words of a setting and their meanings, in the same order.
#[derive(Debug)]
pub struct Choices<T: 'static> {
    /// For the table.
    pub words: &'static [&'static str],
    meanings: &'static [T],
}

impl<T: Copy + PartialEq> Choices<T> {
    /// What a word means.
    pub fn meaning(&self, word: &str) -> Option<T> {
        let at = self.words.iter().position(|known| *known == word)?;
        self.meanings.get(at).copied()
    }
}

macro_rules! choices {
    ($($word:literal => $meaning:expr),+ $(,)?) => {
        Choices { words: &[$($word),+], meanings: &[$($meaning),+] }
    };
}

/// When a core's thread is pinned to a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// If there are as many CPUs as cores.
    Auto,
    /// In any case.
    Always,
    /// In no case.
    Never,
}

/// `memory.eviction`; [`Eviction::None`] has a setting of its own.
pub const EVICTION: Choices<Eviction> = choices! {
    "clock-pro" => Eviction::ClockPro,
    "lru" => Eviction::Lru,
    "lfu" => Eviction::Lfu,
    "s3-fifo" => Eviction::S3Fifo,
};

/// `cores.pin`.
pub const PIN: Choices<Pin> =
    choices! { "auto" => Pin::Auto, "yes" => Pin::Always, "no" => Pin::Never };

/// `io.backend`.
pub const BACKEND: Choices<BackendChoice> = choices! {
    "auto" => BackendChoice::Auto,
    "io_uring" => BackendChoice::Uring,
    "epoll" => BackendChoice::Epoll,
};

/// `connections.refuse_fast`.
pub const REFUSE_FAST: Choices<bool> = choices! { "yes" => true, "no" => false };

/// `protocol.only`.
pub const PROTOCOL: Choices<Binding> = choices! {
    "auto" => Binding::Auto,
    "auto-negotiate" => Binding::Auto,
    "ascii" => Binding::Ascii,
    "binary" => Binding::Binary,
};

/// `protocol.cas_bits`.
pub const CAS_BITS: Choices<u32> = choices! { "64" => 64, "32" => 32 };

/// `cluster.replication`, and what follows `=` in `cluster.replication_of`.
pub const REPLICATION: Choices<Mode> =
    choices! { "sync" => Mode::Sync, "async" => Mode::Async, "none" => Mode::None };

/// `cluster.read_from`: whether plain reads execute at replicas, too.
pub const READ_NEAREST: Choices<bool> = choices! { "nearest" => true, "primary" => false };

/// `snapshot.load`: whether a snapshot that may be out of date is loaded, too.
pub const LOAD_STALE: Choices<bool> = choices! { "clean" => false, "any" => true };
