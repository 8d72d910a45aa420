//! How an audit ended, of operator and agent: one rule says what programs see of it.

use std::process::ExitCode;

/// The exit code of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AuditVerdict {
    /// Everything was compared, and nothing is wrong.
    Clean = 0,
    /// Everything was compared, and something is wrong.
    Found = 1,
    /// Not everything could be read, whatever the rest shows.
    Partial = 2,
}

impl AuditVerdict {
    /// `found`: something is wrong; `unread`: something could not be read.
    #[must_use]
    pub fn of(found: bool, unread: bool) -> Self {
        match (unread, found) {
            (true, _) => Self::Partial,
            (false, true) => Self::Found,
            (false, false) => Self::Clean,
        }
    }
}

impl From<AuditVerdict> for ExitCode {
    fn from(verdict: AuditVerdict) -> Self {
        Self::from(verdict as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_was_found_only_if_everything_was_read() {
        let code = |found, unread| AuditVerdict::of(found, unread) as u8;
        assert_eq!([code(false, false), code(true, false), code(false, true), code(true, true)], [0, 1, 2, 2]);
    }
}
