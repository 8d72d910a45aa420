//! Who gives addresses in a turn.

use serde_json::{Value, json};

/// One of those who take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A script that keeps nothing, and answers with an address made of the container's ID: what kubelet, runtime and interface
    /// plugin take on this machine, and a process for each call.
    Floor,
    Ours,
    HostLocal,
}

impl Subject {
    pub const ALL: [Self; 3] = [Self::Floor, Self::Ours, Self::HostLocal];

    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Ours => "ours",
            Self::HostLocal => "host-local",
        }
    }

    /// The network's name, by which one sees whose pods are.
    pub fn network(self) -> String {
        format!("burst-{}", self.name())
    }

    /// The section `ipam`, for the node's block. Its plugin is what [`meter`](crate::meter) puts before the real one.
    pub fn ipam(self, block: &str) -> Value {
        let kind = self.network();
        match self {
            Self::Floor | Self::Ours => json!({"type": kind}),
            // With the route that ours and the floor give by themselves.
            Self::HostLocal => json!({"type": kind, "ranges": [[{"subnet": block}]], "routes": [{"dst": "0.0.0.0/0"}]}),
        }
    }
}
