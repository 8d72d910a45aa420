//! An API server that is busy, slow, away, or forgetful, and an operator that is cut off from it: requests stay few,
//! nothing grows, nothing is missed, and everybody is served once it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cadastre_tests::{
    Asked, ControlPlane, DUAL_STACK, Fault, NodeBuilder, OPERATOR, Proc, Proxy, eventually, node, until,
};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// What the operator may have under way at once: 16 for the record, 40 for nodes, 8 for news, and a list or a look at
/// the version for each of five kinds.
const UNDER_WAY: usize = 16 + 40 + 8 + 5;
/// For nodes to be served, if nothing holds them up for longer than a few attempts.
const PATIENCE: Duration = Duration::from_mins(1);
/// Likewise, if half of all requests fail. A read is repeated after 0.2 s, then after twice as long each time, 5 s at
/// most. Of the reads for 100 nodes the unluckiest fails 7 times in a row (2^7 = 128), which takes 16 s. Before those come
/// some 20 requests, one after another, that all nodes wait for: the unluckiest of them fails 5 times, 6 s, and now and
/// then 8 times, 20 s. Measured: 20 to 60 s in all; and as long again, lest a test fails for bad luck.
const PATIENCE_WITH_HALF: Duration = Duration::from_mins(2);
/// By so much may the operator's own memory differ, in KiB: what it knows of the nodes that came meanwhile, and what an
/// allocator keeps.
const GROWTH: u64 = 12 << 10;

/// A cluster, an operator without election behind a proxy, and a watch on what it publishes.
struct Site {
    operator: Proc,
    proxy: Proxy,
    cp: ControlPlane,
}

impl Site {
    async fn new(rule: impl FnMut(&Asked) -> Fault + Send + 'static) -> Result<Self> {
        let cp = ControlPlane::start().await?;
        cp.install_chart(DUAL_STACK).await?.ok()?;
        let proxy = cp.proxy("operator").await?;
        proxy.rule(rule);
        let settings = cp.settings_file("settings").await?;
        let program = proxy.before(cp.operator_program(&settings, &["--leader-elect=false"]).await?);
        Ok(Self { operator: program.start(cp.folder(), "operator")?, proxy, cp })
    }

    async fn served(&self, count: usize) -> Result<()> {
        self.served_within(PATIENCE, count).await
    }

    async fn served_within(&self, patience: Duration, count: usize) -> Result<()> {
        served_within(&self.cp, patience, count).await.with_context(|| self.operator.tail())
    }

    /// How many requests came since, and that never more were under way than there may be.
    fn requests_since(&self, when: Instant) -> Result<usize> {
        let most = self.proxy.most_under_way();
        ensure!(most <= UNDER_WAY, "{most} requests under way at once");
        Ok(self.proxy.count(|asked| asked.at >= when))
    }
}

fn nodes(numbers: Range<usize>) -> impl Iterator<Item = NodeBuilder> {
    numbers.map(|number| node(&format!("n{number}")).ready(false))
}

async fn delete(cp: &ControlPlane, numbers: Range<usize>) -> Result<()> {
    let api = Api::<Node>::all(cp.admin().await?);
    for number in numbers {
        api.delete(&format!("n{number}"), &DeleteParams::default()).await?;
    }
    Ok(())
}

async fn served(cp: &ControlPlane, count: usize) -> Result<()> {
    served_within(cp, PATIENCE, count).await
}

/// Waits until exactly so many nodes have both families, and nobody shares.
async fn served_within(cp: &ControlPlane, patience: Duration, count: usize) -> Result<()> {
    let served = async || {
        let blocks = cp.blocks().await?;
        let both = blocks.values().filter(|blocks| blocks.len() == 2).count();
        ensure!(blocks.len() == count && both == count, "{both} of {} with both", blocks.len());
        Ok(())
    };
    eventually(patience, &format!("{count} nodes with both families"), served).await?;
    cp.check_disjoint().await
}

#[tokio::test]
async fn what_429_and_retry_after_ask_for_is_kept_to() -> Result<()> {
    let refuse = |_: &Asked| Fault::Refuse { code: 429, retry_after: Some(2) };
    let site = Site::new(refuse).await?;
    // Lists, at the start: four kinds are asked for, again and again.
    until("lists are tried again", async || Ok(site.proxy.count(Asked::is_list) > 4)).await?;
    site.proxy.pass();
    site.cp.create_nodes(nodes(0..20)).await?;
    site.served(20).await?;
    let memory = site.operator.anonymous_kib()?;

    let begin = Instant::now();
    site.proxy.rule(refuse);
    site.proxy.cut();
    let history = site.cp.history().await?;
    site.cp.create_nodes(nodes(20..300)).await?;
    let twice = async || Ok(site.proxy.count(|asked| asked.at >= begin && asked.resource() == "nodes") >= 3);
    until("the watch of Nodes is tried again", twice).await?;
    let (took, asked) = (begin.elapsed(), site.requests_since(begin)?);
    for resource in ["nodes", "ipamnodes"] {
        check_pauses(&site.proxy, begin, Duration::from_secs(2), |asked| asked.resource() == resource)?;
    }
    ensure!(asked <= 60, "{asked} requests in {took:?} of 429");
    site.proxy.pass();
    site.served(300).await?;
    history.check(&site.cp).await?;
    ensure!(
        site.operator.anonymous_kib()? <= memory + GROWTH,
        "{memory} KiB became {}",
        site.operator.anonymous_kib()?
    );
    Ok(())
}

#[tokio::test]
async fn a_list_goes_on_at_the_page_that_was_refused() -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(DUAL_STACK).await?.ok()?;
    cp.create_nodes(nodes(0..350)).await?;
    let proxy = cp.proxy("operator").await?;
    let mut lists = 0;
    proxy.rule(move |asked| {
        lists += u32::from(asked.is_list() && asked.resource() == "nodes");
        let refused = asked.is_list() && asked.resource() == "nodes" && lists % 2 == 0;
        if refused { Fault::Refuse { code: 429, retry_after: Some(1) } } else { Fault::Pass }
    });
    let settings = cp.settings_file("settings").await?;
    let operator = cp.operator_program(&settings, &["--leader-elect=false"]).await?;
    let operator = proxy.before(operator).start(cp.folder(), "operator")?;
    served(&cp, 350).await.with_context(|| operator.tail())?;
    let asked = proxy.count(|asked| asked.is_list() && asked.resource() == "nodes");
    // The first page is of 100, the second of all that fit into 1 MB. Begun anew, the list would never end.
    ensure!(asked == 3, "{asked} requests for 2 pages of Nodes, the second refused once");
    Ok(())
}

#[tokio::test]
async fn writes_that_are_refused_with_429_are_repeated_after_retry_after() -> Result<()> {
    let refused = Fault::Refuse { code: 429, retry_after: Some(1) };
    let site = Site::new(|_| Fault::Pass).await?;
    let history = site.cp.history().await?;
    site.cp.create_nodes(nodes(0..1)).await?;
    site.served(1).await?;
    let begin = Instant::now();
    site.proxy.rule(move |asked| if asked.is_write() { refused } else { Fault::Pass });
    site.cp.create_nodes(nodes(1..300)).await?;
    // A page is one object, and its commit one request.
    let commits = |asked: &Asked| asked.at >= begin && asked.kind() == "PUT ipamledgers";
    until("the commits were tried often enough", async || Ok(site.proxy.count(commits) >= 6)).await?;
    check_pauses(&site.proxy, begin, Duration::from_secs(1), |asked| asked.kind() == "PUT ipamledgers")?;
    let asked = site.requests_since(begin)?;
    ensure!(asked <= 60, "{asked} requests in {:?} of 429 to every write", begin.elapsed());
    // And now those for each node: many at once, as often as they may.
    let begin = Instant::now();
    site.proxy.rule(move |asked| if asked.kind() == "POST ipamnodes" { refused } else { Fault::Pass });
    let creates = |asked: &Asked| asked.at >= begin && asked.kind() == "POST ipamnodes";
    until("creations were tried often enough", async || Ok(site.proxy.count(creates) >= 150)).await?;
    ensure!(site.proxy.most_under_way() <= UNDER_WAY && begin.elapsed() >= Duration::from_secs(2));
    site.proxy.pass();
    site.served(300).await?;
    history.check(&site.cp).await
}

/// Fails if something was asked for again sooner than this.
fn check_pauses(proxy: &Proxy, since: Instant, pause: Duration, is_it: impl Fn(&Asked) -> bool) -> Result<()> {
    let mut last = BTreeMap::new();
    for asked in proxy.asked().into_iter().filter(|asked| asked.at >= since && is_it(asked)) {
        let before = last.insert(asked.path.clone(), asked.at);
        let waited = before.map_or(pause, |before| asked.at - before);
        ensure!(waited >= pause, "{asked} was repeated after {waited:?}");
    }
    Ok(())
}

#[tokio::test]
async fn half_the_answers_are_lost_or_503_and_the_others_slow() -> Result<()> {
    // Drawn, not in turn: requests that come again in step would meet the same fault each time.
    let mut drawn = StdRng::seed_from_u64(3);
    let site = Site::new(move |asked| match drawn.random_range(0..4) {
        0 => Fault::Refuse { code: 503, retry_after: None },
        1 if !asked.is_watch() => Fault::Cut,
        _ => Fault::Slow(Duration::from_millis(200)),
    })
    .await?;
    let history = site.cp.history().await?;
    let begin = Instant::now();
    site.cp.create_nodes(nodes(0..100)).await?;
    site.served_within(PATIENCE_WITH_HALF, 100).await?;
    let asked = site.requests_since(begin)?;
    ensure!(asked <= 1500, "{asked} requests for 100 nodes");
    site.proxy.pass();
    site.proxy.quiet(Duration::from_secs(2)).await?;
    history.check(&site.cp).await
}

#[tokio::test]
async fn the_api_server_dies_and_comes_back() -> Result<()> {
    let site = Site::new(|_| Fault::Pass).await?;
    site.cp.create_nodes(nodes(0..100)).await?;
    site.served(100).await?;
    let (before, memory) = (site.cp.blocks().await?, site.operator.anonymous_kib()?);
    site.cp.create_nodes(nodes(100..150)).await?;
    site.cp.stop_apiserver();
    let begin = Instant::now();
    // The longest pause between two attempts is 5 s.
    let tried = async || Ok(begin.elapsed() > Duration::from_secs(8));
    until("the operator has tried for a while", tried).await?;
    let asked = site.requests_since(begin)?;
    ensure!(asked <= 600, "{asked} requests in {:?} without an API server", begin.elapsed());
    site.cp.restart_apiserver().await?;
    // At once, while it finds out that the API server is back: what it watched is forgotten there.
    delete(&site.cp, 0..10).await?;
    site.cp.create_nodes(nodes(150..200)).await?;
    site.served(190).await?;
    let after = site.cp.blocks().await?;
    let kept = before.iter().filter(|(name, blocks)| after.get(*name) == Some(*blocks)).count();
    ensure!(kept == 90, "{kept} of 90 nodes kept their blocks");
    ensure!(site.operator.is_running() && site.operator.anonymous_kib()? <= memory + GROWTH);
    site.proxy.quiet(Duration::from_secs(2)).await
}

#[tokio::test]
async fn one_of_two_operators_is_cut_off_while_it_writes() -> Result<()> {
    let site = Site::new(|_| Fault::Pass).await?;
    let history = site.cp.history().await?;
    site.cp.create_nodes(nodes(0..40)).await?;
    let writing = async || Ok(site.proxy.count(|asked| asked.kind() == "POST ipamnodes") > 5);
    until("it is in the middle of it", writing).await?;
    site.proxy.partition();
    let other = site.cp.start_operator("other", &["--leader-elect=false"]).await?;
    site.served(40).await?;
    delete(&site.cp, 0..10).await?;
    site.cp.create_nodes(nodes(40..100)).await?;
    site.served(90).await?;
    let begin = Instant::now();
    until("it has given up some requests", async || Ok(begin.elapsed() > Duration::from_secs(17))).await?;
    let asked = site.requests_since(begin)?;
    ensure!(asked <= 100, "{asked} requests while it was cut off");
    // What was on its way arrives, of an operator that knows nothing of what happened.
    site.proxy.heal();
    site.cp.create_nodes(nodes(100..120)).await?;
    site.served(110).await?;
    site.proxy.quiet(Duration::from_secs(3)).await?;
    site.served(110).await?;
    history.check(&site.cp).await?;
    ensure!(site.operator.is_running() && other.is_running(), "{}{}", site.operator.tail(), other.tail());
    Ok(())
}

#[tokio::test]
async fn a_ledger_that_may_not_be_written_is_said() -> Result<()> {
    let site = Site::new(|_| Fault::Pass).await?;
    site.cp.create_nodes(nodes(0..1)).await?;
    site.served(1).await?;
    let refused = Fault::Refuse { code: 403, retry_after: None };
    let is_it = |asked: &Asked| asked.is_write() && asked.resource() == "ipamledgers";
    site.proxy.rule(move |asked| if is_it(asked) { refused } else { Fault::Pass });
    site.cp.create_nodes(nodes(1..4)).await?;
    let said = async || {
        let waits = "waiting_nodes{reason=\"LedgerNotWritten\"} 3\n";
        let ready = site.operator.http("/readyz").await?;
        let ready = ready.starts_with("HTTP/1.1 503") && ready.contains("ledger: not ready: IPAMLedger default-");
        Ok(ready && site.operator.http("/metrics").await?.contains(waits))
    };
    until("readiness names the page, and a metric counts who waits", said).await?;
    let asked = site.proxy.count(is_it);
    ensure!(asked <= 60, "{asked} writes");
    site.proxy.pass();
    site.served(4).await?;
    let ready = async || Ok(site.operator.http("/readyz").await?.starts_with("HTTP/1.1 200"));
    until("the operator is ready again", ready).await
}

/// A priority level with next to no seats and a short queue, and the operator's account in it.
const CROWDED: &str = r"
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: crowded}
spec:
  type: Limited
  limited:
    nominalConcurrencyShares: 1
    lendablePercent: 0
    borrowingLimitPercent: 0
    limitResponse: {type: Queue, queuing: {queues: 1, handSize: 1, queueLengthLimit: 3}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: crowded}
spec:
  priorityLevelConfiguration: {name: crowded}
  matchingPrecedence: 2
  rules:
    - subjects: [{kind: ServiceAccount, serviceAccount: {namespace: kube-system, name: cadastre-operator}}]
      resourceRules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*'], clusterScope: true, namespaces: ['*']}]
";

#[tokio::test]
async fn priority_and_fairness_leaves_the_operator_one_seat() -> Result<()> {
    let few = ["--max-requests-inflight=20", "--max-mutating-requests-inflight=10"];
    let cp = ControlPlane::builder().apiserver_flag(few[0]).apiserver_flag(few[1]).start().await?;
    cp.install_chart(DUAL_STACK).await?.ok()?;
    cp.apply(CROWDED).await?.ok()?;
    let history = cp.history().await?;
    cp.create_nodes(nodes(0..300)).await?;
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    served(&cp, 300).await.with_context(|| operator.tail())?;
    history.check(&cp).await?;
    let ours: Vec<_> = cp.audit().await?.into_iter().filter(|event| event.user.ends_with(OPERATOR)).collect();
    let with = |code: u16| ours.iter().filter(|event| event.code == code).count();
    ensure!(with(429) > 0, "it was never crowded");
    ensure!(with(409) == 0, "{} conflicts", with(409));
    ensure!(ours.len() <= 1500, "{} requests for 300 nodes", ours.len());
    Ok(())
}

#[tokio::test]
async fn watches_that_are_cut_are_taken_up_without_a_list() -> Result<()> {
    let site = Site::new(|_| Fault::Pass).await?;
    let history = site.cp.history().await?;
    site.cp.create_nodes(nodes(0..20)).await?;
    site.served(20).await?;
    let lists = site.proxy.count(Asked::is_list);
    for round in 1..=5 {
        site.cp.create_nodes(nodes(round * 20..round * 20 + 10)).await?;
        site.proxy.cut();
        delete(&site.cp, round * 2 - 2..round * 2).await?;
        site.cp.create_nodes(nodes(round * 20 + 10..round * 20 + 20)).await?;
    }
    site.served(110).await?;
    let more = site.proxy.count(Asked::is_list) - lists;
    ensure!(more == 0, "{more} more lists");
    history.check(&site.cp).await
}

#[tokio::test]
async fn watches_that_came_too_late_are_begun_with_a_list() -> Result<()> {
    let site = Site::new(|_| Fault::Pass).await?;
    let history = site.cp.history().await?;
    site.cp.create_nodes(nodes(0..20)).await?;
    site.served(20).await?;
    for (round, fault) in [Fault::Expire, Fault::Refuse { code: 410, retry_after: None }].into_iter().enumerate() {
        let from = 20 + round * 20;
        // What comes and goes meanwhile is in no watch, and no watch begins but after a list.
        let mut listed = BTreeSet::new();
        site.proxy.rule(move |asked| {
            if asked.is_list() {
                listed.insert(asked.path.clone());
            }
            if asked.is_watch() && !listed.contains(&asked.path) { fault } else { Fault::Pass }
        });
        let lists = site.proxy.count(Asked::is_list);
        site.proxy.partition();
        site.proxy.cut();
        delete(&site.cp, round..round + 1).await?;
        site.cp.create_nodes(nodes(from..from + 20)).await?;
        site.proxy.heal();
        site.served(39 + round * 19).await?;
        let again = async || Ok(site.proxy.count(Asked::is_list) == lists + 5);
        until("each of the five kinds is listed once more", again).await?;
    }
    history.check(&site.cp).await
}
