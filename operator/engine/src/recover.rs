//! Step 2: nothing is assigned before everybody who may hold something that the ledger does not know could say so.
//!
//! A claim the ledger lacks means that a backup was restored, or that somebody else wrote. Then, and when told to
//! (`--recover`), nothing is assigned until every Ready node's agent has said what it holds, 2 minutes at most.

use crate::engine::{Engine, Stage};

/// The turn at which everything was read.
const STARTED: u64 = 1;

impl Engine {
    /// Claims of nodes that exist, under grants that the ledger does not know. Only a ledger can miss one. What is
    /// `retiring` was seen and contained before.
    pub(crate) fn has_unknown_grants(&self) -> bool {
        let known = |name: &str, grant| self.ledger.of_name(name).any(|(_, entry)| entry.grant == grant);
        let unknown =
            |name: &String| self.claims_of(name).iter().any(|claim| !claim.retiring && !known(name, claim.grant));
        self.nodes.keys().any(unknown)
    }

    /// Goes live once everybody who could hold something has said so.
    pub(crate) fn recover(&mut self) {
        let Stage::Recovering { trusting, until, .. } = &self.stage else { return };
        if self.config.is_none() || (self.now < *until && !self.everybody_reported(self.now >= *trusting)) {
            return;
        }
        let Stage::Recovering { occupancy, .. } = std::mem::replace(&mut self.stage, Stage::Starting) else { return };
        self.stage = Stage::Live { occupancy: occupancy.seal() };
        self.dirty.extend(self.nodes.keys().cloned());
    }

    /// `trusting`: what was said before the start counts too.
    fn everybody_reported(&self, trusting: bool) -> bool {
        let reported = |name: &str| {
            self.published_of(name).is_some_and(|node| node.held.is_some() && (trusting || node.seen_at > STARTED))
        };
        let ready = self.nodes.iter().filter(|(_, rec)| rec.seen.ready && !rec.seen.excluded);
        ready.map(|(name, _)| &**name).all(reported)
    }
}
