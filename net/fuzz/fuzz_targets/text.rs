//! Whatever follows on a connection of this protocol, nothing panics.
#![no_main]

mod drive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| drive::drive(b"get a\r\n", data));
