//! What `helm test` runs: a pod of a `DaemonSet` on each node, connections among them, and an audit.
//!
//! ```text
//! pods.rs     waits until each node's pod has its addresses        (this process, on the node's network)
//! reach.rs    asks each pod to connect to others, at all addresses
//! answer.rs   is what runs in those pods: answers, and connects when asked
//! ```

pub mod answer;
mod pods;
mod reach;
mod show;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use cadastre_runtime::{AuditVerdict, DaemonSetName, with_causes};
use kube::Client;
use serde::{Deserialize, Serialize};

use crate::audit::{self, Outcome};
use crate::onlooker::{LookError, connect};
use reach::Reached;

/// Where the test's pods answer. Each has a network of its own, so nothing else is in the way.
const PORT: u16 = 4241;

/// For one connection, until the other side has said its name.
const CONNECT: Duration = Duration::from_secs(3);

/// Longest line of either side: far more than 16 pods take, at two addresses each.
const LINE: u64 = 64 * 1024;

/// What is asked of a pod: whom to connect to.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ask {
    reach: Vec<IpAddr>,
}

/// What a pod says: its node, and for each address the name of the node that answered there, or why nothing did.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    node: String,
    reached: Vec<(IpAddr, Result<String, String>)>,
}

/// Why there is no outcome at all.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error(transparent)]
    Look(#[from] LookError),
    #[error("the pods of the test cannot be looked at: see whether its account may read DaemonSet and Pods")]
    Pods(#[from] kube::Error),
}

/// What was seen.
#[derive(Debug)]
pub struct Trial {
    /// Nodes that were to have a pod; none if nothing ever said how many.
    nodes: Option<usize>,
    /// Those whose pod has no address, and why.
    without: Vec<(String, String)>,
    reached: Reached,
    /// Or why there is none.
    audit: Result<Outcome, String>,
}

impl Trial {
    pub fn is_good(&self) -> bool {
        let Self { nodes, without, reached, audit } = self;
        let clean = audit.as_ref().is_ok_and(|audit| audit.verdict() == AuditVerdict::Clean);
        nodes.is_some_and(|nodes| nodes > 0) && without.is_empty() && reached.failed.is_empty() && clean
    }
}

/// Tries the network of all nodes that `daemon_set` has a pod on.
pub async fn trial(file: &Path, daemon_set: &DaemonSetName) -> Result<Trial, TrialError> {
    let (_, client) = connect(file).await?;
    run(client, daemon_set).await
}

async fn run(client: Client, daemon_set: &DaemonSetName) -> Result<Trial, TrialError> {
    let pods = pods::with_addresses(&client, daemon_set).await?;
    let reached = reach::all(&pods.running).await;
    let audit = audit::look_twice(&client).await.map(|(audit, _)| audit).map_err(|error| with_causes(&error));
    Ok(Trial { nodes: pods.nodes, without: pods.without, reached, audit })
}
