//! Whether pods of other nodes are reached from this one: found out as a pod would, from a network namespace of the agent's own
//! that is attached by the installed CNI configuration.
//!
//! ```text
//! conflist ─▶ plugin ─▶ ptp ─▶ cadastre ─▶ socket        an address like a pod's, owner `health`
//! thread with a namespace (space) ◀─ eth0 ┘
//!     ├─ answers other nodes' probes with the node's name
//!     └─ probes them ◀─ ring: the 16 nodes that follow by name ◀─ IPAMNodes
//!            └─▶ rounds ─▶ Cluster ─▶ status, metrics, the condition NodesReachable
//! ```
//! Nothing waits for any of it: a node without an endpoint serves its pods all the same.

mod attach;
mod keep;
mod plugin;
mod probe;
mod ring;
mod rounds;
mod space;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use cadastre_api::HealthEndpoint;
use cadastre_runtime::HealthSettings;

use crate::boot_time::BootTime;
pub use attach::release;
pub use keep::keep;

/// `CNI_CONTAINERID` of the attachment: no runtime's, whose IDs are hexadecimal.
pub const CONTAINER_ID: &str = "cadastre-health";

/// What people call who holds its addresses.
pub const OWNER: &str = "health";

/// Names in one message.
const SHOWN: usize = 5;

/// What the endpoint is made of.
#[derive(Clone, Debug)]
pub struct Host {
    /// The node's name.
    pub node: String,
    /// `None` if there is to be no endpoint.
    pub settings: Option<HealthSettings>,
    /// Folder of the plugins.
    pub bin: PathBuf,
    /// The configuration that the agent installs.
    pub conflist: PathBuf,
    /// Between two rounds of probes.
    pub every: Duration,
}

/// This node's endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not attached by this agent yet: what the one before it said still holds.
    #[default]
    Starting,
    Attached(HealthEndpoint),
    Without,
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthSeen {
    pub state: State,
    /// Why there is no endpoint, if it could not be attached.
    pub trouble: Option<String>,
    /// When the last round ended.
    pub at: Option<BootTime>,
    /// This node first, then others by name.
    pub nodes: Vec<NodeSeen>,
}

/// One node that is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    pub node: String,
    pub addresses: Vec<IpAddr>,
    /// `None` until it was reached once, or failed twice.
    pub reached: Option<bool>,
    /// The slower of its addresses, the last time.
    pub took: Option<Duration>,
    /// What went wrong the last time.
    pub failure: Option<String>,
}

/// What of it is written to `IPAMNode.status`: nothing in it changes while the network does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub state: State,
    pub verdict: Option<Verdict>,
}

/// Status, reason and message of the condition `NodesReachable`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub reachable: bool,
    pub reason: &'static str,
    pub message: String,
}

/// Reasons of the condition.
mod reasons {
    pub const ALL_REACHABLE: &str = "AllReachable";
    pub const UNREACHABLE: &str = "NodesUnreachable";
    pub const NO_ENDPOINT: &str = "NoHealthEndpoint";
}

impl HealthSeen {
    /// How many nodes were reached, of how many of which that is known.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let known = self.nodes.iter().filter_map(|node| node.reached);
        (known.clone().filter(|reached| *reached).count(), known.count())
    }

    /// What others are told.
    #[must_use]
    pub fn said(&self) -> Said {
        Said { state: self.state.clone(), verdict: self.verdict() }
    }

    fn verdict(&self) -> Option<Verdict> {
        if let Some(trouble) = &self.trouble {
            return Some(Verdict { reachable: false, reason: reasons::NO_ENDPOINT, message: trouble.clone() });
        }
        let (reached, probed) = self.counts();
        if probed == 0 {
            return None;
        }
        if reached == probed {
            let message = "pods of the probed nodes are reached".to_owned();
            return Some(Verdict { reachable: true, reason: reasons::ALL_REACHABLE, message });
        }
        let lost = self.nodes.iter().filter(|node| node.reached == Some(false));
        let named: Vec<String> = lost.clone().take(SHOWN).map(named).collect();
        let more = lost.count().saturating_sub(SHOWN);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let named = named.join(", ");
        let message =
            format!("no answer from {named}{more}: `cadastre-agent status` on this node says why, for each of them");
        Some(Verdict { reachable: false, reason: reasons::UNREACHABLE, message })
    }
}

fn named(node: &NodeSeen) -> String {
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    format!("{} ({})", node.node, addresses.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, reached: Option<bool>) -> NodeSeen {
        let addresses = vec![format!("10.0.0.{}", name.len()).parse().unwrap()];
        NodeSeen { node: name.into(), addresses, reached, took: None, failure: None }
    }

    #[test]
    fn the_condition_names_who_does_not_answer_and_counts_the_rest() {
        let mut seen = HealthSeen::default();
        assert_eq!(seen.said(), Said { state: State::Starting, verdict: None });
        seen.nodes = vec![node("a", Some(true)), node("new", None)];
        assert_eq!((seen.counts(), seen.said().verdict.unwrap().reachable), ((1, 1), true));
        seen.nodes.push(node("bb", Some(false)));
        let verdict = seen.said().verdict.unwrap();
        assert_eq!((seen.counts(), verdict.reachable, verdict.reason), ((1, 2), false, "NodesUnreachable"));
        assert!(verdict.message.starts_with("no answer from bb (10.0.0.2): "), "{}", verdict.message);
        seen.nodes.extend(std::iter::repeat_n(node("c", Some(false)), 6));
        let message = seen.said().verdict.unwrap().message;
        assert!(message.contains("c (10.0.0.1) and 2 more: "), "{message}");
        seen.trouble = Some("no ptp".into());
        assert_eq!(seen.said().verdict.unwrap().message, "no ptp");
    }
}
