//! The task that owns the pools: everything that happens comes to it through one queue.
//!
//! ```text
//! connections ─┐                        tombstones ─┐
//! watches ─────┼─▶ queue ─▶ all that is there ─▶ Desk::handle ─▶ replies, then the outlook for everybody else
//! clock ───────┘
//! ```
//! A batch is whatever came while the last one was written, so that it is small when nothing is to do and one write serves
//! many when there is much.

use std::collections::HashMap;
use std::time::Duration;

use cadastre_messages::explain::Explanation;
use cadastre_messages::report::{self, Report};
use cadastre_messages::{
    Add, Attachment, Call, Check, Del, Failure, Gc, Hold, Status, TakeOver, ValidAttachment, code,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::state::State;
use crate::boot_time::BootTime;
use crate::explain::{Refusals, explain};
use crate::metrics::Metrics;
use crate::netns::{self, Probe};
use crate::outlook::{Cluster, JournalOutlook, Outlook};
use crate::pools::{Answer, Holder, HolderView, Input, Live, Pools, Step, Token, not_written};
use crate::record::{NetnsRecord, PodName};
use crate::report::{Identity, report};
use crate::tombstones::{Tombstone, Tombstones};

/// Calls of one batch, so that the first of them does not wait for ever.
const BATCH: usize = 512;

/// Between two looks at tombstones, cooling and what could not be written.
const PASS: Duration = Duration::from_secs(1);

/// Between two views for others: they are woken for what is new, not for each call.
const SHOW_EVERY: Duration = Duration::from_millis(20);

/// What comes through the queue.
#[derive(Debug)]
pub enum Message {
    /// A CNI verb.
    Call(Asked),
    /// What watches and reconciliation found.
    Event(Input),
    /// Everything, for people.
    Report(oneshot::Sender<Report>),
    /// What is known of an address or a pod, for people.
    Explain(String, oneshot::Sender<Explanation>),
    /// Every attachment, for reconciliation.
    Holders(oneshot::Sender<Vec<HolderView>>),
}

/// A call, and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    pub token: Token,
    pub call: Verb,
    pub reply: oneshot::Sender<Answer>,
    /// Counts the call among those that are served at once; given back when it has to wait.
    pub permit: OwnedSemaphorePermit,
}

/// The verbs that the pools answer.
#[derive(Clone, Debug)]
pub enum Verb {
    Add { add: Box<Add>, seen: bool },
    Check(Check),
    Del(Attachment),
    Gc(Gc),
    Status(Status),
    TakeOver { take_over: Box<TakeOver>, seen: Vec<bool> },
    Hold { hold: Hold, seen: bool },
}

/// What the owner is given.
#[derive(Debug)]
pub struct Owner {
    pub identity: Identity,
    pub state: State,
    pub tombstones: Tombstones,
    pub metrics: Metrics,
    pub outlook: watch::Sender<Outlook>,
    pub cluster: watch::Receiver<Cluster>,
    /// Callers that have no answer yet.
    waiting: HashMap<Token, Waiting>,
    problems: Vec<String>,
    refusals: Refusals,
    /// Attachments released by tombstones since the start.
    replayed: u64,
}

#[derive(Debug)]
struct Waiting {
    reply: oneshot::Sender<Answer>,
    permit: Option<OwnedSemaphorePermit>,
    /// Of an ADD.
    about: Option<(Attachment, Option<PodName>)>,
}

impl Owner {
    #[must_use]
    pub fn new(
        identity: Identity,
        state: State,
        tombstones: Tombstones,
        metrics: Metrics,
        outlook: watch::Sender<Outlook>,
        cluster: watch::Receiver<Cluster>,
    ) -> Self {
        let (waiting, problems, refusals) = (HashMap::new(), Vec::new(), Refusals::default());
        let mut owner =
            Self { identity, state, tombstones, metrics, outlook, cluster, waiting, problems, refusals, replayed: 0 };
        owner.show();
        owner
    }

    /// Serves until nobody can ask any more.
    pub async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Message>) {
        let mut passes = interval(PASS);
        passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut batch, mut shown, mut stale) = (Vec::new(), Instant::now(), false);
        loop {
            let show = if stale { Some(shown + SHOW_EVERY) } else { None };
            let questions = tokio::select! {
                received = queue.recv_many(&mut batch, BATCH) => {
                    if received == 0 { return; }
                    self.batch(&mut batch, false)
                }
                _ = passes.tick() => self.batch(&mut batch, true),
                () = reached(self.deadline()) => self.batch(&mut batch, false),
                () = reached(show) => Vec::new(),
            };
            tokio::task::yield_now().await; // Replies go out first.
            stale = questions.is_empty() && shown.elapsed() < SHOW_EVERY;
            if !stale {
                self.show();
                shown = Instant::now();
            }
            for question in questions {
                self.tell(question);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let State::Serving(desk) = &self.state else { return None };
        let deadline = desk.pools.next_deadline()?;
        Some(Instant::now() + deadline.since(BootTime::now()))
    }

    /// One batch: tombstones first, since they are older than what came now. Returns what only wants to look.
    fn batch(&mut self, messages: &mut Vec<Message>, pass: bool) -> Vec<Message> {
        let (mut inputs, mut questions) = (Vec::with_capacity(messages.len() + 1), Vec::new());
        let adds =
            messages.iter().any(|message| matches!(message, Message::Call(Asked { call: Verb::Add { .. }, .. })));
        let tombstones = if adds || pass { self.tombstones.scan() } else { Vec::new() };
        inputs.extend(
            tombstones
                .iter()
                .map(|Tombstone { attachment, at, .. }| Input::Tombstone { attachment: attachment.clone(), at: *at }),
        );
        for message in messages.drain(..) {
            match message {
                Message::Call(asked) => inputs.extend(self.admit(asked)),
                Message::Event(input) => inputs.push(input),
                question @ (Message::Report(_) | Message::Explain(..) | Message::Holders(_)) => {
                    questions.push(question);
                }
            }
        }
        if pass {
            inputs.splice(0..0, self.state.mend());
            inputs.push(Input::Pass);
        }
        match &mut self.state {
            State::Serving(desk) => {
                if pass {
                    desk.tend();
                }
                let step = desk.handle(BootTime::now(), inputs);
                let lost = self.settle(step, &tombstones);
                self.take_back(lost);
            }
            State::Broken(_) => self.refuse(inputs),
        }
        questions
    }

    /// STATUS is answered at once while nothing can be recorded: the pools do not know.
    fn admit(&mut self, asked: Asked) -> Option<Input> {
        let Asked { token, call, reply, permit } = asked;
        if let (Verb::Status(_), State::Serving(desk)) = (&call, &self.state)
            && let Some(trouble) = desk.trouble()
        {
            let failure = Failure { code: code::NOT_AVAILABLE, ..not_written(trouble) };
            drop(reply.send(Answer::Failed(failure)));
            return None;
        }
        let about = match &call {
            Verb::Add { add, .. } => Some((add.attachment.clone(), add.pod.clone().map(PodName::from))),
            _ => None,
        };
        self.waiting.insert(token, Waiting { reply, permit: Some(permit), about });
        let pools = match &self.state {
            State::Serving(desk) => Some(&desk.pools),
            State::Broken(_) => None,
        };
        Some(call.input(token, pools))
    }

    /// Everything is recorded: the callers may know. Returns the new allocations of those who are not there any more.
    fn settle(&mut self, step: Step, tombstones: &[Tombstone]) -> Vec<Input> {
        let Step { records: _, replies, problems, by_tombstone, by_proof, undelivered, .. } = step;
        let mut lost = Vec::new();
        for (token, answer) in replies {
            let sent = match self.waiting.remove(&token) {
                Some(Waiting { reply, permit: _, about }) => {
                    self.remember(about, &answer);
                    reply.send(answer)
                }
                None => Err(answer),
            };
            if let Err(Answer::Given { holder, new: true, .. }) = sent {
                lost.push(Input::Undelivered(holder));
            }
        }
        // Who has no answer yet waits for an assignment, and is in nobody's way.
        self.waiting.values_mut().for_each(|waiting| waiting.permit = None);
        self.waiting.retain(|_, waiting| !waiting.reply.is_closed());
        self.metrics.tombstones.inc_by(by_tombstone);
        self.replayed += by_tombstone;
        self.metrics.reclaimed.inc_by(by_proof);
        self.metrics.undelivered.inc_by(undelivered);
        for problem in problems.iter().flatten() {
            tracing::warn!(problem, "a block that the operator assigned cannot be used");
        }
        self.problems = problems.unwrap_or_else(|| std::mem::take(&mut self.problems));
        if matches!(&self.state, State::Serving(desk) if desk.trouble().is_none()) {
            self.tombstones.remove(tombstones);
        }
        lost
    }

    /// Why an ADD failed, for whoever asks why a pod has no address.
    fn remember(&mut self, about: Option<(Attachment, Option<PodName>)>, answer: &Answer) {
        let Some((attachment, pod)) = about else { return };
        match answer {
            Answer::Failed(failure) => self.refusals.remember(attachment, pod, failure.clone(), BootTime::now()),
            _ => self.refusals.forget(&attachment),
        }
    }

    fn take_back(&mut self, lost: Vec<Input>) {
        if let (State::Serving(desk), false) = (&mut self.state, lost.is_empty()) {
            let step = desk.handle(BootTime::now(), lost);
            self.settle(step, &[]);
        }
    }

    fn refuse(&mut self, inputs: Vec<Input>) {
        let State::Broken(broken) = &mut self.state else { return };
        for (token, answer) in inputs.into_iter().filter_map(|input| broken.answer(input)) {
            if let Some(waiting) = self.waiting.remove(&token) {
                drop(waiting.reply.send(answer));
            }
        }
    }

    /// Lets everybody else see what changed.
    fn show(&mut self) {
        let outlook = match &self.state {
            State::Serving(desk) => Outlook {
                view: desk.pools.view(),
                journal: JournalOutlook {
                    trouble: desk.trouble().map(ToOwned::to_owned),
                    unreadable: false,
                    bytes: desk.journal().len(),
                    compactions: desk.journal().compactions(),
                },
                problems: self.problems.clone(),
            },
            State::Broken(broken) => Outlook {
                journal: JournalOutlook {
                    trouble: Some(broken.why().to_owned()),
                    unreadable: true,
                    ..JournalOutlook::default()
                },
                ..Outlook::default()
            },
        };
        let (metrics, configured) = (&self.metrics, self.identity.configured);
        self.outlook.send_if_modified(|shown| {
            if *shown == outlook {
                return false;
            }
            metrics.show(shown, &outlook, configured);
            !std::mem::replace(shown, outlook).is_like(shown)
        });
    }

    fn tell(&self, message: Message) {
        match (message, &self.state) {
            (Message::Report(to), state) => {
                let addresses = match state {
                    State::Serving(desk) => desk.pools.addresses(),
                    State::Broken(_) => Vec::new(),
                };
                let tombstones = report::Tombstones { waiting: self.tombstones.count(), replayed: self.replayed };
                let (outlook, cluster) = (self.outlook.borrow(), self.cluster.borrow());
                drop(to.send(report(&self.identity, &outlook, &cluster, tombstones, addresses, BootTime::now())));
            }
            (Message::Explain(what, to), State::Serving(desk)) => {
                let (refusals, outlook) = (&self.refusals, self.outlook.borrow());
                drop(to.send(explain(&what, &desk.pools, refusals, &outlook, BootTime::now())));
            }
            (Message::Explain(what, to), State::Broken(broken)) => {
                drop(to.send(Explanation { what, findings: Vec::new(), note: broken.why().to_owned() }));
            }
            (Message::Holders(to), State::Serving(desk)) => drop(to.send(desk.pools.holders(None).collect())),
            _ => {}
        }
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Verb {
    /// The verb of a call, if the pools answer it.
    pub fn of(call: Call) -> Option<Self> {
        Some(match call {
            Call::Add(add) => {
                let seen = netns::sees(&add.netns);
                Self::Add { add: Box::new(add), seen }
            }
            Call::Check(check) => Self::Check(check),
            Call::Del(Del { attachment }) => Self::Del(attachment),
            Call::Gc(gc) => Self::Gc(gc),
            Call::Status(status) => Self::Status(status),
            Call::TakeOver(take_over) => {
                let seen = take_over.reservations.iter().map(|reservation| netns::sees(&reservation.netns)).collect();
                Self::TakeOver { take_over: Box::new(take_over), seen }
            }
            Call::Hold(hold) => {
                let seen = netns::sees(&hold.netns);
                Self::Hold { hold, seen }
            }
            Call::Report | Call::Explain(_) => return None,
        })
    }

    /// What the pools are asked. Without `pools` nothing is known of holders.
    pub(super) fn input(self, token: Token, pools: Option<&Pools<Live>>) -> Input {
        match self {
            Self::Add { add, seen } => Input::Add { token, add, seen },
            Self::Check(check) => Input::Check { token, check },
            Self::Del(attachment) => Input::Del { token, attachment },
            Self::Gc(gc) => Input::Gc { token, gone: pools.map(|pools| unlisted(pools, &gc)).unwrap_or_default() },
            Self::Status(status) => Input::Status { token, status },
            Self::TakeOver { take_over, seen } => Input::TakeOver { token, take_over, seen },
            Self::Hold { hold, seen } => Input::Hold { token, hold, seen },
        }
    }
}

/// Holders that the runtime does not list, without those whose namespace lives: a list may be wrong.
fn unlisted(pools: &Pools<Live>, gc: &Gc) -> Vec<(Holder, NetnsRecord)> {
    let Gc { network, valid } = gc;
    let valid: std::collections::HashSet<ValidAttachment> = valid.iter().cloned().collect();
    let listed = |attachment: &Attachment| {
        let Attachment { network: _, container_id, interface } = attachment.clone();
        valid.contains(&ValidAttachment { container_id, interface })
    };
    let unused = |netns: &NetnsRecord| match netns::probe(netns) {
        Probe::Gone => true,
        Probe::Lives => false,
        Probe::Unknown => !netns.seen, // Then the runtime's word is all there is.
    };
    let holders = pools.holders(Some(network));
    let gone = holders.filter(|view| !listed(&view.holder.attachment) && unused(view.netns()));
    gone.map(|view| (view.holder.clone(), view.netns().clone())).collect()
}
