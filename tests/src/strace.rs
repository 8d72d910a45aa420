//! Dying at a chosen system call. `strace` says which calls a thread makes, and kills the process as the nth of a kind is
//! about to be made. To die after a call is to die before the next one, so nothing else is needed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{Proc, Program};

/// What touches files, sockets and descriptors; the end of a process as well.
const TRACED: &str = "trace=%file,%desc,%network,exit_group";

/// Attaching takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The nth time, counted from 1, that a thread makes this system call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    pub call: String,
    pub nth: usize,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} no. {}", self.call, self.nth)
    }
}

/// Where a trace is written.
#[derive(Debug)]
pub struct Trace {
    path: PathBuf,
}

impl Trace {
    pub fn new(folder: &Path) -> Self {
        Self { path: folder.join("trace") }
    }

    /// Watches one thread of a running program, and kills the program at that step of it, if any is given. Returns once
    /// the thread is watched.
    pub async fn attach(&self, thread: u32, kill: Option<&Step>) -> Result<Proc> {
        self.attached(self.strace(kill), thread).await
    }

    /// Lets these system calls of one thread fail, until the watching process is asked to end.
    pub async fn fail(&self, thread: u32, calls: &str, errno: &str) -> Result<Proc> {
        self.attached(self.strace(None).arg("-e").arg(format!("inject={calls}:error={errno}")), thread).await
    }

    async fn attached(&self, strace: Program, thread: u32) -> Result<Proc> {
        let folder = self.path.parent().context("a trace without a folder")?;
        let strace = strace.args(["-p", &thread.to_string()]).start(folder, &format!("strace-{thread}"))?;
        strace.wait_log(PATIENCE, "attached").await?;
        Ok(strace)
    }

    /// The program, watched from its start: its first thread alone, or all of them.
    pub fn wrap(&self, program: &Program, all_threads: bool, kill: Option<&Step>) -> Program {
        let strace = self.strace(kill).args(all_threads.then_some("-f"));
        program.clone().under(strace)
    }

    /// The first thread of the program, stopped at that step until it is told to go on.
    pub fn wrap_stopping(&self, program: &Program, Step { call, nth }: &Step) -> Program {
        let inject = format!("inject={call}:signal=STOP:when={nth}");
        program.clone().under(self.strace(None).arg("-e").arg(inject))
    }

    fn strace(&self, kill: Option<&Step>) -> Program {
        // Paths of descriptors tell the files of a test from those of the C library.
        let strace = Program::new("strace").args(["-y", "-s", "64", "-e", TRACED]).arg("-o").arg(&self.path);
        match kill {
            Some(Step { call, nth }) => strace.arg("-e").arg(format!("inject={call}:signal=KILL:when={nth}")),
            None => strace,
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).into_owned()
    }

    /// Every step with its line, in order. Of a program of several threads, those of all.
    pub fn steps(&self) -> Vec<(Step, String)> {
        let mut counts = BTreeMap::<(String, String), usize>::new();
        let text = self.text();
        let named = text.lines().filter_map(|line| {
            let (thread, line) = match line.split_once(' ') {
                Some((pid, rest)) if pid.bytes().all(|byte| byte.is_ascii_digit()) => (pid, rest.trim_start()),
                _ => ("", line),
            };
            let call = line.split('(').next().filter(|call| !call.is_empty() && !call.contains([' ', '<', '+']))?;
            Some((thread.to_owned(), call.to_owned(), line.to_owned()))
        });
        let mut number = |(thread, call, line): (String, String, String)| {
            let nth = counts.entry((thread, call.clone())).or_default();
            *nth += 1;
            (Step { call, nth: *nth }, line)
        };
        named.map(&mut number).collect()
    }
}

/// The thread of a process that has this name.
pub fn thread_of(process: &Proc, name: &str) -> Result<u32> {
    let tasks = PathBuf::from(format!("/proc/{}/task", process.pid()));
    for entry in fs::read_dir(&tasks).with_context(|| process.tail())?.flatten() {
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.trim() == name {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    anyhow::bail!("process {} has no thread {name}", process.pid())
}
