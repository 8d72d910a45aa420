//! An independent look at the addresses of this node: what the agent says is held, beside what is in the network namespaces
//! and what the API server says of the node's Pods. Pure: what was seen comes in, findings go out.
//!
//! ```text
//! agent (socket) ──────▶ held addresses, with attachment and namespace ─┐
//! network namespaces ──▶ addresses in each                             ─┼─▶ audit ─▶ findings, each with a remedy
//! API server ──────────▶ Pods of this node, with their addresses       ─┘
//! ```
//! A pod that starts or ends looks like a finding for a moment: what is reported was seen twice (command/audit.rs).

pub mod gather;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cadastre_core::Cidr;
use cadastre_messages::report::{Address, Report};
use cadastre_messages::{Attachment, Netns};
use cadastre_runtime::PodSeen;
use serde::Serialize;

use crate::health;

/// What was seen of this node at about one moment.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What the agent says is held, and from which blocks it gives.
    pub held: Vec<Address>,
    pub blocks: Vec<Cidr>,
    /// Every network namespace, with the addresses in it.
    pub spaces: Vec<Space>,
    /// `None` if the API server could not be asked.
    pub pods: Option<Vec<PodSeen>>,
}

/// One network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    pub netns: Netns,
    pub addresses: Vec<IpAddr>,
}

/// Something that should not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `kind/address`: the same thing found again has the same.
    pub id: String,
    pub what: String,
    pub remedy: String,
    /// What `--fix` would do, if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
}

/// What `--fix` can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "camelCase")]
pub enum Fix {
    /// Release what this attachment holds.
    Release { attachment: Attachment },
    /// Hold this address until the namespace is gone.
    Hold { address: String, netns: Netns },
}

impl Evidence {
    /// `closed` blocks count too: what is in use there must not be given to another node.
    pub fn of_report(report: &Report) -> (Vec<Address>, Vec<Cidr>) {
        let closed = report.pools.iter().flat_map(|pool| &pool.closed);
        let closed = closed.filter_map(|text| text.split(": ").next());
        let open = report.pools.iter().flat_map(|pool| &pool.blocks).map(String::as_str);
        let blocks = open.chain(closed).filter_map(|block| block.parse().ok()).collect();
        let held = report.addresses.iter().filter(|row| row.state == "held").cloned().collect();
        (held, blocks)
    }
}

/// Everything that should not be, sorted by address within its kind.
#[must_use]
pub fn audit(evidence: &Evidence) -> Vec<Finding> {
    let look = Look::at(evidence);
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(look.duplicates());
    findings.extend(look.unheld());
    findings.extend(look.holders());
    findings.extend(look.pods());
    findings
}

/// The evidence by address.
struct Look<'a> {
    evidence: &'a Evidence,
    /// Of blocks; networks with ranges of their own may repeat each other's addresses.
    held: BTreeMap<IpAddr, &'a Address>,
    /// In which namespaces each address is.
    found: BTreeMap<IpAddr, Vec<&'a Space>>,
}

impl<'a> Look<'a> {
    fn at(evidence: &'a Evidence) -> Self {
        let of_blocks = |row: &&Address| !is_local(&row.pool);
        let address = |row: &'a Address| Some((row.address.parse().ok()?, row));
        let held = evidence.held.iter().filter(of_blocks).filter_map(address).collect();
        let mut found = BTreeMap::<IpAddr, Vec<&Space>>::new();
        for space in &evidence.spaces {
            // An interface may have it twice.
            for address in space.addresses.iter().collect::<BTreeSet<_>>() {
                found.entry(*address).or_default().push(space);
            }
        }
        Self { evidence, held, found }
    }

    fn in_blocks(&self, address: &IpAddr) -> bool {
        self.evidence.blocks.iter().any(|block| block.contains_addr(*address))
    }

    /// One address in several namespaces.
    fn duplicates(&self) -> impl Iterator<Item = Finding> + '_ {
        let ours = |address: &IpAddr| self.in_blocks(address) || self.held.contains_key(address);
        let twice = self.found.iter().filter(move |(address, spaces)| spaces.len() > 1 && ours(address));
        twice.map(|(address, spaces)| {
            let paths: Vec<_> = spaces.iter().map(|space| space.netns.path.as_str()).collect();
            Finding {
                id: format!("duplicate/{address}"),
                what: format!("{address} is in {} namespaces: {}", spaces.len(), paths.join(", ")),
                remedy: "delete all but one of their pods; the agent's log says who was given it when".to_owned(),
                fix: None,
            }
        })
    }

    /// In a namespace, in a block of this node, and held by nobody: it could be given to another pod.
    fn unheld(&self) -> impl Iterator<Item = Finding> + '_ {
        let unheld =
            self.found.iter().filter(|(address, _)| self.in_blocks(address) && !self.held.contains_key(address));
        unheld.filter_map(|(address, spaces)| {
            let netns = spaces.first()?.netns.clone();
            let path = &netns.path;
            Some(Finding {
                id: format!("unheld/{address}"),
                what: format!("{address} is in use in {path}, and held by nobody: another pod may be given it"),
                remedy: "fix it, and it is held until that namespace is gone; or delete the pod".to_owned(),
                fix: Some(Fix::Hold { address: address.to_string(), netns }),
            })
        })
    }

    /// Held, and not where it should be.
    fn holders(&self) -> impl Iterator<Item = Finding> + '_ {
        self.evidence.held.iter().filter_map(|row| self.holder(row))
    }

    fn holder(&self, row: &Address) -> Option<Finding> {
        let (attachment, netns) = (row.attachment.as_ref()?, row.netns.as_ref()?);
        let (address, owner, path) = (&row.address, &row.owner, &netns.path);
        // It lives in the agent, which has just answered, and not in a namespace with a name.
        if row.owner == health::OWNER {
            return None;
        }
        let own = |space: &&Space| (space.netns.device, space.netns.inode) == (netns.device, netns.inode);
        let Some(space) = self.evidence.spaces.iter().find(own) else {
            let still_there = |pods: &Vec<PodSeen>| pods.iter().any(|pod| pod.name == *owner);
            // Between two sandboxes of one pod its namespace is gone for a while.
            if self.evidence.pods.as_ref().is_none_or(still_there) {
                return None;
            }
            return Some(Finding {
                id: format!("leaked/{address}"),
                what: format!("{address} is held by {owner}, whose pod and namespace {path} are gone"),
                remedy: "the agent frees it within a minute, if it hears the API server; or fix it".to_owned(),
                fix: Some(Fix::Release { attachment: attachment.clone() }),
            });
        };
        let parsed: IpAddr = address.parse().ok()?;
        if space.addresses.contains(&parsed) {
            return None;
        }
        let elsewhere = self.found.get(&parsed).filter(|_| self.held.contains_key(&parsed));
        let (kind, what) = match elsewhere.and_then(|spaces| spaces.first()) {
            Some(other) => ("misplaced", format!("is in {} instead", other.netns.path)),
            None => ("unused", "is in no namespace".to_owned()),
        };
        Some(Finding {
            id: format!("{kind}/{address}"),
            what: format!("{address} is held by {owner} for {path}, and {what}"),
            remedy: "see what the interface plugin did (the runtime's log); deleting the pod frees the address"
                .to_owned(),
            fix: None,
        })
    }

    /// Pods whose address is somebody else's, or nobody's.
    fn pods(&self) -> impl Iterator<Item = Finding> + '_ {
        let pods = self.evidence.pods.iter().flatten();
        pods.flat_map(|pod| pod.addresses.iter().map(move |address| (pod, address))).filter_map(|(pod, address)| {
            let holder = match self.held.get(address) {
                // The runtime need not have named a pod.
                Some(row) if row.owner == pod.name || !row.owner.contains('/') => return None,
                Some(row) => format!("is held by {}", row.owner),
                None if self.in_blocks(address) => "is held by nobody".to_owned(),
                None => return None,
            };
            Some(Finding {
                id: format!("pod/{}/{address}", pod.name),
                what: format!("Pod {} has {address}, which {holder}", pod.name),
                remedy: "delete the pod: its successor is given an address of its own".to_owned(),
                fix: None,
            })
        })
    }
}

/// How the pools of networks that bring their own ranges are called.
fn is_local(pool: &str) -> bool {
    pool.starts_with("local/")
}
