//! Who has an address, what an address is, and what a pod waits for: answers for people, changing nothing.

use std::net::IpAddr;

use cadastre_core::Family;
use cadastre_messages::Attachment;
use cadastre_messages::explain::{Finding, HeldFinding};

use super::book::Hold;
use super::found::STRAY_NETWORK;
use super::local::Network;
use super::share::{Block, Share};
use super::{Live, Pools, local, refusal};
use crate::boot_time::BootTime;
use crate::netns::Probe;
use crate::record::{BlockState, HeldAddress, NetnsRecord, PodName};

/// How the namespace of a holder is looked at.
pub type Look<'a> = &'a dyn Fn(&NetnsRecord) -> Probe;

impl Pools<Live> {
    /// What an address is, in each pool and network that has it.
    #[must_use]
    pub fn explain_address(&self, address: IpAddr, now: BootTime, look: Look<'_>) -> Vec<Finding> {
        let holders = || {
            let all = self.book.held.iter();
            all.flat_map(|(attachment, hold)| hold.held.addresses.iter().map(move |held| (attachment, hold, held)))
                .filter(|(_, _, held)| held.address == address)
        };
        let held = holders().map(|(attachment, hold, held)| self.held_finding(attachment, hold, held, now, look));
        let is_held = |pool: &str| holders().any(|(_, _, held)| held.pool == pool);
        let networks = self.book.networks.values().filter(|network| !is_held(&network.pool));
        let networks = networks.filter_map(|network| self.of_network(network, address, now));
        let shares = self.book.shares.iter().filter(|share| !is_held(&share.pool));
        let shares = shares.filter_map(|share| self.of_share(share, address, now));
        held.chain(networks).chain(shares).collect()
    }

    /// What the pod of that name has and waits for: `namespace/name`, or `name` in any namespace.
    #[must_use]
    pub fn explain_pod(&self, what: &str, now: BootTime, look: Look<'_>) -> Vec<Finding> {
        let holds = self.book.held.iter().filter(|(_, hold)| is_meant(what, hold.held.pod.as_ref()));
        let mut findings: Vec<Finding> = Vec::new();
        for (attachment, hold) in holds {
            findings
                .extend(hold.held.addresses.iter().map(|held| self.held_finding(attachment, hold, held, now, look)));
        }
        for parked in self.phase.parked() {
            let pod = parked.add.pod.clone().map(PodName::from);
            if is_meant(what, pod.as_ref()) {
                findings.push(Finding::Waiting {
                    attachment: parked.add.attachment.clone(),
                    owner: pod.map(|pod| pod.to_string()).unwrap_or_default(),
                    left: parked.deadline.since(now).as_secs(),
                    reason: refusal::no_assignment(&self.rules.node, &self.book),
                });
            }
        }
        findings
    }

    fn held_finding(
        &self,
        attachment: &Attachment,
        hold: &Hold,
        of: &HeldAddress,
        now: BootTime,
        look: Look<'_>,
    ) -> Finding {
        let record = &hold.held;
        let netns_state = match look(&record.netns) {
            Probe::Lives => "lives",
            Probe::Gone => "gone",
            Probe::Unknown => "unknown",
        };
        let told = record.acked != BootTime::default();
        Finding::Held(Box::new(HeldFinding {
            address: of.address.to_string(),
            from: self.origin(of),
            owner: hold.owner(attachment),
            pod_uid: record.pod.as_ref().and_then(|pod| pod.uid.clone()),
            attachment: attachment.clone(),
            since: now.since(record.since).as_secs(),
            told: told.then(|| now.since(record.acked).as_secs()),
            netns: record.netns.path.clone(),
            netns_state: netns_state.to_owned(),
            freed_by: freed_by(attachment, record.pod.is_some(), &record.netns),
        }))
    }

    fn origin(&self, held: &HeldAddress) -> String {
        if local::network_of(&held.pool).is_some() {
            return network_name(&held.pool);
        }
        let shares = self.book.shares.iter().filter(|share| share.pool == held.pool);
        let block = shares.clone().find_map(|share| share.block_of(held));
        block.map_or_else(|| format!("pool {}, of no known block", held.pool), |block| block_name(&held.pool, block))
    }

    fn cooling(&self, address: IpAddr, from: String, since: BootTime, now: BootTime) -> Finding {
        let left = since.plus(self.rules.address_cooling).since(now).as_secs();
        Finding::Cooling { address: address.to_string(), from, seconds: now.since(since).as_secs(), left }
    }

    /// An address of a network that nobody holds, by the ranges of its last call.
    fn of_network(&self, network: &Network, address: IpAddr, now: BootTime) -> Option<Finding> {
        let (from, text) = (network_name(&network.pool), address.to_string());
        if let Some(cooling) = network.cooling().find(|cooling| cooling.address == address) {
            return Some(self.cooling(address, from, cooling.since, now));
        }
        let range = network.ranges.as_ref()?.of(address)?;
        if range.gateway == Some(address) {
            return Some(Finding::Router { address: text, from });
        }
        let free = range.contains(address);
        Some(if free { Finding::Free { address: text, from } } else { Finding::Reserved { address: text, from } })
    }

    /// An address of a block that nobody holds.
    fn of_share(&self, share: &Share, address: IpAddr, now: BootTime) -> Option<Finding> {
        if share.family != Family::of(address) {
            return None;
        }
        let block = share.blocks.iter().find(|block| block.cidr.contains_addr(address))?;
        let (from, text) = (block_name(&share.pool, block), address.to_string());
        if let Some(cooling) = share.cooling().find(|cooling| cooling.address == address) {
            return Some(self.cooling(address, from, cooling.since, now));
        }
        Some(match block.state {
            BlockState::Active if block.router == Some(address) => Finding::Router { address: text, from },
            BlockState::Active if share.is_reserved(address) => Finding::Reserved { address: text, from },
            BlockState::Active => Finding::Free { address: text, from },
            BlockState::Retiring | BlockState::Promised | BlockState::Gone => Finding::Closed { address: text, from },
        })
    }
}

fn is_meant(what: &str, pod: Option<&PodName>) -> bool {
    pod.is_some_and(|pod| pod.name == what || pod.to_string() == what)
}

fn network_name(pool: &str) -> String {
    format!("network {}, which has ranges of its own", local::network_of(pool).unwrap_or(pool))
}

fn block_name(pool: &str, block: &Block) -> String {
    let state = match block.state {
        BlockState::Active => "",
        BlockState::Retiring => ", which the operator wants back",
        BlockState::Promised => ", which was given back",
        BlockState::Gone => ", which is not this node's any more",
    };
    format!("block {} of pool {pool}{state}", block.cidr)
}

fn freed_by(attachment: &Attachment, has_pod: bool, netns: &NetnsRecord) -> String {
    let Attachment { network, container_id, interface } = attachment;
    if network == STRAY_NETWORK {
        return "the end of that network namespace: no attachment is known that has it".to_owned();
    }
    let del = format!("the DEL of {network}/{container_id}/{interface}");
    match (netns.seen, has_pod) {
        (true, true) => format!("{del}; or, once pod and namespace are gone, reconciliation at its second pass after"),
        (true, false) => format!("{del}; or, once the namespace is gone, reconciliation at its second pass after"),
        (false, _) => format!("{del} alone: the agent never saw its namespace, so it cannot tell that it is gone"),
    }
}
