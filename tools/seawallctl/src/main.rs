//! seawallctl.

fn main() {}
