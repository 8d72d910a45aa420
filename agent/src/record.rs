//! What the journal remembers: one record for each thing that must survive the death of this process.
//!
//! ```text
//! Blocks    what the node may allocate from, replacing what was said before
//! Gave      an attachment holds these addresses      (numbered: later records name the number)
//! Acked     it was told so again, at this time, perhaps with another namespace
//! Released  it holds nothing any more; its addresses cool from then on
//! Cooling   the same, as a snapshot says it          Cursor    where the search goes on, as a snapshot says it
//! LastOfSet the same for a network with ranges of its own
//! TookOver  what host-local had reserved in such a network is among the above
//! Stray     an address that a survey found in a namespace, in no block that was known then
//! ```
//! The order of variants and of their fields is the format of the journal (postcard): append variants, never change one.
//! `cadastre_messages::Attachment` is part of it.

use std::net::IpAddr;

use cadastre_api::Mode;
use cadastre_core::Cidr;
use cadastre_messages::Attachment;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::boot_time::BootTime;

/// Number of one allocation, never used twice by an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HoldId(pub u64);

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    Blocks(Blocks),
    Gave(Box<Gave>),
    Acked {
        id: HoldId,
        at: BootTime,
        netns: Option<NetnsRecord>,
    },
    Released {
        id: HoldId,
        at: BootTime,
    },
    Cooling {
        pool: String,
        address: IpAddr,
        since: BootTime,
    },
    Cursor {
        pool: String,
        cursor: Cidr,
    },
    /// Since version 2.
    LastOfSet {
        network: String,
        set: u64,
        address: IpAddr,
    },
    /// Since version 2.
    TookOver {
        network: String,
    },
    /// Since version 2.
    Stray {
        address: IpAddr,
        netns: NetnsRecord,
    },
}

/// What the operator said last, and what became of blocks it does not speak of any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// `None` while there is no `IPAMNode`.
    pub assigned: Option<Assigned>,
    /// Every block with something in it, those of `assigned` among them.
    pub blocks: Vec<BlockRecord>,
}

/// Where an assignment came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    pub mode: Mode,
    /// UID of the Node.
    pub node_uid: String,
    /// `metadata.generation` of the `IPAMNode`.
    pub generation: i64,
    /// Why it has no blocks, in the operator's words; empty if it has.
    pub note: String,
}

/// One block under one grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRecord {
    pub pool: String,
    pub cidr: Cidr,
    pub grant: Uuid,
    pub state: BlockState,
}

/// Whether addresses are allocated from a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockState {
    /// They are.
    Active,
    /// The operator wants it back; what is held stays until it is released.
    Retiring,
    /// Nothing is in it, and nothing will be under this grant.
    Promised,
    /// It is not assigned any more; what is held stays until it is released.
    Gone,
}

/// One allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gave {
    pub id: HoldId,
    pub attachment: Attachment,
    pub held: Held,
}

/// What an attachment holds, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// At most one of each family, IPv4 first.
    pub addresses: Vec<HeldAddress>,
    pub netns: NetnsRecord,
    /// The pod, if the runtime named one.
    pub pod: Option<PodName>,
    /// When the allocation was made.
    pub since: BootTime,
    /// When the attachment was last told.
    pub acked: BootTime,
}

/// One address under one grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAddress {
    pub pool: String,
    pub address: IpAddr,
    pub grant: Uuid,
}

/// The network namespace that ADD was called for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsRecord {
    pub path: String,
    pub device: u64,
    pub inode: u64,
    /// The agent saw that very namespace at that path itself: only then does it mean anything that it does not any more.
    pub seen: bool,
}

/// The pod that the runtime named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
    pub uid: Option<String>,
}

impl From<cadastre_messages::Pod> for PodName {
    fn from(pod: cadastre_messages::Pod) -> Self {
        let cadastre_messages::Pod { namespace, name, uid } = pod;
        Self { namespace, name, uid }
    }
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
