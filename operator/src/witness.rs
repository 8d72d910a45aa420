//! How far the cluster's store was when this pod last saw it, so that a store restored from a backup is noticed by
//! whoever leads next. An operator ends when it cannot renew its Lease, and a restore takes longer than that: what a
//! process has in memory is gone by then, so this is kept in a file that outlives the process, not the pod.
//!
//! ```text
//! version of each Lease seen ──▶ goes on as before ───────────────────────────────────▶ file
//!                          └───▶ behind, or far ahead: doubt, file ──▶ every agent heard ──▶ trusted, file
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::outcome::with_causes;

const FILE: &str = "store-seen.json";
/// Writes in a second that no API server does for long. What is ahead of that was moved on by hand, as
/// `etcdutl snapshot restore --bump-revision` does, by 1,000,000,000: a day's worth.
const FASTEST: u64 = 10_000;
/// Ahead by so little it never is: for clocks that differ.
const SLACK: u64 = 10_000_000;

/// The version of an object, and when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    resource_version: u64,
    /// Wall time, in seconds since 1970.
    at: i64,
}

/// What the next process has to know. While there is doubt it says so: soon the store is where it was before it went back.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    #[serde(flatten)]
    seen: Seen,
    in_doubt: bool,
}

/// Why what was seen of the store, and what follows from it, holds no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    #[error("the store is at version {now} and was at {before}: it was restored from a backup")]
    Behind { before: u64, now: u64 },
    #[error("the store went from version {before} to {now} in {} s: it was restored from a backup with later revisions", .within.as_secs())]
    Ahead { before: u64, now: u64, within: Duration },
}

impl Contradiction {
    fn between(before: Seen, now: Seen) -> Option<Self> {
        let (from, to) = (before.resource_version, now.resource_version);
        let seconds = u64::try_from(now.at.saturating_sub(before.at)).unwrap_or(0);
        let furthest = from.saturating_add(SLACK).saturating_add(seconds.saturating_mul(FASTEST));
        if to < from {
            Some(Self::Behind { before: from, now: to })
        } else if to > furthest {
            Some(Self::Ahead { before: from, now: to, within: Duration::from_secs(seconds) })
        } else {
            None
        }
    }
}

/// The number of a contradiction, so that hearing every agent settles only those from before.
pub type Doubt = u64;

#[derive(Clone, Copy, Debug, Default)]
struct Doubts {
    raised: Doubt,
    settled: Doubt,
}

impl Doubts {
    fn open(self) -> Option<Doubt> {
        (self.raised > self.settled).then_some(self.raised)
    }
}

#[derive(Debug, Default)]
struct Record {
    last: Option<Seen>,
    /// The file could not be written last time, and that was said.
    lost: bool,
}

/// Clones share what was seen.
#[derive(Clone, Debug)]
pub struct Witness {
    file: Option<PathBuf>,
    /// Locked for a comparison and the write of a small file, never across an await.
    record: Arc<Mutex<Record>>,
    doubts: Arc<watch::Sender<Doubts>>,
}

impl Witness {
    /// Remembers what the processes before this one saw, if there is a folder.
    pub fn recall(folder: Option<&Path>) -> Self {
        let file = folder.map(|folder| folder.join(FILE));
        let kept = file.as_deref().and_then(|file| {
            let unreadable = |error: &io::Error| {
                tracing::warn!(file = %file.display(), error = with_causes(error), "it does not matter unless the store was restored meanwhile");
            };
            read(file).inspect_err(unreadable).ok().flatten()
        });
        let record = Record { last: kept.map(|kept| kept.seen), lost: false };
        let doubts = Doubts { raised: Doubt::from(kept.is_some_and(|kept| kept.in_doubt)), settled: 0 };
        Self { file, record: Arc::new(Mutex::new(record)), doubts: Arc::new(watch::Sender::new(doubts)) }
    }

    /// An object was read or written: its version, and when it came to that.
    pub fn see(&self, resource_version: u64, at: Timestamp) {
        let now = Seen { resource_version, at: at.as_second() };
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let before = record.last.replace(now);
        if let Some(contradiction) = before.and_then(|before| Contradiction::between(before, now)) {
            tracing::warn!("{contradiction}");
            self.doubts.send_modify(|doubts| doubts.raised += 1);
        }
        if before.is_none_or(|before| before.resource_version != resource_version) {
            self.keep(&mut record);
        }
    }

    /// What hearing every agent settles.
    pub fn doubt(&self) -> Option<Doubt> {
        self.doubts.borrow().open()
    }

    /// Waits for a doubt that is later than this one.
    pub async fn doubts_anew(&self, than: Option<Doubt>) {
        // An error would mean that the sender is gone; it is ours.
        let _ = self.doubts.subscribe().wait_for(|doubts| doubts.open() > than).await;
    }

    /// Every agent was heard after this doubt.
    pub fn settle(&self, doubt: Doubt) {
        self.doubts.send_modify(|doubts| doubts.settled = doubt);
        self.keep(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn keep(&self, record: &mut Record) {
        let (Some(file), Some(seen)) = (&self.file, record.last) else { return };
        let kept = write(file, Kept { seen, in_doubt: self.doubt().is_some() });
        if let Some(error) = kept.as_ref().err().filter(|_| !record.lost) {
            tracing::warn!(file = %file.display(), error = with_causes(error), "a store restored while this pod's operator does not run will not be noticed");
        }
        record.lost = kept.is_err();
    }
}

/// `None`: there is no such file yet.
fn read(file: &Path) -> io::Result<Option<Kept>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whole, however this process ends.
fn write(file: &Path, kept: Kept) -> io::Result<()> {
    let aside = file.with_extension("tmp");
    fs::write(&aside, serde_json::to_vec(&kept)?)?;
    fs::rename(&aside, file)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const NIGHT: u64 = 8 * 3600;

    fn after(seconds: u64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + i64::try_from(seconds).unwrap()).unwrap()
    }

    fn see(witness: &Witness, version: u64, seconds: u64) -> Option<Doubt> {
        witness.see(version, after(seconds));
        witness.doubt()
    }

    #[test]
    fn a_store_that_goes_on_is_not_doubted_however_fast_it_is() {
        let witness = Witness::recall(None);
        let versions = [(5, 0), (5, 2), (9, 4), (9_000_000, 4), (290_000_000, NIGHT)];
        for (version, seconds) in versions {
            assert_eq!(see(&witness, version, seconds), None, "{version} after {seconds} s");
        }
    }

    #[test]
    fn a_store_that_went_back_or_was_moved_on_is_doubted_until_every_agent_was_heard() {
        for version in [99, 1_000_000_100] {
            let witness = Witness::recall(None);
            see(&witness, 100, 0);
            assert_eq!(see(&witness, version, 60), Some(1), "{version}");
            assert_eq!(see(&witness, version + 1, 62), Some(1), "it goes on from there");
            witness.settle(1);
            assert_eq!(see(&witness, version + 2, 64), None);
        }
    }

    #[test]
    fn what_was_heard_before_a_second_restore_does_not_settle_it() {
        let witness = Witness::recall(None);
        see(&witness, 100, 0);
        assert_eq!(see(&witness, 50, 1), Some(1));
        assert_eq!(see(&witness, 49, 2), Some(2));
        witness.settle(1);
        assert_eq!(witness.doubt(), Some(2));
        witness.settle(2);
        assert_eq!(witness.doubt(), None);
    }

    #[test]
    fn the_next_process_knows_what_this_one_saw_and_whether_it_was_in_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let recall = || Witness::recall(Some(folder.path()));
        assert_eq!(see(&recall(), 100, 0), None, "the first process of all");
        let second = recall();
        assert_eq!(see(&second, 99, 1), Some(1));
        assert_eq!(see(&second, 101, 2), Some(1), "it went back, wherever it is now");
        let third = recall();
        assert_eq!(see(&third, 102, 3), Some(1), "the doubt was not settled");
        third.settle(1);
        let fourth = recall();
        assert_eq!(see(&fourth, 103, 4), None);
        assert_eq!(see(&fourth, 90, 5), Some(1));
        assert_eq!(see(&recall(), 90, 6), Some(1), "nothing was written meanwhile");
    }

    #[test]
    fn a_file_that_is_damaged_or_cannot_be_written_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(see(&Witness::recall(Some(folder.path())), 7, 0), None);
        assert_eq!(see(&Witness::recall(Some(folder.path())), 6, 0), Some(1), "written anew");
        assert_eq!(see(&Witness::recall(Some(&folder.path().join("missing"))), 7, 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_hears_of_doubts_that_came_after_it_began() {
        let witness = Witness::recall(None);
        see(&witness, 100, 0);
        let first = see(&witness, 50, 1);
        for (than, version) in [(None, 40), (first, 30)] {
            let heard = timeout(Duration::from_secs(1), witness.doubts_anew(than));
            let (heard, _) = tokio::join!(heard, async { see(&witness, version, 2) });
            heard.unwrap();
        }
    }
}
