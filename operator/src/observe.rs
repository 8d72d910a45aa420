//! The cluster as events: everything once, read consistently and in this order, then every change.
//!
//! ```text
//! IPAMNodes ─▶ ledger ─▶ IPAMConfig ─┬─▶ World ─▶ watches, each from its list's version
//! Nodes, IPPools, ServiceCIDRs ──────┘
//! ```
//!
//! The ledger is read after what was published from it, so that no published block is missing in it; the config is read
//! last, because it says what may be committed. Nobody watches the ledger: only operators write it, and a conflict
//! tells of another one.

use std::collections::HashMap;

use cadastre_api::{IPAMConfig, IPAMLedger, IPAMNode, IPPool};
use cadastre_engine::{Event, NodeSeen, World};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::health::Health;
use crate::lean::{Lean, Parts};
use crate::node_view::{NodeView, Selector};
use crate::outcome::with_causes;
use crate::requests::LEDGER_PAGES_A_PAGE;
use crate::service_cidrs::{ServiceCidrView, ServiceCidrs};
use crate::watch::{Change, Watch, WatchError, Watched};

/// 100 Nodes of 10 KB are 1 MB, which is the most that is held untrimmed.
const NODES_A_PAGE: u32 = 100;
/// Our small objects, about 2 KB each.
const OBJECTS_A_PAGE: u32 = 500;

impl Watched for NodeView {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl<K: Clone + 'static> Watched for Lean<K> {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// The watches, after everything was read once.
pub struct Observation {
    nodes: Watch<NodeView>,
    ipam_nodes: Watch<Lean<IPAMNode>>,
    pools: Watch<Lean<IPPool>>,
    config: Watch<Lean<IPAMConfig>>,
    /// `None` if the cluster has no such API, or keeps it from us.
    service_cidrs: Option<(Watch<ServiceCidrView>, ServiceCidrs)>,
    trimmer: Trimmer,
}

/// What is done about a kind that cannot be read.
pub enum Patience {
    /// It is said, and tried again until it can be.
    Endless(Health),
    /// It ends the reading.
    None,
}

impl Patience {
    /// `Ok` if the reading goes on.
    fn judge(&self, kind: &'static str, outcome: Result<(), WatchError>) -> Result<(), WatchError> {
        match self {
            Self::Endless(health) => health.watch(kind, outcome),
            Self::None => outcome?,
        }
        Ok(())
    }
}

/// Reads everything.
pub async fn world(
    client: &Client,
    selector: Selector,
    patience: &Patience,
) -> Result<(World, Observation), WatchError> {
    let mut nodes = watch::<NodeView, Node>(client, "Nodes", NODES_A_PAGE);
    let mut ipam_nodes = lean_watch::<IPAMNode>(client, "IPAMNodes", OBJECTS_A_PAGE);
    let mut pools = lean_watch::<IPPool>(client, "IPPools", OBJECTS_A_PAGE);
    let mut pages = lean_watch::<IPAMLedger>(client, "IPAMLedgers", LEDGER_PAGES_A_PAGE);
    let mut config = lean_watch::<IPAMConfig>(client, "IPAMConfigs", OBJECTS_A_PAGE);
    let mut trimmer = Trimmer { selector, complaints: HashMap::new() };
    let recorded = async {
        let ipam_nodes_seen = first(&mut ipam_nodes, patience, readable).await?;
        let ledger_read_at = Timestamp::now();
        let pages_seen = every_page(&mut pages, patience).await?;
        Ok((ipam_nodes_seen, ledger_read_at, pages_seen, first(&mut config, patience, readable).await?))
    };
    let (nodes_seen, (ipam_nodes_seen, ledger_read_at, pages_seen, config_seen), pools_seen, service_cidrs) = tokio::try_join!(
        first(&mut nodes, patience, |node| Some(trimmer.trim(node))),
        recorded,
        first(&mut pools, patience, readable),
        first_service_cidrs(client, patience),
    )?;
    let world = World {
        config: config_seen.into_iter().next(),
        ledger_read_at,
        pages: pages_seen,
        nodes: nodes_seen,
        ipam_nodes: ipam_nodes_seen,
        pools: pools_seen,
        service_cidrs: service_cidrs.as_ref().map(|(_, cidrs)| cidrs.all()).unwrap_or_default(),
    };
    Ok((world, Observation { nodes, ipam_nodes, pools, config, service_cidrs, trimmer }))
}

impl Observation {
    /// Sends every change from now on. A task ends only if what was seen so far is worth nothing any more.
    pub fn follow(self, events: &mpsc::Sender<Event>, health: &Health) -> JoinSet<WatchError> {
        let Self { nodes, ipam_nodes, pools, config, service_cidrs, mut trimmer } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(nodes, events.clone(), health.clone(), move |change| Some(trimmer.event(change))));
        tasks.spawn(follow(ipam_nodes, events.clone(), health.clone(), ipam_node_event));
        tasks.spawn(follow(pools, events.clone(), health.clone(), pool_event));
        tasks.spawn(follow(config, events.clone(), health.clone(), config_event));
        if let Some((watch, mut cidrs)) = service_cidrs {
            tasks.spawn(follow(watch, events.clone(), health.clone(), move |change| Some(cidrs.event(change))));
        }
        tasks
    }
}

fn watch<V: Watched, K: Resource<DynamicType = ()>>(client: &Client, kind: &'static str, page: u32) -> Watch<V> {
    Watch::new(client.clone(), kind, K::url_path(&(), None), page)
}

fn lean_watch<K: Parts + Clone + 'static>(client: &Client, kind: &'static str, page: u32) -> Watch<Lean<K>> {
    watch::<Lean<K>, K>(client, kind, page)
}

/// All objects, once they could be read.
async fn first<V: Watched, T>(
    watch: &mut Watch<V>,
    patience: &Patience,
    mut keep: impl FnMut(V) -> Option<T>,
) -> Result<Vec<T>, WatchError> {
    loop {
        match try_first(watch, &mut keep).await {
            Ok(objects) => {
                patience.judge(watch.kind(), Ok(()))?;
                return Ok(objects);
            }
            Err(error) => patience.judge(watch.kind(), Err(error))?,
        }
        watch.pause().await;
    }
}

async fn try_first<V: Watched, T>(
    watch: &mut Watch<V>,
    keep: &mut impl FnMut(V) -> Option<T>,
) -> Result<Vec<T>, WatchError> {
    let mut objects = Vec::new();
    let keep_seen = |change| {
        if let Change::Seen(object) = change {
            objects.extend(keep(object));
        }
    };
    watch.list(keep_seen).await?;
    Ok(objects)
}

/// The ledger is the authority: while a page of it cannot be read, nothing may be decided.
async fn every_page(watch: &mut Watch<Lean<IPAMLedger>>, patience: &Patience) -> Result<Vec<IPAMLedger>, WatchError> {
    // The watch's own starts over with each list that succeeds.
    let mut backoff = Backoff::default();
    loop {
        let objects = try_first(watch, &mut Some).await;
        let pages = objects.and_then(|all| Ok(all.into_iter().map(Lean::into_object).collect::<Result<_, _>>()?));
        match pages {
            Ok(pages) => {
                patience.judge(watch.kind(), Ok(()))?;
                return Ok(pages);
            }
            Err(error) => patience.judge(watch.kind(), Err(error))?,
        }
        watch.pause().await;
        tokio::time::sleep(backoff.next()).await;
    }
}

async fn first_service_cidrs(
    client: &Client,
    patience: &Patience,
) -> Result<Option<(Watch<ServiceCidrView>, ServiceCidrs)>, WatchError> {
    let mut watch = watch::<ServiceCidrView, ServiceCIDR>(client, "ServiceCIDRs", OBJECTS_A_PAGE);
    loop {
        match try_first(&mut watch, &mut Some).await {
            Ok(objects) => {
                let mut cidrs = ServiceCidrs::default();
                for object in objects {
                    cidrs.see(object);
                }
                return Ok(Some((watch, cidrs)));
            }
            Err(error) if error.is_unavailable() => {
                tracing::warn!(%error, "blocks that overlap the cluster's services are not recognised");
                patience.judge(watch.kind(), Ok(()))?;
                return Ok(None);
            }
            Err(error) => patience.judge(watch.kind(), Err(error))?,
        }
        watch.pause().await;
    }
}

async fn follow<V: Watched>(
    mut watch: Watch<V>,
    events: mpsc::Sender<Event>,
    health: Health,
    mut event: impl FnMut(Change<V>) -> Option<Event>,
) -> WatchError {
    loop {
        match watch.next().await {
            Ok(change) => {
                health.watch(watch.kind(), Ok(()));
                if let Some(event) = change.and_then(&mut event) {
                    // Nobody receives any more: the operator is stopping, and this task with it.
                    let _ = events.send(event).await;
                }
            }
            Err(error @ WatchError::WentBack { .. }) => return error,
            Err(error) => {
                health.watch(watch.kind(), Err(error));
                watch.pause().await;
            }
        }
    }
}

/// What cannot be read is left out.
fn readable<K: Parts>(object: Lean<K>) -> Option<K> {
    object.into_object().inspect_err(|error| tracing::error!(error = with_causes(error), "left out")).ok()
}

fn ipam_node_event(change: Change<Lean<IPAMNode>>) -> Option<Event> {
    match change {
        Change::Seen(object) => readable(object).map(|node| Event::IpamNode(Box::new(node))),
        Change::Gone { name, uid } => Some(Event::IpamNodeGone { name, uid }),
        Change::Listed { version, names } => Some(Event::IpamNodesListed { version, names }),
    }
}

fn pool_event(change: Change<Lean<IPPool>>) -> Option<Event> {
    match change {
        Change::Seen(object) => readable(object).map(|pool| Event::Pool(Box::new(pool))),
        Change::Gone { name, .. } => Some(Event::PoolGone { name }),
        Change::Listed { .. } => None,
    }
}

fn config_event(change: Change<Lean<IPAMConfig>>) -> Option<Event> {
    match change {
        Change::Seen(object) => readable(object).map(|config| Event::Config(Some(Box::new(config)))),
        Change::Gone { .. } => Some(Event::Config(None)),
        Change::Listed { names, .. } => names.is_empty().then_some(Event::Config(None)),
    }
}

/// Trims Nodes as they come in.
#[derive(Debug)]
struct Trimmer {
    selector: Selector,
    /// What was wrong with each Node, so that it is logged once and not with every heartbeat.
    complaints: HashMap<String, String>,
}

impl Trimmer {
    fn trim(&mut self, node: NodeView) -> NodeSeen {
        let (seen, complaint) = node.trim(&self.selector);
        match complaint {
            Some(complaint) if self.complaints.get(&seen.name) == Some(&complaint) => {}
            Some(complaint) => {
                tracing::warn!("{complaint}");
                self.complaints.insert(seen.name.clone(), complaint);
            }
            None => drop(self.complaints.remove(&seen.name)),
        }
        seen
    }

    fn event(&mut self, change: Change<NodeView>) -> Event {
        match change {
            Change::Seen(node) => Event::Node(self.trim(node)),
            Change::Gone { name, .. } => {
                self.complaints.remove(&name);
                Event::NodeGone { name }
            }
            Change::Listed { version, names } => Event::NodesListed { version, names },
        }
    }
}
