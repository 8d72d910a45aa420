//! What `cadastre-agent status` shows; also its `-o json`.

use serde::{Deserialize, Serialize};

use crate::Attachment;

/// The agent's state at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// For each pool and family.
    pub pools: Vec<Pool>,
    /// Every address that is not free, sorted by family, then by number.
    pub addresses: Vec<Address>,
}

/// One part of the agent: well or not, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Whether it works.
    pub ok: bool,
    /// What it is, or what is wrong and the remedy.
    pub message: String,
}

/// One pool's share on this node in one family. Counts are addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// Name of the `IPPool`.
    pub pool: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Blocks of this share.
    pub blocks: Vec<String>,
    /// Held by attachments, the routers among them.
    pub allocated: u64,
    /// Released and not yet to be given to another owner.
    pub cooling: u64,
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
}
