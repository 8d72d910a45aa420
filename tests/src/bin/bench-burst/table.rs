//! What was measured, as people read it, and what is to be reached.

use cadastre_tests::{Goal, Spread, print_goals};

use crate::burst::Turn;
use crate::options::Options;
use crate::subject::Subject;

/// Of plugin and agent, in ms: 2.3 ms for each of 110 pods.
const CPU_FOR_ALL: f64 = 250.0;

pub fn print(options: &Options, turns: &[Turn]) {
    println!("\n{} pods at once on one node; ms; {} rounds, median (least–most)\n", options.pods, options.rounds);
    let columns = ["until all run", "÷ floor's", "CPU of plugins", "of the agent", "FailedCreatePodSandBox"];
    print_row("", &columns.map(str::to_owned));
    for subject in Subject::ALL {
        let of = |figure: fn(&Turn) -> f64| Spread::of(each(turns, subject, figure)).to_string();
        let ratio = Spread::of(ratio(turns, subject, Subject::Floor)).to_string();
        let failed = of(|turn| turn.failures.all().into());
        print_row(
            subject.name(),
            &[of(|turn| turn.wall), ratio, of(|turn| turn.plugins), of(|turn| turn.agent), failed],
        );
    }
    let goal = |what: &str, measured: Vec<f64>, bound: f64| Goal {
        what: what.to_owned(),
        measured: Spread::of(measured),
        bound,
    };
    print_goals(&[
        goal("ours: FailedCreatePodSandBox", each(turns, Subject::Ours, |turn| turn.failures.all().into()), 0.0),
        goal(
            "ours: CPU ms of plugin and agent",
            each(turns, Subject::Ours, |turn| turn.plugins + turn.agent),
            CPU_FOR_ALL,
        ),
        goal("ours: until all run ÷ host-local's", ratio(turns, Subject::Ours, Subject::HostLocal), 1.0),
    ]);
}

/// One figure of one subject, a value for each round.
fn each(turns: &[Turn], subject: Subject, figure: impl Fn(&Turn) -> f64) -> Vec<f64> {
    turns.iter().filter(|turn| turn.subject == subject).map(figure).collect()
}

/// One's time by another's of the same round.
fn ratio(turns: &[Turn], one: Subject, other: Subject) -> Vec<f64> {
    let of_round = |subject: Subject, round: usize| {
        turns.iter().find(|turn| (turn.subject, turn.round) == (subject, round)).map(|turn| turn.wall)
    };
    let rounds = turns.iter().filter(|turn| turn.subject == one).map(|turn| turn.round);
    rounds.filter_map(|round| Some(of_round(one, round)? / of_round(other, round)?)).collect()
}

fn print_row(subject: &str, figures: &[String; 5]) {
    let figures = figures.iter().fold(String::new(), |line, figure| format!("{line}{figure:<26}"));
    println!("{subject:<12}{}", figures.trim_end());
}
