//! The invariants, looked at after every step.

use std::collections::{BTreeMap, BTreeSet};

use cadastre_api::{BlockState, IPAMNode, Mode};
use cadastre_core::{Cidr, CidrMap, Family};
use cadastre_engine::NodeSeen;
use k8s_openapi::jiff::SignedDuration;

use crate::store::is_serving;
use crate::world::Simulation;

/// Shortest time between two machines' use of one block.
const COOLED: SignedDuration = SignedDuration::from_secs(120);

impl Simulation {
    /// After each step: no block is published to two Nodes, or passed on before it cooled; no two machines have pods in
    /// overlapping blocks. Blocks that a foreign hand touched are left to [`Simulation::check_contained`].
    pub fn check(&mut self) {
        self.lift();
        let mut published = CidrMap::default();
        for (name, object) in &self.store.ipam_nodes {
            let Some(node) = self.store.nodes.get(name).filter(|node| node.uid == object.spec.node_uid) else {
                continue;
            };
            let active = object.spec.ipam.allocated.iter().filter(|block| !block.retiring);
            for block in active.filter(|block| !is_touched(&self.touched, &block.cidr)) {
                // Nothing is compare-and-swap in kubernetes mode: two operators agree in the end.
                let at_once = self.settings.mode != Mode::Kubernetes || self.operator_count() == 1;
                if let Some((cidr, other)) = published.overlapping(&block.cidr).next().filter(|_| at_once) {
                    panic!("{} is published to {name}, and {cidr} to {other}", block.cidr);
                }
                published.insert(block.cidr, name.clone());
                let reported =
                    object.status.iter().filter_map(|status| status.ipam.as_ref()).flat_map(|ipam| &ipam.held);
                let known_here = reported.into_iter().any(|held| held.grant == block.grant);
                let now = (self.now, node.uid.clone(), node.machine.clone());
                if let Some((since, uid, machine)) = self.last_seen.insert(block.cidr, now) {
                    let pause = self.now.duration_since(since);
                    let same = uid == node.uid || machine == node.machine || known_here;
                    let mirrors = self.settings.mode == Mode::Kubernetes;
                    assert!(
                        same || mirrors || pause >= COOLED,
                        "{} went from {uid} to {} after {pause}",
                        block.cidr,
                        node.uid
                    );
                }
            }
        }
        self.check_pods();
        self.check_contained();
        if self.is_ours_alone {
            self.check_kept();
        }
    }

    /// A block with pods in it stays listed as long as its Node lives.
    fn check_kept(&mut self) {
        for (id, machine) in &self.machines {
            let Some(node) = self.store.nodes.get(&machine.node).filter(|node| node.machine == *id) else { continue };
            let object = self.store.ipam_nodes.get(&machine.node).filter(|object| object.spec.node_uid == node.uid);
            for cidr in machine.in_use() {
                let listed = object.is_some_and(|object| object.spec.ipam.allocated.iter().any(|b| b.cidr == *cidr));
                let key = (node.uid.clone(), *cidr);
                if listed {
                    self.listed.insert(key);
                } else {
                    assert!(!self.listed.contains(&key), "{} was taken from {} under its pods", cidr, machine.node);
                }
            }
        }
    }

    /// A touched block that none of its parties has any more in any way is like any other: one write may free it and give it
    /// to somebody else.
    fn lift(&mut self) {
        let (store, machines) = (&self.store, &self.machines);
        self.touched.retain(|cidr, parties| {
            let mut nodes = store.ipam_nodes.iter().filter(|(name, _)| parties.contains(*name));
            let mut entries = store.pages.values().flat_map(|page| &page.spec.entries);
            let mut parties_machines = machines.values().filter(|machine| parties.contains(&machine.node));
            nodes.any(|(_, node)| node.spec.ipam.allocated.iter().any(|block| block.cidr == *cidr))
                || entries.any(|entry| entry.block == *cidr && parties.contains(&entry.node))
                || parties_machines.any(|machine| machine.in_use().any(|used| used == cidr))
        });
    }

    fn check_pods(&self) {
        let mut used = CidrMap::default();
        for (id, machine) in &self.machines {
            for cidr in machine.in_use().filter(|cidr| !is_touched(&self.touched, cidr)) {
                if let Some((other_cidr, other)) = used.overlapping(cidr).find(|(_, other)| *other != id) {
                    panic!("pods of {id} have addresses in {cidr}, and pods of {other} in {other_cidr}");
                }
                used.insert(*cidr, id.clone());
            }
        }
    }

    /// At rest: every Node is served with each family, the ledger holds exactly what is published, nothing is pending.
    pub fn check_settled(&self, families: &[Family]) {
        let mut published = BTreeSet::new();
        for (name, node) in &self.store.nodes {
            let object = self.store.ipam_nodes.get(name).unwrap_or_else(|| panic!("{name} has no IPAMNode"));
            assert_eq!(object.spec.node_uid, node.uid, "{name}");
            check_opened(node, object);
            let active = object.spec.ipam.allocated.iter().filter(|block| !block.retiring);
            let has: BTreeSet<_> = active.map(|block| block.family).collect();
            assert_eq!(has, families.iter().copied().collect(), "{name} lacks a family");
            let blocks = object.spec.ipam.allocated.iter();
            published.extend(blocks.map(|block| (block.cidr, block.grant, node.uid.clone())));
        }
        let entries = self.store.pages.values().flat_map(|page| &page.spec.entries);
        let held: BTreeSet<_> = entries
            .filter(|entry| entry.state != BlockState::Cooling)
            .inspect(|entry| assert_eq!(entry.state, BlockState::Held, "{entry:?}"))
            .map(|entry| (entry.block, entry.grant, entry.uid.clone()))
            .collect();
        assert_eq!(held, published);
        for name in self.store.ipam_nodes.keys() {
            assert!(self.store.nodes.contains_key(name), "IPAMNode {name} outlived its Node");
        }
    }

    /// At rest: every address in use lies in a block that its Node's `IPAMNode` still lists.
    pub fn check_nothing_lost(&self) {
        for machine in self.machines.values().filter(|machine| machine.deleted.is_none()) {
            let Some(object) = self.store.ipam_nodes.get(&machine.node) else {
                panic!("{} runs pods and has no IPAMNode", machine.node);
            };
            for cidr in machine.in_use() {
                let listed = object.spec.ipam.allocated.iter().any(|block| block.cidr == *cidr);
                assert!(listed, "{} has pods in {cidr}, which its IPAMNode lacks", machine.node);
            }
        }
    }

    /// Blocks that a foreign hand touched are used by those who had them or were given them by it, and by nobody else.
    fn check_contained(&self) {
        for (cidr, parties) in &self.touched {
            for (id, machine) in &self.machines {
                let uses = machine.in_use().any(|used| used == cidr);
                assert!(!uses || parties.contains(&machine.node), "{id} has pods in {cidr}, which {parties:?} contest");
            }
            for (name, object) in self.store.ipam_nodes.iter().filter(|(name, _)| !parties.contains(*name)) {
                let listed = object.spec.ipam.allocated.iter().any(|block| block.cidr == *cidr);
                assert!(!listed, "{cidr} is published to {name}, and {parties:?} contest it");
            }
        }
    }

    /// At rest, in kubernetes mode: of Nodes whose podCIDRs overlap, one allocates in the overlap.
    pub fn check_mirrored(&self) {
        let mut active: CidrMap<&str> = CidrMap::default();
        let cidrs: BTreeMap<_, _> = self.store.nodes.values().map(|node| (&node.name, &node.pod_cidrs)).collect();
        for (name, object) in &self.store.ipam_nodes {
            assert!(cidrs.contains_key(name), "IPAMNode {name} outlived its Node");
            check_opened(&self.store.nodes[name], object);
            for block in object.spec.ipam.allocated.iter().filter(|block| !block.retiring) {
                assert_eq!(active.overlapping(&block.cidr).next(), None, "{} of {name}", block.cidr);
                assert!(cidrs[name].contains(&block.cidr), "{} is no podCIDR of {name}", block.cidr);
                active.insert(block.cidr, name);
            }
        }
        for (name, cidrs) in cidrs {
            let overlaps = cidrs.iter().any(|cidr| active.overlapping(cidr).next().is_some());
            assert!(overlaps || cidrs.is_empty(), "{name} is not served, and nobody keeps it from its {cidrs:?}");
        }
    }
}

/// At rest: pods may come to a node whose agent serves.
fn check_opened(node: &NodeSeen, object: &IPAMNode) {
    if is_serving(object) && object.spec.node_uid == node.uid {
        assert!(node.not_ready_taint.is_none() && node.network_available, "{} is closed to pods", node.name);
    }
}

fn is_touched(touched: &BTreeMap<Cidr, BTreeSet<String>>, cidr: &Cidr) -> bool {
    touched.contains_key(cidr)
}
