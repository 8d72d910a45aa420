//! Engines over one store, with a scheduler that picks what happens next by seed: watches lag, replies are lost, writes
//! are delayed past the death of who sent them, operators crash and start again, nodes come, go and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cadastre_api::{AllocatedBlock, BlockState, HeldBlock, Mode};
use cadastre_core::{Cidr, Family};
use cadastre_engine::{Action, ConfiguredPool, Effect, EffectId, Engine, EngineSettings, Event, NodeSeen, Outcome};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::store::Store;

pub const COOLING: Duration = Duration::from_mins(5);

pub fn settings(families: &[Family], v4: &str, v6: &str) -> EngineSettings {
    let pool = |family, cidr: &str, mask_size| ConfiguredPool {
        pool: "default".into(),
        family,
        cidrs: vec![cidr.parse().unwrap()],
        mask_size,
    };
    let pools = [pool(Family::V4, v4, 24), pool(Family::V6, v6, 120)];
    EngineSettings {
        mode: Mode::ClusterPool,
        families: families.to_vec(),
        required: Vec::new(),
        pools: pools.into_iter().filter(|pool| families.contains(&pool.family)).collect(),
        block_cooling: COOLING,
        recover: false,
    }
}

struct Operator {
    engine: Engine,
    /// How much of the store's log its watch has read.
    watched: usize,
    sent: Vec<Effect>,
    replies: Vec<(EffectId, Outcome)>,
}

pub struct Simulation {
    pub store: Store,
    pub now: Timestamp,
    settings: EngineSettings,
    operators: Vec<Operator>,
    /// Writes whose sender is dead: they may still arrive.
    orphans: Vec<Action>,
    rng: StdRng,
    next_uid: u32,
    /// So many writes of the config's status never arrive.
    pub lost_status_writes: u32,
    /// When each block was last seen published for a Node that existed, and to which UID and machine.
    last_seen: BTreeMap<Cidr, (Timestamp, String, String)>,
}

impl Simulation {
    pub fn new(seed: u64, operators: usize, settings: EngineSettings) -> Self {
        let mut simulation = Self {
            store: Store::default(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            settings,
            operators: Vec::new(),
            orphans: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            next_uid: 0,
            lost_status_writes: 0,
            last_seen: BTreeMap::new(),
        };
        for _ in 0..operators {
            let operator = simulation.start();
            simulation.operators.push(operator);
        }
        simulation
    }

    fn start(&mut self) -> Operator {
        let mut engine = Engine::new(self.settings.clone(), self.rng.random());
        let sent = engine.handle(self.now, Event::Started(Box::new(self.store.world())));
        Operator { engine, watched: self.store.log.len(), sent, replies: Vec::new() }
    }

    pub fn add_node(&mut self, name: &str, machine: &str) {
        self.next_uid += 1;
        let uid = format!("node-{}", self.next_uid);
        self.store.create_node(NodeSeen { name: name.into(), uid, machine: machine.into(), ..NodeSeen::default() });
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// With `CADASTRE_TRACE` set, everything that happens is printed.
    fn trace(&self, at: usize, what: &dyn std::fmt::Debug) {
        if std::env::var_os("CADASTRE_TRACE").is_some() {
            println!("{} operator {at}: {what:?}", self.now);
        }
    }

    fn feed(&mut self, at: usize, event: Event) {
        self.trace(at, &event);
        let operator = &mut self.operators[at];
        operator.sent.extend(operator.engine.handle(self.now, event));
    }

    /// One thing happens.
    pub fn step(&mut self, faults: bool) {
        let at = self.rng.random_range(0..self.operators.len());
        match self.rng.random_range(0..100) {
            0..40 => self.perform_one(at, faults),
            40..65 => self.reply_one(at),
            65..88 => self.watch_one(at),
            88..94 => self.pass(Duration::from_secs(1)),
            94..96 if faults => self.churn(),
            96 if faults => self.pass(Duration::from_secs(100)),
            97 if faults => self.crash(at),
            98 if !self.orphans.is_empty() => {
                let orphan = self.orphans.swap_remove(0);
                self.store.perform(orphan);
            }
            _ => self.feed(at, Event::Tick),
        }
        self.check();
    }

    fn perform_one(&mut self, at: usize, faults: bool) {
        if self.operators[at].sent.is_empty() {
            return;
        }
        let pick = self.rng.random_range(0..self.operators[at].sent.len());
        let Effect { id, action } = self.operators[at].sent.swap_remove(pick);
        self.trace(at, &action);
        let fate = if faults { self.rng.random_range(0..100) } else { 99 };
        let lost = self.lost_status_writes > 0 && matches!(action, Action::ReplaceConfigStatus(_));
        self.lost_status_writes -= u32::from(lost);
        let outcome = match fate {
            _ if lost => Outcome::Uncertain("lost".into()),
            // The request never arrived, or its reply was lost, or it arrives later.
            0..3 => Outcome::Uncertain("lost".into()),
            3..6 => {
                self.store.perform(action);
                Outcome::Uncertain("reply lost".into())
            }
            6..9 => {
                self.orphans.push(action);
                Outcome::Uncertain("delayed".into())
            }
            _ => self.store.perform(action),
        };
        self.operators[at].replies.push((id, outcome));
    }

    fn reply_one(&mut self, at: usize) {
        if self.operators[at].replies.is_empty() {
            return;
        }
        let pick = self.rng.random_range(0..self.operators[at].replies.len());
        let (id, outcome) = self.operators[at].replies.swap_remove(pick);
        self.feed(at, Event::Outcome { id, outcome });
    }

    fn watch_one(&mut self, at: usize) {
        if let Some(event) = self.store.log.get(self.operators[at].watched).cloned() {
            self.operators[at].watched += 1;
            self.feed(at, event);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.checked_add(SignedDuration::try_from(time).unwrap()).unwrap();
        for at in 0..self.operators.len() {
            self.feed(at, Event::Tick);
        }
    }

    fn crash(&mut self, at: usize) {
        let sent = std::mem::take(&mut self.operators[at].sent);
        for effect in sent {
            if self.chance(30) {
                self.orphans.push(effect.action);
            }
        }
        self.operators[at] = self.start();
    }

    fn churn(&mut self) {
        let name = format!("n{}", self.rng.random_range(0..12));
        if self.store.nodes.contains_key(&name) {
            self.store.delete_node(&name);
        } else {
            let machine = if self.chance(50) { format!("machine-{name}") } else { format!("m{}", self.next_uid) };
            self.add_node(&name, &machine);
        }
    }

    /// The agent of a node says that it holds this block.
    pub fn report_held(&mut self, name: &str, block: &AllocatedBlock) {
        let mut node = self.store.ipam_nodes[name].clone();
        let held = vec![HeldBlock { cidr: block.cidr, grant: block.grant }];
        node.status.get_or_insert_default().ipam.get_or_insert_default().held = held;
        self.store.set_status(name, node);
    }

    /// The agent of a node promises never to use this block again under its grant.
    pub fn promise(&mut self, name: &str, block: &AllocatedBlock) {
        let mut node = self.store.ipam_nodes[name].clone();
        let ipam = node.status.get_or_insert_default().ipam.get_or_insert_default();
        ipam.held.retain(|held| held.grant != block.grant);
        ipam.releasable = vec![HeldBlock { cidr: block.cidr, grant: block.grant }];
        self.store.set_status(name, node);
    }

    /// Every operator starts anew.
    pub fn restart(&mut self) {
        for at in 0..self.operators.len() {
            self.operators[at] = self.start();
        }
    }

    /// No faults any more: everything is delivered until nothing moves.
    pub fn settle(&mut self) {
        self.settle_for(40);
    }

    /// As `settle`, for so many times 20 seconds.
    pub fn settle_for(&mut self, times: u32) {
        for orphan in std::mem::take(&mut self.orphans) {
            self.store.perform(orphan);
        }
        for _ in 0..times {
            for _ in 0..60 {
                for at in 0..self.operators.len() {
                    self.perform_one(at, false);
                    self.reply_one(at);
                    self.watch_one(at);
                }
                self.check();
            }
            let mut turns = 0;
            while self
                .operators
                .iter()
                .any(|o| !o.sent.is_empty() || !o.replies.is_empty() || o.watched < self.store.log.len())
            {
                for at in 0..self.operators.len() {
                    self.perform_one(at, false);
                    self.reply_one(at);
                    self.watch_one(at);
                }
                self.check();
                turns += 1;
                assert!(
                    turns < 2_000,
                    "does not come to rest: {:?}",
                    self.operators.iter().map(|o| &o.sent).collect::<Vec<_>>()
                );
            }
            self.pass(Duration::from_secs(20));
        }
    }

    /// Invariant 1: a block is published to one existing Node at most, and not to another machine before it cooled.
    fn check(&mut self) {
        let mut holders: BTreeMap<Cidr, &str> = BTreeMap::new();
        for (name, object) in &self.store.ipam_nodes {
            let Some(node) = self.store.nodes.get(name).filter(|node| node.uid == object.spec.node_uid) else {
                continue;
            };
            for block in &object.spec.ipam.allocated {
                if let Some(other) = holders.insert(block.cidr, name) {
                    panic!("{} is published to {other} and {name}", block.cidr);
                }
                let now = (self.now, node.uid.clone(), node.machine.clone());
                if let Some((since, uid, machine)) = self.last_seen.insert(block.cidr, now) {
                    let cooled = self.now.duration_since(since) >= SignedDuration::from_secs(120);
                    assert!(
                        uid == node.uid || machine == node.machine || cooled,
                        "{} went from {uid} to {} after {}",
                        block.cidr,
                        node.uid,
                        self.now.duration_since(since)
                    );
                }
            }
        }
    }

    /// At rest: every Node is served with each family, the ledger holds exactly what is published, nothing is pending.
    pub fn check_settled(&self, families: &[Family]) {
        let mut published = BTreeSet::new();
        for (name, node) in &self.store.nodes {
            let object = self.store.ipam_nodes.get(name).unwrap_or_else(|| panic!("{name} has no IPAMNode"));
            assert_eq!(object.spec.node_uid, node.uid, "{name}");
            let has: BTreeSet<_> = object.spec.ipam.allocated.iter().map(|block| block.family).collect();
            assert_eq!(has, families.iter().copied().collect(), "{name} lacks a family");
            published
                .extend(object.spec.ipam.allocated.iter().map(|block| (block.cidr, block.grant, node.uid.clone())));
        }
        let entries = self.store.pages.values().flat_map(|page| &page.spec.entries);
        let held: BTreeSet<_> = entries
            .filter(|entry| entry.state != BlockState::Cooling)
            .inspect(|entry| assert_eq!(entry.state, BlockState::Held, "{entry:?}"))
            .map(|entry| (entry.block, entry.grant, entry.uid.clone()))
            .collect();
        assert_eq!(held, published);
        for name in self.store.ipam_nodes.keys() {
            assert!(self.store.nodes.contains_key(name), "IPAMNode {name} outlived its Node");
        }
    }
}
