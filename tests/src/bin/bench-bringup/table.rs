//! What was measured, as people read it.

use cadastre_tests::{Spread, print_goals};

use crate::burst::Cell;
use crate::goals;
use crate::options::Options;
use crate::rest::Rest;
use crate::restart::Restart;
use crate::subject::Subject;

/// Everything, in the order in which it was measured.
#[derive(Debug, Default)]
pub struct Results {
    pub bursts: Vec<Cell>,
    pub restarts: Vec<Restart>,
    pub rests: Vec<Rest>,
}

impl Results {
    /// One figure of one subject at one size, a value for each round.
    pub fn of(&self, subject: Subject, nodes: u32, figure: fn(&Cell) -> f64) -> Vec<f64> {
        let cells = self.bursts.iter().filter(|cell| (cell.subject, cell.nodes) == (subject, nodes));
        cells.map(figure).collect()
    }
}

pub fn print(options: &Options, results: &Results) {
    println!("\nN nodes created at once, 32 at a time; {} rounds, median (least–most)\n", options.rounds);
    let heads =
        ["makespan s", "p50 s", "p99 s", "writes a node", "ledger", "conflicts", "CPU ms a node", "servers' CPU"];
    print_row("nodes", "subject", &heads.map(str::to_owned));
    for &nodes in &options.sizes {
        for subject in Subject::ALL {
            print_subject(results, nodes, subject);
        }
    }
    print_goals(&goals::all(options, results));
}

fn print_subject(results: &Results, nodes: u32, subject: Subject) {
    let figures: [fn(&Cell) -> f64; 8] = [
        |cell| cell.makespan,
        |cell| cell.p50,
        |cell| cell.p99,
        |cell| cell.writes,
        |cell| cell.ledger_writes,
        |cell| cell.conflicts,
        |cell| cell.cpu.unwrap_or(f64::NAN),
        |cell| cell.server_cpu,
    ];
    let cells = figures.map(|figure| Spread::of(results.of(subject, nodes, figure)).to_string());
    print_row(&nodes.to_string(), subject.name(), &cells);
}

fn print_row(nodes: &str, subject: &str, cells: &[String; 8]) {
    let cells: Vec<_> = cells.iter().map(|cell| format!("{cell:<19}")).collect();
    println!("{nodes:<7}{subject:<25}{}", cells.concat());
}
