//! The agent's whole state for people: what `cadastre-agent status` prints.

use std::collections::BTreeMap;

use cadastre_api::Mode;
use cadastre_messages::report::{
    Address, Assignment, ClusterHealth, NodeHealth, Part, Pool, Reconciled, Report, Tombstones,
};

use crate::boot_time::BootTime;
use crate::health::{HealthSeen, NodeSeen};
use crate::node::{NodeSetup, RoutesSeen};
use crate::outlook::{Cluster, Outlook};
use crate::pools::{BlockView, NetworkView, ShareView};
use crate::record::BlockState;

/// Names in one line.
const SHOWN: usize = 5;

/// Who and what this agent was started as.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node: String,
    pub configured: Mode,
}

/// Puts together what the parts know.
#[must_use]
pub fn report(
    identity: &Identity,
    outlook: &Outlook,
    cluster: &Cluster,
    tombstones: Tombstones,
    addresses: Vec<Address>,
    now: BootTime,
) -> Report {
    let ago = |at: BootTime| now.since(at).as_secs();
    let shares = outlook.view.shares.iter().filter(|share| !share.blocks.is_empty());
    Report {
        node: identity.node.clone(),
        kubernetes: kubernetes(cluster),
        ipam: ipam(identity, outlook),
        mode: outlook.mode().unwrap_or(identity.configured).to_string(),
        journal: journal(outlook),
        cni: cni(&cluster.setup),
        routes: routes(&cluster.setup),
        cluster_health: cluster.health.as_ref().map(|seen| health(seen, now)),
        heard: cluster.heard.map(ago),
        assignment: outlook.view.assigned.as_ref().map(|assigned| Assignment {
            generation: assigned.generation,
            seconds: cluster.told.map(ago),
            problems: outlook.problems.clone(),
        }),
        reconciled: cluster.reconciled.map(|pass| Reconciled {
            seconds: ago(pass.at),
            suspects: pass.suspects as u64,
            freed: pass.freed,
        }),
        tombstones,
        waiting: outlook.view.waiting as u64,
        pools: shares.map(pool).chain(outlook.view.networks.iter().map(network)).collect(),
        addresses,
    }
}

fn kubernetes(cluster: &Cluster) -> Part {
    match (&cluster.trouble, &cluster.version) {
        (Some(trouble), _) => Part { ok: false, message: trouble.clone() },
        (None, Some(version)) => Part { ok: true, message: version.clone() },
        (None, None) => Part { ok: false, message: "not heard of yet".to_owned() },
    }
}

fn ipam(identity: &Identity, outlook: &Outlook) -> Part {
    let mode = outlook.mode().unwrap_or(identity.configured);
    let verdict = outlook.verdict(identity.configured, &NodeSetup::default());
    let differs = outlook.mode_differs(identity.configured);
    let trouble = (!verdict.serving || !outlook.problems.is_empty()).then_some(verdict.message).or(differs);
    match trouble {
        // Journal and installation have parts of their own.
        Some(trouble) if outlook.journal.trouble.is_none() => Part { ok: false, message: trouble },
        _ => Part { ok: true, message: format!("mode {mode}") },
    }
}

fn journal(outlook: &Outlook) -> Part {
    match &outlook.journal.trouble {
        Some(trouble) => Part { ok: false, message: trouble.clone() },
        None => Part { ok: true, message: format!("{} bytes", outlook.journal.bytes) },
    }
}

/// What is installed, and whether its packets leave the node.
fn cni(setup: &NodeSetup) -> Option<Part> {
    let NodeSetup { cni, routes: _, forwarding } = setup;
    Some(match (cni, forwarding) {
        (Some(Err(trouble)), _) | (_, Some(trouble)) => Part { ok: false, message: trouble.clone() },
        (Some(Ok(installed)), None) => Part { ok: true, message: installed.clone() },
        (None, None) => return None,
    })
}

/// A node without a route is for the network to reach, so it is no failure of this one.
fn routes(setup: &NodeSetup) -> Option<Part> {
    let RoutesSeen { installed, nodes, unreached, trouble } = setup.routes.as_ref()?;
    if let Some(trouble) = trouble {
        return Some(Part { ok: false, message: trouble.clone() });
    }
    let without = if unreached.is_empty() { String::new() } else { format!("; none to {}", some_of(unreached)) };
    let plural = if *nodes == 1 { "" } else { "s" };
    Some(Part { ok: true, message: format!("{installed} to {nodes} node{plural}{without}") })
}

fn health(seen: &HealthSeen, now: BootTime) -> ClusterHealth {
    let (reachable, probed) = seen.counts();
    let HealthSeen { state: _, trouble, at, nodes } = seen;
    let node = |seen: &NodeSeen| {
        let NodeSeen { node, addresses, reached, took, failure } = seen.clone();
        NodeHealth {
            node,
            addresses: addresses.iter().map(ToString::to_string).collect(),
            reachable: reached,
            microseconds: took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            reason: failure,
        }
    };
    ClusterHealth {
        trouble: trouble.clone(),
        reachable: reachable as u64,
        probed: probed as u64,
        seconds: at.map(|at| now.since(at).as_secs()),
        nodes: nodes.iter().map(node).collect(),
    }
}

/// The first of many, and how many more there are.
fn some_of(names: &BTreeMap<String, String>) -> String {
    let shown = names.iter().take(SHOWN).map(|(name, why)| format!("{name} ({why})")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

fn pool(share: &ShareView) -> Pool {
    let (open, closed): (Vec<&BlockView>, Vec<&BlockView>) =
        share.blocks.iter().partition(|block| block.state == BlockState::Active);
    Pool {
        pool: share.pool.clone(),
        family: share.family.to_string(),
        blocks: open.iter().map(|block| block.cidr.to_string()).collect(),
        closed: closed.into_iter().map(closed_block).collect(),
        allocated: share.counts.allocated,
        cooling: share.counts.cooling,
        reserved: share.counts.reserved.to_string(),
        free: share.counts.free.to_string(),
        capacity: share.counts.capacity.to_string(),
    }
}

fn closed_block(block: &BlockView) -> String {
    let BlockView { cidr, grant: _, state, used } = block;
    let why = match state {
        BlockState::Active => "in use",
        BlockState::Retiring => "the operator wants it back",
        BlockState::Promised => "given back, and the operator has to take it",
        BlockState::Gone => "it is not this node's any more",
    };
    format!("{cidr}: {why}; {used} held")
}

fn network(network: &NetworkView) -> Pool {
    let NetworkView { pool, family, ranges, counts, yielded: _ } = network;
    Pool {
        pool: pool.clone(),
        family: family.to_string(),
        blocks: ranges.clone(),
        closed: Vec::new(),
        allocated: counts.allocated,
        cooling: counts.cooling,
        reserved: counts.reserved.to_string(),
        free: counts.free.to_string(),
        capacity: counts.capacity.to_string(),
    }
}
