//! The Seawall cache server.

mod process;
mod settings;

fn main() {}
