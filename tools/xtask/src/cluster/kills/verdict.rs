//! What became of the writes of one key that one client writes and reads.
//!
//! The client does one thing at a time, so it knows what an answer may be: the value
//! that was acknowledged last, or one whose write was answered "the outcome is
//! unknown" or not at all. Anything else is counted by what is wrong with it, and
//! the key goes on with what it holds now: one loss is counted once.

/// What a read found, beside what it may find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// What it may find.
    Right,
    /// Neither the acknowledged write nor one that may have taken its place.
    Missing,
    /// A value that nobody wrote, or whose write was refused.
    Invented,
}

/// One key.
#[derive(Clone, Debug, Default)]
pub struct Key {
    /// The write that was acknowledged last, and when. Of these, 0 is no write.
    kept: u64,
    acknowledged_ns: u64,
    /// Writes of unknown outcome: each may be found at any later time.
    unknown: Vec<u64>,
    /// All writes up to here were begun.
    begun: u64,
    refused: Vec<u64>,
}

impl Key {
    /// A write begins.
    pub fn begin(&mut self, value: u64) {
        self.begun = value;
    }

    /// It was acknowledged.
    pub fn acknowledged(&mut self, value: u64, now_ns: u64) {
        (self.kept, self.acknowledged_ns) = (value, now_ns);
    }

    /// It was refused: it surely did not happen.
    pub fn refused(&mut self, value: u64) {
        self.refused.push(value);
    }

    /// Nobody knows.
    pub fn unknown(&mut self, value: u64) {
        self.unknown.push(value);
    }

    /// What must be there, and since when.
    pub fn kept(&self) -> (u64, u64) {
        (self.kept, self.acknowledged_ns)
    }

    /// A read found this; 0 is nothing.
    pub fn read(&mut self, found: u64, now_ns: u64) -> Found {
        if found == self.kept {
            return Found::Right;
        }
        if self.unknown.contains(&found) {
            // From now on it is as good as acknowledged.
            self.acknowledged(found, now_ns);
            return Found::Right;
        }
        if found > self.begun || self.refused.contains(&found) {
            return Found::Invented;
        }
        Found::Missing
    }

    /// What was acknowledged is gone: from now on the key holds this.
    pub fn is_lost(&mut self, found: u64, now_ns: u64) {
        self.acknowledged(found, now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: u64) -> Key {
        let mut key = Key::default();
        key.begin(value);
        key.acknowledged(value, 10);
        key
    }

    #[test]
    fn the_acknowledged_value_is_right_and_an_older_one_or_none_is_not() {
        let mut key = written(1);
        key.begin(2);
        key.acknowledged(2, 20);
        assert_eq!(key.read(2, 30), Found::Right);
        assert_eq!(key.read(1, 30), Found::Missing);
        assert_eq!(key.read(0, 30), Found::Missing);
    }

    #[test]
    fn a_loss_is_counted_once() {
        let mut key = written(1);
        assert_eq!(key.read(0, 20), Found::Missing);
        key.is_lost(0, 20);
        assert_eq!(key.read(0, 30), Found::Right);
        assert_eq!(key.read(1, 40), Found::Missing, "back again");
    }

    #[test]
    fn a_write_of_unknown_outcome_may_be_found_or_not_and_then_stays() {
        let mut key = written(1);
        key.begin(2);
        key.unknown(2);
        assert_eq!(key.read(1, 30), Found::Right);
        assert_eq!(key.read(2, 40), Found::Right);
        assert_eq!(key.kept(), (2, 40));
        assert_eq!(key.read(1, 50), Found::Missing);
    }

    #[test]
    fn a_refused_write_is_never_found() {
        let mut key = written(1);
        key.begin(2);
        key.refused(2);
        assert_eq!(key.read(2, 30), Found::Invented);
        assert_eq!(key.read(7, 30), Found::Invented);
    }
}
