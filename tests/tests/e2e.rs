//! The chart with its images on two real nodes: pods of kubelet and containerd get addresses of their node's block, a node
//! that reboots keeps none and loses none, and a cluster of tests leaves nothing on the machine. Where there can be no such
//! cluster, the tests say why and pass.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use anyhow::{Context as _, Result, ensure};
use cadastre_tests::{DUAL_STACK, Lab, Proc, Program, eventually, until};
use k8s_openapi::api::core::v1::Node;
use kube::Api;

#[tokio::test]
async fn a_killed_cluster_leaves_nothing_behind() -> Result<()> {
    if !Lab::for_tests()? {
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
    if !Lab::for_tests()? {
        return Ok(());
    }
    let started = Instant::now();
    let mut lab = Lab::start().await?;
    println!("nothing to two nodes registered: {}", seconds(started));
    // As kubelets do with `--register-with-taints`: pods get onto the nodes only once the operator has removed it.
    let taint = format!("{}=:NoSchedule", cadastre_api::NOT_READY_TAINT);
    lab.cp.kubectl(&["taint", "node", "--all", &taint]).await?.ok()?;
    let started = Instant::now();
    lab.upgrade_chart(DUAL_STACK, &["--wait", "--timeout=100s"]).await?.ok()?;
    lab.nodes_ready().await?;
    lab.release_ready().await?;
    println!("helm install to all ready: {}", seconds(started));
    everybody_is_reached(&lab).await?;
    println!("helm install to all reached: {}", seconds(started));

    let started = Instant::now();
    let before = lab.start_pods().await?;
    println!("{} pods, created to ready: {}", before.len(), seconds(started));
    lab.ping_neighbours(&before).await?;
    nodes_are_open(&lab).await?;
    lab.audits_find_nothing().await?;
    let refused = lab.upgrade_chart("ipam: {mode: kubernetes}", &[]).await?;
    for said in ["runs in mode cluster-pool", "cannot be changed to kubernetes", "2 nodes hold"] {
        assert!(!refused.success() && refused.stderr.contains(said), "{refused:?}");
    }

    first_node_reboots(&mut lab).await?;
    chart_is_installed_again(&lab).await?;
    drop(lab);
    gone(process::id()).await
}

/// Its pods get new addresses, and nobody keeps one from before.
async fn first_node_reboots(lab: &mut Lab) -> Result<()> {
    let started = Instant::now();
    let old: BTreeSet<String> = lab.nodes[0].attachments().await?.into_values().collect();
    let boot_id = lab.nodes[0].boot_id()?.to_owned();
    lab.nodes[0].kill().await?;
    lab.nodes[0].boot().await?;
    assert_ne!(lab.nodes[0].boot_id()?, boot_id);
    until("the Node to say that it booted", async || {
        Ok(said_boot_id(lab).await?.as_deref() == lab.nodes[0].boot_id().ok())
    })
    .await
    .with_context(|| lab.nodes[0].kubelet().map_or_else(|error| error.to_string(), Proc::tail))?;
    // From its first word on: reconciliation would release them too, a minute later.
    let first = eventually(Duration::from_mins(1), "the agent", async || lab.nodes[0].attachments().await).await?;
    assert!(first.values().all(|id| !old.contains(id)), "one of {old:?} is still in {first:?}");
    let holders = async || -> Result<()> {
        let (pods, held) = (lab.pods_now().await?, lab.nodes[0].attachments().await?);
        let here = pods.iter().filter(|pod| pod.node == lab.nodes[0].name()).flat_map(|pod| pod.addresses.clone());
        let (here, held): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = (here.collect(), held.into_keys().collect());
        ensure!(here == held, "pods have {here:?}, and the agent holds {held:?}");
        Ok(())
    };
    eventually(Duration::from_mins(2), "new addresses for the pods of the node that rebooted", holders).await?;
    println!("reboot of a node, until its pods are ready: {}", seconds(started));
    lab.ping_neighbours(&lab.pods_now().await?).await?;
    everybody_is_reached(lab).await
}

/// Pods run on meanwhile, with the addresses they have.
async fn chart_is_installed_again(lab: &Lab) -> Result<()> {
    let before = lab.pods_now().await?;
    lab.helm("uninstall", &["--wait", "--cascade=foreground"]).await?.ok()?;
    let conflist = lab.nodes[0].path("/etc/cni/net.d/05-cadastre.conflist")?;
    until("the configuration to be taken back", async || Ok(!conflist.exists())).await?;
    assert_eq!(lab.pods_now().await?, before, "pods run on");
    lab.upgrade_chart(DUAL_STACK, &["--wait", "--timeout=100s"]).await?.ok()?;
    lab.release_ready().await?;
    until("the configuration to be there again", async || Ok(conflist.exists())).await?;
    assert_eq!(lab.pods_now().await?, before);
    everybody_is_reached(lab).await?;
    lab.audits_find_nothing().await
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

/// What a node's agent says.
async fn status(lab: &Lab, node: usize, flags: &[&str]) -> Result<String> {
    let socket = lab.nodes[node].path("/run/cadastre/cadastre.sock")?;
    let status = Program::ours("cadastre-agent")?.arg("status").args(flags).arg("--socket").arg(socket);
    Ok(status.run().await?.stdout)
}

/// Agents reach each other's endpoints, each of which has an address of both families.
async fn everybody_is_reached(lab: &Lab) -> Result<()> {
    for node in 0..lab.nodes.len() {
        let says = async || {
            let said = status(lab, node, &["--all-addresses"]).await?;
            ensure!(said.contains("Cluster health:  2/2 reachable   ("), "{said}");
            ensure!(said.matches("   (health)\n").count() == 2, "{said}");
            Ok(())
        };
        eventually(Duration::from_mins(1), "both nodes to be reached", says).await?;
    }
    Ok(())
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
