//! Network namespaces as paths on this node. Device and inode prove later that one is gone, even if another took its path.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cadastre_messages::Netns;

/// The namespace, which need not be there.
pub fn at(path: &Path) -> Netns {
    if_there(path).unwrap_or_else(|| unread(path))
}

/// The namespace, unless it is gone. A path that cannot be read is unknown, not gone.
pub fn if_there(path: &Path) -> Option<Netns> {
    match fs::metadata(path) {
        Ok(file) => Some(Netns { device: file.dev(), inode: file.ino(), ..unread(path) }),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
        Err(_) => Some(unread(path)),
    }
}

/// One that nobody named.
pub fn unknown() -> Netns {
    unread(Path::new(""))
}

fn unread(path: &Path) -> Netns {
    Netns { path: path.to_string_lossy().into_owned(), device: 0, inode: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_known_by_device_and_inode() {
        let path = Path::new("/proc/self/ns/net");
        let file = fs::metadata(path).unwrap();
        let netns = Netns { path: "/proc/self/ns/net".into(), device: file.dev(), inode: file.ino() };
        assert_ne!(file.ino(), 0);
        assert_eq!((at(path), if_there(path)), (netns.clone(), Some(netns)));
    }

    #[test]
    fn one_that_is_gone_is_told_from_one_that_is_unknown() {
        for gone in ["/nonexistent/netns", "/proc/self/status/netns"] {
            assert_eq!(if_there(Path::new(gone)), None);
            assert_eq!(at(Path::new(gone)), Netns { path: gone.into(), device: 0, inode: 0 });
        }
        let long = format!("/{}", "x".repeat(300));
        assert_eq!(if_there(Path::new(&long)), Some(Netns { path: long, device: 0, inode: 0 }));
    }
}
