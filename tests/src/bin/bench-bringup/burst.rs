//! N nodes created at once, until every one has its block.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use cadastre_tests::quantile;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::load::{self, Arrivals};
use crate::meter::{self, Requests};
use crate::subject::{Stage, Subject};

/// Creates of Nodes under way, as in the baselines of Kubernetes' own and Cilium's operator.
const CREATES: usize = 32;
/// Creates of `IPAMNode`s under way at the floor: more than our operator's 40, so that the API server is the bound.
const FLOOR_CREATES: usize = 64;
/// Until counters are read: what is written once a second was written by then.
const SETTLE: Duration = Duration::from_millis(2500);
/// CPU time of the servers between two looks that counts as rest, ms.
const CALM_MS: f64 = 60.0;
/// Looks before it is given up.
const LONGEST_CALM: u32 = 60;

/// One cell.
#[derive(Clone, Debug)]
pub struct Cell {
    pub subject: Subject,
    pub nodes: u32,
    /// From the first POST until the last node has its block, seconds. So are all times.
    pub makespan: f64,
    pub p50: f64,
    pub p99: f64,
    /// After the creation of Nodes, for each node.
    pub writes: f64,
    pub conflicts: f64,
    pub ledger_writes: f64,
    pub lists: f64,
    /// For each node, ms; none if there is no process.
    pub cpu: Option<f64>,
    /// The API server's and etcd's.
    pub server_cpu: f64,
}

pub async fn measure(subject: Subject, nodes: u32) -> Result<Cell> {
    let stage = subject.stage().await?;
    let client = stage.cp.admin().await?;
    let mut arrivals = Arrivals::watch(client.clone(), subject.shows_in());
    warm_up(subject, &client, &mut arrivals).await?;
    calm(&stage).await?;

    let before = Requests::so_far(&stage.cp).await?;
    let (cpu, server) = (used(&stage)?, server_used(&stage)?);
    let names = load::names(nodes);
    let start = Instant::now();
    let begun = create(subject, &client, &names).await?;
    let seen = arrivals.wait(&names).await?;
    tokio::time::sleep(SETTLE).await;
    let cpu = used(&stage)?.zip(cpu).map(|(after, before)| (after - before) / f64::from(nodes));
    let server_cpu = (server_used(&stage)? - server) / f64::from(nodes);
    let requests = Requests::so_far(&stage.cp).await?.since(&before);

    let mut latencies: Vec<f64> = begun.iter().zip(&seen).map(|(begun, seen)| seconds(*seen - *begun)).collect();
    latencies.sort_by(f64::total_cmp);
    Ok(Cell {
        subject,
        nodes,
        makespan: seen.iter().max().map_or(0.0, |last| seconds(*last - start)),
        p50: quantile(&latencies, 50),
        p99: quantile(&latencies, 99),
        writes: requests.writes() / f64::from(nodes) - 1.0,
        conflicts: requests.conflicts(),
        ledger_writes: requests.writes_of("ipamledgers"),
        lists: requests.lists(),
        cpu,
        server_cpu,
    })
}

/// One node before, so that the subject is known to be ready.
async fn warm_up(subject: Subject, client: &Client, arrivals: &mut Arrivals) -> Result<()> {
    let node = load::create_node(client, &load::small("warm-up")).await?;
    if subject == Subject::Floor {
        load::create_ipam_node(client, &node, 0).await?;
    }
    arrivals.wait(&["warm-up".to_owned()]).await.map(drop)
}

/// Waits until the servers have come to rest: a new API server, and new definitions on it, keep it busy for a while.
async fn calm(stage: &Stage) -> Result<()> {
    for _ in 0..LONGEST_CALM {
        let before = server_used(stage)?;
        tokio::time::sleep(SETTLE).await;
        if server_used(stage)? - before < CALM_MS {
            return Ok(());
        }
    }
    bail!("the API server does not come to rest in {LONGEST_CALM} looks")
}

/// Creates them, and says just before which moment each was posted.
async fn create(subject: Subject, client: &Client, names: &[String]) -> Result<Vec<Instant>> {
    let (mut followers, room) = (JoinSet::new(), Arc::new(Semaphore::new(FLOOR_CREATES)));
    let requests = names.iter().map(|name| async move {
        let posted = Instant::now();
        Ok::<_, anyhow::Error>((posted, load::create_node(client, &load::small(name)).await?))
    });
    let created = stream::iter(requests).buffered(CREATES).enumerate().map(|(number, answer)| {
        let (posted, node) = answer?;
        if subject == Subject::Floor {
            let (client, room) = (client.clone(), room.clone());
            followers.spawn(async move {
                let _room = room.acquire().await?;
                load::create_ipam_node(&client, &node, number + 1).await
            });
        }
        anyhow::Ok(posted)
    });
    let posted = created.try_collect().await?;
    while let Some(followed) = followers.join_next().await {
        followed??;
    }
    Ok(posted)
}

fn used(stage: &Stage) -> Result<Option<f64>> {
    stage.process().map(meter::cpu_ms).transpose()
}

fn server_used(stage: &Stage) -> Result<f64> {
    Ok(meter::cpu_ms(stage.cp.apiserver())? + meter::cpu_ms(stage.cp.etcd())?)
}

pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, nodes, makespan, p50, p99, writes, conflicts, ledger_writes, lists, cpu, server_cpu } =
            self;
        write!(f, "{nodes} nodes, {}: {makespan:.2} s, p50 {p50:.2}, p99 {p99:.2}; ", subject.name())?;
        write!(f, "{writes:.3} writes a node, {ledger_writes} of the ledger, {conflicts} conflicts, {lists} lists")?;
        write!(f, "; ms of CPU a node: {:.3}, API server and etcd {server_cpu:.2}", cpu.unwrap_or_default())
    }
}
