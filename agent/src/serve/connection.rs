//! One call: a line in, a line out, and what becomes of it if the caller goes away.
//!
//! ```text
//! read a line ─▶ the owner's queue ─▶ answer ─▶ write ─▶ did the caller read it?
//!     10 s          └── caller gone ──▶ PeerGone           └── no, and it was new ──▶ Undelivered
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use cadastre_messages::asked::ANNOTATED_INTERFACE;
use cadastre_messages::{Add, Attachment, Call, Failure, MAX_LINE, PROTOCOL, Pod, Reply, Request, code};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::Front;
use super::owner::{Asked, Message, Verb};
use super::readers::Reading;
use crate::pools::{Answer, Holder, Input, Token};
use crate::record::PodName;

/// For each of: the caller's line, our reply, the caller's end.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a caller that closed only its sending side is looked at while its ADD waits.
const LOOK: Duration = Duration::from_millis(100);

/// Longest name of a network, container, interface, namespace or pod. Kubernetes' longest is 253.
const MAX_NAME: usize = 256;

/// Longest path of a namespace: Linux' `PATH_MAX`.
const MAX_PATH: usize = 4_096;

/// One caller.
pub struct Connection {
    pub stream: UnixStream,
    pub token: Token,
    pub front: Front,
}

/// Why a call gets no answer from the pools.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("the caller has gone away")]
    Gone,
    #[error("no line within {PATIENCE:?}")]
    Slow,
    #[error("half a line, and too many other callers wait")]
    Crowded,
    #[error("the line has more than {MAX_LINE} bytes")]
    TooLong,
    #[error("the request cannot be read: {0}")]
    Garbled(#[from] serde_json::Error),
    #[error(
        "the caller speaks protocol {0}, this agent {PROTOCOL}: install the plugin and the agent of the same release"
    )]
    Protocol(u32),
    #[error("user {0} may not call the agent: run the plugin as root")]
    Stranger(u32),
    #[error("{what} is empty, too long, or has control characters")]
    Name { what: &'static str },
    #[error("the API server is too slow to say whether Pod {pod} asks for an address: the ADD may be repeated")]
    Unread { pod: PodName },
    #[error("the agent is stopping")]
    Stopping,
}

impl Refused {
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::TooLong | Self::Garbled(_) | Self::Protocol(_) => code::DECODE,
            Self::Stranger(_) | Self::Name { .. } => code::BAD_ENVIRONMENT,
            Self::Gone | Self::Slow | Self::Crowded | Self::Unread { .. } | Self::Stopping => code::TRY_AGAIN,
        }
    }
}

impl Connection {
    /// `served` counts the calls that have said what they want; those that are still at it count as readers.
    pub async fn serve(mut self, reading: Reading, served: Arc<Semaphore>) {
        match self.call(reading, served).await {
            Ok(()) => {}
            Err(Refused::Gone) => tracing::debug!("a caller went away"),
            Err(refused) => {
                tracing::warn!(%refused, "a call was refused");
                let failure = Failure { code: refused.code(), msg: refused.to_string(), details: String::new() };
                let _ = self.write(&Reply::Error(failure)).await; // Whoever sent garbage need not be there.
            }
        }
    }

    async fn call(&mut self, reading: Reading, served: Arc<Semaphore>) -> Result<(), Refused> {
        self.admit()?;
        let line = tokio::select! {
            line = timeout(PATIENCE, self.read_line()) => line.map_err(|_| Refused::Slow)??,
            () = reading.ended() => return Err(Refused::Crowded),
        };
        let start = Instant::now();
        let mut call = parse(&line)?;
        if let Call::Add(add) = &mut call {
            self.look_up(add).await?;
        }
        let permit = served.acquire_owned().await.map_err(|_| Refused::Stopping)?;
        let about = About::of(&call);
        let question = match &call {
            Call::Explain(explain) => Some(explain.what.clone()),
            _ => None,
        };
        let Some(verb) = Verb::of(call) else { return self.tell_people(question, about.verb, start).await };
        let answer = self.ask(verb, permit).await?;
        self.conclude(&about, answer, start).await;
        Ok(())
    }

    /// The folder keeps others out; this is for the case that somebody opened it.
    fn admit(&self) -> Result<(), Refused> {
        let caller = self.stream.peer_cred().map_err(|_| Refused::Gone)?.uid();
        let ours = rustix::process::geteuid().as_raw();
        if caller == 0 || caller == ours { Ok(()) } else { Err(Refused::Stranger(caller)) }
    }

    /// Up to the first line end.
    async fn read_line(&mut self) -> Result<Vec<u8>, Refused> {
        let mut line = Vec::with_capacity(1_024);
        loop {
            let before = line.len();
            if self.stream.read_buf(&mut line).await.map_err(|_| Refused::Gone)? == 0 {
                return Err(Refused::Gone);
            }
            if let Some(end) = line[before..].iter().position(|byte| *byte == b'\n') {
                line.truncate(before + end);
                return if line.len() < MAX_LINE { Ok(line) } else { Err(Refused::TooLong) };
            }
            if line.len() >= MAX_LINE {
                return Err(Refused::TooLong);
            }
        }
    }

    /// What the Pod's annotations ask for, unless the runtime passed them on.
    async fn look_up(&self, add: &mut Add) -> Result<(), Refused> {
        if let (Some(pod), false, true) = (&add.pod, add.annotated, add.attachment.interface == ANNOTATED_INTERFACE) {
            let pod = PodName::from(pod.clone());
            add.asked.extend(self.front.annotations.of(&pod).await.ok_or(Refused::Unread { pod })?);
        }
        Ok(())
    }

    /// The answer of the pools, however long it takes, as long as somebody waits for it.
    async fn ask(&mut self, call: Verb, permit: OwnedSemaphorePermit) -> Result<Answer, Refused> {
        let (reply, answer) = oneshot::channel();
        let asked = Asked { token: self.token, call, reply, permit };
        self.front.owner.send(Message::Call(asked)).map_err(|_| Refused::Stopping)?;
        tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| Refused::Stopping),
            () = self.caller_gone() => {
                self.tell(Input::PeerGone(self.token));
                Err(Refused::Gone)
            }
        }
    }

    /// Returns when nobody is left to read a reply. One that closed only its sending side still is.
    async fn caller_gone(&self) {
        let mut scratch = [0; 64];
        loop {
            if self.stream.readable().await.is_err() {
                return;
            }
            match self.stream.try_read(&mut scratch) {
                Ok(0) if self.hung_up() => return,
                Ok(0) => tokio::time::sleep(LOOK).await,
                Ok(_) => {} // More than a line: none of our business.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    fn hung_up(&self) -> bool {
        let mut polled = [PollFd::new(&self.stream, PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_err() || polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// Writes the answer, and has a new allocation undone that nobody read.
    async fn conclude(&mut self, about: &About, answer: Answer, start: Instant) {
        let code = match &answer {
            Answer::Failed(failure) => Some(failure.code),
            Answer::Given { .. } | Answer::Done | Answer::Released { .. } | Answer::TakeOver => None,
        };
        let (new, reply) = split(&answer);
        let written = self.write(&reply).await;
        let took = start.elapsed();
        self.front.metrics.answered(about.verb, code, took);
        about.log(&answer, took);
        if let Some(holder) = new
            && !(written && self.was_read().await)
        {
            tracing::warn!(attachment = %Shown(&holder.attachment), "nobody read the reply: the addresses are released");
            self.tell(Input::Undelivered(holder));
        }
    }

    async fn write(&mut self, reply: &Reply) -> bool {
        let Ok(mut line) = serde_json::to_vec(reply) else { return false };
        line.push(b'\n');
        matches!(timeout(PATIENCE, self.stream.write_all(&line)).await, Ok(Ok(())))
    }

    /// A caller that closes with something unread resets the connection; one that read all of it just ends. One that does
    /// neither in time may have read it.
    async fn was_read(&mut self) -> bool {
        let mut scratch = [0; 64];
        let end = async {
            loop {
                match self.stream.read(&mut scratch).await {
                    Ok(0) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        timeout(PATIENCE, end).await.unwrap_or(true)
    }

    /// The whole state, or what is known of something in particular.
    async fn tell_people(&mut self, what: Option<String>, verb: &'static str, start: Instant) -> Result<(), Refused> {
        let reply = match what {
            None => {
                let (to, report) = oneshot::channel();
                self.front.owner.send(Message::Report(to)).map_err(|_| Refused::Stopping)?;
                Reply::Report(Box::new(report.await.map_err(|_| Refused::Stopping)?))
            }
            Some(what) => {
                let (to, explanation) = oneshot::channel();
                self.front.owner.send(Message::Explain(what, to)).map_err(|_| Refused::Stopping)?;
                Reply::Explanation(Box::new(explanation.await.map_err(|_| Refused::Stopping)?))
            }
        };
        self.write(&reply).await;
        self.front.metrics.answered(verb, None, start.elapsed());
        Ok(())
    }

    fn tell(&self, input: Input) {
        drop(self.front.owner.send(Message::Event(input))); // If the owner has ended, the journal has the last word.
    }
}

/// The reply as it is sent, and the allocation that depends on its arrival.
pub(super) fn split(answer: &Answer) -> (Option<Holder>, Reply) {
    match answer {
        Answer::Given { given, holder, new } => (new.then(|| holder.clone()), Reply::Given(given.clone())),
        Answer::Done | Answer::Released { .. } => (None, Reply::Ok),
        Answer::TakeOver => (None, Reply::TakeOver),
        Answer::Failed(failure) => (None, Reply::Error(failure.clone())),
    }
}

/// What the log says of a call.
struct About {
    verb: &'static str,
    attachment: Option<Attachment>,
    pod: Option<Pod>,
}

impl About {
    fn of(call: &Call) -> Self {
        let (verb, attachment, pod) = match call {
            Call::Add(add) => ("add", Some(&add.attachment), add.pod.clone()),
            Call::Check(check) => ("check", Some(&check.attachment), None),
            Call::Del(del) => ("del", Some(&del.attachment), None),
            Call::Gc(_) => ("gc", None, None),
            Call::Status(_) => ("status", None, None),
            Call::TakeOver(_) => ("takeover", None, None),
            Call::Hold(_) => ("hold", None, None),
            Call::Report => ("report", None, None),
            Call::Explain(_) => ("explain", None, None),
        };
        Self { verb, attachment: attachment.cloned(), pod }
    }

    /// One line for an ADD and a DEL; for the others if they failed.
    fn log(&self, answer: &Answer, took: Duration) {
        let Self { verb, attachment, pod } = self;
        let attachment = attachment.as_ref().map(Shown).map(|shown| shown.to_string());
        let of_plugin = pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name));
        match answer {
            Answer::Given { given, new, .. } => {
                let addresses: Vec<&str> = given.addresses.iter().map(|given| given.address.as_str()).collect();
                let addresses = addresses.join(", ");
                tracing::info!(pod = of_plugin, addresses, attachment, ?took, again = !new, "ADD");
            }
            Answer::Released { addresses: released, pod } => {
                let released = released.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let pod = pod.as_ref().map(ToString::to_string);
                tracing::info!(pod, addresses = released, attachment, ?took, "DEL");
            }
            Answer::TakeOver => {
                tracing::info!(
                    attachment,
                    "a network with ranges is new here: what host-local reserved in it is taken over first"
                );
            }
            Answer::Done => tracing::debug!(verb, attachment, ?took, "done"),
            Answer::Failed(Failure { code, msg, details }) => {
                tracing::warn!(verb, pod = of_plugin, attachment, code, msg, details, ?took, "a call failed");
            }
        }
    }
}

struct Shown<'a>(&'a Attachment);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Attachment { network, container_id, interface } = self.0;
        write!(f, "{network}/{container_id}/{interface}")
    }
}

/// The call in a line, if it may be acted on.
pub(super) fn parse(line: &[u8]) -> Result<Call, Refused> {
    let Request { protocol, mut call } = serde_json::from_slice(line).map_err(|error| of_another(line, error))?;
    if protocol != PROTOCOL {
        return Err(Refused::Protocol(protocol));
    }
    tidy(&mut call)?;
    Ok(call)
}

/// What another protocol says need not have a shape that is known here.
fn of_another(line: &[u8], error: serde_json::Error) -> Refused {
    #[derive(serde::Deserialize)]
    struct Spoken {
        protocol: u32,
    }
    match serde_json::from_slice(line) {
        Ok(Spoken { protocol }) if protocol != PROTOCOL => Refused::Protocol(protocol),
        _ => Refused::Garbled(error),
    }
}

/// Strays of white space do not make another attachment, and nothing unprintable or endless gets in.
fn tidy(call: &mut Call) -> Result<(), Refused> {
    match call {
        Call::Add(add) => {
            tidy_attachment(&mut add.attachment)?;
            check_name("the path of the namespace", &add.netns.path, 0..=MAX_PATH)?;
            add.pod.as_mut().map_or(Ok(()), tidy_pod)
        }
        Call::Check(check) => tidy_attachment(&mut check.attachment),
        // DEL never fails: what is not a name has nothing.
        Call::Del(del) => {
            trim(&mut del.attachment);
            Ok(())
        }
        Call::TakeOver(take_over) => {
            check_name("the name of the network", &take_over.network, 1..=MAX_NAME)?;
            take_over.reservations.iter_mut().try_for_each(|reservation| {
                tidy_attachment(&mut reservation.attachment)?;
                check_name("the path of the namespace", &reservation.netns.path, 0..=MAX_PATH)?;
                reservation.pod.as_mut().map_or(Ok(()), tidy_pod)
            })
        }
        Call::Hold(hold) => {
            check_name("the address", &hold.address, 1..=MAX_NAME)?;
            check_name("the path of the namespace", &hold.netns.path, 1..=MAX_PATH)
        }
        Call::Explain(explain) => check_name("what is to be explained", &explain.what, 1..=2 * MAX_NAME),
        Call::Gc(_) | Call::Status(_) | Call::Report => Ok(()),
    }
}

fn tidy_pod(pod: &mut Pod) -> Result<(), Refused> {
    check_name("the pod's namespace", &pod.namespace, 1..=MAX_NAME)?;
    check_name("the pod's name", &pod.name, 1..=MAX_NAME)?;
    pod.uid = pod.uid.take().filter(|uid| !uid.is_empty());
    check_name("the pod's UID", pod.uid.as_deref().unwrap_or_default(), 0..=MAX_NAME)
}

fn tidy_attachment(attachment: &mut Attachment) -> Result<(), Refused> {
    trim(attachment);
    check_name("the name of the network", &attachment.network, 1..=MAX_NAME)?;
    check_name("the container ID", &attachment.container_id, 1..=MAX_NAME)?;
    check_name("the name of the interface", &attachment.interface, 1..=MAX_NAME)
}

fn trim(attachment: &mut Attachment) {
    for name in [&mut attachment.network, &mut attachment.container_id, &mut attachment.interface] {
        if name.trim().len() != name.len() {
            *name = name.trim().to_owned();
        }
    }
}

fn check_name(what: &'static str, name: &str, length: std::ops::RangeInclusive<usize>) -> Result<(), Refused> {
    let sound = length.contains(&name.len()) && !name.chars().any(char::is_control);
    if sound { Ok(()) } else { Err(Refused::Name { what }) }
}
