//! Does the engine's effects, many at once, and says exactly once what came of each.
//!
//! ```text
//! effect ─▶ lane: record (16 at once), nodes (40), news (8) ─▶ request ─▶ outcome
//! ```
//!
//! Lanes, so that a commit that a thousand nodes wait for does not wait behind a thousand creations; and while the API
//! server turns requests away, all but the record go at its pace. Nothing is decided here: a request is repeated only
//! if the API server turned it away before it did anything (429), or if it only reads. What has waited too long to be
//! sent is handed back, to be decided anew.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use cadastre_engine::{Action, Answer, Effect, EffectId, Outcome};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout_at;

use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::outcome::{Failure, with_causes};
use crate::pace::{Pace, Sent};
use crate::requests::{RequestError, Requests};

/// An effect without an answer after this is uncertain. The API server itself gives up on a write after 34 s.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What is older is not sent any more. The engine rests on it that a write has come to its end a minute after it was
/// decided: these, and the 34 s of the API server.
const STALE: Duration = Duration::from_secs(20);

const GIVEN_UP: &str = "the API server did not take it in time";

/// What shares a bound on how many requests are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    /// Config and ledger: few, and everything waits for them.
    Record,
    /// One or two for each node.
    Nodes,
    /// What people read: conditions, pool status, Events.
    News,
}

impl Lane {
    const ALL: [Self; 3] = [Self::Record, Self::Nodes, Self::News];

    /// Requests at once. An API server on two cores is no faster with more creations under way than 24, one that is
    /// slower to write is; each is a connection, since kube speaks HTTP/1.
    const fn width(self) -> usize {
        match self {
            Self::Record => 16,
            Self::Nodes => 40,
            Self::News => 8,
        }
    }

    fn of(action: &Action) -> Self {
        match action {
            Action::CreateConfig(_)
            | Action::ReplaceConfig(_)
            | Action::ReplaceConfigStatus(_)
            | Action::GetConfig
            | Action::CreatePage(_)
            | Action::ReplacePage(_)
            | Action::GetPage { .. }
            | Action::ListPages => Self::Record,
            Action::CreateIpamNode(_)
            | Action::PatchIpamNode { .. }
            | Action::DeleteIpamNode { .. }
            | Action::GetIpamNode { .. }
            | Action::GetNode { .. }
            | Action::Untaint { .. }
            | Action::SetNetworkAvailable { .. } => Self::Nodes,
            Action::SetIpamNodeConditions { .. }
            | Action::CreatePool(_)
            | Action::PatchPool(_)
            | Action::SetPoolStatus { .. }
            | Action::Publish(_) => Self::News,
        }
    }
}

/// One lane.
#[derive(Default)]
struct Queue {
    /// Since when each waits.
    waiting: VecDeque<(Instant, Effect)>,
    /// How many are under way.
    running: usize,
}

/// Effects that wait, and those under way.
pub struct Performer {
    requests: Requests,
    metrics: Metrics,
    pace: Pace,
    queues: HashMap<Lane, Queue>,
    /// Which effect each task does, so that one that dies is answered too.
    running: HashMap<Id, (Lane, EffectId, &'static str)>,
    /// When something was last said of each kind of effect.
    said: HashMap<&'static str, Instant>,
    tasks: JoinSet<Outcome>,
}

impl Performer {
    pub fn new(requests: Requests, metrics: Metrics) -> Self {
        Self {
            requests,
            metrics,
            pace: Pace::new(Lane::ALL.into_iter().map(Lane::width).sum()),
            queues: HashMap::new(),
            running: HashMap::new(),
            said: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Does the effect as soon as its lane has room.
    pub fn submit(&mut self, effect: Effect) {
        let lane = Lane::of(&effect.action);
        self.queues.entry(lane).or_default().waiting.push_back((Instant::now(), effect));
        self.fill(lane);
    }

    /// The next outcome. Waits for ever if nothing is under way.
    pub async fn next(&mut self) -> (EffectId, Outcome) {
        let pace = self.pace.clone();
        loop {
            let freed = pace.freed();
            for lane in [Lane::Nodes, Lane::News] {
                self.fill(lane);
            }
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => {
                    if let Some(answered) = self.ended(ended) {
                        return answered;
                    }
                }
                () = freed => {}
            }
        }
    }

    /// An outcome that is there already.
    pub fn try_next(&mut self) -> Option<(EffectId, Outcome)> {
        loop {
            let ended = self.tasks.try_join_next_with_id()?;
            if let Some(answered) = self.ended(ended) {
                return Some(answered);
            }
        }
    }

    /// Drops what waits and gives what is under way some time to end.
    pub async fn finish(mut self, patience: Duration) {
        self.queues.clear();
        let ended = tokio::time::timeout(patience, async { while self.tasks.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::info!(requests = self.tasks.len(), "gave up on requests without an answer");
        }
    }

    fn fill(&mut self, lane: Lane) {
        let Some(queue) = self.queues.get_mut(&lane) else { return };
        while queue.running < lane.width() && (lane == Lane::Record || queue.running == 0 || self.pace.has_room()) {
            let Some((since, Effect { id, action })) = queue.waiting.pop_front() else { return };
            queue.running += 1;
            // Counted from here: the task starts later, and others are looked at before.
            let first = self.pace.send(Instant::now());
            let name = label(&action);
            let work = perform(self.requests.clone(), self.metrics.clone(), first, action, since);
            self.running.insert(self.tasks.spawn(work).id(), (lane, id, name));
        }
    }

    fn log(&mut self, name: &'static str, outcome: &Outcome) {
        let Some(why) = outcome.why() else { return };
        let said = match outcome {
            Outcome::Uncertain(_) => "uncertain",
            Outcome::Unreadable(_) => "unreadable",
            _ => "refused",
        };
        if self.said.get(name).is_some_and(|at| at.elapsed() < SAID_FOR) {
            tracing::debug!(action = name, %why, "{said}");
        } else {
            self.said.insert(name, Instant::now());
            tracing::warn!(action = name, %why, "{said}");
        }
    }

    fn ended(&mut self, ended: Result<(Id, Outcome), JoinError>) -> Option<(EffectId, Outcome)> {
        let (task, outcome) = match ended {
            Ok(ended) => ended,
            Err(died) => (died.id(), Outcome::Uncertain(format!("the request was cut off: {died}"))),
        };
        let (lane, id, name) = self.running.remove(&task)?;
        self.log(name, &outcome);
        if let Some(queue) = self.queues.get_mut(&lane) {
            queue.running -= 1;
        }
        self.fill(lane);
        Some((id, outcome))
    }
}

/// Of one kind of effect, something is said once in this time: there may be thousands, and metrics count them.
const SAID_FOR: Duration = Duration::from_secs(30);

async fn perform(requests: Requests, metrics: Metrics, first: Sent, action: Action, since: Instant) -> Outcome {
    let outcome = until_answered(&requests, first, &action, since + STALE).await;
    if let (Outcome::Done(_), Action::CreatePage(_) | Action::ReplacePage(_)) = (&outcome, &action) {
        metrics.committed(since.elapsed());
    }
    outcome
}

async fn until_answered(requests: &Requests, first: Sent, action: &Action, stale: Instant) -> Outcome {
    let (mut backoff, pace, mut first) = (Backoff::default(), first.pace(), Some(first));
    while Instant::now() < stale {
        let sent = if let Some(first) = first.take() {
            first
        } else {
            if Lane::of(action) != Lane::Record && timeout_at(stale.into(), pace.room()).await.is_err() {
                break;
            }
            pace.send(Instant::now())
        };
        let pause = match once(requests, action).await {
            Ok(answer) => {
                sent.answered();
                return Outcome::Done(answer);
            }
            // It was turned away before anything was done, so asking again is the same request. Those that were turned
            // away together do not come back together.
            Err(Failure::Busy(wait)) => {
                sent.turned_away(Instant::now());
                wait.mul_f64(rand::random_range(1.0..1.5)) + backoff.next()
            }
            Err(Failure::Unknown(_)) if only_reads(action) => {
                drop(sent);
                backoff.next()
            }
            Err(failure) => return failure.into_outcome(),
        };
        let left = stale.saturating_duration_since(Instant::now());
        tokio::time::sleep(pause.min(left)).await;
    }
    Outcome::Refused(GIVEN_UP.to_owned())
}

async fn once(requests: &Requests, action: &Action) -> Result<Answer, Failure> {
    match tokio::time::timeout(TIMEOUT, requests.send(action)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(RequestError::Unreadable(error))) if only_reads(action) => Err(Failure::Unreadable(with_causes(&error))),
        // It was written, and what came of it cannot be read.
        Ok(Err(RequestError::Unreadable(error))) => Err(Failure::Unknown(with_causes(&error))),
        Ok(Err(RequestError::Kube(error))) => Err(Failure::of(&error, has_tests(action))),
        Err(_) => Err(Failure::Unknown(format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}

fn only_reads(action: &Action) -> bool {
    matches!(
        action,
        Action::GetConfig
            | Action::GetPage { .. }
            | Action::ListPages
            | Action::GetIpamNode { .. }
            | Action::GetNode { .. }
    )
}

fn has_tests(action: &Action) -> bool {
    matches!(action, Action::PatchIpamNode { .. } | Action::PatchPool(_) | Action::Untaint { .. })
}

/// For the log.
fn label(action: &Action) -> &'static str {
    match action {
        Action::CreateConfig(_) => "create_config",
        Action::ReplaceConfig(_) => "replace_config",
        Action::ReplaceConfigStatus(_) => "replace_config_status",
        Action::GetConfig => "get_config",
        Action::CreatePage(_) => "create_page",
        Action::ReplacePage(_) => "replace_page",
        Action::GetPage { .. } => "get_page",
        Action::ListPages => "list_pages",
        Action::CreateIpamNode(_) => "create_ipamnode",
        Action::PatchIpamNode { .. } => "patch_ipamnode",
        Action::DeleteIpamNode { .. } => "delete_ipamnode",
        Action::GetIpamNode { .. } => "get_ipamnode",
        Action::GetNode { .. } => "get_node",
        Action::Untaint { .. } => "untaint_node",
        Action::SetNetworkAvailable { .. } => "set_network_available",
        Action::SetIpamNodeConditions { .. } => "set_ipamnode_conditions",
        Action::CreatePool(_) => "create_pool",
        Action::PatchPool(_) => "patch_pool",
        Action::SetPoolStatus { .. } => "set_pool_status",
        Action::Publish(_) => "publish_event",
    }
}
