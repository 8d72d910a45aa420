//! What is measured: `ROUNDS`, `HELD` and `NETWORK` of the environment, or `--quick`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Addresses that a full node of Kubernetes' default size has: the agent's memory is looked at with these.
pub const FULL_NODE: u32 = 250;

/// See the fields.
#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: u32,
    /// Addresses held while calls are measured.
    pub held: Vec<u32>,
    pub network: Network,
    /// Of each cell, so that what disturbs the machine disturbs every subject.
    pub turns: u32,
    /// ADDs in a turn, with as many DELs, by one caller; with eight it is four times as many.
    pub pairs: u32,
    /// A subject's turn is over after this, since host-local's calls take up to seconds.
    pub turn: Duration,
}

/// Where our addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The node's block, which the operator assigned.
    Blocks,
    /// Ranges in the network's own configuration: ours gets host-local's to the letter, and no API server.
    Ranges,
}

impl Options {
    pub fn read() -> Result<Self> {
        let (network, turn) = (Network::read()?, Duration::from_secs(1));
        let full = Self { rounds: 5, held: vec![10, 1_000, 20_000], network, turns: 4, pairs: 100, turn };
        let quick = Self { rounds: 1, held: vec![10, 1_000], network, turns: 2, pairs: 50, turn };
        let args: Vec<_> = std::env::args().skip(1).collect();
        let base = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => full,
            ["--quick"] => quick,
            _ => bail!("usage: bench-cni [--quick], with ROUNDS=5 HELD=10,1000,20000 NETWORK=blocks before it"),
        };
        let rounds = numbers("ROUNDS")?.map_or(base.rounds, |list| list.into_iter().sum());
        let mut held = numbers("HELD")?.unwrap_or(base.held);
        held.sort_unstable();
        held.dedup();
        if held.is_empty() || held.last() > Some(&stage_room()) {
            bail!("HELD: one count or more, of at most {} addresses", stage_room());
        }
        Ok(Self { rounds, held, ..base })
    }
}

/// Half of what a /16 has: what was released cools, and is not given again at once.
const fn stage_room() -> u32 {
    1 << (32 - 16 - 1)
}

impl Network {
    fn read() -> Result<Self> {
        match std::env::var("NETWORK").as_deref() {
            Err(_) | Ok("" | "blocks") => Ok(Self::Blocks),
            Ok("ranges") => Ok(Self::Ranges),
            Ok(other) => bail!("NETWORK={other}: it is blocks or ranges"),
        }
    }
}

/// `10,1000` or `10 1000`.
fn numbers(variable: &str) -> Result<Option<Vec<u32>>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    let words: Vec<_> = text.split([',', ' ']).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return Ok(None);
    }
    let parsed =
        words.into_iter().map(|word| word.parse().with_context(|| format!("{variable}={text}: {word} is no number")));
    parsed.collect::<Result<_>>().map(Some)
}
