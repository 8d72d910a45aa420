//! Plugin and network configuration, put on the nodes by hand: the chart does not do it yet.

use std::fs;

use anyhow::Result;
use serde_json::json;

use super::Lab;
use crate::paths;

impl Lab {
    /// Gives both nodes our plugin and a network of `ptp` with it. kubelet finds the node Ready then.
    pub fn put_pods_network(&self) -> Result<()> {
        let network = json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [{"type": "ptp", "ipam": {"type": "cadastre"}}],
        });
        for node in &self.nodes {
            fs::copy(paths::binary("cadastre")?, node.path("/opt/cni/bin/cadastre")?)?;
            fs::write(node.path("/etc/cni/net.d/10-cadastre.conflist")?, network.to_string())?;
        }
        Ok(())
    }
}
