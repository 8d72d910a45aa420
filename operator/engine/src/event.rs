//! What the engine is told. Everything it knows of the world comes in as one of these.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cadastre_api::{IPAMConfig, IPAMLedger, IPAMNode, IPPool};
use cadastre_core::Cidr;
use k8s_openapi::jiff::Timestamp;

use crate::effect::EffectId;

/// Something was seen, or a write came to an end.
#[derive(Clone, Debug)]
pub enum Event {
    /// Everything there was at the start, read consistently, in any order. The first event, once.
    Started(Box<World>),
    /// A Node was created or changed.
    Node(NodeSeen),
    /// A Node is gone from the watch. Believed only after a live GET.
    NodeGone {
        /// Its name.
        name: String,
    },
    /// The watch of Nodes was broken, and everything was listed: what is not among these was not there at this version,
    /// also what only an answer told of.
    NodesListed {
        /// Of the list.
        version: u64,
        /// Of every Node.
        names: BTreeSet<String>,
    },
    /// Likewise for `IPAMNode`s.
    IpamNodesListed {
        /// Of the list.
        version: u64,
        /// Of every `IPAMNode`.
        names: BTreeSet<String>,
    },
    /// An `IPAMNode` was created or changed.
    IpamNode(Box<IPAMNode>),
    /// An `IPAMNode` is gone from the watch.
    IpamNodeGone {
        /// Its name.
        name: String,
        /// Its UID: not the Node's.
        uid: String,
    },
    /// `IPAMConfig/cluster` was created, changed (`Some`) or deleted (`None`).
    Config(Option<Box<IPAMConfig>>),
    /// An `IPPool` was created or changed.
    Pool(Box<IPPool>),
    /// An `IPPool` was deleted.
    PoolGone {
        /// Its name.
        name: String,
    },
    /// The cluster's service CIDRs: blocks that overlap one are never assigned.
    ServiceCidrs(Vec<Cidr>),
    /// What came of an effect.
    Outcome {
        /// Of which.
        id: EffectId,
        /// What.
        outcome: Outcome,
    },
    /// Time went by. At least once a second.
    Tick,
}

/// The cluster as it was read at the start, before anything is decided.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// `IPAMConfig/cluster`, if it is there. Read after the ledger.
    pub config: Option<IPAMConfig>,
    /// When the reading of the ledger began.
    pub ledger_read_at: Timestamp,
    /// Every page of the ledger.
    pub pages: Vec<IPAMLedger>,
    /// Every Node.
    pub nodes: Vec<NodeSeen>,
    /// Every `IPAMNode`.
    pub ipam_nodes: Vec<IPAMNode>,
    /// Every `IPPool`.
    pub pools: Vec<IPPool>,
    /// Every service CIDR.
    pub service_cidrs: Vec<Cidr>,
}

/// A Node, trimmed to what is used: at thousands of nodes the rest would be most of the memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSeen {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion` as a number, so that a watch that lags undoes nothing; 0 if it is none.
    pub version: u64,
    /// `metadata.creationTimestamp`, seconds since 1970.
    pub created: i64,
    /// `spec.podCIDRs`, else `spec.podCIDR`. What does not parse was left out and logged.
    pub pod_cidrs: Vec<Cidr>,
    /// `status.nodeInfo.systemUUID`, else `machineID`; empty if neither says anything.
    pub machine: String,
    /// `status.addresses` of the types `InternalIP` and `ExternalIP`.
    pub addresses: Vec<Cidr>,
    /// Those of type `InternalIP`, in the Node's order: where other nodes reach it.
    pub internal: Vec<IpAddr>,
    /// Condition `Ready` is `True`.
    pub ready: bool,
    /// Index in `spec.taints` of the first taint that keeps pods away until the agent serves.
    pub not_ready_taint: Option<usize>,
    /// Condition `NetworkUnavailable` is `False`.
    pub network_available: bool,
    /// Nothing is to be assigned to it: a virtual or Windows node.
    pub excluded: bool,
}

/// What came of an effect.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It happened. What the API server answered, if the engine needs it.
    Done(Answer),
    /// 409: somebody else wrote first (or, for a create, it exists); or a tested uid, generation or resourceVersion
    /// did not match.
    Conflict,
    /// 404.
    NotFound,
    /// Nobody knows whether it happened: the reply was lost, or the API server was unavailable.
    Uncertain(String),
    /// The API server understood and will not do it (4xx other than the above), with what it said.
    Refused(String),
    /// It is there and was read, but cannot be understood: somebody spoiled it. With what is wrong.
    Unreadable(String),
}

impl Outcome {
    /// What went wrong, if somebody said so.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Uncertain(why) | Self::Refused(why) | Self::Unreadable(why) => Some(why),
            Self::Done(_) | Self::Conflict | Self::NotFound => None,
        }
    }
}

/// The objects that came back.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Nothing of interest.
    Nothing,
    /// The page as it is now.
    Page(Box<IPAMLedger>),
    /// Every page.
    Pages(Vec<IPAMLedger>),
    /// The config as it is now.
    Config(Box<IPAMConfig>),
    /// The `IPAMNode` as it is now.
    IpamNode(Box<IPAMNode>),
    /// The Node as it is now.
    Node(NodeSeen),
}
