//! What people and programs are shown: the plan, the printed tables, the metrics, on a real API server.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use cadastre_tests::{ControlPlane, DUAL_STACK, NAMESPACE, NodeBuilder, Output, Program, node, until};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::Value;

/// May look at what the operator looks at, and change nothing.
const READER: &str = r"
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
  - {apiGroups: [''], resources: [nodes], verbs: [get, list]}
  - {apiGroups: [networking.k8s.io], resources: [servicecidrs], verbs: [list]}
  - {apiGroups: [cadastre.io], resources: ['*'], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: kube-system}]
";

fn nodes(names: std::ops::Range<usize>) -> impl Iterator<Item = NodeBuilder> {
    names.map(|number| node(&format!("n{number}")).ready(false))
}

async fn planned(cp: &ControlPlane, settings: &Path, flags: &[&str]) -> Result<Output> {
    let kubeconfig = cp.service_account_kubeconfig(NAMESPACE, "reader").await?;
    let program = Program::ours("cadastre-operator")?.env("KUBECONFIG", kubeconfig);
    program.args(["plan", "--config"]).arg(settings).args(flags).run().await
}

async fn plan_json(cp: &ControlPlane, settings: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&planned(cp, settings, &["-o", "json"]).await?.ok()?)?)
}

/// What each node would get.
fn gets(plan: &Value) -> BTreeMap<String, Vec<String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nodes = plan["nodes"].as_array().into_iter().flatten();
    nodes.map(|node| (text(&node["node"]), node["gets"].as_array().into_iter().flatten().map(text).collect())).collect()
}

#[tokio::test]
async fn a_plan_says_what_the_operator_then_does_and_writes_nothing() -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(DUAL_STACK).await?.ok()?;
    cp.kubectl_program()?.args(["apply", "-f", "-"]).stdin(READER).run().await?.ok()?;
    cp.create_nodes(nodes(0..20)).await?;
    let settings = cp.settings_file("plan").await?;

    let plan = plan_json(&cp, &settings).await?;
    assert_eq!(plan["recordedMode"], Value::Null);
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    until("20 nodes are served", async || Ok(cp.blocks().await?.len() == 20)).await?;
    let done = cp.blocks().await?.into_iter();
    let done: BTreeMap<_, Vec<_>> =
        done.map(|(name, blocks)| (name, blocks.iter().map(ToString::to_string).collect())).collect();
    assert_eq!(gets(&plan), done, "every node got what was planned");
    operator.kill9();

    // A Node goes and one comes while no operator runs.
    Api::<Node>::all(cp.admin().await?).delete("n3", &DeleteParams::default()).await?;
    cp.create_nodes(nodes(20..21)).await?;
    let plan = plan_json(&cp, &settings).await?;
    assert_eq!(plan["nodes"].as_array().context("nodes")?.len(), 2, "{plan}");
    let cools = plan["blocks"].as_array().into_iter().flatten().filter(|block| block["change"] == "cool");
    assert!(cools.map(|block| &block["node"]).eq(["n3", "n3"]), "{plan}");

    // Another pool is refused, by who holds the old one, and with the exit code of check-config.
    let other = cp.write_settings("other", &DUAL_STACK.replace("10.0.0.0/8", "172.16.0.0/12"))?;
    let refused = planned(&cp, &other, &[]).await?;
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    for part in
        ["refused (pool): CIDR 10.0.0.0/8", "10.0.0.0/8 is held by 20 nodes: n0, n1, n10,", "172.16.0.0/12   default"]
    {
        assert!(refused.stdout.contains(part), "{part:?} is not in:\n{}", refused.stdout);
    }
    let writes = cp.count(|event| event.user.ends_with(":reader") && event.is_write()).await?;
    let reads = cp.count(|event| event.user.ends_with(":reader") && event.code == 200).await?;
    assert!(writes == 0 && reads > 0, "{writes} writes, {reads} reads");
    Ok(())
}

/// The widest line of a table, in columns.
fn width(table: &str) -> usize {
    table.lines().map(|line| line.trim_end().chars().count()).max().unwrap_or(0)
}

/// The cells of a printed table, line by line. Columns are at least three spaces apart.
fn cells(table: &str) -> Vec<Vec<String>> {
    let row = |line: &str| {
        line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    table.lines().map(row).collect()
}

/// The demo's values, in which only two nodes have room.
const TIGHT: &str = r#"
ipam:
  mode: cluster-pool
  operator: {clusterPoolIPv4PodCIDRList: ["10.0.0.0/23"], clusterPoolIPv4MaskSize: 24, clusterPoolIPv6PodCIDRList: ["fd00::/104"], clusterPoolIPv6MaskSize: 120}
ipv6: {enabled: true}
"#;

#[tokio::test]
async fn tables_and_metrics_answer_at_a_glance() -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(TIGHT).await?.ok()?;
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    until("the config is recorded", async || Ok(cp.ipam_config().await.is_ok())).await?;
    cp.create_nodes(nodes(0..2)).await?;
    until("two nodes are served", async || Ok(cp.blocks().await?.len() == 2)).await?;
    cp.create_nodes(nodes(2..3)).await?;
    let _agent = cp.start_agent("n0", "agent").await?;
    let get = async |kind: &str, flags: &[&str]| cp.kubectl(&[&["get", kind], flags].concat()).await?.ok();
    let complete = async || -> Result<bool> {
        let (nodes, pools) = (get("ipamnodes", &[]).await?, get("ippools", &[]).await?);
        Ok(nodes.contains("True")
            && nodes.contains("PoolExhausted")
            && cells(&pools).get(1).and_then(|row| row.get(7)).is_some_and(|n| n == "1"))
    };
    until("agent, node and pool say how they are", complete).await?;

    let table = get("ipamnodes", &[]).await?;
    let rows = cells(&table);
    assert_eq!(rows[0], ["NAME", "MODE", "POD CIDRS", "USED", "SERVING", "WHY", "ASSIGNED", "AGE"], "{table}");
    assert_eq!(
        rows[1][..6],
        ["n0", "cluster-pool", r#"["10.0.0.0/24","fd00::/120"]"#, "1/254, 1/254", "True", "Serving"]
    );
    assert!(rows[3].contains(&"PoolExhausted".to_owned()), "{table}");
    assert!(width(&table) <= 140, "{table}");
    let wide = get("ipamnodes", &["-o", "wide"]).await?;
    assert!(wide.contains("pool default has no free IPv4 block: append a CIDR to it"), "{wide}");

    let table = get("ippools", &[]).await?;
    let shown = ["default", r#"["10.0.0.0/23"]"#, "2", "0", r#"["fd00::/104"]"#, "2", "65534", "1"];
    assert_eq!(cells(&table)[1][..8], shown, "{table}");
    assert!(width(&table) <= 140, "{table}");
    let wide = get("ippools", &["-o", "wide"]).await?;
    assert!(wide.contains("no free IPv4 block: append a CIDR to the pool, or remove nodes; waiting: n2"), "{wide}");

    let table = get("ipamledgers", &[]).await?;
    let rows = cells(&table);
    assert_eq!(rows[0][..7], ["NAME", "POOL", "RANGE", "MASK", "HELD", "COOLING", "FREE"], "{table}");
    assert_eq!(rows[1][1..7], ["default", "10.0.0.0/23", "24", "2", "0", "0"], "{table}");
    assert_eq!(rows[2][1..7], ["default", "fd00::/114", "120", "2", "0", "62"], "{table}");
    assert!(width(&table) <= 140, "{table}");

    let table = get("ipamconfig", &[]).await?;
    assert_eq!(cells(&table)[0], ["NAME", "MODE", "IN USE", "MODE REFUSED", "POOLS REFUSED", "AGE"], "{table}");
    assert_eq!(cells(&table)[1][..3], ["cluster", "cluster-pool", "true"], "{table}");

    let scraped = operator.http("/metrics").await?;
    for line in [
        r#"blocks{pool="default",family="IPv4",state="held"} 2"#,
        r#"waiting_nodes{reason="PoolExhausted"} 1"#,
        r#"waiting_nodes{reason="WaitingForPodCIDR"} 0"#,
        r#"api_requests_total{verb="create",resource="ipamnodes",result="201"} 3"#,
        "node_to_block_seconds_count 2",
        "leader 1",
    ] {
        assert!(scraped.contains(&format!("cadastre_operator_{line}\n")), "{line} is not in {scraped}");
    }
    are_documented(&scraped)
}

/// Every metric that is scraped stands in the documentation, with its labels.
fn are_documented(scraped: &str) -> Result<()> {
    let documented = std::fs::read_to_string(cadastre_tests::repo().join("docs/usage/metrics.md"))?;
    let samples = scraped.lines().filter(|line| line.starts_with("cadastre_operator_"));
    for sample in samples {
        let (name, rest) = sample.split_once(['{', ' ']).context("a sample")?;
        let name = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let row = documented.lines().find(|row| row.contains(&format!("`{name}`")));
        let row = row.with_context(|| format!("{name} is not documented"))?;
        let labels = rest.split_once('}').map_or("", |(labels, _)| labels);
        for label in labels.split(',').filter_map(|pair| pair.split_once('=')).map(|(label, _)| label) {
            assert!(label == "le" || row.contains(&format!("`{label}`")), "label {label} is not in: {row}");
        }
    }
    Ok(())
}
