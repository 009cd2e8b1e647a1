//! seawall-load.

fn main() {}
