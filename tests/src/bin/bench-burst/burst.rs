//! One turn of one subject: so many pods at once.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cadastre_tests::{Failures, Lab, is_ready};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, ResourceExt as _};
use tokio::time::timeout;

use crate::meter;
use crate::stage::Stage;
use crate::subject::Subject;

/// Requests at once.
const CONCURRENCY: usize = 32;
/// Some 30 s on two idle cores.
const PATIENCE: Duration = Duration::from_mins(5);

/// What came of one turn. Times in ms.
#[derive(Clone, Debug)]
pub struct Turn {
    pub subject: Subject,
    pub round: usize,
    /// From the first POST until a watch has shown that all are ready.
    pub wall: f64,
    /// CPU of plugin and agent in that time.
    pub plugins: f64,
    pub agent: f64,
    pub failures: Failures,
}

pub async fn measure(stage: &Stage, subject: Subject, round: usize, pods: usize) -> Result<Turn> {
    stage.take_turn(subject).await?;
    warm_up(stage, subject).await?;
    let node = stage.node();
    let app = format!("burst-{round}-{}", subject.name());
    let (plugins, agent) = (meter::plugins(node, subject)?, meter::agent(node).await?);
    let started = Instant::now();
    start(&stage.lab, &app, node.name(), pods).await?;
    let wall = started.elapsed().as_secs_f64() * 1000.0;
    let (plugins, agent) = (meter::plugins(node, subject)? - plugins, meter::agent(node).await? - agent);
    let failures = Failures::of_pods(&stage.lab, &app).await?;
    end(stage, &app).await?;
    Ok(Turn { subject, round, wall, plugins, agent, failures })
}

/// The runtime reads a new configuration a moment after it was written: pods until then are another's.
async fn warm_up(stage: &Stage, subject: Subject) -> Result<()> {
    let started = Instant::now();
    while !stage.is_called(subject)? {
        ensure!(started.elapsed() < PATIENCE, "the runtime does not call {}", subject.name());
        start(&stage.lab, "warm-up", stage.node().name(), 1).await?;
        if stage.is_called(subject)? {
            return end(stage, "warm-up").await;
        }
        end(stage, "warm-up").await?;
    }
    Ok(())
}

/// Creates pods with this label, and waits until they are ready.
async fn start(lab: &Lab, app: &str, node: &str, pods: usize) -> Result<()> {
    let api = Api::<Pod>::namespaced(lab.cp.admin().await?, "default");
    let new =
        (0..pods).map(|number| Lab::idle_pod(app, &format!("{app}-{number}"), node)).collect::<Result<Vec<_>>>()?;
    let fresh = PostParams::default();
    let creates = async {
        let creates = stream::iter(&new).map(|pod| api.create(&fresh, pod));
        creates.buffer_unordered(CONCURRENCY).try_collect::<Vec<_>>().await.context("creating pods")
    };
    let seen = async {
        let changes = watcher(api.clone(), watcher::Config::default().labels(&format!("app={app}")));
        let mut changes = pin!(changes.default_backoff().applied_objects());
        let mut ready = BTreeSet::new();
        while ready.len() < pods {
            let pod = changes.next().await.context("the watch of pods ended")??;
            if is_ready(&pod) {
                ready.insert(pod.name_any());
            }
        }
        anyhow::Ok(())
    };
    let all = async { tokio::try_join!(creates, seen) };
    if let Ok(done) = timeout(PATIENCE, all).await {
        return done.map(drop);
    }
    let messages = Failures::of_pods(lab, app).await?.messages;
    bail!("{pods} pods are not ready after {PATIENCE:?}; FailedCreatePodSandBox: {messages:#?}")
}

/// Deletes them, and waits until nothing of them is left on the node.
async fn end(stage: &Stage, app: &str) -> Result<()> {
    let api = Api::<Pod>::namespaced(stage.lab.cp.admin().await?, "default");
    let labelled = ListParams::default().labels(&format!("app={app}"));
    api.delete_collection(&DeleteParams::default(), &labelled).await?;
    stage.is_empty().await
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, wall, plugins, agent, failures, .. } = self;
        write!(f, "{}: {wall:.0} ms until all ran; CPU of plugins {plugins:.1} ms, ", subject.name())?;
        write!(f, "of the agent {agent:.1} ms; FailedCreatePodSandBox {}", failures.all())
    }
}
