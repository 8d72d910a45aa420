//! What came of each effect. A lost reply is never taken for a failure: what was to be written is read first.

use cadastre_api::{IPAMLedger, Mode, reason};

use crate::effect::{EffectId, Note, Regarding};
use crate::engine::{Drain, Engine, Flight, Later};
use crate::event::{Answer, Outcome};
use crate::ledger::PageId;
use crate::nodes::{after, backoff};

/// A page is read again after this long: as long as a block cools, so that a block is never lost for longer.
const AUDIT: std::time::Duration = std::time::Duration::from_mins(5);

/// A page's next write waits this long at most if nobody knows what came of the last: nodes wait for it, and an API server
/// that is well again is to be noticed soon. What was refused is refused until somebody mends it.
const PAGE_AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// The ledger could not be read to clear flags: nobody waits for that.
const DRAIN_AGAIN: std::time::Duration = std::time::Duration::from_secs(30);

impl Engine {
    pub(crate) fn conclude(&mut self, id: EffectId, outcome: Outcome) {
        let Some(flight) = self.flights.remove(&id) else { return };
        match flight {
            Flight::Page(page) => self.page_written(page, outcome),
            Flight::ReadPage(page) => self.page_read(page, outcome),
            Flight::Config => self.config_written(outcome),
            Flight::ReadConfig => self.config_read(outcome),
            Flight::Verify(names, asked_at) => match outcome {
                Outcome::Done(Answer::Config(config)) => {
                    self.see_config(Some(*config));
                    self.verified(names, asked_at);
                }
                Outcome::NotFound => {
                    self.see_config(None);
                    self.to_verify.extend(names);
                }
                _ => self.later_all(names, Later::Verify),
            },
            Flight::Drain(round) => self.drain_listed(round, outcome),
            Flight::Apply(name, uid) => self.applied(name, uid.as_deref(), outcome),
            Flight::ReadIpamNode(name, asked_at) => self.ipam_node_read(name, asked_at, outcome),
            Flight::Doubt(name, asked_at) => self.node_read(name, asked_at, outcome),
            Flight::Open(name, uid) => self.opened(&name, &uid, outcome),
            Flight::Pool(name) => self.pool_written(&name, &outcome),
            Flight::PoolStatus(name) => self.pool_reported(&name, &outcome),
            Flight::Unanswered => {}
        }
    }

    fn later_all(&mut self, names: std::collections::BTreeSet<String>, timer: impl Fn(String) -> Later) {
        let at = backoff(self.now, 2);
        self.timers.extend(names.into_iter().map(|name| (at, timer(name))));
    }

    fn fail(&mut self, key: &str, later: Later) {
        let failures = self.failures.entry(key.to_owned()).or_default();
        *failures += 1;
        self.timers.insert((backoff(self.now, *failures), later));
    }

    fn page_written(&mut self, id: PageId, outcome: Outcome) {
        match outcome {
            Outcome::Done(Answer::Page(page)) => {
                let settled = self.ledger.page_mut(id).written(*page);
                self.settle(id, settled);
                self.page_known(id);
                return;
            }
            Outcome::Conflict => self.counters.conflicts += 1,
            failed => self.hold_page(id, &failed),
        }
        self.ledger.page_mut(id).lost();
        self.read_page(id);
    }

    fn hold_page(&mut self, id: PageId, failed: &Outcome) {
        let now = self.now;
        let page = self.ledger.page_mut(id);
        page.failures += 1;
        let next = backoff(now, page.failures);
        let unknown = matches!(failed, Outcome::Uncertain(_));
        page.not_before = Some(if unknown { next.min(after(now, PAGE_AGAIN)) } else { next });
        if let Some(why) = failed.why() {
            page.trouble = Some(why.to_owned());
        }
    }

    /// Reads a page again, unless what is under way will tell as much.
    pub(crate) fn refresh_page(&mut self, id: PageId) {
        let page = self.ledger.page_mut(id);
        if page.flight.is_none() && !page.reading {
            page.reading = true;
            self.read_page(id);
        }
    }

    /// Reads these pages again, and then looks at the node again. Whether there are any.
    pub(crate) fn waits_for(&mut self, name: &str, pages: &[PageId]) -> bool {
        for page in pages {
            self.awaiting.entry(*page).or_default().insert(name.to_owned());
            self.refresh_page(*page);
        }
        !pages.is_empty()
    }

    fn page_known(&mut self, id: PageId) {
        let page = self.ledger.page_mut(id);
        page.answered();
        self.ledger.dirty.insert(id);
        self.dirty.extend(self.awaiting.remove(&id).unwrap_or_default());
    }

    fn read_page(&mut self, id: PageId) {
        self.ledger.page_mut(id).asks(self.turn, self.now);
        let name = self.ledger.page(id).key.name();
        self.emit(Flight::ReadPage(id), crate::Action::GetPage { name });
    }

    fn page_read(&mut self, id: PageId, outcome: Outcome) {
        let found: Option<IPAMLedger> = match outcome {
            Outcome::Done(Answer::Page(page)) => Some(*page),
            Outcome::NotFound => None,
            failed => {
                if let Outcome::Unreadable(why) = &failed {
                    self.shun_page(id, why);
                }
                self.hold_page(id, &failed);
                let at = self.ledger.page(id).not_before.unwrap_or(self.now);
                self.timers.insert((at, Later::Reread(id)));
                return;
            }
        };
        let page = self.ledger.page_mut(id);
        let mended = std::mem::take(&mut page.unreadable);
        // One request for a page at a time: its answer is older than what is known only if the store is.
        self.went_back |= found.as_ref().is_some_and(|found| page.is_newer_than(found));
        let settled = page.read(found);
        self.expect_again(id);
        self.settle(id, settled);
        if mended {
            let blocks = self.ledger.page(id).blocks();
            self.sync(id, &blocks);
            self.space_grew = true;
        }
        self.page_known(id);
    }

    /// Somebody spoiled this page: what was to be taken in it is taken elsewhere, until it is mended.
    fn shun_page(&mut self, id: PageId, why: &str) {
        let page = self.ledger.page_mut(id);
        if std::mem::replace(&mut page.unreadable, true) {
            return;
        }
        let (blocks, pool) = (page.blocks(), page.key.pool.clone());
        self.sync(id, &blocks);
        self.void_takes(id);
        let message =
            format!("{why}. Nodes keep their blocks of it, and nothing new is assigned in it until it is mended");
        let regarding = Regarding::Pool { name: pool };
        self.publish(Note { regarding, warning: true, reason: reason::LEDGER_UNREADABLE, message });
    }

    /// Entries that vanished with their page are on their way back: their nodes need no others.
    fn expect_again(&mut self, id: PageId) {
        for change in &self.ledger.page(id).queue {
            let crate::page::Change::Take(entry) = change else { continue };
            if let Some(rec) = self.nodes.get_mut(&entry.node).filter(|rec| rec.seen.uid == entry.uid) {
                rec.committing.insert(entry.grant);
            }
        }
    }

    fn config_written(&mut self, outcome: Outcome) {
        self.config_busy = false;
        match outcome {
            Outcome::Done(Answer::Config(config)) => {
                self.failures.remove("config");
                self.see_config(Some(*config));
                self.drained();
            }
            Outcome::Conflict | Outcome::NotFound | Outcome::Uncertain(_) => self.read_config(),
            _ => self.fail("config", Later::Config),
        }
    }

    fn config_read(&mut self, outcome: Outcome) {
        self.config_busy = false;
        match outcome {
            Outcome::Done(Answer::Config(config)) => {
                self.see_config(Some(*config));
                // What was to be written may not have been: an equal status writes nothing.
                self.config_due = true;
            }
            Outcome::NotFound => self.see_config(None),
            _ => self.fail("config", Later::Config),
        }
    }

    /// The ledger was read while the config said `draining`: what is unused now can be cleared.
    fn drain_listed(&mut self, round: u32, outcome: Outcome) {
        if self.drain != Drain::Listing || self.drain_round != round {
            return;
        }
        let Outcome::Done(Answer::Pages(pages)) = outcome else {
            self.drain = Drain::Idle;
            self.drain_after = after(self.now, DRAIN_AGAIN);
            return;
        };
        for page in pages {
            let loaded = match &mut self.stage {
                crate::engine::Stage::Live { occupancy } => self.ledger.load(page, occupancy, &self.claims),
                _ => return,
            };
            if let Some((settled, id)) = loaded {
                self.settle(id, settled);
            }
        }
        self.drain = Drain::Clearing;
        self.config_due = true;
    }

    fn applied(&mut self, name: String, uid: Option<&str>, outcome: Outcome) {
        self.applying.remove(&name);
        self.catch_up();
        self.dirty.extend(self.witnesses.remove(&name).unwrap_or_default());
        let gone = self.gone.remove(&name);
        match outcome {
            Outcome::Done(Answer::IpamNode(node)) => {
                self.failures.remove(&name);
                if !gone.is_some_and(|gone| gone.includes(&node)) {
                    self.see_ipam_node(*node, true);
                }
                self.wrote(name);
            }
            Outcome::Done(_) | Outcome::NotFound => {
                self.failures.remove(&name);
                // Only that object: another of the same name may have come since.
                self.lose_ipam_node(&name, uid.unwrap_or_default());
                self.wrote(name);
            }
            Outcome::Conflict => {
                self.counters.conflicts += 1;
                self.read_ipam_node(name);
            }
            Outcome::Uncertain(_) => self.read_ipam_node(name),
            _ if self.nodes.contains_key(&name) => self.fail(&name.clone(), Later::Node(name)),
            Outcome::Refused(_) | Outcome::Unreadable(_) => self.fail(&name.clone(), Later::IpamNode(name)),
        }
    }

    /// What came by the watch while a write was under way may be newer, and waited for it.
    fn wrote(&mut self, name: String) {
        if self.published.contains_key(&name) && !self.nodes.contains_key(&name) {
            self.raise_doubt(&name);
        }
        self.dirty.insert(name);
    }

    pub(crate) fn read_ipam_node(&mut self, name: String) {
        self.applying.insert(name.clone());
        self.emit(Flight::ReadIpamNode(name.clone(), self.turn), crate::Action::GetIpamNode { name });
    }

    fn ipam_node_read(&mut self, name: String, asked_at: u64, outcome: Outcome) {
        match outcome {
            Outcome::Uncertain(_) | Outcome::Refused(_) | Outcome::Unreadable(_) | Outcome::Conflict => {
                self.fail(&name.clone(), Later::IpamNode(name));
            }
            outcome => {
                let gone = matches!(outcome, Outcome::NotFound);
                if gone && self.published.get(&name).is_some_and(|known| known.seen_at <= asked_at) {
                    self.published.remove(&name);
                }
                self.applied(name, None, outcome);
            }
        }
    }

    fn node_read(&mut self, name: String, asked_at: u64, outcome: Outcome) {
        self.checking.remove(&name);
        if self.nodes.get(&name).is_some_and(|rec| rec.seen_at > asked_at) {
            // The Node came after that was asked: the answer may be of the time before.
            self.raise_doubt(&name);
            return;
        }
        match outcome {
            Outcome::Done(Answer::Node(node)) => self.settle_name(&name, Some(node)),
            Outcome::NotFound => self.settle_name(&name, None),
            _ => {
                self.fail(&node_key(&name), Later::Doubt(name));
                return;
            }
        }
        self.failures.remove(&node_key(&name));
    }

    fn pool_written(&mut self, name: &str, outcome: &Outcome) {
        if let Some(rec) = self.pools.get_mut(name) {
            rec.busy = false;
            rec.ended(outcome, self.now);
            // Anything but success is looked at again later, by what the watch then says.
            if let Outcome::NotFound = outcome {
                rec.object = None;
            }
        }
    }

    /// A status that was not written is written later.
    fn pool_reported(&mut self, name: &str, outcome: &Outcome) {
        let Some(rec) = self.pools.get_mut(name) else { return };
        rec.ended(outcome, self.now);
        if !matches!(outcome, Outcome::Done(_)) {
            rec.status = None;
        }
    }

    /// What was put off and is due.
    pub(crate) fn wake(&mut self) {
        while let Some((at, _)) = self.timers.first() {
            if *at > self.now {
                return;
            }
            let Some((_, later)) = self.timers.pop_first() else { return };
            match later {
                Later::Node(name) => drop(self.dirty.insert(name)),
                Later::Doubt(name) => drop(self.doubts.insert(name)),
                Later::IpamNode(name) => self.read_ipam_node(name),
                Later::Verify(name) => drop(self.to_verify.insert(name)),
                Later::Config => self.read_config(),
                Later::Reread(id) => self.read_page(id),
                Later::Page(id) => drop(self.ledger.dirty.insert(id)),
            }
        }
    }

    /// The ledger is not watched, so a page that nothing was written to is read again now and then: a write that was
    /// delayed past its sender's death, or somebody's edit, is noticed all the same.
    fn audit(&mut self) {
        for id in self.ledger.ids() {
            let page = self.ledger.page(id);
            if page.resource_version.is_some() && crate::nodes::after(page.known_at, AUDIT) <= self.now {
                self.refresh_page(id);
            }
        }
    }

    /// Time went by: cooled blocks are free, unused flags are cleared, pools are reported.
    pub(crate) fn tick(&mut self) {
        if !self.is_live() {
            return;
        }
        if self.mode() != Some(Mode::Kubernetes) {
            let cooled: Vec<_> = self
                .ledger
                .cooling()
                .take_while(|(since, _)| crate::nodes::after(*since, self.settings.block_cooling) <= self.now)
                .filter_map(|(_, place)| self.ledger.entry(&place))
                .filter(|entry| {
                    !self.is_clung_to(&entry.node, &entry.block, entry.grant)
                        || self.hand_over(&entry.block, entry.grant).is_some()
                })
                .map(|entry| entry.node.clone())
                // One that could not be asked for is asked for again when its time has come.
                .filter(|name| !self.failures.contains_key(&node_key(name)))
                .collect();
            self.doubts.extend(cooled);
            self.relieve();
        }
        self.audit();
        self.begin_drain();
        self.report_pools();
    }
}

/// Under which failures of reading a Node are counted.
fn node_key(name: &str) -> String {
    format!("node {name}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::page::PageKey;
    use crate::settings::EngineSettings;

    #[test]
    fn a_page_waits_longer_after_a_refusal_than_after_a_write_that_nobody_knows_of() {
        let mut engine = Engine::new(EngineSettings::bare(), [0; 32]);
        let key = PageKey::of("default", &"10.0.0.0/8".parse().unwrap(), 24, &"10.0.0.0/24".parse().unwrap());
        let id = engine.ledger.page_id(key.unwrap());
        let mut wait = |failed: fn(String) -> Outcome| {
            engine.hold_page(id, &failed(String::new()));
            let at = engine.ledger.page(id).not_before.unwrap();
            Duration::try_from(at.duration_since(engine.now)).unwrap()
        };
        let first = [(); 3].map(|()| wait(Outcome::Uncertain).as_millis());
        assert_eq!(first, [400, 800, 1600]);
        for _ in 0..10 {
            wait(Outcome::Uncertain);
        }
        assert_eq!(wait(Outcome::Uncertain), Duration::from_secs(5));
        assert_eq!(wait(Outcome::Refused), Duration::from_secs(30));
    }
}
