//! The Seawall cache server.

mod process;
mod settings;
mod storage;

fn main() {}
