//! Pools and journal as one: what is answered is recorded, and what cannot be recorded was not given.
//!
//! ```text
//! batch ──▶ Pools::apply ──▶ records ──▶ Journal::append ── ok ──▶ replies
//!                              ▲              └─ failed ──▶ Pools::undo ──▶ replies (code 11: of an ADD undone, of a DEL done)
//!                              └── unwritten releases, again with every batch ◀──┘
//!
//! open ──▶ journal ── sound, of this boot ──▶ Desk
//!              └── missing, empty or damaged ──▶ survey of the node ──▶ Desk, the journal written anew
//! ```

use std::path::PathBuf;

use crate::boot_time::BootTime;
use crate::journal::{Found, Journal, JournalError, RELEASE_ROOM};
use crate::netns::{Probe, probe};
use crate::pools::{Input, Live, Pools, Restoring, Rules, Step, Violation};
use crate::record::Record;
use crate::survey::{Places, SurveyError, survey};

/// Room that the record of an ADD may take: two addresses, names of usual length, a path.
const OF_AN_ADD: u64 = 512;

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
    #[error("the journal says nothing of before, and what lives on this node is not known either: {0}")]
    Survey(#[from] SurveyError),
    #[error(
        "journal {path} contradicts itself ({violation}): drain this node and reboot it, or delete the file if no pod runs"
    )]
    Contradiction { path: String, violation: Violation },
}

/// Where the state of an agent is, or what of it can be found.
#[derive(Clone, Debug)]
pub struct Opener {
    pub folder: PathBuf,
    pub boot: String,
    pub rules: Rules,
    pub places: Places,
}

/// What came of opening.
#[derive(Debug)]
pub struct Opened {
    pub desk: Desk,
    pub found: Found,
    /// Attachments that a survey of the node found, if there had to be one.
    pub surveyed: Option<usize>,
    /// What was wrong with the journal.
    pub damage: Option<JournalError>,
}

impl Opener {
    /// Restores what the journal says of this boot; if it says nothing, or is damaged, what lives on the node.
    pub fn open(&self, now: BootTime) -> Result<Opened, RestoreError> {
        let Self { folder, boot, rules, places: _ } = self;
        let mut pools = Pools::<Restoring>::new(rules.clone());
        let opened = Journal::open(folder, boot, &rules.node, &mut |record| pools.restore(record));
        match opened {
            Ok((journal, Found::Void)) => Ok(Opened::new(Desk::new(live(pools, now, &journal)?, journal), Found::Void)),
            Ok((journal, found)) if !pools.knows_nothing() => {
                Ok(Opened::new(Desk::new(live(pools, now, &journal)?, journal), found))
            }
            Ok((mut journal, found)) => {
                let surveyed = self.take_in(&mut pools, now)?;
                let pools = live(pools, now, &journal)?;
                journal.rewrite(pools.snapshot(), room(&pools))?;
                Ok(Opened { surveyed: Some(surveyed), ..Opened::new(Desk::new(pools, journal), found) })
            }
            Err(damage @ JournalError::Damaged { .. }) => {
                let surveyed = self.take_in(&mut pools, now)?;
                let pools = pools.live(now).map_err(|violation| contradiction(folder.display(), violation))?;
                let journal = Journal::replace(folder, boot, &rules.node, pools.snapshot(), room(&pools))?;
                let opened = Opened::new(Desk::new(pools, journal), Found::Nothing);
                Ok(Opened { surveyed: Some(surveyed), damage: Some(damage), ..opened })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn take_in(&self, pools: &mut Pools<Restoring>, now: BootTime) -> Result<usize, SurveyError> {
        let found = survey(&self.places)?;
        let count = found.attached.len();
        pools.take_in(found, |netns| probe(netns) == Probe::Gone, now);
        Ok(count)
    }
}

fn live(pools: Pools<Restoring>, now: BootTime, journal: &Journal) -> Result<Pools<Live>, RestoreError> {
    pools.live(now).map_err(|violation| contradiction(journal.path().display(), violation))
}

fn contradiction(path: impl std::fmt::Display, violation: Violation) -> RestoreError {
    RestoreError::Contradiction { path: path.to_string(), violation }
}

/// For the release of everything that is held.
fn room(pools: &Pools<Live>) -> u64 {
    RELEASE_ROOM * pools.held() as u64
}

impl Opened {
    fn new(desk: Desk, found: Found) -> Self {
        Self { desk, found, surveyed: None, damage: None }
    }
}

impl Desk {
    fn new(pools: Pools<Live>, journal: Journal) -> Self {
        let mut desk = Self { pools, journal, unwritten: Vec::new(), trouble: None };
        desk.tend();
        desk
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
                // The record of a release may fit where that of an ADD does not: then `tend` says when all is well.
                if takes_room(&step.records) {
                    self.recovered();
                }
            }
            Err(error) => self.take_back(&mut step, &error),
        }
        step
    }

    fn take_back(&mut self, step: &mut Step, error: &JournalError) {
        for record in self.pools.undo(step, &error.to_string()) {
            self.unwritten.retain(|old| !replaces(&record, old));
            self.unwritten.push(record);
        }
        self.troubled(error);
    }

    fn troubled(&mut self, error: &JournalError) {
        let error = error.to_string();
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

    /// Who gets an address, also once more, leaves room for all releases; a release may use the room.
    fn spare(&self, new: &[Record]) -> u64 {
        if takes_room(new) { room(&self.pools) } else { 0 }
    }

    /// Why the last write failed, while it does.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Makes the journal anew before it is needed, if somebody removed it or an older agent wrote it; and tries whether one
    /// that could not be written can be.
    pub fn tend(&mut self) {
        let tried = if !self.journal.is_in_place() {
            self.journal.rewrite(self.pools.snapshot(), room(&self.pools)).map(|()| self.unwritten.clear())
        } else if self.trouble.is_some() && self.unwritten.is_empty() {
            self.journal.append(&[], room(&self.pools) + OF_AN_ADD)
        } else {
            self.journal.check()
        };
        match tried {
            Ok(()) if self.unwritten.is_empty() => self.recovered(),
            Ok(()) => {}
            Err(error) => self.troubled(&error),
        }
    }

    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
}

/// Whether these are records for which room is made, and not those that may use it.
fn takes_room(records: &[Record]) -> bool {
    records.iter().any(|record| matches!(record, Record::Gave(_) | Record::Acked { .. }))
}

/// Whether nothing is lost if `new` is written and `old` is not.
pub(crate) fn replaces(new: &Record, old: &Record) -> bool {
    match (new, old) {
        (Record::Blocks(_), Record::Blocks(_)) => true,
        (Record::Acked { id, .. }, Record::Acked { id: old, .. }) => id == old,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
