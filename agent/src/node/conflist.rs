//! The CNI configuration, as a function of the settings and of what the node has.

use cadastre_messages::DEFAULT_SOCKET;
use cadastre_runtime::InterfacePlugin;
use serde_json::{Value, json};

/// Comes before what distributions and other networks install, since runtimes take the first in alphabetical order; behind
/// a meta-plugin such as Multus (00-multus.conf), which calls us.
pub const NAME: &str = "05-cadastre.conflist";

/// The network's name, by which the agent knows who holds an address: never changed, or no DEL would find its ADD.
const NETWORK: &str = "cadastre";

/// What runtimes of the last years speak. 1.1.0 would add only what they do not use.
const CNI_VERSION: &str = "1.0.0";

/// As long as an interface's name may be.
const BRIDGE: &str = "cadastre0";

/// Maps ports of the node to pods that ask for it.
pub const PORT_MAPPER: &str = "portmap";

/// What the node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    pub mtu: Option<u32>,
    /// Whether the plugin is installed that maps ports.
    pub maps_ports: bool,
    /// Where the agent listens.
    pub socket: &'a str,
}

/// The file's text.
pub fn conflist(plugin: InterfacePlugin, facts: &Facts<'_>) -> String {
    let mut plugins = vec![interface(plugin, facts)];
    if facts.maps_ports {
        plugins.push(json!({"type": PORT_MAPPER, "capabilities": {"portMappings": true}, "snat": true}));
    }
    let list = json!({"cniVersion": CNI_VERSION, "name": NETWORK, "plugins": plugins});
    format!("{list:#}\n")
}

/// The MTU that such a file says.
pub fn mtu_of(text: &str) -> Option<u32> {
    let list: Value = serde_json::from_str(text).ok()?;
    list["plugins"][0]["mtu"].as_u64()?.try_into().ok()
}

fn interface(plugin: InterfacePlugin, facts: &Facts<'_>) -> Value {
    let mut ipam = json!({"type": "cadastre"});
    if facts.socket != DEFAULT_SOCKET {
        ipam["socket"] = facts.socket.into();
    }
    let mut interface = json!({"type": plugin.name(), "ipam": ipam});
    if plugin == InterfacePlugin::Bridge {
        interface["bridge"] = BRIDGE.into();
        interface["isGateway"] = true.into();
        // A pod that reaches itself through a service comes back by the port it left by.
        interface["hairpinMode"] = true.into();
    }
    if let Some(mtu) = facts.mtu {
        interface["mtu"] = mtu.into();
    }
    interface
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_the_node_has() {
        let usual = Facts { mtu: None, maps_ports: false, socket: DEFAULT_SOCKET };
        let port_mapper = json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true});
        let cases = [
            (InterfacePlugin::Ptp, usual.clone(), json!([{"type": "ptp", "ipam": {"type": "cadastre"}}])),
            (
                InterfacePlugin::Ptp,
                Facts { mtu: Some(9001), maps_ports: true, socket: "/tmp/a.sock" },
                json!([{"type": "ptp", "mtu": 9001, "ipam": {"type": "cadastre", "socket": "/tmp/a.sock"}}, port_mapper]),
            ),
            (
                InterfacePlugin::Bridge,
                Facts { mtu: Some(1450), ..usual },
                json!([{"type": "bridge", "bridge": "cadastre0", "isGateway": true, "hairpinMode": true, "mtu": 1450,
                    "ipam": {"type": "cadastre"}}]),
            ),
        ];
        for (plugin, facts, plugins) in cases {
            let list: Value = serde_json::from_str(&conflist(plugin, &facts)).unwrap();
            assert_eq!(list, json!({"cniVersion": "1.0.0", "name": "cadastre", "plugins": plugins}));
        }
    }
}
