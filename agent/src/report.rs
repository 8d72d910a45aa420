//! The agent's whole state for people: what `cadastre-agent status` prints.

use cadastre_api::Mode;
use cadastre_messages::report::{Address, Part, Pool, Report};

use crate::outlook::{Cluster, Outlook};

/// Who and what this agent was started as.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node: String,
    pub configured: Mode,
}

/// Puts together what the parts know.
#[must_use]
pub fn report(identity: &Identity, outlook: &Outlook, cluster: &Cluster, addresses: Vec<Address>) -> Report {
    Report {
        node: identity.node.clone(),
        kubernetes: kubernetes(cluster),
        ipam: ipam(identity, outlook),
        mode: outlook.mode().unwrap_or(identity.configured).to_string(),
        journal: journal(outlook),
        pools: outlook.view.shares.iter().filter(|share| !share.blocks.is_empty()).map(pool).collect(),
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
    let verdict = outlook.verdict(identity.configured);
    let differs = outlook.mode_differs(identity.configured);
    let trouble = (!verdict.serving || !outlook.problems.is_empty()).then_some(verdict.message).or(differs);
    match trouble {
        // The journal has a part of its own.
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

fn pool(share: &crate::pools::ShareView) -> Pool {
    Pool {
        pool: share.pool.clone(),
        family: share.family.to_string(),
        blocks: share.blocks.iter().map(|block| block.cidr.to_string()).collect(),
        allocated: share.counts.allocated,
        cooling: share.counts.cooling,
        capacity: share.counts.capacity.to_string(),
    }
}
