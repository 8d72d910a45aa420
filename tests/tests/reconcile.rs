//! Who has an address in the end, on a real API server: leaks are freed on two proofs, what lives never is; a lost journal is
//! made again from what lives; Pods get the addresses that they ask for. Files stand for network namespaces, as the agent
//! looks at their device and inode only, unless it has to look into them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use cadastre_core::Cidr;
use cadastre_tests::{
    Cni, ControlPlane, DUAL_STACK, NODE, NetNs, Plugin, Proc, Program, addresses, eventually, held, installed, ipam,
    pod, report, status, until,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// A node whose agent looks for leaks five times a second.
struct Node {
    cp: ControlPlane,
    operator: Proc,
    agent: Proc,
    plugin: Plugin,
    blocks: Vec<Cidr>,
}

impl Node {
    async fn start() -> Result<Self> {
        let cp = installed(DUAL_STACK).await?;
        let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
        let settings = cp.settings_file("agent").await?;
        let agent = cp.agent_program(&settings, NODE).await?.env("CADASTRE_RECONCILE_SECONDS", "0.2");
        let agent = agent.start(cp.folder(), "agent")?;
        let well = async || Ok(status(&cp, &[]).await?.success());
        until("the agent is well", well).await.with_context(|| agent.tail())?;
        let blocks = cp.blocks().await?.remove(NODE).context("no blocks")?;
        let plugin = Plugin::new(&cp)?;
        Ok(Self { cp, operator, agent, plugin, blocks })
    }

    /// Something that stands for a network namespace.
    fn netns(&self, name: &str) -> Result<PathBuf> {
        let folder = self.cp.folder().join("spaces");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(name);
        std::fs::write(&path, "")?;
        Ok(path)
    }

    /// A Pod on the node, its attachment `id` in a namespace `id`.
    async fn run_pod(&self, name: &str, id: &str) -> Result<(String, PathBuf, Vec<IpAddr>)> {
        let made: Pod = self.cp.create_in("default", &pod("default", name).on_node(NODE).build()).await?;
        let uid = made.metadata.uid.context("a Pod without UID")?;
        let (netns, addresses) = self.attach(name, &uid, id).await?;
        Ok((uid, netns, addresses))
    }

    async fn attach(&self, name: &str, uid: &str, id: &str) -> Result<(PathBuf, Vec<IpAddr>)> {
        let netns = self.netns(id)?;
        let args = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID={uid}");
        let answer = self.plugin.call_with(&netns, "ADD", id, &args).await?;
        Ok((netns, addresses(&answer.map_err(|error| anyhow!("ADD of {id}: {error}"))?)?))
    }

    async fn holds(&self, id: &str) -> Result<bool> {
        Ok(held(&report(&self.cp).await?)?.values().any(|holder| holder == id))
    }

    async fn passes(&self, count: u32) -> Result<()> {
        for _ in 0..count {
            // An agent that was started just now does not listen yet.
            let before = eventually(SOON, "the agent's metrics", async || self.count_passes().await).await?;
            until("another pass", async || Ok(self.count_passes().await? != before)).await?;
        }
        Ok(())
    }

    async fn count_passes(&self) -> Result<String> {
        let metrics = self.agent.http("/metrics").await?;
        let mut lines = metrics.lines();
        lines
            .find(|line| line.starts_with("cadastre_agent_reconciliations_total"))
            .map(str::to_owned)
            .context(metrics.clone())
    }

    async fn delete_pod(&self, name: &str) -> Result<()> {
        let pods = Api::<Pod>::namespaced(self.cp.admin().await?, "default");
        pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }
}

#[tokio::test]
async fn leaks_are_freed_on_two_proofs_and_what_lives_never_is() -> Result<()> {
    let node = Node::start().await?;
    let (_, here, _) = node.run_pod("here", "here").await?;
    let (_, no_netns, _) = node.run_pod("no-netns", "no-netns").await?;
    let (_, no_pod, _) = node.run_pod("no-pod", "no-pod").await?;
    let (_, leak, leaked) = node.run_pod("leak", "leak").await?;
    let (uid, first, _) = node.run_pod("tried-twice", "first").await?;
    node.attach("tried-twice", &uid, "second").await?;
    // The mirror of a static Pod has another UID than the one that kubelet tells the runtime.
    let mut mirror = pod("default", "etcd-n0").on_node(NODE).build();
    mirror.metadata.annotations = Some([("kubernetes.io/config.hash".to_owned(), "hash-1".to_owned())].into());
    let _: Pod = node.cp.create_in("default", &mirror).await?;
    let (static_pod, _) = node.attach("etcd-n0", "hash-1", "static").await?;
    // On another node of this name an earlier Pod may have been called the same.
    let (old_name, _) = node.attach("here", "uid-of-another", "old-name").await?;

    for gone in [&no_netns, &leak, &first, &static_pod, &old_name] {
        std::fs::remove_file(gone)?;
    }
    for name in ["no-pod", "leak"] {
        node.delete_pod(name).await?;
    }
    for id in ["leak", "first", "old-name"] {
        until(&format!("{id} is freed"), async || Ok(!node.holds(id).await?))
            .await
            .with_context(|| node.agent.tail())?;
    }
    node.passes(3).await?;
    for id in ["here", "no-netns", "no-pod", "second", "static"] {
        assert!(node.holds(id).await?, "{id} is held: one proof is none\n{}", node.agent.tail());
    }
    assert!(here.exists() && no_pod.exists());

    let events = Api::<Event>::all(node.cp.admin().await?);
    let said = async || {
        let events = events.list(&ListParams::default()).await?.items.into_iter();
        let mut notes =
            events.filter(|event| event.reason.as_deref() == Some("AddressReclaimed")).filter_map(|event| event.note);
        Ok(notes.any(|note| note.contains(&leaked[0].to_string()) && note.contains("default/leak")))
    };
    until("an Event names what was freed", said).await?;
    let metrics = node.agent.http("/metrics").await?;
    assert!(metrics.contains("cadastre_agent_reclaimed_total 3"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn without_the_api_server_or_the_namespaces_nothing_is_freed() -> Result<()> {
    let node = Node::start().await?;
    let (_, away, _) = node.run_pod("away", "away").await?;
    let (_, unseen, _) = node.run_pod("unseen", "unseen").await?;
    node.delete_pod("unseen").await?;
    // The folder itself is not there: it may not be mounted, so that a missing file proves nothing.
    let folder = unseen.parent().context("no folder")?.to_owned();
    let aside = folder.with_extension("aside");
    std::fs::rename(&folder, &aside)?;
    node.passes(3).await?;
    assert!(node.holds("unseen").await?, "{}", node.agent.tail());
    std::fs::rename(&aside, &folder)?;
    node.passes(3).await?;
    assert!(node.holds("unseen").await?, "its namespace lives");

    node.delete_pod("away").await?;
    let lacks = async || Ok(node.plugin.call("STATUS", "x").await?.is_ok());
    until("the agent serves", lacks).await?;
    node.cp.stop_apiserver();
    std::fs::remove_file(&away)?;
    node.passes(3).await?;
    assert!(node.holds("away").await?, "nobody could say that the Pod is gone\n{}", node.agent.tail());
    node.agent.restart()?;
    until("the agent is there again", async || Ok(report(&node.cp).await.is_ok())).await?;
    node.passes(3).await?;
    assert!(node.holds("away").await?, "and nobody can after a restart\n{}", node.agent.tail());
    node.cp.restart_apiserver().await?;
    until("it is freed once the API server says so", async || Ok(!node.holds("away").await?)).await
}

#[tokio::test]
async fn pods_get_the_addresses_that_they_ask_for() -> Result<()> {
    let node = Node::start().await?;
    let (v4, v6) = (node.blocks[0].nth(77).context("no v4")?, node.blocks[1].nth(77).context("no v6")?);
    let asking = |name: &str, v4: &str| {
        let mut asking = pod("default", name).on_node(NODE).build();
        let asked = [("cadastre.io/ipv4".to_owned(), v4.to_owned()), ("cadastre.io/ipv6".to_owned(), v6.to_string())];
        asking.metadata.annotations = Some(asked.into());
        asking
    };
    let pods = async |asking: &Pod| -> Result<String> {
        let made: Pod = node.cp.create_in("default", asking).await?;
        made.metadata.uid.context("a Pod without UID")
    };
    let uid = pods(&asking("fixed", &v4.to_string())).await?;
    // The watch may not have seen it yet: then it is looked up.
    let (_, given) = node.attach("fixed", &uid, "fixed").await?;
    assert_eq!(given, [v4, v6]);

    let uid = pods(&asking("late", &v4.to_string())).await?;
    let refused = node.attach("late", &uid, "late").await.unwrap_err().to_string();
    assert!(refused.contains("\"code\":102") && refused.contains("default/fixed"), "{refused}");
    let explained =
        Program::ours("cadastre-agent")?.args(["explain", "default/late", "--socket"]).arg(node.cp.agent_socket(NODE));
    let explained = explained.run().await?.ok()?;
    assert!(explained.contains("default/late was given no address") && explained.contains("(code 102)"), "{explained}");
    let explained =
        Program::ours("cadastre-agent")?.args(["explain", &v4.to_string(), "--socket"]).arg(node.cp.agent_socket(NODE));
    let explained = explained.run().await?.ok()?;
    assert!(explained.starts_with(&format!("{v4} is held by default/fixed (pod UID ")), "{explained}");

    node.plugin.del("fixed").await?;
    assert_eq!(node.attach("late", &uid, "late").await?.1, [v4, v6], "it still rests, but nobody else may have it");
    let uid = pods(&asking("wrong", "10.0.0")).await?;
    let refused = node.attach("wrong", &uid, "wrong").await.unwrap_err().to_string();
    assert!(refused.contains("\"code\":7") && refused.contains("10.0.0"), "{refused}");
    let router = node.blocks[0].nth(1).context("no router")?;
    let uid = pods(&asking("router", &router.to_string())).await?;
    let refused = node.attach("router", &uid, "router").await.unwrap_err().to_string();
    assert!(refused.contains("\"code\":104"), "{refused}");

    // Whoever waited for an agent to start is there before its watch.
    let uid = pods(&asking("hasty", &v4.to_string())).await?;
    node.agent.restart()?;
    let refused = node.attach("hasty", &uid, "hasty").await.unwrap_err().to_string();
    assert!(refused.contains("\"code\":102") && refused.contains("default/late"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_lost_journal_is_made_again_from_what_lives() -> Result<()> {
    let node = Node::start().await?;
    let cp = &node.cp;
    let (host, space, stray) = (NetNs::new("node")?, NetNs::new("known")?, NetNs::new("stray")?);
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam(&cp.agent_socket(NODE))});
    let cni = Cni::new(&host, &json!({"cniVersion": "1.1.0", "name": "pods", "plugins": [bridge]}))?;
    let attachment = cadastre_tests::Attachment::new(&space).pod("default", "known", "uid-known");
    let known = addresses(&cni.add(&attachment).await?)?;
    // Somebody's address that no runtime knows of any more.
    let lost = node.blocks[0].nth(9).context("no address")?.to_string();
    stray.run(&["ip", "addr", "add", &format!("{lost}/24"), "dev", "lo"]).await?.ok()?;

    node.agent.kill9();
    let folder = cp.folder().join(NODE);
    for file in ["journal", "agent.lock"] {
        std::fs::remove_file(folder.join("state").join(file))?;
    }
    // The runtime's cache, and the namespaces of this node alone.
    std::os::unix::fs::symlink(cni.cache(), folder.join("cni"))?;
    let spaces = folder.join("netns");
    std::fs::create_dir_all(&spaces)?;
    for netns in [&space, &stray] {
        std::os::unix::fs::symlink(netns.path(), spaces.join(netns.name()))?;
    }
    node.agent.restart()?;
    until("the agent is well", async || Ok(status(cp, &[]).await?.success()))
        .await
        .with_context(|| node.agent.tail())?;
    let again = report(cp).await?;
    let rows = again["addresses"].as_array().context("no addresses")?;
    let owner = |address: &str| rows.iter().find(|row| row["address"] == address).map(|row| row["owner"].clone());
    assert_eq!(owner(&known[0].to_string()), Some(json!("default/known")), "{again}");
    assert_eq!(owner(&known[1].to_string()), Some(json!("default/known")), "{again}");
    assert_eq!(owner(&lost), Some(Value::from(stray.name())), "held by the namespace that has it");
    cni.check(&attachment).await?;

    drop(stray);
    until("it is freed with its namespace", async || {
        let report = report(cp).await?;
        let rows = report["addresses"].as_array().context("no addresses")?;
        Ok(rows.iter().all(|row| row["address"] != lost.as_str() || row["state"] == "cooling"))
    })
    .await
    .with_context(|| node.agent.tail())?;
    cni.del(&attachment).await
}

#[tokio::test]
async fn a_block_that_goes_is_closed_at_once_and_keeps_what_is_held() -> Result<()> {
    let node = Node::start().await?;
    let (_, _, given) = node.run_pod("stays", "stays").await?;
    let nodes = Api::<cadastre_api::IPAMNode>::all(node.cp.admin().await?);
    // Nobody puts it right: the operator is away.
    node.operator.kill9();
    let retiring = json!([{"op": "add", "path": "/spec/ipam/allocated/0/retiring", "value": true}]);
    let patch = Patch::<()>::Json(serde_json::from_value(retiring)?);
    nodes.patch(NODE, &PatchParams::default(), &patch).await?;
    let closed = async || {
        let said = status(&node.cp, &[]).await?.stdout;
        Ok(said.contains(&format!("block {}: the operator wants it back; 1 held", node.blocks[0])))
    };
    until("status says so", closed).await.with_context(|| node.agent.tail())?;
    let refused = node.plugin.call("ADD", "late").await?.unwrap_err();
    assert_eq!(refused["code"], 101, "{refused}");
    assert_eq!(node.plugin.add("stays").await?, given, "what is held stays");
    node.plugin.del("stays").await?;
    Ok(())
}
