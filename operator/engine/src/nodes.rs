//! What is known of each node: the Node as seen, the `IPAMNode` as published, and where it stands between the two.

use std::collections::BTreeSet;

use cadastre_api::{AllocatedBlock, HeldBlock, IPAMNode, IPAMNodeSpec, condition_type};
use cadastre_core::Cidr;
use cadastre_modes::Shortage;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use uuid::Uuid;

use crate::claims::Contested;
use crate::event::NodeSeen;
use crate::open::Opening;

/// One Node.
#[derive(Clone, Debug)]
pub(crate) struct NodeRec {
    pub seen: NodeSeen,
    /// The engine's turn at which this very Node was seen first.
    pub seen_at: u64,
    /// When it was first seen, until its `IPAMNode` carries blocks.
    pub unserved_since: Option<Timestamp>,
    /// Grants whose changes are on their way into the ledger.
    pub committing: BTreeSet<Uuid>,
    /// The config was read after its last commit and says that its blocks are marked as in use.
    pub verified: bool,
    /// The engine's turn at which its last commit was known.
    pub committed_at: u64,
    /// Why it waits.
    pub shortage: Option<Shortage>,
    /// What kubernetes mode mirrors, with grants.
    pub mirrored: Vec<AllocatedBlock>,
    /// When its `IPAMNode` was changed last, and how often close together.
    pub changed: (Timestamp, u32),
    /// Claims and blocks in which nothing is allocated any more, with the other nodes that have a part in each (claims.rs).
    pub contested: Contested,
    /// How far it is opened to pods.
    pub opening: Opening,
}

impl NodeRec {
    pub fn new(seen: NodeSeen, seen_at: u64, now: Timestamp) -> Self {
        Self {
            seen,
            seen_at,
            unserved_since: Some(now),
            committing: BTreeSet::new(),
            verified: false,
            committed_at: 0,
            shortage: None,
            mirrored: Vec::new(),
            changed: (Timestamp::UNIX_EPOCH, 0),
            contested: Contested::new(),
            opening: Opening::default(),
        }
    }
}

/// What is known to be gone of an `IPAMNode`'s name, while a request for it is under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gone {
    /// UIDs that the watch saw go.
    pub uids: BTreeSet<String>,
    /// Version of a list that had no such object.
    pub listed: u64,
}

impl Gone {
    /// Whether the object of an answer is gone by now.
    pub fn includes(&self, node: &IPAMNode) -> bool {
        let unlisted = version(node.metadata.resource_version.as_deref()) <= self.listed;
        unlisted || node.metadata.uid.as_ref().is_some_and(|uid| self.uids.contains(uid))
    }
}

/// One `IPAMNode`, trimmed.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub uid: String,
    pub generation: i64,
    pub version: u64,
    pub spec: IPAMNodeSpec,
    /// The agent's condition `Serving`.
    pub serving: bool,
    /// The operator's conditions.
    pub conditions: Vec<Condition>,
    /// What the agent says it holds; `None` until it reports.
    pub held: Option<Vec<HeldBlock>>,
    /// What the agent promised never to use again under that grant.
    pub releasable: Vec<HeldBlock>,
    /// The engine's turn at which this version was first seen, or seen live.
    pub seen_at: u64,
    /// It came as an answer, and not from a watch, which lags.
    pub live: bool,
    /// It is being deleted, and these finalizers hold it.
    pub held_by: Option<Vec<String>>,
}

impl From<IPAMNode> for Published {
    fn from(node: IPAMNode) -> Self {
        let status = node.status.unwrap_or_default();
        let ours = [condition_type::ASSIGNED, condition_type::DISPUTED];
        let serving = |c: &Condition| c.type_ == condition_type::SERVING && c.status == "True";
        let deleted = node.metadata.deletion_timestamp.is_some();
        Self {
            uid: node.metadata.uid.unwrap_or_default(),
            generation: node.metadata.generation.unwrap_or_default(),
            version: version(node.metadata.resource_version.as_deref()),
            spec: node.spec,
            serving: status.conditions.iter().any(serving),
            conditions: status.conditions.into_iter().filter(|c| ours.contains(&c.type_.as_str())).collect(),
            releasable: status.ipam.as_ref().map(|ipam| ipam.releasable.clone()).unwrap_or_default(),
            held: status.ipam.map(|ipam| ipam.held),
            seen_at: 0,
            live: false,
            held_by: deleted.then(|| node.metadata.finalizers.unwrap_or_default()),
        }
    }
}

impl Published {
    /// Whether the node may be using this block under this grant: published or reported, and not promised away.
    pub fn may_use(&self, block: &Cidr, grant: Uuid) -> bool {
        let is = |held: &HeldBlock| held.cidr == *block && held.grant == grant;
        let published = self.spec.ipam.allocated.iter().any(|known| known.cidr == *block && known.grant == grant);
        (published || self.held.iter().flatten().any(is)) && !self.promised(block, grant)
    }

    /// Whether the agent promised never to use this block again under this grant.
    pub fn promised(&self, block: &Cidr, grant: Uuid) -> bool {
        self.releasable.iter().any(|promised| promised.cidr == *block && promised.grant == grant)
    }
}

/// A resourceVersion as the number it is (KEP-5504), so that a watch that lags cannot undo a newer answer.
pub(crate) fn version(resource_version: Option<&str>) -> u64 {
    resource_version.and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

/// How long to wait after `failures` in a row: 0.2 s, doubled each time, 30 s at most.
pub(crate) fn backoff(now: Timestamp, failures: u32) -> Timestamp {
    let delay = std::time::Duration::from_millis(200).saturating_mul(1 << failures.min(8));
    after(now, delay.min(std::time::Duration::from_secs(30)))
}

pub(crate) fn after(now: Timestamp, delay: std::time::Duration) -> Timestamp {
    now.checked_add(delay).unwrap_or(Timestamp::MAX)
}
