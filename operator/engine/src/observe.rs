//! Step 1: fold what was seen into what is known. Nothing is decided here.

use std::collections::{BTreeMap, BTreeSet};

use cadastre_api::{BlockEntry, BlockState, IPAMConfig, IPAMNode, Mode, reason};
use cadastre_modes::Occupancy;

use crate::effect::{Note, Regarding};
use crate::engine::{Engine, PoolRec, Stage};
use crate::event::{Event, NodeSeen, World};
use crate::nodes::{NodeRec, Published, after, version};
use crate::record::some_names;
use crate::settings::{CORRECTIONS, RECOVERY};

impl Engine {
    pub(crate) fn observe(&mut self, event: Event) {
        match event {
            Event::Started(world) => self.start(*world),
            Event::Node(seen) => self.see_node(seen),
            Event::NodeGone { name } => self.raise_doubt(&name),
            Event::NodesListed { version, names } => self.missing_nodes(version, &names),
            Event::IpamNodesListed { version, names } => self.missing_ipam_nodes(version, &names),
            Event::IpamNode(node) => self.see_ipam_node(*node, false),
            Event::IpamNodeGone { name, uid } => {
                self.lose_ipam_node(&name, &uid);
                if self.applying.contains(&name) {
                    self.gone.entry(name).or_default().uids.insert(uid);
                }
            }
            Event::Config(config) => self.see_config(config.map(|config| *config)),
            Event::Pool(pool) => self.see_pool(*pool),
            Event::PoolGone { name } => self.lose_pool(name),
            Event::ServiceCidrs(cidrs) => self.see_services(cidrs),
            Event::Outcome { id, outcome } => self.conclude(id, outcome),
            Event::Tick => self.tick(),
        }
    }

    /// Nodes that a live read told of and that no watch has seen go.
    fn missing_nodes(&mut self, version: u64, listed: &BTreeSet<String>) {
        let gone = self.nodes.iter().filter(|(name, rec)| rec.seen.version <= version && !listed.contains(*name));
        // What is being asked for may be answered with what was before the list.
        let asked = self.checking.iter().filter(|name| !listed.contains(*name));
        for name in gone.map(|(name, _)| name).chain(asked).cloned().collect::<Vec<_>>() {
            self.raise_doubt(&name);
        }
    }

    /// `IPAMNode`s that the answer to a write told of and that no watch has seen go.
    fn missing_ipam_nodes(&mut self, version: u64, listed: &BTreeSet<String>) {
        let gone = self.published.iter().filter(|(name, node)| node.version <= version && !listed.contains(*name));
        for (name, uid) in gone.map(|(name, node)| (name.clone(), node.uid.clone())).collect::<Vec<_>>() {
            self.lose_ipam_node(&name, &uid);
        }
        for name in self.applying.iter().filter(|name| !listed.contains(*name)) {
            self.gone.entry(name.clone()).or_default().listed = version;
        }
    }

    /// Everything is read before anything is taken: the ledger, then what `IPAMNode`s say that the ledger does not.
    fn start(&mut self, world: World) {
        let (mut occupancy, mut strays) = (Occupancy::default(), BTreeSet::new());
        for page in world.pages {
            let name = page.metadata.name.clone().unwrap_or_default();
            let Some((_, id)) = self.ledger.load(page, &mut occupancy, &self.claims) else {
                strays.insert(name);
                continue;
            };
            let page = self.ledger.page_mut(id);
            (page.known_at, page.asked_at) = (world.ledger_read_at, self.turn);
        }
        self.published = world
            .ipam_nodes
            .into_iter()
            .map(|node| (name_of(&node), Published { live: true, seen_at: self.turn, ..Published::from(node) }))
            .collect::<BTreeMap<_, _>>();
        self.evidence = self.recorded_by_objects();
        let ready_without_config = world.config.is_none() && world.nodes.iter().any(|node| node.ready);
        self.stage = Stage::Recovering { occupancy, trusting: self.now, until: self.now };
        self.see_services(world.service_cidrs);
        for pool in world.pools {
            self.see_pool(pool);
        }
        // What is recorded and not there is gone.
        let recorded = world.config.iter().filter_map(|config| config.status.as_ref()).flat_map(|status| &status.cidrs);
        for admitted in recorded {
            self.pools.entry(admitted.pool.clone()).or_default();
        }
        for node in world.nodes {
            self.see_node(node);
        }
        if let Some(config) = world.config {
            self.name_strays(&strays, &config);
            self.adopt_config(config);
        }
        self.doubt_leftovers();
        // Without a ledger there is nothing that could be missing from it.
        let has_ledger = self.mode().or(self.evidence).unwrap_or(self.settings.mode) != Mode::Kubernetes;
        if has_ledger && (self.settings.recover || ready_without_config || self.has_unknown_grants()) {
            let now = self.now;
            if let Stage::Recovering { trusting, until, .. } = &mut self.stage {
                (*trusting, *until) = (after(now, CORRECTIONS), after(now, RECOVERY));
            }
        }
        self.dirty.extend(self.nodes.keys().cloned());
    }

    /// Objects that look like pages of the ledger and are none: copies under another name, ranges that no page has.
    fn name_strays(&mut self, strays: &BTreeSet<String>, config: &IPAMConfig) {
        if strays.is_empty() {
            return;
        }
        let names = some_names(strays.iter().map(String::as_str));
        let message =
            format!("IPAMLedger {names}: no page of the ledger has such a name or range; left out. Delete it");
        let regarding = Regarding::Config { uid: config.metadata.uid.clone().unwrap_or_default() };
        self.publish(Note { regarding, warning: true, reason: reason::LEDGER_UNREADABLE, message });
    }

    /// With the config lost, the mode is read from what was written under it.
    fn recorded_by_objects(&self) -> Option<Mode> {
        let by_nodes =
            self.published.values().find(|node| !node.spec.ipam.allocated.is_empty()).map(|node| node.spec.mode);
        by_nodes.or_else(|| self.ledger.node_names().next().map(|_| Mode::ClusterPool))
    }

    /// Entries that somebody else wrote for Nodes that are not there.
    pub(crate) fn doubt_entries(&mut self, names: &BTreeSet<String>) {
        let here = |name: &str, uid: &str| self.nodes.get(name).is_some_and(|node| node.seen.uid == uid);
        let stray = |name: &&String| {
            self.ledger.of_name(name).any(|(_, entry)| entry.state != BlockState::Cooling && !here(name, &entry.uid))
        };
        let strays: Vec<_> =
            names.iter().filter(stray).filter(|name| !self.unsettled.contains(*name)).cloned().collect();
        for name in strays {
            self.raise_doubt(&name);
        }
    }

    /// Ledger entries and `IPAMNode`s of Nodes that are not there.
    fn doubt_leftovers(&mut self) {
        let missing = |name: &String, uid: &str| self.nodes.get(name).is_none_or(|node| node.seen.uid != uid);
        let of_ledger = self.ledger.node_names().filter(|name| {
            self.ledger.of_name(name).any(|(_, entry)| entry.state != BlockState::Cooling && missing(name, &entry.uid))
        });
        let of_nodes =
            self.published.iter().filter(|(name, node)| missing(name, &node.spec.node_uid)).map(|(name, _)| name);
        let doubtful: Vec<_> = of_ledger.chain(of_nodes).cloned().collect();
        for name in doubtful {
            self.raise_doubt(&name);
        }
    }

    pub(crate) fn see_node(&mut self, seen: NodeSeen) {
        let name = seen.name.clone();
        if let Some(known) = self.nodes.get_mut(&name) {
            if seen.version < known.seen.version {
                return;
            }
            known.seen.version = seen.version;
            if known.seen == seen {
                return;
            }
        }
        self.fence(seen.addresses.iter().copied());
        let another = self.nodes.get(&name).is_some_and(|known| known.seen.uid != seen.uid);
        let stranger = |entry: &BlockEntry| entry.uid != seen.uid && entry.state != BlockState::Cooling;
        let strangers = self.ledger.of_name(&name).any(|(_, entry)| stranger(entry));
        let foreign_object = self.published.get(&name).is_some_and(|node| node.spec.node_uid != seen.uid);
        if another || ((strangers || foreign_object) && !self.checking.contains(&name)) {
            self.raise_doubt(&name);
        }
        if another {
            self.forget(&name);
        }
        let change = self.mirror_fences.set_node(&name, &seen.addresses);
        self.refence(&change);
        match self.nodes.get_mut(&name) {
            Some(known) => known.seen = seen,
            None => drop(self.nodes.insert(name.clone(), NodeRec::new(seen, self.turn, self.now))),
        }
        self.note_served(&name);
        self.dirty.insert(name);
    }

    /// Drops what was decided for a Node of this name.
    pub(crate) fn forget(&mut self, name: &str) {
        self.rest_claims(name);
        if let Some(rec) = self.nodes.remove(name) {
            self.to_plan.remove(&(rec.seen.created, name.to_owned()));
            self.stuck.remove(&(rec.seen.created, name.to_owned()));
        }
        self.to_verify.remove(name);
        let concerned = self.index.remove(name);
        self.dirty.extend(concerned);
        self.note_claims(name);
        let change = self.mirror_fences.set_node(name, &[]);
        self.refence(&change);
    }

    /// `live`: an answer, and no news of a watch.
    pub(crate) fn see_ipam_node(&mut self, node: IPAMNode, live: bool) {
        let name = name_of(&node);
        let seen = Published { live, seen_at: self.turn, ..Published::from(node) };
        let known = self.published.get(&name).map(|known| known.version);
        let old = |known: u64| known > seen.version || (known == seen.version && !live);
        if known.filter(|_| seen.version != u64::MAX).is_some_and(old) {
            return;
        }
        if !self.nodes.contains_key(&name) {
            self.raise_doubt(&name);
        }
        self.published.insert(name.clone(), seen);
        self.note_served(&name);
        self.dirty.insert(name);
    }

    /// Takes note of how long the node waited, once its `IPAMNode` carries blocks.
    fn note_served(&mut self, name: &str) {
        let (Some(rec), Some(published)) = (self.nodes.get_mut(name), self.published.get(name)) else { return };
        if published.spec.node_uid != rec.seen.uid || published.spec.ipam.allocated.is_empty() {
            return;
        }
        // One that came with its blocks did not wait.
        if let Some(since) = rec.unserved_since.take().filter(|since| *since < self.now) {
            self.latencies.push(std::time::Duration::try_from(self.now.duration_since(since)).unwrap_or_default());
        }
    }

    pub(crate) fn lose_ipam_node(&mut self, name: &str, uid: &str) {
        if self.published.get(name).is_some_and(|known| known.uid == uid) {
            self.published.remove(name);
            self.dirty.insert(name.to_owned());
        }
    }

    pub(crate) fn see_config(&mut self, config: Option<IPAMConfig>) {
        let Some(config) = config else {
            self.config_due = true;
            self.evidence = self.mode().or(self.evidence);
            self.config = None;
            self.config_settled = false;
            return;
        };
        let of = |config: &IPAMConfig| version(config.metadata.resource_version.as_deref());
        let same_object = |known: &&IPAMConfig| known.metadata.uid == config.metadata.uid;
        if self.config.as_ref().filter(same_object).is_none_or(|known| of(known) < of(&config)) {
            self.config_due = true;
            self.adopt_config(config);
        }
    }

    fn lose_pool(&mut self, name: String) {
        self.pools.insert(name, PoolRec::default());
        self.config_due = true;
    }

    fn see_pool(&mut self, pool: cadastre_api::IPPool) {
        let name = pool.metadata.name.clone().unwrap_or_default();
        self.config_due = true;
        self.reserve(&pool.spec.reserved);
        let rec = self.pools.entry(name).or_default();
        if rec.status.is_none() {
            rec.status.clone_from(&pool.status);
        }
        rec.object = Some(pool);
    }
}

pub(crate) fn name_of(node: &IPAMNode) -> String {
    node.metadata.name.clone().unwrap_or_default()
}
