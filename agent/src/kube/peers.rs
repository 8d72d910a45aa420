//! The other nodes' `IPAMNode`s: where routes lead, and where their agents answer probes. Watched only for these, beside the
//! node's own: that one must not wait in a queue of thousands.

use std::pin::pin;
use std::sync::Arc;

use cadastre_api::{HealthEndpoint, IPAMNode, IPAMNodeSpec};
use cadastre_core::Cidr;
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
        Ok(spec) => {
            let peer = Peer::from(spec);
            Some(Peer { health: endpoint(node).and_then(|endpoint| within(&peer, endpoint)), ..peer })
        }
        Err(error) => {
            tracing::warn!(node = node.name_any(), %error, "this IPAMNode cannot be read; what is known of it goes on");
            None
        }
    }
}

/// Of an endpoint, what is an address of the node's own pods: nobody makes others connect anywhere else.
fn within(peer: &Peer, HealthEndpoint { mut addresses, port }: HealthEndpoint) -> Option<HealthEndpoint> {
    addresses.retain(|address| peer.blocks.iter().any(|(block, _)| block.contains(&Cidr::host(*address))));
    (!addresses.is_empty()).then_some(HealthEndpoint { addresses, port })
}

/// `None` for what somebody spoiled; its agent puts it right.
fn endpoint(node: &Raw) -> Option<HealthEndpoint> {
    HealthEndpoint::deserialize(&node.status.as_ref()?.health_endpoint).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn an_endpoint_is_where_the_nodes_pods_are() {
        let read = |addresses: &[&str]| {
            let grant = "00000000-0000-0000-0000-000000000001";
            let block = json!({"pool": "default", "family": "IPv4", "cidr": "10.0.2.0/24", "grant": grant});
            let node = json!({
                "metadata": {"name": "n2"},
                "spec": {"mode": "cluster-pool", "nodeUID": "u-1", "ipam": {"allocated": [block], "podCIDRs": ["10.0.2.0/24"]}},
                "status": {"healthEndpoint": {"addresses": addresses, "port": 4240}},
            });
            super::read(&serde_json::from_value(node).unwrap()).unwrap().health.map(|endpoint| endpoint.addresses)
        };
        let within = vec!["10.0.2.9".parse().unwrap()];
        assert_eq!(read(&["10.0.2.9"]), Some(within.clone()));
        assert_eq!(read(&["127.0.0.1", "10.0.2.9", "10.0.3.1", "fd00::1"]), Some(within));
        assert_eq!(read(&["192.0.2.1"]), None);
    }
}
