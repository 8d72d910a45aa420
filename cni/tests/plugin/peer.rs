//! The agent as an actor: it plays one act for each connection, the last one again and again.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::run::Folder;

/// What it does with one connection.
#[derive(Clone)]
pub enum Act {
    /// Reads the request, answers this line.
    Reply(Value),
    /// The same, so much later.
    Late(Duration, Value),
    /// Reads the request, answers these bytes and closes.
    Bytes(Vec<u8>),
    /// Reads the request and says nothing until the end.
    Hang,
    /// Closes at once.
    Close,
}

pub struct Peer {
    pub folder: Folder,
    requests: Receiver<Value>,
    ended: Arc<AtomicBool>,
    actor: Option<JoinHandle<()>>,
}

pub fn ok() -> Act {
    Act::Reply(json!({ "reply": "ok" }))
}

pub fn error(code: u32, msg: &str, details: &str) -> Act {
    Act::Reply(json!({ "reply": "error", "code": code, "msg": msg, "details": details }))
}

/// The answer to an ADD of a network that is new to the agent.
pub fn take_over() -> Act {
    Act::Reply(json!({ "reply": "takeover" }))
}

/// One address without gateway.
pub fn lone() -> Act {
    Act::Reply(json!({ "reply": "given", "addresses": [{ "address": "10.0.2.48/30" }] }))
}

/// An address of each family, with gateways.
pub fn given() -> Act {
    Act::Reply(json!({ "reply": "given", "addresses": [
        { "address": "10.0.2.48/24", "gateway": "10.0.2.1" },
        { "address": "fd00::30/120", "gateway": "fd00::1" },
    ] }))
}

impl Peer {
    pub fn new(acts: impl IntoIterator<Item = Act>) -> Self {
        Self::in_folder(Folder::new(), acts)
    }

    pub fn in_folder(folder: Folder, acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = UnixListener::bind(folder.socket()).unwrap();
        let acts: Vec<Act> = acts.into_iter().collect();
        let (sender, requests) = mpsc::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let actor = thread::spawn(move || play(&listener, &acts, &sender, &end));
        Self { folder, requests, ended, actor: Some(actor) }
    }

    /// The next request, as it was read; none if nobody asked (anything more).
    pub fn request(&self) -> Option<Value> {
        self.requests.try_recv().ok()
    }

    /// One field of each further request.
    pub fn requests(&self, field: &str) -> Vec<Value> {
        self.requests.try_iter().map(|mut request| request[field].take()).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        drop(UnixStream::connect(self.folder.socket()));
        drop(self.actor.take().map(JoinHandle::join));
    }
}

fn play(listener: &UnixListener, acts: &[Act], requests: &Sender<Value>, ended: &AtomicBool) {
    let mut hanging = vec![];
    for (at, stream) in listener.incoming().enumerate() {
        if ended.load(Ordering::Acquire) {
            return;
        }
        let stream = stream.unwrap();
        let act = acts.get(at).or(acts.last()).expect("an act");
        if let Act::Close = act {
            continue;
        }
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "{line:?}");
        requests.send(serde_json::from_str(&line).unwrap()).unwrap();
        match act {
            Act::Close => {}
            Act::Hang => hanging.push(stream),
            Act::Bytes(bytes) => answer(&stream, bytes),
            Act::Reply(reply) => answer(&stream, format!("{reply}\n").as_bytes()),
            Act::Late(late, reply) => {
                thread::sleep(*late);
                answer(&stream, format!("{reply}\n").as_bytes());
            }
        }
    }
}

/// The plugin may be gone before the end of a long answer.
fn answer(mut stream: &UnixStream, bytes: &[u8]) {
    drop(stream.write_all(bytes));
    drop(stream.shutdown(Shutdown::Both));
}
