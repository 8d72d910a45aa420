//! What a DEL leaves for an agent that is away, so that DEL can succeed and nothing leaks.
//!
//! ```text
//! <folder of the socket>/tombstones/<time since boot>-<pid>-<counter>.json
//! ```
//! The agent reads the folder after it listens and at every later pass. Nothing is synced to disk: a reboot ends every
//! attachment, so a tombstone needs to outlive processes only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use cadastre_messages::{Attachment, MAX_LINE, PROTOCOL, TOMBSTONES, Tombstone};

/// Two namespaces of process IDs can give one name to two plugins in the same hundredth of a second; not to so many.
const NAMES: u32 = 100;

pub fn leave(socket: &Path, attachment: Attachment) -> io::Result<PathBuf> {
    let tombstone = Tombstone { protocol: PROTOCOL, boot_id: boot_id()?, at: since_boot()?, attachment };
    let mut text = serde_json::to_vec(&tombstone)?;
    text.push(b'\n');
    if text.len() > MAX_LINE {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("it would have {} bytes", text.len())));
    }
    let folder = socket.parent().unwrap_or(Path::new("/")).join(TOMBSTONES);
    DirBuilder::new().mode(0o700).recursive(true).create(&folder)?;
    write(&folder, tombstone.at, &text)
}

fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

fn since_boot() -> io::Result<u64> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    hundredths(&uptime).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("/proc/uptime says {uptime:?}")))
}

/// `12345.67 …` becomes 1234567. The kernel prints two decimals, always.
fn hundredths(uptime: &str) -> Option<u64> {
    let (seconds, hundredths) = uptime.split_whitespace().next()?.split_once('.')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    if hundredths.len() != 2 {
        return None;
    }
    number(seconds)?.checked_mul(100)?.checked_add(number(hundredths)?)
}

/// Written aside and renamed, so that the agent never reads half of one.
fn write(folder: &Path, at: u64, text: &[u8]) -> io::Result<PathBuf> {
    let (temporary, file, path) = claim(folder, &format!("{at}-{}", process::id()))?;
    let written = fill(file, text).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        drop(fs::remove_file(&temporary)); // The first error is the one to tell.
    }
    written.map(|()| path)
}

/// A name that nobody has. While the temporary file is ours the final name cannot appear, so looking once is enough.
fn claim(folder: &Path, stem: &str) -> io::Result<(PathBuf, File, PathBuf)> {
    for counter in 0..NAMES {
        let path = folder.join(format!("{stem}-{counter}.json"));
        let temporary = path.with_extension("tmp");
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary) {
            Ok(file) if !path.try_exists()? => return Ok((temporary, file, path)),
            Ok(_) => fs::remove_file(&temporary)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

fn fill(mut file: File, text: &[u8]) -> io::Result<()> {
    file.write_all(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of this test's own, removed at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("cadastre-tombstone-{}-{name}", process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn uptime_is_read_exactly() {
        let table = [
            ("12345.67 99.00\n", Some(1_234_567)),
            ("0.00 0.00\n", Some(0)),
            ("0.07 1", Some(7)),
            ("12345 6\n", None),
            ("1.5 2\n", None),
            ("-1.00", None),
            ("1.-5", None),
            ("99999999999999999999.00", None),
            ("", None),
        ];
        for (uptime, expected) in table {
            assert_eq!(hundredths(uptime), expected, "{uptime}");
        }
    }

    #[test]
    fn names_never_meet() {
        let folder = Folder::new("names");
        let first = write(&folder.0, 7, b"first").unwrap();
        let second = write(&folder.0, 7, b"second").unwrap();
        fs::write(folder.0.join(format!("8-{}-0.tmp", process::id())), "another's").unwrap();
        let third = write(&folder.0, 8, b"third").unwrap();
        for (path, text) in [(&first, "first"), (&second, "second"), (&third, "third")] {
            assert_eq!(fs::read_to_string(path).unwrap(), text);
        }
        assert_eq!(third.file_name().unwrap().to_string_lossy(), format!("8-{}-1.json", process::id()));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 4);
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let folder = Folder::new("failed");
        let blocked = folder.0.join(format!("9-{}-0.json", process::id()));
        let all = |name: u32| folder.0.join(format!("9-{}-{name}.json", process::id()));
        for name in 0..NAMES {
            fs::create_dir(all(name)).unwrap();
        }
        assert_eq!(write(&folder.0, 9, b"text").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(blocked.is_dir());
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), NAMES as usize);
    }
}
