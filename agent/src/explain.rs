//! `cadastre-agent explain`: puts together what the pools know and which ADDs failed.
//!
//! ```text
//! 10.0.2.48       ─▶ who holds it, or what it is
//! default/nginx   ─▶ what it holds, what it waits for, what its last ADD was told
//! ```

use std::collections::VecDeque;
use std::net::IpAddr;

use cadastre_messages::explain::{Explanation, Finding};
use cadastre_messages::{Attachment, Failure};

use crate::boot_time::BootTime;
use crate::netns::probe;
use crate::outlook::Outlook;
use crate::pools::{Live, Pools};
use crate::record::PodName;

/// Failed ADDs that are remembered: those of a node full of pods that try again.
const REMEMBERED: usize = 256;

/// The last failure of each attachment, oldest first. Forgotten with the process.
#[derive(Debug, Default)]
pub struct Refusals(VecDeque<Refusal>);

#[derive(Debug)]
struct Refusal {
    attachment: Attachment,
    pod: Option<PodName>,
    at: BootTime,
    failure: Failure,
}

impl Refusals {
    /// An ADD failed.
    pub fn remember(&mut self, attachment: Attachment, pod: Option<PodName>, failure: Failure, at: BootTime) {
        self.forget(&attachment);
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(Refusal { attachment, pod, at, failure });
    }

    /// It succeeded since.
    pub fn forget(&mut self, attachment: &Attachment) {
        self.0.retain(|refusal| refusal.attachment != *attachment);
    }

    fn of_pod<'a>(&'a self, what: &'a str, now: BootTime) -> impl Iterator<Item = Finding> + 'a {
        let meant = move |refusal: &&Refusal| {
            refusal.pod.as_ref().is_some_and(|pod| pod.name == what || pod.to_string() == what)
        };
        self.0.iter().filter(meant).map(move |refusal| Finding::Refused {
            attachment: refusal.attachment.clone(),
            owner: refusal.pod.as_ref().map(ToString::to_string).unwrap_or_default(),
            seconds: now.since(refusal.at).as_secs(),
            reason: refusal.failure.clone(),
        })
    }
}

/// Everything that is known of an address or a pod.
#[must_use]
pub fn explain(what: &str, pools: &Pools<Live>, refusals: &Refusals, outlook: &Outlook, now: BootTime) -> Explanation {
    let what = what.trim();
    let (findings, unknown) = if let Ok(address) = what.parse::<IpAddr>() {
        (pools.explain_address(address, now, &probe), elsewhere(outlook))
    } else {
        let held = pools.explain_pod(what, now, &probe);
        (held.into_iter().chain(refusals.of_pod(what, now)).collect(), unheard(what))
    };
    let note = if findings.is_empty() { unknown } else { String::new() };
    Explanation { what: what.to_owned(), findings, note }
}

fn elsewhere(outlook: &Outlook) -> String {
    let blocks = outlook.view.shares.iter().flat_map(|share| &share.blocks).map(|block| block.cidr.to_string());
    let blocks: Vec<String> = blocks.collect();
    if blocks.is_empty() {
        return format!("this node has no block: {}", outlook.absence());
    }
    format!(
        "it is of no block of this node ({}) and of no network with ranges of its own that was asked for so far; `kubectl get ipamnodes` shows which node has it",
        blocks.join(", ")
    )
}

fn unheard(what: &str) -> String {
    format!(
        "no ADD came for {what} since this agent started, and it holds nothing: see whether it runs on this node and not in the host's network (`kubectl describe pod`)"
    )
}
