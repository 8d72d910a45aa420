//! What came of each fault, as people read it.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use cadastre_tests::Failures;

use crate::away::TOO_LONG;
use crate::faults::Fault;
use crate::load::Tally;

/// One fault.
pub struct Row {
    pub fault: Fault,
    pub times: usize,
    pub tally: Tally,
    pub failures: Failures,
    /// The longest time for which a node had no agent.
    pub away: Duration,
    /// Until all pods were ready.
    pub rested: Duration,
    /// Until everybody said the same, and the commands as well.
    pub audited: Duration,
}

pub fn head() {
    println!(
        "FailedCreatePodSandBox counts those by a plugin and those by the runtime; s from creation to Ready, without an agent,"
    );
    println!("until 20 pods were ready, until all audits found nothing");
    println!(
        "{:<27}{:>6}{:>6}{:>8}{:>8}{:>7}{:>5}{:>8}{:>6}{:>6}{:>6}",
        "fault", "times", "pods", "plugin", "runtime", "failed", "lost", "slowest", "away", "rest", "audit"
    );
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, times, tally, failures, away, rested, audited } = self;
        write!(f, "{:<27}{times:>6}{:>6}", fault.name(), tally.created)?;
        write!(f, "{:>8}{:>8}{:>7}{:>5}", failures.plugin, failures.runtime, tally.failed, tally.lost)?;
        let [slowest, away, rested, audited] = [&tally.slowest, away, rested, audited].map(Duration::as_secs_f64);
        write!(f, "{slowest:>8.1}{away:>6.1}{rested:>6.1}{audited:>6.1}")?;
        failures.messages.iter().try_for_each(|(message, count)| write!(f, "\n  {count} × {message}"))
    }
}

impl Row {
    /// Fails if a pod failed that would not have without us.
    pub fn check(&self) -> Result<()> {
        let Self { fault, tally, failures, away, .. } = self;
        ensure!(tally.failed == 0, "{}: {tally:?}", fault.name());
        // The controller manager deletes pods of Nodes that are not there.
        ensure!(tally.lost == 0 || *fault == Fault::NodeDeleted, "{}: {tally:?}", fault.name());
        ensure!(
            failures.plugin == 0 || *away > TOO_LONG,
            "{}: plugins failed, and no node was without an agent for more than {away:?}: {failures:?}",
            fault.name()
        );
        Ok(())
    }
}
