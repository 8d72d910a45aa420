//! Nodes that come, go and come back: what they hold is theirs as long as their pods may run, and nobody else's.

use std::collections::BTreeMap;

use anyhow::Result;
use cadastre_api::{BlockEntry, BlockState, IPAMLedger};
use cadastre_core::Cidr;
use cadastre_tests::{ControlPlane, DUAL_STACK, NodeBuilder, node, until};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

const NO_ELECTION: &[&str] = &["--leader-elect=false"];

async fn installed(values: &str) -> Result<ControlPlane> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(values).await?.ok()?;
    Ok(cp)
}

fn machine(name: &str, id: &str) -> NodeBuilder {
    node(name).ready(false).machine(id)
}

fn uuid(number: usize) -> String {
    format!("ec2d1c2a-0000-1111-2222-{number:012}")
}

async fn nodes(cp: &ControlPlane) -> Result<Api<Node>> {
    Ok(Api::all(cp.admin().await?))
}

async fn delete(cp: &ControlPlane, names: &[&str]) -> Result<()> {
    for name in names {
        nodes(cp).await?.delete(name, &DeleteParams::default()).await?;
    }
    Ok(())
}

/// Waits until these Nodes, as they are registered now, have blocks; then says what everybody has.
async fn served(cp: &ControlPlane, names: &[&str]) -> Result<BTreeMap<String, Vec<Cidr>>> {
    let all = async || {
        let registered = nodes(cp).await?.list(&ListParams::default()).await?;
        let uids: BTreeMap<_, _> = registered.iter().map(|node| (node.name_any(), node.uid())).collect();
        let ipam_nodes = cp.ipam_nodes().await?;
        let is_served = |name: &&str| {
            let spec = ipam_nodes.get(*name).map(|node| &node.spec);
            spec.is_some_and(|s| !s.ipam.allocated.is_empty() && uids[*name].as_ref() == Some(&s.node_uid))
        };
        Ok(names.iter().all(is_served))
    };
    until(&format!("{names:?} are served"), all).await?;
    cp.check_disjoint().await?;
    cp.blocks().await
}

/// What the ledger says of each block.
async fn ledger(cp: &ControlPlane) -> Result<BTreeMap<Cidr, BlockEntry>> {
    let pages = Api::<IPAMLedger>::all(cp.admin().await?).list(&ListParams::default()).await?;
    Ok(pages.into_iter().flat_map(|page| page.spec.entries).map(|entry| (entry.block, entry)).collect())
}

/// Waits until all of these blocks cool, for nodes of this UID.
async fn cool(cp: &ControlPlane, blocks: &[Cidr], uid: &str) -> Result<()> {
    let all = async || {
        let entries = ledger(cp).await?;
        let cools =
            |block| entries.get(block).is_some_and(|e: &BlockEntry| e.state == BlockState::Cooling && e.uid == uid);
        Ok(blocks.iter().all(cools))
    };
    until(&format!("{blocks:?} cool"), all).await
}

async fn uid(cp: &ControlPlane, name: &str) -> Result<String> {
    Ok(nodes(cp).await?.get(name).await?.uid().unwrap_or_default())
}

#[tokio::test]
async fn the_same_machine_gets_its_own_blocks_back_and_another_gets_others() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    let operator = cp.start_operator("operator", NO_ELECTION).await?;
    let zeros = "00000000-0000-0000-0000-000000000000";
    let names = ["same", "other", "zeros", "unnamed", "while-down", "stays"];
    let first = |name: &'static str, number: usize| match name {
        "zeros" => machine(name, zeros),
        "unnamed" => machine(name, "Not Specified"),
        _ => machine(name, &uuid(number)),
    };
    cp.create_nodes(names.iter().enumerate().map(|(number, name)| first(name, number))).await?;
    let before = served(&cp, &names).await?;
    let mut uids = BTreeMap::new();
    for name in names {
        uids.insert(name, uid(&cp, name).await?);
    }
    let grants = ledger(&cp).await?;

    // Deleted while nobody looks: two of them are there again when somebody does, as the same and as another machine.
    let deleted_at = Timestamp::now();
    operator.kill9();
    delete(&cp, &["while-down", "same", "other"]).await?;
    cp.create_nodes([machine("same", &uuid(0).to_uppercase()), machine("other", &uuid(77))]).await?;
    operator.restart()?;
    cool(&cp, &before["while-down"], &uids["while-down"]).await?;
    cool(&cp, &before["other"], &uids["other"]).await?;
    let after = served(&cp, &["same", "other", "stays"]).await?;
    assert_eq!(after["same"], before["same"], "the same machine has its blocks again");
    assert_eq!(after["stays"], before["stays"]);
    assert!(after["other"].iter().all(|block| !before["other"].contains(block)), "another machine has others");
    let entries = ledger(&cp).await?;
    for block in &before["same"] {
        assert_ne!(entries[block].grant, grants[block].grant, "by a new grant");
        assert_eq!((entries[block].state, &entries[block].uid), (BlockState::Held, &uid(&cp, "same").await?));
    }
    // Cooling is kept in the ledger, with its time (in whole seconds at the least).
    for block in &before["while-down"] {
        let since = entries[block].since.0;
        assert!(since.as_second() >= deleted_at.as_second() && since <= Timestamp::now(), "cools since {since}");
    }

    // While the operator looks on: the same machine again; and two whose makers left the field empty, which tells nothing.
    delete(&cp, &["same", "zeros", "unnamed"]).await?;
    let again = [machine("same", &uuid(0)), machine("zeros", zeros), machine("unnamed", "Not Specified")];
    cp.create_nodes(again).await?;
    cool(&cp, &before["zeros"], &uids["zeros"]).await?;
    cool(&cp, &before["unnamed"], &uids["unnamed"]).await?;
    let after = served(&cp, &["same", "zeros", "unnamed"]).await?;
    assert_eq!(after["same"], before["same"]);
    for name in ["zeros", "unnamed"] {
        assert!(after[name].iter().all(|block| !before[name].contains(block)), "{name} may be another machine");
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_not_ready_loses_nothing() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    let operator = cp.start_operator("operator", NO_ELECTION).await?;
    cp.create_nodes([machine("a", &uuid(1)), machine("b", &uuid(2))]).await?;
    let before = served(&cp, &["a", "b"]).await?;
    let entries = ledger(&cp).await?;
    let ready = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    for status in ["True", "False", "Unknown"] {
        let patch = Patch::Strategic(ready(status));
        nodes(&cp).await?.patch_status("a", &PatchParams::default(), &patch).await?;
        // A node that comes later is served after that was seen.
        let marker = format!("marker-{}", status.to_lowercase());
        cp.create_nodes([machine(&marker, "")]).await?;
        let blocks = served(&cp, &["a", "b", &marker]).await?;
        assert_eq!(blocks["a"], before["a"], "Ready is {status}");
    }
    let taint = json!({"spec": {"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}});
    nodes(&cp).await?.patch("a", &PatchParams::default(), &Patch::Merge(taint)).await?;
    operator.restart()?;
    cp.create_nodes([machine("last", "")]).await?;
    let blocks = served(&cp, &["last"]).await?;
    assert_eq!(blocks["a"], before["a"], "after a restart");
    let now = ledger(&cp).await?;
    assert!(entries.iter().all(|(block, entry)| now.get(block) == Some(entry)), "not even an entry was touched");
    Ok(())
}

#[tokio::test]
async fn nodes_that_are_to_be_left_alone_get_nothing_and_lose_nothing() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    let operator = cp.start_operator("all", NO_ELECTION).await?;
    let labelled = |name, key, value| node(name).ready(false).label(key, value);
    cp.create_nodes([
        labelled("virtual", "type", "virtual-kubelet"),
        labelled("windows", "kubernetes.io/os", "windows"),
        labelled("kwok", "type", "kwok"),
        labelled("linux", "kubernetes.io/os", "linux"),
    ])
    .await?;
    let before = served(&cp, &["kwok", "linux"]).await?;
    let alone = |blocks: &BTreeMap<String, Vec<Cidr>>| blocks.keys().cloned().collect::<Vec<_>>();
    assert_eq!(alone(&before), ["kwok", "linux"]);
    assert_eq!(cp.ipam_nodes().await?.len(), 2, "no IPAMNode for nodes that are left alone");

    // From now on only some nodes are ours.
    drop(operator);
    let selecting = DUAL_STACK.replace("operator: {", "operator: {nodeSelector: {example.com/pods: \"ours\"}, ");
    cp.upgrade_chart(&selecting, &[]).await?.ok()?;
    let _operator = cp.start_operator("selecting", NO_ELECTION).await?;
    cp.create_nodes([node("left-out").ready(false), labelled("ours", "example.com/pods", "ours")]).await?;
    let after = served(&cp, &["ours"]).await?;
    assert_eq!(alone(&after), ["kwok", "linux", "ours"]);
    assert_eq!(
        (&after["kwok"], &after["linux"]),
        (&before["kwok"], &before["linux"]),
        "what was served keeps what it has"
    );
    assert!(!cp.ipam_nodes().await?.contains_key("left-out"));
    // That is looked after as ever.
    cp.kubectl(&["delete", "ipamnode", "linux"]).await?.ok()?;
    assert_eq!(served(&cp, &["linux"]).await?["linux"], before["linux"]);
    cp.kubectl(&["label", "node", "left-out", "example.com/pods=ours"]).await?.ok()?;
    served(&cp, &["left-out"]).await?;
    // One that loses its label keeps its blocks until it goes.
    cp.kubectl(&["label", "node", "ours", "example.com/pods-"]).await?.ok()?;
    cp.create_nodes([labelled("later", "example.com/pods", "ours")]).await?;
    assert_eq!(served(&cp, &["later"]).await?["ours"], after["ours"]);
    let gone = uid(&cp, "ours").await?;
    delete(&cp, &["ours"]).await?;
    cool(&cp, &after["ours"], &gone).await
}

/// Of eight IPv4 and two IPv6 blocks; kube-controller-manager would have used up the other six by trying.
#[tokio::test]
async fn a_family_that_is_exhausted_costs_no_block_of_the_other() -> Result<()> {
    let values = |v6: &str| {
        let pools = format!(
            "clusterPoolIPv4PodCIDRList: [10.1.0.0/21], clusterPoolIPv4MaskSize: 24, clusterPoolIPv6PodCIDRList: [{v6}], clusterPoolIPv6MaskSize: 120"
        );
        format!("ipam: {{mode: cluster-pool, operator: {{{pools}}}}}\nipv6: {{enabled: true}}\n")
    };
    let cp = installed(&values("\"fd00::/119\"")).await?;
    let operator = cp.start_operator("small", NO_ELECTION).await?;
    cp.create_nodes((0..2).map(|number| machine(&format!("n{number}"), ""))).await?;
    let before = served(&cp, &["n0", "n1"]).await?;
    cp.create_nodes((2..5).map(|number| machine(&format!("n{number}"), ""))).await?;
    let wait = async || {
        let mut said = true;
        for name in ["n2", "n3", "n4"] {
            said &= cp.says(name, "PoolExhausted", &["IPv6", "clusterPoolIPv6PodCIDRList"]).await?;
        }
        Ok(said)
    };
    until("three nodes wait for IPv6", wait).await?;

    // Every one of these makes the operator look at the waiting nodes again, and the restarts make it begin anew.
    for round in 0..30 {
        let name = format!("n{}", 2 + round % 3);
        let touch = json!({"metadata": {"labels": {"round": round.to_string()}}});
        nodes(&cp).await?.patch(&name, &PatchParams::default(), &Patch::Merge(touch)).await?;
        if round % 10 == 9 {
            operator.restart()?;
            cp.kubectl(&["delete", "ipamnode", &name, "--ignore-not-found"]).await?.ok()?;
            until("it says so again", wait).await?;
        }
    }
    assert_eq!(cp.blocks().await?, before, "a node without IPv6 has no IPv4 either");
    let v4 = ledger(&cp).await?.into_keys().filter(|block| block.to_string().starts_with("10.")).count();
    assert_eq!(v4, 2, "IPv4 blocks that are not free");
    let free = async || {
        let counts =
            cp.kubectl(&["get", "ippool", "default", "-o", "jsonpath={.status.ipv4.free} {.status.ipv6.free}"]);
        Ok(counts.await?.ok()?.trim() == "6 0")
    };
    until("the pool says 6 free IPv4 blocks and no IPv6", free).await?;

    drop(operator);
    cp.upgrade_chart(&values("\"fd00::/119\", \"fd00::1000/118\""), &[]).await?.ok()?;
    let _operator = cp.start_operator("grown", NO_ELECTION).await?;
    let after = served(&cp, &["n0", "n1", "n2", "n3", "n4"]).await?;
    assert!(after.values().all(|blocks| blocks.len() == 2));
    let cleared = async || Ok(cp.condition("n4", "Assigned").await?.is_some_and(|c| c.status == "True"));
    until("the condition is cleared", cleared).await
}

/// Keys of the taints, and whether the network is said to be there.
async fn openness(cp: &ControlPlane, name: &str) -> Result<(Vec<String>, Option<String>)> {
    let node = nodes(cp).await?.get(name).await?;
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    let network = conditions.into_iter().find(|condition| condition.type_ == "NetworkUnavailable");
    // The API server adds one to a new node.
    let keys = taints.into_iter().map(|taint| taint.key).filter(|key| !key.starts_with("node.kubernetes.io/"));
    Ok((keys.collect(), network.map(|condition| condition.status)))
}

#[tokio::test]
async fn a_node_is_opened_to_pods_once_its_agent_serves() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    let ours = cadastre_api::NOT_READY_TAINT;
    let tainted = |name: &str| {
        node(name).ready(false).taint(ours, "NoExecute").taint("theirs", "NoSchedule").taint(ours, "NoSchedule")
    };
    cp.create_nodes([tainted("n1"), tainted("n2")]).await?;
    let _operator = cp.start_operator("operator", NO_ELECTION).await?;
    served(&cp, &["n1", "n2"]).await?;
    let _agent = cp.start_agent("n1", "n1").await?;
    let open = (vec!["theirs".to_owned()], Some("False".to_owned()));
    until("n1 is open", async || Ok(openness(&cp, "n1").await? == open)).await?;
    assert_eq!(openness(&cp, "n2").await?, (vec![ours.to_owned(), "theirs".to_owned(), ours.to_owned()], None));
    Ok(())
}

#[tokio::test]
async fn who_opens_nodes_himself_can_have_it_so() -> Result<()> {
    let off = format!("{DUAL_STACK}operator: {{removeNodeTaints: false, setNodeNetworkStatus: false}}\n");
    let cp = installed(&off).await?;
    cp.create_nodes([node("n1").ready(false).taint(cadastre_api::NOT_READY_TAINT, "NoSchedule")]).await?;
    let _operator = cp.start_operator("operator", NO_ELECTION).await?;
    served(&cp, &["n1"]).await?;
    let _agent = cp.start_agent("n1", "n1").await?;
    let says =
        async || Ok(cp.ipam_nodes().await?["n1"].status.as_ref().is_some_and(|status| !status.conditions.is_empty()));
    until("its agent serves", says).await?;
    // What the operator does of its own accord, it does with the next Node at the latest.
    cp.create_nodes([node("n2").ready(false)]).await?;
    served(&cp, &["n2"]).await?;
    assert_eq!(openness(&cp, "n1").await?, (vec![cadastre_api::NOT_READY_TAINT.to_owned()], None));
    Ok(())
}
