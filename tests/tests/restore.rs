//! An older backup restored under running nodes, and foreign hands: pods keep their addresses, no block gets a second
//! holder, and what contradicts itself is named and contained.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use cadastre_api::{CONFIG_NAME, IPAMConfig, IPAMLedger, IPAMNode, Mode};
use cadastre_core::Cidr;
use cadastre_tests::{AGENT, ControlPlane, DUAL_STACK, NAMESPACE, Proc, Program, RELEASE, call_plugin, node, until};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

/// What a careful person restores with: watches notice that what they saw is of another time.
const BUMP: &[&str] = &["--bump-revision", "1000000000", "--mark-compacted"];
const SOON: Duration = Duration::from_mins(1);
const NO_ELECTION: &[&str] = &["--leader-elect=false"];
const RECOVER: &[&str] = &["--leader-elect=false", "--recover"];

/// A node lets go of a block once its last addresses have cooled there.
fn values() -> String {
    format!("{DUAL_STACK}agent: {{addressCooling: 1s}}\n")
}

/// A cluster whose nodes run agents and pods.
struct Cluster {
    cp: ControlPlane,
    agents: BTreeMap<String, Proc>,
    /// The addresses of each pod of each node, as its ADD was answered.
    pods: BTreeMap<(String, String), Vec<IpAddr>>,
}

impl Cluster {
    /// With an operator, and these nodes with a pod each.
    async fn start(names: &[&str]) -> Result<(Self, Proc)> {
        let cp = ControlPlane::start().await?;
        cp.install_chart(&values()).await?.ok()?;
        let operator = cp.start_operator("operator", NO_ELECTION).await?;
        until("the config is recorded", async || Ok(cp.ipam_config().await.is_ok())).await?;
        let mut cluster = Self { cp, agents: BTreeMap::new(), pods: BTreeMap::new() };
        cluster.join(names).await?;
        Ok((cluster, operator))
    }

    /// The operator of a pod, which leads.
    async fn elected(&self) -> Result<Proc> {
        let settings = self.cp.settings_file("elected").await?;
        let state = self.cp.folder().join("elected-state");
        std::fs::create_dir(&state)?;
        let program = self.cp.operator_program(&settings, &["--state-dir"]).await?.arg(state);
        let operator = program.env("POD_NAME", "operator-0").start(self.cp.folder(), "elected")?;
        operator.wait_log(SOON, "leading").await?;
        Ok(operator)
    }

    /// Waits until the elected operator's pod remembers a version of the store that is later than all there is now.
    async fn remembered(&self) -> Result<()> {
        let nodes = Api::<IPAMNode>::all(self.cp.admin().await?).list(&ListParams::default()).await?;
        let now: u64 = nodes.metadata.resource_version.context("a list without a version")?.parse()?;
        let file = self.cp.folder().join("elected-state/store-seen.json");
        let is_later = async || {
            let seen: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
            Ok(seen["resourceVersion"].as_u64().is_some_and(|seen| seen > now))
        };
        until("the operator's pod remembers the store", is_later).await
    }

    /// Nodes register, are served, and run a pod each.
    async fn join(&mut self, names: &[&str]) -> Result<()> {
        self.register(names).await?;
        self.served(names).await?;
        for name in names {
            self.start_agent(name, &format!("agent-{name}")).await?;
            self.add(name, "first").await?;
        }
        let reported = async || {
            let nodes = self.cp.ipam_nodes().await?;
            Ok(names.iter().all(|name| held(&nodes[*name]).len() == 2))
        };
        until(&format!("the agents of {names:?} report"), reported).await
    }

    async fn start_agent(&mut self, node: &str, name: &str) -> Result<()> {
        let agent = self.cp.start_agent(node, name).await?;
        self.answers(node, &agent).await?;
        self.agents.insert(node.to_owned(), agent);
        Ok(())
    }

    /// An ADD waits for 3 s only.
    async fn answers(&self, node: &str, agent: &Proc) -> Result<()> {
        let answers = async || Ok(UnixStream::connect(self.cp.agent_socket(node)).is_ok());
        until(&format!("the agent of {node} answers"), answers).await.with_context(|| agent.tail())
    }

    async fn register(&self, names: &[&str]) -> Result<()> {
        // Ready, as nodes with running agents are: a recovery waits for those.
        self.cp.create_nodes(names.iter().map(|name| node(name))).await?;
        // A store from before an agent's pod knows neither that nor its token: the DaemonSet makes another pod.
        for (name, agent) in self.agents.iter().filter(|(name, _)| names.contains(&name.as_str())) {
            self.cp.service_account_kubeconfig_on(NAMESPACE, AGENT, name).await?;
            agent.restart()?;
            self.answers(name, agent).await?;
        }
        Ok(())
    }

    /// Waits until each of these nodes, as it is registered now, has a block of each family to allocate from.
    async fn served(&self, names: &[&str]) -> Result<()> {
        let all = async || {
            let registered = Api::<Node>::all(self.cp.admin().await?).list(&ListParams::default()).await?;
            let uids: BTreeMap<_, _> = registered.iter().map(|node| (node.name_any(), node.uid())).collect();
            let nodes = self.cp.ipam_nodes().await?;
            let is_served = |name: &&str| {
                let this = nodes.get(*name).filter(|node| uids.get(*name) == Some(&Some(node.spec.node_uid.clone())));
                this.is_some_and(|node| active(node).len() == 2)
            };
            Ok(names.iter().all(is_served))
        };
        until(&format!("{names:?} are served"), all).await?;
        self.check().await
    }

    /// ADD of a pod; the addresses of one that is there are those that it has.
    async fn add(&mut self, node: &str, pod: &str) -> Result<Vec<IpAddr>> {
        let addresses = self.ask(node, pod).await?;
        self.pods.insert((node.to_owned(), pod.to_owned()), addresses.clone());
        Ok(addresses)
    }

    async fn ask(&self, node: &str, pod: &str) -> Result<Vec<IpAddr>> {
        let answer = self.call(node, pod, "ADD").await?.map_err(|error| anyhow!("ADD on {node}: {error}"))?;
        let ips = answer["ips"].as_array().context("no ips")?.iter();
        let address = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
        ips.map(|ip| address(ip).with_context(|| format!("no address in {ip}"))).collect()
    }

    async fn del(&mut self, node: &str, pod: &str) -> Result<()> {
        self.call(node, pod, "DEL").await?.map_err(|error| anyhow!("DEL on {node}: {error}"))?;
        self.pods.remove(&(node.to_owned(), pod.to_owned()));
        Ok(())
    }

    async fn call(&self, node: &str, pod: &str, command: &str) -> Result<Result<Value, Value>> {
        let ipam = json!({"type": "cadastre", "socket": self.cp.agent_socket(node)});
        let config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "bridge", "ipam": ipam});
        let args = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}");
        let env =
            [("CNI_CONTAINERID", pod), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/proc/self/ns/net"), ("CNI_ARGS", &args)];
        call_plugin(&Program::ours("cadastre")?, command, &config, &env).await
    }

    /// What must hold at any moment: no two nodes allocate from one block, and none from one in which pods of another are.
    async fn check(&self) -> Result<()> {
        let nodes = self.cp.ipam_nodes().await?;
        let mut all: Vec<(Cidr, &str)> = Vec::new();
        for (name, node) in &nodes {
            all.extend(active(node).into_iter().map(|block| (block, name.as_str())));
        }
        all.sort();
        let pair = all.windows(2).find(|pair| pair[0].0.overlaps(&pair[1].0));
        ensure!(pair.is_none(), "two nodes allocate from one block: {pair:?}");
        for ((node, pod), addresses) in &self.pods {
            let strange = |(block, name): &&(Cidr, &str)| {
                *name != node && addresses.iter().any(|address| block.contains(&Cidr::host(*address)))
            };
            let other = all.iter().find(strange);
            ensure!(other.is_none(), "{pod} of {node} has {addresses:?}, and {other:?} allocates there");
        }
        Ok(())
    }

    /// Every pod has the addresses that it was given, and every node gives addresses to a new pod that nobody has.
    async fn pods_live_on(&mut self, new: &str) -> Result<()> {
        for ((node, pod), addresses) in &self.pods {
            assert_eq!(self.ask(node, pod).await?, *addresses, "{pod} of {node}");
        }
        for node in self.agents.keys().cloned().collect::<Vec<_>>() {
            self.add(&node, new).await?;
        }
        let all: Vec<_> = self.pods.values().flatten().collect();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(all.len(), distinct.len(), "an address was given twice: {:?}", self.pods);
        self.check().await
    }

    /// The blocks that these nodes may allocate from.
    async fn blocks(&self, names: &[&str]) -> Result<BTreeMap<String, Vec<Cidr>>> {
        let nodes = self.cp.ipam_nodes().await?;
        Ok(names.iter().filter_map(|name| Some(((*name).to_owned(), active(nodes.get(*name)?)))).collect())
    }
}

/// The blocks that a node may allocate from.
fn active(node: &IPAMNode) -> Vec<Cidr> {
    node.spec.ipam.allocated.iter().filter(|block| !block.retiring).map(|block| block.cidr).collect()
}

fn retiring(node: &IPAMNode) -> Vec<Cidr> {
    node.spec.ipam.allocated.iter().filter(|block| block.retiring).map(|block| block.cidr).collect()
}

/// What its agent says it holds.
fn held(node: &IPAMNode) -> Vec<Cidr> {
    let ipam = node.status.as_ref().and_then(|status| status.ipam.as_ref());
    ipam.map(|ipam| ipam.held.iter().map(|held| held.cidr).collect()).unwrap_or_default()
}

/// Which node the ledger says has each block that is not free.
async fn ledger(cp: &ControlPlane) -> Result<BTreeMap<Cidr, String>> {
    let pages = Api::<IPAMLedger>::all(cp.admin().await?).list(&ListParams::default()).await?;
    let entries = pages.into_iter().flat_map(|page| page.spec.entries);
    Ok(entries.map(|entry| (entry.block, entry.node)).collect())
}

/// Who knows that a backup was restored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The person who starts the operator.
    ByPerson,
    /// Nobody: the pod of the operator must remember how far the store was.
    ByNobody,
}

/// Two nodes are in the backup, two came after it; all run on while it is restored, and the operator does not run.
async fn restored_and_recovered(flags: &[&str], told: Told) -> Result<()> {
    let (mut cluster, operator) = Cluster::start(&["early-0", "early-1"]).await?;
    drop(operator);
    let operator = cluster.elected().await?;
    let snapshot = cluster.cp.snapshot("older").await?;
    cluster.join(&["late-0", "late-1"]).await?;
    let all = ["early-0", "early-1", "late-0", "late-1"];
    let before = cluster.blocks(&all).await?;
    cluster.remembered().await?;
    operator.kill9();
    cluster.cp.restore(&snapshot, flags).await?;
    assert!(!cluster.cp.ipam_nodes().await?.contains_key("late-0"), "the backup is older than late-0");
    // kubelets register again; in the other order, so that whoever is asked first would take the other's block.
    cluster.register(&["late-1"]).await?;
    cluster.register(&["late-0"]).await?;
    cluster.cp.create_nodes([node("new").ready(false)]).await?;
    let operator = match told {
        Told::ByPerson => cluster.cp.start_operator("recovering", RECOVER).await?,
        Told::ByNobody => {
            operator.restart()?;
            operator
        }
    };
    cluster.served(&all).await.with_context(|| operator.tail())?;
    cluster.served(&["new"]).await?;
    assert_eq!(cluster.blocks(&all).await?, before, "each has its own blocks again");
    cluster.pods_live_on("second").await
}

#[tokio::test]
async fn a_restored_backup_is_recovered_from_the_agents() -> Result<()> {
    restored_and_recovered(&[], Told::ByPerson).await
}

#[tokio::test]
async fn a_restored_backup_with_later_revisions_is_recovered_from_the_agents() -> Result<()> {
    restored_and_recovered(BUMP, Told::ByPerson).await
}

#[tokio::test]
async fn a_backup_restored_while_no_operator_ran_is_noticed_and_recovered_from_the_agents() -> Result<()> {
    restored_and_recovered(&[], Told::ByNobody).await
}

#[tokio::test]
async fn a_backup_with_later_revisions_restored_while_no_operator_ran_is_noticed() -> Result<()> {
    restored_and_recovered(BUMP, Told::ByNobody).await
}

/// Nobody tells the operator: it must notice by itself, and keep that in mind, though it may end for want of its Lease.
async fn restored_under_a_running_operator(flags: &[&str]) -> Result<()> {
    let (mut cluster, unelected) = Cluster::start(&["early-0", "early-1"]).await?;
    drop(unelected);
    let operator = cluster.elected().await?;
    let snapshot = cluster.cp.snapshot("older").await?;
    cluster.join(&["late-0", "late-1"]).await?;
    cluster.remembered().await?;
    cluster.cp.restore(&snapshot, flags).await?;
    cluster.register(&["late-1"]).await?;
    cluster.register(&["late-0"]).await?;
    cluster.cp.create_nodes([node("new").ready(false)]).await?;
    let all = ["early-0", "early-1", "late-0", "late-1", "new"];
    let served = async || {
        if !operator.is_running() {
            // As kubelet does.
            operator.restart()?;
        }
        let nodes = cluster.cp.ipam_nodes().await?;
        let settled = |name: &&str| nodes.get(*name).is_some_and(|node| active(node).len() == 2);
        let unsettled: Vec<_> = all.iter().filter(|name| !settled(name)).collect();
        ensure!(unsettled.is_empty(), "not served: {unsettled:?} of {:?}\n{}", nodes.keys(), operator.tail());
        cluster.check().await.map(|()| true)
    };
    until("everybody is served, from blocks in which nobody else's pods are", served).await?;
    ensure!(operator.log_contains("restored from a backup"), "it was not noticed:\n{}", operator.tail());
    cluster.pods_live_on("second").await
}

#[tokio::test]
async fn a_backup_restored_under_a_running_operator_is_contained() -> Result<()> {
    restored_under_a_running_operator(&[]).await
}

#[tokio::test]
async fn a_backup_with_later_revisions_restored_under_a_running_operator_is_contained() -> Result<()> {
    restored_under_a_running_operator(BUMP).await
}

#[tokio::test]
async fn a_lost_ledger_and_a_lost_config_are_recovered_from_what_nodes_hold() -> Result<()> {
    let (mut cluster, operator) = Cluster::start(&["n0", "n1"]).await?;
    let before = cluster.blocks(&["n0", "n1"]).await?;
    let entries = ledger(&cluster.cp).await?;
    cluster.cp.remove_protection().await?;
    let recovered = async |cluster: &Cluster, what: &str| {
        let again = async || {
            let now = ledger(&cluster.cp).await?;
            let config = cluster.cp.ipam_config().await?;
            let in_use = config.status.is_some_and(|status| status.in_use);
            let recorded = entries.iter().all(|(block, name)| now.get(block) == Some(name));
            Ok(recorded && in_use && config.spec.mode == Mode::ClusterPool)
        };
        until(&format!("{what}: ledger and config are there again"), again).await?;
        assert_eq!(cluster.blocks(&["n0", "n1"]).await?, before, "{what}");
        cluster.check().await
    };

    // Under the operator's eyes.
    let configs = Api::<IPAMConfig>::all(cluster.cp.admin().await?);
    configs.delete(CONFIG_NAME, &DeleteParams::default()).await?;
    recovered(&cluster, "config deleted").await?;
    cluster.cp.kubectl(&["delete", "ipamnode", "n0"]).await?.ok()?;
    cluster.served(&["n0"]).await?;
    recovered(&cluster, "IPAMNode deleted").await?;

    // While it is away; and then it comes back with the settings of another mode, which are refused all the same.
    operator.kill9();
    cluster.cp.kubectl(&["delete", "ipamledgers", "--all"]).await?.ok()?;
    operator.restart()?;
    recovered(&cluster, "ledger deleted").await?;
    operator.kill9();
    configs.delete(CONFIG_NAME, &DeleteParams::default()).await?;
    let settings = cluster.cp.write_settings("kubernetes", "ipam: {mode: kubernetes}\n")?;
    let wrong = cluster.cp.operator_program(&settings, NO_ELECTION).await?.start(cluster.cp.folder(), "wrong")?;
    recovered(&cluster, "config deleted, another mode configured").await?;
    drop(wrong);

    operator.restart()?;
    cluster.cp.create_nodes([node("new").ready(false)]).await?;
    cluster.served(&["new"]).await?;
    cluster.pods_live_on("second").await
}

#[tokio::test]
async fn an_edited_ledger_gives_nobody_what_another_uses() -> Result<()> {
    let (mut cluster, operator) = Cluster::start(&["n0", "n1"]).await?;
    let before = cluster.blocks(&["n0", "n1"]).await?;
    let pages = Api::<IPAMLedger>::all(cluster.cp.admin().await?);
    for down in [false, true] {
        if down {
            operator.kill9();
        }
        // Somebody frees what n0 holds.
        for page in pages.list(&ListParams::default()).await? {
            let entries: Vec<_> = page.spec.entries.iter().filter(|entry| entry.node != "n0").collect();
            let edit = json!({"spec": {"entries": entries}});
            pages.patch(&page.name_any(), &PatchParams::default(), &Patch::Merge(edit)).await?;
        }
        if down {
            operator.restart()?;
        }
        let names = if down { ["new-2", "new-3"] } else { ["new-0", "new-1"] };
        cluster.cp.create_nodes(names.map(|name| node(name).ready(false))).await?;
        cluster.served(&names).await?;
        cluster.served(&["n0", "n1"]).await?;
    }
    assert_eq!(cluster.blocks(&["n0", "n1"]).await?, before);
    cluster.pods_live_on("second").await
}

/// What `thief` is to have in its `IPAMNode`, if an administrator writes `victim`'s IPv4 block into it.
async fn theft(cluster: &Cluster, victim: &str, thief: &str) -> Result<(Cidr, Value)> {
    let mut nodes = cluster.cp.ipam_nodes().await?;
    let (victim, thief) = (nodes.remove(victim).context("no victim")?, nodes.remove(thief).context("no thief")?);
    let mut blocks = thief.spec.ipam.allocated;
    blocks[0] = victim.spec.ipam.allocated[0].clone();
    let cidrs: Vec<_> = blocks.iter().map(|block| block.cidr).collect();
    Ok((cidrs[0], json!({"spec": {"ipam": {"allocated": blocks, "podCIDRs": cidrs}}})))
}

async fn write(cluster: &Cluster, name: &str, edit: Value) -> Result<()> {
    let nodes = Api::<IPAMNode>::all(cluster.cp.admin().await?);
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(edit)).await?;
    Ok(())
}

/// Whether the block is disputed as it should be, or why not: it retires on both nodes, both have another, and each names
/// the other in its condition and in an Event.
async fn disputed(cluster: &Cluster, pair: [&str; 2], block: &Cidr) -> Result<bool> {
    let nodes = cluster.cp.ipam_nodes().await?;
    for (name, other) in [(pair[0], pair[1]), (pair[1], pair[0])] {
        let node = nodes.get(name).with_context(|| format!("no IPAMNode {name}"))?;
        ensure!(retiring(node).contains(block) && !active(node).contains(block), "{name}: {:?}", node.spec);
        ensure!(active(node).len() == 2, "{name} has no other block: {:?}", node.spec);
        let condition = cluster.cp.condition(name, "Disputed").await?.context("no condition Disputed")?;
        let named = |message: &str| message.contains(other) && message.contains(&block.to_string());
        ensure!(condition.status == "True" && named(&condition.message), "{name}: {condition:?}");
        let events = cluster.cp.events_on(name, "BlockDisputed").await?;
        ensure!(events.iter().any(|message| named(message)), "Events on {name}: {events:?}");
    }
    Ok(true)
}

/// Whether a dispute is over, in which `gone` has no pod left in the block, or why not.
async fn settled(cluster: &Cluster, stays: &str, gone: &str, block: &Cidr) -> Result<bool> {
    let nodes = cluster.cp.ipam_nodes().await?;
    ensure!(!held(&nodes[gone]).contains(block), "{gone} still says that it holds the block");
    let blocks = cluster.cp.blocks().await?;
    ensure!(!blocks[gone].contains(block), "{gone} still has the block");
    ensure!(blocks[stays].contains(block), "{stays} lost the block in which its pods are");
    for name in [stays, gone] {
        let condition = cluster.cp.condition(name, "Disputed").await?.context("no condition Disputed")?;
        ensure!(condition.status == "False", "{name}: {condition:?}");
    }
    Ok(true)
}

#[tokio::test]
async fn an_ipam_node_with_anothers_block_is_put_right_under_the_operators_eyes() -> Result<()> {
    let (mut cluster, _operator) = Cluster::start(&["victim", "thief"]).await?;
    let (stolen, edit) = theft(&cluster, "victim", "thief").await?;
    write(&cluster, "thief", edit).await?;
    // The thief's agent may have believed it for a moment; whatever came of that is over once it holds nothing there.
    let right = async || {
        let nodes = cluster.cp.ipam_nodes().await?;
        let thief = &nodes["thief"];
        ensure!(!cluster.cp.blocks().await?["thief"].contains(&stolen), "the thief has it: {:?}", thief.spec);
        for name in ["victim", "thief"] {
            let disputed = cluster.cp.condition(name, "Disputed").await?;
            ensure!(disputed.as_ref().is_none_or(|c| c.status == "False"), "{name}: {disputed:?}");
            ensure!(active(&nodes[name]).len() == 2, "{name}: {:?}", nodes[name].spec);
        }
        ensure!(cluster.cp.blocks().await?["victim"].contains(&stolen), "the victim's pods are there");
        Ok(true)
    };
    until("the thief has nothing of the victim's", right).await?;
    cluster.cp.create_nodes([node("new").ready(false)]).await?;
    cluster.served(&["new"]).await?;
    cluster.pods_live_on("second").await
}

#[tokio::test]
async fn a_block_that_two_nodes_use_is_disputed_until_one_lets_go() -> Result<()> {
    let (mut cluster, operator) = Cluster::start(&["victim", "thief"]).await?;
    operator.kill9();
    let (stolen, edit) = theft(&cluster, "victim", "thief").await?;
    write(&cluster, "thief", edit).await?;
    let seen = async || Ok(held(&cluster.cp.ipam_nodes().await?["thief"]).contains(&stolen));
    until("the thief's agent takes the block for its own", seen).await?;
    let loot = cluster.add("thief", "loot").await?;
    assert!(loot.iter().any(|address| stolen.contains(&Cidr::host(*address))), "{loot:?} is not in {stolen}");
    operator.restart()?;

    let disputed = async || disputed(&cluster, ["victim", "thief"], &stolen).await;
    until("both retire the block, have another and name each other", disputed).await?;
    // Both keep their pods; what is new comes from elsewhere, and no third node gets the block.
    cluster.cp.create_nodes((0..8).map(|number| node(&format!("new-{number}")).ready(false))).await?;
    let all_served = async || Ok(cluster.cp.blocks().await?.len() == 10);
    until("ten nodes are served", all_served).await?;
    for name in ["victim", "thief"] {
        for ((_, pod), addresses) in cluster.pods.iter().filter(|((node, _), _)| node == name) {
            assert_eq!(cluster.ask(name, pod).await?, *addresses, "{pod} of {name}");
        }
        let fresh = cluster.ask(name, "fresh").await?;
        assert!(fresh.iter().all(|address| !stolen.contains(&Cidr::host(*address))), "{fresh:?} of {name}");
    }
    let holders = cluster.cp.blocks().await?.into_iter().filter(|(_, blocks)| blocks.contains(&stolen));
    let holders: Vec<_> = holders.map(|(name, _)| name).collect();
    assert_eq!(holders, ["thief", "victim"]);
    operator.restart()?;
    until("the dispute outlives a restart", disputed).await?;

    cluster.del("thief", "loot").await?;
    let settled = async || settled(&cluster, "victim", "thief", &stolen).await;
    until("the dispute is settled", settled).await?;
    cluster.check().await
}

/// Nobody could know of a machine that was not registered when the operator began to assign.
#[tokio::test]
async fn a_machine_that_registers_too_late_after_a_restore_disputes_its_block() -> Result<()> {
    let (mut cluster, operator) = Cluster::start(&["early"]).await?;
    let snapshot = cluster.cp.snapshot("older").await?;
    cluster.join(&["late"]).await?;
    let block = cluster.blocks(&["late"]).await?["late"][0];
    operator.kill9();
    cluster.cp.restore(&snapshot, BUMP).await?;
    let _operator = cluster.cp.start_operator("recovering", RECOVER).await?;
    // Next-fit begins anew, so the first that comes is given what the backup does not know.
    cluster.cp.create_nodes([node("taker").ready(false)]).await?;
    until("the taker is served", async || Ok(cluster.cp.blocks().await?.contains_key("taker"))).await?;
    assert_eq!(cluster.blocks(&["taker"]).await?["taker"][0], block, "this test is about a block that was given again");
    cluster.start_agent("taker", "agent-taker").await?;
    cluster.add("taker", "first").await?;

    cluster.register(&["late"]).await?;
    let both = async || disputed(&cluster, ["late", "taker"], &block).await;
    until("both retire the block, have another and name each other", both).await?;
    for name in ["late", "taker"] {
        let kept = cluster.pods[&(name.to_owned(), "first".to_owned())].clone();
        assert_eq!(cluster.ask(name, "first").await?, kept, "the pod of {name}");
    }
    cluster.del("taker", "first").await?;
    // The ledger has it as the taker's: that cools first, and is late's then. So late is still named, the taker is not.
    let let_go = async || {
        let blocks = cluster.cp.blocks().await?;
        let named = cluster.cp.condition("taker", "Disputed").await?.is_none_or(|c| c.status == "True");
        Ok(!blocks["taker"].contains(&block) && blocks["late"].contains(&block) && !named)
    };
    until("the taker is out of it", let_go).await?;
    cluster.pods_live_on("second").await
}

#[tokio::test]
async fn a_chart_installed_again_over_running_nodes_gives_each_its_own_blocks() -> Result<()> {
    let (mut cluster, operator) = Cluster::start(&["n0", "n1", "n2"]).await?;
    let names = ["n0", "n1", "n2"];
    let before = cluster.blocks(&names).await?;
    drop(operator);
    // Their pods go with the chart; what they recorded stays on the nodes.
    cluster.agents.clear();
    cluster.cp.helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"]).await?.ok()?;
    let kinds = ["ipamconfigs", "ipamledgers", "ipamnodes", "ippools"].map(|kind| format!("{kind}.cadastre.io"));
    let delete: Vec<&str> = ["delete", "crd"].into_iter().chain(kinds.iter().map(String::as_str)).collect();
    cluster.cp.kubectl(&delete).await?.ok()?;

    cluster.cp.install_chart(&values()).await?.ok()?;
    let _operator = cluster.cp.start_operator("again", NO_ELECTION).await?;
    // In the other order than at first, so that whoever is asked first would take another's block.
    for name in ["n2", "n1", "n0"] {
        cluster.start_agent(name, &format!("again-{name}")).await?;
    }
    cluster.cp.create_nodes([node("new").ready(false)]).await?;
    cluster.served(&names).await?;
    assert_eq!(cluster.blocks(&names).await?, before);
    cluster.served(&["new"]).await?;
    cluster.pods_live_on("second").await
}
