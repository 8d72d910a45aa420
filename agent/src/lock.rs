//! One agent for each state folder and each socket: the second one is told who the first is.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Held while the process lives; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

/// Why it is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{} is in use by {holder}: give each agent its own --state-dir and --socket, or stop that one", path.display())]
    Held { path: PathBuf, holder: String },
    #[error("cannot lock {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Lock {
    /// Takes the lock at `path` for `owner`, a line that says who we are.
    pub fn take(path: &Path, owner: &str) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                (&file).take(256).read_to_string(&mut holder).map_err(failed)?;
                return Err(LockError::Held { path: path.to_owned(), holder: holder.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).and_then(|()| file.write_all(owner.as_bytes())).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Whether the path still leads to the file that is locked: then nobody else can take it, nor can we once more.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        let ours = self.file.metadata().map(|file| (file.dev(), file.ino()));
        let there = fs::metadata(&self.path).map(|file| (file.dev(), file.ino()));
        matches!((ours, there), (Ok(ours), Ok(there)) if ours == there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("agent.lock");
        let first = Lock::take(&path, "agent of node n1, process 7").unwrap();
        let refused = Lock::take(&path, "agent of node n2").unwrap_err().to_string();
        assert!(refused.contains("is in use by agent of node n1, process 7: "), "{refused}");
        drop(first);
        let second = Lock::take(&path, "agent of node n2").unwrap();
        assert!(second.is_in_place());
        fs::remove_file(&path).unwrap();
        let third = Lock::take(&path, "agent of node n3").unwrap();
        assert!(third.is_in_place() && !second.is_in_place());
    }
}
