//! The closed set of modes, as users spell them.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who cuts blocks, and how a node gets its addresses. Cilium's names for the same things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// kube-controller-manager cuts blocks: `Node.spec.podCIDRs` is mirrored.
    #[serde(rename = "kubernetes")]
    Kubernetes,
    /// The operator cuts one block of each family for a node.
    #[default]
    #[serde(rename = "cluster-pool")]
    ClusterPool,
    /// The operator cuts blocks of several pools, by demand.
    #[serde(rename = "multi-pool")]
    MultiPool,
    /// AWS: network interfaces, addresses and prefixes by demand.
    #[serde(rename = "eni")]
    Eni,
    /// Azure: ipConfigurations by demand.
    #[serde(rename = "azure")]
    Azure,
}

impl Mode {
    /// Every mode, in the order of the documentation.
    pub const ALL: [Self; 5] = [Self::Kubernetes, Self::ClusterPool, Self::MultiPool, Self::Eni, Self::Azure];

    /// The modes that this release can run.
    pub const BUILT: [Self; 2] = [Self::Kubernetes, Self::ClusterPool];

    /// As written in values.yaml.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::ClusterPool => "cluster-pool",
            Self::MultiPool => "multi-pool",
            Self::Eni => "eni",
            Self::Azure => "azure",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for Mode {
    type Err = String;

    /// # Errors
    /// Names what was read and lists what would be right.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|mode| mode.label() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|mode| mode.label()).collect();
            format!("{text:?} is not a mode; one of {} is", known.join(", "))
        })
    }
}
