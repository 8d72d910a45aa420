//! Figures of a benchmark: what rounds said, and whether that is what was to be reached.

use std::fmt;

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
pub fn short(value: f64) -> String {
    match value {
        none if none.is_nan() => "–".to_owned(),
        whole if whole.fract() == 0.0 => format!("{whole:.0}"),
        large if large >= 10.0 => format!("{large:.1}"),
        small => format!("{small:.2}"),
    }
}

/// The value that so many of a hundred do not exceed.
pub fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

/// One figure that is to be at most `bound`.
pub struct Goal {
    pub what: String,
    pub measured: Spread,
    pub bound: f64,
}

impl Goal {
    pub fn is_met(&self) -> bool {
        self.measured.median <= self.bound
    }
}

/// Each goal with its verdict, and how many are met.
pub fn print_goals(goals: &[Goal]) {
    println!("\n{:<58}{:<22}{:<8}", "goal", "measured", "at most");
    for goal in goals {
        let verdict = if goal.is_met() { "ok" } else { "MISSED" };
        println!("{:<58}{:<22}{:<8}{verdict}", goal.what, goal.measured.to_string(), short(goal.bound));
    }
    let met = goals.iter().filter(|goal| goal.is_met()).count();
    println!("\n{met} of {} goals are met", goals.len());
}
