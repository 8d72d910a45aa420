//! Keeps the endpoint attached, and probes from it.
//!
//! ```text
//! the node serves, its configuration is there ─▶ ADD ─┬─▶ rounds ─┬─ block, family or configuration is another ─▶ DEL ─▶ ADD
//!          ▲                                          │           └─ this node itself is not reached ─▶ a new namespace, once
//!          └───────────── a failure, said once ◀──────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use cadastre_api::HealthEndpoint;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::attach::{Attached, Owner, families, release};
use super::probe::probe;
use super::ring::{Target, targets};
use super::rounds::{FAILED_ROUNDS, Outcome, Rounds};
use super::{HealthSeen, Host, State};
use crate::boot_time::BootTime;
use crate::metrics::Metrics;
use crate::node::Peers;
use crate::outlook::{Cluster, Outlook};
use crate::regular;

/// After what changed: nodes come in hundreds.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two tries to attach: doubled each time, up to the longer one.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));

/// Looks at who did not answer, in the time of a round.
const LOOKS: u32 = 6;

struct Keeper {
    host: Host,
    outlook: watch::Receiver<Outlook>,
    peers: watch::Receiver<Peers>,
    cluster: Arc<watch::Sender<Cluster>>,
    owner: Owner,
    metrics: Metrics,
    /// It was attached anew because this node was not reached, and still is not.
    renewed: bool,
}

/// Why rounds end.
enum End {
    Outdated(&'static str),
    Lost,
}

/// Runs for ever.
pub async fn keep(
    host: Host,
    outlook: watch::Receiver<Outlook>,
    peers: watch::Receiver<Peers>,
    cluster: Arc<watch::Sender<Cluster>>,
    owner: Owner,
    metrics: Metrics,
) {
    let Some(port) = host.settings.map(|settings| settings.port) else {
        none(&host, outlook, &owner).await;
        return std::future::pending().await;
    };
    let mut keeper = Keeper { host, outlook, peers, cluster, owner, metrics, renewed: false };
    keeper.show(|_| {});
    let mut pause = RETRY.0;
    loop {
        let conflist = keeper.ready_soon_or_without().await;
        match Attached::attach(&keeper.host, port, conflist, &keeper.owner).await {
            Ok(attached) => {
                pause = RETRY.0;
                keeper.attached(&attached.endpoint);
                match keeper.rounds(&attached).await {
                    End::Outdated(why) => {
                        tracing::info!(why, "the health endpoint is attached anew");
                        attached.detach(&keeper.host, &keeper.owner).await;
                    }
                    End::Lost => tracing::warn!(
                        "this node does not reach its own health endpoint: it is attached anew, to see whether that helps"
                    ),
                }
            }
            Err(error) => {
                keeper.failed(error.to_string());
                sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

/// What an agent with an endpoint left is given back.
async fn none(host: &Host, mut outlook: watch::Receiver<Outlook>, owner: &Owner) {
    if outlook.wait_for(|outlook| !outlook.journal.unreadable && outlook.view.assigned.is_some()).await.is_ok() {
        release(host, owner).await;
    }
}

impl Keeper {
    /// As `ready`. What an agent said before of an endpoint holds for as long as others need to find out that nobody answers.
    async fn ready_soon_or_without(&mut self) -> String {
        if let Ok(conflist) = timeout(self.host.every * FAILED_ROUNDS, self.ready()).await {
            return conflist;
        }
        self.show(|seen| {
            let trouble = seen.trouble.take();
            *seen = HealthSeen { state: State::Without, trouble, ..HealthSeen::default() };
        });
        self.ready().await
    }

    /// Waits until the node can attach pods. Returns the configuration that says how.
    async fn ready(&mut self) -> String {
        let mut cluster = self.cluster.subscribe();
        loop {
            let serves = |outlook: &Outlook| outlook.journal.trouble.is_none() && !families(outlook).is_empty();
            if !serves(&self.outlook.borrow_and_update()) {
                self.show(|seen| *seen = HealthSeen { state: gone(&seen.state), ..HealthSeen::default() });
                if self.outlook.wait_for(serves).await.is_err() {
                    return std::future::pending().await; // The owner of the pools has ended, and so does the process.
                }
            }
            // A configuration of before may name a plugin that is not there yet.
            drop(cluster.wait_for(|cluster| matches!(cluster.setup.cni, Some(Ok(_)))).await);
            match regular::read_to_string(&self.host.conflist) {
                Ok(conflist) => return conflist,
                // Its coming wakes nobody.
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Probes until the endpoint is to be another.
    async fn rounds(&mut self, attached: &Attached) -> End {
        let (mut rounds, mut next_round) = (Rounds::default(), Instant::now());
        loop {
            let conflist = regular::read_to_string(&self.host.conflist).ok();
            if let Some(why) = attached.outdated(&self.outlook.borrow_and_update(), conflist.as_deref()) {
                return End::Outdated(why);
            }
            if !self.follow(&mut rounds, &attached.endpoint) {
                // With only the own node the rest would look well.
                drop(timeout(PAUSE, self.peers.changed()).await);
                continue;
            }
            let round = Instant::now() >= next_round;
            if round {
                next_round = Instant::now() + unevenly(self.host.every);
            }
            self.probe(attached, &mut rounds, round).await;
            self.renewed &= !rounds.own_is_reached();
            if rounds.own_is_lost() && !std::mem::replace(&mut self.renewed, true) {
                return End::Lost;
            }
            let soon = Instant::now() + self.host.every / LOOKS;
            let next = if rounds.unsettled() { next_round.min(soon) } else { next_round };
            let (outlook, peers) = (&mut self.outlook, &mut self.peers);
            tokio::select! {
                () = sleep_until(next) => {}
                _ = outlook.wait_for(|outlook| attached.outdated(outlook, None).is_some()) => {}
                Ok(()) = peers.changed() => sleep(PAUSE).await,
            }
        }
    }

    /// Whether the other nodes are known.
    fn follow(&mut self, rounds: &mut Rounds, own: &HealthEndpoint) -> bool {
        let peers = self.peers.borrow_and_update();
        let Some(nodes) = peers.as_ref() else { return false };
        rounds.follow(targets(nodes, &self.host.node, own));
        true
    }

    async fn probe(&self, attached: &Attached, rounds: &mut Rounds, round: bool) {
        let due = rounds.due(round);
        let outcomes = join_all(due.iter().map(|target| self.ask(attached, target))).await;
        for (target, outcome) in due.iter().zip(outcomes) {
            if let Ok(took) = &outcome {
                self.metrics.health_probe.observe(took.as_secs_f64());
            }
            rounds.record(&target.node, outcome, round);
        }
        let nodes = rounds.view();
        self.show(|seen| {
            seen.at = Some(BootTime::now());
            seen.nodes = nodes;
        });
    }

    /// Others from within the namespace, as pods do; the own one from the node, as kubelet does.
    async fn ask(&self, attached: &Attached, target: &Target) -> Outcome {
        let of_this_node = target.node == self.host.node;
        let each = target.sockets().map(async |socket| {
            let outcome = if of_this_node {
                probe(socket, &target.node).await
            } else {
                let node = target.node.clone();
                let within = attached.space.within(async move { probe(socket, &node).await }).await;
                within.unwrap_or_else(|| Err("the agent's health endpoint has ended".to_owned()))
            };
            outcome.map_err(|why| format!("{}: {why}", socket.ip()))
        });
        let all = join_all(each).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(all.into_iter().max().unwrap_or_default())
    }

    fn attached(&self, endpoint: &HealthEndpoint) {
        self.show(|seen| *seen = HealthSeen { state: State::Attached(endpoint.clone()), ..HealthSeen::default() });
    }

    fn failed(&self, trouble: String) {
        let said = self.cluster.borrow().health.as_ref().and_then(|seen| seen.trouble.clone());
        if said.as_ref() != Some(&trouble) {
            tracing::error!(trouble, "no health endpoint; trying again");
        }
        self.show(|seen| *seen = HealthSeen { state: State::Without, trouble: Some(trouble), ..HealthSeen::default() });
    }

    fn show(&self, change: impl FnOnce(&mut HealthSeen)) {
        self.cluster.send_modify(|cluster| {
            let seen = cluster.health.get_or_insert_default();
            change(seen);
            let (reached, probed) = seen.counts();
            self.metrics.health_reachable.set(i64::try_from(reached).unwrap_or(i64::MAX));
            self.metrics.health_probed.set(i64::try_from(probed).unwrap_or(i64::MAX));
            self.metrics.health_failed.set(seen.trouble.is_some().into());
        });
    }
}

/// A node that cannot attach pods has no endpoint; an agent that has just started does not know yet.
fn gone(state: &State) -> State {
    match state {
        State::Starting => State::Starting,
        State::Attached(_) | State::Without => State::Without,
    }
}

/// Within a tenth, so that nodes that began together do not probe together for ever.
fn unevenly(every: Duration) -> Duration {
    every.mul_f64(rand::random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use cadastre_runtime::{Catalog, HealthSettings};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_node_that_cannot_attach_soon_has_no_endpoint() {
        let host = Host {
            node: "n1".into(),
            settings: Some(HealthSettings { port: 4240 }),
            bin: "/nowhere".into(),
            conflist: "/nowhere/05-cadastre.conflist".into(),
            every: Duration::from_millis(20),
        };
        let (_outlook_to, outlook) = watch::channel(Outlook::default());
        let (_peers_to, peers) = watch::channel(Peers::default());
        let (owner, _queue) = mpsc::unbounded_channel();
        let cluster = Arc::new(watch::Sender::new(Cluster::default()));
        let mut seen = cluster.subscribe();
        let state = |cluster: &Cluster| cluster.health.as_ref().map(|seen| seen.state.clone());
        let look = async {
            let first = seen.wait_for(|cluster| cluster.health.is_some()).await.map(|cluster| state(&cluster));
            assert_eq!(first.unwrap(), Some(State::Starting));
            let last = timeout(Duration::from_secs(5), seen.wait_for(|cluster| state(cluster) == Some(State::Without)));
            assert!(last.await.is_ok(), "what was said before holds for ever");
        };
        let metrics = Metrics::new(&mut Catalog::new("test"));
        tokio::select! {
            biased; // However slow the machine, it sees both.
            () = look => {}
            () = keep(host, outlook, peers, cluster, owner, metrics) => {}
        }
    }

    #[test]
    fn rounds_are_a_tenth_apart_at_most() {
        let all: Vec<Duration> = (0..200).map(|_| unevenly(Duration::from_secs(30))).collect();
        assert!(all.iter().all(|every| (27_000..=33_000).contains(&every.as_millis())), "{all:?}");
        assert!(all.iter().any(|every| *every != all[0]), "{all:?}");
    }

    #[test]
    fn what_was_said_before_a_start_holds_until_it_is_known() {
        let own = State::Attached(HealthEndpoint { addresses: vec![], port: 1 });
        assert_eq!(
            [State::Starting, own, State::Without].map(|state| gone(&state)),
            [State::Starting, State::Without, State::Without]
        );
    }
}
