//! The operator on a real API server, installed by the chart and run under its own ServiceAccount.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cadastre_core::Family;
use cadastre_tests::{ControlPlane, DUAL_STACK, NodeBuilder, OPERATOR, Proc, eventually, node, until};
use k8s_openapi::api::core::v1::Node;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);

async fn installed(values: &str) -> Result<ControlPlane> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(values).await?.ok()?;
    Ok(cp)
}

fn nodes(from: usize, count: usize) -> impl Iterator<Item = NodeBuilder> {
    // Not Ready, as nodes without a pod network are: a first start among Ready ones waits for their agents.
    (from..from + count).map(|number| node(&format!("n{number}")).ready(false))
}

/// Waits until exactly these many nodes have blocks of `families` each.
async fn served(cp: &ControlPlane, count: usize, families: usize) -> Result<()> {
    let complete = async || -> Result<bool> {
        let blocks = cp.blocks().await?;
        Ok(blocks.len() == count && blocks.values().all(|blocks| blocks.len() == families))
    };
    until(&format!("{count} nodes with {families} blocks each"), complete).await?;
    cp.check_disjoint().await
}

async fn delete(cp: &ControlPlane, names: impl Iterator<Item = usize>) -> Result<()> {
    let api = Api::<Node>::all(cp.admin().await?);
    for number in names {
        api.delete(&format!("n{number}"), &DeleteParams::default()).await?;
    }
    Ok(())
}

fn is_write_of(cp_user: &'static str, resource: &'static str) -> impl Fn(&cadastre_tests::AuditEvent) -> bool {
    move |event| event.resource == resource && event.is_write() && event.user.ends_with(cp_user)
}

#[tokio::test]
async fn mode_kubernetes_mirrors_pod_cidrs_of_both_families() -> Result<()> {
    let values = "ipam: {mode: \"kubernetes\"}\nk8s: {requireIPv4PodCIDR: true, requireIPv6PodCIDR: true}\n";
    let cp = installed(values).await?;
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    cp.create_nodes([node("a").pod_cidrs(["10.1.0.0/24", "fd01::/64"]), node("b").pod_cidrs(["10.1.1.0/24"])]).await?;
    let waits = async || -> Result<bool> {
        let nodes = cp.ipam_nodes().await?;
        let condition = nodes.get("b").and_then(|node| node.status.as_ref()?.conditions.first().cloned());
        Ok(nodes.contains_key("a")
            && condition.is_some_and(|c| c.reason == "WaitingForPodCIDR" && c.message.contains("IPv6")))
    };
    until("node b says that it waits for an IPv6 podCIDR", waits).await?;
    let blocks = cp.blocks().await?;
    assert_eq!(blocks.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(blocks["a"], ["10.1.0.0/24".parse()?, "fd01::/64".parse()?]);
    let counted = async || {
        let scraped = operator.http("/metrics").await?;
        let lines = [
            r#"blocks{pool="default",family="IPv6",state="mirrored"} 1"#,
            r#"waiting_nodes{reason="WaitingForPodCIDR"} 1"#,
        ];
        Ok(lines.iter().all(|line| scraped.contains(&format!("cadastre_operator_{line}\n"))))
    };
    until("metrics count the mirrored block and the waiting node", counted).await
}

#[tokio::test]
async fn a_requirement_added_later_takes_nothing_from_a_served_node() -> Result<()> {
    let cp = installed("ipam: {mode: kubernetes}\n").await?;
    let operator = cp.start_operator("before", &["--leader-elect=false"]).await?;
    cp.create_nodes([node("a").pod_cidrs(["10.1.0.0/24"])]).await?;
    served(&cp, 1, 1).await?;
    drop(operator);
    cp.install_chart("ipam: {mode: kubernetes}\nk8s: {requireIPv6PodCIDR: true}\n").await?.ok()?;
    let _operator = cp.start_operator("after", &["--leader-elect=false"]).await?;
    let said = async || {
        let condition =
            cp.ipam_nodes().await?["a"].status.as_ref().and_then(|status| status.conditions.first().cloned());
        Ok(condition.is_some_and(|condition| condition.reason == "WaitingForPodCIDR"))
    };
    until("the node says what it lacks", said).await?;
    assert_eq!(cp.blocks().await?["a"], ["10.1.0.0/24".parse()?]);
    Ok(())
}

#[tokio::test]
async fn the_older_spelling_of_cluster_pool_works() -> Result<()> {
    let cp =
        installed("ipam: {mode: \"cluster-pool\", clusterPoolIPv4: \"10.200.0.0/16\", clusterPoolIPv4MaskSize: 24}\n")
            .await?;
    let operator = cp.start_operator("operator", &[]).await?;
    cp.create_nodes(nodes(0, 3)).await?;
    served(&cp, 3, 1).await?;
    let blocks: BTreeSet<_> = cp.blocks().await?.into_values().flatten().map(|block| block.to_string()).collect();
    assert_eq!(blocks.into_iter().collect::<Vec<_>>(), ["10.200.0.0/24", "10.200.1.0/24", "10.200.2.0/24"]);
    assert!(operator.log().contains("clusterPoolIPv4"), "the older spelling is warned of");
    Ok(())
}

#[tokio::test]
async fn three_hundred_nodes_get_disjoint_blocks_with_one_write_each() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    eventually(SOON, "the config is recorded", async || cp.ipam_config().await.is_ok()).await?;
    cp.create_nodes(nodes(0, 300)).await?;
    served(&cp, 300, 2).await?;
    for blocks in cp.blocks().await?.values() {
        assert_eq!(blocks.iter().map(cadastre_core::Cidr::family).collect::<Vec<_>>(), Family::ALL);
        let service: cadastre_core::Cidr = "10.96.0.0/16".parse()?;
        assert!(!blocks[0].overlaps(&service), "{} is a service's", blocks[0]);
    }
    let writes = cp.count(is_write_of(OPERATOR, "ipamnodes")).await?;
    assert_eq!(writes, 300, "one write of the IPAMNode for each node\n{}", operator.tail());
    let pool = async || -> Result<bool> {
        let columns = cp
            .kubectl(&["get", "ippools", "default", "-o", "jsonpath={.status.ipv4.held} {.status.ipv6.held}"])
            .await?;
        Ok(columns.ok()?.trim() == "300 300")
    };
    until("the pool counts its blocks", pool).await
}

#[tokio::test]
async fn an_operator_killed_ten_times_on_the_way_serves_everybody_once() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    cp.create_nodes(nodes(0, 100)).await?;
    let settings = cp.settings_file("killed").await?;
    let mut given = cp.blocks().await?;
    for round in 0..10 {
        let program = cp.operator_program(&settings, &["--leader-elect=false"]).await?;
        let operator: Proc = program.start(cp.folder(), &format!("round-{round}"))?;
        cp.create_nodes(nodes(100 + round * 20, 20)).await?;
        let more = async || Ok(cp.blocks().await?.len() > given.len());
        until("some more nodes are served", more).await?;
        operator.kill9();
        let now = cp.blocks().await?;
        assert!(given.iter().all(|(name, blocks)| now.get(name) == Some(blocks)), "round {round}: a block changed");
        given = now;
        cp.check_disjoint().await?;
    }
    let _operator = cp.start_operator("last", &["--leader-elect=false"]).await?;
    served(&cp, 300, 2).await
}

#[tokio::test]
async fn a_stopped_operator_wakes_up_into_another_world() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    let sleeper = cp.start_operator("sleeper", &["--leader-elect=false"]).await?;
    cp.create_nodes(nodes(0, 100)).await?;
    until("the first nodes are served", async || Ok(cp.blocks().await?.len() > 20)).await?;
    sleeper.stop();
    let _other = cp.start_operator("other", &["--leader-elect=false"]).await?;
    delete(&cp, 0..30).await?;
    cp.create_nodes(nodes(100, 230)).await?;
    served(&cp, 300, 2).await?;
    let before = cp.blocks().await?;
    // What is tested is a pause longer than every timeout and lease of the operator.
    tokio::time::sleep(Duration::from_secs(20)).await;
    sleeper.cont();
    cp.create_nodes(nodes(330, 20)).await?;
    served(&cp, 320, 2).await?;
    let after = cp.blocks().await?;
    assert!(before.iter().all(|(name, blocks)| after.get(name) == Some(blocks)), "no block changed once given");
    Ok(())
}

#[tokio::test]
async fn what_somebody_deletes_or_edits_comes_back_as_it_was() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    let _operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    cp.create_nodes(nodes(0, 5)).await?;
    served(&cp, 5, 2).await?;
    let before = cp.blocks().await?;
    cp.kubectl(&["delete", "ipamnode", "n0"]).await?.ok()?;
    let pool = async || Ok(cp.kubectl(&["get", "ippool", "default"]).await?.success());
    until("the pool is there", pool).await?;
    cp.remove_protection().await?;
    cp.kubectl(&["delete", "ippool", "default"]).await?.ok()?;
    let stolen = json!({"spec": {"ipam": {"allocated": [], "podCIDRs": []}}}).to_string();
    cp.kubectl(&["patch", "ipamnode", "n1", "--type=merge", "-p", &stolen]).await?.ok()?;
    until("both nodes have their blocks again", async || Ok(cp.blocks().await? == before)).await?;
    until("the pool is back", pool).await?;

    cp.kubectl(&["delete", "ipamledgers", "--all"]).await?.ok()?;
    // The next commit to a page finds it gone and records it again.
    cp.create_nodes(nodes(5, 5)).await?;
    served(&cp, 10, 2).await?;
    let after = cp.blocks().await?;
    assert!(before.iter().all(|(name, blocks)| after.get(name) == Some(blocks)), "no block changed once given");
    Ok(())
}

#[tokio::test]
async fn an_ipam_node_that_finalizers_hold_is_named_and_waited_for() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    cp.create_nodes(nodes(0, 1)).await?;
    served(&cp, 1, 2).await?;
    let finalizers = async |list: Value| {
        let patch = json!({"metadata": {"finalizers": list}}).to_string();
        cp.kubectl(&["patch", "ipamnode", "n0", "--type=merge", "-p", &patch]).await?.ok()
    };
    finalizers(json!(["example.com/hangs"])).await?;
    delete(&cp, 0..1).await?;
    let leaves = async || Ok(cp.ipam_nodes().await?.values().all(|node| node.metadata.deletion_timestamp.is_some()));
    until("the old IPAMNode is told to go", leaves).await?;
    // While it has no Node it is not deleted again and again: only time can show that.
    let begin = Instant::now();
    until("a while has passed", async || Ok(begin.elapsed() > Duration::from_secs(2))).await?;
    cp.create_nodes(nodes(0, 1)).await?;
    let said = async || {
        let notes = cp.events_on("n0", "DeletionHeld").await?;
        let waits = operator.http("/metrics").await?.contains("waiting_nodes{reason=\"DeletionHeld\"} 1\n");
        Ok(waits && notes.iter().any(|note| note.contains("example.com/hangs")))
    };
    until("an Event names the finalizer, and a metric counts the node", said).await?;
    let writes = cp.count(|event| event.user.ends_with(OPERATOR) && event.resource == "ipamnodes" && event.is_write());
    let writes = writes.await?;
    assert!(writes <= 8, "{writes} writes of one IPAMNode");
    finalizers(Value::Null).await?;
    served(&cp, 1, 2).await
}

#[tokio::test]
async fn an_entry_that_nobody_can_read_keeps_no_node_waiting() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    cp.create_nodes(nodes(0, 3)).await?;
    served(&cp, 3, 2).await?;
    let before = cp.blocks().await?;
    let pages = cp.ledger().await?;
    let page = pages.iter().find(|page| page.spec.family == Family::V4).context("no page of IPv4")?;
    let (name, good) = (page.name_any(), serde_json::to_value(&page.spec.entries)?);
    let write = async |entries: &Value| {
        let edit = json!({"spec": {"entries": entries}}).to_string();
        cp.kubectl(&["patch", "ipamledger", &name, "--type=merge", "-p", &edit]).await?.ok()
    };
    let mut spoiled = good.clone();
    let line = "10.0.9.1/24 held n9 since=2026-01-01T00:00:00Z uid=u grant=00000000-0000-4000-8000-000000000000";
    spoiled.as_array_mut().context("a list")?.push(line.into());
    write(&spoiled).await?;

    cp.create_nodes(nodes(3, 3)).await?;
    // Without a look at the ledger, which the test cannot read either.
    let all = async || Ok(cp.blocks().await?.len() == 6);
    until("all six nodes have blocks", all).await.with_context(|| operator.tail())?;
    let said = async || Ok(cp.events_on("default", "LedgerUnreadable").await?.iter().any(|note| note.contains(&name)));
    until("an Event names the page", said).await?;
    let ready = async || Ok(operator.http("/readyz").await?.starts_with("HTTP/1.1 200"));
    until("the operator is ready", ready).await?;

    operator.kill9();
    operator.restart()?;
    operator.wait_log(SOON, "cannot be read: undo what was edited by hand").await?;
    cp.create_nodes(nodes(6, 1)).await?;
    write(&good).await?;
    served(&cp, 7, 2).await.with_context(|| operator.tail())?;
    let after = cp.blocks().await?;
    assert!(before.iter().all(|(name, blocks)| after.get(name) == Some(blocks)), "no block changed once given");
    Ok(())
}

#[tokio::test]
async fn an_exhausted_pool_says_so_and_serves_when_a_cidr_is_appended() -> Result<()> {
    let values = |cidrs: &str| {
        format!(
            "ipam: {{mode: cluster-pool, operator: {{clusterPoolIPv4PodCIDRList: [{cidrs}], clusterPoolIPv4MaskSize: 24}}}}\n"
        )
    };
    let cp = installed(&values("\"10.1.0.0/23\"")).await?;
    let operator = cp.start_operator("small", &["--leader-elect=false"]).await?;
    cp.create_nodes(nodes(0, 3)).await?;
    served(&cp, 2, 1).await?;
    let said = async || -> Result<bool> {
        let waiting = cp.ipam_nodes().await?.into_values().filter(|node| node.spec.ipam.allocated.is_empty());
        let conditions = waiting.filter_map(|node| node.status).flat_map(|status| status.conditions);
        let exhausted =
            conditions.into_iter().any(|c| c.reason == "PoolExhausted" && c.message.contains("append a CIDR"));
        let pool = cp
            .kubectl(&["get", "ippool", "default", "-o", "jsonpath={.status.ipv4.free} {.status.waitingNodes}"])
            .await?;
        Ok(exhausted && pool.ok()?.trim() == "0 1")
    };
    until("node and pool say that nothing is free", said).await?;
    drop(operator);
    cp.install_chart(&values("\"10.1.0.0/23\", \"10.2.0.0/23\"")).await?.ok()?;
    let _operator = cp.start_operator("grown", &["--leader-elect=false"]).await?;
    served(&cp, 3, 1).await?;
    let refused = cp.install_chart(&values("\"10.2.0.0/23\"")).await?.refused()?;
    assert!(refused.contains("10.1.0.0/23"), "{refused}");
    Ok(())
}
