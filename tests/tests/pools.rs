//! Pools against each other, against services and nodes, and against what people reserve, on the real API server.

use anyhow::{Context as _, Result};
use cadastre_tests::{ControlPlane, NodeBuilder, node, until};
use serde_json::{Value, json};

const NO_ELECTION: &[&str] = &["--leader-elect=false"];

/// 16 blocks, two of them reserved.
const VALUES: &str = r#"
ipam:
  mode: cluster-pool
  operator:
    clusterPoolIPv4PodCIDRList: ["10.96.0.0/20"]
    clusterPoolIPv4MaskSize: 24
    clusterPoolReserved: [10.96.0.9, 10.96.3.0/24]
"#;

fn pool(name: &str, cidrs: &[&str]) -> Value {
    json!({
        "apiVersion": "cadastre.io/v1alpha1",
        "kind": "IPPool",
        "metadata": {"name": name},
        "spec": {"ipv4": {"cidrs": cidrs, "maskSize": 26}},
    })
}

/// Status and message of a pool's condition.
async fn condition(cp: &ControlPlane, pool: &str, kind: &str) -> Result<Option<(String, String)>> {
    let object = cp.kubectl(&["get", "ippool", pool, "-o", "json"]).await?;
    if !object.success() {
        return Ok(None);
    }
    let object: Value = serde_json::from_str(&object.ok()?)?;
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let set = all.into_iter().find(|set| set["type"] == kind);
    Ok(set.map(|set| {
        (set["status"].as_str().unwrap_or_default().into(), set["message"].as_str().unwrap_or_default().into())
    }))
}

#[tokio::test]
async fn what_is_reserved_or_fenced_is_counted_and_given_to_nobody() -> Result<()> {
    let cp = ControlPlane::builder().service_cidr("10.96.8.0/22").start().await?;
    cp.install_chart(VALUES).await?.ok()?;
    let _operator = cp.start_operator("operator", NO_ELECTION).await?;
    let nodes = (0..10).map(|number| -> NodeBuilder { node(&format!("n{number}")).ready(false) });
    cp.create_nodes(nodes).await?;
    // 16 blocks, less 2 reserved and 4 with services' addresses.
    until("ten nodes are served", async || Ok(cp.blocks().await?.len() == 10)).await?;
    cp.check_disjoint().await?;
    let full = async || -> Result<bool> {
        let counts = "jsonpath={.status.ipv4.held} {.status.ipv4.reserved} {.status.ipv4.free} {.spec.reserved}";
        Ok(cp.kubectl(&["get", "ippool", "default", "-o", counts]).await?.ok()?
            == r#"10 6 0 ["10.96.0.9","10.96.3.0/24"]"#)
    };
    until("the pool counts and lists what it keeps back", full).await?;
    let (status, message) = condition(&cp, "default", "Fenced").await?.context("no condition Fenced")?;
    assert_eq!(status, "True");
    assert!(message.starts_with("4 IPv4 blocks") && message.contains("10.96.8.0/22"), "{message}");
    Ok(())
}

#[tokio::test]
async fn pools_that_overlap_are_refused_by_rule_or_by_whoever_records_first() -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart("ipam: {mode: cluster-pool, operator: {clusterPoolIPv4PodCIDRList: [10.0.0.0/16]}}\n")
        .await?
        .ok()?;
    let create = async |pool: Value| cp.apply(&pool.to_string()).await;
    for (cidrs, why) in [
        (&["10.1.0.0/16", "10.1.4.0/24"][..], "disjoint"),
        (&["10.1.0.0/16", "10.1.0.0/16"], "disjoint"),
        (&["10.1.0.7/16"], "without host bits"),
        (&["10.1.0.0/27"], "at least their prefix length"),
        (&["fd00::/104"], "must be IPv4"),
    ] {
        let refusal = create(pool("wrong", cidrs)).await?.refused()?;
        assert!(refusal.contains(why), "{cidrs:?}: {refusal}");
    }

    let start = async |name: &'static str| cp.start_operator(name, NO_ELECTION).await;
    let (_one, _two) = tokio::try_join!(start("one"), start("two"))?;
    let recorded =
        async || Ok(cp.ipam_config().await.is_ok_and(|config| config.status.is_some_and(|s| !s.cidrs.is_empty())));
    until("the config is recorded", recorded).await?;
    let (a, b) = tokio::join!(create(pool("a", &["10.8.0.0/16"])), create(pool("b", &["10.8.128.0/17"])));
    a?.ok()?;
    b?.ok()?;
    create(pool("c", &["10.0.7.0/24"])).await?.ok()?;
    create(pool("d", &["10.9.0.0/16"])).await?.ok()?;
    let decided = async || -> Result<bool> {
        let mut said = Vec::new();
        for name in ["a", "b", "c", "d"] {
            said.push(condition(&cp, name, "Admitted").await?.map(|(status, message)| (status == "True", message)));
        }
        let [Some((a, of_a)), Some((b, of_b)), Some((c, of_c)), Some((d, _))] = said.as_slice() else {
            return Ok(false);
        };
        let loser = if *a { of_b } else { of_a };
        let winner = if *a { "pool a" } else { "pool b" };
        Ok(a != b && loser.contains(winner) && !c && of_c.contains("pool default") && *d)
    };
    until("of a and b one is admitted and named, d is, and c is not", decided).await?;
    let (before, _) = condition(&cp, "a", "Admitted").await?.context("a")?;
    cp.create_nodes([node("n0").ready(false)]).await?;
    until("a node is served", async || Ok(cp.blocks().await?.len() == 1)).await?;
    assert_eq!(condition(&cp, "a", "Admitted").await?.context("a")?.0, before, "it stays so");
    let recorded = cp.ipam_config().await?.status.unwrap_or_default().cidrs;
    assert_eq!(recorded.len(), 3, "{recorded:?}");

    let winner = if before == "True" { "a" } else { "b" };
    let loser = if before == "True" { "b" } else { "a" };
    cp.kubectl(&["delete", "ippool", winner]).await?.ok()?;
    let healed = async || Ok(condition(&cp, loser, "Admitted").await?.is_some_and(|(status, _)| status == "True"));
    until("the other pool is admitted once the first is gone", healed).await
}

#[tokio::test]
async fn mode_kubernetes_says_that_pools_are_without_effect() -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart("ipam: {mode: kubernetes}\n").await?.ok()?;
    let _operator = cp.start_operator("operator", NO_ELECTION).await?;
    cp.apply(&pool("a", &["10.8.0.0/16"]).to_string()).await?.ok()?;
    let said = async || {
        Ok(condition(&cp, "a", "Admitted")
            .await?
            .is_some_and(|(status, why)| status == "False" && why.contains("mode kubernetes")))
    };
    until("the pool says that the mode cuts no blocks", said).await
}
