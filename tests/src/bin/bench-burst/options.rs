//! What is measured: `ROUNDS` and `PODS` of the environment, or `--quick`.

use anyhow::{Context as _, Result, bail};

/// See the fields.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub rounds: usize,
    /// Pods at once. Kubelet's own limit is 110, the lab's 250.
    pub pods: usize,
}

impl Options {
    pub fn read() -> Result<Self> {
        let args: Vec<_> = std::env::args().skip(1).collect();
        let base = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => Self { rounds: 3, pods: 110 },
            ["--quick"] => Self { rounds: 1, pods: 20 },
            _ => bail!("usage: bench-burst [--quick], with ROUNDS=3 PODS=110 before it"),
        };
        Ok(Self { rounds: number("ROUNDS")?.unwrap_or(base.rounds), pods: number("PODS")?.unwrap_or(base.pods) })
    }
}

fn number(variable: &str) -> Result<Option<usize>> {
    match std::env::var(variable).as_deref() {
        Err(_) | Ok("") => Ok(None),
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{variable}={text}"))?)),
    }
}
