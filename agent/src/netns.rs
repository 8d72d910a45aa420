//! Whether a network namespace still lives: one of the two proofs that an address is used by nobody.
//!
//! Paths come from the runtime. They are looked at, never opened or made; and a path says something only if the agent
//! once saw the namespace there itself, for it may live on other mounts than the plugin.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

use cadastre_messages::Netns;

use crate::record::NetnsRecord;

/// What the path says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Lives,
    Gone,
    /// Unreadable, or never seen by this agent.
    Unknown,
}

/// Whether the agent finds the very namespace that the plugin named.
#[must_use]
pub fn sees(netns: &Netns) -> bool {
    let Netns { path, device, inode } = netns;
    *inode != 0
        && is_plain(path)
        && fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (*device, *inode))
}

/// What has become of a namespace.
#[must_use]
pub fn probe(netns: &NetnsRecord) -> Probe {
    let NetnsRecord { path, device, inode, seen } = netns;
    if !seen || !is_plain(path) {
        return Probe::Unknown;
    }
    match fs::metadata(path) {
        Ok(there) if (there.dev(), there.ino()) == (*device, *inode) => Probe::Lives,
        Ok(_) => Probe::Gone,
        Err(error) if error.kind() == ErrorKind::NotFound && shows_namespaces(path) => Probe::Gone,
        Err(_) => Probe::Unknown,
    }
}

/// Absolute and without detours, as runtimes write them.
fn is_plain(path: &str) -> bool {
    let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    Path::new(path).is_absolute() && Path::new(path).components().all(plain)
}

/// That a file is missing means something only where its folder is there: it may not be mounted. The folder of a process
/// goes with the process.
fn shows_namespaces(path: &str) -> bool {
    if path.starts_with("/proc/") {
        return Path::new("/proc/self/ns/net").exists();
    }
    Path::new(path).parent().is_some_and(Path::is_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(path: &Path) -> NetnsRecord {
        let there = fs::metadata(path).unwrap();
        NetnsRecord { path: path.display().to_string(), device: there.dev(), inode: there.ino(), seen: true }
    }

    #[test]
    fn a_namespace_lives_is_gone_or_nobody_knows() {
        let folder = tempfile::TempDir::new().unwrap();
        let (path, other) = (folder.path().join("ns"), folder.path().join("other"));
        fs::write(&path, "").unwrap();
        fs::write(&other, "").unwrap();
        let netns = record(&path);
        assert_eq!(probe(&netns), Probe::Lives);
        assert_eq!(probe(&NetnsRecord { seen: false, ..netns.clone() }), Probe::Unknown);
        let detour = folder.path().join("x/../ns").display().to_string();
        assert_eq!(probe(&NetnsRecord { path: detour, ..netns.clone() }), Probe::Unknown);
        fs::rename(&other, &path).unwrap();
        assert_eq!(probe(&netns), Probe::Gone, "another one at the same path");
        fs::remove_file(&path).unwrap();
        assert_eq!(probe(&netns), Probe::Gone);
        fs::remove_dir(folder.path()).unwrap();
        assert_eq!(probe(&netns), Probe::Unknown, "the folder is not there, so it shows nothing");
        let process = NetnsRecord { path: "/proc/4194399/ns/net".into(), ..netns };
        assert_eq!(probe(&process), Probe::Gone);
    }

    #[test]
    fn the_agent_sees_only_what_is_the_same_file() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("ns");
        fs::write(&path, "").unwrap();
        let NetnsRecord { path, device, inode, seen: _ } = record(&path);
        assert!(sees(&Netns { path: path.clone(), device, inode }));
        assert!(!sees(&Netns { path: path.clone(), device, inode: inode + 1 }));
        assert!(!sees(&Netns { path: format!("{path}x"), device, inode }));
        assert!(!sees(&Netns { path: "relative".into(), device: 0, inode: 0 }));
    }
}
