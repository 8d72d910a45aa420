//! The release on two real nodes: `helm test` finds what is broken, an upgrade and a rollback leave pods as they are, an agent
//! that is deleted by force takes nothing back, and a mode that is changed past Helm is refused, stops the rollout, and heals
//! when it is set back.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cadastre_api::{IPAMConfig, Mode};
use cadastre_tests::{DUAL_STACK, Lab, NAMESPACE, Node, eventually, is_ready, node, until};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

const ROLLOUT: Duration = Duration::from_mins(2);
const WAIT: [&str; 2] = ["--wait", "--timeout=100s"];

/// Says, until the file `/tmp/enough` is there, each time that the configuration or one of so many routes is not; then how
/// often it looked.
const LOOK: &str = r#"looks=0
while [ ! -e /tmp/enough ]; do
    [ -e /etc/cni/net.d/05-cadastre.conflist ] || echo no configuration
    routes=$({ ip -4 route show proto 202; ip -6 route show proto 202; } | wc -l)
    [ "$routes" = "$1" ] || echo "$routes routes"
    looks=$((looks + 1))
    sleep 0.02
done
echo "$looks looks""#;

#[tokio::test]
async fn the_release_is_tested_upgraded_rolled_back_and_keeps_its_mode() -> Result<()> {
    if !Lab::for_tests()? {
        return Ok(());
    }
    let lab = Lab::start().await?;
    lab.upgrade_chart(DUAL_STACK, &WAIT).await?.ok()?;
    lab.nodes_ready().await?;
    lab.release_ready().await?;
    let before = lab.start_pods().await?;

    helm_test(&lab).await?;

    lab.upgrade_chart(&format!("{DUAL_STACK}logLevel: debug\n"), &WAIT).await?.ok()?;
    lab.release_ready().await?;
    ensure!(config(&lab).await?.contains("logLevel: debug"), "it is upgraded");
    assert_eq!(lab.pods_now().await?, before, "an upgrade leaves pods as they are");
    lab.helm("rollback", &[&["1"], &WAIT[..]].concat()).await?.ok()?;
    lab.release_ready().await?;
    ensure!(!config(&lab).await?.contains("logLevel: debug"), "it is rolled back");
    assert_eq!(lab.pods_now().await?, before, "and so does a rollback");
    lab.ping_neighbours(&before).await?;

    agent_is_deleted_by_force(&lab).await?;
    assert_eq!(lab.pods_now().await?, before);

    mode_changed_past_helm(&lab).await?;
    assert_eq!(lab.pods_now().await?, before);
    lab.audits_find_nothing().await
}

/// It finds nothing; then what does not come through; and leaves nothing but its outcome.
async fn helm_test(lab: &Lab) -> Result<()> {
    let good = lab.helm("test", &["--logs"]).await?.ok()?;
    for said in ["2 of 2 nodes have a pod; 8 of 8 connections", "0 findings: 2 nodes"] {
        ensure!(good.contains(said), "{said} is not in: {good}");
    }
    let blocks = lab.cp.blocks().await?.remove(lab.nodes[0].name()).context("no blocks")?;
    let v4 = blocks.iter().find(|block| block.to_string().contains('.')).context("no IPv4")?.to_string();
    let rule = |verb: &'static str| ["ip", "rule", verb, "to", &v4, "unreachable"].map(str::to_owned);
    let set = async |verb| lab.nodes[1].exec(&rule(verb).each_ref().map(String::as_str)).await?.ok();
    set("add").await?;
    let bad = lab.helm("test", &["--logs"]).await?;
    set("del").await?;
    let [here, there] = [&lab.nodes[0], &lab.nodes[1]].map(Node::name);
    let said = format!("{there} does not reach the pod of {here} at ");
    ensure!(!bad.success() && bad.stdout.contains(&said), "{said} is not in: {bad:?}");
    let of_test = ListParams::default().labels("app.kubernetes.io/name=cadastre-test");
    let alone = async || {
        let pods = Api::<Pod>::namespaced(lab.cp.admin().await?, NAMESPACE).list(&of_test).await?;
        Ok(pods.items.iter().map(ResourceExt::name_any).eq(["cadastre-test"]))
    };
    until("the pods of the test to go", alone).await?;
    let daemon_set = ["-n", NAMESPACE, "get", "daemonset", "cadastre-test"];
    ensure!(!lab.cp.kubectl(&daemon_set).await?.success(), "the DaemonSet of the test is left");
    Ok(())
}

/// Configuration and routes are there all the time, though the agent's token is void when it ends, as after `helm uninstall`.
async fn agent_is_deleted_by_force(lab: &Lab) -> Result<()> {
    let node = &lab.nodes[0];
    let (name, uid) = agent_of(lab, node).await?;
    let look = async {
        let routes = lab.nodes.len() - 1; // To each of the others, for each of two families.
        node.program("sh")?.args(["-c", LOOK, "look", &(2 * routes).to_string()]).run().await?.ok()
    };
    let replace = async {
        // Tokens that were good are taken for good for 10 s more: the kubelet is to hear of it after that.
        let token = format!("cat /var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/*/token");
        let token = node.exec(&["sh", "-c", &token]).await?.ok()?;
        node.signal_all("STOP", "kubelet").await?;
        let delete = ["-n", NAMESPACE, "delete", "pod", &name, "--force", "--grace-period=0"];
        lab.cp.kubectl(&delete).await?.ok()?;
        let void = async || {
            let who = lab.cp.kubectl(&["auth", "whoami", "--token", token.trim()]).await?;
            Ok(!who.success() && who.stderr.contains("Unauthorized"))
        };
        until("the agent's token to be void", void).await?;
        node.signal_all("CONT", "kubelet").await?;
        lab.nodes_ready().await?;
        lab.release_ready().await?; // The next agent is, after it got the lock of the one before.
        node.exec(&["touch", "/tmp/enough"]).await?.ok()
    };
    let (looked, _) = tokio::try_join!(look, replace)?;
    let looks: Option<usize> = looked.strip_suffix(" looks\n").and_then(|looks| looks.parse().ok());
    ensure!(looks.is_some_and(|looks| looks > 10), "{looked}");
    Ok(())
}

/// Name and UID of its Pod, once there is one.
async fn agent_of(lab: &Lab, node: &Node) -> Result<(String, String)> {
    let of_node = format!("spec.nodeName={}", node.name());
    let agents = ListParams::default().labels("app.kubernetes.io/name=cadastre-agent").fields(&of_node);
    let agents = Api::<Pod>::namespaced(lab.cp.admin().await?, NAMESPACE).list(&agents).await?;
    let [agent] = &agents.items[..] else { bail!("{} agents on {}", agents.items.len(), node.name()) };
    Ok((agent.name_any(), agent.uid().context("no UID")?))
}

async fn config(lab: &Lab) -> Result<String> {
    let map = Api::<ConfigMap>::namespaced(lab.cp.admin().await?, NAMESPACE).get("cadastre-config").await?;
    map.data.and_then(|mut data| data.remove("config.yaml")).context("no config.yaml")
}

/// Past Helm: with kubectl, and everything restarted.
async fn set_config(lab: &Lab, content: &str) -> Result<()> {
    let patch = json!({"data": {"config.yaml": content}}).to_string();
    let patch = ["-n", NAMESPACE, "patch", "configmap", "cadastre-config", "--type=merge", "-p", &patch];
    lab.cp.kubectl(&patch).await?.ok()?;
    let restart = ["-n", NAMESPACE, "rollout", "restart", "deployment/cadastre-operator", "daemonset/cadastre-agent"];
    lab.cp.kubectl(&restart).await?.ok().map(drop)
}

async fn mode_changed_past_helm(lab: &Lab) -> Result<()> {
    let right = config(lab).await?;
    let wrong = right.replace("mode: cluster-pool", "mode: kubernetes");
    ensure!(wrong != right, "{right}");
    set_config(lab, &wrong).await?;
    let refused = async || {
        let config = lab.cp.ipam_config().await?;
        ensure!(refuses(&config), "{config:?}");
        ensure!(config.spec.mode == Mode::ClusterPool, "the recorded mode stays");
        Ok(())
    };
    eventually(ROLLOUT, "the refusal", refused).await?;
    // At the first pod of each: one of two replicas, and one of two agents, are not ready and stay so.
    for component in ["operator", "agent"] {
        eventually(ROLLOUT, &format!("the rollout of {component} to stop"), async || stopped(lab, component).await)
            .await?;
    }
    // Served as recorded: a new node, and pods on both.
    lab.cp.create_nodes([node("node-c").ready(false)]).await?;
    until("a new node to have blocks", async || Ok(lab.cp.blocks().await?.contains_key("node-c"))).await?;
    for node in &lab.nodes {
        let name = format!("late-{}", node.name());
        let image = Lab::pause_image();
        let spec = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeName": node.name(), "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "main", "image": image, "imagePullPolicy": "Never"}],
            },
        });
        lab.cp.apply(&spec.to_string()).await?.ok()?;
        let runs = ["wait", "--for=condition=Ready", "--timeout=60s", "pod", &name];
        lab.cp.kubectl(&runs).await?.ok().with_context(|| format!("a pod on {} in the recorded mode", node.name()))?;
        lab.cp.kubectl(&["delete", "pod", &name]).await?.ok()?;
    }
    lab.cp.kubectl(&["delete", "node", "node-c"]).await?.ok()?;

    set_config(lab, &right).await?;
    let healed = async || Ok(!refuses(&lab.cp.ipam_config().await?));
    until("the refusal to be taken back", healed).await?;
    for what in ["deployment/cadastre-operator", "daemonset/cadastre-agent"] {
        lab.cp.kubectl(&["-n", NAMESPACE, "rollout", "status", what, "--timeout=100s"]).await?.ok()?;
    }
    lab.release_ready().await
}

fn refuses(config: &IPAMConfig) -> bool {
    let conditions = config.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == "ModeChangeRefused" && condition.status == "True")
}

/// Whether one pod of the component is of the new kind and not ready, and says why.
async fn stopped(lab: &Lab, component: &str) -> Result<()> {
    let of_component = ListParams::default().labels(&format!("app.kubernetes.io/name=cadastre-{component}"));
    let pods = Api::<Pod>::namespaced(lab.cp.admin().await?, NAMESPACE).list(&of_component).await?.items;
    let runs = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
    let stays = |pod: &&Pod| runs(pod) && pod.metadata.deletion_timestamp.is_none();
    let unready: Vec<&Pod> = pods.iter().filter(stays).filter(|pod| !is_ready(pod)).collect();
    let hash = |pod: &Pod| {
        let labels = pod.labels();
        labels.get("pod-template-hash").or_else(|| labels.get("controller-revision-hash")).cloned()
    };
    let kinds: BTreeSet<_> = pods.iter().map(hash).collect();
    ensure!(
        kinds.len() == 2 && !unready.is_empty(),
        "{} kinds of {component}, {} not ready",
        kinds.len(),
        unready.len()
    );
    ensure!(unready.len() < pods.len(), "all are not ready");
    let logs = ["-n", NAMESPACE, "logs", &unready[0].name_any()];
    let logs = lab.cp.kubectl(&logs).await?.ok()?;
    ensure!(logs.contains("cluster-pool") && logs.contains("kubernetes"), "{logs}");
    Ok(())
}
