//! Every block that was ever published, as a watch saw it: a look at the end would miss one that two nodes had in between.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use cadastre_api::IPAMNode;
use cadastre_core::Cidr;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt as _};
use tokio::task::JoinHandle;

use crate::{ControlPlane, until};

/// Watches `IPAMNode`s from its start until it is dropped, over connections of its own.
pub struct History {
    seen: Arc<Mutex<Seen>>,
    watching: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    /// What each Node, by name and UID, was given first.
    given: BTreeMap<(String, String), Vec<Cidr>>,
    /// Each block, and the Node that had it first.
    holders: BTreeMap<Cidr, (String, String)>,
    /// Up to where it was seen.
    version: String,
    wrongs: Vec<String>,
}

impl ControlPlane {
    /// From now on. The API server should stay up: what happens while a watch is away is not seen.
    pub async fn history(&self) -> Result<History> {
        let nodes = Api::<IPAMNode>::all(self.admin().await?);
        let list = nodes.list(&ListParams::default()).await?;
        let mut first = Seen { version: list.metadata.resource_version.unwrap_or_default(), ..Seen::default() };
        list.items.iter().for_each(|node| first.see(node));
        let seen = Arc::new(Mutex::new(first));
        let watching = tokio::spawn(watch(nodes, Arc::clone(&seen)));
        Ok(History { seen, watching })
    }
}

impl History {
    /// Fails if a block was ever given to two Nodes, or what a Node was once given changed. Waits until all that is
    /// published by now was seen.
    pub async fn check(&self, cp: &ControlPlane) -> Result<()> {
        let nodes = cp.ipam_nodes().await?;
        let present = |seen: &Seen| {
            let has = |node: &IPAMNode| seen.given.get(&key(node)).is_some_and(|given| *given == blocks(node));
            nodes.values().all(|node| blocks(node).is_empty() || has(node))
        };
        until("the watch to have seen all", async || {
            let seen = self.seen();
            Ok(!seen.wrongs.is_empty() || present(&seen))
        })
        .await?;
        match self.seen().wrongs.as_slice() {
            [] => Ok(()),
            wrongs => bail!("{}", wrongs.join("; ")),
        }
    }

    /// How many Nodes were ever given blocks.
    pub fn served(&self) -> usize {
        self.seen().given.len()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Seen {
    fn see(&mut self, node: &IPAMNode) {
        let (key, now) = (key(node), blocks(node));
        match self.given.get(&key) {
            Some(given) if *given == now => return,
            Some(given) => self.wrongs.push(format!("{} had {given:?} and then {now:?}", key.0)),
            None if now.is_empty() => return,
            None => drop(self.given.insert(key.clone(), now.clone())),
        }
        for block in now {
            let holder = self.holders.entry(block).or_insert_with(|| key.clone());
            if *holder != key {
                self.wrongs.push(format!("{block} was given to {} and to {}", holder.0, key.0));
            }
        }
    }
}

/// Until it is aborted. A watch that ends is taken up where it ended.
async fn watch(nodes: Api<IPAMNode>, seen: Arc<Mutex<Seen>>) {
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let version = lock().version.clone();
        if let Err(error) = follow(&nodes, &version, |node, version| {
            let mut seen = lock();
            if let Some(node) = node {
                seen.see(node);
            }
            seen.version = version;
        })
        .await
        {
            lock().wrongs.push(format!("IPAMNodes cannot be watched: {error:#}"));
            return;
        }
    }
}

async fn follow(nodes: &Api<IPAMNode>, version: &str, mut on: impl FnMut(Option<&IPAMNode>, String)) -> Result<()> {
    let mut events = nodes.watch(&WatchParams::default(), version).await?.boxed();
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(node) | WatchEvent::Modified(node) => {
                on(Some(&node), node.resource_version().unwrap_or_default());
            }
            // What it had stays remembered.
            WatchEvent::Deleted(node) => on(None, node.resource_version().unwrap_or_default()),
            WatchEvent::Bookmark(mark) => on(None, mark.metadata.resource_version),
            WatchEvent::Error(status) => bail!("{}", status.message),
        }
    }
    Ok(())
}

fn key(node: &IPAMNode) -> (String, String) {
    (node.name_any(), node.spec.node_uid.clone())
}

fn blocks(node: &IPAMNode) -> Vec<Cidr> {
    let mut blocks: Vec<Cidr> = node.spec.ipam.allocated.iter().map(|block| block.cidr).collect();
    blocks.sort();
    blocks
}
