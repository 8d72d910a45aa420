//! A cluster of as many nodes as counts of held addresses are measured, each with its agent.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cadastre_tests::{ControlPlane, NetNs, Proc, Program, Scratch, binary, node, pod, until};
use k8s_openapi::api::core::v1::Pod;
use tokio::task::block_in_place;

use crate::call::{NAMESPACE, Owner};
use crate::fill;
use crate::options::{FULL_NODE, Network, Options};

/// Values: 65,536 addresses for each node; the log as it is installed.
const VALUES: &str = r#"
ipam:
  mode: cluster-pool
  operator: {clusterPoolIPv4PodCIDRList: ["10.0.0.0/8"], clusterPoolIPv4MaskSize: 16}
"#;

/// What the chart would render, for an agent without a cluster.
const SETTINGS: &str = "ipam: {mode: cluster-pool}\n";

pub struct Stage {
    options: Options,
    nodes: Vec<Node>,
    // Dropped behind the agents.
    _world: World,
    _netns: NetNs,
}

/// What the agents need around them.
enum World {
    Cluster(Box<ControlPlane>),
    Alone(Scratch),
}

/// One node.
pub struct Node {
    pub held: u32,
    pub network: Network,
    pub socket: PathBuf,
    pub owner: Owner,
    /// The namespace of every pod.
    pub netns: PathBuf,
    /// host-local's folder.
    pub data: PathBuf,
    pub agent: Proc,
    /// Which of the nodes.
    number: u8,
}

impl Stage {
    pub async fn set(options: &Options) -> Result<Self> {
        let world = match options.network {
            Network::Blocks => World::cluster(options).await?,
            Network::Ranges => World::Alone(Scratch::new()?),
        };
        // host-local insists on one that is not its own.
        let netns = NetNs::new("pods")?;
        let mut nodes = Vec::new();
        for (number, held) in (0..).zip(counts(options)) {
            nodes.push(world.node(options, &netns, number, held).await?);
        }
        let operator = match &world {
            World::Cluster(cp) => Some(cp.start_operator("operator", &["--leader-elect=false"]).await?),
            World::Alone(_) => None,
        };
        for node in &nodes {
            until("an agent with addresses", async || Ok(fill::is_well(node).unwrap_or(false)))
                .await
                .with_context(|| node.agent.tail())?;
        }
        drop(operator); // The blocks are assigned, and it is not what is measured.
        for node in &nodes {
            eprintln!("filling: {} held", node.held);
            block_in_place(|| fill::ours(node).and_then(|()| fill::host_local(node)))?;
        }
        Ok(Self { options: options.clone(), nodes, _world: world, _netns: netns })
    }

    /// The nodes on which calls are measured.
    pub fn measured(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| self.options.held.contains(&node.held))
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What is installed on every node.
    pub fn plugin_kib() -> Result<f64> {
        let bytes = u32::try_from(std::fs::metadata(binary("cadastre")?)?.len())?;
        Ok(f64::from(bytes) / 1024.0)
    }
}

/// A full node is among them, for its memory.
pub fn counts(options: &Options) -> Vec<u32> {
    let mut counts = options.held.clone();
    counts.push(FULL_NODE);
    counts.sort_unstable();
    counts.dedup();
    counts
}

fn name(held: u32) -> String {
    format!("held-{held}")
}

impl World {
    async fn cluster(options: &Options) -> Result<Self> {
        let cp = ControlPlane::builder().without_audit().start().await?;
        cp.install_chart(VALUES).await?.ok()?;
        // Not Ready, as nodes are that have no pod network yet.
        cp.create_nodes(counts(options).into_iter().map(|held| node(&name(held)).ready(false))).await?;
        Ok(Self::Cluster(Box::new(cp)))
    }

    async fn node(&self, options: &Options, netns: &NetNs, number: u8, held: u32) -> Result<Node> {
        let name = name(held);
        let (folder, agent, uid) = match self {
            Self::Cluster(cp) => {
                let created: Pod = cp.create_in(NAMESPACE, &pod(NAMESPACE, &name).on_node(&name).build()).await?;
                (cp.folder().join(&name), cp.start_agent(&name, &name).await?, created.metadata.uid)
            }
            Self::Alone(scratch) => (scratch.path().join(&name), alone(scratch, &name)?, None),
        };
        let owner = Owner { name, uid: uid.unwrap_or_else(|| "00000000-0000-4000-8000-000000000000".to_owned()) };
        let (socket, data) = (folder.join("cadastre.sock"), folder.join("host-local"));
        Ok(Node { held, network: options.network, owner, socket, netns: netns.path(), data, agent, number })
    }
}

/// An agent that finds no API server.
fn alone(scratch: &Scratch, name: &str) -> Result<Proc> {
    let settings = scratch.write("settings.yaml", SETTINGS)?;
    let folder = scratch.folder(name)?;
    let program = Program::ours("cadastre-agent")?.env("KUBECONFIG", scratch.path().join("none"));
    let program = program.arg("run").arg("--config").arg(settings).args(["--node-name", name]);
    let program =
        program.arg("--state-dir").arg(folder.join("state")).arg("--socket").arg(folder.join("cadastre.sock"));
    let program = program.arg("--cni-cache").arg(folder.join("cni")).arg("--netns-dir").arg(folder.join("netns"));
    program.args(["--listen", "127.0.0.1:0"]).start(scratch.path(), name)
}

impl Node {
    /// First address of the network with ranges, one that no other node has.
    pub fn network_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 16 + self.number, 0, 0)
    }

    /// Host-local's range, and ours if the network has ranges of its own.
    pub fn subnet(&self) -> String {
        format!("{}/16", self.network_address())
    }
}
