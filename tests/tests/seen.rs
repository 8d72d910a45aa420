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
