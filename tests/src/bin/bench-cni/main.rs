//! `make bench-cni`: what an address costs a pod's start, beside a floor and beside host-local, in one run; and what the
//! agent costs its node.
//!
//! ```text
//! once:            a cluster, one agent for each count of HELD, its addresses filled; the same for host-local's folders
//! round 1..ROUNDS: count of HELD: 1 and 8 callers: turns of floor, ours, host-local      ADD and DEL, one process a call
//!                  1 caller, ours alone: turns of the least and the most of HELD
//!                  the same beside callers that never finish their line, in turns with quiet
//!                  memory of each agent, CPU of an idle one, restarts of the one that holds most
//! ```
//!
//! docs/development/bench.md says how to read the table.

mod call;
mod cell;
mod fill;
mod goals;
mod options;
mod rest;
mod siege;
mod stage;
mod subject;
mod table;

use anyhow::Result;
use tokio::task::block_in_place;

use crate::options::Options;
use crate::stage::Stage;
use crate::table::Results;

/// Callers at once: a pod by itself, and what a node's start or a rollout brings.
pub const CALLERS: [u32; 2] = [1, 8];

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::read()?;
    let stage = Stage::set(&options).await?;
    let mut results = Results::new(Stage::plugin_kib()?);
    for round in 1..=options.rounds {
        for node in stage.measured() {
            for callers in CALLERS {
                for cell in block_in_place(|| cell::measure(&options, node, callers))? {
                    eprintln!("round {round}: {cell}");
                    results.cells.push(cell);
                }
            }
        }
        if let [least, .., most] = stage.measured().collect::<Vec<_>>()[..] {
            let growth = block_in_place(|| cell::growth(&options, least, most))?;
            eprintln!(
                "round {round}: ours, 1 caller: {} held take {growth:.3} times what {} do",
                most.held, least.held
            );
            results.growths.push(growth);
        }
        if let Some(node) = stage.measured().next() {
            let besieged = block_in_place(|| cell::besieged(&options, node))?;
            let writers = siege::WRITERS;
            eprintln!("round {round}: ours, 1 caller: {besieged:.3} times as long beside {writers} half lines");
            results.sieges.push(besieged);
        }
        for rest in block_in_place(|| rest::measure(&options, &stage))? {
            eprintln!("round {round}: {rest}");
            results.rests.push(rest);
        }
    }
    table::print(&options, &results);
    Ok(())
}
