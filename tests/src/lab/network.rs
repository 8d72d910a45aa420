//! The namespaces of control plane and nodes, on one bridge. No default route leads anywhere.

use std::sync::Arc;

use anyhow::Result;

use super::reaper::Reaper;
use crate::home::{API, API_SERVICE, SERVICES};
use crate::{NetNs, Program};

#[derive(Debug)]
pub(super) struct Network {
    pub cp: Arc<NetNs>,
    pub nodes: Vec<Arc<NetNs>>,
}

impl Network {
    pub async fn new(nodes: &[&str], reaper: &Reaper) -> Result<Self> {
        let made = |name: &str| {
            let netns = NetNs::new(name)?;
            reaper.netns(netns.name())?;
            anyhow::Ok(Arc::new(netns))
        };
        let cp = made("cp")?;
        let bridge = format!(
            "ip link add lab0 type bridge
             ip address add {}/24 dev lab0
             ip address add {}/64 dev lab0 nodad
             ip link set lab0 up
             ip address add {API_SERVICE} dev lo
             {FORWARDING}",
            API.ip(),
            v6(1),
        );
        run(&cp, &bridge).await?;
        let nodes = nodes.iter().map(|name| made(name)).collect::<Result<Vec<_>>>()?;
        for (number, node) in nodes.iter().enumerate() {
            connect(&cp, node, number).await?;
        }
        Ok(Self { cp, nodes })
    }
}

async fn connect(cp: &NetNs, node: &NetNs, number: usize) -> Result<()> {
    let cable = format!(
        "ip link add node{number} type veth peer name eth0 netns {}
             ip link set node{number} master lab0 up",
        node.name()
    );
    run(cp, &cable).await?;
    let [v4, v6] = addresses(number);
    // In place of kube-proxy: the API server's is the only Service.
    let node_side = format!(
        "ip address add {v4}/24 dev eth0
             ip address add {v6}/64 dev eth0 nodad
             ip link set eth0 up
             ip route add {SERVICES} via {}
             {FORWARDING}",
        API.ip()
    );
    run(node, &node_side).await?;
    Ok(())
}

/// The addresses of a node, IPv4 first.
pub(super) fn addresses(number: usize) -> [String; 2] {
    let host = 11 + number;
    [format!("10.66.0.{host}"), v6(host)]
}

fn v6(host: usize) -> String {
    format!("fd66::{host}")
}

const FORWARDING: &str = "echo 1 > /proc/sys/net/ipv4/ip_forward
    echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";

async fn run(netns: &NetNs, script: &str) -> Result<()> {
    Program::new("sh").args(["-ec", script]).netns(netns).run().await?.ok()?;
    Ok(())
}
