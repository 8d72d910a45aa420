//! The operator's pod is as the profile `restricted` wants it, but for the node's network: by the API server's own word.

use std::time::Duration;

use anyhow::{Context as _, Result};
use cadastre_tests::{ControlPlane, NAMESPACE, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

const RESTRICTED: &str = "
apiVersion: v1
kind: Namespace
metadata:
  name: restricted
  labels: {pod-security.kubernetes.io/enforce: restricted}
";

/// The pod that the chart's Deployment would make.
async fn operator_pod(cp: &ControlPlane) -> Result<Value> {
    let flags = ["-n", NAMESPACE, "get", "deployment", "cadastre-operator", "-o", "json"];
    let deployment: Value = serde_json::from_str(&cp.kubectl(&flags).await?.ok()?)?;
    let spec = deployment["spec"]["template"]["spec"].clone();
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator"}, "spec": spec}))
}

/// What Pod Security has against it, if anything; another refusal is an error.
async fn violations(cp: &ControlPlane, pod: &Value) -> Result<Option<String>> {
    let pods = Api::<Pod>::namespaced(cp.admin().await?, "restricted");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match pods.create(&dry, &serde_json::from_value(pod.clone())?).await {
        Ok(_) => Ok(None),
        Err(error) => {
            let text = error.to_string();
            let said = text.split_once("violates PodSecurity \"restricted:latest\": ").map(|(_, said)| said);
            let said = said.and_then(|said| said.split(": ").next()).with_context(|| text.clone())?;
            Ok(Some(said.to_owned()))
        }
    }
}

#[tokio::test]
async fn the_operator_is_restricted_but_for_the_nodes_network() -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart("ipam: {mode: kubernetes}\n").await?.ok()?;
    cp.apply(RESTRICTED).await?.ok()?;
    let mut pod = operator_pod(&cp).await?;
    // The API server makes the priority classes of its system a moment after its start.
    let said = eventually(Duration::from_secs(30), "a verdict", async || violations(&cp, &pod).await).await?;
    let said = said.context("it uses the node's network, and was accepted")?;
    let expected = r#"host namespaces (hostNetwork=true), hostPort (container "operator" uses hostPort 9963)"#;
    assert!(said.starts_with(expected) && !said[expected.len()..].contains('('), "{said}");

    pod["spec"]["hostNetwork"] = false.into();
    let ports = pod["spec"]["containers"][0]["ports"].as_array_mut().context("no ports")?;
    for port in ports {
        port["hostPort"] = 0.into();
    }
    assert_eq!(violations(&cp, &pod).await?, None, "nothing else is against it");
    Ok(())
}
