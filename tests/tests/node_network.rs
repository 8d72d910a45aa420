//! Agents set their nodes up: plugin, configuration, routes. Nodes are network namespaces on one switch, interface plugins the
//! real ones, and the chart's settings and RBAC those that a cluster gets without values.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cadastre_tests::{
    Attachment, ControlPlane, DUAL_STACK, Fabric, MTU, NAMESPACE, NetNs, Pair, Program, addresses, node, until,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

/// An agent that is told to stop asks the API server, for 2 s at most.
const STOP: Duration = Duration::from_secs(20);

const BRIDGE: (&str, &str) = ("CADASTRE__CNI__INTERFACEPLUGIN", "bridge");
const EXCLUSIVE: (&str, &str) = ("CADASTRE__CNI__EXCLUSIVE", "true");

/// Two nodes that have their configuration, and routes to each other.
async fn start(env: &[(&str, &str)]) -> Result<Pair> {
    let two = Pair::start(env).await?;
    for (number, host) in two.hosts.iter().enumerate() {
        let wanted = routes_to(&two, 1 - number).await?;
        let connected = async || Ok(host.conflist().exists() && host.routes().await? == wanted);
        until("configuration and routes", connected).await.with_context(|| two.agents[number].tail())?;
    }
    Ok(two)
}

/// As `ip route` shows the routes to a node.
async fn routes_to(two: &Pair, number: usize) -> Result<Vec<String>> {
    let host = &two.hosts[number];
    let served = async || Ok(two.cp.blocks().await?.get(host.name()).is_some_and(|blocks| blocks.len() == 2));
    until("both families are assigned", served).await?;
    let blocks = two.cp.blocks().await?.remove(host.name()).unwrap_or_default();
    let via = |(block, address): (_, IpAddr)| match address {
        IpAddr::V4(_) => format!("{block} via {address} dev eth0"),
        IpAddr::V6(_) => format!("{block} via {address} dev eth0 metric 1024 pref medium"),
    };
    Ok(blocks.into_iter().zip(host.addresses()).map(via).collect())
}

/// Pods of both nodes reach each other and both nodes, and nodes reach them.
async fn everybody_reaches_everybody(env: &[(&str, &str)], plugin: &str) -> Result<()> {
    let two = start(env).await?;
    let spaces = [NetNs::new("pod-1")?, NetNs::new("pod-2")?];
    let mut pods = Vec::new();
    for (number, space) in spaces.iter().enumerate() {
        let result = two.cni(number)?.add(&Attachment::new(space)).await.with_context(|| two.agents[number].tail())?;
        pods.push(addresses(&result)?);
        let link = space.run(&["ip", "link", "show", "eth0"]).await?.ok()?;
        assert!(link.contains(&format!("mtu {MTU} ")), "{link}");
    }
    for number in 0..2 {
        let (own, other) = (&two.hosts[number], &two.hosts[1 - number]);
        for address in pods[1 - number].iter().chain(&own.addresses()).chain(&other.addresses()) {
            spaces[number].reaches(address).await.with_context(|| format!("from pod {number}"))?;
        }
        for address in pods.iter().flatten() {
            own.netns().reaches(address).await.with_context(|| format!("from node {number}"))?;
        }
    }
    let status = two.report(0).await?;
    let installed = status["cni"]["message"].as_str().context("nothing installed")?;
    assert!(status["cni"]["ok"] == true && installed.contains(&format!("({plugin}, MTU {MTU})")), "{status}");
    assert_eq!(status["routes"]["message"], "2 to 1 node");
    assert!(two.agents[0].http_in(two.hosts[0].netns(), "/metrics").await?.contains("\ncadastre_agent_routes 2\n"));
    for (number, space) in spaces.iter().enumerate() {
        two.cni(number)?.del(&Attachment::new(space)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn pods_and_nodes_reach_each_other_by_ptp() -> Result<()> {
    everybody_reaches_everybody(&[], "ptp").await
}

#[tokio::test]
async fn pods_and_nodes_reach_each_other_by_bridge() -> Result<()> {
    everybody_reaches_everybody(&[BRIDGE], "bridge").await
}

#[tokio::test]
async fn routes_follow_nodes_and_come_back_and_those_of_others_stay() -> Result<()> {
    let two = start(&[]).await?;
    let [first, second] = &two.hosts;
    let wanted = first.routes().await?;
    let block = wanted[0].split(' ').next().context("no block")?.to_owned();
    let foreign = ["route", "add", "10.255.0.0/24", "via", "192.168.77.2"];
    first.netns().ip(&foreign)?;
    first.netns().ip(&["route", "del", &block])?;
    let back = async || Ok(first.routes().await? == wanted);
    until("the route is back", back).await?;

    // Kept while no agent runs, and by the next one; what is no longer right goes.
    let said = |what: &str| two.agents[0].log().matches(what).count();
    let before = ["route added", "the CNI configuration is written"].map(said);
    two.agents[0].kill9();
    assert_eq!(first.routes().await?, wanted);
    first.netns().ip(&["route", "add", "10.254.0.0/24", "via", "192.168.77.2", "proto", "202"])?;
    two.agents[0].restart()?;
    until("a route that leads nowhere is gone", back).await?;
    let after = ["route added", "the CNI configuration is written"].map(said);
    assert_eq!(after, before, "{}", two.agents[0].tail());

    // One behind a router is for the network to reach.
    two.cp.create_nodes([node("n9").ready(false).addresses(["172.30.0.9", "fd99::9"])]).await?;
    let expected = "2 to 1 node; none to n9 (172.30.0.9 is not on a link of this node)";
    let named = async || Ok(two.report(0).await?["routes"]["message"] == expected);
    until("the node that no route leads to is named", named).await.with_context(|| two.agents[0].tail())?;
    let counted = two.agents[0].http_in(first.netns(), "/metrics").await?;
    assert!(counted.contains("\ncadastre_agent_unreached_nodes 1\n"), "{counted}");
    assert_eq!(first.routes().await?, wanted);

    let nodes = Api::<Node>::all(two.cp.admin().await?);
    nodes.delete("n9", &DeleteParams::default()).await?;
    moves(&two, &nodes, &wanted).await?;
    nodes.delete(second.name(), &DeleteParams::default()).await?;
    nodes.delete("n8", &DeleteParams::default()).await?;
    until("the routes of a node that is gone", async || Ok(first.routes().await?.is_empty())).await?;
    let others = first.netns().run(&["ip", "route", "show", "10.255.0.0/24"]).await?.ok()?;
    assert!(others.contains("via 192.168.77.2"), "{others}");
    Ok(())
}

/// Routes follow a node to its new address, and stay when its Node names none for a moment. Leaves a node n8 behind.
async fn moves(two: &Pair, nodes: &Api<Node>, wanted: &[String]) -> Result<()> {
    let [first, second] = &two.hosts;
    let name = async |addresses: &[&str]| {
        let addresses: Vec<_> = addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        let patch = Patch::Merge(json!({"status": {"addresses": addresses}}));
        nodes.patch_status(second.name(), &PatchParams::default(), &patch).await
    };
    name(&["192.168.77.22", "fd77::22"]).await?;
    let moved: Vec<String> =
        wanted.iter().map(|route| route.replace("77.2 ", "77.22 ").replace("::2 ", "::22 ")).collect();
    assert_ne!(moved, wanted);
    until("the routes have moved", async || Ok(first.routes().await? == moved)).await?;
    name(&[]).await?;
    // What comes after it in the same watch shows that it was seen.
    two.cp.create_nodes([node("n8").ready(false).addresses(["192.168.77.8", "fd77::8"])]).await?;
    until("the routes of one more node", async || Ok(first.routes().await?.len() == 4)).await?;
    let there = first.routes().await?;
    assert!(moved.iter().all(|route| there.contains(route)), "{there:?}");
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_to_make_no_routes_removes_those_of_the_one_before() -> Result<()> {
    let two = start(&[]).await?;
    let [first, second] = &two.hosts;
    first.netns().ip(&["route", "add", "10.255.0.0/24", "via", "192.168.77.2"])?;
    two.agents[0].kill9();
    assert_eq!(first.routes().await?.len(), 2);
    let off = two.cp.agent_program_on(first, &[("CADASTRE__AUTODIRECTNODEROUTES", "false")]).await?;
    let off = off.start(two.cp.folder(), "agent-1-off")?;
    until("its routes are gone", async || Ok(first.routes().await?.is_empty())).await.with_context(|| off.tail())?;
    until("it serves", async || Ok(two.report(0).await?["cni"]["ok"] == true)).await.with_context(|| off.tail())?;
    assert!(first.routes().await?.is_empty() && two.report(0).await?["routes"].is_null(), "{}", off.tail());
    let others = first.netns().run(&["ip", "route", "show", "10.255.0.0/24"]).await?.ok()?;
    assert!(others.contains("via 192.168.77.2"), "{others}");
    assert_eq!(second.routes().await?.len(), 2, "its agent is another");
    Ok(())
}

#[tokio::test]
async fn what_is_altered_is_mended_also_while_it_runs() -> Result<()> {
    let two = start(&[]).await?;
    let host = &two.hosts[0];
    let (conflist, plugin) = (host.conflist(), host.plugin());
    let right = fs::read_to_string(&conflist)?;
    assert_eq!(fs::metadata(&conflist)?.mode() & 0o777, 0o600);
    let mended = async || Ok(fs::read_to_string(&conflist).is_ok_and(|text| text == right));
    fs::write(&conflist, "{}")?;
    until("an altered configuration", mended).await?;
    fs::remove_file(&conflist)?;
    until("a removed configuration", mended).await?;

    // A plugin that runs cannot be written to, and its file is replaced all the same.
    let runs = host.folder().join("sleep");
    fs::copy("/bin/sleep", &runs)?;
    let sleep = Program::new(&runs).arg("60").start(two.cp.folder(), "sleep")?;
    let exe = format!("/proc/{}/exe", sleep.pid());
    until("it runs", async || Ok(fs::read_link(&exe)? == runs)).await?;
    fs::rename(&runs, &plugin)?;
    let ours = fs::read(cadastre_tests::binary("cadastre")?)?;
    until("another plugin", async || Ok(fs::read(&plugin).is_ok_and(|there| there == ours))).await?;
    ensure!(sleep.is_running(), "it went on with the file that it was started from");
    assert_eq!(host.there(&host.conf())?, ["05-cadastre.conflist"]);
    assert_eq!(host.there(&host.bin())?, ["bridge", "cadastre", "portmap", "ptp"]);
    Ok(())
}

#[tokio::test]
async fn all_of_it_stays_until_the_daemon_set_is_gone() -> Result<()> {
    let two = start(&[EXCLUSIVE]).await?;
    let [first, second] = &two.hosts;
    let daemon_sets = Api::<DaemonSet>::namespaced(two.cp.admin().await?, NAMESPACE);
    fs::write(first.conf().join("10-other.conf"), "{}")?;
    let alone = async || Ok(first.there(&first.conf())? == ["05-cadastre.conflist", "10-other.conf.cadastre_bak"]);
    until("the other configuration is renamed", alone).await?;

    // A rollout.
    two.agents[0].term();
    two.agents[0].wait_exit(STOP).await?;
    assert!(alone().await? && first.plugin().exists() && first.routes().await?.len() == 2, "{}", two.agents[0].tail());
    two.agents[0].restart()?;

    // An API server that is away says nothing.
    two.cp.stop_apiserver();
    two.agents[0].term();
    two.agents[0].wait_exit(STOP).await?;
    assert!(alone().await? && first.plugin().exists() && first.routes().await?.len() == 2, "{}", two.agents[0].tail());
    two.cp.restart_apiserver().await?;
    two.agents[0].restart()?;
    until("the API server is heard", async || Ok(two.report(0).await?["kubernetes"]["ok"] == true)).await?;

    // A pod is left on the second node: its end needs the plugin.
    let pod = NetNs::new("pod")?;
    two.cni(1)?.add(&Attachment::new(&pod)).await?;
    daemon_sets.delete("cadastre-agent", &DeleteParams::background()).await?;
    for (agent, host) in two.agents.iter().zip(&two.hosts) {
        agent.term();
        agent.wait_exit(STOP).await?;
        assert!(host.routes().await?.is_empty(), "{}", agent.tail());
    }
    assert_eq!(first.there(&first.conf())?, ["10-other.conf"]);
    assert_eq!(first.there(&first.bin())?, ["bridge", "portmap", "ptp"]);
    assert_eq!(second.there(&second.conf())?, [] as [&str; 0]);
    assert_eq!(second.there(&second.bin())?, ["bridge", "cadastre", "portmap", "ptp"]);

    // Installed again, the pod's address is still its own.
    two.cp.install_chart(DUAL_STACK).await?.ok()?;
    two.agents[1].restart()?;
    until("the configuration is back", async || Ok(second.conflist().exists())).await?;
    two.cni(1)?.del(&Attachment::new(&pod)).await?;
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_installed_is_said_everywhere() -> Result<()> {
    let two = start(&[]).await?;
    let host = &two.hosts[0];
    // No interface plugin, then a folder that is none.
    for plugin in ["ptp", "cadastre"] {
        fs::remove_file(host.bin().join(plugin))?;
    }
    let says = async |text: &str| {
        let said = async || {
            let message = two.report(0).await?["cni"]["message"].as_str().unwrap_or_default().to_owned();
            let serving = two.condition(0, "Serving").await;
            let condition = serving.is_ok_and(|serving| serving.reason == "NotInstalled" && serving.message == message);
            let ready = two.agents[0].http_in(host.netns(), "/readyz").await?.contains(text);
            Ok(message.contains(text) && condition && ready)
        };
        until(text, said).await.with_context(|| two.agents[0].tail())
    };
    says("there is no interface plugin ptp in").await?;
    fs::remove_dir_all(host.conf())?;
    fs::write(host.conf(), "a file")?;
    std::os::unix::fs::symlink(cadastre_tests::tool("ptp")?, host.bin().join("ptp"))?;
    says(&format!("cannot make {}: File exists", host.conf().display())).await?;
    fs::remove_file(host.conf())?;
    until("mended", async || Ok(two.report(0).await?["cni"]["ok"] == true && host.conflist().exists())).await?;
    Ok(())
}

#[tokio::test]
async fn a_full_disk_and_a_read_only_folder_are_said_and_leave_no_half_file() -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(DUAL_STACK).await?.ok()?;
    let fabric = Fabric::new()?;
    let host = fabric.host(&cp, 1)?;
    let _operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    cp.create_nodes([host.node()]).await?;
    // The plugin does not fit; the other file system takes nothing. Nobody else sees them.
    let script = r#"ptp=$(readlink "$0/ptp") && mount -t tmpfs -o size=600k none "$0" && ln -s "$ptp" "$0/ptp" \
        && mount -t tmpfs -o ro none "$1" && shift && exec "$@""#;
    let mounts = Program::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", script]);
    let agent = cp.agent_program_on(&host, &[]).await?.under(mounts.arg(host.bin()).arg(host.conf()));
    let agent = agent.start(cp.folder(), "agent")?;

    let inside =
        |path: &Path| Path::new(&format!("/proc/{}/root", agent.pid())).join(path.strip_prefix("/").unwrap_or(path));
    let says = async |text: String| {
        let said = async || {
            let report = cp.ask_agent(host.name(), &["status", "-o", "json"]).await?.stdout;
            let report: Value = serde_json::from_str(&report)?;
            Ok(report["cni"]["message"].to_string().contains(&text))
        };
        until(&text, said).await.with_context(|| agent.tail())
    };
    let remount = async |folder: &Path, how: &str| {
        let mount = Program::new("nsenter").arg(format!("--mount=/proc/{}/ns/mnt", agent.pid()));
        mount.args(["mount", "-o", &format!("remount,{how}")]).arg(folder).run().await?.ok().map(drop)
    };
    says(format!("cannot write {}: No space left on device", host.plugin().display())).await?;
    assert_eq!(host.there(&inside(&host.bin()))?, ["ptp"]);
    remount(&host.bin(), "size=16m").await?;
    says(format!("cannot write {}: Read-only file system", host.conflist().display())).await?;
    assert_eq!(host.there(&inside(&host.bin()))?, ["cadastre", "ptp"]);
    remount(&host.conf(), "rw").await?;
    says(format!("{} (ptp", host.conflist().display())).await?;
    assert_eq!(host.there(&inside(&host.conf()))?, ["05-cadastre.conflist"]);
    Ok(())
}
