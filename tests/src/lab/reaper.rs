//! The process that removes what a cluster leaves behind when nobody else can: it waits for the end of a pipe whose other
//! end dies with this process.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::repo;

/// Dropping it lets it do its work, and waits for that.
#[derive(Debug)]
pub(super) struct Reaper(Child);

impl Reaper {
    /// In a group of its own: what ends a test's processes from a terminal is not for it.
    pub fn start() -> Result<Self> {
        let mut command = Command::new("bash");
        command.arg(repo().join("tests/lab/reap.sh")).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        Ok(Self(command.spawn().context("starting tests/lab/reap.sh")?))
    }

    pub fn cgroup(&self, name: &str) -> Result<()> {
        self.tell("cgroup", name)
    }

    pub fn netns(&self, name: &str) -> Result<()> {
        self.tell("netns", name)
    }

    /// Unless people want to see what tests left.
    pub fn folder(&self, path: &Path) -> Result<()> {
        match std::env::var_os("CADASTRE_KEEP") {
            Some(_) => Ok(()),
            None => self.tell("folder", &path.display().to_string()),
        }
    }

    fn tell(&self, kind: &str, name: &str) -> Result<()> {
        let mut pipe = self.0.stdin.as_ref().context("reap.sh has no standard input")?;
        writeln!(pipe, "{kind} {name}").context("telling reap.sh")
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It says itself what it could not remove.
        let _ = self.0.wait();
    }
}
