//! Replays what the fuzzer found interesting.

#[test]
fn the_snapshot_reader_survives_its_corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/snapshot");
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus is in the repository") {
        let file = std::fs::read(entry.unwrap().path()).unwrap();
        let _ = engine::snapshot::check(&file);
        engine::snapshot::records(&file).for_each(drop);
        engine::snapshot::generations(&file).for_each(drop);
        replayed += 1;
    }
    assert!(replayed > 0, "the corpus is empty");
}
