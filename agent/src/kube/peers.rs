//! The other nodes' `IPAMNode`s: where routes lead, and where their agents answer probes. Watched only for these, beside the
//! node's own: that one must not wait in a queue of thousands.

use std::pin::pin;
use std::sync::Arc;

use cadastre_api::{HealthEndpoint, IPAMNode, IPAMNodeSpec};
use futures::StreamExt;
use kube::core::{ApiResource, Object};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

use super::{afresh, chain};
use crate::node::{Nodes, Peer, Peers};

/// One whose spec is read when its name is known: a spoiled one must not hide the others.
type Raw = Object<Value, Said>;

/// What of a status others need.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Said {
    health_endpoint: Value,
}

pub async fn run(client: Client, shown: Option<Arc<watch::Sender<Peers>>>) {
    let Some(shown) = shown else { return std::future::pending().await };
    let kind = ApiResource::erase::<IPAMNode>(&());
    let mut events = pin!(afresh::watch(Api::<Raw>::all_with(client, &kind), watcher::Config::default()));
    let mut listed = Nodes::new();
    while let Some(event) = events.next().await {
        match event {
            Err(error) => tracing::warn!(
                error = chain(&error),
                "the other nodes cannot be watched; what is known of them goes on"
            ),
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(node)) => {
                let known = shown.borrow().as_ref().and_then(|nodes| nodes.get(&node.name_any()).cloned());
                listed.extend(read(&node).or(known).map(|peer| (node.name_any(), peer)));
            }
            Ok(Event::InitDone) => drop(shown.send_replace(Some(std::mem::take(&mut listed)))),
            Ok(Event::Apply(node)) => {
                if let Some(peer) = read(&node) {
                    change(&shown, |nodes| nodes.insert(node.name_any(), peer.clone()).as_ref() != Some(&peer));
                }
            }
            Ok(Event::Delete(node)) => change(&shown, |nodes| nodes.remove(&node.name_any()).is_some()),
        }
    }
}

/// Most events are news of a status: those wake nobody.
fn change(shown: &watch::Sender<Peers>, change: impl FnOnce(&mut Nodes) -> bool) {
    shown.send_if_modified(|peers| peers.as_mut().is_some_and(change));
}

/// `None` for what somebody spoiled; the operator puts it right.
fn read(node: &Raw) -> Option<Peer> {
    match IPAMNodeSpec::deserialize(&node.spec) {
        Ok(spec) => Some(Peer { health: endpoint(node), ..spec.into() }),
        Err(error) => {
            tracing::warn!(node = node.name_any(), %error, "this IPAMNode cannot be read; what is known of it goes on");
            None
        }
    }
}

/// `None` for what somebody spoiled; its agent puts it right.
fn endpoint(node: &Raw) -> Option<HealthEndpoint> {
    HealthEndpoint::deserialize(&node.status.as_ref()?.health_endpoint).ok()
}
