//! kubernetes: kube-controller-manager (or whoever) cuts the blocks; they are mirrored, after a look for overlaps.
//!
//! The allocators that fill `Node.spec.podCIDRs` have been seen to accept one CIDR on two Nodes without a word, so
//! nothing is believed here: [`PodCidrIndex`] holds every Node's CIDRs, and of two Nodes that overlap only the senior
//! one is served.

use std::collections::{BTreeMap, BTreeSet};

use cadastre_core::{Cidr, CidrMap, Family};

use crate::plan::{Decision, NodeView, Plan, PlannedBlock, Shortage, Verdict};

/// The mode's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// Name that mirrored blocks carry as their pool.
    pub pool: String,
    /// Families that are enabled: podCIDRs of others are left alone.
    pub families: Vec<Family>,
    /// A Node without a podCIDR of one of these waits (`k8s.requireIPv4PodCIDR`, `k8s.requireIPv6PodCIDR`).
    pub required: Vec<Family>,
}

/// Who of several Nodes with overlapping CIDRs keeps them: one that was served already, then the older, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seniority {
    unserved: bool,
    created: i64,
    name: String,
}

/// Every Node's podCIDRs, found by overlap in time that does not grow with the number of Nodes.
#[derive(Clone, Debug, Default)]
pub struct PodCidrIndex {
    nodes: BTreeMap<String, (Seniority, Vec<Cidr>)>,
    holders: CidrMap<String>,
}

impl PodCidrIndex {
    /// Records a Node's CIDRs, in place of what was recorded. Returns the other Nodes that the change concerns.
    pub fn set(&mut self, name: &str, created: i64, served: bool, cidrs: &[Cidr]) -> BTreeSet<String> {
        let seniority = Seniority { unserved: !served, created, name: name.to_owned() };
        if self.nodes.get(name).is_some_and(|(old, had)| *old == seniority && had == cidrs) {
            return BTreeSet::new();
        }
        let mut concerned = self.remove(name);
        for cidr in cidrs {
            concerned.extend(self.holders.overlapping(cidr).map(|(_, holder)| holder.clone()));
            self.holders.insert(*cidr, name.to_owned());
        }
        self.nodes.insert(name.to_owned(), (seniority, cidrs.to_vec()));
        concerned.remove(name);
        concerned
    }

    /// Forgets a Node. Returns the Nodes that overlapped it.
    pub fn remove(&mut self, name: &str) -> BTreeSet<String> {
        let Some((_, cidrs)) = self.nodes.remove(name) else { return BTreeSet::new() };
        let mut concerned = BTreeSet::new();
        for cidr in cidrs {
            self.holders.remove(&cidr, &name.to_owned());
            concerned.extend(self.holders.overlapping(&cidr).map(|(_, holder)| holder.clone()));
        }
        concerned
    }

    /// A senior Node whose CIDR overlaps one of this Node's.
    fn senior(&self, name: &str) -> Option<Shortage> {
        let (own, cidrs) = self.nodes.get(name)?;
        cidrs.iter().find_map(|cidr| {
            let (other_cidr, other) = self
                .holders
                .overlapping(cidr)
                .filter(|(_, other)| *other != name)
                .find(|(_, other)| self.nodes.get(*other).is_some_and(|(senior, _)| senior < own))?;
            Some(Shortage::Overlaps { cidr: *cidr, other_cidr, other: other.clone() })
        })
    }
}

impl Kubernetes {
    /// Mirrors each Node's podCIDRs, unless a required family is missing or a senior Node's overlap.
    #[must_use]
    pub fn plan(&self, nodes: &[NodeView], index: &PodCidrIndex) -> Plan {
        let decide = |node: &NodeView| Decision {
            node: node.name.clone(),
            uid: node.uid.clone(),
            verdict: self.shortage(node, index).map_or_else(|| self.mirror(node), Verdict::Wait),
        };
        Plan { decisions: nodes.iter().map(decide).collect() }
    }

    fn shortage(&self, node: &NodeView, index: &PodCidrIndex) -> Option<Shortage> {
        let missing = self.required.iter().find(|family| !node.pod_cidrs.iter().any(|cidr| cidr.family() == **family));
        if let Some(&family) = missing {
            let key = match family {
                Family::V4 => "k8s.requireIPv4PodCIDR",
                Family::V6 => "k8s.requireIPv6PodCIDR",
            };
            return Some(Shortage::NoPodCidr { family, key });
        }
        if self.enabled(node).next().is_none() {
            return Some(Shortage::NoPodCidrs);
        }
        index.senior(&node.name)
    }

    fn mirror(&self, node: &NodeView) -> Verdict {
        let block = |cidr: &Cidr| PlannedBlock { pool: self.pool.clone(), family: cidr.family(), cidr: *cidr };
        Verdict::Assign { blocks: self.enabled(node).map(block).collect(), again: Vec::new() }
    }

    fn enabled<'a>(&'a self, node: &'a NodeView) -> impl Iterator<Item = &'a Cidr> {
        node.pod_cidrs.iter().filter(|cidr| self.families.contains(&cidr.family()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidrs: &[&str]) -> NodeView {
        let pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        NodeView { name: name.into(), uid: name.into(), created: 0, pod_cidrs, holds: vec![], own_cooling: vec![] }
    }

    fn index(nodes: &[(&NodeView, i64, bool)]) -> PodCidrIndex {
        let mut index = PodCidrIndex::default();
        for (node, created, served) in nodes {
            index.set(&node.name, *created, *served, &node.pod_cidrs);
        }
        index
    }

    fn mode(required: &[Family]) -> Kubernetes {
        Kubernetes { pool: "default".into(), families: Family::ALL.to_vec(), required: required.to_vec() }
    }

    fn waits(mode: &Kubernetes, node: &NodeView, index: &PodCidrIndex) -> Option<Shortage> {
        match &mode.plan(std::slice::from_ref(node), index).decisions[0].verdict {
            Verdict::Wait(shortage) => Some(shortage.clone()),
            Verdict::Assign { .. } => None,
        }
    }

    #[test]
    fn a_required_family_is_waited_for_and_both_are_mirrored() {
        let both = mode(&Family::ALL);
        let v4_only = node("a", &["10.0.0.0/24"]);
        let key = "k8s.requireIPv6PodCIDR";
        assert_eq!(waits(&both, &v4_only, &index(&[])), Some(Shortage::NoPodCidr { family: Family::V6, key }));
        assert_eq!(waits(&mode(&[]), &v4_only, &index(&[])), None);
        assert_eq!(waits(&mode(&[]), &node("a", &[]), &index(&[])), Some(Shortage::NoPodCidrs));
        assert_eq!(waits(&both, &node("a", &["10.0.0.0/24", "fd00::/64"]), &index(&[])), None);
        let v4_alone = Kubernetes { families: vec![Family::V4], ..mode(&[]) };
        let plan = v4_alone.plan(&[node("a", &["10.0.0.0/24", "fd00::/64"])], &index(&[]));
        let Verdict::Assign { blocks, .. } = &plan.decisions[0].verdict else { panic!("{plan:?}") };
        assert_eq!(blocks.len(), 1, "a family that is not enabled is left alone");
        assert_eq!(waits(&v4_alone, &node("a", &["fd00::/64"]), &index(&[])), Some(Shortage::NoPodCidrs));
    }

    #[test]
    fn of_two_overlapping_nodes_the_served_then_the_older_one_is_served() {
        let (wide, narrow) = (node("wide", &["10.0.0.0/16"]), node("narrow", &["10.0.7.0/24"]));
        let mode = mode(&[]);
        let table = [((5, false), (6, false), true), ((6, false), (5, false), false), ((6, true), (5, false), true)];
        for ((wide_created, wide_served), (narrow_created, narrow_served), wide_wins) in table {
            let index = index(&[(&wide, wide_created, wide_served), (&narrow, narrow_created, narrow_served)]);
            assert_eq!(waits(&mode, &wide, &index).is_none(), wide_wins);
            assert_eq!(waits(&mode, &narrow, &index).is_none(), !wide_wins);
        }
    }

    #[test]
    fn a_change_names_the_nodes_it_concerns() {
        let (a, b) = (node("a", &["10.0.0.0/24"]), node("b", &["10.0.0.0/24"]));
        let mut index = index(&[(&a, 1, false)]);
        assert_eq!(index.set("b", 2, false, &b.pod_cidrs), BTreeSet::from(["a".to_owned()]));
        assert!(waits(&mode(&[]), &b, &index).is_some());
        assert_eq!(index.remove("a"), BTreeSet::from(["b".to_owned()]));
        assert_eq!(waits(&mode(&[]), &b, &index), None);
    }
}
