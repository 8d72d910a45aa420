//! Two nodes with operator and agents, each a machine of its own, and what their agents say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::Value;

use crate::{Cni, ControlPlane, DUAL_STACK, Fabric, Host, Output, Proc, held, until};

/// Nodes go by their index.
pub struct Pair {
    pub cp: ControlPlane,
    pub hosts: [Host; 2],
    pub agents: [Proc; 2],
    pub fabric: Fabric,
    _operator: Proc,
}

impl Pair {
    /// Starts one with these variables for its agents, and waits for nothing.
    pub async fn start(env: &[(&str, &str)]) -> Result<Self> {
        let cp = ControlPlane::start().await?;
        cp.install_chart(DUAL_STACK).await?.ok()?;
        let fabric = Fabric::new()?;
        let hosts = [fabric.host(&cp, 1)?, fabric.host(&cp, 2)?];
        let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
        cp.create_nodes(hosts.iter().map(Host::node)).await?;
        let start = async |host, name| cp.agent_program_on(host, env).await?.start(cp.folder(), name);
        let agents = [start(&hosts[0], "agent-1").await?, start(&hosts[1], "agent-2").await?];
        Ok(Self { cp, hosts, agents, fabric, _operator: operator })
    }

    /// What a command says of a node's agent.
    pub async fn command(&self, number: usize, args: &[&str]) -> Result<Output> {
        self.cp.ask_agent(self.hosts[number].name(), args).await
    }

    /// What `status -o json` says.
    pub async fn report(&self, number: usize) -> Result<Value> {
        let output = self.command(number, &["status", "-o", "json"]).await?;
        serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))
    }

    /// Waits until `status` of a node says this.
    pub async fn says(&self, number: usize, text: &str) -> Result<()> {
        let said = async || Ok(self.command(number, &["status"]).await?.stdout.contains(text));
        until(&format!("node {number} to say {text:?}"), said).await.with_context(|| self.agents[number].tail())
    }

    /// Every address that is held on a node, with its container ID.
    pub async fn held(&self, number: usize) -> Result<BTreeMap<IpAddr, String>> {
        held(&self.report(number).await?)
    }

    /// A condition of a node's `IPAMNode`.
    pub async fn condition(&self, number: usize, kind: &str) -> Result<Condition> {
        let nodes = self.cp.ipam_nodes().await?;
        let status = nodes.get(self.hosts[number].name()).and_then(|node| node.status.clone()).unwrap_or_default();
        let condition = status.conditions.into_iter().find(|condition| condition.type_ == kind);
        condition.with_context(|| format!("no condition {kind}"))
    }

    /// The network that a node's agent installed.
    pub fn cni(&self, number: usize) -> Result<Cni> {
        let host = &self.hosts[number];
        Cni::installed(host.netns(), "cadastre", &host.conf(), &host.bin())
    }
}
