//! What a mode sees of a node, and what it decides: data, so that a dry run is a log line.

use cadastre_core::{Cidr, Family};
use serde::Serialize;

/// A node that waits for a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Name of the Node.
    pub name: String,
    /// UID of the Node.
    pub uid: String,
    /// Seconds since 1970 when it was created: the older of two nodes is served first.
    pub created: i64,
    /// `Node.spec.podCIDRs`.
    pub pod_cidrs: Vec<Cidr>,
    /// Blocks it holds already, published or not.
    pub holds: Vec<PlannedBlock>,
    /// Blocks of this very machine's last registration that still cool: its pods may still use them.
    pub own_cooling: Vec<PlannedBlock>,
}

/// One block of one pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PlannedBlock {
    /// Name of the `IPPool`.
    pub pool: String,
    /// Family of the block.
    pub family: Family,
    /// The block.
    pub cidr: Cidr,
}

/// Decisions, in the order of the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// One for each node.
    pub decisions: Vec<Decision>,
}

/// What one node gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Name of the Node.
    pub node: String,
    /// UID of the Node.
    pub uid: String,
    /// What it gets.
    pub verdict: Verdict,
}

/// All families, or none and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// These blocks in addition to what it holds; taken in the occupancy.
    Assign {
        /// New blocks, to be committed.
        blocks: Vec<PlannedBlock>,
        /// Cooling blocks of the same machine, to be granted anew.
        again: Vec<PlannedBlock>,
    },
    /// Nothing, until something changes.
    Wait(Shortage),
}

/// Why a node waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum Shortage {
    /// Nothing free in the pool.
    #[error(
        "pool {pool} has no free {family} block: append a CIDR to it (ipam.operator.clusterPool{family}PodCIDRList), or remove nodes"
    )]
    Exhausted {
        /// Name of the `IPPool`.
        pool: String,
        /// The family that has none; the other loses nothing meanwhile.
        family: Family,
    },
    /// Kubernetes mode: the Node has no podCIDR of a required family.
    #[error(
        "Node.spec.podCIDRs has no {family} CIDR, which {key} demands: start kube-controller-manager with \
         --allocate-node-cidrs and a {family} range in --cluster-cidr, or unset the requirement"
    )]
    NoPodCidr {
        /// The family that is missing.
        family: Family,
        /// The setting that demands it.
        key: &'static str,
    },
    /// Kubernetes mode: the Node has no podCIDR of an enabled family.
    #[error(
        "Node.spec.podCIDRs has no CIDR of an enabled family: start kube-controller-manager with --allocate-node-cidrs, or \
         enable the family (ipv4.enabled, ipv6.enabled)"
    )]
    NoPodCidrs,
    /// Kubernetes mode: another Node's podCIDR overlaps.
    #[error(
        "podCIDR {cidr} overlaps {other_cidr} of node {other}: delete one of the two Nodes and let it register again"
    )]
    Overlaps {
        /// This node's.
        cidr: Cidr,
        /// The other's.
        other_cidr: Cidr,
        /// Name of the other node.
        other: String,
    },
    /// Kubernetes mode: the Node's podCIDR contains addresses that are not pods'.
    #[error(
        "podCIDR {cidr} overlaps {whose} {fence}: give kube-controller-manager a --cluster-cidr apart from it, then delete \
         the Node and let it register again"
    )]
    Fenced {
        /// This node's.
        cidr: Cidr,
        /// What it overlaps.
        fence: Cidr,
        /// What that is, in words.
        whose: String,
    },
}
