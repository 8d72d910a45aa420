//! A node of the demo: a network namespace for the node itself, the real agent, and pods attached through `bridge`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use cadastre_core::{Cidr, Family};
use cadastre_tests::{AGENT, Attachment, Cni, ControlPlane, NAMESPACE, NetNs, Proc, Program, pod};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::show::Show;

/// The CNI network.
const NETWORK: &str = "pods";
/// The nodes' own network: a veth pair.
const WIRE: &str = "wire";

/// A node.
pub struct Machine {
    pub name: String,
    number: usize,
    pub netns: NetNs,
    folder: PathBuf,
    pub socket: PathBuf,
    /// The agent, once started.
    pub agent: Option<Proc>,
    cni: Cni,
}

/// A pod: what kubelet and the container runtime would make of the API's object.
pub struct Guest {
    pub name: String,
    uid: String,
    pub netns: NetNs,
    pub addresses: Vec<String>,
}

impl Machine {
    pub fn new(cp: &ControlPlane, number: usize) -> Result<Self> {
        let name = format!("node-{number}");
        let folder = cp.folder().join(&name);
        fs::create_dir_all(&folder)?;
        let (netns, socket) = (NetNs::new(&name)?, folder.join("cadastre.sock"));
        let ipam = json!({"type": "cadastre", "socket": socket});
        let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam});
        let cni = Cni::new(&netns, &json!({"cniVersion": "1.1.0", "name": NETWORK, "plugins": [bridge]}))?;
        Ok(Self { name, number, netns, folder, socket, agent: None, cni })
    }

    /// The node's address in its own network.
    pub fn address(&self, family: Family) -> String {
        match family {
            Family::V4 => format!("192.0.2.{}", self.number),
            Family::V6 => format!("2001:db8::{}", self.number),
        }
    }

    /// Starts the agent as its pod would be: under the chart's `ServiceAccount`, with the token of a pod of this node.
    pub async fn start_agent(&mut self, show: &Show, cp: &ControlPlane, settings: &Path) -> Result<()> {
        let kubeconfig = cp.service_account_kubeconfig_on(NAMESPACE, AGENT, &self.name).await?;
        let program = Program::ours("cadastre-agent")?.env("KUBECONFIG", kubeconfig).arg("run");
        let program = program.arg("--config").arg(settings).args(["--node-name", &self.name]);
        let program = program.arg("--state-dir").arg(&self.folder).arg("--socket").arg(&self.socket);
        let program = program.args(["--listen", "127.0.0.1:0"]);
        show.command(&format!("{program} &"));
        self.agent = Some(program.start(cp.folder(), &format!("agent-{}", self.name))?);
        Ok(())
    }

    /// `cadastre-agent status`.
    pub fn status(&self) -> Result<Program> {
        Ok(Program::ours("cadastre-agent")?.args(["status", "--all-addresses", "--socket"]).arg(&self.socket))
    }

    /// Makes a pod on this node, and attaches it.
    pub async fn attach(&self, show: &Show, cp: &ControlPlane, name: &str) -> Result<Guest> {
        let object: Pod = cp.create_in("default", &pod("default", name).on_node(&self.name).build()).await?;
        let uid = object.uid().context("a pod without uid")?;
        let mut guest = Guest { name: name.to_owned(), uid, netns: NetNs::new(name)?, addresses: Vec::new() };
        self.show_call(show, "add", &guest);
        let result = self.cni.add(&guest.attachment()).await?;
        let addresses = result["ips"].as_array().context("a result without ips")?.iter();
        let address = |ip: &Value| Some(ip["address"].as_str()?.split('/').next()?.to_owned());
        guest.addresses = addresses.filter_map(address).collect();
        for address in &guest.addresses {
            let shown = guest.netns.run(&["ip", "-o", "address", "show", "dev", "eth0"]).await?.ok()?;
            ensure!(shown.contains(&format!(" {address}/")), "{name} does not have {address}: {shown}");
        }
        show.so(&format!("pod {name} on {}: {}", self.name, guest.addresses.join(" and ")));
        Ok(guest)
    }

    /// Detaches a pod.
    pub async fn detach(&self, show: &Show, guest: &Guest) -> Result<()> {
        self.show_call(show, "del", guest);
        self.cni.del(&guest.attachment()).await?;
        let left = guest.netns.run(&["ip", "link", "show", "eth0"]).await?;
        ensure!(!left.success(), "{} still has eth0 after DEL", guest.name);
        Ok(())
    }

    fn show_call(&self, show: &Show, verb: &str, guest: &Guest) {
        let (node, netns) = (self.netns.name(), guest.netns.path());
        show.command(&format!("ip netns exec {node} cnitool {verb} {NETWORK} {}", netns.display()));
    }

    /// Lays the wire to another node, and routes to the blocks that the other one has.
    pub async fn connect(&self, other: &Self, mine: &[Cidr], theirs: &[Cidr]) -> Result<()> {
        let (here, there) = (self.netns.name(), other.netns.name());
        ip(&["-n", here, "link", "add", WIRE, "type", "veth", "peer", "name", WIRE, "netns", there]).await?;
        self.plug().await?;
        other.plug().await?;
        self.route(other, theirs).await?;
        other.route(self, mine).await
    }

    async fn plug(&self) -> Result<()> {
        let name = self.netns.name();
        for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
            let mut words = vec!["-n", name, "address", "add"];
            let address = format!("{}/{length}", self.address(family));
            words.extend([address.as_str(), "dev", WIRE]);
            if family == Family::V6 {
                words.push("nodad");
            }
            ip(&words).await?;
        }
        ip(&["-n", name, "link", "set", WIRE, "up"]).await?;
        let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
        self.netns.run(&["sh", "-c", forward]).await?.ok().map(drop)
    }

    async fn route(&self, other: &Self, blocks: &[Cidr]) -> Result<()> {
        for block in blocks {
            let (target, way) = (block.to_string(), other.address(block.family()));
            ip(&["-n", self.netns.name(), "route", "add", &target, "via", &way]).await?;
        }
        Ok(())
    }
}

impl Guest {
    fn attachment(&self) -> Attachment<'_> {
        Attachment::new(&self.netns).pod("default", &self.name, &self.uid)
    }
}

async fn ip(words: &[&str]) -> Result<()> {
    Program::new("ip").args(words).run().await?.ok().map(drop)
}
