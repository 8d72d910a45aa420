//! Whether taking and giving back a block costs the same in a pool of 2^8 blocks and of 2^20: at most 100 ns each.
//!
//! ```text
//! sequential   half of the pool is taken, from its start: take the next ones, give them back
//! scattered    half of the pool is free, at random: give back some at random, take the next free ones
//! nearly full  one in 1,024 is free, at random: the same; the next gap is far away
//! ```
//! `take` is `take_next`. Both are timed in batches, so that neither the clock nor the choice of blocks is measured.
//! `cargo bench -p cadastre-core`.
#![allow(missing_docs, reason = "criterion_group! generates functions without any")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up should say so")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use cadastre_core::{Cidr, Family, Space};
use criterion::{Criterion, criterion_group, criterion_main};

/// Blocks in a batch: few enough that a pool of 2^8 keeps its state.
const BATCH: u32 = 32;

/// The pool sizes, as the number of bits of a block's index.
const POOLS: [(Family, u8); 4] = [(Family::V4, 8), (Family::V4, 14), (Family::V4, 20), (Family::V6, 20)];

/// A pool of 2^`bits` blocks of /28 (IPv4) or /64 (IPv6).
fn pool(family: Family, bits: u8) -> Space {
    let (unit, base) = match family {
        Family::V4 => (28, "10.0.0.0"),
        Family::V6 => (64, "fd00::"),
    };
    let mut space = Space::new(family, unit);
    space.add_cidr(Cidr::new(base.parse().unwrap(), unit - bits).unwrap()).unwrap();
    space
}

/// A pseudo-random sequence that needs no crate: the multiplier of Knuth's MMIX.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((u128::from(self.0) * end as u128) >> 64).unwrap()
    }

    fn pick(&mut self, taken: &mut Vec<Cidr>) -> Vec<Cidr> {
        (0..BATCH).map(|_| taken.swap_remove(self.below(taken.len()))).collect()
    }
}

fn take(space: &mut Space, units: &mut Vec<Cidr>) {
    for _ in 0..BATCH {
        units.push(black_box(&mut *space).take_next().unwrap());
    }
}

fn give_back(space: &mut Space, units: &[Cidr]) {
    for unit in units {
        black_box(&mut *space).give_back(unit).unwrap();
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Benches `step`, which takes and gives back `BATCH` blocks and says how long each of the two took.
fn bench(c: &mut Criterion, state: &str, pool: (Family, u8), mut step: impl FnMut() -> [Duration; 2]) {
    for (index, what) in ["take", "give back"].into_iter().enumerate() {
        c.bench_function(&format!("{what}, {state}, {} 2^{}", pool.0, pool.1), |b| {
            b.iter_custom(|steps| {
                // Criterion asks for a number of single calls; whole batches are timed, and the surplus taken off.
                let batches = u32::try_from(steps.div_ceil(BATCH.into())).unwrap();
                let spent: Duration = (0..batches).map(|_| step()[index]).sum();
                spent.mul_f64(u32::try_from(steps).unwrap().into()).div_f64((batches * BATCH).into())
            });
        });
    }
}

fn sequential(c: &mut Criterion) {
    for (family, bits) in POOLS {
        let mut space = pool(family, bits);
        for _ in 0..1 << (bits - 1) {
            space.take_next();
        }
        let mut units = Vec::new();
        bench(c, "sequential", (family, bits), || {
            units.clear();
            [timed(|| take(&mut space, &mut units)), timed(|| give_back(&mut space, &units))]
        });
    }
}

fn random(c: &mut Criterion, state: &str, free_of: impl Fn(usize) -> usize) {
    for (family, bits) in POOLS {
        let (mut space, mut random) = (pool(family, bits), Random(1));
        let mut taken: Vec<Cidr> = std::iter::from_fn(|| space.take_next()).collect();
        for _ in 0..free_of(1 << bits) {
            let at = random.below(taken.len());
            space.give_back(&taken.swap_remove(at)).unwrap();
        }
        bench(c, state, (family, bits), || {
            let mut units = random.pick(&mut taken);
            let back = timed(|| give_back(&mut space, &units));
            units.clear();
            let took = timed(|| take(&mut space, &mut units));
            taken.append(&mut units);
            [took, back]
        });
    }
}

fn scattered(c: &mut Criterion) {
    random(c, "scattered", |units| units / 2);
}

fn nearly_full(c: &mut Criterion) {
    random(c, "nearly full", |units| units / 1024);
}

criterion_group!(benches, sequential, scattered, nearly_full);
criterion_main!(benches);
