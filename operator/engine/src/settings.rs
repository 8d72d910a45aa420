//! What the operator was configured to do; what it does is decided together with what the cluster records.

use std::time::Duration;

use cadastre_api::Mode;
use cadastre_core::{AddrRange, Cidr, Family};

/// Validated settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// The configured mode.
    pub mode: Mode,
    /// Families a node gets in cluster-pool mode.
    pub families: Vec<Family>,
    /// Families a Node must have a podCIDR of in kubernetes mode.
    pub required: Vec<Family>,
    /// Pools from the Helm values.
    pub pools: Vec<ConfiguredPool>,
    /// What is never assigned of the pools from the Helm values.
    pub reserved: Vec<AddrRange>,
    /// How long a block of a deleted node is kept from others.
    pub block_cooling: Duration,
    /// Take the taint `cadastre_api::NOT_READY_TAINT` off nodes whose agent serves.
    pub remove_taints: bool,
    /// Say in the Node's conditions that its network is available.
    pub set_network_status: bool,
    /// Assign nothing until every Ready node's agent has said what it holds.
    pub recover: bool,
}

#[cfg(test)]
impl EngineSettings {
    /// Of no pools.
    pub(crate) fn bare() -> Self {
        Self {
            mode: Mode::ClusterPool,
            families: vec![],
            required: vec![],
            pools: vec![],
            reserved: vec![],
            block_cooling: Duration::from_mins(5),
            remove_taints: true,
            set_network_status: true,
            recover: false,
        }
    }
}

/// One family of one pool from the Helm values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredPool {
    /// Name of the `IPPool`.
    pub pool: String,
    /// Its family.
    pub family: Family,
    /// CIDRs in the order they are tried; disjoint.
    pub cidrs: Vec<Cidr>,
    /// Prefix length of blocks, in bits.
    pub mask_size: u8,
}

/// A block is kept from others at least this long, even if nothing else is free: longer than a kubelet's and a
/// runtime's patience with a sandbox (2 minutes), so that no pod of a deleted node is still starting.
pub const LEAST_COOLING: Duration = Duration::from_mins(2);

/// While recovering, reports of before the start are believed after this long: an agent that finds its `IPAMNode` older than
/// it was corrects it at once, and lists anew within 10 s of a break of its watch.
pub const CORRECTIONS: Duration = Duration::from_secs(15);

/// While recovering, the wait for agents' reports ends after this long.
pub const RECOVERY: Duration = Duration::from_mins(2);
