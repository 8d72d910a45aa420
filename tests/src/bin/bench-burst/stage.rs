//! The cluster, and who gives addresses on its first node.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cadastre_tests::{Lab, NAMESPACE, Node, eventually, is_ready, until};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;

use crate::meter;
use crate::subject::Subject;

/// The agent leaves a node without it, so that it costs nothing in the turns of others.
const LABEL: &str = "cadastre.io/burst";
const VALUES: &str = "agent: {nodeSelector: {cadastre.io/burst: ours}}\n";
/// Agents start and end, as kubelet sees it.
const PATIENCE: Duration = Duration::from_mins(1);
/// Ours, and what comes before it.
const OURS: &str = "/etc/cni/net.d/05-cadastre.conflist";
const BEFORE: &str = "/etc/cni/net.d/04-burst.conflist";

pub struct Stage {
    pub lab: Lab,
    /// The first node's block, and the configuration that the agent wrote.
    block: String,
    conflist: Value,
}

impl Stage {
    pub async fn set() -> Result<Self> {
        let lab = Lab::start().await?;
        for node in &lab.nodes {
            label(&lab, node, "=ours").await?;
        }
        lab.upgrade_chart(VALUES, &["--wait", "--timeout=100s"]).await?.ok()?;
        lab.nodes_ready().await?;
        let node = &lab.nodes[0];
        meter::install(node).await?;
        let conflist = fs::read(node.path(OURS)?).with_context(|| OURS.to_owned())?;
        let conflist = serde_json::from_slice(&conflist).with_context(|| OURS.to_owned())?;
        let blocks = lab.cp.blocks().await?.remove(node.name()).context("the node has no block")?;
        let [block] = blocks[..] else { bail!("{blocks:?}: one block was expected") };
        Ok(Self { block: block.to_string(), conflist, lab })
    }

    /// Where pods are created.
    pub fn node(&self) -> &Node {
        &self.lab.nodes[0]
    }

    /// Lets this one give addresses from now on. The configuration differs in the network's name and in the section `ipam`.
    pub async fn take_turn(&self, subject: Subject) -> Result<()> {
        let node = self.node();
        let agents = match subject {
            Subject::Ours => label(&self.lab, node, "=ours").await.map(|()| 1)?,
            Subject::Floor | Subject::HostLocal => label(&self.lab, node, "-").await.map(|()| 0)?,
        };
        eventually(PATIENCE, "the agent to come or go", async || {
            let there = self.agents().await?;
            ensure!(there == agents, "{there} agents on the node");
            Ok(())
        })
        .await?;
        let mut conflist = self.conflist.clone();
        conflist["name"] = subject.network().into();
        conflist["plugins"][0]["ipam"] = subject.ipam(&self.block);
        let path = node.path(BEFORE)?;
        fs::write(path.with_extension("partial"), conflist.to_string())?;
        fs::rename(path.with_extension("partial"), &path)?;
        Ok(())
    }

    /// Whether the runtime has called this one for a pod.
    pub fn is_called(&self, subject: Subject) -> Result<bool> {
        let folder = self.node().path("/var/lib/cni/results")?;
        if !folder.exists() {
            return Ok(false); // It has called nobody yet.
        }
        let prefix = format!("{}-", subject.network());
        let results = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(results.flatten().any(|result| result.file_name().to_string_lossy().starts_with(&prefix)))
    }

    /// Waits until no pod has a namespace, as a runtime goes on when its pods are no longer listed.
    pub async fn is_empty(&self) -> Result<()> {
        until("the node to have no pods", async || Ok(self.node().spaces().await?.is_empty())).await
    }

    /// That are ready, on the first node; one that ends still counts as two.
    async fn agents(&self) -> Result<usize> {
        let of_agents = ListParams::default().labels("app.kubernetes.io/name=cadastre-agent");
        let of_node = of_agents.fields(&format!("spec.nodeName={}", self.node().name()));
        let pods = Api::<Pod>::namespaced(self.lab.cp.admin().await?, NAMESPACE).list(&of_node).await?.items;
        ensure!(pods.iter().all(is_ready), "an agent is not ready");
        Ok(pods.len())
    }
}

async fn label(lab: &Lab, node: &Node, value: &str) -> Result<()> {
    lab.cp.kubectl(&["label", "--overwrite", "node", node.name(), &format!("{LABEL}{value}")]).await?.ok()?;
    Ok(())
}
