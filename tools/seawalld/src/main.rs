//! seawalld.

fn main() {}
