//! Nodes as machines of their own: a network namespace each, on one switch, with a way to the API server.
//!
//! ```text
//! API server on the machine's loopback ◀── relay ◀── the same address on the loopback of each node
//! node, node, … ──eth0──▶ switch      192.168.77.0/24, fd77::/64
//! ```

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::{ControlPlane, NetNs, NodeBuilder, Scratch, node, tool};

/// What an agent finds on a node: interface plugins, and one that maps ports.
const PLUGINS: [&str; 3] = ["ptp", "bridge", "portmap"];

/// MTU of the nodes' links, in bytes: not what the kernel would choose.
pub const MTU: u32 = 1450;

/// The switch.
#[derive(Debug)]
pub struct Fabric {
    switch: NetNs,
}

/// One machine.
#[derive(Debug)]
pub struct Host {
    name: String,
    addresses: [IpAddr; 2],
    netns: NetNs,
    scratch: Scratch,
    relay: JoinHandle<()>,
}

impl Fabric {
    pub fn new() -> Result<Self> {
        let switch = NetNs::new("switch")?;
        switch.ip(&["link", "add", "name", "br0", "type", "bridge"])?;
        switch.ip(&["link", "set", "br0", "up"])?;
        Ok(Self { switch })
    }

    /// Takes a machine's cable out, or puts it in again. The API server is reached all the same.
    pub fn cut(&self, host: &Host, cut: bool) -> Result<()> {
        let port = format!("port{}", host.name.trim_start_matches('n'));
        self.switch.ip(&["link", "set", &port, if cut { "down" } else { "up" }])
    }

    /// The machine with this number, which is part of its name and its addresses. Must be called within a tokio runtime.
    pub fn host(&self, cp: &ControlPlane, number: u8) -> Result<Host> {
        let name = format!("n{number}");
        let addresses = [format!("192.168.77.{number}"), format!("fd77::{number:x}")];
        let (netns, scratch) = (NetNs::new(&name)?, Scratch::new()?);
        let port = format!("port{number}");
        let peer = ["peer", "name", "eth0", "netns", netns.name()];
        self.switch.ip(&[&["link", "add", "name", &port, "type", "veth"], &peer[..]].concat())?;
        self.switch.ip(&["link", "set", &port, "master", "br0", "up"])?;
        netns.ip(&["address", "add", &format!("{}/24", addresses[0]), "dev", "eth0"])?;
        netns.ip(&["address", "add", &format!("{}/64", addresses[1]), "dev", "eth0", "nodad"])?;
        netns.ip(&["link", "set", "eth0", "mtu", &MTU.to_string(), "up"])?;
        for folder in ["net.d", "bin"] {
            scratch.folder(folder)?;
        }
        for plugin in PLUGINS {
            std::os::unix::fs::symlink(tool(plugin)?, scratch.path().join("bin").join(plugin))?;
        }
        let relay = relay(&netns, cp)?;
        let addresses = addresses.map(|address| address.parse());
        let addresses = [addresses[0].clone()?, addresses[1].clone()?];
        Ok(Host { name, addresses, netns, scratch, relay })
    }
}

/// The API server's address, in the namespace.
fn relay(netns: &NetNs, cp: &ControlPlane) -> Result<JoinHandle<()>> {
    let server: SocketAddr = cp.url().trim_start_matches("https://").parse().context("the API server's address")?;
    let listener = netns.listen(server)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    Ok(tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(server).await else { return };
                // One that breaks off is for both ends to notice.
                drop(copy_bidirectional(&mut near, &mut far).await);
            });
        }
    }))
}

impl Host {
    /// Its Node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// IPv4, then IPv6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }

    /// Its Node, as its kubelet would register it.
    pub fn node(&self) -> NodeBuilder {
        node(&self.name).ready(false).addresses(self.addresses.map(|address| address.to_string()))
    }

    /// Where its folders are.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Folder of its CNI configurations.
    pub fn conf(&self) -> PathBuf {
        self.scratch.path().join("net.d")
    }

    /// Folder of its CNI plugins.
    pub fn bin(&self) -> PathBuf {
        self.scratch.path().join("bin")
    }

    /// The configuration that its agent writes.
    pub fn conflist(&self) -> PathBuf {
        self.conf().join("05-cadastre.conflist")
    }

    /// The plugin that its agent installs.
    pub fn plugin(&self) -> PathBuf {
        self.bin().join("cadastre")
    }

    /// Names of what lies in a folder, sorted.
    pub fn there(&self, folder: &Path) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<String> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into()).collect();
        names.sort();
        Ok(names)
    }

    /// `ip route` of both families: the routes of agents.
    pub async fn routes(&self) -> Result<Vec<String>> {
        let mut routes = Vec::new();
        for family in ["-4", "-6"] {
            let listed = self.netns.run(&["ip", family, "route", "show", "proto", "202"]).await?.ok()?;
            routes.extend(listed.lines().map(|line| line.trim().to_owned()));
        }
        Ok(routes)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.relay.abort();
    }
}
