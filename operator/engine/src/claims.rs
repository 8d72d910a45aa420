//! Who may be using which block, whatever the ledger says: what each `IPAMNode` lists, and what its agent reports.
//!
//! ```text
//! claim ─┬─ the node's own in the ledger, and nobody else claims it ─▶ regular
//!        └─ else: its page is read again, then the IPAMNode, then the page once more ─┬─ regular by now
//!                                            (nothing is decided for the node)        ├─ nobody else's ─▶ recorded
//!                                                                                     └─ contested
//! ```
//!
//! A restored backup or a foreign hand makes claims that the ledger does not know. In a contested block nobody allocates
//! any more: each node that claims it keeps it as `retiring`, with its pods, and gets another. It is settled when all
//! but one have promised it away; what claims it last has it recorded, and gives it back like any surplus block.

use std::collections::{BTreeMap, BTreeSet};

use cadastre_api::{AllocatedBlock, BlockEntry, BlockState, DEFAULT_POOL, Mode, condition_type, reason};
use cadastre_core::{Cidr, CidrMap};
use uuid::Uuid;

use crate::effect::{Note, Regarding};
use crate::engine::{Engine, Stage};
use crate::ledger::{PageId, Place};
use crate::page::{Change, PageKey};
use crate::record::some_names;

/// What nodes that exist claim.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    of: BTreeMap<String, BTreeSet<Cidr>>,
    by_cidr: CidrMap<String>,
}

impl Claims {
    /// Records what a node claims, in place of what it claimed. Returns the CIDRs that it claims newly or no longer.
    pub fn set(&mut self, name: &str, cidrs: BTreeSet<Cidr>) -> Vec<Cidr> {
        let before = self.of.get(name).cloned().unwrap_or_default();
        let moved: Vec<_> = before.symmetric_difference(&cidrs).copied().collect();
        for cidr in &moved {
            if before.contains(cidr) {
                self.by_cidr.remove(cidr, &name.to_owned());
            } else {
                self.by_cidr.insert(*cidr, name.to_owned());
            }
        }
        if cidrs.is_empty() {
            self.of.remove(name);
        } else if !moved.is_empty() {
            self.of.insert(name.to_owned(), cidrs);
        }
        moved
    }

    /// Other nodes that claim a part of `cidr`.
    pub fn others(&self, name: &str, cidr: &Cidr) -> BTreeSet<String> {
        self.by_cidr.overlapping(cidr).map(|(_, other)| other).filter(|other| *other != name).cloned().collect()
    }

    /// Whether any node claims a part of `cidr`.
    pub fn any(&self, cidr: &Cidr) -> bool {
        self.by_cidr.overlapping(cidr).next().is_some()
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &Cidr> {
        self.of.get(name).into_iter().flatten()
    }
}

/// Own blocks and claims that are not as they should be, each with the other nodes that have a part in it.
pub(crate) type Contested = BTreeMap<Cidr, BTreeSet<String>>;

impl Engine {
    /// What the `IPAMNode` of this very Node says it may use, and what its agent says it holds, but for what the agent
    /// promised away. An agent's word is worth a block of a pool, or a part of one: no agent was ever given more, and what is
    /// said of other addresses is nobody's to say.
    pub(crate) fn claims_of(&self, name: &str) -> Vec<AllocatedBlock> {
        let Some(published) = self.published_of(name) else { return Vec::new() };
        let held = published.held.iter().flatten().filter(|held| self.may_be_held(&held.cidr));
        let held = held.map(|held| AllocatedBlock {
            pool: DEFAULT_POOL.to_owned(),
            family: held.cidr.family(),
            cidr: held.cidr,
            grant: held.grant,
            retiring: false,
        });
        let claims = held.chain(published.spec.ipam.allocated.iter().cloned());
        let claims = claims.filter(|claim| !published.promised(&claim.cidr, claim.grant));
        let by_block: BTreeMap<(Cidr, Uuid), _> = claims.map(|claim| ((claim.cidr, claim.grant), claim)).collect();
        by_block.into_values().collect()
    }

    /// Before the pools are known, anything may.
    fn may_be_held(&self, cidr: &Cidr) -> bool {
        matches!(self.stage, Stage::Starting)
            || self.find_block(cidr).is_some_and(|(.., mask)| cidr.prefix_len() >= mask)
    }

    /// Takes note of what a node claims: nothing, if it is gone. What the ledger does not know of is kept from others at
    /// once.
    pub(crate) fn note_claims(&mut self, name: &str) {
        let cidrs = self.claims_of(name).into_iter().map(|claim| claim.cidr).collect();
        for cidr in self.claims.set(name, cidrs) {
            self.keep_or_free(&cidr);
            self.dirty.extend(self.claims.others(name, &cidr));
        }
    }

    /// CIDRs were admitted: what is claimed of them is kept from others.
    pub(crate) fn keep_claimed(&mut self) {
        let names = self.nodes.keys().filter(|_| self.mode() != Some(Mode::Kubernetes));
        for name in names.cloned().collect::<Vec<_>>() {
            self.note_claims(&name);
            let claimed: Vec<_> = self.claims.of(&name).copied().collect();
            for cidr in claimed {
                self.keep_or_free(&cidr);
                self.dirty.insert(name.clone());
            }
        }
    }

    /// The Node is gone, and still known. What it claimed and the ledger does not have as its own cools from now on,
    /// for its pods too.
    pub(crate) fn rest_claims(&mut self, name: &str) {
        let Some(uid) = self.nodes.get(name).map(|rec| rec.seen.uid.clone()) else { return };
        let at = self.now;
        for claim in self.claims_of(name) {
            let Some(place) = self.place_of(&claim.cidr) else { continue };
            let known = self.ledger.entry(&place).map(|entry| (entry.uid == uid, entry.grant, entry.state));
            let page = self.ledger.page(place.page);
            let (taken, freed) = (page.taking(&place.block).is_some(), page.is_freeing(&place.block));
            let cools = self.entry(name, claim.cidr, claim.grant, BlockState::Cooling).map(Change::Take);
            let rests = |grant| Some(Change::Rest { block: claim.cidr, grant, at });
            let changes = match known {
                None if !taken => [None, cools],
                // Whether it is freed before, nobody knows yet: one of the two will fit.
                Some((false, grant, BlockState::Cooling)) if freed => [rests(grant), cools],
                Some((false, grant, BlockState::Cooling)) => [rests(grant), None],
                _ => continue,
            };
            for change in changes.into_iter().flatten() {
                self.ledger.queue(place.page, change);
            }
        }
    }

    /// Makes the occupancy say of a claimed block what is so. What is claimed in another size than a block's is fenced,
    /// until the operator starts anew.
    fn keep_or_free(&mut self, cidr: &Cidr) {
        match self.place_of(cidr) {
            Some(place) => self.sync(place.page, &[*cidr]),
            None if self.claims.any(cidr) && self.is_pooled(cidr) => self.fence([*cidr]),
            None => {}
        }
    }

    /// Whether a node's claims and blocks are understood: what is not is looked up, and then recorded or contested.
    pub(crate) fn examine(&mut self, name: &str) -> bool {
        let found = self.irregular(name);
        let Some(rec) = self.nodes.get(name) else { return false };
        if found == rec.contested {
            return true;
        }
        if !found.is_empty() && !self.is_proven(name, &found) {
            return false;
        }
        let contested = found.into_iter().filter(|(cidr, others)| !others.is_empty() || !self.adopt(name, cidr));
        let contested = contested.collect();
        self.announce_contest(name, &contested);
        if let Some(rec) = self.nodes.get_mut(name) {
            rec.contested = contested;
        }
        true
    }

    /// Claims that the ledger does not know as this node's, and blocks of this node that others claim.
    fn irregular(&self, name: &str) -> Contested {
        let Some(rec) = self.nodes.get(name) else { return Contested::new() };
        let uid = rec.seen.uid.as_str();
        let own = |cidr: &Cidr, grant: Uuid| {
            self.ledger.of(name, uid).any(|(place, entry)| {
                place.block == *cidr && (entry.state != BlockState::Cooling || entry.grant == grant)
            })
        };
        let claims = self.claims_of(name).into_iter().map(|claim| (claim.cidr, own(&claim.cidr, claim.grant)));
        let held = self.ledger.of(name, uid).filter(|(_, entry)| entry.state != BlockState::Cooling);
        let all: BTreeMap<_, _> = claims.chain(held.map(|(place, _)| (place.block, true))).collect();
        let with_others = all.into_iter().map(|(cidr, own)| (cidr, own, self.parties(name, &cidr, own)));
        with_others
            .filter(|(_, own, others)| !own || !others.is_empty())
            .map(|(cidr, _, others)| (cidr, others))
            .collect()
    }

    /// Other nodes that claim a part of `cidr`, or that the ledger says have one.
    fn parties(&self, name: &str, cidr: &Cidr, own: bool) -> BTreeSet<String> {
        let mut parties = self.claims.others(name, cidr);
        if !own {
            let last_life = |entry: &&BlockEntry| entry.node != name || entry.state != BlockState::Cooling;
            parties.extend(self.ledger.overlapping(cidr).filter(last_life).map(|entry| entry.node.clone()));
            parties.remove(name);
        }
        parties
    }

    /// Whether what is irregular was seen in pages read after live `IPAMNode`s. If not, what lacks is read, and the node is
    /// looked at again.
    fn is_proven(&mut self, name: &str, found: &Contested) -> bool {
        let parties: BTreeSet<_> =
            found.values().flatten().map(String::as_str).chain([name]).map(str::to_owned).collect();
        let seen_at = parties.iter().filter_map(|party| self.published.get(party)).map(|node| node.seen_at).max();
        let places: Vec<_> = found.keys().filter_map(|cidr| self.place_of(cidr)).collect();
        let stale: Vec<PageId> = places
            .iter()
            .map(|place| place.page)
            .filter(|page| Some(self.ledger.page(*page).asked_at) <= seen_at)
            .collect();
        if self.waits_for(name, &stale) {
            return false;
        }
        let old = |party: &&String| self.published.get(*party).is_some_and(|node| !node.live);
        let old: Vec<_> = parties.iter().filter(old).cloned().collect();
        for party in &old {
            self.witnesses.entry(party.clone()).or_default().insert(name.to_owned());
            if !self.applying.contains(party) {
                self.read_ipam_node(party.clone());
            }
        }
        old.is_empty()
    }

    /// Records a claim that nobody contests. `false` if it is for no page to record: its block is in no pool.
    fn adopt(&mut self, name: &str, cidr: &Cidr) -> bool {
        let Some(claim) = self.claims_of(name).into_iter().find(|claim| claim.cidr == *cidr) else { return false };
        let Some(place) = self.place_of(cidr) else { return false };
        let Some(entry) = self.entry(name, *cidr, claim.grant, BlockState::Held) else { return false };
        let old = self.ledger.entry(&place).map(|old| (old.grant, old.state));
        if old.is_some_and(|(_, state)| state != BlockState::Cooling) {
            // Of an earlier Node of this name, which only a live read can tell is gone.
            self.raise_doubt(name);
            return true;
        }
        let old = old.map(|(grant, _)| grant);
        let change = old.map_or(Change::Take(entry.clone()), |old| Change::Regrant { old, entry });
        self.queue_for(name, claim.grant, place, change);
        true
    }

    /// A cooled block that one node alone goes on claiming becomes that node's, in place of being free.
    pub(crate) fn hand_over(&self, block: &Cidr, old: Uuid) -> Option<Change> {
        let claimants: Vec<_> = self.claims.others("", block).into_iter().collect();
        let [claimant] = claimants.as_slice() else { return None };
        if !self.nodes.get(claimant)?.contested.contains_key(block) {
            return None;
        }
        let claim = self.claims_of(claimant).into_iter().find(|claim| claim.cidr == *block)?;
        let entry = self.entry(claimant, *block, claim.grant, BlockState::Held)?;
        Some(Change::Regrant { old, entry })
    }

    /// What a node keeps of contested blocks, and of blocks that no pool has: its pods, and no new ones.
    pub(crate) fn contested_of(&self, name: &str) -> Vec<AllocatedBlock> {
        let Some(rec) = self.nodes.get(name).filter(|rec| !rec.contested.is_empty()) else { return Vec::new() };
        let claims = self.claims_of(name).into_iter().filter(|claim| rec.contested.contains_key(&claim.cidr));
        let mut kept: Vec<_> = claims.map(|claim| AllocatedBlock { retiring: true, ..claim }).collect();
        kept.dedup_by_key(|block| block.cidr);
        kept
    }

    /// Where a block's entry is or would be, in whichever pool has it.
    pub(crate) fn place_of(&mut self, block: &Cidr) -> Option<Place> {
        let (pool, cidr, mask) = self.find_block(block)?;
        let page = self.ledger.page_id(PageKey::of(&pool, &cidr, mask, block)?);
        Some(Place { page, block: *block })
    }

    /// Says what is contested newly.
    fn announce_contest(&mut self, name: &str, contested: &Contested) {
        let Some(rec) = self.nodes.get(name) else { return };
        if contested.keys().all(|cidr| rec.contested.contains_key(cidr)) {
            return;
        }
        let regarding = Regarding::Node { name: name.to_owned(), uid: rec.seen.uid.clone() };
        let Some(message) = contest_message(contested) else { return };
        if !self.says_already(name, condition_type::DISPUTED, "True", &message) {
            self.publish(Note { regarding, warning: true, reason: reason::BLOCK_DISPUTED, message });
        }
    }
}

/// Whether another node has a part in any of it.
pub(crate) fn is_disputed(contested: &Contested) -> bool {
    contested.values().any(|others| !others.is_empty())
}

/// For condition and Event; `None` if no other node has a part in it.
pub(crate) fn contest_message(contested: &Contested) -> Option<String> {
    let disputed: Vec<_> = contested
        .iter()
        .filter(|(_, others)| !others.is_empty())
        .map(|(cidr, others)| format!("{cidr} is claimed by {} too", some_names(others.iter().map(String::as_str))))
        .collect();
    let what = disputed.join(", ");
    (!disputed.is_empty()).then(|| {
        format!(
            "block {what}: nothing is allocated in it any more, and each node gets another; \
             it is settled once the pods with addresses in it are gone from all of these nodes but one"
        )
    })
}
