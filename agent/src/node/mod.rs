//! What the agent sets up on its node beside addresses, so that a pod that has one can use it.
//!
//! ```text
//! settings ──▶ install ──▶ /opt/cni/bin/cadastre, /etc/cni/net.d/05-cadastre.conflist    once ADDs can be served
//! IPAMNodes ─▶ routes  ──▶ main table: the blocks of other nodes, through their nodes
//!              forward ──▶ net.ipv4.ip_forward, net.ipv6.conf.all.forwarding
//! DaemonSet gone ─▶ farewell ─▶ all of it is taken back
//! ```
//! All of it stays when the agent stops: what a node has, its pods go on using.

mod conflist;
mod farewell;
mod forward;
mod install;
mod kernel;
mod others;
mod peers;
mod place;
mod routes;
mod tend;

use std::collections::BTreeMap;

pub use conflist::NAME as CONFLIST;
pub use farewell::{Asking, farewell};
pub use install::Installer;
pub use kernel::Kernel;
pub use peers::{Nodes, Peer, Peers};
pub use tend::{Host, tend};

/// How the node is set up, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSetup {
    /// What is installed, or why it cannot be; `None` if nothing is to be.
    pub cni: Option<Result<String, String>>,
    /// `None` if there are to be no routes.
    pub routes: Option<RoutesSeen>,
    /// Why packets are not forwarded, if they are not.
    pub forwarding: Option<String>,
}

impl NodeSetup {
    /// Why pods are not attached, if they are not.
    #[must_use]
    pub fn not_installed(&self) -> Option<&str> {
        self.cni.as_ref()?.as_ref().err().map(String::as_str)
    }
}

/// Routes to the blocks of other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutesSeen {
    /// How many there are.
    pub installed: usize,
    /// To how many nodes.
    pub nodes: usize,
    /// Nodes with a block that no route leads to, with the reason.
    pub unreached: BTreeMap<String, String>,
    /// Why the kernel's routes cannot be read or written.
    pub trouble: Option<String>,
}
