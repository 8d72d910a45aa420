//! Least power, proven both ways: over all that operator and agents do, the API server's audit log shows no request that
//! was not granted, and nothing granted that was not used.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use cadastre_api::{IPAMNode, Mode};
use cadastre_tests::{
    AGENT, ControlPlane, NAMESPACE, NODE, Plugin, Program, RELEASE, binary, eventually, node, repo, status, until,
};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);
/// The account, the `DaemonSet` and the pod of `helm test`.
const TEST: &str = "cadastre-test";

/// Who may do what: account, namespace (empty: everywhere), API group, resource, verb.
type Power = (String, String, String, String, String);

/// What the installed roles grant to the accounts of their bindings.
async fn granted(cp: &ControlPlane) -> Result<BTreeSet<Power>> {
    let list = async |kind: &str| -> Result<Vec<Value>> {
        let ours = ["get", kind, "-A", "-l", "app.kubernetes.io/part-of=cadastre", "-o", "json"];
        let list: Value = serde_json::from_str(&cp.kubectl(&ours).await?.ok()?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    };
    let roles = [list("clusterroles").await?, list("roles").await?].concat();
    let bindings = [list("clusterrolebindings").await?, list("rolebindings").await?].concat();
    let mut powers = BTreeSet::new();
    for role in &roles {
        let bound = bindings.iter().filter(|binding| {
            binding["roleRef"]["name"] == role["metadata"]["name"]
                && binding["roleRef"]["kind"] == role["kind"]
                && binding["metadata"]["namespace"] == role["metadata"]["namespace"]
        });
        let subjects: Vec<_> = bound.flat_map(|binding| strings(&binding["subjects"], "name")).collect();
        ensure!(!subjects.is_empty(), "nobody has the role {}", role["metadata"]["name"]);
        let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default();
        for (account, rule) in subjects.iter().flat_map(|account| rules(role).map(move |rule| (account, rule))) {
            for group in strings(&rule["apiGroups"], "") {
                for resource in strings(&rule["resources"], "") {
                    let of = |verb| (account.clone(), namespace.to_owned(), group.clone(), resource.clone(), verb);
                    powers.extend(strings(&rule["verbs"], "").into_iter().map(of));
                }
            }
        }
    }
    Ok(powers)
}

fn rules(role: &Value) -> impl Iterator<Item = &Value> {
    role["rules"].as_array().into_iter().flatten()
}

/// The texts of a list, or those under a key of its objects.
fn strings(list: &Value, key: &str) -> Vec<String> {
    let text = |item: &Value| if key.is_empty() { item } else { &item[key] }.as_str().unwrap_or_default().to_owned();
    list.as_array().into_iter().flatten().map(text).collect()
}

/// Fails unless what was used is what is granted, to the verb.
async fn used_is_granted(cp: &ControlPlane) -> Result<()> {
    let mut unused = granted(cp).await?;
    let granted = unused.clone();
    let account = format!("system:serviceaccount:{NAMESPACE}:");
    for event in cp.audit().await? {
        let Some(user) = event.user.strip_prefix(&account) else { continue };
        let resource = [event.resource.as_str(), &event.subresource].join("/");
        let resource = resource.trim_end_matches('/').to_owned();
        let of = |namespace: &str| {
            (user.to_owned(), namespace.to_owned(), event.group.clone(), resource.clone(), event.verb.clone())
        };
        let powers = [of(""), of(&event.namespace)];
        ensure!(event.code != 403 && powers.iter().any(|power| granted.contains(power)), "not granted: {event:?}");
        for power in &powers {
            unused.remove(power);
        }
    }
    ensure!(unused.is_empty(), "granted, and not used: {unused:#?}");
    Ok(())
}

fn pool(cidrs: &str) -> String {
    format!(
        "ipam: {{mode: cluster-pool, operator: {{clusterPoolIPv4PodCIDRList: [{cidrs}], clusterPoolIPv4MaskSize: 24}}}}\n"
    )
}

/// What stands for a network namespace: the agent looks at device and inode only.
fn netns(cp: &ControlPlane, name: &str) -> Result<PathBuf> {
    let path = cp.folder().join("spaces").join(name);
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    std::fs::write(&path, "")?;
    Ok(path)
}

/// Pods whose DEL never came: two that nobody named, whose Events are one that is counted, and one to be asked for.
async fn leak(cp: &ControlPlane) -> Result<()> {
    let plugin = Plugin::new(cp)?;
    for (id, args) in [("a", ""), ("b", ""), ("c", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=c")] {
        let space = netns(cp, id)?;
        plugin.call_with(&space, "ADD", id, args).await?.map_err(|error| anyhow!("ADD of {id}: {error}"))?;
        std::fs::remove_file(&space)?;
    }
    Ok(())
}

/// What `helm test` looks at, on a cluster none of whose nodes takes a pod.
async fn look_as_helm_test_does(cp: &ControlPlane) -> Result<()> {
    let chart = repo().join("charts/cadastre").display().to_string();
    let hooks = ["--show-only=templates/test-rbac.yaml", "--show-only=templates/test.yaml"];
    let hooks =
        cp.helm(&[&["template", RELEASE, &chart, "--namespace", NAMESPACE], &hooks[..]].concat()).await?.ok()?;
    cp.apply(&hooks).await?.ok()?;
    let counts = ["currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"];
    let mut seen: Value = counts.into_iter().map(|count| (count.to_owned(), json!(0))).collect();
    seen["observedGeneration"] = json!(1);
    let patch = json!({"status": seen}).to_string();
    let patch = ["-n", NAMESPACE, "patch", "daemonset", TEST, "--subresource=status", "--type=merge", "-p", &patch];
    cp.kubectl(&patch).await?.ok()?;
    let kubeconfig = cp.service_account_kubeconfig(NAMESPACE, TEST).await?;
    let test = Program::ours("cadastre-operator")?.env("KUBECONFIG", kubeconfig).arg("test");
    let test = test.args(["--daemon-set", &format!("{NAMESPACE}/{TEST}"), "--config"]);
    let output = test.arg(cp.settings_file("test").await?).run().await?;
    for said in ["no node takes a pod of the test", " findings: "] {
        ensure!(!output.success() && output.stdout.contains(said), "{output:?}");
    }
    Ok(())
}

/// A block of one node in another's `IPAMNode`, by hand: the operator has to look at the ledger and at both.
async fn dispute(cp: &ControlPlane, of: &str, to: &str) -> Result<()> {
    let nodes = cp.ipam_nodes().await?;
    let block = nodes.get(of).context("no IPAMNode")?.spec.ipam.allocated.first().context("no block")?;
    let mut block = serde_json::to_value(block)?;
    block["grant"] = json!("00000000-0000-4000-8000-000000000001");
    let patch = json!({"spec": {"ipam": {"allocated": [block], "podCIDRs": [block["cidr"]]}}}).to_string();
    cp.kubectl(&["patch", "ipamnode", to, "--type=merge", "-p", &patch]).await?.ok().map(drop)
}

#[tokio::test]
async fn what_is_granted_is_used_and_what_is_used_is_granted() -> Result<()> {
    let cp = ControlPlane::start().await?;
    // A mode that is changed while nothing is in use, by the second of two operators.
    cp.install_chart("ipam: {mode: kubernetes}\n").await?.ok()?;
    let first = cp.start_operator("first", &[]).await?;
    until("the config is recorded", async || Ok(cp.ipam_config().await.is_ok())).await?;
    first.term();
    first.wait_exit(SOON).await?;
    cp.install_chart(&pool("10.1.0.0/23")).await?.ok()?;
    let operator = cp.start_operator("second", &[]).await?;
    until("the mode is changed", async || Ok(cp.ipam_config().await?.spec.mode == Mode::ClusterPool)).await?;

    // Two nodes have room; one of them goes.
    let tainted = node(NODE).ready(false).taint(cadastre_api::NOT_READY_TAINT, "NoSchedule");
    cp.create_nodes([tainted, node("n1").ready(false)]).await?;
    until("two nodes are served", async || Ok(cp.blocks().await?.len() == 2)).await?;
    cp.create_nodes([node("n2").ready(false)]).await?;
    until("one waits", async || cp.says("n2", "PoolExhausted", &["append"]).await).await?;
    let agent = cp.agent_program(&cp.settings_file("agent").await?, NODE).await?;
    // It installs the plugin, and nothing that is the machine's.
    let agent = agent.args(["--daemon-set", &format!("{NAMESPACE}/{AGENT}")]).arg("--plugin").arg(binary("cadastre")?);
    let agent = agent.env("CADASTRE__CNI__INSTALL", "true").env("CADASTRE__CNI__CUSTOMCONF", "true");
    let agent =
        agent.env("CADASTRE__AUTODIRECTNODEROUTES", "false").env("CADASTRE__CNI__BINPATH", cp.folder().join("bin"));
    let agent = agent.env("CADASTRE_RECONCILE_SECONDS", "0.2").start(cp.folder(), "agent")?;
    until("the agent is well", async || Ok(status(&cp, &[]).await?.success())).await?;
    leak(&cp).await?;
    let freed = async || Ok(agent.http("/metrics").await?.contains("cadastre_agent_reclaimed_total 3"));
    until("what was never given back is freed", freed).await?;
    dispute(&cp, NODE, "n2").await?;
    let disputed = async || Ok(operator.http("/metrics").await?.contains("cadastre_operator_disputed_nodes 2\n"));
    until("both claim a block", disputed).await.with_context(|| operator.tail())?;
    Api::<Node>::all(cp.admin().await?).delete("n1", &DeleteParams::default()).await?;
    until("its IPAMNode is deleted", async || Ok(!cp.ipam_nodes().await?.contains_key("n1"))).await?;

    // Another pool, by one more operator.
    operator.term();
    operator.wait_exit(SOON).await?;
    cp.install_chart(&pool("10.1.0.0/23, 10.2.0.0/23")).await?.ok()?;
    let _operator = cp.start_operator("third", &[]).await?;
    look_as_helm_test_does(&cp).await?;
    // It asks whether it goes for good.
    agent.term();
    agent.wait_exit(SOON).await?;
    eventually(SOON, "that used and granted are the same", async || used_is_granted(&cp).await)
        .await
        .with_context(|| agent.tail())
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_node_only() -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(&pool("10.1.0.0/16")).await?.ok()?;
    let _operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    cp.create_nodes([node("n0").ready(false), node("n1").ready(false)]).await?;
    until("two nodes are served", async || Ok(cp.blocks().await?.len() == 2)).await?;
    // The token of the agent's pod on n1, taken to wherever one likes; and one of no pod.
    let stolen = cp.service_account_client_on(NAMESPACE, AGENT, "n1").await?;
    let unbound = cp.service_account_client(NAMESPACE, AGENT).await?;
    let says = async |client: &Client, node: &str| {
        let status = Patch::Merge(json!({"status": {"ipam": {"releasable": []}}}));
        Api::<IPAMNode>::all(client.clone()).patch_status(node, &PatchParams::default(), &status).await
    };
    let refused = async |client: &Client, why: &str| {
        says(client, "n0").await.err().map(|error| error.to_string()).filter(|error| error.contains(why))
    };
    let why = "the status of IPAMNode n0 is not for the agent of node n1 to write";
    eventually(SOON, "n1's agent is refused", async || refused(&stolen, why).await).await?;
    eventually(SOON, "nobody's is", async || refused(&unbound, "the agent's token does not name its node").await)
        .await?;
    says(&stolen, "n1").await.context("of its own node it may")?;
    says(&cp.admin().await?, "n0").await.context("others are not concerned")?;

    let event = |name: &str, node: &str| -> Result<Event> {
        Ok(serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default"},
            "action": "Serve", "reason": "Test", "type": "Normal",
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": AGENT, "reportingInstance": node,
            "regarding": {"apiVersion": "cadastre.io/v1alpha1", "kind": "IPAMNode", "name": node},
        }))?)
    };
    let events = |client: &Client| Api::<Event>::namespaced(client.clone(), "default");
    let create = async |client: &Client, event| events(client).create(&PostParams::default(), &event).await;
    create(&stolen, event("own", "n1")?).await.context("an Event on its own node")?;
    let foreign = event("foreign", "n0")?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let refused = async || {
        let error = events(&stolen).create(&dry, &foreign).await.err().map(|error| error.to_string());
        error.filter(|error| error.contains("is not for the agent of node n1 to write"))
    };
    eventually(SOON, "an Event on another node is refused", refused).await?;
    create(&cp.admin().await?, foreign.clone()).await?;
    let again = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    let again =
        async |name: &str| events(&stolen).patch(name, &PatchParams::default(), &Patch::Merge(again.clone())).await;
    let error = again("foreign").await.err().context("nor may it count one")?.to_string();
    assert!(error.contains("is not for the agent of node n1 to write"), "{error}");
    again("own").await.context("but its own")?;
    let elsewhere = Api::<Event>::namespaced(stolen.clone(), NAMESPACE);
    let mut of_system = event("own", "n1")?;
    of_system.metadata.namespace = Some(NAMESPACE.to_owned());
    let error = elsewhere.create(&PostParams::default(), &of_system).await.err().context("elsewhere")?;
    assert!(error.to_string().contains("forbidden"), "{error}");
    Ok(())
}
