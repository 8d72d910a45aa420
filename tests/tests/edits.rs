//! Pools of a live cluster: appending works, and whatever contradicts what is in use is refused by Helm, by the API server,
//! and, if it got past both, by the operator, which goes on with what is recorded.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result};
use cadastre_tests::{ControlPlane, NodeBuilder, Output, Proc, node, until};
use serde_json::json;

const NO_ELECTION: &[&str] = &["--leader-elect=false"];

fn values(cidrs: &[&str], mask: u8) -> String {
    let cidrs = cidrs.join(", ");
    format!(
        "ipam: {{mode: cluster-pool, operator: {{clusterPoolIPv4PodCIDRList: [{cidrs}], clusterPoolIPv4MaskSize: {mask}}}}}\n"
    )
}

const A: &str = "10.1.0.0/23";
const B: &str = "10.2.0.0/23";
const C: &str = "10.3.0.0/23";

/// What contradicts two nodes that hold all of `A`, with what a refusal names.
const CONTRADICTIONS: [(&[&str], u8, &str); 4] = [
    // removed, replaced
    (&[B], 24, A),
    // another block size
    (&[A, B], 25, "/24"),
    // shrunk
    (&["10.1.0.0/24", B], 24, A),
    // widened, so that blocks would be cut otherwise
    (&["10.1.0.0/22", B], 24, A),
];

fn nodes(from: usize, count: usize) -> impl Iterator<Item = NodeBuilder> {
    (from..from + count).map(|number| node(&format!("n{number}")).ready(false))
}

async fn served(cp: &ControlPlane, count: usize) -> Result<()> {
    until(&format!("{count} nodes are served"), async || Ok(cp.blocks().await?.len() == count)).await?;
    cp.check_disjoint().await
}

/// The CIDRs that the config records, each with whether it is in use.
async fn recorded(cp: &ControlPlane) -> Result<Vec<(String, bool)>> {
    let status = cp.ipam_config().await?.status.unwrap_or_default();
    Ok(status.cidrs.iter().map(|cidr| (cidr.cidr.to_string(), cidr.in_use)).collect())
}

/// A cluster with `A`, whose two blocks two nodes hold.
async fn in_use() -> Result<(ControlPlane, Proc)> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(&values(&[A], 24)).await?.ok()?;
    let operator = cp.start_operator("operator", NO_ELECTION).await?;
    cp.create_nodes(nodes(0, 2)).await?;
    served(&cp, 2).await?;
    Ok((cp, operator))
}

/// What an operator's own server answers: its address is in its log.
fn http(operator: &Proc, path: &str) -> Result<String> {
    let log = operator.log();
    let listen = log.split("listen=").last().and_then(|rest| rest.split_whitespace().next()).context("no address")?;
    let mut stream = TcpStream::connect(listen)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The metric that counts settings of pools that are refused.
fn refusals(operator: &Proc) -> Result<u64> {
    let metrics = http(operator, "/metrics")?;
    let value = metrics.lines().find_map(|line| line.strip_prefix("cadastre_operator_refusals{kind=\"pool\"} "));
    Ok(value.context("no metric")?.parse()?)
}

#[tokio::test]
async fn what_is_appended_is_used_and_what_is_unused_can_go() -> Result<()> {
    let (cp, operator) = in_use().await?;
    let before = cp.blocks().await?;
    cp.create_nodes(nodes(2, 1)).await?;
    until("n2 waits", async || cp.says("n2", "PoolExhausted", &["clusterPoolIPv4PodCIDRList"]).await).await?;
    drop(operator);
    for (name, cidrs) in [("appended", &[A, B, C][..]), ("moved", &[C, A, B]), ("taken back", &[A, B])] {
        cp.upgrade_chart(&values(cidrs, 24), &[]).await?.ok().context(name)?;
        let _operator = cp.start_operator(name, NO_ELECTION).await?;
        served(&cp, 3).await?;
        let expected = cidrs.iter().map(|cidr| (*cidr).to_owned()).collect::<Vec<_>>();
        let follows =
            async || Ok(recorded(&cp).await?.into_iter().map(|(cidr, _)| cidr).collect::<Vec<_>>() == expected);
        until(&format!("{name}: the config records {expected:?}"), follows).await?;
        let pool = async || {
            let cidrs = cp.kubectl(&["get", "ippool", "default", "-o", "jsonpath={.spec.ipv4.cidrs}"]).await?.ok()?;
            Ok(serde_json::from_str::<Vec<String>>(&cidrs)? == expected)
        };
        until(&format!("{name}: and so does the pool"), pool).await?;
    }
    let after = cp.blocks().await?;
    assert!(before.iter().all(|(name, blocks)| after.get(name) == Some(blocks)), "no block changed once given");
    assert_eq!(after["n2"], [B.replace("/23", "/24").parse()?]);
    Ok(())
}

#[tokio::test]
async fn what_contradicts_blocks_in_use_is_refused() -> Result<()> {
    let (cp, operator) = in_use().await?;
    for (cidrs, mask, named) in CONTRADICTIONS {
        for flags in [&[][..], &["--dry-run=server"]] {
            let refused = cp.upgrade_chart(&values(cidrs, mask), flags).await?.refused()?;
            for part in ["are in use: 2 nodes hold", "n0, n1", named] {
                assert!(refused.contains(part), "{cidrs:?} /{mask}: {part} is not in: {refused}");
            }
        }
    }
    let off = "ipv4: {enabled: false}\nipv6: {enabled: true}\n".to_owned() + &values(&[A], 24);
    let refused = cp.upgrade_chart(&off, &[]).await?.refused()?;
    assert!(refused.contains("Enable IPv4 again"), "{refused}");
    drop(operator);

    // The same, past Helm: the processes find it in their file.
    let before = cp.blocks().await?;
    for (number, (cidrs, mask, named)) in CONTRADICTIONS.into_iter().enumerate() {
        let settings = cp.write_settings("wrong", &values(cidrs, mask))?;
        let program = cp.operator_program(&settings, NO_ELECTION).await?;
        let wrong = program.start(cp.folder(), &format!("wrong-{number}"))?;
        let said = async || {
            let conditions = cp.ipam_config().await?.status.unwrap_or_default().conditions;
            let refused = conditions.into_iter().find(|c| c.type_ == "PoolChangeRefused" && c.status == "True");
            Ok(refused.is_some_and(|c| {
                [named, "n0, n1", A].iter().all(|part| c.message.contains(part)) && c.observed_generation.is_some()
            }))
        };
        until(&format!("{cidrs:?} /{mask}: the condition names {named} and who holds it"), said).await?;
        let unready = async || {
            let answer = http(&wrong, "/readyz")?;
            Ok(answer.starts_with("HTTP/1.1 503") && answer.contains(A) && refusals(&wrong)? > 0)
        };
        until("the operator says that it is not ready, and why", unready).await?;
        assert_eq!(cp.blocks().await?, before, "{cidrs:?} /{mask}");
        assert!(recorded(&cp).await?.contains(&(A.to_owned(), true)));
    }
    // It goes on with what is recorded, and with what could be taken of the wrong settings: B was appended.
    let settings = cp.write_settings("wrong", &values(&[B], 24))?;
    let wrong = cp.operator_program(&settings, NO_ELECTION).await?.start(cp.folder(), "wrong-last")?;
    cp.create_nodes(nodes(2, 1)).await?;
    served(&cp, 3).await?;
    drop(wrong);

    let settings = cp.write_settings("right", &values(&[A, B], 24))?;
    let healed = cp.operator_program(&settings, NO_ELECTION).await?.start(cp.folder(), "healed")?;
    let taken_back = async || {
        let conditions = cp.ipam_config().await?.status.unwrap_or_default().conditions;
        Ok(conditions.iter().any(|c| c.type_ == "PoolChangeRefused" && c.status == "False"))
    };
    until("the condition is taken back", taken_back).await?;
    until("the operator is ready", async || Ok(http(&healed, "/readyz")?.starts_with("HTTP/1.1 200"))).await?;
    assert_eq!(refusals(&healed)?, 0);
    Ok(())
}

async fn patch(cp: &ControlPlane, object: [&str; 2], patch: &serde_json::Value, flags: &[&str]) -> Result<Output> {
    let patch = patch.to_string();
    let args = [&["patch", object[0], object[1], "--type=merge", "--dry-run=server", "-p", &patch][..], flags].concat();
    cp.kubectl(&args).await
}

/// Refused to an administrator, with each of `parts`. A policy counts from a moment after it was created.
async fn refused(what: &str, parts: &[&str], ask: impl AsyncFn() -> Result<Output>) -> Result<()> {
    until(&format!("{what} is refused"), async || Ok(!ask().await?.success())).await?;
    let error = ask().await?.refused()?;
    for part in parts {
        assert!(error.contains(part), "{what}: {part} is not in: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn the_api_server_refuses_to_everybody_what_contradicts_blocks_in_use() -> Result<()> {
    let (cp, _operator) = in_use().await?;
    let pool = async || Ok(cp.kubectl(&["get", "ippool", "default"]).await?.success());
    until("the pool is there", pool).await?;
    let remedy = "remove the nodes that hold";
    let delete = async |object: &[&str]| cp.kubectl(&[&["delete", "--dry-run=server"], object].concat()).await;
    refused("deleting the pool", &["10.1.0.0/23 in blocks of /24", remedy], async || {
        delete(&["ippool", "default"]).await
    })
    .await?;
    refused("deleting the ledger", &["cannot be deleted", "remove their nodes"], async || {
        delete(&["ipamledgers", "--all"]).await
    })
    .await?;
    refused("deleting the config", &["drain and remove every node"], async || delete(&["ipamconfig", "cluster"]).await)
        .await?;

    let default = ["ippool", "default"];
    let spec = |cidrs: &[&str], mask: u8| json!({"spec": {"ipv4": {"cidrs": cidrs, "maskSize": mask}}});
    for (cidrs, mask, _) in CONTRADICTIONS {
        let edit = async || patch(&cp, default, &spec(cidrs, mask), &[]).await;
        refused("an edit of the pool", &["10.1.0.0/23 in blocks of /24", "can be appended", remedy], edit).await?;
    }
    let edit = async || patch(&cp, default, &json!({"spec": {"ipv4": null}}), &[]).await;
    refused("a pool without IPv4", &[remedy], edit).await?;
    patch(&cp, default, &spec(&[B, A], 24), &[]).await?.ok().context("appending a CIDR")?;

    let status = &["--subresource=status"];
    let cluster = ["ipamconfig", "cluster"];
    let cidr = |cidr: &str, mask: u8, in_use: bool| json!({"cidr": cidr, "pool": "default", "maskSize": mask, "inUse": in_use});
    for wrong in [
        json!({"inUse": false}),
        json!({"cidrs": []}),
        json!({"cidrs": [cidr(A, 24, false)]}),
        json!({"cidrs": [cidr(A, 25, true)]}),
        json!({"cidrs": [cidr(B, 24, true)]}),
    ] {
        let edit = patch(&cp, cluster, &json!({ "status": wrong }), status).await?.refused()?;
        assert!(edit.contains("what is in use stays") && edit.contains(remedy), "{wrong}: {edit}");
    }
    let appended = json!({"status": {"cidrs": [cidr(B, 24, false), cidr(A, 24, true)]}});
    patch(&cp, cluster, &appended, status).await?.ok().context("a CIDR more")?;
    let mode = patch(&cp, cluster, &json!({"spec": {"mode": "kubernetes"}}), &[]).await?.refused()?;
    assert!(mode.contains("the mode cannot be changed while blocks are in use"), "{mode}");
    Ok(())
}
