//! What people type on a node: each asks the agent there, and prints what it says for people or programs.

pub mod audit;
mod explain;
mod reachability;
mod status;

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cadastre_messages::{Call, Reply, Request};

pub use explain::explain;
pub use status::status;

/// An agent that does not answer in this time will not.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "no agent answers at {path} ({source}): see whether its pod runs on this node (`kubectl get pods -A -o wide`), or name its socket with --socket"
    )]
    NoAgent { path: String, source: io::Error },
    #[error("the agent at {path} gave no answer in 10 s: see its log, and whether the node is short of CPU")]
    Silent { path: String },
    #[error("the agent at {path} did not answer to its end: {source}")]
    Broken { path: String, source: io::Error },
    #[error("the agent at {path} said {said:?}: use the command of its own release")]
    Garbled { path: String, said: String },
}

/// One deadline for connecting, asking and reading: none of the three has one of its own that holds in every case. The
/// thread that still waits ends with the process.
pub(crate) fn ask_in_time(socket: &Path, call: Call) -> Result<Reply, AskError> {
    let (answer, answered) = mpsc::channel();
    let path = socket.to_owned();
    // Nobody listens any more once the time is over.
    thread::spawn(move || drop(answer.send(ask(&path, call))));
    answered.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(AskError::Silent { path: socket.display().to_string() }))
}

fn ask(socket: &Path, call: Call) -> Result<Reply, AskError> {
    let path = || socket.display().to_string();
    let mut stream = UnixStream::connect(socket).map_err(|source| AskError::NoAgent { path: path(), source })?;
    let broken = |source| AskError::Broken { path: path(), source };
    let mut request = serde_json::to_vec(&Request::new(call)).map_err(|error| broken(error.into()))?;
    request.push(b'\n');
    stream.write_all(&request).map_err(broken)?;
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said).map_err(broken)?;
    serde_json::from_str(&said).map_err(|_| garbled(socket, &said))
}

pub(crate) fn garbled(socket: &Path, said: &str) -> AskError {
    AskError::Garbled { path: socket.display().to_string(), said: said.chars().take(200).collect() }
}

/// Whether failures are shown in colour.
fn paint() -> bool {
    io::stdout().is_terminal()
}

fn failed(message: &str, paint: bool) -> String {
    let word = if paint { "\x1b[1;31mFailed\x1b[0m" } else { "Failed" };
    format!("{word}    {message}")
}

/// `2 h 3 min`, `4 s`: the two largest parts.
fn duration(seconds: u64) -> String {
    let parts = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut rest = seconds;
    let mut said = Vec::new();
    for (size, name) in parts {
        if rest >= size && said.len() < 2 {
            said.push(format!("{} {name}", rest / size));
        }
        rest %= size;
    }
    if said.is_empty() { "0 s".to_owned() } else { said.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, expected) in
            [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7_380, "2 h 3 min"), (90_061, "1 d 1 h")]
        {
            assert_eq!(duration(seconds), expected);
        }
    }

    #[test]
    fn without_an_agent_the_remedy_is_said() {
        let nobody = ask(Path::new("/nowhere/cadastre.sock"), Call::Report).unwrap_err().to_string();
        assert!(nobody.starts_with("no agent answers at /nowhere/cadastre.sock (No such file"), "{nobody}");
    }
}
