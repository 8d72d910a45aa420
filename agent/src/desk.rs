//! Pools and journal as one: what is answered is recorded, and what cannot be recorded was not given.
//!
//! ```text
//! batch ──▶ Pools::apply ──▶ records ──▶ Journal::append ── ok ──▶ replies
//!                              ▲              └─ failed ──▶ Pools::undo ──▶ replies (ADD: code 11, DEL: done)
//!                              └── unwritten releases, again with every batch ◀──┘
//! ```

use std::path::Path;

use crate::boot_time::BootTime;
use crate::journal::{Found, Journal, JournalError, RELEASE_ROOM};
use crate::pools::{Input, Live, Pools, Restoring, Rules, Step, Violation, not_written};
use crate::record::Record;

/// The state of a serving agent.
#[derive(Debug)]
pub struct Desk {
    pub pools: Pools<Live>,
    journal: Journal,
    /// Releases and assignments that are true already and not recorded yet.
    unwritten: Vec<Record>,
    /// Why the last write failed, while it does.
    trouble: Option<String>,
}

/// Why an agent cannot know who holds what.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(
        "journal {path} contradicts itself ({violation}): drain this node and reboot it, or delete the file if no pod runs"
    )]
    Contradiction { path: String, violation: Violation },
}

impl Desk {
    /// Restores what the journal in `folder` says of this boot.
    pub fn open(folder: &Path, boot: &str, rules: Rules, now: BootTime) -> Result<(Self, Found), RestoreError> {
        let node = rules.node.clone();
        let mut pools = Pools::<Restoring>::new(rules);
        let (journal, found) = Journal::open(folder, boot, &node, &mut |record| pools.restore(record))?;
        let contradicts =
            |violation| RestoreError::Contradiction { path: journal.path().display().to_string(), violation };
        let pools = pools.live(now).map_err(contradicts)?;
        let mut desk = Self { pools, journal, unwritten: Vec::new(), trouble: None };
        desk.tend();
        Ok((desk, found))
    }

    /// Applies a batch. When this returns, what the replies say would survive the death of this process.
    pub fn handle(&mut self, now: BootTime, batch: impl IntoIterator<Item = Input>) -> Step {
        let mut step = self.pools.apply(now, batch);
        if step.records.is_empty() && self.unwritten.is_empty() {
            return step;
        }
        match self.write(&step.records) {
            Ok(()) => {
                self.unwritten.clear();
                self.recovered();
            }
            Err(error) => self.take_back(&mut step, &error),
        }
        step
    }

    fn take_back(&mut self, step: &mut Step, error: &JournalError) {
        let error = error.to_string();
        for record in self.pools.undo(step, &not_written(&error)) {
            self.unwritten.retain(|old| !replaces(&record, old));
            self.unwritten.push(record);
        }
        if self.trouble.as_ref() != Some(&error) {
            tracing::error!(error, "the journal cannot be written: no address is given until it can");
            self.trouble = Some(error);
        }
    }

    fn recovered(&mut self) {
        if let Some(trouble) = self.trouble.take() {
            tracing::info!(was = trouble, "the journal can be written again");
        }
    }

    fn write(&mut self, new: &[Record]) -> Result<(), JournalError> {
        let written = if self.unwritten.is_empty() {
            self.journal.append(new, self.spare(new))
        } else {
            let all = [self.unwritten.as_slice(), new].concat();
            self.journal.append(&all, self.spare(new))
        };
        match written {
            Err(JournalError::Lost { path }) => {
                tracing::warn!(path = %path.display(), "the journal was removed, or is an older agent's; it is written anew");
                self.journal.rewrite(self.pools.snapshot(), self.spare(new))
            }
            Ok(()) if self.journal.wants_compaction() => {
                let compacted = self.journal.rewrite(self.pools.snapshot(), self.spare(new));
                if let Err(error) = compacted {
                    tracing::warn!(%error, "the journal could not be written anew; it grows on");
                }
                Ok(())
            }
            written => written,
        }
    }

    /// Who gets an address leaves room for its release; a release may use the room.
    fn spare(&self, new: &[Record]) -> u64 {
        let gives = new.iter().any(|record| matches!(record, Record::Gave(_)));
        if gives { RELEASE_ROOM * self.pools.held() as u64 } else { 0 }
    }

    /// Why the last write failed, while it does.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Makes the journal anew if somebody removed it or an older agent wrote it, before it is needed, and tries whether it can be written again.
    pub fn tend(&mut self) {
        if self.trouble.is_some() && self.unwritten.is_empty() {
            let room = RELEASE_ROOM * (self.pools.held() as u64 + 1);
            if self.journal.append(&[], room).is_ok() {
                self.recovered();
            }
        }
        if !self.journal.is_in_place()
            && let Err(error) = self.journal.rewrite(self.pools.snapshot(), 0)
        {
            tracing::error!(%error, "the journal has to be written anew, and cannot be");
        }
    }

    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
}

/// Whether nothing is lost if `new` is written and `old` is not.
fn replaces(new: &Record, old: &Record) -> bool {
    match (new, old) {
        (Record::Blocks(_), Record::Blocks(_)) => true,
        (Record::Acked { id, .. }, Record::Acked { id: old, .. }) => id == old,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
