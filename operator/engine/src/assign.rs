//! Step 4: which node needs what, and what the mode gives it.
//!
//! ```text
//! dirty ─▶ evaluate ─┬─ lacks a family ─▶ to_plan ─▶ plan ─┬─ blocks ─▶ ledger (commit.rs)
//!                    ├─ pending        ─▶ promote          └─ nothing ─▶ stuck, until space grows
//!                    ├─ not verified   ─▶ config read
//!                    └─ all held       ─▶ IPAMNode (apply.rs)
//! ```

use cadastre_api::{BlockEntry, BlockState, Mode, condition_type, reason};
use cadastre_core::{Cidr, Family};
use cadastre_modes::{Decision, NodeView, Plan, PlannedBlock, Planner, Shortage, Verdict};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use uuid::Uuid;

use crate::effect::{Note, Regarding};
use crate::engine::{Engine, Stage};
use crate::ledger::Place;
use crate::nodes::{NodeRec, after};
use crate::page::Change;
use crate::settings::LEAST_COOLING;

impl Engine {
    pub(crate) fn evaluate_dirty(&mut self) {
        for name in std::mem::take(&mut self.dirty) {
            self.evaluate(&name);
        }
    }

    fn evaluate(&mut self, name: &str) {
        if self.mode() != Some(Mode::Kubernetes) {
            self.note_claims(name);
        }
        self.open(name);
        let Some(rec) = self.nodes.get(name) else { return };
        if rec.seen.excluded && !self.has_blocks(name) {
            self.leave_out(name);
            return;
        }
        match (&self.stage, &self.planner) {
            (Stage::Live { .. }, Some(Planner::Kubernetes(_))) => self.evaluate_mirror(name),
            (Stage::Live { .. }, Some(Planner::ClusterPool(_))) => self.evaluate_ledger(name),
            // Agents need an object to report in.
            (Stage::Recovering { until, .. }, Some(_)) if rec.seen.ready && *until > self.now => self.apply(name),
            _ => {}
        }
    }

    /// Whether this very Node has a block, or is about to.
    pub(crate) fn has_blocks(&self, name: &str) -> bool {
        let Some(rec) = self.nodes.get(name) else { return false };
        !rec.mirrored.is_empty()
            || self.published_of(name).is_some_and(|node| !node.spec.ipam.allocated.is_empty())
            || self.ledger.of(name, &rec.seen.uid).any(|(_, entry)| entry.state != BlockState::Cooling)
            || !self.claims_of(name).is_empty()
    }

    /// A node that is to get nothing waits for nothing, and keeps nobody waiting.
    fn leave_out(&mut self, name: &str) {
        let Some(rec) = self.nodes.get_mut(name) else { return };
        rec.shortage = None;
        let key = (rec.seen.created, name.to_owned());
        self.to_plan.remove(&key);
        self.stuck.remove(&key);
        let concerned = self.index.remove(name);
        self.dirty.extend(concerned);
        if let Some(uid) = self.published.get(name).filter(|_| self.is_live()).map(|node| node.uid.clone()) {
            self.delete_ipam_node(name, uid);
        }
    }

    fn evaluate_ledger(&mut self, name: &str) {
        self.revive_published(name);
        let Some(rec) = self.nodes.get(name) else { return };
        let uid = &rec.seen.uid;
        // What the same machine held before it registered again cools first, so that it can have it back.
        let last_life = |entry: &BlockEntry| {
            entry.uid != *uid
                && entry.state != BlockState::Cooling
                && is_same_machine(&entry.machine, &rec.seen.machine)
        };
        if !rec.committing.is_empty() || self.ledger.of_name(name).any(|(_, entry)| last_life(entry)) {
            return;
        }
        if !self.examine(name) {
            return;
        }
        let Some(rec) = self.nodes.get(name).filter(|rec| rec.committing.is_empty()) else { return };
        let key = (rec.seen.created, name.to_owned());
        let holds: Vec<_> = self.holds(name).map(|(_, entry)| (entry.block, entry.grant, entry.state)).collect();
        let families = self.planner.as_ref().map(|planner| planner.families().to_vec()).unwrap_or_default();
        if !families.iter().all(|family| holds.iter().any(|(block, ..)| block.family() == *family)) {
            if self.stuck.contains(&key) || rec.seen.excluded {
                self.apply(name);
            } else {
                self.to_plan.insert(key);
            }
            return;
        }
        self.to_plan.remove(&key);
        self.stuck.remove(&key);
        let verified = rec.verified;
        if let Some(rec) = self.nodes.get_mut(name) {
            rec.shortage = None;
        }
        if holds.iter().any(|(.., state)| *state == BlockState::Pending) {
            self.promote(name);
        } else if verified {
            self.apply(name);
        } else {
            self.to_verify.insert(name.to_owned());
        }
    }

    /// An operator with an older view may have shed a block that another had published by then. What this very node may be
    /// using is held, so it is made so again.
    fn revive_published(&mut self, name: &str) {
        let (Some(rec), Some(published)) = (self.nodes.get(name), self.published_of(name)) else { return };
        let shed =
            |entry: &BlockEntry| entry.state == BlockState::Cooling && published.may_use(&entry.block, entry.grant);
        let entries = self.ledger.of(name, &rec.seen.uid).filter(|(_, entry)| shed(entry));
        let entries: Vec<_> = entries.map(|(place, entry)| (place, entry.grant)).collect();
        let at = self.now;
        for (place, grant) in entries {
            self.ledger.queue(place.page, Change::Revive { block: place.block, grant, at });
        }
    }

    /// Blocks that count for a node: pending or held by this very node, not contested and not promised away.
    pub(crate) fn holds(&self, name: &str) -> impl Iterator<Item = (Place, &BlockEntry)> {
        let rec = self.nodes.get(name);
        let entries = rec.into_iter().flat_map(|rec| self.ledger.of(&rec.seen.name, &rec.seen.uid));
        let lost = move |entry: &BlockEntry| rec.is_some_and(|rec| self.is_lost(rec, entry));
        entries.filter(move |(_, entry)| entry.state != BlockState::Cooling && !lost(entry))
    }

    /// A block that a node cannot allocate in any more: contested, or promised away.
    pub(crate) fn is_lost(&self, rec: &NodeRec, entry: &BlockEntry) -> bool {
        let promised =
            || self.published.get(&rec.seen.name).is_some_and(|node| node.promised(&entry.block, entry.grant));
        rec.contested.contains_key(&entry.block) || promised()
    }

    /// Every family is committed: pending becomes held.
    fn promote(&mut self, name: &str) {
        let at = self.now;
        let pending: Vec<_> = self
            .holds(name)
            .filter(|(_, entry)| entry.state == BlockState::Pending)
            .map(|(place, entry)| (place, entry.grant))
            .collect();
        for (place, grant) in pending {
            if let Some(rec) = self.nodes.get_mut(name) {
                rec.committing.insert(grant);
            }
            self.ledger.queue(place.page, Change::Promote { node: name.to_owned(), block: place.block, grant, at });
        }
    }

    pub(crate) fn plan(&mut self) {
        if std::mem::take(&mut self.space_grew) {
            self.to_plan.append(&mut self.stuck);
        }
        if self.to_plan.is_empty() || !self.config_settled || self.config.is_none() {
            return;
        }
        let waiting = std::mem::take(&mut self.to_plan);
        let views: Vec<_> = waiting.iter().filter_map(|(_, name)| self.view(name)).collect();
        let (Stage::Live { occupancy }, Some(planner)) = (&mut self.stage, &self.planner) else {
            self.to_plan = waiting;
            return;
        };
        let Plan { decisions } = planner.plan(&views, occupancy, &self.index, &self.mirror_fences);
        for decision in decisions {
            self.decide(decision);
        }
        self.relieve();
    }

    fn view(&self, name: &str) -> Option<NodeView> {
        let rec = self.nodes.get(name)?;
        let block = |place: &Place| PlannedBlock {
            pool: self.ledger.pool_of(place).to_owned(),
            family: place.block.family(),
            cidr: place.block,
        };
        let own = |entry: &BlockEntry| {
            entry.state == BlockState::Cooling
                && entry.uid != rec.seen.uid
                && is_same_machine(&entry.machine, &rec.seen.machine)
        };
        Some(NodeView {
            name: name.to_owned(),
            uid: rec.seen.uid.clone(),
            created: rec.seen.created,
            pod_cidrs: rec.seen.pod_cidrs.clone(),
            holds: self.holds(name).map(|(place, _)| block(&place)).collect(),
            own_cooling: self
                .ledger
                .of_name(name)
                .filter(|(_, entry)| own(entry))
                .map(|(place, _)| block(&place))
                .collect(),
        })
    }

    fn decide(&mut self, decision: Decision) {
        let Decision { node: name, uid: _, verdict } = decision;
        let Some(rec) = self.nodes.get_mut(&name) else { return };
        match verdict {
            Verdict::Wait(shortage) => {
                self.stuck.insert((rec.seen.created, name.clone()));
                // What its pods may be using already stays.
                let published = self.published.get(&name).filter(|node| node.spec.node_uid == rec.seen.uid);
                rec.mirrored = published.map(|node| node.spec.ipam.allocated.clone()).unwrap_or_default();
                if let Shortage::Overlaps { cidr, .. } = &shortage {
                    // Both keep their pods; in the overlap only the senior one goes on allocating.
                    for block in rec.mirrored.iter_mut().filter(|block| block.cidr == *cidr) {
                        block.retiring = true;
                    }
                }
                self.note_shortage(&name, shortage);
                self.apply(&name);
            }
            Verdict::Assign { blocks, again } => {
                rec.shortage = None;
                self.stuck.remove(&(rec.seen.created, name.clone()));
                if self.has_ledger() {
                    self.assign(&name, &blocks, &again);
                } else {
                    self.mirror(&name, &blocks);
                    self.apply(&name);
                }
            }
        }
    }

    fn note_shortage(&mut self, name: &str, shortage: Shortage) {
        let Some(rec) = self.nodes.get_mut(name) else { return };
        if rec.shortage.as_ref() == Some(&shortage) {
            return;
        }
        let regarding = Regarding::Node { name: name.to_owned(), uid: rec.seen.uid.clone() };
        let (reason, message) = (shortage_reason(&shortage), shortage.to_string());
        rec.shortage = Some(shortage);
        if !self.says_already(name, condition_type::ASSIGNED, "False", &message) {
            self.publish(Note { regarding, warning: true, reason, message });
        }
    }

    /// Queues what a plan assigned. One block alone is held at once; what spans pages is pending until all of it is in.
    fn assign(&mut self, name: &str, blocks: &[PlannedBlock], again: &[PlannedBlock]) {
        let complete =
            blocks.len() + again.len() == 1 && self.holds(name).all(|(_, entry)| entry.state == BlockState::Held);
        let state = if complete { BlockState::Held } else { BlockState::Pending };
        for block in blocks {
            let grant = self.grant();
            let (place, entry) = (self.place_of(&block.cidr), self.entry(name, block.cidr, grant, state));
            let Some((place, entry)) = place.zip(entry) else { continue };
            self.queue_for(name, grant, place, Change::Take(entry));
        }
        for block in again {
            let grant = self.grant();
            let (place, entry) = (self.place_of(&block.cidr), self.entry(name, block.cidr, grant, state));
            let Some((place, entry)) = place.zip(entry) else { continue };
            let Some(old) = self.ledger.entry(&place).map(|old| old.grant) else { continue };
            self.queue_for(name, grant, place, Change::Regrant { old, entry });
        }
    }

    /// Queues a change that the node waits for.
    pub(crate) fn queue_for(&mut self, name: &str, grant: Uuid, place: Place, change: Change) {
        if let Some(rec) = self.nodes.get_mut(name) {
            rec.committing.insert(grant);
        }
        self.ledger.queue(place.page, change);
    }

    pub(crate) fn entry(&self, name: &str, block: Cidr, grant: Uuid, state: BlockState) -> Option<BlockEntry> {
        let seen = &self.nodes.get(name)?.seen;
        let (node, uid, machine) = (seen.name.clone(), seen.uid.clone(), seen.machine.clone());
        Some(BlockEntry { block, node, uid, machine, grant, state, since: Time(self.now) })
    }

    /// Nothing is free and nodes wait: blocks that have cooled for the least time go to them, the oldest first.
    pub(crate) fn relieve(&mut self) {
        if self.stuck.is_empty() || self.ledger.cooling().next().is_none() {
            return;
        }
        let short: Vec<(String, Family)> = self
            .stuck
            .iter()
            .filter_map(|(_, name)| match &self.nodes.get(name)?.shortage {
                Some(Shortage::Exhausted { pool, family }) => Some((pool.clone(), *family)),
                _ => None,
            })
            .collect();
        let mut wanted = std::collections::BTreeMap::<_, usize>::new();
        for key in short {
            *wanted.entry(key).or_default() += 1;
        }
        for ((pool, family), count) in wanted {
            let ripe = |since| after(since, LEAST_COOLING.min(self.settings.block_cooling)) <= self.now;
            let of_pool = |place: &Place| place.block.family() == family && self.ledger.pool_of(place) == pool;
            let clung_to = |place: &Place| {
                let entry = self.ledger.entry(place);
                entry.is_some_and(|entry| self.is_clung_to(&entry.node, &entry.block, entry.grant))
            };
            let places: Vec<_> = self
                .ledger
                .cooling()
                .take_while(|(since, _)| ripe(*since))
                .map(|(_, place)| place)
                .filter(|place| of_pool(place) && !clung_to(place))
                .take(count)
                .collect();
            for place in places {
                self.hasten(&pool, place);
            }
        }
    }

    fn hasten(&mut self, pool: &str, place: Place) {
        let Some(entry) = self.ledger.entry(&place) else { return };
        let (node, since) = (entry.node.clone(), entry.since.0);
        if !self.early.insert((place, entry.grant)) {
            return;
        }
        self.doubts.insert(node.clone());
        if after(since, self.settings.block_cooling) > self.now {
            let message = format!(
                "block {} of deleted node {node} is given out before it has cooled, because pool {pool} has no other: append a CIDR to the pool",
                place.block
            );
            let regarding = Regarding::Pool { name: pool.to_owned() };
            self.publish(Note { regarding, warning: true, reason: reason::COOLING_CUT_SHORT, message });
        }
    }
}

/// Both say something, and the same.
fn is_same_machine(a: &str, b: &str) -> bool {
    !a.is_empty() && a == b
}

pub(crate) fn shortage_reason(shortage: &Shortage) -> &'static str {
    match shortage {
        Shortage::Exhausted { .. } => reason::POOL_EXHAUSTED,
        Shortage::NoPodCidr { .. } | Shortage::NoPodCidrs => reason::WAITING_FOR_POD_CIDR,
        Shortage::Overlaps { .. } => reason::POD_CIDR_OVERLAPS,
        Shortage::Fenced { .. } => reason::POD_CIDR_FENCED,
    }
}
