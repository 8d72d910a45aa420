//! Conditions: the types, the reasons, and the one way to set them.
//!
//! Each type is owned by one side, so that neither overwrites the other's. The operator writes one only when
//! something is wrong or was.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Condition types, with their owner.
pub mod condition_type {
    /// `IPAMNode`, agent: ADDs can be served.
    pub const SERVING: &str = "Serving";
    /// `IPAMNode`, agent: pods of the nodes that it probes are reached.
    pub const NODES_REACHABLE: &str = "NodesReachable";
    /// `IPAMNode`, operator: the node has the blocks its mode gives it.
    pub const ASSIGNED: &str = "Assigned";
    /// `IPAMNode`, operator: another node claims a block of this one.
    pub const DISPUTED: &str = "Disputed";
    /// `IPAMConfig`, operator: somebody configured another mode than the recorded one.
    pub const MODE_CHANGE_REFUSED: &str = "ModeChangeRefused";
    /// `IPAMConfig`, operator: somebody configured pools that contradict what is in use.
    pub const POOL_CHANGE_REFUSED: &str = "PoolChangeRefused";
    /// `IPPool`, operator: its CIDRs are recorded in `IPAMConfig`, so that no other pool can have them.
    pub const ADMITTED: &str = "Admitted";
    /// `IPPool`, operator: blocks that overlap services or nodes' addresses are never assigned.
    pub const FENCED: &str = "Fenced";
    /// `IPPool`, operator: a family has no free block.
    pub const EXHAUSTED: &str = "Exhausted";
}

/// Reasons of conditions and Events.
pub mod reason {
    /// Served.
    pub const ASSIGNED: &str = "Assigned";
    /// The pool has no free block.
    pub const POOL_EXHAUSTED: &str = "PoolExhausted";
    /// The pool has free blocks.
    pub const BLOCKS_FREE: &str = "BlocksFree";
    /// Kubernetes mode: the Node has no podCIDR of a required family.
    pub const WAITING_FOR_POD_CIDR: &str = "WaitingForPodCIDR";
    /// Kubernetes mode: the Node's podCIDR is claimed by another Node.
    pub const POD_CIDR_OVERLAPS: &str = "PodCIDROverlaps";
    /// Kubernetes mode: the Node's podCIDR contains addresses of services or nodes.
    pub const POD_CIDR_FENCED: &str = "PodCIDRFenced";
    /// Another node claims the same block.
    pub const BLOCK_DISPUTED: &str = "BlockDisputed";
    /// The recorded mode goes on.
    pub const MODE_DIFFERS: &str = "ModeDiffers";
    /// Of Events: an agent freed addresses that nobody uses and no DEL gave back.
    pub const ADDRESS_RECLAIMED: &str = "AddressReclaimed";
    /// Configured and recorded mode agree.
    pub const MODE_AGREES: &str = "ModeAgrees";
    /// The recorded pools go on.
    pub const POOLS_DIFFER: &str = "PoolsDiffer";
    /// Configured and recorded pools agree.
    pub const POOLS_AGREE: &str = "PoolsAgree";
    /// The pool's CIDRs are recorded.
    pub const ADMITTED: &str = "Admitted";
    /// A CIDR of the pool is in use elsewhere.
    pub const OVERLAPS: &str = "Overlaps";
    /// The mode in force cuts no blocks from pools.
    pub const MODE_WITHOUT_POOLS: &str = "ModeWithoutPools";
    /// Blocks overlap what others have.
    pub const BLOCKS_FENCED: &str = "BlocksFenced";
    /// No block overlaps what others have.
    pub const NOTHING_FENCED: &str = "NothingFenced";
    /// A cooling block was given out early, because nothing else was free.
    pub const COOLING_CUT_SHORT: &str = "CoolingCutShort";
    /// The `IPAMNode` of an earlier Node is being deleted and does not go.
    pub const DELETION_HELD: &str = "DeletionHeld";
    /// The ledger cannot be written.
    pub const LEDGER_NOT_WRITTEN: &str = "LedgerNotWritten";
    /// A page of the ledger cannot be understood.
    pub const LEDGER_UNREADABLE: &str = "LedgerUnreadable";
}

/// A condition of `kind` that begins to hold `now`.
#[must_use]
pub fn condition(kind: &str, status: bool, reason: &str, message: &str, generation: i64, now: Timestamp) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(generation),
        last_transition_time: Time(now),
    }
}

/// Puts `new` in its place in `conditions`, keeping the transition time while the status is the same.
/// Returns whether anything but the time changed.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) -> bool {
    let Some(old) = conditions.iter_mut().find(|old| old.type_ == new.type_) else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    let changed = *old != new;
    *old = new;
    changed
}
