//! What is measured: `ROUNDS`, `SIZES`, `RESTARTS` and `MEMORY` of the environment, or `--quick`.

use anyhow::{Context as _, Result, bail};

/// See the fields.
#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: u32,
    /// Nodes created at once.
    pub sizes: Vec<u32>,
    /// Nodes that exist when the operator is restarted.
    pub restarts: Vec<u32>,
    /// Nodes of 10 KB; 0 for none.
    pub memory: u32,
}

impl Options {
    pub fn read() -> Result<Self> {
        let full = Self { rounds: 3, sizes: vec![500, 2000, 5000], restarts: vec![2000, 5000], memory: 5000 };
        let quick = Self { rounds: 1, sizes: vec![500], restarts: vec![500], memory: 500 };
        let args: Vec<_> = std::env::args().skip(1).collect();
        let base = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => full,
            ["--quick"] => quick,
            _ => bail!(
                "usage: bench-bringup [--quick], with ROUNDS=3 SIZES=500,2000 RESTARTS=2000 MEMORY=5000 before it"
            ),
        };
        Ok(Self {
            rounds: numbers("ROUNDS")?.map_or(base.rounds, |list| list.into_iter().sum()),
            sizes: numbers("SIZES")?.unwrap_or(base.sizes),
            restarts: numbers("RESTARTS")?.unwrap_or(base.restarts),
            memory: numbers("MEMORY")?.map_or(base.memory, |list| list.into_iter().sum()),
        })
    }
}

/// `500,2000` or `500 2000`; nothing means none.
fn numbers(variable: &str) -> Result<Option<Vec<u32>>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
    let parsed = words.map(|word| word.parse().with_context(|| format!("{variable}={text}: {word} is no number")));
    parsed.collect::<Result<_>>().map(Some)
}
