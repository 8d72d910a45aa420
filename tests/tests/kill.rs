//! `kill -9` of the operator at each of its writes in turn: just before the API server sees it, and just after it was
//! done without anybody being told. Found by enumeration: a life that nobody disturbs says which writes there are, so
//! many of each kind, and then there is a life for each of them. Writes that only such a life shows join the list.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cadastre_api::{IPPool, reason};
use cadastre_tests::{Asked, ControlPlane, DUAL_STACK, Fault, Proc, Program, Proxy, eventually, node, until};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

/// Four blocks of IPv4, so that a fifth node waits, and says so.
const SMALL: &str = r#"
ipam:
  mode: cluster-pool
  operator: {clusterPoolIPv4PodCIDRList: ["10.0.0.0/22"], clusterPoolIPv4MaskSize: 24, clusterPoolIPv6PodCIDRList: ["fd00::/104"], clusterPoolIPv6MaskSize: 120}
ipv6: {enabled: true}
"#;
/// What is added to them.
const MORE: (&str, &str) = (r#"["10.0.0.0/22"]"#, r#"["10.0.0.0/22", "10.1.0.0/23"]"#);

/// What a life must contain, or it has become too poor for this test.
const KINDS: [&str; 14] = [
    "DELETE ipamnodes",
    "PATCH ipamnodes",
    "PATCH ipamnodes/status",
    "PATCH ippools",
    "PATCH ippools/status",
    "POST events",
    "POST ipamconfigs",
    "POST ipamledgers",
    "POST ipamnodes",
    "POST ippools",
    "POST leases",
    "PUT ipamconfigs/status",
    "PUT ipamledgers",
    "PUT leases",
];

/// More writes than that in so short a life are a loop.
const TOO_MANY: usize = 100;

/// The first, second, … write of a kind in a life.
type Point = (String, usize);

fn point(asked: &Asked) -> Point {
    (asked.kind(), asked.nth)
}

#[tokio::test]
async fn killed_before_each_write_nothing_is_lost_or_given_twice() -> Result<()> {
    kill_at_each_write(Fault::StopBefore).await
}

#[tokio::test]
async fn killed_after_each_write_nothing_is_lost_or_given_twice() -> Result<()> {
    kill_at_each_write(Fault::StopAfter).await
}

async fn kill_at_each_write(fault: Fault) -> Result<()> {
    let stage = Stage::new().await?;
    let mut known: BTreeSet<Point> = stage.life(None).await.context("nobody killed it")?.into_iter().collect();
    let missed: Vec<_> = KINDS.into_iter().filter(|kind| !known.contains(&((*kind).to_owned(), 1))).collect();
    ensure!(missed.is_empty(), "no life has {missed:?}");
    let (mut killed, mut absent) = (BTreeMap::<String, usize>::new(), Vec::new());
    let mut tried = BTreeSet::new();
    while let Some(point) = known.difference(&tried).next().cloned() {
        ensure!(known.len() <= TOO_MANY, "a life without end: {known:?}");
        let seen = stage.life(Some((&point, fault))).await;
        let seen = seen.with_context(|| format!("killed by {fault:?} at {point:?}"))?;
        if seen.last() == Some(&point) {
            *killed.entry(point.0.clone()).or_default() += 1;
        } else {
            absent.push(point.clone());
        }
        known.extend(seen);
        tried.insert(point);
    }
    println!("{fault:?}: killed at {} writes: {killed:?}", killed.values().sum::<usize>());
    // How many writes there are depends on what came together, but each kind was killed at, and nearly each write.
    let most = KINDS.iter().all(|kind| killed.contains_key(*kind)) && absent.len() * 4 <= tried.len();
    ensure!(most, "of {} writes, these were not reached again: {absent:?}", tried.len());
    Ok(())
}

#[tokio::test]
async fn whoever_leads_next_writes_for_new_nodes_only() -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(DUAL_STACK).await?.ok()?;
    let history = cp.history().await?;
    let settings = cp.settings_file("settings").await?;
    let program = cp.operator_program(&settings, &[]).await?;
    // Pods of their own: nobody takes another's Lease before it has run out.
    let start = |name: &str| program.clone().env("POD_NAME", name).start(cp.folder(), name);
    let first = start("first")?;
    cp.create_nodes((0..30).map(|number| node(&format!("n{number}")).ready(false))).await?;
    until("30 nodes are served", async || Ok(cp.blocks().await?.len() == 30)).await?;
    let second = start("second")?;
    second.wait_log(Duration::from_secs(20), "standing by").await?;
    first.kill9();
    let by_second = next_node(&cp, "after-kill").await.with_context(|| second.tail())?;
    ensure!(by_second == 1, "{by_second} writes of IPAMNodes for one new node");

    let third = start("third")?;
    third.wait_log(Duration::from_secs(20), "standing by").await?;
    second.term();
    let by_third = next_node(&cp, "after-term").await.with_context(|| third.tail())?;
    ensure!(by_third == 1, "{by_third} writes of IPAMNodes for one new node");
    history.check(&cp).await?;
    cp.check_disjoint().await
}

/// Makes a node, waits until it is served, and says how many `IPAMNode`s were written for that.
async fn next_node(cp: &ControlPlane, name: &str) -> Result<usize> {
    let written = || cp.count(|event| event.resource == "ipamnodes" && event.is_write());
    let before = written().await?;
    cp.create_nodes([node(name).ready(false)]).await?;
    until(&format!("{name} is served"), async || Ok(cp.blocks().await?.contains_key(name))).await?;
    Ok(written().await? - before)
}

/// One control plane for many lives, each from the very beginning.
struct Stage {
    cp: ControlPlane,
    small: Program,
    grown: Program,
}

impl Stage {
    async fn new() -> Result<Self> {
        let cp = ControlPlane::start().await?;
        cp.install_chart(SMALL).await?.ok()?;
        let small = cp.settings_file("small").await?;
        cp.install_chart(&SMALL.replace(MORE.0, MORE.1)).await?.ok()?;
        let grown = cp.settings_file("grown").await?;
        // One pod, whose container the kubelet starts again: it need not wait for the Lease of its predecessor.
        let small = cp.operator_program(&small, &[]).await?.env("POD_NAME", "operator-0");
        let grown = cp.operator_program(&grown, &[]).await?.env("POD_NAME", "operator-0");
        Ok(Self { cp, small, grown })
    }

    /// One world from its beginning, with the operator killed at this point. Its writes, up to that one.
    async fn life(&self, kill: Option<(&Point, Fault)>) -> Result<Vec<Point>> {
        self.begin().await?;
        let history = self.cp.history().await?;
        let proxy = self.cp.proxy("killed").await?;
        if let Some((kill, fault)) = kill {
            let kill = kill.clone();
            proxy.rule(move |asked| if point(asked) == kill { fault } else { Fault::Pass });
        }
        tokio::select! {
            _ = proxy.stopped() => {}
            // Its operator dies with it when it is dropped half-way.
            ended = self.story(&proxy) => ended?,
        }
        let published = self.cp.blocks().await?;
        self.end().await?;
        history.check(&self.cp).await?;
        let now = self.cp.blocks().await?;
        let changed = |(name, blocks): &(&String, _)| *name != "b" && now.get(*name) != Some(*blocks);
        ensure!(!published.iter().any(|pair| changed(&pair)), "{published:?} became {now:?}");
        let asked = proxy.asked();
        let end = proxy.has_stopped().and_then(|last| asked.iter().position(|asked| point(asked) == point(&last)));
        let life = asked.iter().take(end.map_or(asked.len(), |end| end + 1));
        Ok(life.filter(|asked| asked.is_write()).map(point).collect())
    }

    /// A world in which there never was an operator, and four nodes wait for one.
    async fn begin(&self) -> Result<()> {
        let ours = ["cadastre.io/", "minions/", "leases/kube-system/cadastre-operator", "events/"];
        self.cp.forget(&ours).await?;
        let empty = async || Ok(self.cp.ipam_nodes().await?.is_empty() && self.cp.ledger().await?.is_empty());
        until("everything to be forgotten", empty).await?;
        self.cp.create_nodes(["a", "b", "c", "d"].map(|name| node(name).ready(false))).await?;
        Ok(())
    }

    /// Four nodes are served; one goes and another comes, for which there is no block; the pool grows.
    async fn story(&self, proxy: &Proxy) -> Result<()> {
        let operator = self.start(proxy.before(self.small.clone()))?;
        self.served(&["a", "b", "c", "d"]).await?;
        self.turn().await?;
        until("b has gone", async || Ok(!self.cp.ipam_nodes().await?.contains_key("b"))).await?;
        until("e waits", async || self.waits("e").await).await?;
        operator.term();
        operator.wait_exit(Duration::from_secs(20)).await?;
        let _operator = self.start(proxy.before(self.grown.clone()))?;
        self.served(&["a", "c", "d", "e"]).await?;
        until("the pool is counted", async || self.counted(4, 1, 0).await).await
    }

    /// Whatever came of it, an operator that nobody disturbs brings it to its end, and serves one more.
    async fn end(&self) -> Result<()> {
        let operator = self.start(self.grown.clone())?;
        let ended = async {
            self.turn().await?;
            self.cp.create_nodes([node("f").ready(false)]).await?;
            self.served(&["a", "c", "d", "e", "f"]).await?;
            self.cp.check_disjoint().await?;
            eventually(Duration::from_secs(20), "a ledger in order", async || self.cp.check_ledger().await).await
        };
        ended.await.with_context(|| operator.tail())
    }

    fn start(&self, program: Program) -> Result<Proc> {
        program.start(self.cp.folder(), "operator")
    }

    /// `b` goes and `e` comes, unless they did.
    async fn turn(&self) -> Result<()> {
        let nodes = Api::<Node>::all(self.cp.admin().await?);
        let deleted = nodes.delete("b", &DeleteParams::default()).await.map(drop);
        let created = nodes.create(&PostParams::default(), &node("e").ready(false).build()).await.map(drop);
        for done in [deleted, created] {
            match done {
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Waits until exactly these nodes have both families.
    async fn served(&self, names: &[&str]) -> Result<()> {
        let served = async || {
            let blocks = self.cp.blocks().await?;
            Ok(blocks.keys().eq(names) && blocks.values().all(|blocks| blocks.len() == 2))
        };
        until(&format!("{names:?} to be served"), served).await
    }

    /// Whether this node has no block and says why.
    async fn waits(&self, name: &str) -> Result<bool> {
        let nodes = self.cp.ipam_nodes().await?;
        let conditions = nodes.get(name).and_then(|node| Some(&node.status.as_ref()?.conditions));
        Ok(conditions.is_some_and(|all| all.iter().any(|condition| condition.reason == reason::POOL_EXHAUSTED)))
    }

    /// Whether the pool's status says so: what is written last.
    async fn counted(&self, held: i64, cooling: i64, waiting: i64) -> Result<bool> {
        let pool = Api::<IPPool>::all(self.cp.admin().await?).get_opt("default").await?;
        let status = pool.and_then(|pool| pool.status).unwrap_or_default();
        let of_family = status.ipv4.is_some_and(|counts| (counts.held, counts.cooling) == (held, cooling));
        Ok(of_family && status.waiting_nodes == waiting)
    }
}
