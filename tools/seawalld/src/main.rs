//! The Seawall cache server.

mod metrics;
mod process;
mod settings;
mod storage;

fn main() {}
