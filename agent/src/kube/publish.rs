//! Keeps `IPAMNode.status` as it should be, with few writes: never one for a pod.

use std::sync::Arc;
use std::time::Duration;

use cadastre_api::{AGENT_MANAGER, GROUP, IPAMNode, IPAMNodeStatus, condition_type};
use cadastre_runtime::resource_version;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::own::{self, Raw};
use super::status::{Change, change, desired};
use super::{Links, OwnNode, chain};

/// Between two writes, whatever happens.
const NEWS_EVERY: Duration = Duration::from_secs(1);

/// Between two writes that only bring numbers up to date, in a cluster of [`FEW`] nodes.
const USAGE_EVERY: Duration = Duration::from_secs(15);

/// Between two looks at the numbers: they change with every pod, and nobody is woken by that.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// With routes or probes, each write is sent to the agent of every node. So with more nodes than these each writes less
/// often, and all of them together no more than 7 times a second.
const FEW: u32 = 100;

/// Conditions of the agent's.
const OWN: [&str; 2] = [condition_type::SERVING, condition_type::NODES_REACHABLE];

/// Longest pause after failed writes.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// A status as it was written.
struct Accepted {
    /// Of which object.
    uid: String,
    /// Which version of it came of that. What is there later may be somebody else's word.
    version: Option<u64>,
    status: IPAMNodeStatus,
}

struct Publisher {
    nodes: Api<Raw>,
    links: Links,
    /// What the API server accepted last.
    accepted: Option<Accepted>,
    last_write: Option<Instant>,
    backoff: Duration,
}

pub async fn run(client: Client, links: Links, mut node: OwnNode) {
    let mut outlook = links.outlook.clone();
    let mut cluster = links.cluster.subscribe();
    let nodes = own::api(client);
    let mut publisher = Publisher { nodes, links, accepted: None, last_write: None, backoff: Duration::ZERO };
    loop {
        let own = node.borrow_and_update().clone();
        outlook.mark_unchanged();
        let said = cluster.borrow_and_update().said();
        let next = own.as_ref().and_then(|own| publisher.next(own));
        let look = Instant::now() + LOOK_EVERY;
        let due = next.as_ref().map_or(look, |(due, _)| look.min(*due));
        tokio::select! {
            changed = node.changed() => if changed.is_err() { return },
            changed = outlook.changed() => if changed.is_err() { return },
            // The rest of it changes with every word of the API server.
            changed = async { cluster.wait_for(|cluster| cluster.said() != said).await.map(drop) } => if changed.is_err() { return },
            () = sleep_until(due) => if let Some((own, (_, status))) = own.zip(next.filter(|(at, _)| *at == due)) {
                publisher.write(&own, status).await;
            },
        }
    }
}

impl Publisher {
    /// What is to be written, and when.
    fn next(&self, own: &Arc<IPAMNode>) -> Option<(Instant, IPAMNodeStatus)> {
        let uid = own.uid()?;
        let latest =
            self.accepted.as_ref().filter(|last| last.uid == uid && resource_version(&own.metadata) <= last.version);
        let before = latest.map_or_else(|| said_before(own), |last| last.status.clone());
        let configured = self.links.identity.configured;
        let (setup, health) = self.links.cluster.borrow().said();
        let status =
            desired(&self.links.outlook.borrow(), &setup, health.as_ref(), configured, &before, Timestamp::now());
        // The assignment is on its way through the queue. With an unreadable journal it stays there.
        let unreadable = self.links.outlook.borrow().journal.unreadable;
        if status.observed_generation.is_none() && !unreadable {
            return None;
        }
        let pause = match change(&before, &status) {
            Change::None => return None,
            Change::News => NEWS_EVERY,
            Change::Usage => usage_every(self.links.nodes()),
        };
        let due = self.last_write.map_or_else(Instant::now, |last| last + pause.max(self.backoff));
        Some((due, status))
    }

    async fn write(&mut self, own: &IPAMNode, status: IPAMNodeStatus) {
        let (name, uid) = (own.name_any(), own.uid().unwrap_or_default());
        let written = put(&self.nodes, &name, &uid, &status).await;
        self.last_write = Some(Instant::now());
        match written {
            Ok(written) => {
                self.accepted = Some(Accepted { uid, version: resource_version(&written.metadata), status });
                self.backoff = Duration::ZERO;
            }
            Err(error) => {
                self.backoff = (self.backoff * 2).clamp(NEWS_EVERY, LONGEST_BACKOFF);
                let (error, again) = (chain(&error), self.backoff);
                tracing::warn!(error, ?again, ipamnode = name, group = GROUP, "the status cannot be written");
            }
        }
    }
}

/// Of this very object: what was meant for an earlier one must not land in a later one.
async fn put(nodes: &Api<Raw>, name: &str, uid: &str, status: &IPAMNodeStatus) -> kube::Result<Raw> {
    let patch = json!({
        "apiVersion": IPAMNode::api_version(&()),
        "kind": IPAMNode::kind(&()),
        "metadata": { "name": name, "uid": uid },
        "status": status,
    });
    let params = PatchParams::apply(AGENT_MANAGER);
    let written = nodes.patch_status(name, &params.clone().force(), &Patch::Apply(&patch)).await?;
    let there = written.status.as_ref().is_some_and(|status| status.get("healthEndpoint").is_some());
    if status.health_endpoint.is_some() || !there {
        return Ok(written);
    }
    // What somebody else put there stays when it is not applied, and others would probe it.
    let patch = json!({"metadata": { "uid": uid }, "status": { "healthEndpoint": null }});
    nodes.patch_status(name, &params, &Patch::Merge(&patch)).await
}

/// How often numbers are brought up to date where so many nodes hear of it.
fn usage_every(nodes: usize) -> Duration {
    USAGE_EVERY * u32::try_from(nodes).unwrap_or(u32::MAX).max(FEW) / FEW
}

/// What an agent of before said in this object, so that a restart writes nothing if nothing changed.
fn said_before(own: &IPAMNode) -> IPAMNodeStatus {
    let mut status = own.status.clone().unwrap_or_default();
    status.conditions.retain(|condition| OWN.contains(&&*condition.type_));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_nodes_hear_of_it_the_rarer_it_is() {
        let cases = [(0, 15), (100, 15), (200, 30), (1_000, 150), (5_000, 750)];
        for (nodes, seconds) in cases {
            assert_eq!(usage_every(nodes), Duration::from_secs(seconds), "{nodes}");
        }
    }
}
