//! Step 5: choices go into the ledger by compare-and-swap, a page at a time, and count once they are there.

use std::collections::BTreeSet;

use cadastre_api::BlockState;
use cadastre_core::Cidr;

use crate::config::is_marked;
use crate::effect::Action;
use crate::engine::{Engine, Flight, Later};
use crate::event::NodeSeen;
use crate::ledger::{PageId, Place};
use crate::nodes::after;
use crate::page::Change;

/// `IPAMNode`s under way beyond which further commits gain little: they keep an API server on two cores busy.
const AHEAD: usize = 24;
/// A page is held back for this long at most.
const HELD_BACK: std::time::Duration = std::time::Duration::from_millis(500);

impl Engine {
    pub(crate) fn commit(&mut self) {
        for id in std::mem::take(&mut self.ledger.dirty) {
            self.write_page(id);
        }
    }

    fn write_page(&mut self, id: PageId) {
        let page = self.ledger.page(id);
        if page.flight.is_some() || page.reading || page.queue.is_empty() {
            return;
        }
        if let Some(at) = page.not_before.filter(|at| *at > self.now) {
            self.timers.insert((at, Later::Page(id)));
            return;
        }
        if !self.may_commit(id) {
            self.gated.insert(id);
            self.config_due = true;
            return;
        }
        if self.is_ahead(id) {
            return;
        }
        let (settled, object) = self.ledger.page_mut(id).next_write();
        if let Some(object) = object.map(Box::new) {
            let exists = object.metadata.resource_version.is_some();
            self.ledger.page_mut(id).asks(self.turn, self.now);
            self.emit(Flight::Page(id), if exists { Action::ReplacePage(object) } else { Action::CreatePage(object) });
            self.counters.commits += 1;
        }
        self.settle(id, settled);
    }

    /// Whether commits are far enough ahead of the `IPAMNode`s that are being written: what waits then makes a larger batch,
    /// and a page costs the API server by its size, whatever was added. Not for long, lest nodes that cannot be written
    /// keep others waiting.
    fn is_ahead(&mut self, id: PageId) -> bool {
        if self.applying.len() < AHEAD {
            self.held_back.remove(&id);
            return false;
        }
        let until = *self.held_back.entry(id).or_insert(after(self.now, HELD_BACK));
        if until <= self.now {
            self.held_back.remove(&id);
            return false;
        }
        self.timers.insert((until, Later::Page(id)));
        true
    }

    /// An `IPAMNode` was written: pages that were held back may go on.
    pub(crate) fn catch_up(&mut self) {
        if self.applying.len() < AHEAD {
            self.ledger.dirty.extend(self.held_back.keys());
        }
    }

    /// A block is committed only in a CIDR that the config says is in use. What only gives back needs no leave.
    fn may_commit(&mut self, id: PageId) -> bool {
        let page = self.ledger.page(id);
        let gives = page
            .queue
            .iter()
            .all(|change| matches!(change, Change::Cool { .. } | Change::Rest { .. } | Change::Free { .. }));
        // Without a status nothing is known to be inadmissible: what waits is kept.
        let Some(status) = self.config.as_ref().and_then(|config| config.status.clone()) else { return false };
        let Some(admitted) = status.cidrs.iter().find(|admitted| admitted.cidr.contains(&page.key.range)) else {
            self.void_takes(id);
            return true;
        };
        gives || is_marked(&status, &admitted.cidr)
    }

    /// The page's CIDR is no longer admitted: nothing new is taken in it.
    pub(crate) fn void_takes(&mut self, id: PageId) {
        let page = self.ledger.page_mut(id);
        let void =
            page.queue.extract_if(.., |change| matches!(change, Change::Take(_) | Change::Regrant { .. })).collect();
        self.settle(id, crate::page::Settled { void, ..Default::default() });
    }

    /// A change is in the ledger, or never will be.
    pub(crate) fn change_ended(&mut self, change: &Change, done: bool) {
        let (name, grant) = match change {
            Change::Take(entry) | Change::Regrant { entry, .. } => {
                self.counters.assignments += u64::from(done);
                (&entry.node, entry.grant)
            }
            Change::Promote { node, grant, .. } => (node, *grant),
            Change::Cool { .. } | Change::Rest { .. } | Change::Free { .. } | Change::Revive { .. } => return,
        };
        let Some(rec) = self.nodes.get_mut(name) else {
            // Its Node went while this was on its way.
            self.raise_doubt(name);
            return;
        };
        rec.committing.remove(&grant);
        (rec.verified, rec.committed_at) = (false, self.turn);
        self.dirty.insert(name.clone());
    }

    /// Reads the config after the commits it is to vouch for: one read for all that wait.
    pub(crate) fn verify(&mut self) {
        if self.to_verify.is_empty() || self.config_busy || self.config_due {
            return;
        }
        let names = std::mem::take(&mut self.to_verify);
        self.emit(Flight::Verify(names, self.turn), Action::GetConfig);
    }

    /// The config was read at `asked_at`, after these nodes' commits, but for those that committed more since.
    pub(crate) fn verified(&mut self, names: BTreeSet<String>, asked_at: u64) {
        let Some(status) = self.config.as_ref().and_then(|config| config.status.clone()) else {
            // It is to say first what is in use: else it would be read again and again.
            self.config_due = true;
            self.to_verify.extend(names);
            return;
        };
        for name in names {
            let marked = |block: &cadastre_core::Cidr| {
                let admitted = status.cidrs.iter().find(|admitted| admitted.cidr.contains(block));
                admitted.is_none_or(|admitted| is_marked(&status, &admitted.cidr))
            };
            let sound = self.holds(&name).all(|(place, _)| marked(&place.block));
            let Some(rec) = self.nodes.get_mut(&name) else { continue };
            if sound && rec.committed_at <= asked_at {
                rec.verified = true;
                self.dirty.insert(name);
            } else {
                self.to_verify.insert(name);
                self.config_due |= !sound;
            }
        }
    }

    /// Asks for the live word on Nodes that the watch or the ledger doubts.
    pub(crate) fn doubt(&mut self) {
        if self.config.is_none() {
            return;
        }
        // A doubt that arises while the name is being read is read again: that answer may be older than the doubt.
        let (later, now) = std::mem::take(&mut self.doubts).into_iter().partition(|name| self.checking.contains(name));
        self.doubts = later;
        let now: BTreeSet<String> = now;
        for name in now {
            self.checking.insert(name.clone());
            self.emit(Flight::Doubt(name.clone(), self.turn), Action::GetNode { name });
        }
    }

    /// The live word on a Node's name: what its ledger entries and its `IPAMNode` come to.
    pub(crate) fn settle_name(&mut self, name: &str, live: Option<NodeSeen>) {
        let uid = live.as_ref().map(|node| node.uid.clone());
        if !self.doubts.contains(name) {
            self.unsettled.remove(name);
        }
        match live {
            Some(seen) => self.see_node(seen),
            None => self.forget(name),
        }
        let at = self.now;
        let entries: Vec<_> = self.ledger.of_name(name).map(|(place, entry)| (place, entry.clone())).collect();
        for (place, entry) in entries {
            let (block, grant, here) = (entry.block, entry.grant, uid.as_ref() == Some(&entry.uid));
            let early = self.early.remove(&(place, grant));
            let cooled = early || after(entry.since.0, self.settings.block_cooling) <= at;
            let change = match (here, entry.state) {
                // Not what was one too many and shed: that is free once it has cooled.
                (true, BlockState::Cooling) if self.belongs(name, &block, grant) => Change::Revive { block, grant, at },
                (false, BlockState::Pending | BlockState::Held) => Change::Cool { block, grant, at },
                (_, BlockState::Cooling) if cooled && !self.is_clung_to(name, &block, grant) => {
                    Change::Free { block, grant, since: entry.since.0 }
                }
                (_, BlockState::Cooling) if cooled => match self.hand_over(&block, grant) {
                    Some(change) => change,
                    None => continue,
                },
                _ => continue,
            };
            self.ledger.queue(place.page, change);
        }
        self.dirty.insert(name.to_owned());
        let Some(published) = self.published.get(name) else { return };
        if uid.as_ref() != Some(&published.spec.node_uid) {
            self.delete_ipam_node(name, published.uid.clone());
        }
    }

    /// What the agent promised away need not cool: its addresses have, on the node.
    pub(crate) fn release_promised(&mut self, place: Place, grant: uuid::Uuid) {
        let Some(node) = self.ledger.entry(&place).map(|entry| entry.node.clone()) else { return };
        if self.published.get(&node).is_some_and(|published| published.promised(&place.block, grant)) {
            self.early.insert((place, grant));
            self.doubts.insert(node);
        }
    }

    /// Whether a block that cools is to be its node's again, since the node turned out to be there: it may be using it, or
    /// has no other of this family. Never what its agent promised away.
    fn belongs(&self, name: &str, block: &Cidr, grant: uuid::Uuid) -> bool {
        let published = self.published.get(name);
        let lacks = || !self.holds(name).any(|(place, _)| place.block.family() == block.family());
        let promised = || published.is_some_and(|node| node.promised(block, grant));
        published.is_some_and(|node| node.may_use(block, grant)) || (!self.claims.any(block) && lacks() && !promised())
    }

    /// A cooled block that is not to be freed all the same: some node claims it, or the `IPAMNode` of this name, of whatever
    /// Node it is, still has it.
    pub(crate) fn is_clung_to(&self, name: &str, block: &Cidr, grant: uuid::Uuid) -> bool {
        self.claims.any(block) || self.published.get(name).is_some_and(|node| node.may_use(block, grant))
    }

    pub(crate) fn delete_ipam_node(&mut self, name: &str, uid: String) {
        if self.published.get(name).is_some_and(|node| node.uid == uid && node.held_by.is_some()) {
            // It was told to go, and goes when its finalizers do.
            return;
        }
        if self.applying.insert(name.to_owned()) {
            let action = Action::DeleteIpamNode { name: name.to_owned(), uid: uid.clone() };
            self.emit(Flight::Apply(name.to_owned(), Some(uid)), action);
        }
    }
}
