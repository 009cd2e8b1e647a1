//! Whatever a file holds, the snapshot reader neither panics nor reads past it.
//!
//! A block's payload is also read without its checksum, which a fuzzer would
//! hardly ever get right.
#![no_main]

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let _ = engine::snapshot::check(file);
    engine::snapshot::records(file).for_each(drop);
    engine::snapshot::generations(file).for_each(drop);
});
