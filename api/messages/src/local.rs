//! Networks whose configuration says which addresses there are, in the shape of the reference plugin host-local: each is a
//! pool of its own on this node.

use serde::{Deserialize, Serialize};

use crate::{Attachment, Netns, Pod};

/// The ranges of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// An attachment gets one address of each set; the ranges of a set are alternatives.
    pub sets: Vec<Vec<Range>>,
}

/// One range, as it is written in the configuration: checked by the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    /// A CIDR: the prefix length of its addresses, and where they come from unless the two below say less.
    pub subnet: String,
    /// The first address given; by default the one behind the first of the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_start: Option<String>,
    /// The last address given; by default the last of the subnet, in IPv4 the one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_end: Option<String>,
    /// Never given; by default the one behind the first of the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// Arguments of [`crate::Call::TakeOver`]: what was reserved before, as far as it fits into a line. Repeating it does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOver {
    /// The network that all of it belongs to.
    pub network: String,
    /// What is in use.
    pub reservations: Vec<Reservation>,
    /// The address that was given last of each set, by the place of the set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last: Vec<LastReserved>,
    /// Nothing more follows.
    pub done: bool,
}

/// One address that an attachment holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Without prefix length.
    pub address: String,
    /// Who holds it. An older host-local did not record the interface: then it is `eth0`.
    pub attachment: Attachment,
    /// Its namespace, if the runtime's cache of results names it; path empty otherwise.
    pub netns: Netns,
    /// Its pod, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}

/// Where the search in a set goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReserved {
    /// Place of the set in [`Local::sets`].
    pub set: usize,
    /// The address that was given last.
    pub address: String,
}
