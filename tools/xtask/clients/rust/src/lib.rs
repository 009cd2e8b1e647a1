//! Counts assertions and prints the line that xtask looks for.

use std::fmt::Debug;

/// The checks of one client.
pub struct Checks {
    name: &'static str,
    count: u32,
}

impl Checks {
    /// None yet.
    pub fn new(name: &'static str) -> Checks {
        Checks { name, count: 0 }
    }

    /// Both must be equal.
    #[track_caller]
    pub fn equal<A: PartialEq<B> + Debug, B: Debug>(&mut self, got: A, want: B) {
        self.count += 1;
        assert_eq!(got, want, "{}: check {}", self.name, self.count);
    }

    /// Must be true.
    #[track_caller]
    pub fn holds(&mut self, condition: bool) {
        self.equal(condition, true);
    }

    /// Prints the closing line.
    pub fn done(self) {
        println!("ok {} {} checks", self.name, self.count);
    }
}

/// `host:port` from the command line.
pub fn address() -> String {
    let mut arguments = std::env::args().skip(1);
    let host = arguments.next().expect("usage: <host> <port>");
    let port = arguments.next().expect("usage: <host> <port>");
    format!("{host}:{port}")
}
