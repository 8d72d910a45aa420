//! The engine's state, and the order of its steps.
//!
//! `handle` folds one event into what is known (observe.rs, outcome.rs), then lets each step look at what became due:
//! each works on its own set of dirty things, so an event costs what it changes and not what there is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use cadastre_api::{DEFAULT_POOL, IPAMConfig, IPPoolStatus, Mode};
use cadastre_core::{AddrRange, Cidr, Family};
use cadastre_modes::{ClusterPool, Fences, Kubernetes, Loading, Occupancy, Planner, PodCidrIndex, PoolKey, Sealed};
use k8s_openapi::jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use crate::claims::Claims;
use crate::config::Refusal;
use crate::effect::{Action, Effect, EffectId, Note};
use crate::event::{Event, Outcome};
use crate::ledger::{Ledger, PageId, Place};
use crate::nodes::{Gone, NodeRec, Published, backoff};
use crate::page::Settled;
use crate::settings::EngineSettings;

/// How far the engine is.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Nothing was read yet.
    Starting,
    /// Agents are to say what they hold before anything is assigned. What they said before the start is taken for what
    /// holds once `trusting` has come: until then it may be as old as the backup.
    Recovering { occupancy: Occupancy<Loading>, trusting: Timestamp, until: Timestamp },
    /// Assigning.
    Live { occupancy: Occupancy<Sealed> },
}

/// What an effect under way is for.
#[derive(Clone, Debug)]
pub(crate) enum Flight {
    Page(PageId),
    ReadPage(PageId),
    Config,
    ReadConfig,
    /// The config for these nodes, asked for at this turn.
    Verify(BTreeSet<String>, u64),
    Drain(u32),
    /// A write to the `IPAMNode` of this name, and the UID it was for.
    Apply(String, Option<String>),
    /// The `IPAMNode` of this name, asked for at this turn.
    ReadIpamNode(String, u64),
    /// The Node of this name, asked for at this turn.
    Doubt(String, u64),
    /// A write to this very Node.
    Open(String, String),
    Pool(String),
    PoolStatus(String),
    Unanswered,
}

/// Where the clearing of in-use flags is (record.rs): announced, the ledger read again, then cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Drain {
    #[default]
    Idle,
    Announcing,
    Listing,
    Clearing,
}

/// One `IPPool` as seen, and what was last written of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct PoolRec {
    pub object: Option<cadastre_api::IPPool>,
    pub status: Option<IPPoolStatus>,
    pub busy: bool,
    /// Writes in a row that failed.
    failures: u32,
    /// Nothing is written before.
    pub not_before: Timestamp,
}

impl PoolRec {
    /// A write came to its end.
    pub fn ended(&mut self, outcome: &Outcome, now: Timestamp) {
        let done = matches!(outcome, Outcome::Done(_));
        self.failures = if done { 0 } else { self.failures + 1 };
        self.not_before = if done { now } else { backoff(now, self.failures) };
    }
}

/// Numbers for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks committed.
    pub assignments: u64,
    /// Writes that somebody else's overtook.
    pub conflicts: u64,
    /// Ledger writes.
    pub commits: u64,
}

/// The operator's decisions.
// Four of its flags are about one object, the config; a struct of bools would say no more.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug)]
pub struct Engine {
    pub(crate) settings: EngineSettings,
    pub(crate) now: Timestamp,
    pub(crate) stage: Stage,
    pub(crate) planner: Option<Planner>,

    pub(crate) config: Option<IPAMConfig>,
    pub(crate) evidence: Option<Mode>,
    pub(crate) config_due: bool,
    pub(crate) config_busy: bool,
    /// The config records the pools as they are to be: before that, a pool only looks exhausted.
    pub(crate) config_settled: bool,
    /// What was said to be refused; `None` until something was.
    pub(crate) announced: Option<Vec<Refusal>>,
    /// What is being said.
    pub(crate) announcing: Option<Vec<Refusal>>,
    pub(crate) drain: Drain,
    /// Which drain a list of the ledger belongs to.
    pub(crate) drain_round: u32,
    /// After one that failed, none begins before.
    pub(crate) drain_after: Timestamp,

    pub(crate) ledger: Ledger,
    pub(crate) gated: BTreeSet<PageId>,
    /// Pages whose next write waits until fewer `IPAMNode`s are under way, and until when at most.
    pub(crate) held_back: BTreeMap<PageId, Timestamp>,
    /// Nodes to look at once a page was read again.
    pub(crate) awaiting: BTreeMap<PageId, BTreeSet<String>>,
    pub(crate) nodes: BTreeMap<String, NodeRec>,
    pub(crate) published: BTreeMap<String, Published>,
    pub(crate) index: PodCidrIndex,
    /// What podCIDRs may not overlap, as it is now.
    pub(crate) mirror_fences: Fences,
    /// What pools were told never to assign: for good, as long as this engine lives.
    pub(crate) fences: BTreeSet<Cidr>,
    /// What people reserved: likewise.
    pub(crate) reserved: BTreeSet<AddrRange>,
    /// Blocks that fences touch, by pool and family; `None` until counted.
    pub(crate) fenced: Option<BTreeMap<PoolKey, u128>>,
    pub(crate) claims: Claims,
    /// Nodes to look at once an `IPAMNode` was read live.
    pub(crate) witnesses: BTreeMap<String, BTreeSet<String>>,
    pub(crate) pools: BTreeMap<String, PoolRec>,

    /// Nodes to look at.
    pub(crate) dirty: BTreeSet<String>,
    /// Nodes to plan for, the oldest first.
    pub(crate) to_plan: BTreeSet<(i64, String)>,
    /// Nodes that a plan left without.
    pub(crate) stuck: BTreeSet<(i64, String)>,
    pub(crate) space_grew: bool,
    pub(crate) to_verify: BTreeSet<String>,
    pub(crate) applying: BTreeSet<String>,
    /// `IPAMNode`s that went while a request for them was under way: its answer may be older.
    pub(crate) gone: BTreeMap<String, Gone>,
    /// Names that the watch and the ledger disagree on, to be read live.
    pub(crate) doubts: BTreeSet<String>,
    /// Names that were doubted and not settled yet: nothing is written for them.
    pub(crate) unsettled: BTreeSet<String>,
    pub(crate) checking: BTreeSet<String>,
    /// Cooling blocks to be given early, since nothing else is free.
    pub(crate) early: BTreeSet<(Place, Uuid)>,
    /// Things to look at again later.
    pub(crate) timers: BTreeSet<(Timestamp, Later)>,
    pub(crate) failures: HashMap<String, u32>,

    pub(crate) flights: HashMap<EffectId, Flight>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) counters: Counters,
    pub(crate) went_back: bool,
    /// Events handled so far.
    pub(crate) turn: u64,
    /// Hashes of Events, and when they were published.
    said: HashMap<u64, Timestamp>,
    /// Of nodes that got their blocks, until somebody takes them.
    pub(crate) latencies: Vec<Duration>,
    next_id: u64,
    rng: StdRng,
}

/// What a timer is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Later {
    Node(String),
    IpamNode(String),
    Doubt(String),
    Page(PageId),
    /// A read that failed.
    Reread(PageId),
    Config,
    Verify(String),
}

/// For how long an Event is not repeated: the API server keeps them for an hour.
const SAID_FOR: Duration = Duration::from_hours(1);
/// Above this many remembered Events, those that may be repeated are forgotten: 24 bytes each.
const SAID_AT_MOST: usize = 10_000;

/// More passes than any chain of causes within one event is long.
const PASSES: usize = 100;

impl Engine {
    /// An engine that knows nothing yet. `seed` feeds the random IDs of grants: 256 bits of the system's randomness in
    /// production, chosen in a simulation.
    #[must_use]
    pub fn new(settings: EngineSettings, seed: [u8; 32]) -> Self {
        let reserved = settings.reserved.iter().copied().collect();
        Self {
            settings,
            now: Timestamp::UNIX_EPOCH,
            stage: Stage::Starting,
            planner: None,
            config: None,
            evidence: None,
            config_due: true,
            config_busy: false,
            config_settled: false,
            announced: None,
            announcing: None,
            drain: Drain::Idle,
            drain_round: 0,
            drain_after: Timestamp::UNIX_EPOCH,
            ledger: Ledger::default(),
            gated: BTreeSet::new(),
            held_back: BTreeMap::new(),
            awaiting: BTreeMap::new(),
            nodes: BTreeMap::new(),
            published: BTreeMap::new(),
            index: PodCidrIndex::default(),
            mirror_fences: Fences::default(),
            fences: BTreeSet::new(),
            reserved,
            fenced: None,
            claims: Claims::default(),
            witnesses: BTreeMap::new(),
            pools: BTreeMap::new(),
            dirty: BTreeSet::new(),
            to_plan: BTreeSet::new(),
            stuck: BTreeSet::new(),
            space_grew: false,
            to_verify: BTreeSet::new(),
            applying: BTreeSet::new(),
            gone: BTreeMap::new(),
            doubts: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            checking: BTreeSet::new(),
            early: BTreeSet::new(),
            timers: BTreeSet::new(),
            failures: HashMap::new(),
            flights: HashMap::new(),
            effects: Vec::new(),
            counters: Counters::default(),
            went_back: false,
            turn: 0,
            said: HashMap::new(),
            latencies: Vec::new(),
            next_id: 0,
            rng: StdRng::from_seed(seed),
        }
    }

    /// Folds `event` in and says what to do now. `now` is the wall clock.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        self.now = now;
        self.turn += 1;
        self.observe(event);
        if self.went_back {
            return Vec::new();
        }
        if !matches!(self.stage, Stage::Starting) {
            self.wake();
            self.recover();
            self.record();
            self.doubt();
            // Each pass settles what the one before made due; what a bug would keep alive goes on with the next event.
            for _ in 0..PASSES {
                if self.dirty.is_empty() && self.ledger.dirty.is_empty() && !self.space_grew {
                    break;
                }
                self.evaluate_dirty();
                self.plan();
                self.commit();
            }
            self.record();
            self.doubt();
            self.verify();
        }
        std::mem::take(&mut self.effects)
    }

    pub(crate) fn emit(&mut self, flight: Flight, action: Action) {
        self.next_id += 1;
        let id = EffectId(self.next_id);
        self.effects.push(Effect { id, action });
        self.flights.insert(id, flight);
    }

    /// The same is said of the same object once an hour at most.
    pub(crate) fn publish(&mut self, note: Note) {
        let mut hasher = DefaultHasher::new();
        note.hash(&mut hasher);
        let recent = |at: &Timestamp| crate::nodes::after(*at, SAID_FOR) > self.now;
        if self.said.get(&hasher.finish()).is_some_and(recent) {
            return;
        }
        if self.said.len() >= SAID_AT_MOST {
            self.said.retain(|_, at| recent(at));
        }
        self.said.insert(hasher.finish(), self.now);
        self.emit(Flight::Unanswered, Action::Publish(note));
    }

    /// The `IPAMNode` of this very Node, and not of another of its name.
    pub(crate) fn published_of(&self, name: &str) -> Option<&Published> {
        let rec = self.nodes.get(name)?;
        self.published.get(name).filter(|node| node.spec.node_uid == rec.seen.uid)
    }

    /// Whether the `IPAMNode` of this very Node has this condition already: an operator before this one said so.
    pub(crate) fn says_already(&self, name: &str, kind: &str, status: &str, message: &str) -> bool {
        self.published_of(name).is_some_and(|node| {
            node.conditions.iter().any(|old| old.type_ == kind && old.status == status && old.message == message)
        })
    }

    pub(crate) fn grant(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.rng.random()).into_uuid()
    }

    /// The watch, the ledger or an `IPAMNode` contradict each other on this name: only a live GET can settle it.
    pub(crate) fn raise_doubt(&mut self, name: &str) {
        self.doubts.insert(name.to_owned());
        self.unsettled.insert(name.to_owned());
    }

    /// The mode in force: the recorded one.
    pub(crate) fn mode(&self) -> Option<Mode> {
        self.config.as_ref().map(|config| config.spec.mode)
    }

    pub(crate) fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live { .. })
    }

    /// Whether the mode in force keeps a ledger.
    pub(crate) fn has_ledger(&self) -> bool {
        self.mode().is_some_and(|mode| mode != Mode::Kubernetes)
    }

    /// Takes note of blocks whose entry changed: index, occupancy, and the nodes that they concern.
    pub(crate) fn sync(&mut self, page: PageId, blocks: &[Cidr]) {
        let names = match &mut self.stage {
            Stage::Starting => return,
            Stage::Recovering { occupancy, .. } => self.ledger.sync(page, blocks, occupancy, &self.claims),
            Stage::Live { occupancy } => self.ledger.sync(page, blocks, occupancy, &self.claims),
        };
        self.doubt_entries(&names);
        self.dirty.extend(names);
    }

    /// What a page's changes came to.
    pub(crate) fn settle(&mut self, page: PageId, settled: Settled) {
        self.sync(page, &settled.touched);
        let blocks: Vec<_> = settled.void.iter().map(crate::page::Change::block).collect();
        self.sync(page, &blocks);
        let given_up = |block: &Cidr| {
            let entry = self.ledger.page(page).entries.get(block);
            entry.is_none_or(|entry| entry.state == cadastre_api::BlockState::Cooling)
        };
        self.space_grew |= !blocks.is_empty() || settled.touched.iter().any(given_up);
        for change in settled.void {
            self.change_ended(&change, false);
        }
        for change in settled.done {
            self.change_ended(&change, true);
            if let crate::page::Change::Cool { block, grant, .. } = change {
                self.release_promised(crate::ledger::Place { page, block }, grant);
            }
        }
    }

    /// Rebuilds the planner and the occupancy from what the config records.
    pub(crate) fn adopt_config(&mut self, config: IPAMConfig) {
        let in_use = |config: &IPAMConfig| config.status.as_ref().is_some_and(|status| status.in_use);
        let same = |known: &IPAMConfig| known.spec.mode == config.spec.mode && in_use(known) == in_use(&config);
        if !self.config.as_ref().is_some_and(same) {
            self.dirty.extend(self.nodes.keys().cloned());
        }
        let admitted = config.status.as_ref().map(|status| status.cidrs.clone()).unwrap_or_default();
        let kubernetes = config.spec.mode == Mode::Kubernetes;
        let of_default = admitted.iter().filter(|cidr| cidr.pool == DEFAULT_POOL);
        let families = Family::ALL.into_iter().filter(|family| {
            if config.spec.mode == self.settings.mode {
                self.settings.families.contains(family)
                    || of_default.clone().any(|cidr| cidr.in_use && cidr.cidr.family() == *family)
            } else {
                kubernetes || of_default.clone().any(|cidr| cidr.cidr.family() == *family)
            }
        });
        let pool = DEFAULT_POOL.to_owned();
        let required = if config.spec.mode == self.settings.mode { self.settings.required.clone() } else { Vec::new() };
        let families = families.collect();
        self.planner = Some(match config.spec.mode {
            Mode::Kubernetes => Planner::Kubernetes(Kubernetes { pool, families, required }),
            _ => Planner::ClusterPool(ClusterPool { pool, families }),
        });
        self.config = Some(config);
        self.admit_cidrs(&admitted);
        self.dirty_gated();
    }

    /// Pages that waited for the config can be looked at again.
    fn dirty_gated(&mut self) {
        self.ledger.dirty.extend(std::mem::take(&mut self.gated));
    }

    /// Whether the API server answered with an older state than it had: it was restored from a backup, and all that is known
    /// is of a lost future. Nothing is to be done any more but to start over with `recover`.
    #[must_use]
    pub fn went_back(&self) -> bool {
        self.went_back
    }

    /// What the cluster refuses of the settings.
    #[must_use]
    pub fn refusals(&self) -> Vec<Refusal> {
        crate::config::refusals(&self.settings, self.config.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Regarding;

    #[test]
    fn an_event_is_repeated_once_an_hour_at_most() {
        let mut engine = Engine::new(EngineSettings::bare(), [0; 32]);
        let note = |message: &str| Note {
            regarding: Regarding::Pool { name: "default".into() },
            warning: true,
            reason: "CoolingCutShort",
            message: message.into(),
        };
        let mut published = |second: i64, message: &str| {
            engine.now = Timestamp::from_second(second).unwrap();
            engine.publish(note(message));
            std::mem::take(&mut engine.effects).len()
        };
        assert_eq!([published(0, "a"), published(1, "a"), published(1, "b")], [1, 0, 1]);
        assert_eq!([published(3599, "a"), published(3600, "a"), published(3600, "b")], [0, 1, 0]);
    }
}
