//! The node's own `IPAMNode`: watched, and believed only if it is of this very Node.
//!
//! A Node of the same name may have been another machine. So the UID in the spec is compared with that of the Node, read
//! live, once for each UID.

use std::pin::pin;
use std::sync::Arc;

use cadastre_api::IPAMNode;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{Notify, watch};

use super::{Links, RETRY, afresh, assignment, chain, own};
use crate::boot_time::BootTime;
use crate::pools::{Assignment, Input};
use crate::serve::Message;

/// What is known of the `IPAMNode`.
struct Watched {
    nodes: Api<Node>,
    links: Links,
    shown: watch::Sender<Option<Arc<IPAMNode>>>,
    current: Option<Arc<IPAMNode>>,
    /// UID of the Node, as read last.
    node_uid: Option<String>,
    told: Option<Assignment>,
}

/// Whether the look at the Node has to be repeated.
#[derive(PartialEq)]
enum Settled {
    Yes,
    No,
}

pub async fn run(client: Client, links: Links, shown: watch::Sender<Option<Arc<IPAMNode>>>, trouble: Arc<Notify>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={}", links.identity.node));
    let mut events = pin!(afresh::watch(own::api(client.clone()), config));
    let nodes = Api::all(client);
    let mut watched = Watched { nodes, links, shown, current: None, node_uid: None, told: None };
    let (mut listed, mut settled) = (None, Settled::Yes);
    loop {
        let retry = async {
            if settled == Settled::No { tokio::time::sleep(RETRY).await } else { std::future::pending().await }
        };
        let event = tokio::select! {
            event = events.next() => {
                if matches!(event, Some(Ok(_))) {
                    watched.links.cluster.send_modify(|cluster| cluster.heard = Some(BootTime::now()));
                }
                event
            }
            () = retry => {
                settled = watched.consider().await;
                continue;
            }
        };
        match event {
            None => return,
            Some(Err(error)) => {
                tracing::warn!(error = chain(&error), "the IPAMNode cannot be watched; what is known of it goes on");
                trouble.notify_one();
                continue;
            }
            Some(Ok(Event::Init)) => {
                listed = None;
                continue;
            }
            Some(Ok(Event::InitApply(node))) => {
                listed = own::read(node).map(Arc::new).or_else(|| watched.current.clone());
                continue;
            }
            Some(Ok(Event::InitDone)) => watched.current = listed.take(),
            Some(Ok(Event::Apply(node))) => {
                watched.current = own::read(node).map(Arc::new).or_else(|| watched.current.take());
            }
            Some(Ok(Event::Delete(_))) => watched.current = None,
        }
        settled = watched.consider().await;
    }
}

impl Watched {
    /// Tells the pools what to allocate from, if that changed.
    async fn consider(&mut self) -> Settled {
        let name = self.links.identity.node.clone();
        let Some(node) = self.current.clone() else {
            let absence = format!("there is no IPAMNode {name}: see whether the operator runs and what its log says");
            self.show(None, assignment::none(absence));
            return Settled::Yes;
        };
        match self.whose(&node).await {
            Ok(None) => {
                let assignment = assignment::of_node(&node);
                self.show(Some(node), assignment);
                Settled::Yes
            }
            Ok(Some(absence)) => {
                self.show(None, assignment::none(absence));
                Settled::No
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), node = name, "the Node cannot be read; trying again");
                Settled::No
            }
        }
    }

    /// Why the `IPAMNode` is not this Node's, if it is not.
    async fn whose(&mut self, node: &IPAMNode) -> Result<Option<String>, kube::Error> {
        let name = &self.links.identity.node;
        let wanted = &node.spec.node_uid;
        if self.node_uid.as_ref() == Some(wanted) {
            return Ok(None);
        }
        self.node_uid = self.nodes.get_metadata_opt(name).await?.and_then(|node| node.uid());
        Ok(match &self.node_uid {
            Some(uid) if uid == wanted => None,
            Some(uid) => Some(format!(
                "IPAMNode {name} is of an earlier Node with UID {wanted}, and this one has UID {uid}: the operator will replace it"
            )),
            None => Some(format!("there is no Node {name}: see whether kubelet has registered it")),
        })
    }

    fn show(&mut self, own: Option<Arc<IPAMNode>>, assignment: Assignment) {
        self.shown.send_replace(own);
        if self.told.as_ref() == Some(&assignment) {
            return;
        }
        self.links.cluster.send_modify(|cluster| cluster.told = Some(BootTime::now()));
        if let Some(assigned) = &assignment.assigned {
            let blocks: Vec<String> = assignment.blocks.iter().map(|block| block.cidr.to_string()).collect();
            let (generation, mode) = (assigned.generation, assigned.mode.label());
            tracing::info!(generation, mode, blocks = blocks.join(", "), note = assigned.note, "assigned");
        } else {
            tracing::warn!(why = assignment.absence, "nothing is assigned");
        }
        self.told = Some(assignment.clone());
        // If the owner has ended, so does the process.
        drop(self.links.owner.send(Message::Event(Input::Assigned(assignment))));
    }
}
