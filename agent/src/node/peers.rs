//! The other nodes, as far as routes and probes need them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cadastre_api::{HealthEndpoint, IPAMNodeSpec};
use cadastre_core::Cidr;

/// Every node by name, this one among them.
pub type Nodes = BTreeMap<String, Peer>;

/// `None` until they were all read once.
pub type Peers = Option<Nodes>;

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it is reached, in its order of preference.
    pub addresses: Vec<IpAddr>,
    /// Its blocks that lead there, and whether each is retiring: pods may still use it.
    pub blocks: Vec<(Cidr, bool)>,
    /// Where its agent answers in the pod network.
    pub health: Option<HealthEndpoint>,
}

impl From<IPAMNodeSpec> for Peer {
    fn from(spec: IPAMNodeSpec) -> Self {
        let leading = spec.ipam.allocated.iter().filter(|block| spec.ipam.pod_cidrs.contains(&block.cidr));
        Self {
            addresses: spec.addresses.iter().map(|address| address.ip).collect(),
            blocks: leading.map(|block| (block.cidr, block.retiring)).collect(),
            health: None,
        }
    }
}
