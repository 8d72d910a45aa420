//! What the pools are asked and told, and what they answer.

use std::net::IpAddr;
use std::sync::Arc;

use cadastre_messages::{Add, Attachment, Check, Failure, Given, Hold, Status, TakeOver};

use super::share::Taken;
use crate::record::{Assigned, BlockRecord, HoldId, NetnsRecord, PodName, Record};

/// Which caller a reply is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// One allocation, as others refer to it: a later allocation of the same attachment is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub attachment: Arc<Attachment>,
    pub id: HoldId,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// `seen`: the agent itself found the namespace at that path.
    Add {
        token: Token,
        add: Box<Add>,
        seen: bool,
    },
    Check {
        token: Token,
        check: Check,
    },
    Del {
        token: Token,
        attachment: Attachment,
    },
    /// Holders that the runtime does not list and whose namespace, this one, does not live.
    Gc {
        token: Token,
        gone: Vec<(Holder, NetnsRecord)>,
    },
    Status {
        token: Token,
        status: Status,
    },
    /// What host-local reserved. `seen`: of each reservation, whether the agent itself found the namespace.
    TakeOver {
        token: Token,
        take_over: Box<TakeOver>,
        seen: Vec<bool>,
    },
    /// An audit found an address in use. `seen`: the agent itself found the namespace at that path.
    Hold {
        token: Token,
        hold: Hold,
        seen: bool,
    },
    /// What the operator says.
    Assigned(Assignment),
    /// The caller has gone away; if its ADD waits, nobody will read the reply.
    PeerGone(Token),
    /// The reply of this allocation did not arrive.
    Undelivered(Holder),
    /// A DEL that found no agent, in hundredths of a second since boot.
    Tombstone {
        attachment: Attachment,
        at: u64,
    },
    /// Time has passed: what rests may have rested, and blocks that are wanted back may be empty.
    Pass,
    /// Two proofs say that nobody uses what this holder has, as long as its namespace is this one.
    Reclaim(Holder, NetnsRecord),
}

/// What this node may allocate from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// `None`: there is no `IPAMNode` of this Node.
    pub assigned: Option<Assigned>,
    /// Why there is none, for people.
    pub absence: String,
    /// Active or retiring.
    pub blocks: Vec<BlockRecord>,
}

/// What a caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Given {
        given: Given,
        holder: Holder,
        new: bool,
    },
    Done,
    /// A DEL is done; these addresses were released by it.
    Released {
        addresses: Vec<IpAddr>,
        pod: Option<PodName>,
    },
    /// What host-local reserved in this network has to be told first.
    TakeOver,
    Failed(Failure),
}

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Step {
    /// To be written before any reply goes out.
    pub records: Vec<Record>,
    /// Callers that are not here wait.
    pub replies: Vec<(Token, Answer)>,
    /// After an assignment: what of it cannot be used.
    pub problems: Option<Vec<String>>,
    /// Addresses released by tombstones, by proofs, because nobody got the reply.
    pub by_tombstone: u64,
    pub by_proof: u64,
    pub undelivered: u64,
    /// What `undo` takes back: allocations, and for each line about former reservations the network that is known by it.
    pub(super) fresh: Vec<Fresh>,
    pub(super) took_over: Vec<(Token, Option<String>)>,
}

/// An allocation of this batch.
#[derive(Debug)]
pub(super) struct Fresh {
    pub holder: Holder,
    pub taken: Vec<Taken>,
}
