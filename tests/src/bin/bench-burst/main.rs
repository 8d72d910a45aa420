//! `make bench-burst`: many pods at once on one real node, with our IPAM, with host-local, and with one that only answers, in
//! turns: how long until all run, how many sandboxes failed, and what of the CPU's time was spent on addresses.
//!
//! ```text
//! once:            a cluster of two nodes, the chart
//! round 1..ROUNDS: floor, ours, host-local, in changing order: one pod, then PODS at once ─▶ all run ─▶ all gone
//! ```
//!
//! docs/development/bench.md says how to read the table.

mod burst;
mod meter;
mod options;
mod stage;
mod subject;
mod table;

use anyhow::Result;

use crate::options::Options;
use crate::stage::Stage;
use crate::subject::Subject;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::read()?;
    let stage = Stage::set().await?;
    let mut order = Subject::ALL;
    let mut turns = Vec::new();
    for round in 1..=options.rounds {
        for subject in order {
            let turn = burst::measure(&stage, subject, round, options.pods).await?;
            eprintln!("round {round}: {turn}");
            turns.push(turn);
        }
        // Nobody is always the one behind the same.
        order.rotate_left(1);
    }
    table::print(&options, &turns);
    Ok(())
}
