//! Files that others read: whole or not at all.
//!
//! Written under a name that begins with a dot, which runtimes do not look at, and renamed. So nobody reads half of it, and a
//! plugin that runs goes on as it was. Without `fsync`: what a power failure leaves, the next agent compares and mends.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What could not be done to which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}{}", path.display(), remedy(source))]
pub struct PlaceError {
    pub what: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl PlaceError {
    /// For `map_err`.
    pub fn of(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { what, path, source }
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make room there",
        ErrorKind::ReadOnlyFilesystem => "; name a folder that can be written with cni.confPath or cni.binPath",
        ErrorKind::PermissionDenied => {
            "; see who owns the folder, that the agent runs as root, and what SELinux or AppArmor say (ausearch -m avc, dmesg)"
        }
        ErrorKind::IsADirectory => "; it is a folder: move it away",
        _ => "",
    }
}

/// What changes with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    identity: (u64, u64),
    size: u64,
    /// When content or mode were changed: seconds and nanoseconds.
    changed: (i64, i64),
}

impl Stamp {
    /// `None` if there is no such file.
    pub fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self { identity: (file.dev(), file.ino()), size: file.size(), changed: (file.ctime(), file.ctime_nsec()) })
    }
}

/// Makes `path` be this content. The folder has to be there.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), PlaceError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.new"));
    let written = || {
        // What an agent left that died.
        absent(fs::remove_file(&aside))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
        file.write_all(content)?;
        // As asked for, whatever the umask.
        file.set_permissions(Permissions::from_mode(mode))
    };
    written().and_then(|()| fs::rename(&aside, path)).map_err(|source| {
        drop(fs::remove_file(&aside)); // Its own failure would hide the reason.
        let path = if aside.is_dir() { &aside } else { path };
        PlaceError { what: "write", path: path.to_owned(), source }
    })
}

/// Removes it. Returns whether it was there.
pub fn remove(path: &Path) -> Result<bool, PlaceError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PlaceError { what: "remove", path: path.to_owned(), source }),
    }
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_whole_or_not_there() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("05-x");
        fs::write(folder.path().join(".05-x.new"), "what a dead agent left").unwrap();
        write(&path, b"one", 0o755).unwrap();
        let first = fs::metadata(&path).unwrap();
        write(&path, b"two", 0o755).unwrap();
        assert_ne!(fs::metadata(&path).unwrap().ino(), first.ino(), "what runs goes on with the old one");
        assert_eq!((fs::read(&path).unwrap(), first.mode() & 0o777), (b"two".to_vec(), 0o755));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
    }

    #[test]
    fn a_full_disk_is_said_and_leaves_nothing() {
        let full = io::Error::from(ErrorKind::StorageFull);
        let error = PlaceError { what: "write", path: "/opt/cni/bin/cadastre".into(), source: full };
        assert_eq!(error.to_string(), "cannot write /opt/cni/bin/cadastre: no storage space; make room there");
        let gone = write(Path::new("/nowhere/at/all"), b"", 0o600).unwrap_err();
        assert!(gone.to_string().starts_with("cannot write /nowhere/at/all: No such file"), "{gone}");
    }
}
