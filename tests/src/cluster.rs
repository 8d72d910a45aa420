//! A control plane with our chart installed, and our programs run on it as their pods would be: with the settings file
//! that the chart renders, under the ServiceAccounts and the RBAC that it grants.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use cadastre_api::{BlockState, IPAMConfig, IPAMLedger, IPAMNode};
use cadastre_core::Cidr;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use crate::{ControlPlane, Host, NAMESPACE, Output, Proc, Program, paths};

/// ServiceAccount of the operator.
pub const OPERATOR: &str = "cadastre-operator";
/// ServiceAccount of the agents.
pub const AGENT: &str = "cadastre-agent";

/// Values: mode cluster-pool, both families.
pub const DUAL_STACK: &str = r#"
ipam:
  mode: cluster-pool
  operator: {clusterPoolIPv4PodCIDRList: ["10.0.0.0/8"], clusterPoolIPv4MaskSize: 24, clusterPoolIPv6PodCIDRList: ["fd00::/104"], clusterPoolIPv6MaskSize: 120}
ipv6: {enabled: true}
"#;

/// What tests ask a cluster with Cadastre in it.
impl ControlPlane {
    /// The settings file as operator and agents find it mounted: the content of the chart's `ConfigMap`.
    pub async fn settings_file(&self, name: &str) -> Result<PathBuf> {
        let maps = Api::<ConfigMap>::namespaced(self.admin().await?, NAMESPACE);
        let map = maps.get("cadastre-config").await?;
        let text = map.data.unwrap_or_default().remove("config.yaml").context("the ConfigMap has no config.yaml")?;
        self.write_settings(name, &text)
    }

    /// A settings file of this content.
    pub fn write_settings(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder().join(format!("{name}.yaml"));
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// `cadastre-operator run` under its own account, with these flags. `name` is also its log's.
    pub async fn operator_program(&self, settings: &std::path::Path, flags: &[&str]) -> Result<Program> {
        let kubeconfig = self.service_account_kubeconfig(NAMESPACE, OPERATOR).await?;
        let program = Program::ours("cadastre-operator")?.env("KUBECONFIG", kubeconfig).env("POD_NAMESPACE", NAMESPACE);
        let program = program.arg("run").arg("--config").arg(settings).args(["--listen", "127.0.0.1:0"]);
        Ok(program.args(flags))
    }

    /// An operator with the settings of the chart.
    pub async fn start_operator(&self, name: &str, flags: &[&str]) -> Result<Proc> {
        let settings = self.settings_file(name).await?;
        self.operator_program(&settings, flags).await?.start(self.folder(), name)
    }

    /// `cadastre-agent run` for this node under its own account, with the token of a pod on it. Its state and its socket lie in a folder of its own.
    pub async fn agent_program(&self, settings: &std::path::Path, node: &str) -> Result<Program> {
        let kubeconfig = self.service_account_kubeconfig_on(NAMESPACE, AGENT, node).await?;
        let program = Program::ours("cadastre-agent")?.env("KUBECONFIG", kubeconfig);
        let program = program.arg("run").arg("--config").arg(settings).args(["--node-name", node]);
        let of_node = |name: &str| self.folder().join(node).join(name);
        let program = program.arg("--state-dir").arg(of_node("state"));
        // Never the machine's own: other tests' pods live there.
        let program = program.arg("--cni-cache").arg(of_node("cni")).arg("--netns-dir").arg(of_node("netns"));
        Ok(program.arg("--socket").arg(self.agent_socket(node)).args(["--listen", "127.0.0.1:0"]))
    }

    /// Where the agent of this node listens.
    pub fn agent_socket(&self, node: &str) -> PathBuf {
        self.folder().join(node).join("cadastre.sock")
    }

    /// What a command says of this node's agent, such as `status`.
    pub async fn ask_agent(&self, node: &str, args: &[&str]) -> Result<Output> {
        Program::ours("cadastre-agent")?.args(args).arg("--socket").arg(self.agent_socket(node)).run().await
    }

    /// An agent with the settings of the chart. `name` is its log's.
    pub async fn start_agent(&self, node: &str, name: &str) -> Result<Proc> {
        let settings = self.settings_file(name).await?;
        self.agent_program(&settings, node).await?.start(self.folder(), name)
    }

    /// An agent on a machine of its own, which it sets up, of the chart's `DaemonSet`.
    pub async fn agent_program_on(&self, host: &Host, env: &[(&str, &str)]) -> Result<Program> {
        let settings = self.settings_file(host.name()).await?;
        let program = self.agent_program(&settings, host.name()).await?.netns(host.netns());
        let program = program.arg("--plugin").arg(paths::binary("cadastre")?);
        let program = program.args(["--daemon-set", &format!("{NAMESPACE}/{AGENT}")]);
        let program = program.env("CADASTRE__CNI__INSTALL", "true");
        let program = program.env("CADASTRE__CNI__CONFPATH", host.conf()).env("CADASTRE__CNI__BINPATH", host.bin());
        Ok(env.iter().fold(program, |program, (key, value)| program.env(key, value)))
    }

    /// Every `IPAMNode` by name.
    pub async fn ipam_nodes(&self) -> Result<BTreeMap<String, IPAMNode>> {
        let nodes = Api::<IPAMNode>::all(self.admin().await?).list(&ListParams::default()).await?;
        Ok(nodes.into_iter().map(|node| (node.name_any(), node)).collect())
    }

    /// The blocks of every node that has any.
    pub async fn blocks(&self) -> Result<BTreeMap<String, Vec<Cidr>>> {
        let nodes = self.ipam_nodes().await?.into_iter();
        let blocks =
            nodes.map(|(name, node)| (name, node.spec.ipam.allocated.iter().map(|block| block.cidr).collect()));
        Ok(blocks.filter(|(_, blocks): &(_, Vec<_>)| !blocks.is_empty()).collect())
    }

    /// Every page of the ledger.
    pub async fn ledger(&self) -> Result<Vec<IPAMLedger>> {
        Ok(Api::<IPAMLedger>::all(self.admin().await?).list(&ListParams::default()).await?.items)
    }

    /// `IPAMConfig/cluster`.
    pub async fn ipam_config(&self) -> Result<IPAMConfig> {
        Ok(Api::<IPAMConfig>::all(self.admin().await?).get(cadastre_api::CONFIG_NAME).await?)
    }

    /// Fails unless what is held is what is published, by the same grants, and the rest cools: blocks of nodes that went, and
    /// what two operators chose for one node. To be waited for: an operator may be about to make it so.
    pub async fn check_ledger(&self) -> Result<()> {
        let nodes = self.ipam_nodes().await?;
        let entries = self.ledger().await?.into_iter().flat_map(|page| page.spec.entries);
        let (held, others): (Vec<_>, Vec<_>) = entries.partition(|entry| entry.state == BlockState::Held);
        let held: BTreeSet<_> = held.into_iter().map(|entry| (entry.block, entry.node, entry.grant)).collect();
        let published = nodes.iter().flat_map(|(name, node)| {
            node.spec.ipam.allocated.iter().map(move |block| (block.cidr, name.clone(), block.grant))
        });
        let published: BTreeSet<_> = published.collect();
        if let Some(differs) = held.symmetric_difference(&published).next() {
            bail!("{differs:?} is not both held and published");
        }
        match others.iter().find(|entry| entry.state != BlockState::Cooling) {
            Some(entry) => bail!("{entry:?} is neither held nor cools"),
            None => Ok(()),
        }
    }

    /// Fails if two nodes have overlapping blocks, or the ledger lists a block twice or other than published.
    pub async fn check_disjoint(&self) -> Result<()> {
        let mut all: Vec<(Cidr, String)> = Vec::new();
        for (name, blocks) in self.blocks().await? {
            all.extend(blocks.into_iter().map(|block| (block, name.clone())));
        }
        all.sort();
        if let Some(pair) = all.windows(2).find(|pair| pair[0].0.overlaps(&pair[1].0)) {
            bail!("{} of {} overlaps {} of {}", pair[0].0, pair[0].1, pair[1].0, pair[1].1);
        }
        let mut entries: BTreeMap<Cidr, String> = BTreeMap::new();
        for entry in self.ledger().await?.into_iter().flat_map(|page| page.spec.entries) {
            if let Some(other) = entries.insert(entry.block, entry.node.clone()) {
                bail!("the ledger lists {} for {other} and {}", entry.block, entry.node);
            }
        }
        match all.iter().find(|(block, name)| !entries.is_empty() && entries.get(block) != Some(name)) {
            Some((block, name)) => bail!("{block} of {name} is not in the ledger: {:?}", entries.get(block)),
            None => Ok(()),
        }
    }
}
