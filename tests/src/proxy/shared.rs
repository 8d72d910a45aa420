//! What the connections of a proxy share: the rule, the gate, and what was seen.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::request::Parts;
use kube::Client;
use tokio::sync::watch;

use super::Asked;
use super::serve::Broken;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Pass,
    /// It never reaches the API server, and from then on nothing else does: the gate closes for good.
    StopBefore,
    /// The API server does it, but nobody is told, and from then on nothing passes.
    StopAfter,
    /// It is answered with this code, without having reached the API server, as its filters answer: in plain text.
    Refuse {
        code: u16,
        retry_after: Option<u32>,
    },
    /// A watch begins, and its first and last event is the error 410 Gone.
    Expire,
    /// It waits this long before it goes on.
    Late(Duration),
    /// It is done, and the answer waits this long.
    Slow(Duration),
    /// The connection breaks before the API server has seen it.
    Cut,
}

pub(super) type Rule = Box<dyn FnMut(&Asked) -> Fault + Send>;

/// Whether anything passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    Closed,
    /// The proxy is gone.
    Ended,
}

/// All requests in their order, and how many of each kind there were.
#[derive(Default)]
pub(super) struct Log {
    pub asked: Vec<Asked>,
    kinds: HashMap<String, usize>,
}

pub(super) struct Shared {
    pub upstream: Client,
    rule: Mutex<Rule>,
    gate: watch::Sender<Gate>,
    /// Connections that were accepted under another number are broken.
    pub era: watch::Sender<u64>,
    stopped: watch::Sender<Option<Asked>>,
    log: Mutex<Log>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl Shared {
    pub fn new(upstream: Client) -> Self {
        Self {
            upstream,
            rule: Mutex::new(Box::new(|_| Fault::Pass)),
            gate: watch::Sender::new(Gate::Open),
            era: watch::Sender::new(0),
            stopped: watch::Sender::new(None),
            log: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
        }
    }

    pub fn rule(&self) -> MutexGuard<'_, Rule> {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request, and what is to happen to it.
    pub fn see(&self, parts: &Parts) -> (Asked, Fault) {
        let mut log = self.log();
        let mut asked = Asked::new(parts);
        let before = log.kinds.entry(asked.kind()).or_default();
        *before += 1;
        asked.nth = *before;
        log.asked.push(asked.clone());
        // Under one lock with the log, so that a rule sees requests in its order.
        let fault = (self.rule())(&asked);
        (asked, fault)
    }

    pub fn gate(&self, gate: Gate) {
        self.gate.send_if_modified(|now| *now != Gate::Ended && std::mem::replace(now, gate) != gate);
    }

    /// Returns once the gate is open.
    pub async fn passes(&self) -> Result<(), Broken> {
        let gate = *self.gate.subscribe().wait_for(|gate| *gate != Gate::Closed).await?;
        if gate == Gate::Open { Ok(()) } else { Err("the proxy is gone".into()) }
    }

    pub fn cut(&self) {
        self.era.send_modify(|era| *era += 1);
    }

    /// Lets nothing pass any more, because of this request.
    pub fn stop(&self, asked: &Asked) {
        self.gate(Gate::Closed);
        self.stopped.send_replace(Some(asked.clone()));
    }

    pub fn has_stopped(&self) -> Option<Asked> {
        self.stopped.borrow().clone()
    }

    pub async fn stopped(&self) -> Asked {
        loop {
            // The sender is ours, so that the wait cannot fail.
            if let Ok(Some(asked)) = self.stopped.subscribe().wait_for(Option::is_some).await.as_deref() {
                return asked.clone();
            }
        }
    }

    pub fn most_under_way(&self) -> usize {
        self.most_under_way.load(Ordering::SeqCst)
    }

    /// Counts a request until the value is dropped.
    pub fn enter(self: &Arc<Self>) -> UnderWay {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(now, Ordering::SeqCst);
        UnderWay(Arc::clone(self))
    }
}

/// A request that the operator waits for.
pub(super) struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}
