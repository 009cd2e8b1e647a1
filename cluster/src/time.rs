//! The only time that decisions here know.

/// Milliseconds of a machine's own monotonic clock. Values of two machines have
/// nothing to do with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// That much later.
    #[must_use]
    pub const fn after(self, millis: u64) -> Millis {
        Millis(self.0.saturating_add(millis))
    }

    /// How much later this is than `earlier`; 0 if it is not.
    pub const fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
