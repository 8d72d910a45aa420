//! A cluster as Flannel makes one, for the page about leaving it: kube-controller-manager's podCIDRs, VXLAN between the nodes, its CNI
//! configuration by its DaemonSet. Its daemon and its plugin are not here: the devices are made as it makes them, and the plugin's place is
//! taken by a script that calls `bridge` and `host-local` just so.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cadastre_tests::{ControlPlane, Lab, Proc, eventually, node, repo, tool};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::session::Session;

pub const PAGES: [&str; 2] = ["docs/usage/migrating.md", "docs/usage/kubernetes.md"];
const FLAGS: [&str; 3] = ["--allocate-node-cidrs=true", "--cluster-cidr=10.244.0.0/16", "--node-cidr-mask-size=24"];
/// Pods before the migration, on both nodes together.
const PODS: usize = 4;

#[tokio::test]
async fn pods_of_flannel_live_through_all_that_the_page_does() -> Result<()> {
    if !Lab::for_tests()? {
        return Ok(());
    }
    let (lab, new) = tokio::try_join!(Lab::start_with(&FLAGS), ControlPlane::start())?;
    flannel(&lab).await?;
    lab.cp.apply(&Lab::deployment("web", PODS)).await?.ok()?;
    let before = eventually(Duration::from_mins(1), "the pods", async || running(&lab, PODS).await).await?;
    let session = Session::new(&lab)?;
    session.file(".kube/config", two_clusters(&lab.cp, &new)?)?;
    tokio::try_join!(session.follow(&PAGES), operator_of(&new))?;
    let after = running(&lab, PODS).await?;
    assert_eq!(after, before, "the same pods with the same addresses, and none was started again");
    Ok(())
}

/// Each node's subnet and its devices, then the DaemonSet, until the nodes are Ready.
async fn flannel(lab: &Lab) -> Result<()> {
    let subnets = [subnet(lab, 0).await?, subnet(lab, 1).await?];
    for (at, own) in subnets.iter().enumerate() {
        let other = &subnets[1 - at];
        let (node, mac) = (&lab.nodes[at], |at: usize| format!("02:00:00:00:00:0{at}"));
        let devices = format!(
            "mkdir -p /run/flannel
printf '%s\\n' FLANNEL_NETWORK=10.244.0.0/16 FLANNEL_SUBNET={own}.1/24 FLANNEL_MTU=1450 > /run/flannel/subnet.env
ip link add flannel.1 address {own_mac} mtu 1450 type vxlan id 1 dev eth0 dstport 8472 nolearning
ip address add {own}.0/32 dev flannel.1
ip link set flannel.1 up
ip route add {other}.0/24 via {other}.0 dev flannel.1 onlink
ip neighbour add {other}.0 lladdr {mac} dev flannel.1 nud permanent
bridge fdb append {mac} dev flannel.1 dst 10.66.0.{host}",
            own_mac = mac(at),
            mac = mac(1 - at),
            host = 11 + 1 - at,
        );
        node.exec(&["sh", "-euc", &devices]).await?.ok()?;
        let bin = node.path("/opt/cni/bin")?;
        fs::copy(tool("host-local")?, bin.join("host-local"))?;
        fs::copy(repo().join("tests/lab/flannel.sh"), bin.join("flannel"))?;
        fs::set_permissions(bin.join("flannel"), fs::Permissions::from_mode(0o755))?;
    }
    let manifest = fs::read_to_string(repo().join("tests/lab/flannel.yaml"))?;
    lab.cp.apply(&manifest.replace("PAUSE", &Lab::pause_image())).await?.ok()?;
    lab.nodes_ready().await
}

/// The podCIDR of a node, less its end: `10.244.1`.
async fn subnet(lab: &Lab, at: usize) -> Result<String> {
    let query = ["get", "node", lab.nodes[at].name(), "-o", "jsonpath={.spec.podCIDR}"];
    let cut = async || {
        anyhow::Ok(lab.cp.kubectl(&query).await?.ok()?.strip_suffix(".0/24").context("no podCIDR")?.to_owned())
    };
    eventually(Duration::from_secs(30), "a podCIDR", cut).await
}

/// The pods of the Deployment: address, and starts of the container, by UID.
async fn running(lab: &Lab, count: usize) -> Result<BTreeMap<String, (String, i32)>> {
    let pods = Api::<Pod>::namespaced(lab.cp.admin().await?, "default");
    let mut running = BTreeMap::new();
    for pod in pods.list(&ListParams::default().labels("app=web")).await? {
        let uid = pod.uid().context("no UID")?;
        let status = pod.status.context("no status")?;
        let container = status.container_statuses.iter().flatten().find(|container| container.ready);
        let (address, container) = status.pod_ip.zip(container).with_context(|| format!("{uid} is not ready"))?;
        running.insert(uid, (address, container.restart_count));
    }
    ensure!(running.len() == count, "{} of {count} pods", running.len());
    Ok(running)
}

/// A kubeconfig with the contexts `old`, which is the current one, and `new`.
fn two_clusters(old: &ControlPlane, new: &ControlPlane) -> Result<String> {
    let mut merged = json!({"apiVersion": "v1", "kind": "Config", "current-context": "old"});
    for list in ["clusters", "users", "contexts"] {
        let mut both = Vec::new();
        for (name, cp) in [("old", old), ("new", new)] {
            let config: Value = serde_json::from_slice(&fs::read(cp.kubeconfig_admin()?)?)?;
            let mut entry = config[list][0].clone();
            entry["name"] = name.into();
            if list == "contexts" {
                entry["context"] = json!({"cluster": name, "user": name});
            }
            both.push(entry);
        }
        merged[list] = both.into();
    }
    Ok(merged.to_string())
}

/// The operator of the new cluster, which has no kubelets, as soon as its chart is installed; and nodes that join.
async fn operator_of(new: &ControlPlane) -> Result<Proc> {
    let installed = async || new.settings_file("settings").await;
    eventually(Duration::from_mins(5), "the chart in the new cluster", installed).await?;
    let operator = new.start_operator("operator", &[]).await?;
    new.create_nodes([node("node-1").ready(false), node("node-2").ready(false)]).await?;
    Ok(operator)
}
