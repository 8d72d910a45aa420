//! A change of mode on a live cluster is refused three times over, harms nobody meanwhile, and heals when set back.

use std::path::Path;

use anyhow::{Context as _, Result};
use cadastre_api::{CONFIG_NAME, IPAMConfig, Mode};
use cadastre_tests::{ControlPlane, NAMESPACE, OPERATOR, Output, Proc, Program, node, until};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams};

const CLUSTER_POOL: &str = "ipam: {mode: cluster-pool, operator: {clusterPoolIPv4PodCIDRList: [\"10.0.0.0/8\"]}}\n";
const KUBERNETES: &str = "ipam: {mode: kubernetes}\n";

/// A cluster in mode cluster-pool with one node that holds a block, and its operator.
async fn in_use() -> Result<(ControlPlane, Proc)> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(CLUSTER_POOL).await?.ok()?;
    cp.create_nodes([node("n0").ready(false)]).await?;
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    until("n0 has a block", async || Ok(cp.blocks().await?.contains_key("n0"))).await?;
    Ok((cp, operator))
}

async fn check_live(cp: &ControlPlane, settings: &Path) -> Result<Output> {
    let kubeconfig = cp.service_account_kubeconfig(NAMESPACE, OPERATOR).await?;
    let program = Program::ours("cadastre-operator")?.env("KUBECONFIG", kubeconfig);
    program.args(["check-config", "--live", "--config"]).arg(settings).run().await
}

fn condition(config: &IPAMConfig) -> Option<(String, String)> {
    let conditions = &config.status.as_ref()?.conditions;
    let found = conditions.iter().find(|condition| condition.type_ == "ModeChangeRefused")?;
    Some((found.status.clone(), found.message.clone()))
}

#[tokio::test]
async fn helm_and_the_api_server_refuse_while_a_block_is_held() -> Result<()> {
    let (cp, _operator) = in_use().await?;
    for flags in [&[][..], &["--dry-run=server"][..]] {
        let refused = cp.upgrade_chart(KUBERNETES, flags).await?.refused()?;
        for part in ["cluster-pool", "kubernetes", "1 node"] {
            assert!(refused.contains(part), "{part} is not in: {refused}");
        }
    }
    let patch = r#"{"spec":{"mode":"kubernetes"}}"#;
    let edit = cp.kubectl(&["patch", "ipamconfig", "cluster", "--type=merge", "-p", patch]).await?.refused()?;
    assert!(edit.contains("the mode cannot be changed while blocks are in use"), "{edit}");
    let refused_deletion =
        async || Ok(!cp.kubectl(&["delete", "ipamconfig", "cluster", "--dry-run=server"]).await?.success());
    until("the deletion is refused", refused_deletion).await?;
    assert_eq!(cp.ipam_config().await?.spec.mode, Mode::ClusterPool);
    Ok(())
}

#[tokio::test]
async fn an_operator_with_another_mode_says_so_and_serves_in_the_recorded_one() -> Result<()> {
    let (cp, right) = in_use().await?;
    drop(right);
    let settings = cp.write_settings("wrong", KUBERNETES)?;
    let wrong = cp.operator_program(&settings, &["--leader-elect=false"]).await?.start(cp.folder(), "wrong")?;
    let said = async || Ok(condition(&cp.ipam_config().await?).is_some_and(|(status, _)| status == "True"));
    until("the condition says that the mode is refused", said).await?;
    let (_, message) = condition(&cp.ipam_config().await?).context("no condition")?;
    assert!(message.contains("Set ipam.mode back to \"cluster-pool\""), "{message}");
    assert!(wrong.log().contains("Set ipam.mode back to"), "{}", wrong.log());

    cp.create_nodes([node("n1").ready(false)]).await?;
    until("a new node is served in the recorded mode", async || Ok(cp.blocks().await?.contains_key("n1"))).await?;
    let ready = wrong.http("/readyz").await?;
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("kubernetes") && ready.contains("cluster-pool"),
        "{ready}"
    );
    assert!(wrong.http("/metrics").await?.contains("cadastre_operator_mode_mismatch 1"));
    let events = Api::<Event>::all(cp.admin().await?);
    let published = async || {
        let events = events.list(&ListParams::default()).await?;
        Ok(events.into_iter().any(|event| event.reason.as_deref() == Some("ModeDiffers")))
    };
    until("an Event says so", published).await?;
    let checked = check_live(&cp, &settings).await?;
    assert_eq!(checked.code, Some(78), "{checked:?}");

    drop(wrong);
    let healed = cp.start_operator("healed", &["--leader-elect=false"]).await?;
    let taken_back = async || Ok(condition(&cp.ipam_config().await?).is_some_and(|(status, _)| status == "False"));
    until("the condition is taken back", taken_back).await?;
    until("the operator is ready", async || Ok(healed.http("/readyz").await?.starts_with("HTTP/1.1 200"))).await?;
    let right = cp.settings_file("right").await?;
    assert_eq!(check_live(&cp, &right).await?.code, Some(0));
    Ok(())
}

#[tokio::test]
async fn the_mode_is_fixed_before_the_first_block_is_committed() -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(CLUSTER_POOL).await?.ok()?;
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    until("the config is recorded", async || Ok(cp.ipam_config().await.is_ok())).await?;
    cp.create_nodes((0..20).map(|number| node(&format!("n{number}")).ready(false))).await?;
    // Editing the mode all the while succeeds only as long as no block is in the ledger.
    let configs = Api::<IPAMConfig>::all(cp.admin().await?);
    let patch = kube::api::Patch::Merge(serde_json::json!({"spec": {"mode": "multi-pool"}}));
    let mut refused = false;
    while !refused {
        let before = cp.kubectl(&["get", "ipamledgers", "-o", "name"]).await?.ok()?;
        let edited =
            configs.patch(CONFIG_NAME, &kube::api::PatchParams { dry_run: true, ..Default::default() }, &patch).await;
        refused = edited.is_err();
        assert!(refused || before.trim().is_empty(), "a block was in the ledger while the mode could be edited");
        anyhow::ensure!(operator.is_running(), "the operator died: {}", operator.tail());
    }
    until("all are served", async || Ok(cp.blocks().await?.len() == 20)).await
}

#[tokio::test]
async fn with_nothing_held_a_change_is_accepted() -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(KUBERNETES).await?.ok()?;
    cp.create_nodes([node("n0").ready(false).pod_cidrs(["10.1.0.0/24"])]).await?;
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    until("n0 is mirrored", async || Ok(cp.blocks().await?.contains_key("n0"))).await?;
    assert!(!cp.upgrade_chart(CLUSTER_POOL, &[]).await?.success());
    Api::<Node>::all(cp.admin().await?).delete("n0", &DeleteParams::default()).await?;
    let unused = async || Ok(cp.ipam_config().await?.status.is_some_and(|status| !status.in_use && !status.draining));
    until("nothing is in use any more", unused).await?;
    cp.upgrade_chart(CLUSTER_POOL, &[]).await?.ok()?;
    drop(operator);
    let _operator = cp.start_operator("changed", &["--leader-elect=false"]).await?;
    until("the new mode is recorded", async || Ok(cp.ipam_config().await?.spec.mode == Mode::ClusterPool)).await?;
    cp.create_nodes([node("n1").ready(false)]).await?;
    until("a node is served in the new mode", async || Ok(cp.blocks().await?.contains_key("n1"))).await
}
