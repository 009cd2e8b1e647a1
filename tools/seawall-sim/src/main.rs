//! seawall-sim.

fn main() {}
