//! Cadastre's custom resources: who records what, and who may write it.
//!
//! ```text
//! IPAMConfig/cluster   which mode this cluster runs in, and whether it may still be changed   operator
//! IPPool               CIDRs that blocks are cut from                         person or operator
//! IPAMLedger           which node holds which block: the authority             operator, compare-and-swap
//! IPAMNode             what a node may allocate from, and what it says of it   spec operator, status agent
//! ```
//!
//! The CRDs in the chart are generated from these types (`cadastre-operator crds`); a test compares them.

#![warn(missing_docs)]
// kube's derive takes one `printcolumn(...)` for each column; the lint takes their like parts for repetition.
#![allow(clippy::duplicated_attributes)]

mod conditions;
mod config;
mod entry;
mod ledger;
mod mode;
mod node;
mod pool;
mod schema;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use conditions::{condition, condition_type, reason, set_condition};
pub use config::{AdmittedCidr, CONFIG_NAME, IPAMConfig, IPAMConfigSpec, IPAMConfigStatus};
pub use entry::{BlockEntry, BlockState, EntryError};
pub use ledger::{IPAMLedger, IPAMLedgerSpec, PAGE_BLOCKS};
pub use mode::Mode;
pub use node::{
    AllocatedBlock, FamilyHealth, Health, HealthEndpoint, HeldBlock, IPAMNode, IPAMNodeSpec, IPAMNodeStatus,
    NodeAddress, NodeIpam, NodeIpamStatus, PoolDemand,
};
pub use pool::{BlockCounts, IPPool, IPPoolSpec, IPPoolStatus, PoolCidrs, count};

/// API group of every kind here.
pub const GROUP: &str = "cadastre.io";

/// Field manager of everything the operator writes.
pub const OPERATOR_MANAGER: &str = "cadastre-operator";

/// Field manager of everything an agent writes.
pub const AGENT_MANAGER: &str = "cadastre-agent";

/// Key of the taint that keeps pods off a new node until its agent serves; whoever registers the node sets it.
pub const NOT_READY_TAINT: &str = "cadastre.io/agent-not-ready";

/// Pool of the modes that have only one.
pub const DEFAULT_POOL: &str = "default";

/// The CRDs of this release, in the order they should be applied.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![IPAMConfig::crd(), IPPool::crd(), IPAMLedger::crd(), IPAMNode::crd()]
}
