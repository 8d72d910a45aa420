//! What `cadastre-agent explain` asks and prints; also its `-o json`.

use serde::{Deserialize, Serialize};

use crate::{Attachment, Failure};

/// Arguments of [`crate::Call::Explain`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explain {
    /// An address, a pod as `namespace/name`, or a pod's name.
    pub what: String,
}

/// Everything that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// As it was asked.
    pub what: String,
    /// None if nothing is known of it, which `note` explains.
    pub findings: Vec<Finding>,
    /// What to make of it if there is no finding, and of what is beside the findings.
    pub note: String,
}

/// One address, or one ADD that got none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Finding {
    /// An attachment has it.
    Held(Box<HeldFinding>),
    /// Somebody had it, and nobody is to get it yet.
    Cooling {
        /// Without prefix length.
        address: String,
        /// Where it is from.
        from: String,
        /// Since it was released.
        seconds: u64,
        /// Until anybody may get it.
        left: u64,
    },
    /// The gateway of a block.
    Router {
        /// Without prefix length.
        address: String,
        /// Where it is from.
        from: String,
    },
    /// First or last of a block, which nobody gets.
    Reserved {
        /// Without prefix length.
        address: String,
        /// Where it is from.
        from: String,
    },
    /// Anybody may get it.
    Free {
        /// Without prefix length.
        address: String,
        /// Where it is from.
        from: String,
    },
    /// Of a block that nothing is given from any more.
    Closed {
        /// Without prefix length.
        address: String,
        /// Where it is from, and why nothing is given.
        from: String,
    },
    /// An ADD that waits.
    Waiting {
        /// Who waits.
        attachment: Attachment,
        /// The pod, if the runtime named one.
        owner: String,
        /// Until it fails.
        left: u64,
        /// What it waits for.
        reason: Failure,
    },
    /// The last ADD that failed.
    Refused {
        /// Who asked.
        attachment: Attachment,
        /// The pod, if the runtime named one.
        owner: String,
        /// Since then.
        seconds: u64,
        /// What it was told.
        reason: Failure,
    },
}

/// One address that an attachment has. Times are seconds since then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldFinding {
    /// Without prefix length.
    pub address: String,
    /// Block and pool, or network.
    pub from: String,
    /// The pod, or the container if the runtime named no pod.
    pub owner: String,
    /// The pod's UID, if the runtime named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Who has it.
    pub attachment: Attachment,
    /// Since it was given.
    pub since: u64,
    /// Since the attachment was last told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<u64>,
    /// Path of the network namespace; empty if it is not known.
    pub netns: String,
    /// `lives`, `gone` or `unknown`.
    pub netns_state: String,
    /// What would free it.
    pub freed_by: String,
}
