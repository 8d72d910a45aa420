//! The client: creates Nodes, and sees from a watch when each has its block.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use cadastre_api::{IPAMNode, IPAMNodeSpec, Mode, NodeIpam};
use cadastre_tests::{ControlPlane, node};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ContainerImage, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{PostParams, WatchEvent, WatchParams};
use kube::core::Request;
use kube::{Api, Client};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Longer than any subject takes for any size; one that hangs is to end the run.
const PATIENCE: Duration = Duration::from_mins(3);

#[derive(Clone, Debug, Deserialize)]
struct Seen {
    metadata: SeenMeta,
    #[serde(default)]
    spec: SeenSpec,
}

impl Seen {
    fn has_block(&self) -> bool {
        !self.spec.pod_cidrs.is_empty() || !self.spec.ipam.allocated.is_empty()
    }
}

#[derive(Clone, Debug, Deserialize)]
struct SeenMeta {
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SeenSpec {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<IgnoredAny>,
    ipam: SeenIpam,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SeenIpam {
    allocated: Vec<IgnoredAny>,
}

/// When each node's block showed, as a watch says it.
pub struct Arrivals {
    seen: mpsc::UnboundedReceiver<(String, Instant)>,
    at: HashMap<String, Instant>,
    _watch: JoinSet<Result<()>>,
}

impl Arrivals {
    /// Watches the objects at this path, with what is there already.
    pub fn watch(client: Client, path: &'static str) -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(follow(client, path, sender));
        Self { seen, at: HashMap::new(), _watch: task }
    }

    /// Waits until these nodes have their blocks; when each had.
    pub async fn wait(&mut self, names: &[String]) -> Result<Vec<Instant>> {
        let all = async {
            let mut missing: HashSet<_> = names.iter().filter(|name| !self.at.contains_key(*name)).cloned().collect();
            while !missing.is_empty() {
                let (name, at) = self.seen.recv().await.context("the watch of the benchmark broke off")?;
                missing.remove(&name);
                // An object is seen again with each change of it.
                self.at.entry(name).or_insert(at);
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(ended) => ended?,
            Err(_) => bail!("not all of {} nodes had a block within {PATIENCE:?}", names.len()),
        }
        Ok(names.iter().filter_map(|name| self.at.get(name).copied()).collect())
    }
}

/// The API server ends a watch that falls behind; the next one begins with everything there is.
async fn follow(client: Client, path: &'static str, seen: mpsc::UnboundedSender<(String, Instant)>) -> Result<()> {
    loop {
        let request = Request::new(path).watch(&WatchParams::default(), "")?;
        let mut events = client.request_events::<Seen>(request).await?.boxed();
        let mut last = String::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) if object.has_block() => {
                    seen.send((object.metadata.name, Instant::now()))?;
                }
                Ok(WatchEvent::Error(status)) => last = status.message,
                Ok(_) => {}
                Err(error) => last = error.to_string(),
            }
        }
        eprintln!("the watch of {path} was ended: watching again ({last})");
    }
}

/// Names of so many nodes.
pub fn names(count: u32) -> Vec<String> {
    (0..count).map(|number| format!("node-{number:05}")).collect()
}

/// Not Ready, as nodes are that have no pod network yet.
pub fn small(name: &str) -> Node {
    node(name).ready(false).build()
}

/// A Node of 10 KB: most of a real one is the images on it.
pub fn large(name: &str) -> Node {
    let image = |number: usize| ContainerImage {
        names: Some(vec![
            format!("registry.example/project/component-{number:02}@sha256:{:064x}", number + 1),
            format!("registry.example/project/component-{number:02}:v1.{number}.0"),
        ]),
        size_bytes: Some(50_000_000),
    };
    let mut node = small(name);
    if let Some(status) = &mut node.status {
        status.images = Some((0..46).map(image).collect());
    }
    node
}

/// POST of a Node.
pub async fn create_node(client: &Client, node: &Node) -> Result<Node> {
    Ok(Api::all(client.clone()).create(&PostParams::default(), node).await?)
}

/// POST of the `IPAMNode` that our operator would create for this Node, with some block or other.
pub async fn create_ipam_node(client: &Client, node: &Node, number: usize) -> Result<()> {
    let uid = node.metadata.uid.clone().unwrap_or_default();
    let name = node.metadata.name.clone().unwrap_or_default();
    let cidr = format!("10.{}.{}.0/24", number / 256, number % 256);
    let grant = format!("00000000-0000-4000-8000-{number:012x}");
    let block = serde_json::json!({"pool": "default", "family": "IPv4", "cidr": cidr, "grant": grant});
    let ipam = NodeIpam { allocated: vec![serde_json::from_value(block)?], pod_cidrs: vec![cidr.parse()?] };
    let spec = IPAMNodeSpec { mode: Mode::ClusterPool, node_uid: uid.clone(), addresses: Vec::new(), ipam };
    let mut object = IPAMNode::new(&name, spec);
    let owner =
        OwnerReference { api_version: "v1".into(), kind: "Node".into(), name, uid, ..OwnerReference::default() };
    object.metadata.owner_references = Some(vec![owner]);
    Api::<IPAMNode>::all(client.clone()).create(&PostParams::default(), &object).await?;
    Ok(())
}

/// Creates nodes that are no part of what is timed, and waits for their blocks.
pub async fn prepare(cp: &ControlPlane, arrivals: &mut Arrivals, nodes: Vec<Node>) -> Result<()> {
    let names: Vec<_> = nodes.iter().filter_map(|node| node.metadata.name.clone()).collect();
    cp.create_nodes(nodes).await?;
    arrivals.wait(&names).await.map(drop)
}
