//! One line to the agent, one line back, within a deadline.
//!
//! ```text
//! connect ──▶ send ──▶ receive ──▶ Reply
//!    │ absent, refused   │ closed before the line ended      both pass: an agent that rolls is back soon, and every
//!    └───────◀───────────┘                                   verb may be repeated, so try again while patience lasts
//! ```

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cadastre_messages::{Call, MAX_LINE, Reply, Request};

/// Between two tries: long enough to cost nothing, short enough that nobody sees it.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Failed tries are repeated until this has passed.
    pub connect: Duration,
    /// All of it, tries included.
    pub total: Duration,
}

impl Patience {
    pub fn of(call: &Call) -> Self {
        let (connect, total) = match call {
            // Agents roll in less than 3 s. The agent itself lets an ADD wait for 10 s unless told otherwise, and has to
            // be the one who gives up: it knows why.
            Call::Add(_) | Call::Check(_) => (3_000, 30_000),
            // A tombstone does as well, so there is no use in waiting.
            Call::Del(_) => (80, 5_000),
            Call::Gc(_) => (0, 30_000),
            Call::Status | Call::Report => (0, 5_000),
        };
        Self { connect: Duration::from_millis(connect), total: Duration::from_millis(total) }
    }
}

/// Why there is no reply.
#[derive(Debug)]
pub enum Away {
    /// Nobody listens.
    Unreachable(io::Error),
    /// The connection ended before the reply did.
    Lost(io::Error),
    /// Connected, and not a whole line in this time.
    Silent(Duration),
    /// A line that is no reply.
    Garbled(String),
    /// The request has so many bytes that the agent would not read it.
    TooLong(usize),
}

impl Away {
    /// Whether time alone may mend it.
    pub fn passes(&self) -> bool {
        match self {
            Self::Unreachable(error) => error.kind() != ErrorKind::PermissionDenied,
            Self::Lost(_) => true,
            Self::Silent(_) | Self::Garbled(_) | Self::TooLong(_) => false,
        }
    }
}

impl fmt::Display for Away {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(out, "cannot connect: {error}"),
            Self::Lost(error) => write!(out, "the connection ended before the reply: {error}"),
            Self::Silent(waited) => write!(out, "no reply within {} s", waited.as_secs_f32()),
            Self::Garbled(what) => write!(out, "the reply cannot be read: {what}"),
            Self::TooLong(bytes) => write!(out, "the request has {bytes} bytes, and the agent reads {MAX_LINE}"),
        }
    }
}

pub fn ask(socket: &Path, call: &Call, patience: Patience) -> Result<Reply, Away> {
    let line = line_of(call)?;
    let start = Instant::now();
    let deadline = Deadline { at: start + patience.total, whole: patience.total };
    loop {
        let away = match exchange(socket, &line, deadline) {
            Ok(reply) => return Ok(reply),
            Err(away) => away,
        };
        if !away.passes() || start.elapsed() + PAUSE > patience.connect {
            return Err(away);
        }
        thread::sleep(PAUSE);
    }
}

fn line_of(call: &Call) -> Result<Vec<u8>, Away> {
    let mut line = serde_json::to_vec(&Request::new(call.clone())).map_err(|error| Away::Garbled(error.to_string()))?;
    line.push(b'\n');
    if line.len() > MAX_LINE { Err(Away::TooLong(line.len())) } else { Ok(line) }
}

/// When the whole call ends, and how long that was at the start.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    whole: Duration,
}

impl Deadline {
    /// What is left, never zero: a socket takes zero for an error.
    fn left(self) -> Result<Duration, Away> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Away::Silent(self.whole)) } else { Ok(left) }
    }

    /// A socket's timeout looks like a socket that would block.
    fn sort(self, error: io::Error) -> Away {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Away::Silent(self.whole),
            _ => Away::Lost(error),
        }
    }
}

fn exchange(socket: &Path, line: &[u8], deadline: Deadline) -> Result<Reply, Away> {
    let mut stream = UnixStream::connect(socket).map_err(Away::Unreachable)?;
    stream.set_write_timeout(Some(deadline.left()?)).map_err(Away::Lost)?;
    stream.write_all(line).map_err(|error| deadline.sort(error))?;
    let reply = receive(&mut stream, deadline)?;
    serde_json::from_slice(&reply).map_err(|error| Away::Garbled(error.to_string()))
}

/// The bytes before the first line end.
fn receive(stream: &mut UnixStream, deadline: Deadline) -> Result<Vec<u8>, Away> {
    let mut line = Vec::with_capacity(512);
    let mut chunk = [0; 4096];
    loop {
        stream.set_read_timeout(Some(deadline.left()?)).map_err(Away::Lost)?;
        let read = match stream.read(&mut chunk) {
            Ok(0) => return Err(Away::Lost(ErrorKind::UnexpectedEof.into())),
            Ok(read) => chunk.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(deadline.sort(error)),
        };
        let end = read.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(read.get(..end.unwrap_or(read.len())).unwrap_or_default());
        if line.len() > MAX_LINE {
            return Err(Away::Garbled(format!("it has more than {MAX_LINE} bytes")));
        }
        if end.is_some() {
            return Ok(line);
        }
    }
}
