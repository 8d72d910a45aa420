//! Whether this process can do its work, as named checks that each give a reason while they fail.
//!
//! Parts that start at different times each own one check; `/readyz` lists what is missing, so that the person on call
//! reads the reason where kubelet reads the status.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Named checks; ready when all of them pass. Clones share the checks.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// What is wrong with each check, `None` if nothing. Locked for a look-up or one assignment, never across an await.
    checks: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
}

impl Readiness {
    /// No checks: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The check passes.
    pub fn pass(&self, check: &'static str) {
        self.checks().insert(check, None);
    }

    /// The check fails, for a reason that names the remedy where there is one. Also how a check is declared that is
    /// still to pass.
    pub fn fail(&self, check: &'static str, reason: impl Into<String>) {
        self.checks().insert(check, Some(reason.into()));
    }

    /// Passes or fails the check.
    pub fn set(&self, check: &'static str, outcome: Result<(), String>) {
        self.checks().insert(check, outcome.err());
    }

    /// Whether all checks pass.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.checks().values().all(Option::is_none)
    }

    /// The failing checks with their reasons, sorted by name.
    #[must_use]
    pub fn failing(&self) -> Vec<(&'static str, String)> {
        self.checks().iter().filter_map(|(check, reason)| Some((*check, reason.clone()?))).collect()
    }

    /// One line a check, failing or not.
    #[must_use]
    pub fn report(&self) -> String {
        let mut lines = String::new();
        for (check, reason) in &*self.checks() {
            // Writing to a string cannot fail.
            let _ = match reason {
                None => writeln!(lines, "{check}: ok"),
                Some(reason) => writeln!(lines, "{check}: not ready: {reason}"),
            };
        }
        lines
    }

    fn checks(&self) -> MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        // Every change is one insert: what a panicking holder left behind is whole.
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_check_passes_and_clones_share_them() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        readiness.fail("mode", "configured eni, recorded kubernetes");
        readiness.clone().fail("api", "not reached yet");
        assert_eq!(
            readiness.failing(),
            [("api", "not reached yet".into()), ("mode", "configured eni, recorded kubernetes".into())]
        );
        readiness.pass("api");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.report(), "api: ok\nmode: not ready: configured eni, recorded kubernetes\n");
        readiness.set("mode", Ok(()));
        assert!(readiness.is_ready());
    }
}
