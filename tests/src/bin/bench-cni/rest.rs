//! The agent besides its calls: memory, CPU when nothing happens, and its start.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::fill;
use crate::options::Options;
use crate::stage::{Node, Stage};

/// How long nothing happens: from one reconciliation to the next.
const QUIET: Duration = Duration::from_secs(30);
/// Between two tries whether a starting agent answers: what the figure may be too high by.
const TRY: Duration = Duration::from_micros(200);
/// No start takes as long.
const PATIENCE: Duration = Duration::from_secs(20);
/// Until the client of the API server has read what there is.
const SETTLE: Duration = Duration::from_secs(2);
/// Starts in a round.
const STARTS: u32 = 3;

/// One agent in one round.
#[derive(Clone, Debug)]
pub struct Rest {
    pub held: u32,
    /// Anonymous memory, MiB: after all calls so far, and after a start.
    pub grown: f64,
    pub started: f64,
    /// In 30 s in which nothing happened, ms; none for agents that were not looked at.
    pub quiet_cpu: f64,
    /// From the start of the process until it answers STATUS well, ms: the median of some.
    pub start: f64,
}

pub fn measure(options: &Options, stage: &Stage) -> Result<Vec<Rest>> {
    let grown = stage.nodes().iter().map(anonymous_mib).collect::<Result<Vec<_>>>()?;
    let cpu = |node: &Node| node.agent.cpu_ms();
    let before = stage.nodes().iter().map(cpu).collect::<Result<Vec<_>>>()?;
    sleep(QUIET);
    let after = stage.nodes().iter().map(cpu).collect::<Result<Vec<_>>>()?;
    let mut rests = Vec::new();
    for (at, node) in stage.nodes().iter().enumerate() {
        let mut starts = (0..STARTS).map(|_| start(node)).collect::<Result<Vec<_>>>()?;
        starts.sort_by(f64::total_cmp);
        sleep(SETTLE);
        rests.push(Rest {
            held: node.held,
            grown: grown[at],
            started: anonymous_mib(node)?,
            quiet_cpu: after[at] - before[at],
            start: starts[starts.len() / 2],
        });
    }
    // The next round is not to begin with what a start leaves to do.
    sleep(options.turn);
    Ok(rests)
}

fn anonymous_mib(node: &Node) -> Result<f64> {
    Ok(f64::from(u32::try_from(node.agent.anonymous_kib()?)?) / 1024.0)
}

/// After `kill -9`, as its container's successor finds things.
fn start(node: &Node) -> Result<f64> {
    node.agent.kill9();
    let begin = Instant::now();
    node.agent.restart()?;
    while !fill::is_well(node).unwrap_or(false) {
        if begin.elapsed() > PATIENCE {
            bail!("the agent does not answer within {PATIENCE:?}: {}", node.agent.tail());
        }
        sleep(TRY);
    }
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, grown, started, quiet_cpu, start } = self;
        write!(f, "{held} held: {grown:.1} MiB after the calls, {started:.1} MiB after a start of {start:.1} ms; ")?;
        write!(f, "{quiet_cpu:.2} ms of CPU in 30 s of quiet")
    }
}
