//! Step 2: what `IPAMNode`s and agents hold that the ledger does not know is recorded or disputed, before the first
//! block is assigned.
//!
//! A claim the ledger lacks means that a backup was restored, or that somebody else wrote. Then, and when told to
//! (`--recover`), nothing is assigned until every Ready node's agent has said what it holds, 2 minutes at most.

use std::collections::BTreeMap;

use cadastre_api::{AllocatedBlock, BlockState, reason};
use cadastre_core::Cidr;
use uuid::Uuid;

use crate::effect::{Note, Regarding};
use crate::engine::{Engine, Stage};
use crate::ledger::Place;
use crate::page::{Change, PageKey};

impl Engine {
    /// Claims of nodes that exist, under grants that the ledger does not know. Only a ledger can miss one.
    pub(crate) fn has_unknown_grants(&self) -> bool {
        let unknown = |name: &String, uid: &str| {
            self.claims(name, uid)
                .into_iter()
                .any(|claim| !self.ledger.of_name(name).any(|(_, entry)| entry.grant == claim.grant))
        };
        self.nodes.iter().any(|(name, rec)| unknown(name, &rec.seen.uid))
    }

    /// What the `IPAMNode` of this very Node says it may use, and what its agent says it holds.
    fn claims(&self, name: &str, uid: &str) -> Vec<AllocatedBlock> {
        let Some(published) = self.published.get(name).filter(|published| published.spec.node_uid == uid) else {
            return Vec::new();
        };
        let mut claims: BTreeMap<(Cidr, Uuid), AllocatedBlock> = BTreeMap::new();
        for held in published.held.iter().flatten() {
            let (pool, family) = (cadastre_api::DEFAULT_POOL.to_owned(), held.cidr.family());
            let claim = AllocatedBlock { pool, family, cidr: held.cidr, grant: held.grant, retiring: false };
            claims.insert((held.cidr, held.grant), claim);
        }
        for block in &published.spec.ipam.allocated {
            claims.insert((block.cidr, block.grant), block.clone());
        }
        claims.into_values().collect()
    }

    /// Goes live once everybody who could hold something has said so.
    pub(crate) fn recover(&mut self) {
        let Stage::Recovering { until, .. } = &self.stage else { return };
        if self.config.is_none() || (self.now < *until && !self.everybody_reported()) {
            return;
        }
        let Stage::Recovering { occupancy, .. } = std::mem::replace(&mut self.stage, Stage::Starting) else { return };
        self.stage = Stage::Live { occupancy: occupancy.seal() };
        if self.has_ledger() {
            let claims: Vec<_> =
                self.nodes.iter().map(|(name, rec)| (name.clone(), self.claims(name, &rec.seen.uid))).collect();
            for (name, claims) in claims {
                for claim in claims {
                    self.adopt(&name, claim);
                }
            }
        }
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

    /// Records a claim: in the ledger if its block is free, as a dispute if another node has it, and beside the pools if
    /// no pool has it.
    fn adopt(&mut self, name: &str, claim: AllocatedBlock) {
        let Some(rec) = self.nodes.get(name) else { return };
        let uid = rec.seen.uid.clone();
        if self.ledger.of(name, &uid).any(|(_, entry)| entry.block == claim.cidr) {
            return;
        }
        let Some(place) = self.place(&claim.pool, &claim.cidr) else {
            self.keep_foreign(name, claim);
            return;
        };
        if self.revive_own(name, &place, &claim) {
            return;
        }
        let known = self.ledger.entry(&place).or_else(|| self.ledger.page(place.page).taking(&place.block));
        if let Some(holder) = known.map(|entry| entry.node.clone()) {
            self.dispute(&place.block, name, &holder, claim);
            return;
        }
        let entry = self.entry(name, claim.cidr, claim.grant, BlockState::Held);
        let Stage::Live { occupancy } = &mut self.stage else { return };
        if !occupancy.claim(&claim.pool, &claim.cidr) {
            // Part of it is somebody else's: its pods stay, and nothing new is allocated in it.
            self.keep_foreign(name, AllocatedBlock { retiring: true, ..claim });
            return;
        }
        if let Some((entry, rec)) = entry.zip(self.nodes.get_mut(name)) {
            rec.committing.insert(claim.grant);
            self.ledger.queue(place.page, Change::Take(entry));
        }
    }

    /// The block cools since this very node's last registration, and its agent never let go of it: it is the node's again,
    /// under the grant its addresses were given under.
    fn revive_own(&mut self, name: &str, place: &Place, claim: &AllocatedBlock) -> bool {
        let cools = |entry: &cadastre_api::BlockEntry| {
            entry.node == name && entry.grant == claim.grant && entry.state == BlockState::Cooling
        };
        let entry = self.entry(name, claim.cidr, claim.grant, BlockState::Held);
        let (true, Some(entry)) = (self.ledger.entry(place).is_some_and(cools), entry) else { return false };
        if let Some(rec) = self.nodes.get_mut(name) {
            rec.committing.insert(claim.grant);
        }
        self.ledger.queue(place.page, Change::Regrant { old: claim.grant, entry });
        true
    }

    fn keep_foreign(&mut self, name: &str, claim: AllocatedBlock) {
        if let Some(rec) = self.nodes.get_mut(name) {
            rec.foreign.push(claim);
        }
    }

    /// In a disputed block nobody allocates any more; both nodes get another and keep their pods.
    fn dispute(&mut self, block: &Cidr, claimant: &str, holder: &str, claim: AllocatedBlock) {
        self.disputes.insert(*block);
        if let Some(rec) = self.nodes.get_mut(claimant) {
            rec.disputed =
                Some(format!("block {block} is claimed by node {holder} too: nothing is allocated in it any more"));
            rec.foreign.push(AllocatedBlock { retiring: true, ..claim });
        }
        if let Some(rec) = self.nodes.get_mut(holder) {
            rec.disputed =
                Some(format!("block {block} is claimed by node {claimant} too: nothing is allocated in it any more"));
        }
        for (name, other) in [(claimant, holder), (holder, claimant)] {
            let Some(uid) = self.nodes.get(name).map(|rec| rec.seen.uid.clone()) else { continue };
            let message = format!(
                "block {block} is claimed by node {other} too: nothing is allocated in it any more, and both get another; \
                 remove one of the two nodes once its pods are gone"
            );
            let regarding = Regarding::Node { name: name.to_owned(), uid };
            self.publish(Note { regarding, warning: true, reason: reason::BLOCK_DISPUTED, message });
        }
        self.dirty.insert(holder.to_owned());
    }

    /// Where a block's entry is or would be; `None` if no pool has it.
    pub(crate) fn place(&mut self, pool: &str, block: &Cidr) -> Option<Place> {
        let (cidr, mask) = match &self.stage {
            Stage::Starting => None,
            Stage::Recovering { occupancy, .. } => occupancy.cidr_of(pool, block),
            Stage::Live { occupancy } => occupancy.cidr_of(pool, block),
        }?;
        let page = self.ledger.page_id(PageKey::of(pool, &cidr, mask, block)?);
        Some(Place { page, block: *block })
    }
}
