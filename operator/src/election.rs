//! The Lease on the API server: campaigns, renews, gives back. What to do is decided in lease.rs; what its versions say of
//! the store, in witness.rs.

use std::time::Instant;

use cadastre_api::OPERATOR_MANAGER;
use cadastre_runtime::resource_version;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::timeout;

use crate::lease::{Elector, LEASE_NAME, Move};
use crate::outcome::with_causes;
use crate::witness::Witness;

/// Why a look at the Lease, or a write, came to nothing.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("the Lease {namespace}/{LEASE_NAME} cannot be read or written")]
    Api { namespace: String, source: kube::Error },
    #[error("the Lease {namespace}/{LEASE_NAME}: no answer in time")]
    Timeout { namespace: String },
}

/// One candidate for leadership.
pub struct Election {
    leases: Api<Lease>,
    namespace: String,
    elector: Elector,
    /// The Lease as last written, while it is ours.
    held: Option<Lease>,
    witness: Witness,
}

impl Election {
    pub fn new(client: Client, namespace: &str, elector: Elector, witness: Witness) -> Self {
        let leases = Api::namespaced(client, namespace);
        Self { leases, namespace: namespace.to_owned(), elector, held: None, witness }
    }

    /// Returns when this process leads, and until when it does unless it renews.
    pub async fn win(&mut self) -> Instant {
        let mut told = None;
        loop {
            let sent = Instant::now();
            match self.attempt().await {
                Ok(true) => return self.elector.leads_until(sent),
                Ok(false) if told.as_deref() != self.elector.other() => {
                    told = self.elector.other().map(ToOwned::to_owned);
                    tracing::info!(leader = told.as_deref().unwrap_or("not known yet"), "standing by");
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(error = with_causes(&error), "cannot campaign"),
            }
            tokio::time::sleep(self.elector.wait(Instant::now())).await;
        }
    }

    /// Renews for as long as it can; returns when this process must not act as the leader any more, at `until` at the
    /// latest.
    pub async fn keep(&mut self, mut until: Instant) {
        loop {
            tokio::time::sleep_until((Instant::now() + self.elector.timing().renewal).min(until).into()).await;
            let sent = Instant::now();
            if sent >= until {
                tracing::error!("the Lease could not be renewed in time");
                return;
            }
            let left = until.saturating_duration_since(sent);
            match timeout(left, self.attempt()).await {
                Ok(Ok(true)) => until = self.elector.leads_until(sent),
                Ok(Ok(false)) if self.elector.other().is_some() => {
                    tracing::error!(leader = self.elector.other(), "another operator took the Lease");
                    return;
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(error = with_causes(&error), "cannot renew"),
                Err(_) => tracing::warn!("cannot renew: no answer in time"),
            }
        }
    }

    /// Lets another lead at once, if the Lease is still ours.
    pub async fn release(&mut self) {
        match self.try_release().await {
            Ok(true) => tracing::info!("gave the Lease back"),
            Ok(false) => {}
            Err(error) => tracing::warn!(error = with_causes(&error), "the Lease was not given back: it will run out"),
        }
    }

    async fn try_release(&mut self) -> Result<bool, LeaseError> {
        // A renewal may have been cut off, so that nobody knows how far it came.
        let lease = match self.held.take() {
            Some(held) => Some(held),
            None => self.bounded(self.leases.get_opt(LEASE_NAME)).await?,
        };
        let Some(lease) = lease.filter(|lease| self.elector.holds(lease)) else { return Ok(false) };
        let released = Elector::released(&lease, Timestamp::now());
        self.bounded(self.leases.replace(LEASE_NAME, &params(), &released)).await?;
        Ok(true)
    }

    /// One look if need be, then one write if it is our turn. Whether the Lease is ours.
    async fn attempt(&mut self) -> Result<bool, LeaseError> {
        let seen = match self.held.take() {
            Some(held) => Some(held),
            None => self.bounded(self.leases.get_opt(LEASE_NAME)).await?.inspect(|lease| self.testify(lease)),
        };
        let written = match self.elector.decide(seen.as_ref(), Instant::now(), Timestamp::now()) {
            Move::Wait => return Ok(false),
            Move::Create(lease) => self.bounded(self.leases.create(&params(), &lease)).await,
            Move::Replace(lease) => self.bounded(self.leases.replace(LEASE_NAME, &params(), &lease)).await,
        };
        match written {
            Ok(lease) => {
                self.testify(&lease);
                self.held = Some(lease);
                Ok(true)
            }
            // Somebody was faster, or deleted it: look again. If the write was ours after all, the Lease says so.
            Err(LeaseError::Api { source: kube::Error::Api(status), .. }) if matches!(status.code, 404 | 409) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn testify(&self, lease: &Lease) {
        let written = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
        let written = written.map_or_else(Timestamp::now, |time| time.0);
        if let Some(version) = resource_version(&lease.metadata) {
            self.witness.see(version, written);
        }
    }

    async fn bounded<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseError> {
        let namespace = || self.namespace.clone();
        match timeout(self.elector.timing().deadline / 2, request).await {
            Ok(answer) => answer.map_err(|source| LeaseError::Api { namespace: namespace(), source }),
            Err(_) => Err(LeaseError::Timeout { namespace: namespace() }),
        }
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(OPERATOR_MANAGER.to_owned()), ..PostParams::default() }
}
