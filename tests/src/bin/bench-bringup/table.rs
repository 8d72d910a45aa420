//! What was measured, as people read it.

use std::fmt;

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

/// Median, least and most of some rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        } else {
            at(middle)
        };
        Self { median, least: at(0), most: at(values.len().wrapping_sub(1)) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, least, most } = self;
        if least.total_cmp(most).is_eq() {
            f.pad(&short(*median))
        } else {
            f.pad(&format!("{} ({}–{})", short(*median), short(*least), short(*most)))
        }
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value {
        none if none.is_nan() => "–".to_owned(),
        whole if whole.fract() == 0.0 => format!("{whole:.0}"),
        large if large >= 10.0 => format!("{large:.1}"),
        small => format!("{small:.2}"),
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
    println!("\n{:<58}{:<22}{:<8}", "goal", "measured", "at most");
    let goals = goals::all(options, results);
    for goal in &goals {
        let verdict = if goal.is_met() { "ok" } else { "MISSED" };
        println!("{:<58}{:<22}{:<8}{verdict}", goal.what, goal.measured.to_string(), short(goal.bound));
    }
    let met = goals.iter().filter(|goal| goal.is_met()).count();
    println!("\n{met} of {} goals are met", goals.len());
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
