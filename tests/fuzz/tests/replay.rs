//! The targets without libFuzzer: every file of the corpus and of what was found, then changes of them by seed.
//!
//! A failure prints its seed; `CADASTRE_SEED=17 cargo test -p cadastre-fuzz` runs that one alone.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use cadastre_fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Of each target; some seconds in all.
const CHANGED: u64 = 2_000;

/// Longest input that changes make: a line of the socket, and more.
const LONGEST: usize = 80 * 1_024;

/// What ends, begins and overflows.
const TOKENS: [&[u8]; 22] = [
    b"\n",
    b"\0",
    b"/",
    b"..",
    b"{",
    b"[",
    b"[[",
    b"\"",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551615",
    b"340282366920938463463374607431768211456",
    b"0.0.0.0/0",
    b"::/0",
    b"255.255.255.255",
    b"ffff::/128",
    b"\xff\xff",
    b"\\u0000",
    b"=",
    b";",
    b"\n!j\n",
];

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["corpus", "found"].map(|folder| root.join(folder).join(target));
    let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort(); // A seed chooses by place.
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Whether it holds; if not, what it was is kept as a file.
fn holds(target: Target, data: &[u8], what: &str) -> bool {
    let holds = catch_unwind(|| target(data)).is_ok();
    if !holds {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(what.replace(['/', ' '], "-"));
        fs::write(&kept, data).unwrap();
        eprintln!("{what} does not hold: see {}", kept.display());
    }
    holds
}

fn changed(inputs: &[(PathBuf, Vec<u8>)], rng: &mut StdRng) -> Vec<u8> {
    let one = |rng: &mut StdRng| inputs[rng.random_range(0..inputs.len())].1.clone();
    let mut data = one(rng);
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=data.len());
        let end = (at + rng.random_range(0..64)).min(data.len());
        match rng.random_range(0..7) {
            0 if at < data.len() => data[at] = rng.random(),
            1 if at < data.len() => data[at] ^= 1 << rng.random_range(0..8),
            2 => drop(data.drain(at..end)),
            3 => drop(data.splice(at..at, TOKENS[rng.random_range(0..TOKENS.len())].iter().copied())),
            4 => drop(data.splice(at..end, one(rng))),
            5 => {
                let piece = data[at..end].repeat(rng.random_range(1..300));
                data.splice(at..at, piece);
            }
            _ => data.truncate(at.max(1)),
        }
        data.truncate(LONGEST);
    }
    data
}

#[test]
fn the_corpus_and_what_was_found_hold() {
    let mut failed = 0;
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        let fails = |(path, data): &&(PathBuf, Vec<u8>)| {
            !holds(target, data, &format!("{name} {}", path.file_name().unwrap().display()))
        };
        failed += inputs.iter().filter(fails).count();
    }
    assert_eq!(failed, 0);
}

#[test]
fn changes_of_the_corpus_hold() {
    let mut failed: Vec<u64> = Vec::new();
    let one: Option<u64> = std::env::var("CADASTRE_SEED").ok().map(|seed| seed.parse().unwrap());
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        let mut seeds = one.map_or(0..CHANGED, |seed| seed..seed + 1);
        let data = |seed| changed(&inputs, &mut StdRng::seed_from_u64(seed));
        // The first of each target is enough to look at.
        failed.extend(seeds.find(|&seed| !holds(target, &data(seed), &format!("{name} seed {seed}"))));
    }
    assert!(failed.is_empty(), "CADASTRE_SEED=… runs one of {failed:?} alone");
}
