//! The socket's place: a folder for root only, one agent, and no trace of a dead one.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::lock::{Lock, LockError};

/// What a mode allows everybody but the owner.
const OTHERS: u32 = 0o077;

/// A listening socket.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Who we are, for the lock.
    owner: String,
    /// Device and inode of the socket's file.
    identity: (u64, u64),
    lock: Lock,
}

/// Why nobody can call.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

impl Socket {
    /// Listens at `path`. What a dead agent left there is replaced; a living one is left alone.
    pub fn listen(path: &Path, owner: &str) -> Result<Self, ListenError> {
        make_private(folder_of(path)).map_err(failed("make", folder_of(path)))?;
        let lock = Lock::take(&lock_of(path), owner)?;
        let (listener, identity) = bind(path)?;
        Ok(Self { listener, path: path.to_owned(), owner: owner.to_owned(), identity, lock })
    }

    /// Listens anew if somebody removed the socket. Returns whether that was so.
    pub(super) fn tend(&mut self) -> Result<bool, ListenError> {
        if identity(&self.path).is_ok_and(|there| there == self.identity) {
            return Ok(false);
        }
        make_private(folder_of(&self.path)).map_err(failed("make", folder_of(&self.path)))?;
        // Without the socket alone the lock is still ours, and could not be taken again.
        if !self.lock.is_in_place() {
            self.lock = Lock::take(&lock_of(&self.path), &self.owner)?;
        }
        (self.listener, self.identity) = bind(&self.path)?;
        tracing::warn!(path = %self.path.display(), "the socket was removed; it is there again");
        Ok(true)
    }

    /// Nobody listens any more.
    pub(super) fn close(self) {
        let Self { listener, path, owner: _, identity: _, lock: _lock } = self;
        drop(listener);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "the socket could not be removed");
        }
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ListenError {
    let path = path.to_owned();
    move |source| ListenError::Io { what, path, source }
}

fn lock_of(socket: &Path) -> PathBuf {
    socket.with_extension("lock")
}

/// Listens in place of whatever is there. Whose lock it is may do that.
fn bind(path: &Path) -> Result<(UnixListener, (u64, u64)), ListenError> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed("replace", path)(source)),
    }
    // Made under another name, so that nobody finds it before its mode is right.
    let aside = path.with_extension("new");
    drop(fs::remove_file(&aside));
    let listener = UnixListener::bind(&aside).map_err(failed("listen at", &aside))?;
    fs::set_permissions(&aside, Permissions::from_mode(0o600)).map_err(failed("protect", &aside))?;
    fs::rename(&aside, path).map_err(failed("rename to", path))?;
    listener.set_nonblocking(true).map_err(failed("prepare", path))?;
    let identity = identity(path).map_err(failed("look at", path))?;
    Ok((listener, identity))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|there| (there.dev(), there.ino()))
}

/// The folder that a socket lies in, with the tombstones.
#[must_use]
pub fn folder_of(socket: &Path) -> &Path {
    socket.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the folder for us alone. One that kubelet made for a mount is open to others and empty: it is closed. One with
/// things of others in it is theirs to protect.
fn make_private(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).recursive(false).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(_) => return DirBuilder::new().mode(0o700).recursive(true).create(folder),
    }
    let ours = ["journal", "journal.new", "agent.lock", cadastre_messages::TOMBSTONES];
    let mode = fs::metadata(folder)?.permissions().mode();
    let mut entries = fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.file_name());
    let stranger =
        entries.find(|name| !ours.iter().any(|ours| name == ours) && !name.to_string_lossy().contains("cadastre"));
    match stranger {
        _ if mode & OTHERS == 0 => Ok(()),
        None => fs::set_permissions(folder, Permissions::from_mode(0o700)),
        Some(name) => {
            tracing::warn!(folder = %folder.display(), ?name, "the socket's folder is open to others and not ours alone: its mode stays");
            Ok(())
        }
    }
}
