//! A process that a test watches, freezes, kills and starts again. It dies with the value, and with the test's process.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{NetNs, Program, eventually, spawner};

/// How much of a log goes into an error.
const TAIL_LINES: usize = 30;

/// A running (or killed, and perhaps restarted) program.
#[derive(Debug)]
pub struct Proc {
    program: Program,
    name: String,
    log: PathBuf,
    /// Guards which process stands behind this value; held for single system calls only.
    child: Mutex<Child>,
}

impl Proc {
    pub(crate) fn start(program: Program, folder: &Path, name: &str) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let child = Mutex::new(launch(&program, &log)?);
        Ok(Self { program, name: name.to_owned(), log, child })
    }

    /// Kills what is left of it and starts it anew, with the same arguments; the log goes on.
    pub fn restart(&self) -> Result<()> {
        self.kill9();
        *self.child() = launch(&self.program, &self.log)?;
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    pub fn is_running(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// Its anonymous memory, in KiB: what it allocated, without the program itself.
    pub fn anonymous_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).with_context(|| format!("{path}: {}", self.tail()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// CPU time of its threads so far, in ms; finer than `/proc/PID/stat`, which counts in steps of 10 ms.
    pub fn cpu_ms(&self) -> Result<f64> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).with_context(|| self.tail())?;
        threads.map(|thread| thread_cpu_ms(&thread?.path())).sum()
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill9(&self) {
        let mut child = self.child();
        signal(&mut child, Signal::KILL);
        // It was killed above, or had ended before: this cannot block for long, and there is nothing to report.
        let _ = child.wait();
    }

    /// SIGTERM: asks it to end.
    pub fn term(&self) {
        signal(&mut self.child(), Signal::TERM);
    }

    /// SIGSTOP: freezes it.
    pub fn stop(&self) {
        signal(&mut self.child(), Signal::STOP);
    }

    /// SIGCONT: lets it go on.
    pub fn cont(&self) {
        signal(&mut self.child(), Signal::CONT);
    }

    /// Waits until it ends by itself.
    pub async fn wait_exit(&self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let ended = eventually(timeout, &what, || async {
            self.child().try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it still runs".to_owned())
        });
        ended.await.with_context(|| self.tail())
    }

    /// All that it has printed so far, in all its lives.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The answer of its health server, with the head: the address is in its log, that of its last life at the end.
    pub async fn http(&self, path: &str) -> Result<String> {
        let address = self.listens()?;
        ask(tokio::net::TcpStream::connect(address).await?, address, path).await
    }

    /// As [`Proc::http`], of one that runs in another network namespace.
    pub async fn http_in(&self, netns: &NetNs, path: &str) -> Result<String> {
        let address = self.listens()?;
        let stream = netns.connect(address)?;
        stream.set_nonblocking(true)?;
        ask(tokio::net::TcpStream::from_std(stream)?, address, path).await
    }

    /// Where its health server listens.
    pub fn listens(&self) -> Result<SocketAddr> {
        let log = self.log();
        let address = log.rsplit_once("listen=").map(|(_, rest)| rest).and_then(|rest| rest.split_whitespace().next());
        Ok(address.context("no address in the log")?.parse()?)
    }

    pub fn log_contains(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    /// Waits until it has printed `text`.
    pub async fn wait_log(&self, timeout: Duration, text: &str) -> Result<()> {
        let what = format!("`{text}` in the log of {}", self.name);
        eventually(timeout, &what, || async { self.log_contains(text) }).await.with_context(|| self.tail())
    }

    /// The last lines of its log, for an error.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        format!("the log of {} ends with:\n{}", self.name, lines[from..].join("\n"))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        // A poisoned lock still holds the right child, and dropping must work while a test panics.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(mut stream: tokio::net::TcpStream, address: SocketAddr, path: &str) -> Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

impl Drop for Proc {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}", self.tail());
        }
        self.kill9();
    }
}

/// The first number of `schedstat` is time on a CPU, in ns.
fn thread_cpu_ms(thread: &Path) -> Result<f64> {
    let path = thread.join("schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let nanoseconds: f64 = text.split_whitespace().next().context("an empty schedstat")?.parse()?;
    Ok(nanoseconds / 1e6)
}

fn launch(program: &Program, log: &Path) -> Result<Child> {
    let output = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
    let mut command = program.command();
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    spawner::spawn(command).with_context(|| format!("starting {program}"))
}

/// Signals the process and what it started. Until it has been waited for, its pid cannot be anybody else's.
fn signal(child: &mut Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let (Some(pid), Ok(None)) = (pid, child.try_wait()) {
        // The only failure left is that it ended just now.
        let _ = kill_process_group(pid, signal);
    }
}
