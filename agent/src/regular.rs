//! Files that others can put something else in place of: a pipe that nobody writes to, say, must not stop the agent.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Its content. What is no file is an error.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?.read_to_end(&mut content)?;
    Ok(content)
}

/// Likewise, of a file that is text.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    io::read_to_string(open(path)?)
}

/// A folder passes: the kernel has words of its own for who reads it.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() {
        Ok(file)
    } else {
        Err(io::Error::other("it is a pipe or a device, and no file"))
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    #[test]
    fn only_files_are_read() {
        let folder = tempfile::TempDir::new().unwrap();
        let (file, pipe) = (folder.path().join("file"), folder.path().join("pipe"));
        std::fs::write(&file, "text").unwrap();
        mknodat(CWD, &pipe, FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!((read(&file).unwrap(), read_to_string(&file).unwrap()), (b"text".to_vec(), "text".to_owned()));
        for other in [&pipe, Path::new("/dev/zero")] {
            assert_eq!(read(other).unwrap_err().to_string(), "it is a pipe or a device, and no file");
        }
        assert_eq!(read(folder.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read_to_string(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
