//! Replays what the fuzzer found interesting, as an ordinary test.

#[path = "../fuzz/fuzz_targets/drive.rs"]
mod drive;

fn replay(target: &str, first: &[u8]) {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus is in the repository") {
        drive::drive(first, &std::fs::read(entry.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed > 0, "the corpus of {target} is empty");
}

#[test]
fn text() {
    replay("text", b"get a\r\n");
}

#[test]
fn meta() {
    replay("meta", b"mn\r\n");
}

#[test]
fn binary() {
    replay("binary", b"\x80");
}
