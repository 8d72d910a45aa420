//! Mode kubernetes: whoever fills `Node.spec.podCIDRs` may be wrong, and that is named and contained here: no range is
//! served twice, nor one that contains addresses of services or nodes.

use anyhow::{Context as _, Result};
use cadastre_core::Cidr;
use cadastre_tests::{ControlPlane, node, until};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

const BOTH: &str = "ipam: {mode: kubernetes}\nipv6: {enabled: true}\n";

async fn installed() -> Result<ControlPlane> {
    let cp = ControlPlane::builder().service_cidr("10.96.0.0/16,fd96::/112").start().await?;
    cp.install_chart(BOTH).await?.ok()?;
    Ok(cp)
}

/// Deletes a Node, and waits until its `IPAMNode` is gone: others may be served a moment before that.
async fn delete(cp: &ControlPlane, name: &str) -> Result<()> {
    Api::<Node>::all(cp.admin().await?).delete(name, &DeleteParams::default()).await?;
    until(&format!("the IPAMNode of {name} is gone"), async || Ok(!cp.ipam_nodes().await?.contains_key(name))).await
}

async fn served(cp: &ControlPlane, names: &[&str]) -> Result<()> {
    let all = async || {
        let blocks = cp.blocks().await?;
        Ok(names.iter().all(|name| blocks.contains_key(*name)))
    };
    until(&format!("{names:?} are served"), all).await?;
    cp.check_disjoint().await
}

async fn waits(cp: &ControlPlane, name: &str, reason: &str, parts: &[&str]) -> Result<()> {
    let said = async || cp.says(name, reason, parts).await;
    until(&format!("{name} says {reason} and {parts:?}"), said).await?;
    assert!(!cp.blocks().await?.contains_key(name), "{name} waits and is served all the same");
    cp.check_disjoint().await
}

/// A node that once waited says that it does not any more.
async fn recovered(cp: &ControlPlane, name: &str) -> Result<()> {
    served(cp, &[name]).await?;
    let cleared = async || Ok(cp.condition(name, "Assigned").await?.is_some_and(|c| c.status == "True"));
    until(&format!("the condition of {name} is cleared"), cleared).await
}

#[tokio::test]
async fn of_overlapping_nodes_one_is_served_and_the_others_name_it() -> Result<()> {
    let cp = installed().await?;
    // Before anybody looks, and one after the other: by age or, within a second, by name, the first is the senior one.
    let nodes = [
        node("same-a").ready(false).pod_cidrs(["10.1.0.0/24", "fd01::/64"]),
        node("same-b").ready(false).pod_cidrs(["10.1.1.0/24", "fd01::/64"]),
        node("chain-a").ready(false).pod_cidrs(["10.2.0.0/24"]),
        node("chain-b-wide").ready(false).pod_cidrs(["10.2.0.0/16"]),
        node("chain-c").ready(false).pod_cidrs(["10.2.9.0/24"]),
    ];
    for node in nodes {
        cp.create_nodes([node]).await?;
    }
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    let senior = ["same-a", "chain-a", "chain-c"];
    served(&cp, &senior).await?;
    waits(&cp, "same-b", "PodCIDROverlaps", &["fd01::/64", "node same-a", "delete one of the two Nodes"]).await?;
    waits(&cp, "chain-b-wide", "PodCIDROverlaps", &["10.2.0.0/16", "10.2.0.0/24", "node chain-a"]).await?;
    let before = cp.blocks().await?;

    operator.restart()?;
    cp.create_nodes([node("z-late").ready(false).pod_cidrs(["10.1.0.0/20"])]).await?;
    waits(&cp, "z-late", "PodCIDROverlaps", &["10.1.0.0/20", "node same-a"]).await?;
    assert_eq!(cp.blocks().await?, before, "who is served after a restart");

    delete(&cp, "chain-a").await?;
    waits(&cp, "chain-b-wide", "PodCIDROverlaps", &["10.2.9.0/24", "node chain-c"]).await?;
    delete(&cp, "chain-c").await?;
    recovered(&cp, "chain-b-wide").await?;
    delete(&cp, "same-a").await?;
    // Both waited for it, and overlap each other too: the older one is served.
    recovered(&cp, "same-b").await?;
    waits(&cp, "z-late", "PodCIDROverlaps", &["10.1.1.0/24", "node same-b"]).await
}

#[tokio::test]
async fn pod_cidrs_with_addresses_of_services_or_nodes_are_not_served() -> Result<()> {
    let cp = installed().await?;
    let _operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    let first = [node("early").ready(false).pod_cidrs(["10.3.0.0/24"]), node("bare").ready(false)];
    cp.create_nodes(first).await?;
    served(&cp, &["early"]).await?;
    waits(&cp, "bare", "WaitingForPodCIDR", &["--allocate-node-cidrs"]).await?;

    let more =
        "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [10.5.0.0/24]}\n";
    cp.apply(more).await?.ok()?;
    let node_with = |name, cidrs: [&'static str; 2]| node(name).ready(false).pod_cidrs(cidrs);
    // An address of a node lies in what another was given before, and in what a third wants.
    cp.create_nodes([node_with("router", ["10.6.0.0/24", "fd06::/64"]).addresses(["10.3.0.7", "10.4.0.7"])]).await?;
    served(&cp, &["early", "router"]).await?;
    cp.create_nodes([
        node_with("beside-router", ["10.4.0.0/24", "fd04::/64"]),
        // Families are all or nothing: the other one of each would be fine.
        node_with("services", ["10.96.4.0/24", "fd07::/64"]),
        node_with("services6", ["10.8.0.0/24", "fd96::/112"]),
        node_with("more-services", ["10.5.0.0/16", "fd05::/64"]),
    ])
    .await?;
    let remedy = "--cluster-cidr";
    waits(&cp, "services", "PodCIDRFenced", &["10.96.4.0/24 overlaps the service CIDR 10.96.0.0/16", remedy]).await?;
    waits(&cp, "services6", "PodCIDRFenced", &["fd96::/112", remedy]).await?;
    waits(&cp, "more-services", "PodCIDRFenced", &["10.5.0.0/16 overlaps the service CIDR 10.5.0.0/24"]).await?;
    waits(&cp, "beside-router", "PodCIDRFenced", &["the address of node router, 10.4.0.7/32", remedy]).await?;
    // What is served stays, and is named.
    until("early is named", async || cp.says("early", "PodCIDRFenced", &["10.3.0.7/32"]).await).await?;
    assert_eq!(cp.blocks().await?["early"], ["10.3.0.0/24".parse::<Cidr>()?]);

    let nodes = Api::<Node>::all(cp.admin().await?);
    let moved = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.7"}]}});
    nodes.patch_status("router", &PatchParams::default(), &Patch::Merge(moved)).await?;
    recovered(&cp, "beside-router").await?;
    recovered(&cp, "early").await?;
    cp.kubectl(&["delete", "servicecidr", "more", "--wait=false"]).await?.ok()?;
    recovered(&cp, "more-services").await?;
    let late = json!({"spec": {"podCIDR": "10.9.0.0/24", "podCIDRs": ["10.9.0.0/24"]}});
    nodes.patch("bare", &PatchParams::default(), &Patch::Merge(late)).await?;
    recovered(&cp, "bare").await
}

/// kube-controller-manager accepts two Nodes with one podCIDR without a word, frees it when the first is gone, and gives it
/// to a third while the second still uses it.
#[tokio::test]
async fn what_kube_controller_manager_gives_twice_is_served_once() -> Result<()> {
    let flags = ["--controllers=node-ipam-controller", "--allocate-node-cidrs", "--cluster-cidr=10.244.0.0/24"];
    let flags = [&flags[..], &["--node-cidr-mask-size=26"]].concat();
    let cp = ControlPlane::builder().controller_manager(&flags).start().await?;
    cp.install_chart("ipam: {mode: kubernetes}\n").await?.ok()?;
    let _operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    let twin = |name| node(name).ready(false).pod_cidrs(["10.244.0.0/26"]);
    cp.create_nodes([twin("twin-a")]).await?;
    served(&cp, &["twin-a"]).await?;
    cp.create_nodes([twin("twin-b")]).await?;
    waits(&cp, "twin-b", "PodCIDROverlaps", &["10.244.0.0/26", "node twin-a"]).await?;

    delete(&cp, "twin-a").await?;
    recovered(&cp, "twin-b").await?;
    // The other three quarters, and then the one that twin-b has.
    let nodes = Api::<Node>::all(cp.admin().await?);
    cp.create_nodes(["n1", "n2", "n3", "n4"].map(|name| node(name).ready(false))).await?;
    let all = async || {
        let list = nodes.list(&kube::api::ListParams::default()).await?;
        Ok(list.iter().all(|node| node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.is_some())))
    };
    until("kube-controller-manager gave every node a podCIDR", all).await?;
    let list = nodes.list(&kube::api::ListParams::default()).await?;
    let same = |node: &&Node| node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.as_deref() == Some("10.244.0.0/26"));
    let holders: Vec<_> = list.iter().filter(same).map(ResourceExt::name_any).collect();
    let third = holders.iter().find(|name| *name != "twin-b").context("its defect B is gone: this test can go")?;
    assert_eq!(holders.len(), 2, "{holders:?}");
    waits(&cp, third, "PodCIDROverlaps", &["10.244.0.0/26", "node twin-b"]).await?;
    let others: Vec<_> = ["n1", "n2", "n3", "n4"].into_iter().filter(|name| name != third).collect();
    served(&cp, &others).await?;
    assert!(cp.blocks().await?.contains_key("twin-b"));
    delete(&cp, "twin-b").await?;
    recovered(&cp, third).await
}
