//! Looks every few seconds whether the node is set up as it should be, and makes it so.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cadastre_core::{Cidr, Family};
use cadastre_runtime::CniSettings;
use tokio::sync::watch;
use tokio::time::sleep;

use super::install::{Installer, NodeMtu};
use super::kernel::{Kernel, Ours, RouteError, remove_routes};
use super::peers::{Nodes, Peer, Peers};
use super::routes::{Change, change, wanted};
use super::{NodeSetup, RoutesSeen, forward::forward};
use crate::metrics::Metrics;
use crate::outlook::{Cluster, Outlook};

/// Between two looks: for this long somebody else's hand has its way. Each look is some file status and two questions to the
/// kernel.
const LOOK: Duration = Duration::from_secs(5);

/// After each look: when hundreds of nodes come at once, their routes are made together.
const PAUSE: Duration = Duration::from_millis(100);

/// This node, and what it is to have.
#[derive(Clone, Debug)]
pub struct Host {
    pub name: String,
    pub settings: CniSettings,
    /// The plugin to install.
    pub plugin: PathBuf,
    /// Where the agent listens.
    pub socket: PathBuf,
    /// `/proc/sys/net` of the node, where it can be written.
    pub sysctls: PathBuf,
}

/// What of the pools decides how the node is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    /// An ADD can be answered with an address.
    serves: bool,
    blocks: Vec<Cidr>,
}

impl Own {
    fn of(outlook: &Outlook) -> Self {
        let blocks: Vec<Cidr> = outlook.view.shares.iter().flat_map(|share| &share.blocks).map(|b| b.cidr).collect();
        Self { serves: outlook.journal.trouble.is_none() && !blocks.is_empty(), blocks }
    }
}

struct Tender {
    host: Host,
    installer: Option<Installer>,
    /// Nodes that the log named already.
    said: BTreeMap<String, String>,
    metrics: Metrics,
}

/// Runs for ever.
pub async fn tend(
    host: Host,
    mut outlook: watch::Receiver<Outlook>,
    mut peers: watch::Receiver<Peers>,
    cluster: Arc<watch::Sender<Cluster>>,
    metrics: Metrics,
) {
    if !host.settings.routes {
        // Those of an agent that was to make some: nobody else would ever remove them.
        remove_routes().await;
    }
    let installer = Installer::new(&host.settings, host.plugin.clone(), &host.socket);
    if installer.is_none() && !host.settings.routes {
        return std::future::pending().await;
    }
    let mut tender = Tender { host, installer, said: BTreeMap::new(), metrics };
    loop {
        let own = Own::of(&outlook.borrow_and_update());
        let others = peers.borrow_and_update().clone();
        let seen = tender.look(&own, others.as_ref()).await;
        cluster.send_if_modified(|cluster| {
            let changed = cluster.setup != seen;
            cluster.setup = seen;
            changed
        });
        sleep(PAUSE).await;
        tokio::select! {
            () = sleep(LOOK) => {}
            () = differs(&mut outlook, &own) => {}
            // Without routes nobody sends.
            Ok(()) = peers.changed() => {}
        }
    }
}

/// Each ADD changes the outlook; hardly one changes what counts here.
async fn differs(outlook: &mut watch::Receiver<Outlook>, own: &Own) {
    if outlook.wait_for(|outlook| Own::of(outlook) != *own).await.is_err() {
        // The owner of the pools has ended, and so does the process.
        std::future::pending::<()>().await;
    }
}

impl Tender {
    async fn look(&mut self, own: &Own, peers: Option<&Nodes>) -> NodeSetup {
        let kernel = Kernel::open();
        let mut seen = NodeSetup::default();
        // Without routes others are watched for their health alone.
        let peers = peers.filter(|_| self.host.settings.routes);
        if let Some(mut installer) = self.installer.take() {
            let mtu = self.mtu(&installer, kernel.as_ref().ok(), peers).await;
            let mut done = installer.plugin();
            if own.serves {
                done = done.and_then(|()| installer.conflist(mtu));
            }
            let cni = done.map(|()| installer.describe(own.serves)).map_err(|error| error.to_string());
            self.metrics.setup_failed.set(cni.is_err().into());
            seen.cni = Some(cni);
            self.installer = Some(installer);
        }
        if own.serves {
            let families = Family::ALL.into_iter().filter(|family| own.blocks.iter().any(|b| b.family() == *family));
            seen.forwarding = forward(&self.host.sysctls, families);
        }
        if self.host.settings.routes {
            let routes = match kernel {
                Ok(kernel) => self.route(&kernel, own, peers).await,
                Err(error) => Err(error),
            };
            let failed =
                |error| RoutesSeen { trouble: Some(format!("the kernel's routes: {error}")), ..RoutesSeen::default() };
            let routes = routes.unwrap_or_else(failed);
            self.metrics.routes.set(i64::try_from(routes.installed).unwrap_or(i64::MAX));
            self.metrics.unreached_nodes.set(i64::try_from(routes.unreached.len()).unwrap_or(i64::MAX));
            seen.routes = Some(routes);
        }
        seen
    }

    /// Towards the default route, and towards another node.
    async fn mtu(&self, installer: &Installer, kernel: Option<&Kernel>, peers: Option<&Nodes>) -> NodeMtu {
        let Some(kernel) = kernel.filter(|_| installer.follows_mtu()) else { return NodeMtu::default() };
        let is_other = |(name, peer): &(&String, &Peer)| **name != self.host.name && !peer.addresses.is_empty();
        let other = peers.into_iter().flatten().find(is_other);
        let addresses: Vec<IpAddr> = other.map(|(_, peer)| peer.addresses.clone()).unwrap_or_default();
        let settled = peers.is_some() || !self.host.settings.routes;
        match kernel.mtu_towards(addresses.into_iter()).await {
            Ok(found) => NodeMtu { found, settled },
            Err(error) => {
                tracing::warn!(%error, "the node's MTU cannot be found out; the configuration stays as it is");
                NodeMtu::default()
            }
        }
    }

    /// Until the other nodes are known, the routes of the agent before this one stay.
    async fn route(&mut self, kernel: &Kernel, own: &Own, peers: Option<&Nodes>) -> io::Result<RoutesSeen> {
        let Ours { routes: there, strays } = kernel.ours().await?;
        let Some(peers) = peers else { return Ok(RoutesSeen { installed: there.len(), ..RoutesSeen::default() }) };
        let wanted = wanted(peers, &self.host.name, &own.blocks);
        let Change { remove, add } = change(&wanted, &there);
        let mut seen = RoutesSeen { unreached: wanted.unreached.clone(), ..RoutesSeen::default() };
        for route in &remove {
            match kernel.remove(route).await {
                Ok(()) => tracing::info!(block = %route.to, via = %route.via, "route removed"),
                Err(error) => seen.trouble = Some(format!("the route to {} cannot be removed: {error}", route.to)),
            }
        }
        for stray in &strays {
            match kernel.remove_stray(stray).await {
                Ok(()) => tracing::info!(to = %stray, "route removed that no agent makes"),
                Err(error) => seen.trouble = Some(format!("the route to {stray} cannot be removed: {error}")),
            }
        }
        let mut failed = BTreeSet::new();
        for route in &add {
            let node = wanted.routes.get(route).cloned().unwrap_or_default();
            match kernel.add(route).await {
                Ok(()) => tracing::info!(block = %route.to, via = %route.via, node, "route added"),
                Err(error) => {
                    failed.insert(*route);
                    if matches!(error, RouteError::Refused { .. }) {
                        seen.trouble = Some(error.to_string());
                    }
                    seen.unreached.entry(node).or_insert_with(|| error.to_string());
                }
            }
        }
        let made = wanted.routes.iter().filter(|(route, _)| !failed.contains(route));
        seen.nodes = made.clone().map(|(_, node)| node).collect::<BTreeSet<_>>().len();
        seen.installed = made.count();
        self.say(&seen);
        Ok(seen)
    }

    /// Each once.
    fn say(&mut self, seen: &RoutesSeen) {
        for (node, why) in seen.unreached.iter().filter(|(node, why)| self.said.get(*node) != Some(*why)) {
            tracing::warn!(
                node,
                why,
                "no route to the pods of this node: that is for the network between the nodes to do"
            );
        }
        self.said = seen.unreached.clone();
    }
}
