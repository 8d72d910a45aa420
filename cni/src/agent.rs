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
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

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
            // What is taken over is a part of an ADD, whose time it spends: see `left_since`.
            Call::Add(_) | Call::Check(_) | Call::TakeOver(_) => (3_000, 30_000),
            // A tombstone does as well, so there is no use in waiting.
            Call::Del(_) => (80, 5_000),
            Call::Gc(_) => (0, 30_000),
            Call::Status(_) | Call::Hold(_) | Call::Report | Call::Explain(_) => (0, 5_000),
        };
        Self { connect: Duration::from_millis(connect), total: Duration::from_millis(total) }
    }

    /// What is left of it, for one call of several.
    pub fn left_since(self, start: Instant) -> Self {
        Self { total: self.total.saturating_sub(start.elapsed()), ..self }
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
        let away = match connect(socket, deadline).and_then(|stream| exchange(stream, &line, deadline)) {
            Ok(reply) => return Ok(reply),
            Err(away) => away,
        };
        if !away.passes() || start.elapsed() + PAUSE > patience.connect {
            return Err(away);
        }
        thread::sleep(PAUSE);
    }
}

pub fn line_of(call: &Call) -> Result<Vec<u8>, Away> {
    let mut line = serde_json::to_vec(&Request::new(call.clone())).map_err(|error| Away::Garbled(error.to_string()))?;
    line.push(b'\n');
    if line.len() > MAX_LINE { Err(Away::TooLong(line.len())) } else { Ok(line) }
}

/// When the whole call ends, and how long that was at the start.
#[derive(Clone, Copy)]
pub struct Deadline {
    pub at: Instant,
    pub whole: Duration,
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

/// std's connect has no deadline for unix sockets, and would wait for ever when an agent hangs until its socket's queue is
/// full; one that does not block says so instead.
fn connect(socket: &Path, deadline: Deadline) -> Result<UnixStream, Away> {
    let unreachable = |error: Errno| Away::Unreachable(error.into());
    let address = SocketAddrUnix::new(socket).map_err(unreachable)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream =
        UnixStream::from(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(unreachable)?);
    loop {
        match rustix::net::connect(&stream, &address) {
            Ok(()) => break,
            Err(Errno::AGAIN) => thread::sleep(PAUSE.min(deadline.left()?)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(unreachable(error)),
        }
    }
    stream.set_nonblocking(false).map_err(Away::Unreachable)?;
    Ok(stream)
}

pub fn exchange(mut stream: UnixStream, line: &[u8], deadline: Deadline) -> Result<Reply, Away> {
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

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::process;

    use cadastre_messages::{Add, Attachment, Check, Del, Gc, Netns, Status};

    use super::*;

    const BRIEF: Patience = Patience { connect: Duration::from_millis(40), total: Duration::from_millis(200) };

    /// A socket's path that no other test has, removed at the end.
    struct Socket(PathBuf);

    impl Socket {
        fn new(name: &str) -> Self {
            Self(env::temp_dir().join(format!("cadastre-agent-{}-{name}", process::id())))
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            drop(fs::remove_file(&self.0));
        }
    }

    fn attachment(container_id: &str) -> Attachment {
        Attachment { network: "net".into(), container_id: container_id.into(), interface: "eth0".into() }
    }

    #[test]
    fn an_add_outwaits_the_agent_and_a_del_waits_for_nobody() {
        let netns = Netns { path: String::new(), device: 0, inode: 0 };
        let add = Call::Add(Add::new(attachment("c"), netns, None));
        let check = Call::Check(Check { attachment: attachment("c"), addresses: vec![] });
        for call in [add, check] {
            let Patience { connect, total, .. } = Patience::of(&call);
            assert_eq!(connect, Duration::from_secs(3));
            assert!(total > Duration::from_secs(10), "longer than the agent lets an ADD wait");
        }
        let ten_ago = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let left =
            Patience::of(&Call::Check(Check { attachment: attachment("c"), addresses: vec![] })).left_since(ten_ago);
        assert!(left.total <= Duration::from_secs(20), "several calls share one deadline");
        let del = Patience::of(&Call::Del(Del { attachment: attachment("c") }));
        assert!(del.connect < Duration::from_millis(100) && del.total <= Duration::from_secs(5));
        for call in [Call::Status(Status::default()), Call::Gc(Gc { network: "net".into(), valid: vec![] })] {
            assert_eq!(Patience::of(&call).connect, Duration::ZERO);
        }
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let socket = Socket::new("silent");
        let _listener = UnixListener::bind(&socket.0).unwrap();
        let start = Instant::now();
        let away = ask(&socket.0, &Call::Status(Status::default()), BRIEF).unwrap_err();
        assert!(matches!(away, Away::Silent(_)), "{away}");
        assert!(start.elapsed() >= BRIEF.total);
    }

    #[test]
    fn a_full_queue_does_not_hold_a_call() {
        let socket = Socket::new("full");
        let listener = UnixListener::bind(&socket.0).unwrap();
        let longest: usize = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
        // What connects stays queued after it is closed; the kernel lets in one more than the queue's length.
        for _ in 0..=longest {
            drop(UnixStream::connect(&socket.0).unwrap());
        }
        let away = ask(&socket.0, &Call::Status(Status::default()), BRIEF).unwrap_err();
        assert!(matches!(away, Away::Silent(_)), "{away}");
        drop(listener);
    }

    #[test]
    fn what_the_agent_would_not_read_is_not_sent() {
        let call = Call::Del(Del { attachment: attachment(&"c".repeat(MAX_LINE)) });
        let away = ask(Path::new("/nonexistent/socket"), &call, BRIEF).unwrap_err();
        assert!(matches!(away, Away::TooLong(bytes) if bytes > MAX_LINE), "{away}");
    }

    #[test]
    fn tries_are_repeated_while_patience_lasts() {
        let start = Instant::now();
        let away = ask(Path::new("/nonexistent/socket"), &Call::Status(Status::default()), BRIEF).unwrap_err();
        assert!(matches!(away, Away::Unreachable(_)), "{away}");
        assert!(start.elapsed() >= PAUSE, "it tried more than once");
    }
}
