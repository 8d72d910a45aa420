//! Who is called.

use std::path::Path;

use anyhow::Result;
use cadastre_tests::{binary, tool};
use serde_json::{Value, json};

use crate::call::Plugin;
use crate::options::Network;
use crate::stage::Node;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A program that does nothing, called as ours is: what a process costs on this machine.
    Floor,
    Ours,
    HostLocal,
}

/// Of every configuration.
pub const NETWORK_NAME: &str = "pods";

impl Subject {
    pub const ALL: [Self; 3] = [Self::Floor, Self::Ours, Self::HostLocal];

    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Ours => "ours",
            Self::HostLocal => "host-local",
        }
    }

    pub fn plugin(self, node: &Node) -> Result<Plugin> {
        let program = match self {
            Self::Floor => Path::new("/bin/true").to_owned(),
            Self::Ours => binary("cadastre")?,
            Self::HostLocal => tool("host-local")?,
        };
        let ipam = match self {
            Self::Floor | Self::Ours => ours(node),
            Self::HostLocal => host_local(node),
        };
        let netconf = json!({
            "cniVersion": "1.0.0", "name": NETWORK_NAME, "type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipMasq": true, "hairpinMode": true, "ipam": ipam,
        });
        Ok(Plugin {
            program,
            netconf: netconf.to_string().into_bytes(),
            netns: node.netns.clone(),
            owner: node.owner.clone(),
            speaks: self != Self::Floor,
        })
    }
}

fn ours(node: &Node) -> Value {
    let mut ipam = json!({ "type": "cadastre", "socket": node.socket, "routes": [{ "dst": "0.0.0.0/0" }] });
    if node.network == Network::Ranges {
        ipam["ranges"] = json!([[{ "subnet": node.subnet() }]]);
        // Not host-local's own folder: what is reserved there would be taken over.
        ipam["dataDir"] = json!(node.data.with_extension("ours"));
    }
    ipam
}

fn host_local(node: &Node) -> Value {
    json!({
        "type": "host-local", "ranges": [[{ "subnet": node.subnet() }]], "dataDir": node.data,
        "routes": [{ "dst": "0.0.0.0/0" }],
    })
}
