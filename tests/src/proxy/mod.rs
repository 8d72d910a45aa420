//! A reverse proxy between the operator and the API server, through which whatever goes wrong between the two happens on
//! purpose, at the request that a test chooses.
//!
//! ```text
//! operator ──HTTP──▶ request ──rule──▶ gate ──HTTPS, as the ServiceAccount──▶ kube-apiserver
//!          ◀──────── answer, frame by frame ◀── gate ◀──────────────────────
//! ```
//!
//! A request that has come in is on its way: it goes on to the API server also if the operator that sent it dies or
//! gives up, as bytes in a network do. While the gate is closed nothing passes, either way.

mod asked;
mod serve;
mod shared;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use asked::Asked;
pub use shared::Fault;
use shared::{Gate, Shared};

use crate::{ControlPlane, NAMESPACE, OPERATOR, Program, access, eventually};

/// A proxy of its own for one operator. Dropping it ends it and all that is held in it.
pub struct Proxy {
    url: String,
    kubeconfig: PathBuf,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl ControlPlane {
    /// A proxy that lets everything pass, with the rights of the operator's `ServiceAccount`. `name` tells it from
    /// others.
    pub async fn proxy(&self, name: &str) -> Result<Proxy> {
        let upstream = self.service_account_client(NAMESPACE, OPERATOR).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let kubeconfig = access::plain_kubeconfig(&url).to_string();
        let kubeconfig = self.scratch.write(&format!("{name}.proxy.kubeconfig"), kubeconfig)?;
        let shared = Arc::new(Shared::new(upstream));
        let accepting = tokio::spawn(serve::accept(listener, Arc::clone(&shared)));
        Ok(Proxy { url, kubeconfig, shared, accepting })
    }
}

impl Proxy {
    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The program, with this proxy for its API server.
    pub fn before(&self, program: Program) -> Program {
        program.env("KUBECONFIG", &self.kubeconfig)
    }

    /// What happens to each request from now on.
    pub fn rule(&self, rule: impl FnMut(&Asked) -> Fault + Send + 'static) {
        *self.shared.rule() = Box::new(rule);
    }

    /// Nothing goes wrong any more.
    pub fn pass(&self) {
        self.rule(|_| Fault::Pass);
    }

    /// Nothing passes from now on, as if a cable were pulled: connections stay open, and silent.
    pub fn partition(&self) {
        self.shared.gate(Gate::Closed);
    }

    /// Ends a partition: what was on its way arrives.
    pub fn heal(&self) {
        self.shared.gate(Gate::Open);
    }

    /// Breaks every connection there is, watches among them. New ones are accepted.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Waits until a request was stopped for good: see [`Fault::StopBefore`]. What it was.
    pub async fn stopped(&self) -> Asked {
        self.shared.stopped().await
    }

    /// What was stopped, if anything yet.
    pub fn has_stopped(&self) -> Option<Asked> {
        self.shared.has_stopped()
    }

    /// All requests so far, in the order in which they came.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.log().asked.clone()
    }

    /// How many requests `wanted` accepts.
    pub fn count(&self, wanted: impl Fn(&Asked) -> bool) -> usize {
        self.shared.log().asked.iter().filter(|asked| wanted(asked)).count()
    }

    /// The most requests that were under way at one time, watches aside.
    pub fn most_under_way(&self) -> usize {
        self.shared.most_under_way()
    }

    /// Waits until no write has come for this long, a Lease's aside: only time can show that nothing happens.
    pub async fn quiet(&self, silence: Duration) -> Result<()> {
        let is_quiet = async || {
            let log = self.shared.log();
            let last = log.asked.iter().rev().find(|asked| asked.is_write() && asked.resource() != "leases");
            last.is_none_or(|asked| asked.at + silence <= Instant::now())
        };
        eventually(Duration::from_mins(1) + silence, "no more writes", is_quiet).await
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.gate(Gate::Ended);
        self.shared.cut();
    }
}
