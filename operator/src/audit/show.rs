//! The outcome for people.

use std::fmt;

use super::{Finding, Outcome};

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What could not be read, and why, has its own place where it is shown.
        let Self { findings, nodes, blocks, pods, trouble: _ } = self;
        for Finding { id, what, remedy, fix } in findings {
            writeln!(f, "{id}\n  {what}\n  remedy: {remedy}")?;
            if fix.is_some() {
                writeln!(f, "  fix:    cadastre-operator audit --fix {id}")?;
            }
        }
        write!(f, "{} findings: {nodes} nodes, {blocks} blocks of the ledger, ", findings.len())?;
        match pods {
            Some(pods) => writeln!(f, "{pods} pods"),
            None => writeln!(f, "no pods, as they could not be listed"),
        }
    }
}
