//! kubernetes: kube-controller-manager (or whoever) cuts the blocks; they are mirrored, after a look for overlaps.
//!
//! The allocators that fill `Node.spec.podCIDRs` have been seen to accept one CIDR on two Nodes without a word, so
//! nothing is believed here: of Nodes that overlap only one is served (`pod_cidrs.rs`), and none whose podCIDR overlaps
//! an address of a node or of services (`fences.rs`).

use cadastre_core::{Cidr, Family};

use crate::fences::Fences;
use crate::plan::{Decision, NodeView, Plan, PlannedBlock, Shortage, Verdict};
use crate::pod_cidrs::PodCidrIndex;

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

impl Kubernetes {
    /// Mirrors each Node's podCIDRs, unless it lacks something itself or another Node has what overlaps.
    #[must_use]
    pub fn plan(&self, nodes: &[NodeView], index: &PodCidrIndex, fences: &Fences) -> Plan {
        let names = nodes.iter().map(|node| node.name.as_str());
        let mut overlaps = index.overlaps(names);
        let mut decide = |node: &NodeView| {
            let shortage = self.own_shortage(&node.pod_cidrs, fences).or_else(|| overlaps.remove(&*node.name));
            let verdict = shortage.map_or_else(|| self.mirror(node), Verdict::Wait);
            Decision { node: node.name.clone(), uid: node.uid.clone(), verdict }
        };
        Plan { decisions: nodes.iter().map(&mut decide).collect() }
    }

    /// What keeps a Node with these podCIDRs from being served, whatever others have: such a Node keeps no other waiting.
    #[must_use]
    pub fn own_shortage(&self, pod_cidrs: &[Cidr], fences: &Fences) -> Option<Shortage> {
        let missing = self.required.iter().find(|family| !pod_cidrs.iter().any(|cidr| cidr.family() == **family));
        if let Some(&family) = missing {
            let key = match family {
                Family::V4 => "k8s.requireIPv4PodCIDR",
                Family::V6 => "k8s.requireIPv6PodCIDR",
            };
            return Some(Shortage::NoPodCidr { family, key });
        }
        if self.enabled(pod_cidrs).next().is_none() {
            return Some(Shortage::NoPodCidrs);
        }
        self.enabled(pod_cidrs).find_map(|cidr| fences.shortage(cidr))
    }

    fn mirror(&self, node: &NodeView) -> Verdict {
        let block = |cidr: &Cidr| PlannedBlock { pool: self.pool.clone(), family: cidr.family(), cidr: *cidr };
        Verdict::Assign { blocks: self.enabled(&node.pod_cidrs).map(block).collect(), again: Vec::new() }
    }

    /// Those of `pod_cidrs` whose family is enabled.
    pub fn enabled<'a>(&'a self, pod_cidrs: &'a [Cidr]) -> impl Iterator<Item = &'a Cidr> {
        pod_cidrs.iter().filter(|cidr| self.families.contains(&cidr.family()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidrs: &[&str]) -> NodeView {
        let pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        NodeView { name: name.into(), uid: name.into(), created: 0, pod_cidrs, holds: vec![], own_cooling: vec![] }
    }

    fn mode(required: &[Family]) -> Kubernetes {
        Kubernetes { pool: "default".into(), families: Family::ALL.to_vec(), required: required.to_vec() }
    }

    fn waits(mode: &Kubernetes, node: &NodeView, fences: &Fences) -> Option<Shortage> {
        match &mode.plan(std::slice::from_ref(node), &PodCidrIndex::default(), fences).decisions[0].verdict {
            Verdict::Wait(shortage) => Some(shortage.clone()),
            Verdict::Assign { .. } => None,
        }
    }

    #[test]
    fn a_required_family_is_waited_for_and_both_are_mirrored() {
        let (both, none) = (mode(&Family::ALL), Fences::default());
        let v4_only = node("a", &["10.0.0.0/24"]);
        let key = "k8s.requireIPv6PodCIDR";
        assert_eq!(waits(&both, &v4_only, &none), Some(Shortage::NoPodCidr { family: Family::V6, key }));
        assert_eq!(waits(&mode(&[]), &v4_only, &none), None);
        assert_eq!(waits(&mode(&[]), &node("a", &[]), &none), Some(Shortage::NoPodCidrs));
        assert_eq!(waits(&both, &node("a", &["10.0.0.0/24", "fd00::/64"]), &none), None);
        let v4_alone = Kubernetes { families: vec![Family::V4], ..mode(&[]) };
        let dual = node("a", &["10.0.0.0/24", "fd00::/64"]);
        let plan = v4_alone.plan(&[dual], &PodCidrIndex::default(), &none);
        let Verdict::Assign { blocks, .. } = &plan.decisions[0].verdict else { panic!("{plan:?}") };
        assert_eq!(blocks.len(), 1, "a family that is not enabled is left alone");
        assert_eq!(waits(&v4_alone, &node("a", &["fd00::/64"]), &none), Some(Shortage::NoPodCidrs));
    }

    #[test]
    fn one_fenced_family_keeps_the_whole_node_waiting() {
        let mut fences = Fences::default();
        fences.set_services(vec!["fd00::/108".parse().unwrap()]);
        let dual = node("a", &["10.0.0.0/24", "fd00::/112"]);
        assert!(matches!(waits(&mode(&[]), &dual, &fences), Some(Shortage::Fenced { .. })));
        let v4_alone = Kubernetes { families: vec![Family::V4], ..mode(&[]) };
        assert_eq!(waits(&v4_alone, &dual, &fences), None, "what is not mirrored overlaps nothing");
    }
}
