//! The fuzzers' seeds and what they must never do (`fuzz/`), without a fuzzer.

use std::{fs, path::Path};

#[path = "../fuzz/checks.rs"]
mod checks;

fn each_seed(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut found = 0;
    for entry in fs::read_dir(&directory).expect("the seeds are beside the fuzzers") {
        let path = entry.expect("a readable directory").path();
        let seed = fs::read(&path).expect("a readable seed");
        check(&seed);
        // What a fuzzer would try first: every beginning, and every byte changed.
        for cut in 0..seed.len().min(80) {
            check(&seed[..cut]);
            for change in [0x01, 0x80, 0xff] {
                let mut changed = seed.clone();
                changed[cut] ^= change;
                check(&changed);
            }
        }
        found += 1;
    }
    assert!(found >= 5, "{found} seeds in {}", directory.display());
}

#[test]
fn seeds_of_streams_hold() {
    each_seed("decode", checks::decode);
}

#[test]
fn seeds_of_deflated_messages_hold() {
    each_seed("inflate", checks::inflate);
}

#[test]
fn seeds_of_handshakes_hold() {
    each_seed("handshake", checks::handshake);
}
