//! What each verb makes of the agent's answer, or of there being none.
//!
//! ```text
//!          reply ok     reply given   reply takeover       reply error     agent away
//! ADD      999          the result    TAKEOVER, again      as it is        11, 6 if what it says is garbled
//! CHECK    nothing      999           999                  as it is        the same
//! DEL      nothing      tombstone     tombstone            tombstone       tombstone: always success
//! GC       nothing      999           999                  as it is        as ADD
//! STATUS   nothing      999           999                  as it is        50
//! ```
//!
//! An address that was given and then cannot be said, or printed, is given back, since the caller of an ADD that fails calls no DEL.

use std::path::{Path, PathBuf};
use std::time::Instant;

use cadastre_messages::{Attachment, Call, Del, Given, Reply, code};
use serde_json::Value;

use crate::agent::{self, Away, Patience};
use crate::call::{Addition, Errand, Order};
use crate::error::Error;
use crate::{log, result, take_over, tombstone};

/// What came of a call.
#[derive(Default)]
pub struct Done {
    /// To print on stdout, if anything.
    pub said: Option<Value>,
    /// What an ADD was given just now, and by whom.
    fresh: Option<(PathBuf, Attachment)>,
}

impl Done {
    pub fn said(value: Value) -> Self {
        Self { said: Some(value), fresh: None }
    }

    /// Nobody could be told.
    pub fn take_back(self) {
        if let Some((socket, attachment)) = self.fresh {
            give_back(&socket, attachment);
        }
    }
}

pub fn on(order: Order) -> Result<Done, Error> {
    let Order { version, socket, errand } = order;
    let done = match errand {
        None => Ok(Done::default()),
        Some(Errand::Add(addition)) => add(&socket, addition),
        Some(Errand::Other(call)) => other(&socket, call).map(|said| Done { said, fresh: None }),
    };
    done.map_err(|error| error.at(version))
}

fn other(socket: &Path, call: Call) -> Result<Option<Value>, Error> {
    let reply = agent::ask(socket, &call, Patience::of(&call));
    match call {
        Call::Del(Del { attachment }) => {
            bury(socket, attachment, reply);
            Ok(None)
        }
        Call::Status(_) => nothing(told(socket, reply, code::NOT_AVAILABLE)),
        Call::Add(_)
        | Call::Check(_)
        | Call::Gc(_)
        | Call::TakeOver(_)
        | Call::Hold(_)
        | Call::Report
        | Call::Explain(_) => nothing(told(socket, reply, code::TRY_AGAIN)),
    }
}

fn add(socket: &Path, addition: Addition) -> Result<Done, Error> {
    let Addition { add, answer, host_local } = addition;
    let start = Instant::now();
    let attachment = add.attachment.clone();
    let call = Call::Add(add);
    let given = match within(start, socket, &call)? {
        Reply::TakeOver => {
            take_over(start, socket, &host_local, &attachment.network)?;
            given(within(start, socket, &call)?)
        }
        reply => given(reply),
    }?;
    let fresh = (!given.again).then(|| (socket.to_owned(), attachment));
    match result::render(&given, answer) {
        Ok(said) => Ok(Done { said: Some(said), fresh }),
        Err(error) => {
            Done { said: None, fresh }.take_back();
            Err(error)
        }
    }
}

/// One of the calls that together are an ADD, within what is left of its time.
fn within(start: Instant, socket: &Path, call: &Call) -> Result<Reply, Error> {
    told(socket, agent::ask(socket, call, Patience::of(call).left_since(start)), code::TRY_AGAIN)
}

pub fn given(reply: Reply) -> Result<Given, Error> {
    match reply {
        Reply::Given(given) => Ok(given),
        other => Err(unexpected(&other)),
    }
}

fn take_over(start: Instant, socket: &Path, folder: &Path, network: &str) -> Result<(), Error> {
    for line in take_over::lines(folder, network)? {
        nothing(within(start, socket, &Call::TakeOver(line)))?;
    }
    Ok(())
}

fn give_back(socket: &Path, attachment: Attachment) {
    let call = Call::Del(Del { attachment: attachment.clone() });
    bury(socket, attachment, agent::ask(socket, &call, Patience::of(&call)));
}

/// The agent's own errors pass as they are.
pub fn told(socket: &Path, reply: Result<Reply, Away>, code: u32) -> Result<Reply, Error> {
    match reply {
        Ok(Reply::Error(failure)) => Err(failure.into()),
        Ok(reply) => Ok(reply),
        Err(away) => Err(without_agent(socket, &away, code)),
    }
}

fn without_agent(socket: &Path, away: &Away, code: u32) -> Error {
    let code = match away {
        Away::Garbled(_) if code == code::TRY_AGAIN => code::DECODE,
        Away::TooLong(_) if code == code::TRY_AGAIN => code::BAD_CONFIG,
        _ => code,
    };
    let remedy = match away {
        Away::Unreachable(_) | Away::Lost(_) => {
            "it may be starting; otherwise see whether the cadastre-agent pod of this node runs, and whether it listens there"
        }
        Away::Silent(_) => "see the log and the load of the cadastre-agent pod of this node",
        Away::Garbled(_) => "run plugin and agent of the same release, and let nobody else listen there",
        Away::TooLong(_) => "shorten what the caller passes",
    };
    let message = format!("the cadastre agent of this node did not answer: {away}");
    Error::new(code, message, format!("socket {}: {remedy}", socket.display()))
}

fn unexpected(reply: &Reply) -> Error {
    let kind = match reply {
        Reply::Ok => "ok",
        Reply::Given(_) => "given",
        Reply::TakeOver => "takeover",
        Reply::Error(_) => "error",
        Reply::Report(_) => "report",
        Reply::Explanation(_) => "explanation",
    };
    let message = format!("the cadastre agent of this node gave a reply that does not belong to the question: {kind}");
    Error::new(code::INTERNAL, message, "run plugin and agent of the same release on this node")
}

pub fn nothing(told: Result<Reply, Error>) -> Result<Option<Value>, Error> {
    match told? {
        Reply::Ok => Ok(None),
        other => Err(unexpected(&other)),
    }
}

/// A DEL that the agent did not carry out is left for it. If even that fails, the agent's own reconciliation frees the
/// address later, and the pod can go now.
fn bury(socket: &Path, attachment: Attachment, reply: Result<Reply, Away>) {
    let why = match told(socket, reply, code::TRY_AGAIN) {
        Ok(Reply::Ok) => return,
        Ok(other) => unexpected(&other).failure,
        Err(error) => error.failure,
    };
    let Attachment { network, container_id, interface } = &attachment;
    let what =
        format!("DEL of {interface} of container {container_id} in network {network:?}: {} ({})", why.msg, why.details);
    match tombstone::leave(socket, attachment) {
        Ok(path) => log::line(&format!("{what}; left {} for the agent", path.display())),
        Err(error) => log::line(&format!(
            "{what}; no tombstone either: {error}; the agent frees the address when it finds it unused"
        )),
    }
}
