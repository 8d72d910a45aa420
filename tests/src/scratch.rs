//! A folder for one test. What a killed test left behind is removed by the next one.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::{env, fs, process};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, test_kill_process};
use tempfile::{NamedTempFile, TempDir};

const PREFIX: &str = "cadastre-test-";

/// A folder under the system's temporary folder, removed on drop; kept if `CADASTRE_KEEP` is set.
#[derive(Debug)]
pub struct Scratch(Option<TempDir>);

impl Scratch {
    pub fn new() -> Result<Self> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        // The pid says whose it is, see `sweep`.
        let prefix = format!("{PREFIX}{}-", process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().context("making a folder for the test")?;
        Ok(Self(Some(folder)))
    }

    pub fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// Writes a file in one step, so that nobody reads half of it, and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path().join(name);
        let written = || {
            let mut file = NamedTempFile::new_in(self.path())?;
            file.write_all(content.as_ref())?;
            file.persist(&path)?;
            std::io::Result::Ok(())
        };
        written().with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Makes a folder in it, with those above it.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let (Some(folder), Some(_)) = (self.0.take(), env::var_os("CADASTRE_KEEP")) {
            eprintln!("kept: {}", folder.keep().display());
        }
    }
}

/// Removes the folders of processes that no longer exist.
fn sweep() {
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(is_dead) {
            // Another process may be sweeping too; whoever comes second finds nothing.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether no process has this pid.
pub(crate) fn is_dead(pid: &str) -> bool {
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}
