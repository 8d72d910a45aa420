//! What was measured, as people read it.

use cadastre_tests::{Spread, print_goals};

use crate::CALLERS;
use crate::cell::{Cell, Latency};
use crate::goals;
use crate::options::Options;
use crate::rest::Rest;
use crate::stage::counts;
use crate::subject::Subject;

/// Everything, in the order in which it was measured.
#[derive(Debug)]
pub struct Results {
    pub cells: Vec<Cell>,
    /// Of each round, if there are two counts of HELD.
    pub growths: Vec<f64>,
    /// Of each round.
    pub sieges: Vec<f64>,
    pub rests: Vec<Rest>,
    plugin_kib: f64,
}

type Verb = (&'static str, fn(&Cell) -> &Latency);
const VERBS: [Verb; 2] = [("ADD", |cell| &cell.add), ("DEL", |cell| &cell.del)];

impl Results {
    pub fn new(plugin_kib: f64) -> Self {
        Self { cells: Vec::new(), growths: Vec::new(), sieges: Vec::new(), rests: Vec::new(), plugin_kib }
    }

    /// One figure of one subject, a value for each round.
    fn of(&self, held: u32, callers: u32, subject: Subject, figure: impl Fn(&Cell) -> f64) -> Vec<f64> {
        let wanted = |cell: &&Cell| (cell.held, cell.callers, cell.subject) == (held, callers, subject);
        self.cells.iter().filter(wanted).map(figure).collect()
    }

    /// One's by another's of the same round.
    pub fn ratio(
        &self,
        held: u32,
        callers: u32,
        one: Subject,
        other: Subject,
        figure: impl Fn(&Cell) -> f64,
    ) -> Vec<f64> {
        let others = self.of(held, callers, other, &figure);
        self.of(held, callers, one, &figure).iter().zip(&others).map(|(one, other)| one / other).collect()
    }
}

pub fn print(options: &Options, results: &Results) {
    println!("\nOne process a call; ms; {} rounds, median (least–most) of their p50 and p99\n", options.rounds);
    print_row(&["held", "callers", "verb", "subject"], &["p50", "p99", "p50 ÷ floor's", "p99 ÷ floor's", "calls"]);
    for &held in &options.held {
        for callers in CALLERS {
            for verb in VERBS {
                for subject in Subject::ALL {
                    print_subject(results, held, callers, verb, subject);
                }
            }
        }
    }
    println!();
    print_rests(options, results);
    println!("\nThe plugin has {:.0} KiB.", results.plugin_kib);
    print_goals(&goals::all(options, results));
}

fn print_subject(results: &Results, held: u32, callers: u32, (verb, of): Verb, subject: Subject) {
    let spread = |figure: fn(&Latency) -> f64| {
        Spread::of(results.of(held, callers, subject, |cell| figure(of(cell)))).to_string()
    };
    let ratio = |figure: fn(&Latency) -> f64| {
        Spread::of(results.ratio(held, callers, subject, Subject::Floor, |cell| figure(of(cell)))).to_string()
    };
    let calls: usize = results
        .cells
        .iter()
        .filter(|cell| (cell.held, cell.callers, cell.subject) == (held, callers, subject))
        .map(|cell| of(cell).samples)
        .sum();
    let figures = [spread(|of| of.p50), spread(|of| of.p99), ratio(|of| of.p50), ratio(|of| of.p99), calls.to_string()];
    let (held, callers) = (held.to_string(), callers.to_string());
    print_row(&[&held, &callers, verb, subject.name()], &figures.each_ref().map(String::as_str));
}

fn print_row(of: &[&str; 4], figures: &[&str; 5]) {
    let [held, callers, verb, subject] = of;
    let figures = figures.iter().fold(String::new(), |line, figure| format!("{line}{figure:<25}"));
    println!("{held:<7}{callers:<9}{verb:<6}{subject:<12}{}", figures.trim_end());
}

fn print_rests(options: &Options, results: &Results) {
    println!(
        "{:<24}{:<24}{:<24}{:<24}{:<24}",
        "agent: held", "MiB after calls", "MiB after a start", "CPU ms in 30 s", "start, ms"
    );
    for held in counts(options) {
        let of = |figure: fn(&Rest) -> f64| {
            Spread::of(results.rests.iter().filter(|rest| rest.held == held).map(figure).collect()).to_string()
        };
        let (grown, started) = (of(|rest| rest.grown), of(|rest| rest.started));
        let (cpu, start) = (of(|rest| rest.quiet_cpu), of(|rest| rest.start));
        println!("{held:<24}{grown:<24}{started:<24}{cpu:<24}{start:<24}");
    }
}
