//! Which routes there should be, and what is to be done for that: decisions over plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cadastre_core::{Cidr, Family};

use super::peers::{Nodes, Peer};

/// A block and the node it is reached through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub to: Cidr,
    pub via: IpAddr,
}

/// What should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Each with the name of its node.
    pub routes: BTreeMap<Route, String>,
    /// Nodes with a block and no address of its family, with the reason.
    pub unreached: BTreeMap<String, String>,
}

/// Routes to the blocks of all nodes but this one, of which `own` are the blocks. A block that two nodes claim leads to the one
/// that allocates from it, and one that this node claims as well leads nowhere else.
pub fn wanted(peers: &Nodes, me: &str, own: &[Cidr]) -> Wanted {
    let mut holders: BTreeMap<Cidr, (bool, &str, IpAddr)> = BTreeMap::new();
    let mut unreached = BTreeMap::new();
    for (name, Peer { addresses, blocks, health: _ }) in peers.iter().filter(|(name, _)| *name != me) {
        for (block, retiring) in blocks.iter().filter(|(block, _)| !own.iter().any(|own| own.overlaps(block))) {
            let Some(via) = addresses.iter().find(|address| Family::of(**address) == block.family()) else {
                unreached.insert(name.clone(), format!("its Node has no InternalIP of {}", block.family()));
                continue;
            };
            let holder = (*retiring, name.as_str(), *via);
            let first = holders.entry(*block).or_insert(holder);
            *first = holder.min(*first);
        }
    }
    let routes = holders.into_iter().map(|(to, (_, name, via))| (Route { to, via }, name.to_owned())).collect();
    Wanted { routes, unreached }
}

/// What to do, removals first: a block that changed its node has only one way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub remove: Vec<Route>,
    pub add: Vec<Route>,
}

/// From what is there to what should be.
pub fn change(wanted: &Wanted, there: &[Route]) -> Change {
    let there: BTreeSet<Route> = there.iter().copied().collect();
    Change {
        remove: there.iter().filter(|route| !wanted.routes.contains_key(route)).copied().collect(),
        add: wanted.routes.keys().filter(|route| !there.contains(route)).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(addresses: &[&str], blocks: &[(&str, bool)]) -> Peer {
        let blocks = blocks.iter().map(|(block, retiring)| (block.parse().unwrap(), *retiring));
        Peer {
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            blocks: blocks.collect(),
            health: None,
        }
    }

    fn peers<const N: usize>(peers: [(&str, Peer); N]) -> Nodes {
        peers.into_iter().map(|(name, peer)| (name.to_owned(), peer)).collect()
    }

    fn route(to: &str, via: &str) -> Route {
        Route { to: to.parse().unwrap(), via: via.parse().unwrap() }
    }

    #[test]
    fn blocks_of_other_nodes_lead_to_their_first_address_of_the_family() {
        let peers = peers([
            ("me", peer(&["192.168.0.1"], &[("10.0.1.0/24", false)])),
            ("b", peer(&["192.168.0.2", "192.168.9.2", "fd77::2"], &[("10.0.2.0/24", false), ("fd00::200/120", true)])),
            ("c", peer(&["192.168.0.3"], &[("10.0.3.0/24", false), ("fd00::300/120", false)])),
            ("d", peer(&[], &[])),
        ]);
        let wanted = wanted(&peers, "me", &["10.0.1.0/24".parse().unwrap()]);
        let expected = [("10.0.2.0/24", "192.168.0.2"), ("10.0.3.0/24", "192.168.0.3"), ("fd00::200/120", "fd77::2")];
        let routes: Vec<Route> = wanted.routes.keys().copied().collect();
        assert_eq!(routes, expected.map(|(to, via)| route(to, via)));
        let reason = "its Node has no InternalIP of IPv6".to_owned();
        assert_eq!(wanted.unreached, BTreeMap::from([("c".to_owned(), reason)]));
    }

    #[test]
    fn a_block_that_two_claim_has_one_way_and_our_own_none() {
        let contested = |retiring| peer(&["192.168.0.2"], &[("10.0.2.0/24", retiring)]);
        let two = peers([("b", contested(true)), ("c", contested(false))]);
        assert_eq!(wanted(&two, "me", &[]).routes.into_values().collect::<Vec<_>>(), ["c"]);
        let two = peers([("b", contested(true)), ("c", contested(true))]);
        assert_eq!(wanted(&two, "me", &[]).routes.into_values().collect::<Vec<_>>(), ["b"]);
        assert_eq!(wanted(&two, "me", &["10.0.2.128/25".parse().unwrap()]), Wanted::default());
    }

    #[test]
    fn only_what_differs_is_done() {
        let peers = peers([("b", peer(&["192.168.0.2"], &[("10.0.2.0/24", false), ("10.0.3.0/24", false)]))]);
        let wanted = wanted(&peers, "me", &[]);
        let there = [route("10.0.2.0/24", "192.168.0.2"), route("10.0.3.0/24", "192.168.0.9")];
        let expected = Change { remove: vec![there[1]], add: vec![route("10.0.3.0/24", "192.168.0.2")] };
        assert_eq!(change(&wanted, &there), expected);
        let done = [route("10.0.2.0/24", "192.168.0.2"), route("10.0.3.0/24", "192.168.0.2")];
        assert_eq!(change(&wanted, &done), Change::default());
    }
}
