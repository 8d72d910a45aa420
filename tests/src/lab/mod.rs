//! A cluster on one machine: a control plane and two nodes, each with kubelet and containerd of its own, in namespaces. One
//! unchanged chart serves both nodes, since each has its own `/etc/cni`, `/opt/cni`, `/run` and `/var/lib`.
//!
//! ```text
//!  namespace cp                                   namespace of a node, for each
//!   etcd, kube-apiserver :443                      process 1 (tests/lab/node-init.sh)
//!   bridge 10.66.0.1 ──────────── cable ────────── eth0 10.66.0.11, .12
//!                                                  containerd ─▶ pods
//!  outside: controller manager, scheduler,         kubelet
//!   kubectl, tests ── loopback ─▶ cp
//! ```
//!
//! Clusters see nothing of each other and nothing of the machine's network, so addresses are the same in each. When one is
//! dropped, or its process dies, all its processes die, and `tests/lab/reap.sh` removes what is left.

mod audit;
mod cgroups;
mod config;
mod failures;
mod idle;
mod images;
mod network;
mod node;
mod pods;
mod possible;
mod reaper;

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};

pub use self::audit::{Sight, Verdict};
use self::cgroups::Cgroups;
pub use self::failures::Failures;
use self::network::Network;
pub use self::node::Node;
pub use self::pods::{Running, is_ready};
use self::reaper::Reaper;
use crate::home::SERVICES;
use crate::{ControlPlane, NAMESPACE, Output, RELEASE, eventually, until};

/// The nodes' names.
const NODES: [&str; 2] = ["node-a", "node-b"];
/// A node is Ready some seconds after its network is there; tests keep every core busy.
const READY_TIMEOUT: Duration = Duration::from_mins(1);
/// So that a node that died is seen to have died in 8 s.
const MANAGER_FLAGS: [&str; 2] = ["--node-monitor-grace-period=8s", "--node-monitor-period=1s"];

/// See the [module](self).
pub struct Lab {
    // Fields are dropped in this order: processes, what they live in, and then what nobody else removed.
    pub nodes: [Node; 2],
    pub cp: ControlPlane,
    _network: Network,
    _reaper: Reaper,
}

impl Lab {
    /// Starts one and waits until both nodes have registered. Ready they are when something gives pods a network.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// With further flags of the controller manager.
    pub async fn start_with(manager_flags: &[&str]) -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        Self::possible().map_err(|reason| anyhow!("no cluster on this machine: {reason}"))?;
        Cgroups::sweep()?;
        let name = format!("cadastre-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let reaper = Reaper::start()?;
        let network = Network::new(&NODES, &reaper).await?;
        let node = |number: usize| Node::new(NODES[number], number, &name, &network, &reaper);
        let mut nodes = [node(0)?, node(1)?];
        let control_plane = ControlPlane::builder()
            .service_cidr(SERVICES)
            .controller_manager(&[&MANAGER_FLAGS[..], manager_flags].concat());
        let control_plane = control_plane.among(Arc::clone(&network.cp), NODES.map(str::to_owned).into());
        let [a, b] = &mut nodes;
        let (cp, a, b) = tokio::join!(control_plane.start(), a.boot(), b.boot());
        let (cp, (), ()) = (cp?, a?, b?);
        reaper.folder(cp.folder())?;
        for node in &mut nodes {
            node.join(&cp)?;
        }
        until("both nodes to register", async || Ok(cp.kubectl(&of_nodes("get")).await?.success())).await?;
        Ok(Self { nodes, cp, _network: network, _reaper: reaper })
    }

    /// Waits until both nodes are Ready.
    pub async fn nodes_ready(&self) -> Result<()> {
        let wait = [&of_nodes("wait")[..], &["--for=condition=Ready", "--timeout=1s"]].concat();
        eventually(READY_TIMEOUT, "both nodes Ready", async || self.cp.kubectl(&wait).await?.ok()).await?;
        Ok(())
    }

    /// `helm upgrade --install` of the chart with our images, these values and flags such as `--wait`.
    pub async fn upgrade_chart(&self, values: &str, flags: &[&str]) -> Result<Output> {
        self.cp.upgrade_chart(values, &[&images::FLAGS, flags].concat()).await
    }

    /// Another command of Helm for the release: `rollback`, `test`, `uninstall`, with these flags.
    pub async fn helm(&self, command: &str, flags: &[&str]) -> Result<Output> {
        self.cp.helm(&[&[command, RELEASE, "--namespace", NAMESPACE], flags].concat()).await
    }
}

/// The arguments of kubectl for `VERB node/… node/…`.
fn of_nodes(verb: &str) -> [&str; 4] {
    [verb, "node", NODES[0], NODES[1]]
}
