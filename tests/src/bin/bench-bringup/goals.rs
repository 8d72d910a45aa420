//! What the operator is to reach, each as a figure and a bound.

use cadastre_tests::{Goal, Spread};

use crate::burst::Cell;
use crate::options::Options;
use crate::restart::{After, LEASE};
use crate::subject::Subject;
use crate::table::Results;

/// All goals, in the order in which they are printed.
pub fn all(options: &Options, results: &Results) -> Vec<Goal> {
    let mut goals = Vec::new();
    for &nodes in &options.sizes {
        goals.extend(ratios(results, nodes));
        goals.extend(costs(results, nodes));
    }
    for &nodes in &options.restarts {
        goals.extend(restarts(results, nodes));
    }
    if options.memory > 0 {
        goals.extend(at_rest(results, options.memory));
    }
    goals
}

/// Each round's ours by the same round's peer.
fn ratios(results: &Results, nodes: u32) -> Vec<Goal> {
    let ratio = |what: &str, peer: Subject, figure: fn(&Cell) -> f64, bound: f64| {
        let (ours, peers) = (results.of(Subject::Ours, nodes, figure), results.of(peer, nodes, figure));
        let measured = Spread::of(ours.iter().zip(&peers).map(|(ours, peer)| ours / peer).collect());
        Goal { what: format!("{nodes} nodes: {what} ÷ {}'s", peer.name()), measured, bound }
    };
    vec![
        ratio("makespan", Subject::Floor, |cell| cell.makespan, 1.2),
        ratio("makespan", Subject::ControllerManager, |cell| cell.makespan, 1.35),
        ratio("p50", Subject::ControllerManager, |cell| cell.p50, 1.0),
        ratio("p99", Subject::ControllerManager, |cell| cell.p99, 1.0),
    ]
}

fn costs(results: &Results, nodes: u32) -> Vec<Goal> {
    let cost = |what: &str, figure: fn(&Cell) -> f64, bound: f64| {
        let measured = Spread::of(results.of(Subject::Ours, nodes, figure));
        Goal { what: format!("{nodes} nodes: {what}"), measured, bound }
    };
    vec![
        cost("writes a node", |cell| cell.writes, 1.1),
        cost("conflicts", |cell| cell.conflicts, 0.0),
        cost("lists", |cell| cell.lists, 0.0),
        cost("own CPU, ms a node", |cell| cell.cpu.unwrap_or_default(), 0.25),
    ]
}

fn restarts(results: &Results, nodes: u32) -> Vec<Goal> {
    let of =
        |after: After| results.restarts.iter().filter(move |restart| (restart.after, restart.nodes) == (after, nodes));
    let goal = |what: &str, figures: Vec<f64>, bound: f64| Goal {
        what: format!("restart with {nodes} nodes: {what}"),
        measured: Spread::of(figures),
        bound,
    };
    vec![
        goal("after SIGTERM, s", of(After::Term).map(|restart| restart.seconds).collect(), 1.0),
        goal("after SIGTERM, writes", of(After::Term).map(|restart| restart.writes).collect(), 2.0),
        goal("after kill -9, s", of(After::Kill).map(|restart| restart.seconds).collect(), LEASE.as_secs_f64() + 1.0),
        goal("after kill -9, writes", of(After::Kill).map(|restart| restart.writes).collect(), 2.0),
    ]
}

fn at_rest(results: &Results, nodes: u32) -> Vec<Goal> {
    let goal = |what: &str, figure: fn(&crate::rest::Rest) -> f64, bound: f64| Goal {
        what: format!("{nodes} Nodes of 10 KB: {what}"),
        measured: Spread::of(results.rests.iter().map(figure).collect()),
        bound,
    };
    vec![
        goal("anonymous MB after their creation", |rest| rest.grown, 30.0),
        goal("anonymous MB after a restart", |rest| rest.started, 30.0),
        goal("most anonymous MB while it starts", |rest| rest.most, 30.0),
        // One renewal of the Lease every 2 s, and nothing else.
        goal("CPU ms in 10 s of quiet", |rest| rest.quiet_cpu, 20.0),
    ]
}
