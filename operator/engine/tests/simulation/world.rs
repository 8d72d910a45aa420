//! Engines over one store, with a scheduler that picks what happens next by seed: watches lag and are listed anew,
//! replies are lost, writes are delayed past the death of who sent them, operators crash and start again, nodes come, go
//! and come back, agents and pods do their work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cadastre_api::{AllocatedBlock, HeldBlock, Mode};
use cadastre_core::{Cidr, Family};
use cadastre_engine::{
    Action, ConfiguredPool, Effect, EffectId, Engine, EngineSettings, Event, NodeSeen, Outcome, World,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::broken::Rule;
use crate::machine::Machine;
use crate::store::{Cache, Store};

pub const COOLING: Duration = Duration::from_mins(5);
/// Pods of a deleted Node are gone after this, as the design presumes.
const PODS_END: SignedDuration = SignedDuration::from_secs(115);
/// An agent that runs publishes at least this often: what it never said, nobody can know of.
const SILENT: SignedDuration = SignedDuration::from_mins(2);

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
        reserved: Vec::new(),
        block_cooling: COOLING,
        remove_taints: true,
        set_network_status: true,
        recover: false,
    }
}

struct Operator {
    engine: Engine,
    /// What its watch has seen.
    cache: Cache,
    sent: Vec<Effect>,
    replies: Vec<(EffectId, Outcome)>,
}

pub struct Simulation {
    pub store: Store,
    pub now: Timestamp,
    pub settings: EngineSettings,
    operators: Vec<Operator>,
    /// Writes whose sender is dead: they may still arrive.
    orphans: Vec<Action>,
    pub rng: StdRng,
    next_uid: u32,
    /// So many writes of the config's status never arrive.
    pub lost_status_writes: u32,
    /// When each block was last seen published for a Node that existed, and to which UID and machine.
    pub last_seen: BTreeMap<Cidr, (Timestamp, String, String)>,
    /// Blocks that were listed for a Node, by its UID.
    pub listed: BTreeSet<(String, Cidr)>,
    /// Nobody but operators writes what operators write, and the store does not go back.
    pub is_ours_alone: bool,
    /// By the machine's ID. Only where a scenario has them.
    pub machines: BTreeMap<String, Machine>,
    pub has_machines: bool,
    /// Blocks that a foreign hand touched, and the nodes that have a part in each since.
    pub touched: BTreeMap<Cidr, BTreeSet<String>>,
    /// The rule of the design that is broken on purpose.
    pub broken: Option<Rule>,
    /// podCIDRs that new Nodes carry, one set each, drawn by seed.
    pub pod_cidrs: Vec<Vec<Cidr>>,
    /// Effects done so far, and operators that crashed.
    pub effects: usize,
    pub crashes: usize,
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
            listed: BTreeSet::new(),
            is_ours_alone: true,
            machines: BTreeMap::new(),
            has_machines: false,
            touched: BTreeMap::new(),
            broken: None,
            pod_cidrs: Vec::new(),
            effects: 0,
            crashes: 0,
        };
        for at in 0..operators {
            let operator = simulation.start(at);
            simulation.operators.push(operator);
        }
        simulation
    }

    fn start(&mut self, at: usize) -> Operator {
        let mut engine = Engine::new(self.settings.clone(), self.rng.random());
        let mut world = self.store.world();
        world.ledger_read_at = self.now;
        if self.broken == Some(Rule::RestoreWithoutIpamNodes) {
            world.ipam_nodes.clear();
        }
        self.trace(at, &"starts");
        let sent = engine.handle(self.now, Event::Started(Box::new(world)));
        Operator { engine, cache: Cache::of(&self.store), sent, replies: Vec::new() }
    }

    pub fn add_node(&mut self, name: &str, machine: &str) {
        self.next_uid += 1;
        let uid = format!("node-{}", self.next_uid);
        let (name, ready) = (name.to_owned(), self.has_machines);
        let pod_cidrs = match self.pod_cidrs.len() {
            0 => Vec::new(),
            sets => self.pod_cidrs[self.rng.random_range(0..sets)].clone(),
        };
        if self.has_machines {
            self.machines.entry(machine.to_owned()).or_insert_with(|| Machine::new(&name)).deleted = None;
        }
        let created = self.now.as_second();
        self.store.create_node(NodeSeen {
            name,
            uid,
            machine: machine.into(),
            ready,
            pod_cidrs,
            created,
            not_ready_taint: ready.then_some(1),
            ..NodeSeen::default()
        });
    }

    pub fn delete_node(&mut self, name: &str) {
        let now = self.now;
        for machine in self.machines.values_mut().filter(|machine| machine.node == name && machine.deleted.is_none()) {
            machine.deleted = Some(now);
        }
        self.store.delete_node(name);
    }

    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// With `CADASTRE_TRACE` set, everything that happens is printed.
    pub fn trace(&self, at: usize, what: &dyn std::fmt::Debug) {
        if std::env::var_os("CADASTRE_TRACE").is_some() {
            println!("{} operator {at}: {what:?}", self.now);
        }
    }

    fn feed(&mut self, at: usize, event: Event) {
        self.trace(at, &event);
        let operator = &mut self.operators[at];
        operator.sent.extend(operator.engine.handle(self.now, event));
    }

    pub fn operator_count(&self) -> usize {
        self.operators.len()
    }

    /// One thing happens.
    pub fn step(&mut self, faults: bool) {
        let at = self.rng.random_range(0..self.operators.len());
        match self.rng.random_range(0..1000) {
            0..340 => self.perform_one(at, faults),
            340..540 => self.reply_one(at),
            540..730 => self.watch_one(at),
            730..890 => self.live(),
            890..940 => self.pass(Duration::from_secs(1)),
            940..965 if faults => self.churn(),
            965..975 if faults => self.pass(Duration::from_secs(100)),
            975..983 if faults => self.crash(at),
            983..986 if faults => self.list_again(at),
            986..995 => self.arrive(),
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
        self.effects += 1;
        let fate = if faults { self.rng.random_range(0..100) } else { 99 };
        let lost = self.lost_status_writes > 0 && matches!(action, Action::ReplaceConfigStatus(_));
        self.lost_status_writes -= u32::from(lost);
        let outcome = match fate {
            _ if lost => Outcome::Uncertain("lost".into()),
            // The request never arrived, or its reply was lost, or it arrives later.
            0..3 => Outcome::Uncertain("lost".into()),
            3..6 => {
                self.perform(at, action);
                Outcome::Uncertain("reply lost".into())
            }
            6..9 => {
                self.orphans.push(action);
                Outcome::Uncertain("delayed".into())
            }
            _ => self.perform(at, action),
        };
        self.operators[at].replies.push((id, outcome));
    }

    fn perform(&mut self, at: usize, action: Action) -> Outcome {
        match self.broken {
            None => self.store.perform(action),
            Some(rule) => rule.perform(action, at, &self.operators[at].cache, &mut self.store, &mut self.orphans),
        }
    }

    /// A delayed write arrives.
    fn arrive(&mut self) {
        if !self.orphans.is_empty() {
            let orphan = self.orphans.swap_remove(0);
            self.trace(usize::MAX, &orphan);
            self.perform(0, orphan);
        }
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
        if let Some(event) = self.operators[at].cache.next(&self.store) {
            self.feed(at, event);
        }
    }

    /// 410: the watch of everything is listed anew, and what happened in between is not seen.
    fn list_again(&mut self, at: usize) {
        for event in self.operators[at].cache.list_again(&self.store) {
            self.feed(at, event);
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now.checked_add(SignedDuration::try_from(time).unwrap()).unwrap();
        let now = self.now;
        self.machines.retain(|_, machine| machine.deleted.is_none_or(|since| now.duration_since(since) < PODS_END));
        let silent = |machine: &mut Machine| now.duration_since(*machine.reported.get_or_insert(now)) > SILENT;
        let silent = self.machines.iter_mut().filter_map(|(id, machine)| silent(machine).then(|| id.clone()));
        for id in silent.collect::<Vec<_>>() {
            self.report(&id);
        }
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
        self.crashes += 1;
        self.operators[at] = self.start(at);
    }

    fn churn(&mut self) {
        let name = format!("n{}", self.rng.random_range(0..12));
        if self.store.nodes.contains_key(&name) {
            self.delete_node(&name);
        } else {
            let machine = if self.chance(50) { format!("machine-{name}") } else { format!("m{}", self.next_uid) };
            self.add_node(&name, &machine);
        }
    }

    /// Something happens on one machine.
    fn live(&mut self) {
        if self.machines.is_empty() {
            return;
        }
        let pick = self.rng.random_range(0..self.machines.len());
        let (what, choice) = (self.rng.random_range(0..6), self.rng.random::<u32>() as usize);
        let id = self.machines.keys().nth(pick).unwrap().clone();
        match what {
            0 | 1 => self.look(&id),
            2 => {
                let machine = self.machines.get_mut(&id).unwrap();
                let usable = machine.usable();
                if !usable.is_empty() {
                    machine.allocate(usable[choice % usable.len()]);
                }
            }
            3 => self.machines.get_mut(&id).unwrap().release(),
            4 => self.machines.get_mut(&id).unwrap().promise(),
            _ => self.report(&id),
        }
    }

    /// The agent of this machine reads its `IPAMNode`, if that is for its Node as it is now.
    fn look(&mut self, id: &str) {
        let machine = self.machines.get_mut(id).unwrap();
        let Some(node) = self.store.nodes.get(&machine.node).filter(|node| node.machine == id) else { return };
        let object = self.store.ipam_nodes.get(&machine.node).filter(|object| object.spec.node_uid == node.uid);
        if let Some(object) = object {
            machine.look(object);
        }
    }

    fn report(&mut self, id: &str) {
        let (now, machine) = (self.now, self.machines.get_mut(id).unwrap());
        machine.reported = Some(now);
        let machine = machine.clone();
        let node = self.store.nodes.get(&machine.node).filter(|node| node.machine == id && machine.deleted.is_none());
        let object = self.store.ipam_nodes.get(&machine.node).cloned();
        let Some((node, mut object)) = node.zip(object) else { return };
        let before = object.status.clone();
        if object.spec.node_uid == node.uid {
            machine.report(&mut object);
            if object.status != before {
                self.store.set_status(&machine.node, object);
            }
        }
    }

    /// Every pod ends.
    pub fn end_pods(&mut self) {
        for machine in self.machines.values_mut() {
            machine.pods.clear();
        }
    }

    /// The store goes back to an older state. Kubelets whose Nodes went with it register again; operators notice, and start
    /// over with every agent's word first. Agents and pods run on.
    pub fn go_back(&mut self, then: World) {
        self.orphans.clear();
        self.store.restore(then);
        self.last_seen.clear();
        for node in self.store.nodes.values().cloned().collect::<Vec<_>>() {
            if self.machines.get(&node.machine).is_none_or(|machine| machine.deleted.is_some()) {
                self.store.delete_node(&node.name);
            }
        }
        let alive = self.machines.iter().filter(|(_, machine)| machine.deleted.is_none());
        let lost =
            alive.filter(|(id, machine)| self.store.nodes.get(&machine.node).is_none_or(|node| node.machine != **id));
        for (id, machine) in lost.map(|(id, machine)| (id.clone(), machine.node.clone())).collect::<Vec<_>>() {
            if self.store.nodes.contains_key(&machine) {
                self.store.delete_node(&machine);
            }
            self.add_node(&machine, &id);
        }
        self.settings.recover = true;
        self.restart();
        self.settle_for(8);
    }

    /// Somebody with every right edits or deletes an object of ours.
    pub fn meddle(&mut self) {
        let names: Vec<_> = self.store.ipam_nodes.keys().cloned().collect();
        if names.len() < 2 {
            return;
        }
        let pick = self.rng.random_range(0..names.len());
        let (one, other) = (names[pick].clone(), names[(pick + 1) % names.len()].clone());
        self.trace(usize::MAX, &("meddle", &one, &other));
        match self.rng.random_range(0..5) {
            0 => {
                let uid = self.store.ipam_nodes[&one].metadata.uid.clone().unwrap();
                self.store.delete_ipam_node(&one, &uid);
            }
            1 => {
                // What was written into a page since it went, and what cools, is lost should the operator crash as well.
                self.settle_for(20);
                self.store.delete_a_page();
                self.settle_for(20);
            }
            2 => self.store.delete_config(),
            3 => self.give_away(&one, &other),
            _ => {
                let mut spec = self.store.ipam_nodes[&one].spec.clone();
                spec.ipam.allocated.clear();
                self.store.upsert(&one, spec);
            }
        }
        self.check();
    }

    /// A block of one node is written into another's `IPAMNode`.
    fn give_away(&mut self, one: &str, other: &str) {
        let Some(block) = self.store.ipam_nodes[one].spec.ipam.allocated.first().cloned() else { return };
        let mut spec = self.store.ipam_nodes[other].spec.clone();
        if spec.ipam.allocated.iter().any(|known| known.cidr == block.cidr) {
            return;
        }
        let grant = uuid::Builder::from_random_bytes(self.rng.random()).into_uuid();
        let parties = self.touched.entry(block.cidr).or_default();
        parties.extend([one.to_owned(), other.to_owned()]);
        spec.ipam.allocated.push(AllocatedBlock { grant, retiring: false, ..block });
        self.store.upsert(other, spec);
    }

    /// Every agent looks, promises what it can and reports.
    pub fn agents_catch_up(&mut self) {
        for id in self.machines.keys().cloned().collect::<Vec<_>>() {
            self.look(&id);
            self.machines.get_mut(&id).unwrap().promise();
            self.report(&id);
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

    /// How many nodes wait for this reason, by the first operator's word.
    pub fn waiting(&self, reason: &str) -> usize {
        self.operators[0].engine.report().waiting.get(reason).copied().unwrap_or_default()
    }

    /// Every operator starts anew.
    pub fn restart(&mut self) {
        for at in 0..self.operators.len() {
            self.operators[at] = self.start(at);
        }
    }

    fn is_busy(&self) -> bool {
        let busy = |o: &Operator| !o.sent.is_empty() || !o.replies.is_empty() || !o.cache.is_current(&self.store);
        self.operators.iter().any(busy)
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
            let mut rounds = 0;
            while self.is_busy() {
                for at in 0..self.operators.len() {
                    self.perform_one(at, false);
                    self.reply_one(at);
                    self.watch_one(at);
                }
                self.check();
                rounds += 1;
                let under_way = || self.operators.iter().map(|operator| &operator.sent).collect::<Vec<_>>();
                assert!(rounds < 2_000, "does not come to rest: {:?}", under_way());
            }
            self.agents_catch_up();
            self.pass(Duration::from_secs(20));
        }
    }
}
