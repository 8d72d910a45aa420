//! What DEL left while no agent listened, read when the agent does.
//!
//! ```text
//! scan ──▶ [Tombstone { path, attachment, at }] ──▶ pools ──▶ journal ──▶ remove
//! ```
//! A file goes away only after what it asks for is recorded. Their names mean nothing; whoever can write there is root.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cadastre_messages::{Attachment, MAX_LINE, PROTOCOL};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Read at once; the rest at the next pass.
const AT_ONCE: usize = 1_024;

/// File times advance with the timer tick, at most 10 ms: within a few of them a folder may change and look the same.
const SAME_TICK: Duration = Duration::from_millis(50);

/// A plugin renames what it writes within milliseconds; what is not renamed after this is of one that died.
const ABANDONED: Duration = Duration::from_mins(1);

/// The folder and what is known of it.
#[derive(Debug)]
pub struct Tombstones {
    folder: PathBuf,
    boot: String,
    /// When the folder had changed last, once it was read and held nothing.
    clean: Option<SystemTime>,
}

/// One DEL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    pub path: PathBuf,
    pub attachment: Attachment,
    /// Hundredths of a second since boot.
    pub at: u64,
}

/// Why a file is thrown away.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("of another boot")]
    OtherBoot,
    #[error("not a regular file of at most {MAX_LINE} bytes")]
    NotAFile,
    #[error("of protocol {0}, and this agent speaks {PROTOCOL}")]
    Protocol(u32),
    #[error("not a tombstone: {0}")]
    Garbled(#[from] serde_json::Error),
    #[error("unreadable: {0}")]
    Io(#[from] io::Error),
}

impl Unusable {
    /// Whether it may be a tombstone all the same: for want of files or memory, or on a failing disk, nobody knows. What
    /// cannot be opened because it is a link or a socket is none.
    fn may_pass(&self) -> bool {
        const NO_FILE: [Errno; 2] = [Errno::LOOP, Errno::NXIO];
        matches!(self, Self::Io(error) if !NO_FILE.iter().any(|no| error.raw_os_error() == Some(no.raw_os_error())))
    }
}

impl Tombstones {
    /// The folder beside the socket, made if need be.
    pub fn open(socket_folder: &Path, boot: &str) -> io::Result<Self> {
        let folder = socket_folder.join(cadastre_messages::TOMBSTONES);
        DirBuilder::new().mode(0o700).recursive(true).create(&folder)?;
        Ok(Self { folder, boot: boot.to_owned(), clean: None })
    }

    /// What lies there. Costs one look at the folder while nothing changes.
    pub fn scan(&mut self) -> Vec<Tombstone> {
        let folder = fs::symlink_metadata(&self.folder).ok();
        let changed = folder.as_ref().and_then(|folder| folder.modified().ok());
        if changed.is_none() || (changed == self.clean) {
            return Vec::new(); // A folder that is gone holds nothing; the plugin makes it anew.
        }
        if !folder.is_some_and(|folder| is_ours(&folder)) {
            tracing::warn!(folder = %self.folder.display(), "this is a link, a file or another user's folder: tombstones in it are not looked at; remove it");
            self.clean = changed;
            return Vec::new();
        }
        let now = SystemTime::now();
        match self.read(now) {
            Ok((found, rest)) => {
                let settled = changed.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > SAME_TICK));
                self.clean = changed.filter(|_| settled && !rest && found.is_empty());
                found
            }
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), %error, "tombstones cannot be read: DELs of before wait");
                Vec::new()
            }
        }
    }

    /// The tombstones, and whether anything else is there that a later pass has to look at.
    fn read(&self, now: SystemTime) -> io::Result<(Vec<Tombstone>, bool)> {
        let (mut found, mut rest, mut unread) = (Vec::new(), false, None);
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if found.len() == AT_ONCE {
                rest = true;
                break;
            }
            if path.extension().is_none_or(|extension| extension != "json") {
                rest = true;
                self.throw_away_if_abandoned(&path, now);
                continue;
            }
            match self.parse(&path) {
                Ok(tombstone) => found.push(tombstone),
                Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(why) if why.may_pass() => unread = Some((path, why)),
                Err(why) => self.throw_away(&path, &why),
            }
        }
        if let Some((path, why)) = &unread {
            tracing::warn!(path = %path.display(), %why, "a tombstone is looked at again later: its DEL waits");
        }
        Ok((found, rest || unread.is_some()))
    }

    fn parse(&self, path: &Path) -> Result<Tombstone, Unusable> {
        // Neither a link nor a pipe may lead us astray.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let text = read_small(&file)?;
        let cadastre_messages::Tombstone { protocol, boot_id, at, attachment } = serde_json::from_slice(&text)?;
        if protocol != PROTOCOL {
            return Err(Unusable::Protocol(protocol));
        }
        if boot_id != self.boot {
            return Err(Unusable::OtherBoot);
        }
        Ok(Tombstone { path: path.to_owned(), attachment, at })
    }

    fn throw_away(&self, path: &Path, why: &Unusable) {
        let removed = fs::remove_file(path).err().map(|error| error.to_string());
        if matches!(why, Unusable::OtherBoot) && removed.is_none() {
            tracing::debug!(path = %path.display(), boot = self.boot, "removed a tombstone of another boot");
        } else {
            tracing::warn!(path = %path.display(), %why, not_removed = removed, "removed what is no tombstone");
        }
    }

    fn throw_away_if_abandoned(&self, path: &Path, now: SystemTime) {
        let modified = fs::symlink_metadata(path).and_then(|file| file.modified());
        if modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > ABANDONED)) {
            self.throw_away(path, &Unusable::NotAFile);
        }
    }

    /// How many lie there, for people.
    #[must_use]
    pub fn count(&self) -> u64 {
        let named = |path: &Path| path.extension().is_some_and(|extension| extension == "json");
        let entries =
            fs::read_dir(&self.folder).map(|entries| entries.flatten().filter(|entry| named(&entry.path())).count());
        entries.unwrap_or_default() as u64
    }

    /// What they asked for is done and recorded.
    pub fn remove(&mut self, done: &[Tombstone]) {
        for Tombstone { path, .. } in done {
            match fs::remove_file(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a tombstone cannot be removed; it has no effect any more");
                }
            }
        }
    }
}

/// What lies in the folder releases addresses, and what does not belong there is removed: it has to be no other place.
fn is_ours(folder: &fs::Metadata) -> bool {
    folder.is_dir() && (folder.uid() == 0 || folder.uid() == rustix::process::geteuid().as_raw())
}

fn read_small(file: &File) -> Result<Vec<u8>, Unusable> {
    let about = file.metadata()?;
    if !about.is_file() || about.len() > MAX_LINE as u64 {
        return Err(Unusable::NotAFile);
    }
    let mut text = Vec::new();
    file.take(MAX_LINE as u64).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn text(boot: &str, protocol: u32) -> String {
        let attachment = r#"{"network":"net","containerId":"c1","interface":"eth0"}"#;
        format!(r#"{{"protocol":{protocol},"bootId":"{boot}","at":1234,"attachment":{attachment}}}"#)
    }

    #[test]
    fn only_tombstones_of_this_boot_are_replayed_and_everything_else_goes() {
        let folder = TempDir::new().unwrap();
        let mut tombstones = Tombstones::open(folder.path(), "boot-1").unwrap();
        assert_eq!(tombstones.scan(), []);
        let at = |name: &str| folder.path().join("tombstones").join(name);
        fs::write(at("good.json"), text("boot-1", 1)).unwrap();
        fs::write(at("other-boot.json"), text("boot-0", 1)).unwrap();
        fs::write(at("newer.json"), text("boot-1", 2)).unwrap();
        fs::write(at("garbled.json"), "{").unwrap();
        fs::write(at("huge.json"), vec![b' '; MAX_LINE + 1]).unwrap();
        symlink(at("good.json"), at("link.json")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe.json"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        fs::write(at("being-written.tmp"), "{").unwrap();

        let found = tombstones.scan();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].at, found[0].attachment.container_id.as_str()), (1234, "c1"));
        let mut left: Vec<_> =
            fs::read_dir(folder.path().join("tombstones")).unwrap().map(|f| f.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["being-written.tmp", "good.json"]);

        for _ in 0..3 {
            assert_eq!(tombstones.scan().len(), 1, "it stays until it is removed");
        }
        tombstones.remove(&found);
        assert_eq!(tombstones.scan(), []);
        fs::rename(at("being-written.tmp"), at("late.json")).unwrap();
        fs::write(at("late.json"), text("boot-1", 1)).unwrap();
        assert_eq!(tombstones.scan().len(), 1, "one that came later");
    }

    #[test]
    fn what_is_unreadable_for_now_stays() {
        let passing = |errno: Errno| Unusable::Io(errno.into()).may_pass();
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::ACCESS] {
            assert!(passing(errno), "{errno}");
        }
        assert!(!passing(Errno::LOOP) && !passing(Errno::NXIO));
        assert!(!Unusable::OtherBoot.may_pass() && !Unusable::NotAFile.may_pass());
    }

    #[test]
    fn nothing_is_read_or_removed_in_another_place() {
        let folder = TempDir::new().unwrap();
        let mut tombstones = Tombstones::open(folder.path(), "boot-1").unwrap();
        let (own, other) = (folder.path().join("tombstones"), folder.path().join("other"));
        fs::rename(&own, &other).unwrap();
        fs::write(other.join("1.json"), text("boot-1", 1)).unwrap();
        fs::write(other.join("garbage.json"), "{").unwrap();
        symlink(&other, &own).unwrap();
        assert_eq!(tombstones.scan(), []);
        assert_eq!(fs::read_dir(&other).unwrap().count(), 2);
        fs::remove_file(&own).unwrap();
        fs::rename(&other, &own).unwrap();
        let uid = |uid| std::os::unix::fs::chown(&own, Some(uid), None).unwrap();
        if rustix::process::geteuid().is_root() {
            uid(65534);
            assert_eq!(tombstones.scan(), []);
            assert_eq!(fs::read_dir(&own).unwrap().count(), 2);
            uid(0);
            fs::write(own.join("2.json"), text("boot-1", 1)).unwrap();
        }
        assert!(!tombstones.scan().is_empty());
    }

    #[test]
    fn no_more_than_a_thousand_at_once_and_none_is_forgotten() {
        let folder = TempDir::new().unwrap();
        let mut tombstones = Tombstones::open(folder.path(), "boot-1").unwrap();
        for n in 0..AT_ONCE + 3 {
            fs::write(folder.path().join(format!("tombstones/{n}.json")), text("boot-1", 1)).unwrap();
        }
        let first = tombstones.scan();
        assert_eq!(first.len(), AT_ONCE);
        tombstones.remove(&first);
        assert_eq!(tombstones.scan().len(), 3);
    }
}
