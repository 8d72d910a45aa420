//! The demo where there can be no nodes: a control plane without kubelets, our processes beside it, and network namespaces for
//! nodes and pods.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use cadastre_core::Family;
use cadastre_tests::{ControlPlane, Proc, eventually, node};
use kube::Api;
use kube::api::DeleteParams;

use crate::machine::{Guest, Machine};
use crate::show::Show;
use crate::{SOON, VALUES, install, refusals};

pub async fn demo(show: &mut Show) -> Result<()> {
    show.step("Start a Kubernetes cluster without nodes: etcd and kube-apiserver, on this machine only");
    let cp = ControlPlane::start().await?;
    show.folder(cp.folder());
    show.run(&cp.kubectl_program()?.arg("version")).await?.ok()?;

    let show = &*show;
    show.step("Install Cadastre with Helm");
    let values = install(show, &cp, VALUES, &[]).await?;
    show.run(&cp.kubectl_program()?.args(["get", "crds", "-o", "name"])).await?.ok()?;
    let operator = nodes_get_blocks(show, &cp).await?;
    let machines = agents(show, &cp).await?;
    let guests = pods(show, &cp, &machines).await?;
    look_at_nodes(show, &machines, &guests).await?;
    ping(show, &cp, &machines, &guests).await?;
    look_at_cluster(show, &cp).await?;

    show.step("The mode is changed in values.yaml: Helm refuses");
    refusals::helm(show, &cp, &values).await?;
    show.step("The mode is changed in the cluster: the API server refuses");
    refusals::api_server(show, &cp).await?;
    show.step("An operator is started in the other mode: it says so, is not ready, and serves on");
    let operator = refusals::operator(show, &cp, operator).await?;
    show.step("The mode is set back: all is well again");
    let operator = refusals::healed(show, &cp, operator).await?;

    leave(show, &cp, &machines, &guests).await?;
    clean_up(show, cp, operator, machines, guests)
}

/// Two Nodes join, and the operator gives them blocks.
async fn nodes_get_blocks(show: &Show, cp: &ControlPlane) -> Result<Proc> {
    show.step("Two nodes join; the operator, under its own ServiceAccount, gives each a block of either family");
    // Not Ready, as nodes are that have no pod network yet.
    let join = |number: usize| node(&format!("node-{number}")).addresses([format!("192.0.2.{number}")]).ready(false);
    cp.create_nodes([join(1), join(2)]).await?;
    let settings = cp.settings_file("settings").await?;
    let program = cp.operator_program(&settings, &[]).await?;
    show.command(&format!("{program} &"));
    let operator = program.start(cp.folder(), "operator")?;
    let served = async || {
        let blocks = cp.blocks().await?;
        let complete = blocks.len() == 2 && blocks.values().all(|of_node| of_node.len() == Family::ALL.len());
        if complete { Ok(()) } else { bail!("so far there are {blocks:?}") }
    };
    eventually(SOON, "blocks of both nodes", served).await.with_context(|| operator.tail())?;
    cp.check_disjoint().await?;
    for (name, blocks) in cp.blocks().await? {
        show.so(&format!("{name}: {}", blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")));
    }
    Ok(operator)
}

async fn agents(show: &Show, cp: &ControlPlane) -> Result<Vec<Machine>> {
    show.step("An agent starts on each node, under its own ServiceAccount");
    let settings = cp.folder().join("settings.yaml");
    let mut machines = Vec::new();
    for number in [1, 2] {
        let mut machine = Machine::new(cp, number)?;
        machine.start_agent(show, cp, &settings).await?;
        machines.push(machine);
    }
    for machine in &machines {
        let status = machine.status()?;
        let ready = async || status.run().await?.ok();
        let tail = || machine.agent.as_ref().map(Proc::tail).unwrap_or_default();
        eventually(SOON, &format!("the agent of {}", machine.name), ready).await.with_context(tail)?;
        show.so(&format!("the agent of {} is well", machine.name));
    }
    Ok(machines)
}

/// Two pods on the first node, one on the second, each with its node's index.
async fn pods(show: &Show, cp: &ControlPlane, machines: &[Machine]) -> Result<Vec<(usize, Guest)>> {
    show.step("Pods get addresses: cnitool, the reference plugin `bridge`, and `\"ipam\": {\"type\": \"cadastre\"}`");
    let blocks = cp.blocks().await?;
    let mut guests = Vec::new();
    for (at, name) in [(0, "web"), (0, "db"), (1, "client")] {
        let machine = &machines[at];
        let guest = machine.attach(show, cp, name).await?;
        let inside = |address: &String| {
            let address: Option<std::net::IpAddr> = address.parse().ok();
            address.is_some_and(|address| blocks[&machine.name].iter().any(|block| block.contains(&address.into())))
        };
        ensure!(guest.addresses.len() == 2 && guest.addresses.iter().all(inside), "of {}: {:?}", name, guest.addresses);
        guests.push((at, guest));
    }
    Ok(guests)
}

/// What each agent says.
async fn look_at_nodes(show: &Show, machines: &[Machine], guests: &[(usize, Guest)]) -> Result<()> {
    show.step("Who has which address, as each node's agent says");
    for (at, machine) in machines.iter().enumerate() {
        let status = show.run(&machine.status()?).await?.ok()?;
        for (_, guest) in guests.iter().filter(|(node, _)| *node == at) {
            let owner = format!("(default/{})", guest.name);
            let lines = || status.lines().filter(|line| line.contains(&owner));
            let listed = |address: &String| lines().any(|line| line.split_whitespace().any(|word| word == address));
            ensure!(guest.addresses.iter().all(listed), "status does not list {owner} with {:?}", guest.addresses);
        }
    }
    show.so("each address is listed with its pod");
    Ok(())
}

/// What the cluster says, once agents and operator have published what they count.
async fn look_at_cluster(show: &Show, cp: &ControlPlane) -> Result<()> {
    show.step("Who has which block, as the cluster says (agents publish every 15 s how much is used)");
    let counted = async || {
        let used = "jsonpath={range .items[*]}{.status.ipam.usage};{end}";
        let used = cp.kubectl(&["get", "ipamnodes", "-o", used]).await?.ok()?;
        let held = "jsonpath={.status.ipv4.held} {.status.ipv6.held}";
        let held = cp.kubectl(&["get", "ippools", "default", "-o", held]).await?.ok()?;
        ensure!((used.as_str(), held.as_str()) == ("3/254, 3/254;2/254, 2/254;", "2 2"), "used {used} held {held}");
        Ok(())
    };
    eventually(SOON, "the numbers of nodes and pools", counted).await?;
    show.run(&cp.kubectl_program()?.args(["get", "ipamnodes", "-o", "wide"])).await?.ok()?;
    show.run(&cp.kubectl_program()?.args(["get", "ippools"])).await?.ok()?;
    Ok(())
}

async fn ping(show: &Show, cp: &ControlPlane, machines: &[Machine], guests: &[(usize, Guest)]) -> Result<()> {
    show.step("Pods ping each other, on one node and, over a wire between the nodes, from node to node");
    let blocks = cp.blocks().await?;
    let (one, two) = (&machines[0], &machines[1]);
    one.connect(two, &blocks[&one.name], &blocks[&two.name]).await?;
    let (at, web) = &guests[0];
    for (where_, guest) in &guests[1..] {
        let way = if where_ == at { "on the same node" } else { "on the other node" };
        for address in &guest.addresses {
            show.command(&format!("ip netns exec {} ping -n -c 1 -W 2 {address}", web.netns.name()));
            // An IPv6 address answers once duplicate address detection is done with it.
            let answer = async || web.netns.run(&["ping", "-n", "-c", "1", "-W", "2", address]).await?.ok();
            let answer = eventually(SOON, &format!("an answer from {address}"), answer).await?;
            show.output(answer.lines().nth(1).unwrap_or_default());
            show.so(&format!("{} reaches {} {way}", web.name, guest.name));
        }
    }
    Ok(())
}

/// The pods go, and with them their addresses.
async fn leave(show: &Show, cp: &ControlPlane, machines: &[Machine], guests: &[(usize, Guest)]) -> Result<()> {
    show.step("The pods are deleted");
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(cp.admin().await?, "default");
    for (at, guest) in guests {
        machines[*at].detach(show, guest).await?;
        pods.delete(&guest.name, &DeleteParams::default().grace_period(0)).await?;
    }
    for machine in machines {
        let status = show.run(&machine.status()?).await?.ok()?;
        ensure!(!status.contains("(default/"), "an address is still held on {}", machine.name);
    }
    show.so("no pod holds an address");
    Ok(())
}

/// Everything is dropped, which ends and removes it; then we look.
fn clean_up(
    show: &Show,
    cp: ControlPlane,
    operator: Proc,
    machines: Vec<Machine>,
    guests: Vec<(usize, Guest)>,
) -> Result<()> {
    show.step("Clean up");
    let folder = cp.folder().to_owned();
    let agents = machines.iter().filter_map(|machine| machine.agent.as_ref());
    let mut pids: Vec<u32> = agents.map(Proc::pid).collect();
    pids.extend([operator.pid(), cp.apiserver().pid(), cp.etcd().pid()]);
    let mut paths: Vec<PathBuf> = machines.iter().map(|machine| machine.netns.path()).collect();
    paths.extend(guests.iter().map(|(_, guest)| guest.netns.path()));
    paths.push(folder);
    drop((guests, machines, operator, cp));

    let kept = std::env::var_os("CADASTRE_KEEP").is_some();
    let left = paths.iter().filter(|path| path.exists() && !kept).collect::<Vec<_>>();
    ensure!(left.is_empty(), "left behind: {left:?}");
    let alive = pids.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect::<Vec<_>>();
    ensure!(alive.is_empty(), "processes left behind: {alive:?}");
    show.so("no process, network namespace or folder is left");
    Ok(())
}
