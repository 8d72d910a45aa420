//! What tests on real nodes ask first: pods on both nodes, whether they reach each other, and whether audits find anything.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use super::Lab;
use crate::{NAMESPACE, Program, RELEASE, eventually, until};

/// What the Deployment of a test is called.
const NAME: &str = "try";
/// Pods of a test, on both nodes together.
const PODS: usize = 6;
const SOON: Duration = Duration::from_mins(1);

/// A pod of a test that is ready.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Running {
    pub name: String,
    pub node: String,
    pub addresses: Vec<IpAddr>,
}

impl Lab {
    /// Waits until all pods of the release are ready: two operators and two agents, as Helm is content with a `DaemonSet` of
    /// which one pod may be missing.
    pub async fn release_ready(&self) -> Result<()> {
        let ready = async || {
            let of_release = format!("app.kubernetes.io/instance={RELEASE},!cadastre.io/test");
            let of_release = ListParams::default().labels(&of_release);
            let pods = Api::<Pod>::namespaced(self.cp.admin().await?, NAMESPACE).list(&of_release).await?.items;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            ensure!((ready, pods.len()) == (4, 4), "{ready} of {} are ready", pods.len());
            Ok(())
        };
        eventually(SOON, "the release's pods", ready).await
    }

    /// A Deployment of pods that do nothing, evenly on both nodes, labelled `app` like its name.
    pub fn deployment(name: &str, replicas: usize) -> String {
        let spread = format!(
            "{{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: {name}}}}}}}"
        );
        format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints: [{spread}]
      containers: [{{name: main, image: {image}, imagePullPolicy: Never}}]
",
            image = Self::pause_image()
        )
    }

    /// Starts a Deployment with pods on both nodes, and waits until all run.
    pub async fn start_pods(&self) -> Result<Vec<Running>> {
        self.cp.apply(&Self::deployment(NAME, PODS)).await?.ok()?;
        self.pods().await
    }

    /// Waits until all pods of the test run, each with addresses of its node's blocks that no other has.
    pub async fn pods(&self) -> Result<Vec<Running>> {
        eventually(SOON, "the pods", async || self.pods_now().await).await
    }

    /// As [`Lab::pods`], without waiting; by name.
    pub async fn pods_now(&self) -> Result<Vec<Running>> {
        let of_test = ListParams::default().labels(&format!("app={NAME}"));
        let pods = Api::<Pod>::namespaced(self.cp.admin().await?, "default").list(&of_test).await?;
        let mut pods: Vec<Running> = pods.into_iter().filter(is_ready).map(Running::of).collect::<Result<_>>()?;
        pods.sort();
        ensure!(pods.len() == PODS, "{} of {PODS} are ready", pods.len());
        let blocks = self.cp.blocks().await?;
        for pod in &pods {
            let Running { name, node, addresses } = pod;
            let blocks = blocks.get(node).with_context(|| format!("{node} has no blocks"))?;
            ensure!(addresses.len() == 2, "{name} has {addresses:?}");
            for address in addresses {
                let within = blocks.iter().any(|block| block.contains_addr(*address));
                ensure!(within, "{address} of {name} is not in {blocks:?}");
            }
        }
        let all: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
        ensure!(all.len() == 2 * PODS, "an address is there twice: {all:?}");
        Ok(pods)
    }

    /// On each node, the node and a pod of it ping another pod there and one of the other node, at each address.
    pub async fn ping_neighbours(&self, pods: &[Running]) -> Result<()> {
        for node in &self.nodes {
            let (here, elsewhere): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| pod.node == node.name());
            let ([from, to, ..], [other, ..]) = (&here[..], &elsewhere[..]) else {
                bail!("{} has no two pods, or the others none", node.name());
            };
            for address in to.addresses.iter().chain(&other.addresses) {
                let address = address.to_string();
                let ping = ["exec", &from.name, "--", "busybox", "ping", "-c", "1", "-W", "2", &address];
                let reached = async || Ok(self.cp.kubectl(&ping).await?.success());
                until(&format!("a ping of {address} from {}", from.name), reached).await?;
                let ping = ["ping", "-n", "-c", "1", "-W", "2", &address];
                let reached = async || Ok(node.exec(&ping).await?.success());
                until(&format!("a ping of {address} from {}", node.name()), reached).await?;
            }
        }
        Ok(())
    }

    /// What ledger, nodes, namespaces and Pods say is the same.
    pub async fn audits_find_nothing(&self) -> Result<()> {
        let agents = ListParams::default().labels("app.kubernetes.io/name=cadastre-agent");
        for pod in Api::<Pod>::namespaced(self.cp.admin().await?, NAMESPACE).list(&agents).await? {
            let audit = ["exec", "-n", NAMESPACE, &pod.name_any(), "--", "cadastre-agent", "audit"];
            let clean = async || self.cp.kubectl(&audit).await?.ok();
            eventually(Duration::from_secs(30), "the audit of a node", clean).await?;
        }
        let settings = self.cp.settings_file("audit").await?;
        let audit = Program::ours("cadastre-operator")?.env("KUBECONFIG", self.cp.kubeconfig_admin()?);
        audit.args(["audit", "--config"]).arg(settings).run().await?.ok()?;
        Ok(())
    }
}

impl Running {
    fn of(pod: Pod) -> Result<Self> {
        let name = pod.name_any();
        let node = pod.spec.and_then(|spec| spec.node_name).context("on no node")?;
        let addresses = pod.status.and_then(|status| status.pod_ips).unwrap_or_default();
        let addresses = addresses.into_iter().map(|address| Ok(address.ip.parse()?)).collect::<Result<_>>()?;
        Ok(Self { name, node, addresses })
    }
}

/// By its condition.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
