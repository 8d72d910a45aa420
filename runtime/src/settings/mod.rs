//! What the person configured, validated once. Nothing behind this module asks again whether a setting makes sense.
//!
//! ```text
//! config.yaml ──┐ source            shape                 validate
//!               ├─────────▶ tree ─────────▶ RawSettings ─────────▶ Settings
//! CADASTRE__… ──┘           unknown keys, wrong types   meaning
//!                                    └──── Problem, Problem, … ────▶ SettingsError: all of them at once
//! ```
//! Keys are those of the chart's values.yaml, which are Cilium's where Cilium has one.

mod cni;
mod duration;
mod effect;
mod findings;
mod health;
mod labels;
mod pools;
mod problem;
mod raw;
mod shape;
mod show;
mod source;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cadastre_api::Mode;
use cadastre_core::{AddrRange, Cidr, Family};

pub use cni::{CniSettings, Conflist, InterfacePlugin};
pub use health::HealthSettings;
pub use problem::{Problem, SettingsError};
pub use raw::RawSettings;
use shape::Shape;

/// Validated settings, of operator and agent alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The configured mode with what it needs. The mode in force is the one that the cluster records.
    pub mode: ModeSettings,
    /// The enabled families, IPv4 first; never empty. Blocks of other families are not handed out.
    pub families: Vec<Family>,
    /// What only the operator reads.
    pub operator: OperatorSettings,
    /// What only the agent reads.
    pub agent: AgentSettings,
    /// What the agent sets up on its node.
    pub cni: CniSettings,
    /// The endpoint by which agents see whether pods of other nodes are reached; `None` if there is none.
    pub health: Option<HealthSettings>,
    /// Where the API server is, if the address that kubelet announces shall not be used.
    pub api_server: Option<ApiServer>,
    /// Logging of both.
    pub log: LogSettings,
    /// What was written but has no effect, or has a better spelling: each a sentence for the log.
    pub warnings: Vec<String>,
}

/// A mode that this release runs, with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeSettings {
    /// `ipam.mode: kubernetes`
    Kubernetes(KubernetesSettings),
    /// `ipam.mode: cluster-pool`
    ClusterPool(ClusterPoolSettings),
}

impl ModeSettings {
    /// The mode as the cluster records it.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        match self {
            Self::Kubernetes(_) => Mode::Kubernetes,
            Self::ClusterPool(_) => Mode::ClusterPool,
        }
    }
}

/// Settings of mode kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// A Node without a podCIDR of one of these waits. Empty: whatever podCIDRs of enabled families a Node has are
    /// served, as soon as it has one.
    pub required: Vec<Family>,
}

/// Settings of mode cluster-pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPoolSettings {
    /// One entry for each enabled family, IPv4 first.
    pub pools: Vec<PoolFamily>,
    /// What no pod may have of them, in the order written.
    pub reserved: Vec<AddrRange>,
}

/// What blocks of one family are cut from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFamily {
    /// The family of all of it.
    pub family: Family,
    /// Disjoint, not empty, in the order in which they are used up.
    pub cidrs: Vec<Cidr>,
    /// Prefix length of a node's block, in bits: no shorter than the prefix of any CIDR.
    pub mask_size: u8,
}

/// What only the operator reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorSettings {
    /// For how long the blocks of a deleted node are given to nobody. At least two minutes.
    pub block_cooling: Duration,
    /// Take the taint `cadastre.io/agent-not-ready` off nodes whose agent serves.
    pub remove_node_taints: bool,
    /// Say in a Node's conditions that its network is available once its agent serves.
    pub set_node_network_status: bool,
    /// Labels that a node must have, all of them, to be given blocks. Empty: every node is.
    pub node_selector: BTreeMap<String, String>,
}

/// What only the agent reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSettings {
    /// For how long a released address is not given to another owner while others are free.
    pub address_cooling: Duration,
    /// For how long an ADD waits when nothing is free but more may come.
    pub add_wait: Duration,
}

/// `k8sServiceHost` and `k8sServicePort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl ApiServer {
    /// As a URL, with an IPv6 address in brackets.
    #[must_use]
    pub fn url(&self) -> String {
        let Self { host, port } = self;
        if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") }
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The least severe level that is logged. The environment variable `CADASTRE_LOG` overrides it.
    pub level: tracing::Level,
    /// For people or for collectors.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Settings {
    /// Reads the file, then the environment (`CADASTRE__IPAM__MODE` and so on), and validates.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let tree = source::load(path, source::environment())?;
        validate::settings(tree, &Shape::settings())
    }

    /// As [`Settings::load`], of a file that may be a whole values.yaml: what only the chart reads may be in it.
    pub fn load_values(path: &Path) -> Result<Self, SettingsError> {
        let tree = source::load(path, source::environment())?;
        validate::settings(tree, &Shape::values())
    }

    /// Validates the text of a settings file, without the environment.
    pub fn from_yaml(text: &str) -> Result<Self, SettingsError> {
        let tree = source::parse(text, Vec::new())?;
        validate::settings(tree, &Shape::settings())
    }
}
