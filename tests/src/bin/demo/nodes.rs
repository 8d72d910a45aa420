//! The demo where there can be nodes: kubelet and containerd run the chart's own pods, and everybody else's.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cadastre_tests::{ControlPlane, Lab, NAMESPACE, Output, Proc, Program, Running, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use crate::show::Show;
use crate::{SOON, VALUES, install, refusals};

/// A node boots, notices that its pods are gone, and starts them anew.
const REBOOT: Duration = Duration::from_mins(1);

pub async fn demo(show: &mut Show) -> Result<()> {
    show.step("Start a Kubernetes cluster of two nodes on this machine");
    let mut lab = Lab::start().await?;
    show.folder(lab.cp.folder());
    let show = &*show;
    kubectl(show, &lab.cp, &["get", "nodes"]).await?.ok()?;
    show.so("both nodes have registered; they are not Ready, as nothing gives pods a network");

    let values = chart(show, &lab).await?;
    let pods = pods(show, &lab).await?;
    ping(show, &lab, &pods).await?;
    show.step("Who has which address, as the agent of a node says");
    let agent = agent_on(&lab, 0).await?;
    let status = ["exec", "-n", NAMESPACE, &agent, "--", "cadastre-agent", "status", "--all-addresses"];
    let said = kubectl(show, &lab.cp, &status).await?.ok()?;
    let here = pods.iter().filter(|pod| pod.node == lab.nodes[0].name());
    for pod in here {
        ensure!(said.contains(&format!("(default/{})", pod.name)), "status does not list {}", pod.name);
    }
    show.so("each address is listed with its pod");

    widen(show, &lab).await?;
    show.step("The mode is changed in values.yaml: Helm refuses");
    refusals::helm(show, &lab.cp, &values).await?;
    show.step("The mode is changed in the cluster: the API server refuses");
    refusals::api_server(show, &lab.cp).await?;
    killed(show, &lab, &pods).await?;
    reboot(show, &mut lab).await?;
    audits(show, &lab, &values).await?;
    clean_up(show, lab)
}

/// As a person types it.
async fn kubectl(show: &Show, cp: &ControlPlane, args: &[&str]) -> Result<Output> {
    show.run(&cp.kubectl_program()?.args(args)).await
}

async fn chart(show: &Show, lab: &Lab) -> Result<PathBuf> {
    show.step("Install Cadastre with Helm: the nodes turn Ready");
    let values = install(show, &lab.cp, &with_images(VALUES), &["--wait"]).await?;
    lab.nodes_ready().await?;
    kubectl(show, &lab.cp, &["get", "nodes"]).await?.ok()?;
    kubectl(show, &lab.cp, &["get", "ipamnodes"]).await?.ok()?;
    lab.cp.check_disjoint().await?;
    show.so("each node has a block of either family, which no other has");
    Ok(values)
}

fn with_images(values: &str) -> String {
    format!("{values}{}", Lab::IMAGE_VALUES)
}

async fn pods(show: &Show, lab: &Lab) -> Result<Vec<Running>> {
    show.step("Pods start on both nodes");
    show.command("kubectl apply -f -     # a Deployment of pods that do nothing");
    let pods = lab.start_pods().await?;
    let columns = "-o=custom-columns=NAME:.metadata.name,NODE:.spec.nodeName,ADDRESSES:.status.podIPs[*].ip";
    kubectl(show, &lab.cp, &["get", "pods", columns]).await?.ok()?;
    show.so("each pod has two addresses, of its node's blocks");
    Ok(pods)
}

async fn ping(show: &Show, lab: &Lab, pods: &[Running]) -> Result<()> {
    show.step("Pods ping each other, on one node and from node to node");
    let from = pods.first().context("no pods")?;
    let neighbour = pods[1..].iter().find(|pod| pod.node == from.node).context("none on the same node")?;
    let stranger = pods.iter().find(|pod| pod.node != from.node).context("none on the other node")?;
    for (to, way) in [(neighbour, "on the same node"), (stranger, "on the other node")] {
        for address in &to.addresses {
            show.output(&pinged(show, lab, from, *address).await?);
        }
        show.so(&format!("{} reaches {} {way}", from.name, to.name));
    }
    Ok(())
}

/// What ping says of the answer.
async fn pinged(show: &Show, lab: &Lab, from: &Running, address: IpAddr) -> Result<String> {
    let address = address.to_string();
    let ping = lab.cp.kubectl_program()?.args(["exec", &from.name, "--", "busybox", "ping", "-c1", "-W2", &address]);
    show.command(&ping.to_string());
    let answer = async || ping.run().await?.ok();
    let said = eventually(SOON, &format!("an answer from {address}"), answer).await?;
    Ok(said.lines().nth(1).unwrap_or_default().to_owned())
}

/// The name of the agent's pod.
async fn agent_on(lab: &Lab, node: usize) -> Result<String> {
    let list = ListParams::default().labels("app.kubernetes.io/name=cadastre-agent");
    let list = list.fields(&format!("spec.nodeName={}", lab.nodes[node].name()));
    let pods = Api::<Pod>::namespaced(lab.cp.admin().await?, NAMESPACE).list(&list).await?;
    Ok(pods.items.first().with_context(|| format!("no agent on {}", lab.nodes[node].name()))?.name_any())
}

async fn widen(show: &Show, lab: &Lab) -> Result<()> {
    show.step("The pool is widened: a CIDR is appended in values.yaml");
    let wider = with_images(&VALUES.replace(r#"["10.0.0.0/8"]"#, r#"["10.0.0.0/8", "172.20.0.0/16"]"#));
    install(show, &lab.cp, &wider, &[]).await?;
    let pool = ["get", "ippools", "-o=custom-columns=NAME:.metadata.name,IPV4:.spec.ipv4.cidrs,FREE:.status.ipv4.free"];
    let shown = async || {
        let said = lab.cp.kubectl(&pool).await?.ok()?;
        ensure!(said.contains("172.20.0.0/16"), "{said}");
        Ok(())
    };
    eventually(SOON, "the wider pool", shown).await?;
    kubectl(show, &lab.cp, &pool).await?.ok()?;
    show.so("its blocks are there for new nodes, and no node was touched");
    Ok(())
}

async fn killed(show: &Show, lab: &Lab, pods: &[Running]) -> Result<()> {
    // The pool's change rolls them, until about now.
    let rolled = ["rollout", "status", "daemonset/cadastre-agent", "-n", NAMESPACE, "--timeout=1m"];
    lab.cp.kubectl(&rolled).await?.ok()?;
    show.step("An agent is killed: pods run on, and one that starts meanwhile gets its addresses");
    let kill = "kill -9 $(pidof cadastre-agent)";
    show.command(&format!("{kill}     # on {}", lab.nodes[0].name()));
    lab.nodes[0].exec(&["sh", "-c", kill]).await?.ok()?;
    let place = format!(r#"{{"spec":{{"nodeName":"{}"}}}}"#, lab.nodes[0].name());
    let late = ["run", "late", &format!("--image={}", Lab::pause_image()), "--overrides"];
    // As typed, with quotes; the program is given the text alone.
    show.command(&format!("kubectl {} '{place}'", late.join(" ")));
    show.output(&lab.cp.kubectl(&[&late[..], &[&place]].concat()).await?.ok()?);
    kubectl(show, &lab.cp, &["wait", "pod", "late", "--for=condition=Ready", "--timeout=1m"]).await?.ok()?;
    ensure!(lab.pods_now().await? == pods, "a pod has changed");
    show.so("every pod has the addresses that it had");
    Ok(())
}

async fn reboot(show: &Show, lab: &mut Lab) -> Result<()> {
    let name = lab.nodes[1].name().to_owned();
    show.step(&format!("Power loss on {name}: its pods start anew, with new addresses"));
    let old: Vec<String> = lab.nodes[1].attachments().await?.into_values().collect();
    lab.nodes[1].kill().await?;
    show.so("it is off");
    lab.nodes[1].boot().await?;
    show.so("it boots");
    let anew = async || {
        let (now, pods) = (lab.nodes[1].attachments().await?, lab.pods_now().await?);
        let now: Vec<String> = now.into_values().collect();
        ensure!(!now.is_empty() && now.iter().all(|id| !old.contains(id)), "{now:?} are still those of before");
        Ok(pods)
    };
    let pods = eventually(REBOOT, "the pods of the node that rebooted", anew).await?;
    let from = pods.iter().find(|pod| pod.node == name).context("it has no pods")?;
    let to = pods.iter().find(|pod| pod.node != name).context("the other one has no pods")?;
    show.output(&pinged(show, lab, from, to.addresses[0]).await?);
    show.so("its pods are back, and no address of before is still held");
    Ok(())
}

/// What ledger, agents, namespaces and Pods say is the same.
async fn audits(show: &Show, lab: &Lab, values: &Path) -> Result<()> {
    show.step("An audit compares ledger, agents, network namespaces and Pods");
    let audit = Program::ours("cadastre-operator")?.env("KUBECONFIG", lab.cp.kubeconfig_admin()?);
    let mut audits = vec![audit.args(["audit", "--config"]).arg(values)];
    for node in 0..lab.nodes.len() {
        let agent = agent_on(lab, node).await?;
        audits.push(lab.cp.kubectl_program()?.args(["exec", "-n", NAMESPACE, &agent, "--", "cadastre-agent", "audit"]));
    }
    for audit in audits {
        show.command(&audit.to_string());
        // An agent that has just started is heard a moment later.
        show.output(&eventually(SOON, "an audit without findings", async || audit.run().await?.ok()).await?);
    }
    show.so("nothing is held twice, and nothing leaked");
    Ok(())
}

/// Everything is dropped, which ends and removes it; then we look.
fn clean_up(show: &Show, lab: Lab) -> Result<()> {
    show.step("Clean up");
    let processes = [lab.cp.apiserver(), lab.cp.etcd(), lab.nodes[0].kubelet()?, lab.nodes[1].containerd()?];
    let pids = processes.map(Proc::pid);
    let folder = lab.cp.folder().to_owned();
    drop(lab);
    let kept = std::env::var_os("CADASTRE_KEEP").is_some();
    ensure!(kept || !folder.exists(), "left behind: {}", folder.display());
    let alive = pids.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect::<Vec<_>>();
    ensure!(alive.is_empty(), "processes left behind: {alive:?}");
    show.so("no process and no folder is left");
    Ok(())
}
