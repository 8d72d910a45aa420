//! What is wrong with the settings: every problem at once, each with its key, what was read, and what would be right.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key with its full path, such as `ipam.operator.clusterPoolIPv4MaskSize`.
    pub key: String,
    /// The environment variable that set it, if none of the file did.
    pub variable: Option<String>,
    /// What was read, and what would be right.
    pub what: String,
}

impl Problem {
    pub(super) fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { key: key.into(), variable: None, what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, variable, what } = self;
        match variable {
            None => write!(f, "{key}: {what}"),
            Some(variable) => write!(f, "{key} (environment variable {variable}): {what}"),
        }
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("settings file {} cannot be read: name the file that the chart's ConfigMap holds with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is no YAML, or no mapping of keys to values.
    #[error("{origin} cannot be read: {what}; write YAML with keys and values, such as `ipam: {{mode: cluster-pool}}`")]
    Syntax {
        /// The file, or `settings` for a text.
        origin: String,
        /// Where, and what is wrong.
        what: String,
    },
    /// The file is readable, but not right.
    #[error("{}", list(problems))]
    Wrong {
        /// All that is wrong.
        problems: Vec<Problem>,
    },
}

impl SettingsError {
    /// What is wrong key by key; empty if the file could not be read at all.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Wrong { problems } => problems,
            Self::Unreadable { .. } | Self::Syntax { .. } => &[],
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let lines = problems.iter().map(|problem| format!("\n  {problem}")).collect::<Vec<_>>().concat();
    match problems.len() {
        1 => format!("the settings have 1 problem:{lines}"),
        n => format!("the settings have {n} problems:{lines}"),
    }
}
