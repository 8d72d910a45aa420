//! `make bench-bringup`: how fast and how cheaply nodes get their blocks, beside a floor and beside
//! kube-controller-manager, in one run.
//!
//! ```text
//! round 1..ROUNDS: size of SIZES: floor, kube-controller-manager, ours      each on a fresh etcd and API server
//!                  nodes of RESTARTS: restart after SIGTERM and kill -9
//!                  MEMORY Nodes of 10 KB: memory, CPU at rest
//! ```
//!
//! docs/development/bench.md says how to read the table.

mod burst;
mod goals;
mod load;
mod meter;
mod options;
mod rest;
mod restart;
mod subject;
mod table;

use anyhow::Result;

use crate::options::Options;
use crate::subject::Subject;
use crate::table::Results;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::read()?;
    let mut results = Results::default();
    for round in 1..=options.rounds {
        for &size in &options.sizes {
            for subject in Subject::ALL {
                let cell = burst::measure(subject, size).await?;
                eprintln!("round {round}: {cell}");
                results.bursts.push(cell);
            }
        }
        for &nodes in &options.restarts {
            for restart in restart::measure(nodes).await? {
                eprintln!("round {round}: {restart}");
                results.restarts.push(restart);
            }
        }
        if options.memory > 0 {
            let rest = rest::measure(options.memory).await?;
            eprintln!("round {round}: {rest}");
            results.rests.push(rest);
        }
    }
    table::print(&options, &results);
    Ok(())
}
