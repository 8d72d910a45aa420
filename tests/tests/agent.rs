//! Pods get addresses: operator, agents and plugin as the chart installs them, on a real API server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use cadastre_core::Cidr;
use cadastre_tests::{
    Attachment, Cni, ControlPlane, DUAL_STACK, NODE, NetNs, Plugin, Proc, SMALL_BLOCKS, Served, addresses, held,
    installed, ipam, pod, report, served, status, until,
};
use futures::{StreamExt as _, stream};
use serde_json::json;

const SOON: Duration = Duration::from_mins(1);

/// For hundreds of pods on one node.
const LARGE_BLOCKS: &str = r#"
ipam:
  mode: cluster-pool
  operator: {clusterPoolIPv4PodCIDRList: ["10.0.0.0/8"], clusterPoolIPv4MaskSize: 22, clusterPoolIPv6PodCIDRList: ["fd00::/104"], clusterPoolIPv6MaskSize: 118}
ipv6: {enabled: true}
"#;
/// Two pods attached through the reference plugin, from the namespace of a node.
struct Pods {
    host: NetNs,
    spaces: [NetNs; 2],
    cni: Cni,
}

impl Pods {
    fn new(socket: &Path) -> Result<Self> {
        let (host, spaces) = (NetNs::new("node")?, [NetNs::new("nginx")?, NetNs::new("tshoot")?]);
        let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam(socket)});
        let cni = Cni::new(&host, &json!({"cniVersion": "1.1.0", "name": "pods", "plugins": [bridge]}))?;
        Ok(Self { host, spaces, cni })
    }

    fn attachment(&self, number: usize) -> Attachment<'_> {
        let name = ["nginx", "tshoot"][number];
        Attachment::new(&self.spaces[number]).pod("default", name, &format!("uid-{name}"))
    }
}

#[tokio::test]
async fn pods_get_addresses_end_to_end_and_reach_each_other() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let Served { cp, blocks, agent, .. } = &served;
    let pods = Pods::new(&cp.agent_socket(NODE))?;
    let mut given = Vec::new();
    for number in 0..2 {
        let result = pods.cni.add(&pods.attachment(number)).await.with_context(|| agent.tail())?;
        for (ip, block) in result["ips"].as_array().context("no ips")?.iter().zip(blocks) {
            let (address, length) = ip["address"].as_str().and_then(|ip| ip.split_once('/')).context("no prefix")?;
            assert_eq!(length, block.prefix_len().to_string(), "{ip}");
            assert!(block.contains_addr(address.parse()?), "{ip} is not of {block}");
            assert_eq!(ip["gateway"], block.nth(1).context("no router")?.to_string());
        }
        given.push(addresses(&result)?);
        assert_eq!(given[number].len(), 2, "{result}");
    }
    for other in given[1].iter().chain(&blocks.iter().filter_map(|block| block.nth(1)).collect::<Vec<_>>()) {
        // An IPv6 address answers only once duplicate address detection is done with it.
        until(&format!("a ping of {other}"), async || pods.spaces[0].pings(&other.to_string()).await).await?;
    }
    shows_status(cp, blocks, &given).await?;

    pods.cni.check(&pods.attachment(0)).await?;
    pods.cni.del(&pods.attachment(0)).await?;
    pods.cni.del(&pods.attachment(0)).await?;
    assert_eq!(held(&report(cp).await?)?.into_keys().collect::<Vec<_>>(), given[1]);
    assert!(pods.cni.check(&pods.attachment(0)).await.is_err(), "nothing is held any more");
    assert!(pods.host.run(&["ip", "link", "show", "cni0"]).await?.success());
    agent_away(cp, agent).await
}

/// Exactly the shape of the issue, and the same as JSON.
async fn shows_status(cp: &ControlPlane, blocks: &[Cidr], given: &[Vec<IpAddr>]) -> Result<()> {
    let mut rows: BTreeMap<IpAddr, &str> = BTreeMap::new();
    rows.extend(blocks.iter().filter_map(|block| Some((block.nth(1)?, "router"))));
    for (addresses, owner) in given.iter().zip(["default/nginx", "default/tshoot"]) {
        rows.extend(addresses.iter().map(|address| (*address, owner)));
    }
    let width = rows.keys().map(|address| address.to_string().len()).max().unwrap_or_default();
    let row = |(address, owner): (&IpAddr, &&str)| format!("  {:<width$}   ({owner})", address.to_string());
    let rows = rows.iter().map(row).collect::<Vec<_>>().join("\n");
    let pools = format!("IPv4: 3/254 allocated from {}, IPv6: 3/254 allocated from {}", blocks[0], blocks[1]);
    let head = format!("Kubernetes:  Ok    1.36 (v1.36.3)\nIPAM:        {pools}   mode cluster-pool\n");
    let said = status(cp, &[]).await?.ok()?;
    assert!(
        said.starts_with(&format!("{head}Pools:\n  POOL     FAMILY  ALLOCATED  COOLING  RESERVED  FREE\n")),
        "{said}"
    );
    let said = status(cp, &["--all-addresses"]).await?.ok()?;
    assert!(said.starts_with(&format!("{head}Allocated addresses:\n{rows}\nPools:\n")), "{said}");
    assert!(said.contains("\nOperator:    last word (generation 1) "), "{said}");

    let json = report(cp).await?;
    assert_eq!((&json["node"], &json["mode"]), (&json!(NODE), &json!("cluster-pool")));
    assert_eq!(json["pools"][0]["blocks"], json!([blocks[0].to_string()]));
    assert_eq!((&json["pools"][0]["allocated"], &json["pools"][0]["capacity"]), (&json!(3), &json!("254")));
    assert_eq!(held(&json)?.into_keys().collect::<BTreeSet<_>>(), given.iter().flatten().copied().collect());
    Ok(())
}

/// Without an agent, status says so with the remedy.
async fn agent_away(cp: &ControlPlane, agent: &Proc) -> Result<()> {
    agent.kill9();
    let away = status(cp, &[]).await?;
    assert_eq!(away.code, Some(1));
    assert!(away.stdout.starts_with("Agent:       Failed    no agent answers at "), "{away:?}");
    assert!(away.stdout.contains("see whether its pod runs on this node"), "{away:?}");
    let away = status(cp, &["-o", "json"]).await?;
    assert!(away.code == Some(1) && away.stdout.is_empty() && away.stderr.contains("no agent answers"), "{away:?}");
    Ok(())
}

#[tokio::test]
async fn a_restarted_agent_answers_as_before_also_without_api_server() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let Served { cp, agent, plugin, blocks, .. } = &served;
    let ids: Vec<String> = (0..20).map(|number| format!("c{number}")).collect();
    let mut given: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
    for id in &ids[..10] {
        given.insert(id, plugin.add(id).await?);
    }
    let mut more = ids[10..].iter();
    for round in ["with the API server", "without", "without, again"] {
        if round == "without" {
            cp.stop_apiserver();
        }
        agent.restart()?;
        for (id, addresses) in &given {
            assert_eq!(&plugin.add(id).await?, addresses, "{round}: {id}\n{}", agent.tail());
        }
        for id in more.by_ref().take(3) {
            let new = plugin.add(id).await.with_context(|| format!("{round}\n{}", agent.tail()))?;
            let block_of = |address: &IpAddr| blocks.iter().any(|block| block.contains_addr(*address));
            assert!(new.len() == 2 && new.iter().all(block_of), "{round}: {new:?}");
            assert!(!given.values().flatten().any(|held| new.contains(held)), "{round}: {new:?} is held");
            given.insert(id, new);
        }
    }
    let down = async || Ok(!status(cp, &[]).await?.success());
    until("the agent says that the API server is away", down).await?;
    let down = status(cp, &[]).await?;
    assert!(down.stdout.starts_with("Kubernetes:  Failed    "), "{down:?}");
    cp.restart_apiserver().await?;
    until("the agent is well again", async || Ok(status(cp, &[]).await?.success())).await?;
    assert_eq!(held(&report(cp).await?)?.len(), 2 * given.len());
    Ok(())
}

/// What one of many concurrent callers does with its attachment.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Job {
    Add,
    Del,
    AddThenDel,
}

impl Job {
    fn calls(self) -> &'static [&'static str] {
        match self {
            Self::Add => &["ADD"],
            Self::Del => &["DEL"],
            Self::AddThenDel => &["ADD", "DEL"],
        }
    }
}

/// Does all jobs, 16 at a time; what each ADD was answered, if it was.
async fn work(plugin: &Plugin, jobs: &[(String, Job)], done: &AtomicUsize) -> Result<BTreeMap<String, Vec<IpAddr>>> {
    let job = async |(id, job): &(String, Job)| {
        let mut added = None;
        for call in job.calls() {
            let answer = plugin.call(call, id).await?;
            done.fetch_add(1, Ordering::Relaxed);
            match (*call, answer) {
                ("ADD", answer) => added = answer.ok(),
                (_, Err(error)) => bail!("DEL of {id}: {error}"),
                _ => {}
            }
        }
        anyhow::Ok((id.clone(), added))
    };
    let answers: Vec<_> = stream::iter(jobs).map(job).buffer_unordered(16).collect().await;
    let mut given = BTreeMap::new();
    for answer in answers {
        if let (id, Some(result)) = answer? {
            given.insert(id, addresses(&result)?);
        }
    }
    Ok(given)
}

#[tokio::test]
async fn an_agent_killed_during_500_calls_loses_and_leaks_nothing() -> Result<()> {
    let served = served(LARGE_BLOCKS).await?;
    let Served { cp, agent, plugin, .. } = &served;
    let old: Vec<_> = (0..200).map(|number| (format!("old{number}"), Job::Add)).collect();
    let before = work(plugin, &old, &AtomicUsize::new(0)).await?;
    assert_eq!(before.len(), 200);
    let jobs = (0..200).flat_map(|number| {
        let brief = (number % 4 == 0).then(|| (format!("brief{number}"), Job::AddThenDel));
        [(format!("new{number}"), Job::Add), (format!("old{number}"), Job::Del)].into_iter().chain(brief)
    });
    let jobs: Vec<_> = jobs.collect();
    assert_eq!(jobs.iter().map(|(_, job)| job.calls().len()).sum::<usize>(), 500);

    let done = AtomicUsize::new(0);
    let kills = async {
        for mark in [100, 300] {
            until("calls under way", async || Ok(done.load(Ordering::Relaxed) >= mark)).await?;
            agent.kill9();
            until("calls without an agent", async || Ok(done.load(Ordering::Relaxed) >= mark + 20)).await?;
            agent.restart()?;
        }
        anyhow::Ok(())
    };
    let (first, kills) = tokio::join!(work(plugin, &jobs, &done), kills);
    let first = first?;
    kills?;
    assert!(done.load(Ordering::Relaxed) == 500 && !first.is_empty());

    assert_eq!(agent.log().matches("restored from the journal").count(), 2, "{}", agent.tail());
    replayed(cp).await?;
    let now = held(&report(cp).await?)?;
    assert!(now.values().all(|id| id.starts_with("new")), "what DEL said is done before anybody repeats it: {now:?}");
    let holds = |(id, addresses): (&String, &Vec<IpAddr>)| addresses.iter().all(|address| now.get(address) == Some(id));
    assert!(first.iter().filter(|(id, _)| id.starts_with("new")).all(holds), "what was answered is held: {now:?}");

    let mut again = work(plugin, &jobs, &AtomicUsize::new(0)).await?;
    again.retain(|id, _| id.starts_with("new"));
    assert_eq!(again.len(), 200, "every ADD is answered\n{}", agent.tail());
    assert!(now.iter().all(|(address, id)| again[id].contains(address)), "what was held stays");
    assert!(again.values().all(|addresses| addresses.len() == 2 && addresses[0].is_ipv4() && addresses[1].is_ipv6()));
    let expected: BTreeMap<IpAddr, String> =
        again.iter().flat_map(|(id, addresses)| addresses.iter().map(|address| (*address, id.clone()))).collect();
    assert_eq!(expected.len(), 400, "no address is held twice");
    replayed(cp).await?;
    let said = report(cp).await?;
    assert_eq!(held(&said)?, expected, "each attachment has its own, and nothing leaked");
    for pool in said["pools"].as_array().context("no pools")? {
        assert_eq!(pool["allocated"], 201, "{pool}");
    }
    Ok(())
}

/// Waits until the agent has done what DELs left for it.
async fn replayed(cp: &ControlPlane) -> Result<()> {
    until("tombstones are replayed", async || Ok(std::fs::read_dir(tombstones(cp))?.count() == 0)).await
}

fn tombstones(cp: &ControlPlane) -> PathBuf {
    cp.agent_socket(NODE).with_file_name("tombstones")
}

#[tokio::test]
async fn an_add_waits_for_the_assignment_and_a_del_for_the_agent() -> Result<()> {
    let cp = installed(&format!("{DUAL_STACK}agent: {{addWait: 25s}}\n")).await?;
    let agent = cp.start_agent(NODE, "agent").await?;
    agent.wait_log(SOON, "listen=").await?;
    let plugin = Plugin::new(&cp)?;
    let operator = async {
        let waits = async || Ok(agent.http("/metrics").await?.contains("cadastre_agent_waiting 1"));
        until("the ADD waits", waits).await?;
        let alone = status(&cp, &[]).await?;
        assert!(!alone.success() && alone.stdout.contains("operator"), "{alone:?}");
        cp.start_operator("operator", &["--leader-elect=false"]).await
    };
    let (added, operator) = tokio::join!(plugin.add("early"), operator);
    let _operator = operator?;
    let added = added.with_context(|| agent.tail())?;
    let blocks = cp.blocks().await?.remove(NODE).context("no blocks")?;
    assert!(added.len() == 2 && added.iter().zip(&blocks).all(|(address, block)| block.contains_addr(*address)));

    agent.kill9();
    plugin.del("early").await?;
    assert_eq!(std::fs::read_dir(tombstones(&cp))?.count(), 1);
    agent.restart()?;
    replayed(&cp).await?;
    assert!(held(&report(&cp).await?)?.is_empty());
    let other = plugin.add("late").await?;
    assert!(!other.iter().any(|address| added.contains(address)), "what was released is cooling");
    Ok(())
}

/// Reason and message of the condition by which the agent says how it serves.
async fn serving(cp: &ControlPlane) -> Result<(String, String)> {
    let status = cp.ipam_nodes().await?.remove(NODE).context("no IPAMNode")?.status.context("no status")?;
    let condition = status.conditions.into_iter().find(|condition| condition.type_ == "Serving");
    condition.map(|condition| (condition.reason, condition.message)).context("no condition Serving")
}

#[tokio::test]
async fn a_status_that_somebody_else_wrote_is_written_again() -> Result<()> {
    let Served { cp, operator: _operator, agent, .. } = served(DUAL_STACK).await?;
    let said = async || {
        let status = cp.ipam_nodes().await?.remove(NODE).context("no IPAMNode")?.status.context("no status")?;
        anyhow::Ok((status.ipam.context("nothing is said of addresses")?, status.health_endpoint))
    };
    let true_words = said().await?;
    // The second nobody can read, and this agent says nothing of its own in its place.
    let nowhere = json!({"addresses": ["nonsense"], "port": 4240});
    let lie = json!({"status": {"ipam": {"usage": "99/254", "held": []}, "healthEndpoint": nowhere}});
    let patch = ["patch", "ipamnode", NODE, "--subresource=status", "--type=merge", "-p", &lie.to_string()];
    cp.kubectl(&patch).await?.ok()?;
    until("the agent's own words are there again", async || Ok(said().await? == true_words))
        .await
        .with_context(|| agent.tail())
}

#[tokio::test]
async fn an_agent_of_another_mode_says_so_and_serves_on() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    let _operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    let settings = cp.write_settings("other-mode", "ipam: {mode: kubernetes}\n")?;
    let agent = cp.agent_program(&settings, NODE).await?.start(cp.folder(), "other-mode")?;
    let both = "configured mode kubernetes is not the recorded mode cluster-pool";
    agent.wait_log(SOON, both).await?;
    agent.wait_log(SOON, "listen=").await?;
    let not_ready =
        async || agent.http("/readyz").await.map(|said| said.starts_with("HTTP/1.1 503") && said.contains(both));
    until("readiness names both modes", not_ready).await?;
    assert!(agent.http("/metrics").await?.contains("cadastre_agent_mode_mismatch 1"));
    let condition = async || serving(&cp).await.map(|(reason, said)| reason == "ModeDiffers" && said.contains(both));
    until("the condition says it", condition).await?;
    let event = async || {
        let events =
            cp.kubectl(&["get", "events", "-A", "-o", "jsonpath={.items[*].reason} {.items[*].message}"]).await?;
        let events = events.ok()?;
        Ok(events.contains("ModeDiffers") && events.contains(both))
    };
    until("an Event says it", event).await?;
    let said = status(&cp, &[]).await?;
    assert!(!said.success() && said.stdout.contains(both) && said.stdout.contains("set ipam.mode back"), "{said:?}");
    let plugin = Plugin::new(&cp)?;
    let given = plugin.add("a").await?;
    assert_eq!(given.len(), 2, "the recorded mode goes on");
    drop(agent);

    let agent = cp.start_agent(NODE, "agent").await?;
    agent.wait_log(SOON, "listen=").await?;
    until("the agent is ready", async || agent.http("/readyz").await.map(|said| said.starts_with("HTTP/1.1 200")))
        .await?;
    assert!(agent.http("/metrics").await?.contains("cadastre_agent_mode_mismatch 0"));
    until("the condition heals", async || Ok(serving(&cp).await?.0 == "Serving")).await?;
    assert_eq!(plugin.add("a").await?, given);
    status(&cp, &[]).await?.ok().map(drop)
}

#[tokio::test]
async fn an_exhausted_node_says_so_and_reserves_nothing() -> Result<()> {
    let served = served(SMALL_BLOCKS).await?;
    let Served { cp, plugin, blocks, .. } = &served;
    let mut given = BTreeMap::new();
    for id in ["a", "b", "c", "d"] {
        given.insert(id, plugin.add(id).await?);
    }
    let all: BTreeSet<IpAddr> = given.values().map(|addresses| addresses[0]).collect();
    assert_eq!(all, (0..4).filter_map(|number| blocks[0].nth(number)).collect(), "the whole block is used");

    let refused = plugin.call("ADD", "e").await?.unwrap_err();
    assert_eq!(refused["code"], 101, "{refused}");
    let expected =
        format!("pool default is exhausted on node n0: 4 of 4 IPv4 addresses of {} are held, 0 cooling", blocks[0]);
    assert_eq!(refused["msg"], expected);
    assert!(refused["details"].as_str().is_some_and(|details| details.contains("larger blocks")), "{refused}");
    let held_now = held(&report(cp).await?)?;
    assert_eq!(held_now.into_keys().collect::<BTreeSet<_>>(), given.values().flatten().copied().collect());
    let full = status(cp, &[]).await?;
    assert!(!full.success() && full.stdout.contains("IPv4: 4/4 allocated"), "{full:?}");
    assert!(full.stdout.contains("IPv6: 5/254 allocated"), "no IPv6 address is left behind: {full:?}");
    until("the condition says it", async || Ok(serving(cp).await?.0 == "PoolExhausted")).await?;

    // Its address still cools, and yields because nothing else is free.
    plugin.del("b").await?;
    let later = plugin.add("e").await?;
    assert_eq!(later[0], given["b"][0]);
    assert_ne!(later[1], given["b"][1], "other IPv6 addresses are free");
    plugin.del("e").await?;
    until("the condition heals", async || Ok(serving(cp).await?.0 == "Serving")).await
}

#[tokio::test]
async fn what_a_lost_del_left_is_freed_once_pod_and_namespace_are_gone() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    let _operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    let agent = cp.agent_program(&cp.settings_file("agent").await?, NODE).await?;
    let agent = agent.env("CADASTRE_RECONCILE_SECONDS", "0.2").start(cp.folder(), "agent")?;
    let plugin = Plugin::new(&cp)?;
    // "lost" has neither Pod nor namespace, once these are gone; the others have one of both.
    cp.create_in("default", &pod("default", "listed").on_node(NODE).build()).await?;
    let spaces = [NetNs::new("lost")?, NetNs::new("listed")?, NetNs::new("living")?];
    for (space, id) in spaces.iter().zip(["lost", "listed", "living"]) {
        plugin.call_in(&space.path(), "ADD", id).await?.map_err(|error| anyhow!("ADD of {id}: {error}"))?;
    }
    let [lost, listed, _living] = spaces;
    drop((lost, listed));
    let holders = async || Ok(held(&report(&cp).await?)?.into_values().collect::<BTreeSet<_>>());
    let are = async |ids: &[&str]| holders().await.map(|held| held.iter().eq(ids));
    until("the lost one is freed", async || are(&["listed", "living"]).await).await.with_context(|| agent.tail())?;
    assert!(agent.http("/metrics").await?.contains("cadastre_agent_reclaimed_total 1"));
    cp.kubectl(&["delete", "pod", "listed", "--force", "--grace-period=0"]).await?.ok()?;
    until("the one whose Pod was deleted is freed", async || are(&["living"]).await).await
}
