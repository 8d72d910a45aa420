//! Pods that come and go: so many at any moment, half of them on each node, each deleted once it is ready. What to do next
//! follows from a list of the Pods alone, so a request that was lost, or an API server that is away, needs no care.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cadastre_tests::{Lab, is_ready};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use tokio::time::{interval, timeout};

/// At any moment.
pub const PODS: usize = 20;
/// Their label `app`.
const APP: &str = "churn";
/// Between two looks: also how exact their times are.
const PACE: Duration = Duration::from_millis(150);
/// An API server that is being stopped may never answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Kubelet tries again after up to 10 s, and some times.
const REST: Duration = Duration::from_mins(2);

/// What became of the pods that were created under one fault.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub created: usize,
    /// Whose phase was Failed.
    pub failed: usize,
    /// That somebody else deleted.
    pub lost: usize,
    /// From creation until it was seen to be ready.
    pub slowest: Duration,
}

/// A pod that was asked for.
struct Life {
    /// Under which fault, by number.
    fault: usize,
    asked: Instant,
    created: bool,
    ready: bool,
    deleted: bool,
}

/// What is to become of pods that are ready, and how many there are to be.
#[derive(Clone, Copy)]
enum Aim {
    Churn,
    Rest,
    End,
}

/// See the [module](self).
pub struct Load<'a> {
    lab: &'a Lab,
    api: Api<Pod>,
    lives: BTreeMap<String, Life>,
    tallies: Vec<Tally>,
    number: usize,
}

impl<'a> Load<'a> {
    pub async fn new(lab: &'a Lab) -> Result<Self> {
        let api = Api::namespaced(lab.cp.admin().await?, "default");
        Ok(Self { lab, api, lives: BTreeMap::new(), tallies: Vec::new(), number: 0 })
    }

    /// Lets them come and go until `fault` is over; what is created from now on counts as its.
    pub async fn churn<T>(&mut self, fault: impl Future<Output = Result<T>>) -> Result<T> {
        self.tallies.push(Tally::default());
        let over = Cell::new(false);
        let fault = async {
            let done = fault.await;
            over.set(true);
            done
        };
        let churned = async {
            let mut pace = interval(PACE);
            while !over.get() {
                pace.tick().await;
                // An API server that is away may be the fault; at rest it has to answer.
                let _away = self.step(Aim::Churn).await?;
            }
            Ok(())
        };
        let (done, churned) = tokio::join!(fault, churned);
        churned.and(done)
    }

    /// Waits until as many as there should be are ready, and stay.
    pub async fn rest(&mut self) -> Result<()> {
        self.reach(Aim::Rest, PODS).await
    }

    /// Deletes all, and waits until they are gone.
    pub async fn end(&mut self) -> Result<()> {
        self.reach(Aim::End, 0).await
    }

    /// What became of the pods of this fault so far.
    pub fn tally(&self, fault: usize) -> Tally {
        self.tallies.get(fault).cloned().unwrap_or_default()
    }

    async fn reach(&mut self, aim: Aim, pods: usize) -> Result<()> {
        let (end, mut pace) = (Instant::now() + REST, interval(PACE));
        loop {
            pace.tick().await;
            let said = match self.step(aim).await? {
                Ok(listed) if listed.len() == pods && alive(&listed).filter(|pod| is_ready(pod)).count() == pods => {
                    return Ok(());
                }
                Ok(listed) => listed.iter().filter(|pod| !is_ready(pod)).map(ResourceExt::name_any).collect(),
                Err(reason) => vec![reason],
            };
            if Instant::now() > end {
                let waiting = self.lab.cp.kubectl(&["describe", "pod", &said.concat()]).await?.stdout;
                bail!("after {REST:?} there are no {pods} ready pods: {said:?}\n{waiting}");
            }
        }
    }

    /// One look at all pods, and what follows from it. The inner error is an API server that does not answer.
    async fn step(&mut self, aim: Aim) -> Result<Result<Vec<Pod>, String>> {
        let listed = match timeout(PATIENCE, self.lab.idle_pods(APP)).await {
            Ok(Ok(listed)) => listed,
            Ok(Err(error)) => return Ok(Err(format!("{error:#}"))),
            Err(_) => return Ok(Err("the API server does not answer".to_owned())),
        };
        distinct(&listed)?;
        self.note(&listed);
        let unwanted = |pod: &&Pod| match aim {
            Aim::Churn => is_ready(pod) || is_failed(pod),
            Aim::Rest => is_failed(pod),
            Aim::End => true,
        };
        let unwanted = alive(&listed).filter(unwanted).map(ResourceExt::name_any).collect();
        self.delete(unwanted).await;
        if !matches!(aim, Aim::End) {
            self.create(&listed).await?;
        }
        Ok(Ok(listed))
    }

    /// Writes down what is new.
    fn note(&mut self, listed: &[Pod]) {
        let listed: BTreeMap<String, &Pod> = listed.iter().map(|pod| (pod.name_any(), pod)).collect();
        for (name, pod) in &listed {
            let Some(life) = self.lives.get_mut(name) else { continue };
            let tally = &mut self.tallies[life.fault];
            if !life.created {
                (life.created, tally.created) = (true, tally.created + 1);
            }
            if !life.ready && is_ready(pod) {
                (life.ready, tally.slowest) = (true, tally.slowest.max(life.asked.elapsed()));
            }
            tally.failed += usize::from(is_failed(pod) && !life.deleted);
        }
        let tallies = &mut self.tallies;
        self.lives.retain(|name, life| {
            let gone = life.created && !listed.contains_key(name);
            tallies[life.fault].lost += usize::from(gone && !life.deleted);
            !gone
        });
    }

    /// A deletion that did not arrive is asked for again at the next look.
    async fn delete(&mut self, names: Vec<String>) {
        for name in &names {
            // Also if the reply is lost.
            self.lives.entry(name.clone()).and_modify(|life| life.deleted = true);
        }
        let as_they_say = DeleteParams::default();
        join_all(names.iter().map(|name| timeout(PATIENCE, self.api.delete(name, &as_they_say)))).await;
    }

    /// As many as are missing, where there are fewer. One whose creation did not arrive will be missing at the next look.
    async fn create(&mut self, listed: &[Pod]) -> Result<()> {
        let fault = self.tallies.len().checked_sub(1).context("no churn yet")?;
        let on = |node: &str| listed.iter().filter(|pod| node_of(pod) == Some(node)).count();
        let mut nodes = self.lab.nodes.each_ref().map(|node| (on(node.name()), node.name()));
        let mut new = Vec::new();
        for _ in listed.len()..PODS {
            nodes.sort_unstable();
            nodes[0].0 += 1;
            self.number += 1;
            let name = format!("{}-{}", prefix(fault), self.number);
            new.push(Lab::idle_pod(APP, &name, nodes[0].1)?);
            let life = Life { fault, asked: Instant::now(), created: false, ready: false, deleted: false };
            self.lives.insert(name, life);
        }
        let fresh = PostParams::default();
        join_all(new.iter().map(|pod| timeout(PATIENCE, self.api.create(&fresh, pod)))).await;
        Ok(())
    }
}

/// What names of pods that were created under a fault begin with, before a dash.
pub fn prefix(fault: usize) -> String {
    format!("{APP}-{fault}")
}

/// Fails if two pods that run have one address, at whatever moment.
fn distinct(listed: &[Pod]) -> Result<()> {
    let mut owners = BTreeMap::<IpAddr, String>::new();
    for pod in alive(listed) {
        for ip in pod.status.iter().filter_map(|status| status.pod_ips.as_ref()).flatten() {
            let other = owners.insert(ip.ip.parse()?, pod.name_any());
            ensure!(other.is_none(), "{} is of {} and of {other:?}", ip.ip, pod.name_any());
        }
    }
    Ok(())
}

fn alive(listed: &[Pod]) -> impl Iterator<Item = &Pod> {
    listed.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none())
}

fn is_failed(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Failed"))
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}
