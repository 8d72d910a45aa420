//! What plugin and agent are to reach, each as a figure and a bound.

use cadastre_tests::{Goal, Spread};

use crate::cell::{Cell, Latency};
use crate::options::{FULL_NODE, Options};
use crate::rest::Rest;
use crate::siege::WRITERS;
use crate::subject::Subject;
use crate::table::Results;

/// All goals, in the order in which they are printed.
pub fn all(options: &Options, results: &Results) -> Vec<Goal> {
    let (least, most) = (options.held.first().copied().unwrap_or_default(), options.held.last().copied());
    let most = most.unwrap_or_default();
    let mut goals = Vec::new();
    for &held in &options.held {
        goals.push(goal(
            format!("{held} held, 1 caller: ADD p50 ÷ floor's"),
            results.add(held, 1, |add| add.p50),
            1.35,
        ));
    }
    if least != most {
        let what = format!("{most} held, 1 caller: ADD p50 ÷ that with {least}");
        goals.push(goal(what, results.growths.clone(), 1.1));
    }
    let what = format!("{least} held, 1 caller: ADD p50 beside {WRITERS} half lines ÷ alone");
    goals.push(goal(what, results.sieges.clone(), 2.0));
    goals.push(goal(format!("{most} held, 8 callers: ADD p99 ÷ floor's"), results.add(most, 8, |add| add.p99), 1.2));
    goals.extend(of_agent(results, FULL_NODE, 12.0));
    if most != FULL_NODE {
        goals.extend(of_agent(results, most, 40.0));
    }
    goals
}

/// The bounds of memory are those for 250 and for 20,000 held.
fn of_agent(results: &Results, held: u32, memory: f64) -> Vec<Goal> {
    let of = |what: &str, figure: fn(&Rest) -> f64, bound: f64| {
        let rests = results.rests.iter().filter(|rest| rest.held == held);
        goal(format!("{held} held: {what}"), rests.map(figure).collect(), bound)
    };
    vec![
        of("anonymous MiB of the agent after the calls", |rest| rest.grown, memory),
        of("anonymous MiB of the agent after a start", |rest| rest.started, memory),
        // Of 30,000: a look each second at what may have changed outside, and one at each namespace.
        of("CPU ms of the agent in 30 s of quiet", |rest| rest.quiet_cpu, 30.0),
        of("start of the agent until it answers, ms", |rest| rest.start, 100.0),
    ]
}

fn goal(what: String, measured: Vec<f64>, bound: f64) -> Goal {
    Goal { what, measured: Spread::of(measured), bound }
}

impl Results {
    /// Ours by the floor's of the same round.
    fn add(&self, held: u32, callers: u32, figure: fn(&Latency) -> f64) -> Vec<f64> {
        self.ratio(held, callers, Subject::Ours, Subject::Floor, |cell: &Cell| figure(&cell.add))
    }
}
