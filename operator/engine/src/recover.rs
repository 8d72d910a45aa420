//! Step 2: nothing is assigned before everybody who may hold something that the ledger does not know could say so.
//!
//! A claim the ledger lacks means that a backup was restored, or that somebody else wrote. Then, and when told to
//! (`--recover`), nothing is assigned until every Ready node's agent has said what it holds, 2 minutes at most.

use crate::engine::{Engine, Stage};

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
        let Stage::Recovering { until, .. } = &self.stage else { return };
        if self.config.is_none() || (self.now < *until && !self.everybody_reported()) {
            return;
        }
        let Stage::Recovering { occupancy, .. } = std::mem::replace(&mut self.stage, Stage::Starting) else { return };
        self.stage = Stage::Live { occupancy: occupancy.seal() };
        self.dirty.extend(self.nodes.keys().cloned());
    }

    fn everybody_reported(&self) -> bool {
        let reported = |name: &String, uid: &str| {
            self.published.get(name).is_some_and(|published| published.spec.node_uid == uid && published.held.is_some())
        };
        self.nodes
            .iter()
            .filter(|(_, rec)| rec.seen.ready && !rec.seen.excluded)
            .all(|(name, rec)| reported(name, &rec.seen.uid))
    }
}
