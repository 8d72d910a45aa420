//! The IPAM modes: who gets which blocks, decided over plain data.
//!
//! ```text
//! NodeView + Occupancy<Sealed> ── Planner::plan ──▶ Plan (data: printable, testable, undone by giving back)
//! ```
//!
//! The set is closed: an enum with a struct for each mode. No client, no async, no clock. A mode that is added later
//! adds a variant here and, if it is a cloud's, an adapter crate beside.

#![warn(missing_docs)]

mod cluster_pool;
mod fences;
mod kubernetes;
mod occupancy;
mod plan;
mod pod_cidrs;

pub use cluster_pool::ClusterPool;
pub use fences::{FenceChange, Fences};
pub use kubernetes::Kubernetes;
pub use occupancy::{Loading, Occupancy, PoolKey, Sealed};
pub use plan::{Decision, NodeView, Plan, PlannedBlock, Shortage, Verdict};
pub use pod_cidrs::PodCidrIndex;

use cadastre_core::Family;

/// The mode in force, with what it needs to plan.
#[derive(Clone, Debug)]
pub enum Planner {
    /// Mirrors `Node.spec.podCIDRs`.
    Kubernetes(Kubernetes),
    /// Cuts one block of each family for a node.
    ClusterPool(ClusterPool),
}

impl Planner {
    /// As users spell it.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Kubernetes(_) => "kubernetes",
            Self::ClusterPool(_) => "cluster-pool",
        }
    }

    /// What each node is to get now. What the plan assigns is taken in `occupancy`.
    pub fn plan(
        &self,
        nodes: &[NodeView],
        occupancy: &mut Occupancy<Sealed>,
        index: &PodCidrIndex,
        fences: &Fences,
    ) -> Plan {
        match self {
            Self::Kubernetes(mode) => mode.plan(nodes, index, fences),
            Self::ClusterPool(mode) => mode.plan(nodes, occupancy),
        }
    }

    /// Families whose blocks a node is given.
    #[must_use]
    pub fn enabled(&self) -> &[Family] {
        match self {
            Self::Kubernetes(mode) => &mode.families,
            Self::ClusterPool(mode) => &mode.families,
        }
    }

    /// Families that a node needs before it is served.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        match self {
            Self::Kubernetes(mode) => &mode.required,
            Self::ClusterPool(mode) => &mode.families,
        }
    }
}
