//! The agent's dealings with the API server. None of them is in the way of an ADD, but for a Pod that is not known yet.
//!
//! ```text
//! own IPAMNode ──▶ watch_node ──▶ Assignment ──▶ owner of the pools ──▶ Outlook ──▶ publish ──▶ own IPAMNode/status
//! own Node     ──▶ (live GET: whose IPAMNode is it?)                                  └──▶ report_mode ──▶ Event, readiness
//! IPAMNodes    ──▶ peers, if there are routes or probes ──▶ node, health
//! own Pods     ──▶ pods ──▶ reconcile ──▶ owner
//!                     ├───▶ annotations: the addresses that a Pod asks for
//!                     └───▶ farewell: whether the agent's own Pod was deleted by force
//! /version     ──▶ pulse ──▶ Cluster, for people
//! ```
//! With the API server away each of them tries again, for ever, and the pools serve on from what the journal knows.

mod afresh;
mod annotations;
mod assignment;
mod head;
mod own;
mod peers;
mod pods;
mod publish;
mod pulse;
mod reconcile;
mod report_mode;
mod status;
mod watch_node;

use std::sync::Arc;
use std::time::Duration;

use cadastre_api::IPAMNode;
use cadastre_runtime::{Settings, client};
use futures::FutureExt;
use kube::runtime::events::Reporter;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::metrics::Metrics;
use crate::node::{Nodes, Peers};
use crate::outlook::{Cluster, Outlook};
use crate::report::Identity;
use crate::serve::Message;
pub use annotations::{Annotations, Question};
pub use pods::{Pods, Standing};

/// Between two tries of what failed: long enough for an API server that comes back, short enough for nobody to wait.
const RETRY: Duration = Duration::from_secs(2);

/// What these parts share.
#[derive(Clone)]
pub struct Links {
    pub identity: Identity,
    pub owner: mpsc::UnboundedSender<Message>,
    pub outlook: watch::Receiver<Outlook>,
    pub cluster: Arc<watch::Sender<Cluster>>,
    pub metrics: Metrics,
    /// Where the other nodes are shown; `None` if nobody looks.
    pub peers: Option<Arc<watch::Sender<Peers>>>,
    /// Between two passes of reconciliation.
    pub reconcile_every: Duration,
}

impl Links {
    /// How many nodes hear of each change of an `IPAMNode`; none if nobody watches them all.
    fn nodes(&self) -> usize {
        self.peers.as_ref().and_then(|peers| peers.borrow().as_ref().map(Nodes::len)).unwrap_or_default()
    }
}

/// What `watch_node` shows the others.
pub type OwnNode = watch::Receiver<Option<Arc<IPAMNode>>>;

/// Who Events are from.
fn reporter(links: &Links) -> Reporter {
    Reporter { controller: cadastre_api::AGENT_MANAGER.to_owned(), instance: Some(links.identity.node.clone()) }
}

/// Runs for ever.
pub async fn drive(settings: &Settings, links: Links, pods: Pods, questions: mpsc::Receiver<Question>) {
    let client = connect(settings, &links).await;
    let (node_to, node) = watch::channel(None);
    let trouble = Arc::new(Notify::new());
    // Each a task, so that what wakes one of them does not wake all; they end with the set.
    let parts = [
        watch_node::run(client.clone(), links.clone(), node_to, Arc::clone(&trouble)).boxed(),
        publish::run(client.clone(), links.clone(), node.clone()).boxed(),
        report_mode::run(client.clone(), links.clone(), node.clone()).boxed(),
        pulse::run(client.clone(), Arc::clone(&links.cluster), Arc::clone(&trouble)).boxed(),
        pods::run(client.clone(), links.identity.node.clone(), pods.clone(), trouble).boxed(),
        annotations::answer(client.clone(), questions).boxed(),
        peers::run(client.clone(), links.peers.clone()).boxed(),
        reconcile::run(client, links, node, pods).boxed(),
    ];
    parts.into_iter().collect::<JoinSet<()>>().join_all().await;
}

/// A client needs no API server, only a configuration; one that is wrong may be put right.
async fn connect(settings: &Settings, links: &Links) -> kube::Client {
    loop {
        match client(settings, cadastre_api::AGENT_MANAGER).await {
            Ok(client) => return client,
            Err(error) => {
                let trouble = chain(&error);
                tracing::error!(error = trouble, "no Kubernetes client; trying again");
                links.cluster.send_modify(|cluster| cluster.trouble = Some(trouble));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// An error with what caused it, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = error.source();
    }
    text
}
