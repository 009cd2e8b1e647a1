//! The Seawall cache server.

mod settings;

fn main() {}
