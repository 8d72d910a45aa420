//! Files that others wrote: whatever else lies at their path, such as a pipe that nobody writes to, must not stop an ADD.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The file; `None` if that is something else.
pub fn open(path: &Path) -> io::Result<Option<(File, Metadata)>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    Ok(metadata.is_file().then_some((file, metadata)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read() {
        assert!(open(Path::new("/proc/self/status")).unwrap().is_some());
        for other in ["/dev/zero", "/proc/self"] {
            assert!(open(Path::new(other)).unwrap().is_none(), "{other}");
        }
        assert_eq!(open(Path::new("/nonexistent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
