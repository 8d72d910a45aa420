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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_blocks_that_lead_to_a_node_are_its() {
        let block = |cidr: &str, retiring: bool| {
            let grant = "00000000-0000-0000-0000-000000000001";
            json!({"pool": "default", "family": "IPv4", "cidr": cidr, "grant": grant, "retiring": retiring})
        };
        let allocated = [block("10.0.2.0/24", false), block("10.0.3.0/24", false), block("10.0.4.0/24", true)];
        let spec = json!({
            "mode": "cluster-pool",
            "nodeUID": "u-1",
            "addresses": [{"type": "InternalIP", "ip": "192.0.2.1"}],
            // Another node has 10.0.3.0/24 as well.
            "ipam": {"allocated": allocated, "podCIDRs": ["10.0.2.0/24", "10.0.4.0/24"]},
        });
        let Peer { addresses, blocks, health } = serde_json::from_value::<IPAMNodeSpec>(spec).unwrap().into();
        assert_eq!((addresses, health), (vec!["192.0.2.1".parse().unwrap()], None));
        assert_eq!(blocks, [("10.0.2.0/24".parse().unwrap(), false), ("10.0.4.0/24".parse().unwrap(), true)]);
    }
}
