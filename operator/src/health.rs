//! Whether this operator can do its work, as `/readyz`, metrics and log say it.
//!
//! Never ready while a setting is refused, leading or not: that stops a rollout at its first pod, while the operator
//! goes on serving what is recorded.

use std::sync::{Arc, Mutex, PoisonError};

use cadastre_engine::{Phase, Refusal, RefusalKind};
use cadastre_runtime::Readiness;

use crate::metrics::{Metrics, kind_label};
use crate::outcome::with_causes;
use crate::watch::WatchError;

/// Check of the engine's phase, and of an operator that does not lead.
const ENGINE: &str = "engine";
/// Check of the ledger's being written.
const LEDGER: &str = "ledger";
/// Check of the configuration's being readable.
const RECORDED: &str = "recorded-config";

/// Clones share everything.
#[derive(Clone, Debug)]
pub struct Health {
    readiness: Readiness,
    metrics: Metrics,
    /// What was refused when it was last looked at, to log changes only. Locked for a comparison, never across an await.
    refused: Arc<Mutex<Vec<String>>>,
}

impl Health {
    /// Not ready until the recorded config was read.
    pub fn new(readiness: Readiness, metrics: Metrics) -> Self {
        readiness.fail(RECORDED, "IPAMConfig was not read yet");
        readiness.fail(ENGINE, "not started yet");
        Self { readiness, metrics, refused: Arc::default() }
    }

    /// How the watch of one kind is doing.
    pub fn watch(&self, kind: &'static str, outcome: Result<(), WatchError>) {
        match outcome {
            Ok(()) => self.readiness.pass(kind),
            Err(error) => {
                let failing = (kind, with_causes(&error));
                if !self.readiness.failing().contains(&failing) {
                    tracing::warn!(error = failing.1, "trying again");
                }
                self.readiness.fail(kind, failing.1);
            }
        }
    }

    /// What is refused of the settings, or why it is not known.
    pub fn refusals(&self, refusals: Result<&[Refusal], String>) {
        let refusals = match refusals {
            Ok(refusals) => refusals,
            Err(error) => return self.readiness.fail(RECORDED, error),
        };
        self.readiness.pass(RECORDED);
        let of = |kind| refusals.iter().filter(move |refusal| refusal.kind == kind);
        for kind in [RefusalKind::Mode, RefusalKind::Pool] {
            let messages: Vec<_> = of(kind).map(ToString::to_string).collect();
            let outcome = if messages.is_empty() { Ok(()) } else { Err(messages.join("; ")) };
            self.readiness.set(kind_label(kind), outcome);
        }
        self.metrics.refused(of(RefusalKind::Mode).count(), of(RefusalKind::Pool).count());
        self.log_changes(refusals.iter().map(ToString::to_string).collect());
    }

    fn log_changes(&self, now: Vec<String>) {
        let mut before = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if *before == now {
            return;
        }
        for refused in now.iter().filter(|refused| !before.contains(refused)) {
            tracing::error!("refused: {refused}");
        }
        if now.is_empty() {
            tracing::info!("the settings agree with what is recorded");
        }
        *before = now;
    }

    /// How far the engine is.
    pub fn phase(&self, phase: Phase) {
        let outcome = match phase {
            Phase::Starting => Err("the cluster is being read".to_owned()),
            Phase::Recovering => Err("agents are to report what they hold before anything is assigned".to_owned()),
            Phase::Live => Ok(()),
        };
        self.readiness.set(ENGINE, outcome);
    }

    /// What is wrong with the ledger, if anything is.
    pub fn ledger(&self, trouble: Option<&str>) {
        let failing = trouble.map(|why| (LEDGER, why.to_owned()));
        if let Some(failing) = failing.as_ref().filter(|failing| !self.readiness.failing().contains(failing)) {
            tracing::warn!(error = failing.1, "the ledger");
        }
        self.readiness.set(LEDGER, failing.map_or(Ok(()), |(_, why)| Err(why)));
    }

    /// Another operator leads, and this one is ready to follow it.
    pub fn stands_by(&self) {
        self.readiness.pass(ENGINE);
    }
}
