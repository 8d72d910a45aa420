//! The chart with its images on two real nodes: pods of kubelet and containerd get addresses of their node's block, a node
//! that reboots keeps none and loses none, and a cluster of tests leaves nothing on the machine. Where there can be no such
//! cluster, the tests say why and pass.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use anyhow::{Context as _, Result, ensure};
use cadastre_tests::{DUAL_STACK, Lab, NAMESPACE, Program, eventually, held, until};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

/// Pods of the test, on both nodes together.
const PODS: usize = 6;

fn possible() -> bool {
    Lab::possible().inspect_err(|reason| eprintln!("skipped: {reason}")).is_ok()
}

#[tokio::test]
async fn a_killed_cluster_leaves_nothing_behind() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    // No `Scratch`: the other test looks for those that this process left.
    let folder = tempfile::Builder::new().prefix("cadastre-keeper-").tempdir()?;
    let keeper = Program::new(env!("CARGO_BIN_EXE_cluster")).arg("keep").env("CADASTRE_CACHE", folder.path());
    let keeper = keeper.start(folder.path(), "keeper")?;
    let usage = folder.path().join("cluster/usage");
    eventually(Duration::from_mins(3), "the cluster", async || {
        ensure!(keeper.is_running(), "{}", keeper.tail());
        Ok(fs::metadata(&usage)?)
    })
    .await?;
    let traces = traces(keeper.pid())?;
    for kind in ["/run/netns/", "/sys/fs/cgroup/", "/tmp/", "kubelet", "containerd", "kube-apiserver"] {
        assert!(traces.iter().any(|trace| trace.contains(kind)), "no {kind} in {traces:?}");
    }
    keeper.kill9();
    gone(keeper.pid()).await
}

#[tokio::test]
async fn pods_of_two_nodes_have_addresses_before_and_after_a_reboot() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let started = Instant::now();
    let mut lab = Lab::start().await?;
    println!("nothing to two nodes registered: {}", seconds(started));
    let started = Instant::now();
    lab.upgrade_chart(DUAL_STACK, &["--wait", "--timeout=100s"]).await?.ok()?;
    lab.nodes_ready().await?;
    // Helm is content with a DaemonSet of which one pod may be missing.
    eventually(Duration::from_mins(1), "the release's pods", async || release_ready(&lab).await).await?;
    println!("helm install to all ready: {}", seconds(started));

    let started = Instant::now();
    lab.cp.apply(&deployment()).await?.ok()?;
    let before = running(&lab).await?;
    println!("{PODS} pods, created to ready: {}", seconds(started));
    ping_neighbours(&lab, &before).await?;
    nodes_are_open(&lab).await?;
    audits_find_nothing(&lab).await?;
    let refused = lab.upgrade_chart("ipam: {mode: kubernetes}", &[]).await?;
    for said in ["runs in mode cluster-pool", "cannot be changed to kubernetes", "2 nodes hold"] {
        assert!(!refused.success() && refused.stderr.contains(said), "{refused:?}");
    }

    let started = Instant::now();
    let old: BTreeSet<String> = attachments(&lab, 0).await?.into_values().collect();
    let boot_id = lab.nodes[0].boot_id()?.to_owned();
    lab.nodes[0].kill().await?;
    lab.nodes[0].boot().await?;
    assert_ne!(lab.nodes[0].boot_id()?, boot_id);
    until("the Node to say that it booted", async || {
        Ok(said_boot_id(&lab).await?.as_deref() == lab.nodes[0].boot_id().ok())
    })
    .await?;
    // From its first word on: reconciliation would release them too, a minute later.
    let first = eventually(Duration::from_mins(1), "the agent", async || attachments(&lab, 0).await).await?;
    assert!(first.values().all(|id| !old.contains(id)), "one of {old:?} is still in {first:?}");
    let holders = async || -> Result<()> {
        let (pods, held) = (running_now(&lab).await?, attachments(&lab, 0).await?);
        let here = pods.iter().filter(|pod| pod.node == lab.nodes[0].name()).flat_map(|pod| pod.addresses.clone());
        let (here, held): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = (here.collect(), held.into_keys().collect());
        ensure!(here == held, "pods have {here:?}, and the agent holds {held:?}");
        Ok(())
    };
    eventually(Duration::from_mins(2), "new addresses for the pods of the node that rebooted", holders).await?;
    println!("reboot of a node, until its pods are ready: {}", seconds(started));
    ping_neighbours(&lab, &running_now(&lab).await?).await?;

    let before = addresses(&running_now(&lab).await?);
    lab.helm("uninstall", &["--wait", "--cascade=foreground"]).await?.ok()?;
    let conflist = lab.nodes[0].path("/etc/cni/net.d/05-cadastre.conflist")?;
    until("the configuration to be taken back", async || Ok(!conflist.exists())).await?;
    assert_eq!(addresses(&running_now(&lab).await?), before, "pods run on");
    lab.upgrade_chart(DUAL_STACK, &["--wait", "--timeout=100s"]).await?.ok()?;
    eventually(Duration::from_mins(1), "the release's pods", async || release_ready(&lab).await).await?;
    until("the configuration to be there again", async || Ok(conflist.exists())).await?;
    assert_eq!(addresses(&running_now(&lab).await?), before);
    audits_find_nothing(&lab).await?;
    drop(lab);
    gone(process::id()).await
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

/// A pod of the test that is ready.
struct Running {
    name: String,
    node: String,
    addresses: Vec<IpAddr>,
}

fn deployment() -> String {
    let spread = "{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: try}}}";
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: try}}
spec:
  replicas: {PODS}
  selector: {{matchLabels: {{app: try}}}}
  template:
    metadata: {{labels: {{app: try}}}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints: [{spread}]
      containers: [{{name: main, image: {image}, imagePullPolicy: Never}}]
",
        image = Lab::pause_image()
    )
}

/// Waits until all pods of the test run, each with addresses of its node's blocks that no other has.
async fn running(lab: &Lab) -> Result<Vec<Running>> {
    eventually(Duration::from_mins(1), "the pods", async || running_now(lab).await).await
}

async fn running_now(lab: &Lab) -> Result<Vec<Running>> {
    let of_test = ListParams::default().labels("app=try");
    let pods = Api::<Pod>::namespaced(lab.cp.admin().await?, "default").list(&of_test).await?;
    let pods: Vec<Running> = pods.into_iter().filter(is_ready).map(of).collect::<Result<_>>()?;
    ensure!(pods.len() == PODS, "{} of {PODS} are ready", pods.len());
    let blocks = lab.cp.blocks().await?;
    for pod in &pods {
        let blocks = blocks.get(&pod.node).with_context(|| format!("{} has no blocks", pod.node))?;
        ensure!(pod.addresses.len() == 2, "{} has {:?}", pod.name, pod.addresses);
        for address in &pod.addresses {
            ensure!(
                blocks.iter().any(|block| block.contains_addr(*address)),
                "{address} of {} is not in {blocks:?}",
                pod.name
            );
        }
    }
    let all: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
    ensure!(all.len() == 2 * PODS, "an address is there twice: {all:?}");
    Ok(pods)
}

/// Two operators and two agents.
async fn release_ready(lab: &Lab) -> Result<()> {
    let of_release = ListParams::default().labels("app.kubernetes.io/instance=cadastre");
    let pods = Api::<Pod>::namespaced(lab.cp.admin().await?, NAMESPACE).list(&of_release).await?.items;
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    ensure!((ready, pods.len()) == (4, 4), "{ready} of {} are ready", pods.len());
    Ok(())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn of(pod: Pod) -> Result<Running> {
    let name = pod.name_any();
    let node = pod.spec.and_then(|spec| spec.node_name).context("on no node")?;
    let addresses = pod.status.and_then(|status| status.pod_ips).unwrap_or_default();
    let addresses = addresses.into_iter().map(|address| Ok(address.ip.parse()?)).collect::<Result<_>>()?;
    Ok(Running { name, node, addresses })
}

/// On each node, the node and a pod of it ping another pod there and one of the other node, at each address.
async fn ping_neighbours(lab: &Lab, pods: &[Running]) -> Result<()> {
    for node in &lab.nodes {
        let (here, elsewhere): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| pod.node == node.name());
        let ([from, to, ..], [other, ..]) = (&here[..], &elsewhere[..]) else {
            anyhow::bail!("{} has no two pods, or the others none", node.name());
        };
        for address in to.addresses.iter().chain(&other.addresses) {
            let address = address.to_string();
            let ping = ["exec", &from.name, "--", "busybox", "ping", "-c", "1", "-W", "2", &address];
            until(&format!("a ping of {address} from {}", from.name), async || {
                Ok(lab.cp.kubectl(&ping).await?.success())
            })
            .await?;
            let ping = ["ping", "-n", "-c", "1", "-W", "2", &address];
            until(&format!("a ping of {address} from {}", node.name()), async || Ok(node.exec(&ping).await?.success()))
                .await?;
        }
    }
    Ok(())
}

/// The addresses that a node's agent holds, by its own word, with their container IDs.
async fn attachments(lab: &Lab, node: usize) -> Result<BTreeMap<IpAddr, String>> {
    let socket = lab.nodes[node].path("/run/cadastre/cadastre.sock")?;
    let status = Program::ours("cadastre-agent")?.args(["status", "-o", "json", "--socket"]).arg(socket);
    held(&serde_json::from_str(&status.run().await?.stdout)?)
}

fn addresses(pods: &[Running]) -> BTreeMap<String, Vec<IpAddr>> {
    pods.iter().map(|pod| (pod.name.clone(), pod.addresses.clone())).collect()
}

/// The operator says of each Node that its network is there.
async fn nodes_are_open(lab: &Lab) -> Result<()> {
    for node in &lab.nodes {
        let query = "jsonpath={.status.conditions[?(@.type=='NetworkUnavailable')].status}";
        let says = async || Ok(lab.cp.kubectl(&["get", "node", node.name(), "-o", query]).await?.ok()? == "False");
        until(&format!("{} to be opened", node.name()), says).await?;
    }
    Ok(())
}

/// What ledger, nodes, namespaces and Pods say is the same.
async fn audits_find_nothing(lab: &Lab) -> Result<()> {
    let agents = ListParams::default().labels("app.kubernetes.io/name=cadastre-agent");
    for pod in Api::<Pod>::namespaced(lab.cp.admin().await?, NAMESPACE).list(&agents).await? {
        let audit = ["exec", "-n", NAMESPACE, &pod.name_any(), "--", "/cadastre-agent", "audit"];
        eventually(Duration::from_secs(30), "the audit of a node", async || lab.cp.kubectl(&audit).await?.ok()).await?;
    }
    let settings = lab.cp.settings_file("audit").await?;
    let audit = Program::ours("cadastre-operator")?.env("KUBECONFIG", lab.cp.kubeconfig_admin()?);
    audit.args(["audit", "--config"]).arg(settings).run().await?.ok()?;
    Ok(())
}

async fn said_boot_id(lab: &Lab) -> Result<Option<String>> {
    let node = Api::<Node>::all(lab.cp.admin().await?).get(lab.nodes[0].name()).await?;
    Ok(node.status.and_then(|status| status.node_info).map(|info| info.boot_id))
}

async fn gone(owner: u32) -> Result<()> {
    eventually(Duration::from_secs(30), "everything to be gone", async || {
        let left = traces(owner)?;
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    })
    .await
}

/// All that is on the machine of clusters that a process with this number started: namespaces, folders, mounts, control
/// groups, and other processes.
fn traces(owner: u32) -> Result<Vec<String>> {
    let (name, folder) = (format!("cadastre-{owner}-"), format!("cadastre-test-{owner}-"));
    let mut found = Vec::new();
    for (place, prefix) in [(Path::new("/run/netns"), &name), (&env::temp_dir(), &folder)] {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        found.extend(ours.map(|entry| entry.path().display().to_string()));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    found.extend(mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned));
    let groups = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("{name}*")]).output()?;
    found.extend(String::from_utf8(groups.stdout)?.lines().map(str::to_owned));
    for process in fs::read_dir("/proc")?.flatten() {
        let read = |file| fs::read(process.path().join(file)).unwrap_or_default();
        let (command, group) = (read("cmdline"), read("cgroup"));
        let [command, group] = [command, group].map(|text| String::from_utf8_lossy(&text).replace('\0', " "));
        if group.contains(&name) || command.contains(&folder) {
            found.push(format!("{}: {command}", process.path().display()));
        }
    }
    Ok(found)
}
