//! What is done to a cluster while pods come and go on it, each by itself.

use std::time::Duration;

use anyhow::Result;
use cadastre_tests::{Lab, NAMESPACE};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What all others are to be compared with.
    Nothing,
    AgentsKilled,
    OperatorsKilled,
    ApiServerStopped,
    ContainerdKilled,
    KubeletKilled,
    DaemonSetRolled,
    ChartUpgraded,
    NodeDeleted,
}

impl Fault {
    pub const ALL: [Self; 9] = [
        Self::Nothing,
        Self::AgentsKilled,
        Self::OperatorsKilled,
        Self::ApiServerStopped,
        Self::ContainerdKilled,
        Self::KubeletKilled,
        Self::DaemonSetRolled,
        Self::ChartUpgraded,
        Self::NodeDeleted,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::AgentsKilled => "agents killed each second",
            Self::OperatorsKilled => "operators killed",
            Self::ApiServerStopped => "API server stopped",
            Self::ContainerdKilled => "containerd killed",
            Self::KubeletKilled => "kubelet killed",
            Self::DaemonSetRolled => "DaemonSet rolled",
            Self::ChartUpgraded => "chart upgraded",
            Self::NodeDeleted => "Node deleted",
        }
    }

    /// Does it for so long, again and again; returns how often.
    pub async fn inflict(self, lab: &Lab, span: Duration, values: &str) -> Result<usize> {
        // In a short test once.
        let seldom = Duration::from_secs(20);
        match self {
            Self::Nothing => repeat(span, span, async |_| Ok(())).await.map(|_| 0),
            Self::AgentsKilled => {
                let mut killed = 0;
                let kill = async |_| {
                    killed += kill_on_all(lab, "cadastre-agent").await?;
                    Ok(())
                };
                repeat(span, Duration::from_secs(1), kill).await?;
                Ok(killed)
            }
            Self::OperatorsKilled => {
                repeat(span, seldom, async |_| kill_on_all(lab, "cadastre-operator").await.map(drop)).await
            }
            Self::ApiServerStopped => {
                // Kubelets look again after as long as they were without it, and more.
                let away = (span / 3).min(Duration::from_mins(1));
                let stop = async |_| {
                    lab.cp.stop_apiserver();
                    sleep(away).await;
                    lab.cp.restart_apiserver().await
                };
                repeat(span, away * 2, stop).await
            }
            Self::ContainerdKilled => {
                let restart = async |_| lab.nodes.iter().try_for_each(|node| node.containerd()?.restart());
                repeat(span, seldom, restart).await
            }
            Self::KubeletKilled => {
                let restart = async |_| lab.nodes.iter().try_for_each(|node| node.kubelet()?.restart());
                repeat(span, seldom, restart).await
            }
            Self::DaemonSetRolled => repeat(span, seldom, async |_| roll(lab).await).await,
            Self::ChartUpgraded => {
                let upgrade = async |times: usize| {
                    let level = if times.is_multiple_of(2) { "debug" } else { "info" };
                    let values = format!("{values}\nlogLevel: {level}\n");
                    lab.upgrade_chart(&values, &["--wait", "--timeout=100s"]).await?.ok().map(drop)
                };
                repeat(span, seldom, upgrade).await
            }
            Self::NodeDeleted => repeat(span, seldom, async |_| register_again(lab).await).await,
        }
    }
}

/// Does `act` every so often, and nothing of it after `span`, which what is under way may exceed.
async fn repeat(span: Duration, every: Duration, mut act: impl AsyncFnMut(usize) -> Result<()>) -> Result<usize> {
    let end = Instant::now() + span;
    let mut pace = interval(every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut times = 0;
    while timeout_at(end, pace.tick()).await.is_ok() && Instant::now() < end {
        act(times).await?;
        times += 1;
    }
    sleep_until(end).await;
    Ok(times)
}

async fn kill_on_all(lab: &Lab, name: &str) -> Result<usize> {
    let mut killed = 0;
    for node in &lab.nodes {
        killed += node.kill_all(name).await?;
    }
    Ok(killed)
}

async fn roll(lab: &Lab) -> Result<()> {
    let of_agents = ["-n", NAMESPACE, "daemonset/cadastre-agent"];
    lab.cp.kubectl(&[&["rollout", "restart"], &of_agents[..]].concat()).await?.ok()?;
    lab.cp.kubectl(&[&["rollout", "status", "--timeout=100s"], &of_agents[..]].concat()).await?.ok()?;
    Ok(())
}

/// A kubelet registers its Node when it starts.
async fn register_again(lab: &Lab) -> Result<()> {
    let [_, node] = &lab.nodes;
    lab.cp.kubectl(&["delete", "node", node.name()]).await?.ok()?;
    node.kubelet()?.restart()?;
    lab.nodes_ready().await
}
