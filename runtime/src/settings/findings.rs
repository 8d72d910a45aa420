//! What validation collects on its way: it never stops at the first problem.

use std::collections::BTreeMap;

use super::problem::{Problem, SettingsError};

/// Problems refuse the settings, warnings do not.
#[derive(Debug, Default)]
pub struct Findings {
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

impl Findings {
    pub fn problem(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem::new(key, what));
    }

    pub fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// The value; `None` with a problem at `key` if there is none.
    pub fn ok<T>(&mut self, key: impl Into<String>, outcome: Result<T, String>) -> Option<T> {
        outcome.map_err(|what| self.problem(key, what)).ok()
    }

    /// All problems in the order of their keys, each with the environment variable it came from.
    pub fn refusal(self, variables: &BTreeMap<String, String>) -> SettingsError {
        let mut problems = self.problems;
        for problem in &mut problems {
            let written = problem.key.split('[').next().unwrap_or(&problem.key);
            let from = variables.iter().find(|(key, _)| *key == written).map(|(_, variable)| variable.clone());
            problem.variable = problem.variable.take().or(from);
        }
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        SettingsError::Wrong { problems }
    }
}
