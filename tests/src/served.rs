//! A cluster of one node that gives addresses to pods, and the calls that show it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use cadastre_core::Cidr;
use serde_json::{Value, json};

use crate::{ControlPlane, Output, Proc, Program, call_plugin, node, until};

/// The one node.
pub const NODE: &str = "n0";

/// Four IPv4 addresses for each node, and plenty of IPv6. Without a gateway these need a CNI configuration of one's own.
pub const SMALL_BLOCKS: &str = r#"
ipam:
  mode: cluster-pool
  operator: {clusterPoolIPv4PodCIDRList: ["10.0.0.0/16"], clusterPoolIPv4MaskSize: 30, clusterPoolIPv6PodCIDRList: ["fd00::/104"], clusterPoolIPv6MaskSize: 120}
ipv6: {enabled: true}
cni: {customConf: true}
"#;

/// A control plane with the chart and its one node, and nothing of ours running.
pub async fn installed(values: &str) -> Result<ControlPlane> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(values).await?.ok()?;
    // Not Ready, as nodes without a pod network are: a first start among Ready ones waits for their agents.
    cp.create_nodes([node(NODE).ready(false)]).await?;
    Ok(cp)
}

/// A cluster whose one node is served, and its agent knows that.
pub struct Served {
    pub cp: ControlPlane,
    pub operator: Proc,
    pub agent: Proc,
    pub plugin: Plugin,
    pub blocks: Vec<Cidr>,
}

impl Served {
    /// Where the node's agent listens.
    pub fn socket(&self) -> PathBuf {
        self.cp.agent_socket(NODE)
    }

    /// Which addresses these container IDs hold.
    pub async fn held_by(&self, ids: &[&str]) -> Result<BTreeSet<IpAddr>> {
        let held = held(&report(&self.cp).await?)?;
        Ok(held.into_iter().filter(|(_, id)| ids.contains(&id.as_str())).map(|(address, _)| address).collect())
    }
}

/// Starts one with these Helm values.
pub async fn served(values: &str) -> Result<Served> {
    let cp = installed(values).await?;
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    let agent = cp.start_agent(NODE, "agent").await?;
    let plugin = Plugin::new(&cp)?;
    let well = async || Ok(status(&cp, &[]).await?.success());
    until("the agent is well", well).await.with_context(|| agent.tail())?;
    let blocks = cp.blocks().await?.remove(NODE).context("no blocks")?;
    Ok(Served { cp, operator, agent, plugin, blocks })
}

/// `cadastre-agent status` of the node's agent.
pub async fn status(cp: &ControlPlane, flags: &[&str]) -> Result<Output> {
    cp.ask_agent(NODE, &[&["status"], flags].concat()).await
}

/// What `status -o json` says, whether or not all is well.
pub async fn report(cp: &ControlPlane) -> Result<Value> {
    let output = status(cp, &["-o", "json"]).await?;
    serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))
}

/// Every address that an attachment holds, with its container ID; fails if one is listed twice, or out of order.
pub fn held(report: &Value) -> Result<BTreeMap<IpAddr, String>> {
    let rows = report["addresses"].as_array().context("no addresses")?;
    let numbers = rows.iter().map(|row| Ok(row["address"].as_str().unwrap_or_default().parse()?));
    let numbers: Vec<IpAddr> = numbers.collect::<Result<_>>()?;
    // IpAddr sorts by family, then by number; strictly, so that nothing is listed twice.
    if !numbers.windows(2).all(|pair| pair[0] < pair[1]) {
        bail!("not sorted, or listed twice: {numbers:?}");
    }
    let holder = |row: &Value| row["attachment"]["containerId"].as_str().map(str::to_owned);
    let pairs = numbers.into_iter().zip(rows).filter(|(_, row)| row["state"] == "held");
    Ok(pairs.filter_map(|(address, row)| Some((address, holder(row)?))).collect())
}

/// The addresses of a CNI result, without prefix length.
pub fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips = result["ips"].as_array().with_context(|| format!("no ips in {result}"))?;
    let address =
        |ip: &Value| Ok(ip["address"].as_str().unwrap_or_default().split('/').next().unwrap_or_default().parse()?);
    ips.iter().map(address).collect()
}

/// The section `ipam` of a network configuration.
pub fn ipam(socket: &Path) -> Value {
    json!({"type": "cadastre", "socket": socket})
}

/// Our plugin, called without an interface plugin around it. Container IDs stand for attachments.
#[derive(Debug)]
pub struct Plugin {
    program: Program,
    pub config: Value,
}

/// A CNI result, or the error object.
pub type Answer = Result<Value, Value>;

impl Plugin {
    /// In the network `pods`, with the agent of [`NODE`].
    pub fn new(cp: &ControlPlane) -> Result<Self> {
        let ipam = ipam(&cp.agent_socket(NODE));
        let config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "bridge", "ipam": ipam});
        Ok(Self { program: Program::ours("cadastre")?, config })
    }

    /// A call about a pod that lives in no namespace of its own.
    pub async fn call(&self, command: &str, id: &str) -> Result<Answer> {
        self.call_in(Path::new("/proc/self/ns/net"), command, id).await
    }

    /// A call about a pod that lives in this network namespace.
    pub async fn call_in(&self, netns: &Path, command: &str, id: &str) -> Result<Answer> {
        self.call_with(netns, command, id, &format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={id}")).await
    }

    /// The same with these `CNI_ARGS`.
    pub async fn call_with(&self, netns: &Path, command: &str, id: &str, args: &str) -> Result<Answer> {
        let netns = ("CNI_NETNS", netns.to_str().context("the path of a namespace")?);
        let env = [("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0"), netns, ("CNI_ARGS", args)];
        call_plugin(&self.program, command, &self.config, &env).await
    }

    /// An ADD that has to succeed; its addresses.
    pub async fn add(&self, id: &str) -> Result<Vec<IpAddr>> {
        let answer = self.call("ADD", id).await?;
        addresses(&answer.map_err(|error| anyhow!("ADD of {id}: {error}"))?)
    }

    /// A DEL that has to succeed, as every DEL has.
    pub async fn del(&self, id: &str) -> Result<()> {
        self.call("DEL", id).await?.map(drop).map_err(|error| anyhow!("DEL of {id}: {error}"))
    }
}
