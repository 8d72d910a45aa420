//! Which nodes are probed: those that follow on a ring of all names, so that each is probed by as many as it probes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound::{Excluded, Unbounded};

use cadastre_api::HealthEndpoint;
use cadastre_core::Family;

use crate::node::Nodes;

/// Other nodes that one node probes: a node that is cut off is seen by 16 others, whatever the cluster's size.
const NEIGHBOURS: usize = 16;

/// Whom to ask, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub node: String,
    pub addresses: Vec<IpAddr>,
    pub port: u16,
}

impl Target {
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.iter().map(|address| SocketAddr::new(*address, self.port))
    }
}

/// This node, then those that follow it by name, at all their addresses of families that both have. Nodes that have no endpoint
/// do not count.
pub fn targets(peers: &Nodes, me: &str, own: &HealthEndpoint) -> Vec<Target> {
    let this = Target { node: me.to_owned(), addresses: own.addresses.clone(), port: own.port };
    let others: BTreeMap<&str, Target> = peers
        .iter()
        .filter(|(name, _)| *name != me)
        .filter_map(|(name, peer)| {
            let HealthEndpoint { addresses, port } = peer.health.as_ref()?;
            let both = |address: &&IpAddr| own.addresses.iter().any(|own| Family::of(*own) == Family::of(**address));
            let addresses: Vec<IpAddr> = addresses.iter().filter(both).copied().collect();
            (!addresses.is_empty()).then(|| (name.as_str(), Target { node: name.clone(), addresses, port: *port }))
        })
        .collect();
    let behind = others.range::<str, _>((Excluded(me), Unbounded));
    let before = others.range::<str, _>((Unbounded, Excluded(me)));
    std::iter::once(this).chain(behind.chain(before).take(NEIGHBOURS).map(|(_, target)| target.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Peer;

    fn peer(addresses: &[&str]) -> Peer {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let health = (!addresses.is_empty()).then_some(HealthEndpoint { addresses, port: 4240 });
        Peer { health, ..Peer::default() }
    }

    fn own(addresses: &[&str]) -> HealthEndpoint {
        peer(addresses).health.unwrap()
    }

    #[test]
    fn each_of_many_is_probed_by_sixteen_others() {
        let nodes: Nodes = (0..40).map(|n| (format!("n{n:02}"), peer(&["10.0.0.1"]))).collect();
        let mut probed = BTreeMap::<String, usize>::new();
        for me in nodes.keys() {
            let targets = targets(&nodes, me, &own(&["10.0.0.1"]));
            assert_eq!((&targets[0].node, targets.len()), (me, 17));
            for target in &targets[1..] {
                assert_ne!(target.node, *me);
                *probed.entry(target.node.clone()).or_default() += 1;
            }
        }
        assert!(probed.len() == 40 && probed.values().all(|by| *by == 16), "{probed:?}");
    }

    #[test]
    fn only_who_has_an_endpoint_in_a_family_of_ours_counts() {
        let nodes: Nodes = [
            ("a", peer(&["10.0.1.5", "fd00::105"])),
            ("b", peer(&[])),
            ("c", peer(&["fd00::305"])),
            ("me", peer(&["10.0.9.9"])),
            ("z", peer(&["10.0.4.5"])),
        ]
        .map(|(name, peer)| (name.to_owned(), peer))
        .into();
        let said: Vec<(String, usize)> = targets(&nodes, "me", &own(&["10.0.0.1"]))
            .into_iter()
            .map(|target| (target.node, target.addresses.len()))
            .collect();
        assert_eq!(said, [("me".to_owned(), 1), ("z".to_owned(), 1), ("a".to_owned(), 1)]);
        let dual = targets(&nodes, "me", &own(&["10.0.0.1", "fd00::1"]));
        assert_eq!((dual.len(), dual[2].addresses.len()), (4, 2));
        let sockets: Vec<String> = dual[2].sockets().map(|socket| socket.to_string()).collect();
        assert_eq!(sockets, ["10.0.1.5:4240", "[fd00::105]:4240"]);
    }
}
