//! The memory that outlives the process: an append-only file of records, of this boot only.
//!
//! ```text
//! <state folder>/journal   "CADASTRE" │ frame: Header │ frame: a batch of records │ frame … │ (room set aside)
//! ```
//! A reboot ends every network namespace, so a journal of another boot says nothing any more; and what a process wrote
//! survives its death without `fsync`. Hence no call here waits for a disk.
//!
//! Room for the release of everything that is held is allocated behind the end, so that DEL can be recorded on a full disk.
//! When more of the file is out of date than in use, a new one is written aside and renamed.

mod disk;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod tests;

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::record::Record;
#[cfg(test)]
pub use disk::Refuses;
use disk::{Disk, Limit};
use frame::{Flaw, Frames};

/// Raised whenever older agents could not read what is written. 2: networks with ranges of their own.
pub const VERSION: u32 = 2;

/// The oldest that is still read: what it wrote is written anew in the format of today at the start.
const OLDEST: u32 = 1;

const MAGIC: &[u8; 8] = b"CADASTRE";
const NAME: &str = "journal";
const NAME_ASIDE: &str = "journal.new";
const NAME_DAMAGED: &str = "journal.damaged";

/// A frame of one `Released`: 12 bytes of frame, 1 of variant, two numbers of at most 10 bytes.
pub const RELEASE_ROOM: u64 = 33;

/// Allocated ahead, so that the file system is asked once in about 300 ADDs.
const CHUNK: u64 = 64 * 1024;

/// A snapshot's frames: large enough to be few, small enough to be read in one go.
const SNAPSHOT_FRAME: usize = 64 * 1024;

/// Smaller journals are not worth writing anew: reading this takes a few milliseconds.
const SMALLEST_COMPACTION: u64 = 256 * 1024;

/// The journal of a running agent.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    header: Header,
    disk: Disk,
    /// Where the next frame goes.
    len: u64,
    /// Written anew when `len` gets here.
    compact_at: u64,
    compactions: u64,
    buffer: Vec<u8>,
    limit: Limit,
    /// Written by an older agent, so that nothing may be added to it.
    outdated: bool,
}

/// Which boot of which node a journal is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    version: u32,
    boot: String,
    node: String,
}

/// What was there at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// Of another boot.
    Void,
    /// `cut`: bytes of a batch that was being written when the agent died.
    Records {
        count: u64,
        cut: u64,
        version: u32,
    },
}

/// What is wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error(
        "journal {} is damaged at byte {offset} ({flaw}): who holds which address is not known from it",
        path.display()
    )]
    Damaged { path: PathBuf, offset: u64, flaw: Flaw },
    #[error("journal {} has version {found}, and this agent reads {OLDEST} to {VERSION}: start the release that wrote it", path.display())]
    Version { path: PathBuf, found: u32 },
    /// Who owns the folder could give addresses away.
    #[error(
        "state folder {} belongs to user {owner} and has mode {mode:o}: make it root's alone (chown root, chmod 700)",
        path.display()
    )]
    NotOurs { path: PathBuf, owner: u32, mode: u32 },
    #[error("journal {} is of node {found}, not of {node}: give each node a state folder of its own", path.display())]
    OtherNode { path: PathBuf, found: String, node: String },
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("a record cannot be encoded: {source}")]
    Encode { source: postcard::Error },
    /// Somebody removed or replaced the file, or an older agent wrote it: `rewrite` makes it anew.
    #[error("journal {} has to be written anew", path.display())]
    Lost { path: PathBuf },
}

impl Journal {
    /// Opens or makes the journal in `folder`, and passes on what is recorded of this boot.
    pub fn open(
        folder: &Path,
        boot: &str,
        node: &str,
        restore: &mut dyn FnMut(Record),
    ) -> Result<(Self, Found), JournalError> {
        make_folder(folder)?;
        let header = Header { version: VERSION, boot: boot.to_owned(), node: node.to_owned() };
        let path = folder.join(NAME);
        let (found, end) = match fs::read(&path) {
            Ok(bytes) => read(&path, &bytes, &header, restore)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Found::Nothing, 0),
            Err(source) => return Err(JournalError::Io { what: "read", path, source }),
        };
        let limit = Limit::default();
        let (disk, len) = match found {
            Found::Nothing | Found::Void => renew(folder, &header, std::iter::empty(), 0, &limit)?,
            Found::Records { .. } => {
                let file = OpenOptions::new().write(true).open(&path);
                (Disk::new(file.map_err(|source| JournalError::Io { what: "open", path, source })?, &limit), end)
            }
        };
        let compact_at = SMALLEST_COMPACTION.max(len.saturating_mul(2));
        let folder = folder.to_owned();
        let outdated = matches!(found, Found::Records { version, .. } if version != VERSION);
        let buffer = Vec::new();
        let mut journal = Self { folder, header, disk, len, compact_at, compactions: 0, buffer, limit, outdated };
        if matches!(found, Found::Records { cut, .. } if cut > 0) {
            journal.truncate()?;
        }
        Ok((journal, found))
    }

    /// Makes a journal in place of one that cannot be read. The old one is kept beside it, as evidence.
    pub fn replace(
        folder: &Path,
        boot: &str,
        node: &str,
        records: impl Iterator<Item = Record>,
        spare: u64,
    ) -> Result<Self, JournalError> {
        let header = Header { version: VERSION, boot: boot.to_owned(), node: node.to_owned() };
        let (path, damaged) = (folder.join(NAME), folder.join(NAME_DAMAGED));
        let failed = |source| JournalError::Io { what: "keep", path: damaged.clone(), source };
        match fs::remove_file(&damaged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => fs::hard_link(&path, &damaged).map_err(failed)?,
        }
        let limit = Limit::default();
        let (disk, len) = renew(folder, &header, records, spare, &limit)?;
        let compact_at = SMALLEST_COMPACTION.max(len.saturating_mul(2));
        let (folder, buffer) = (folder.to_owned(), Vec::new());
        Ok(Self { folder, header, disk, len, compact_at, compactions: 0, buffer, limit, outdated: false })
    }

    /// Writes a batch. `spare` is the room that has to be left behind it. Either all of it is recorded or nothing.
    pub fn append(&mut self, records: &[Record], spare: u64) -> Result<(), JournalError> {
        self.check()?;
        if !self.is_in_place() {
            return Err(JournalError::Lost { path: self.path() });
        }
        self.buffer.clear();
        frame::push(&mut self.buffer, records.iter()).map_err(|source| JournalError::Encode { source })?;
        let end = self.len + self.buffer.len() as u64;
        if self.disk.is_torn() {
            self.truncate()?;
        }
        self.disk.allocate(end + spare, CHUNK).map_err(|source| self.failed("allocate room in", source))?;
        if let Err(source) = self.disk.write_at(&self.buffer, self.len) {
            let failed = self.failed("write to", source);
            self.truncate()?;
            return Err(failed);
        }
        self.len = end;
        Ok(())
    }

    /// Begins anew with what `records` say, in a file written aside.
    pub fn rewrite(&mut self, records: impl Iterator<Item = Record>, spare: u64) -> Result<(), JournalError> {
        // Not at once again if this fails.
        self.compact_at = self.len + SMALLEST_COMPACTION;
        let (disk, len) = renew(&self.folder, &self.header, records, spare, &self.limit)?;
        (self.disk, self.len, self.outdated) = (disk, len, false);
        self.compact_at = SMALLEST_COMPACTION.max(len.saturating_mul(2));
        self.compactions += 1;
        Ok(())
    }

    /// Whether more of it is out of date than in use.
    #[must_use]
    pub fn wants_compaction(&self) -> bool {
        self.len >= self.compact_at
    }

    /// Whether the path still leads to the file that is written to, and that file may be added to.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        if self.outdated {
            return false;
        }
        let there = fs::metadata(self.path()).map(|there| (there.dev(), there.ino()));
        there.ok().is_some_and(|there| Some(there) == self.disk.identity())
    }

    /// Whether the folder is ours alone. One that is not there will be made.
    pub fn check(&self) -> Result<(), JournalError> {
        match fs::metadata(&self.folder) {
            Ok(folder) => ours(&self.folder, &folder),
            Err(_) => Ok(()),
        }
    }

    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// Bytes in use.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How often it was written anew.
    #[must_use]
    pub fn compactions(&self) -> u64 {
        self.compactions
    }

    #[cfg(test)]
    #[must_use]
    pub fn limit(&self) -> &Limit {
        &self.limit
    }

    fn truncate(&mut self) -> Result<(), JournalError> {
        self.disk.truncate(self.len).map_err(|source| self.failed("truncate", source))
    }

    fn failed(&self, what: &'static str, source: io::Error) -> JournalError {
        JournalError::Io { what, path: self.path(), source }
    }
}

/// Writes a new journal aside and renames it into place. Returns its file and its length.
fn renew(
    folder: &Path,
    header: &Header,
    records: impl Iterator<Item = Record>,
    spare: u64,
    limit: &Limit,
) -> Result<(Disk, u64), JournalError> {
    make_folder(folder)?;
    let (aside, path) = (folder.join(NAME_ASIDE), folder.join(NAME));
    let written = write_aside(&aside, header, records, limit).and_then(|(mut disk, len)| {
        let failed = |what| move |source| JournalError::Io { what, path: folder.join(NAME_ASIDE), source };
        disk.allocate(len + spare, CHUNK).map_err(failed("allocate room in"))?;
        fs::rename(&aside, &path).map_err(failed("rename"))?;
        Ok((disk, len))
    });
    if written.is_err() {
        drop(fs::remove_file(&aside)); // The first error is the one to tell.
    }
    written
}

fn write_aside(
    aside: &Path,
    header: &Header,
    records: impl Iterator<Item = Record>,
    limit: &Limit,
) -> Result<(Disk, u64), JournalError> {
    let failed = |source| JournalError::Io { what: "write", path: aside.to_owned(), source };
    let encode = |source| JournalError::Encode { source };
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(aside).map_err(failed)?;
    let disk = Disk::new(file, limit);
    let mut out = BufWriter::with_capacity(SNAPSHOT_FRAME, disk.writer());
    let mut head = MAGIC.to_vec();
    frame::push(&mut head, std::iter::once(header)).map_err(encode)?;
    out.write_all(&head).map_err(failed)?;
    let mut len = head.len() as u64;
    let mut frame = frame::Growing::default();
    for record in records {
        frame.push(&record).map_err(encode)?;
        if frame.len() >= SNAPSHOT_FRAME {
            len += frame.write_to(&mut out).map_err(failed)?;
        }
    }
    len += frame.write_to(&mut out).map_err(failed)?;
    out.flush().map_err(failed)?;
    drop(out);
    Ok((disk, len))
}

/// Reads a journal: what was found, and where it ends.
fn read(
    path: &Path,
    bytes: &[u8],
    expected: &Header,
    restore: &mut dyn FnMut(Record),
) -> Result<(Found, u64), JournalError> {
    let damaged = |offset: usize, flaw| JournalError::Damaged { path: path.to_owned(), offset: offset as u64, flaw };
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged(0, Flaw::Magic))?;
    let mut frames = Frames::new(rest, MAGIC.len());
    let header = match frames.next() {
        Some(Ok((_, payload))) => header(path, payload, &damaged)?,
        // A journal is renamed into place with its header, so no death of an agent cuts it there.
        Some(Err((offset, flaw))) => return Err(damaged(offset, flaw)),
        None => return Err(damaged(MAGIC.len(), Flaw::NoHeader)),
    };
    if header.boot != expected.boot {
        return Ok((Found::Void, 0));
    }
    if header.node != expected.node {
        let (path, node) = (path.to_owned(), expected.node.clone());
        return Err(JournalError::OtherNode { path, found: header.node, node });
    }
    let mut count = 0;
    for frame in &mut frames {
        let (offset, mut payload) = frame.map_err(|(offset, flaw)| damaged(offset, flaw))?;
        while !payload.is_empty() {
            let (record, rest) = postcard::take_from_bytes(payload).map_err(|_| damaged(offset, Flaw::Record))?;
            restore(record);
            payload = rest;
            count += 1;
        }
    }
    let end = frames.end();
    Ok((Found::Records { count, cut: (bytes.len() - end) as u64, version: header.version }, end as u64))
}

fn header(path: &Path, payload: &[u8], damaged: &dyn Fn(usize, Flaw) -> JournalError) -> Result<Header, JournalError> {
    let unreadable = |_| damaged(MAGIC.len(), Flaw::NoHeader);
    let (found, _) = postcard::take_from_bytes::<u32>(payload).map_err(unreadable)?;
    if !(OLDEST..=VERSION).contains(&found) {
        return Err(JournalError::Version { path: path.to_owned(), found });
    }
    postcard::from_bytes(payload).map_err(unreadable)
}

/// For root only: who may write here could give addresses away.
fn make_folder(folder: &Path) -> Result<(), JournalError> {
    let failed = |what| move |source| JournalError::Io { what, path: folder.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("make"))?;
    ours(folder, &fs::metadata(folder).map_err(failed("look at"))?)
}

fn ours(path: &Path, folder: &fs::Metadata) -> Result<(), JournalError> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let (owner, mode) = (folder.uid(), folder.mode() & 0o7777);
    let is_ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if is_ours && mode & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(JournalError::NotOurs { path: path.to_owned(), owner, mode })
}
