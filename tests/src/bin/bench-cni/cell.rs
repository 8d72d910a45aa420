//! ADD and DEL of the three subjects by so many callers at once, with so many addresses held.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use cadastre_tests::quantile;

use crate::call::{Container, Plugin};
use crate::options::Options;
use crate::siege;
use crate::stage::Node;
use crate::subject::Subject;

/// With many callers at once a subject's turn has so many times the calls: what is rare is to be seen.
const MORE: u32 = 4;

/// One cell of one round. Times in ms.
#[derive(Clone, Debug)]
pub struct Cell {
    pub subject: Subject,
    pub held: u32,
    pub callers: u32,
    pub add: Latency,
    pub del: Latency,
}

/// Of one verb.
#[derive(Clone, Debug)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub samples: usize,
}

impl Latency {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let ms: Vec<_> = took.iter().map(|took| took.as_secs_f64() * 1000.0).collect();
        Self { p50: quantile(&ms, 50), p99: quantile(&ms, 99), samples: ms.len() }
    }
}

/// ADDs and DELs.
#[derive(Default)]
struct Took {
    adds: Vec<Duration>,
    dels: Vec<Duration>,
}

impl Took {
    fn extend(&mut self, other: Self) {
        self.adds.extend(other.adds);
        self.dels.extend(other.dels);
    }
}

pub fn measure(options: &Options, node: &Node, callers: u32) -> Result<Vec<Cell>> {
    let mut subjects = Vec::new();
    for subject in Subject::ALL {
        let plugin = subject.plugin(node)?;
        turn(&plugin, callers, 1, options.turn)?; // Warms up, not counted.
        subjects.push((subject, plugin, Took::default()));
    }
    let pairs = if callers == 1 { options.pairs } else { options.pairs * MORE / callers };
    for _ in 0..options.turns {
        for (_, plugin, took) in &mut subjects {
            took.extend(turn(plugin, callers, pairs, options.turn)?);
        }
        // Nobody is always the one behind host-local.
        subjects.rotate_left(1);
    }
    let cell = |(subject, _, Took { adds, dels })| {
        let (add, del) = (Latency::of(adds), Latency::of(dels));
        Cell { subject, held: node.held, callers, add, del }
    };
    Ok(subjects.into_iter().map(cell).collect())
}

/// How much longer an ADD of ours takes with `most` held than with `least`. The two take turns with nobody between, since a
/// cell's floor moves by more than what is asked for.
pub fn growth(options: &Options, least: &Node, most: &Node) -> Result<f64> {
    let mut sides = Vec::new();
    for node in [least, most] {
        let plugin = Subject::Ours.plugin(node)?;
        turn(&plugin, 1, 1, options.turn)?;
        sides.push((plugin, Took::default()));
    }
    for _ in 0..options.turns * MORE {
        for (plugin, took) in &mut sides {
            took.extend(turn(plugin, 1, options.pairs / MORE, options.turn)?);
        }
        sides.reverse();
    }
    // An even number of turns: as they were.
    let medians: Vec<_> = sides.into_iter().map(|(_, took)| Latency::of(took.adds).p50).collect();
    Ok(medians[1] / medians[0])
}

/// How much longer an ADD of ours takes while others write lines that they never finish, in turns with quiet.
pub fn besieged(options: &Options, node: &Node) -> Result<f64> {
    let plugin = Subject::Ours.plugin(node)?;
    turn(&plugin, 1, 1, options.turn)?;
    let [mut quiet, mut besieged] = [Took::default(), Took::default()];
    for _ in 0..options.turns {
        quiet.extend(turn(&plugin, 1, options.pairs, options.turn)?);
        let turn = || turn(&plugin, 1, options.pairs, options.turn);
        besieged.extend(siege::during(&node.socket, turn)?);
    }
    Ok(Latency::of(besieged.adds).p50 / Latency::of(quiet.adds).p50)
}

/// Each caller does so many pairs, or as many as fit into the time, but one.
fn turn(plugin: &Plugin, callers: u32, pairs: u32, longest: Duration) -> Result<Took> {
    let end = Instant::now() + longest;
    thread::scope(|scope| {
        let callers: Vec<_> = (0..callers).map(|_| scope.spawn(|| caller(plugin, pairs, end))).collect();
        let mut all = Took::default();
        for caller in callers {
            all.extend(caller.join().map_err(|_| anyhow!("a caller panicked"))??);
        }
        Ok(all)
    })
}

fn caller(plugin: &Plugin, pairs: u32, end: Instant) -> Result<Took> {
    static CONTAINERS: AtomicU64 = AtomicU64::new(1 << 32); // Behind all that are held.
    let mut took = Took::default();
    for _ in 0..pairs {
        let container = Container::new(CONTAINERS.fetch_add(1, Ordering::Relaxed), &plugin.owner);
        took.adds.push(plugin.call("ADD", &container)?);
        took.dels.push(plugin.call("DEL", &container)?);
        if Instant::now() > end {
            break;
        }
    }
    Ok(took)
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, held, callers, add, del } = self;
        write!(f, "{held} held, {callers} callers, {}: {} ADDs ", subject.name(), add.samples)?;
        write!(f, "p50 {:.3} ms, p99 {:.3}; DEL p50 {:.3}, p99 {:.3}", add.p50, add.p99, del.p50, del.p99)
    }
}
