//! What `cadastre-agent status` shows; also its `-o json`.

use serde::{Deserialize, Serialize};

use crate::{Attachment, Netns};

/// The agent's state at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The node this agent serves.
    pub node: String,
    /// What the agent knows of the API server.
    pub kubernetes: Part,
    /// Mode, configured and recorded, and whether both agree.
    pub ipam: Part,
    /// The mode in force.
    pub mode: String,
    /// The journal and the state folder.
    pub journal: Part,
    /// What the agent installed on its node; absent if nothing is to be installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<Part>,
    /// Its routes to the blocks of other nodes; absent if there are to be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Part>,
    /// Whether pods of other nodes are reached; absent if there is no health endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_health: Option<ClusterHealth>,
    /// Since the API server was heard last, in seconds.
    pub heard: Option<u64>,
    /// The operator's last word.
    pub assignment: Option<Assignment>,
    /// The last search for addresses that nobody uses any more.
    pub reconciled: Option<Reconciled>,
    /// DELs that found no agent.
    pub tombstones: Tombstones,
    /// ADDs that wait.
    pub waiting: u64,
    /// For each pool and family.
    pub pools: Vec<Pool>,
    /// Every address that is not free, sorted by family, then by number.
    pub addresses: Vec<Address>,
}

/// What probes from the node's health endpoint show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterHealth {
    /// Why there is no endpoint, and the remedy, if it could not be attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Nodes that answer.
    pub reachable: u64,
    /// Of so many, this one among them.
    pub probed: u64,
    /// Since the last round, in seconds; none if there was none.
    pub seconds: Option<u64>,
    /// This node first.
    pub nodes: Vec<NodeHealth>,
}

/// One node that is probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeHealth {
    /// Its name.
    pub node: String,
    /// Of its health endpoint.
    pub addresses: Vec<String>,
    /// None until it answered once, or failed in two rounds.
    pub reachable: Option<bool>,
    /// Until it had answered at all of them, the last time, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub microseconds: Option<u64>,
    /// What went wrong the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What the operator said last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// Of the `IPAMNode`.
    pub generation: i64,
    /// Since it came, in seconds; none if it came before this agent started.
    pub seconds: Option<u64>,
    /// What of it cannot be used, and why.
    pub problems: Vec<String>,
}

/// What a pass of reconciliation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// Since then, in seconds.
    pub seconds: u64,
    /// Attachments that the next pass frees if nothing speaks for them.
    pub suspects: u64,
    /// Attachments that it freed.
    pub freed: u64,
}

/// DELs that found no agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstones {
    /// Lying in the folder.
    pub waiting: u64,
    /// Carried out since this agent started.
    pub replayed: u64,
}

/// One part of the agent: well or not, and what to do about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Whether it works.
    pub ok: bool,
    /// What it is, or what is wrong and the remedy.
    pub message: String,
}

/// One pool's share on this node in one family. Counts are addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// Name of the `IPPool`.
    pub pool: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Blocks that addresses are given from, or the ranges of a network that brings its own.
    pub blocks: Vec<String>,
    /// Blocks that nothing is given from any more, with the reason, while something is in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<String>,
    /// Held by attachments, the routers among them.
    pub allocated: u64,
    /// Released and not yet to be given to another owner.
    pub cooling: u64,
    /// First and last addresses of blocks. A string, likewise.
    pub reserved: String,
    /// What an ADD may get at once. A string, likewise.
    pub free: String,
    /// What can really be held, the router's address among it. A string, since a /64 holds more than a JSON number does.
    pub capacity: String,
}

/// One address that is not free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// The address, without prefix length.
    pub address: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Name of the `IPPool`.
    pub pool: String,
    /// `namespace/pod`, `router`, or the container ID if the runtime named no pod.
    pub owner: String,
    /// `held` or `cooling`.
    pub state: String,
    /// The attachment, for what CNI holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// The network namespace it was given to, if the agent saw that itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<Netns>,
}
