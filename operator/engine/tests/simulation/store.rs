//! An in-memory store with the API server's rules: resourceVersions, generations, UIDs, conflicts, preconditions.

use std::collections::{BTreeMap, BTreeSet};

use cadastre_api::{CONFIG_NAME, IPAMConfig, IPAMLedger, IPAMNode, IPAMNodeSpec, IPPool, condition_type};
use cadastre_core::Cidr;
use cadastre_engine::{Action, Answer, Event, NodeSeen, Outcome, World};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

/// What the API server holds, and every change in order, for watches to read.
#[derive(Default)]
pub struct Store {
    version: u64,
    pub config: Option<IPAMConfig>,
    pub pages: BTreeMap<String, IPAMLedger>,
    /// Names of `IPAMNode`s that finalizers hold.
    pub held: BTreeSet<String>,
    /// Pages that somebody wrote something into that nobody can read.
    pub spoiled: BTreeSet<String>,
    pub nodes: BTreeMap<String, NodeSeen>,
    pub ipam_nodes: BTreeMap<String, IPAMNode>,
    pub pools: BTreeMap<String, IPPool>,
    pub service_cidrs: Vec<Cidr>,
    /// UIDs of Nodes whose agent said that it serves.
    pub served: BTreeSet<String>,
    pub log: Vec<Event>,
    /// Writes of `IPAMNode`s: creations and patches.
    pub node_writes: usize,
}

impl Store {
    fn stamp(&mut self, meta: &mut ObjectMeta, new: bool, spec_changed: bool) {
        self.version += 1;
        meta.resource_version = Some(self.version.to_string());
        if new {
            meta.uid = Some(format!("object-{}", self.version));
            meta.generation = Some(1);
        } else if spec_changed {
            meta.generation = meta.generation.map(|generation| generation + 1);
        }
    }

    pub fn world(&self) -> World {
        World {
            config: self.config.clone(),
            pages: self.pages.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            ipam_nodes: self.ipam_nodes.values().cloned().collect(),
            pools: self.pools.values().cloned().collect(),
            service_cidrs: self.service_cidrs.clone(),
            ..World::default()
        }
    }

    /// The objects as they are, to be brought back by [`Store::restore`].
    pub fn snapshot(&self) -> World {
        self.world()
    }

    /// The objects as they were. Watches learn nothing of it: their operators must start over.
    pub fn restore(&mut self, then: World) {
        self.config = then.config;
        let by_name = |meta: &ObjectMeta| meta.name.clone().unwrap();
        self.pages = then.pages.into_iter().map(|page| (by_name(&page.metadata), page)).collect();
        self.nodes = then.nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
        self.ipam_nodes = then.ipam_nodes.into_iter().map(|node| (by_name(&node.metadata), node)).collect();
        self.pools = then.pools.into_iter().map(|pool| (by_name(&pool.metadata), pool)).collect();
    }

    pub fn create_node(&mut self, mut seen: NodeSeen) {
        self.version += 1;
        seen.version = self.version;
        self.nodes.insert(seen.name.clone(), seen.clone());
        self.log.push(Event::Node(seen));
    }

    /// As the API server does it for operators: of this very Node, and if its tests hold.
    fn change_node(&mut self, name: &str, uid: &str, change: impl FnOnce(&mut NodeSeen) -> bool) -> Outcome {
        let Some(mut node) = self.nodes.get(name).cloned() else { return Outcome::NotFound };
        if node.uid != uid || !change(&mut node) {
            return Outcome::Conflict;
        }
        assert!(self.served.contains(uid), "{name} is opened, and its agent never served");
        self.version += 1;
        node.version = self.version;
        self.nodes.insert(name.to_owned(), node.clone());
        self.log.push(Event::Node(node.clone()));
        Outcome::Done(Answer::Node(node))
    }

    pub fn delete_node(&mut self, name: &str) {
        self.version += 1;
        self.nodes.remove(name);
        self.log.push(Event::NodeGone { name: name.to_owned() });
    }

    /// Does what the action says, if its conditions hold.
    pub fn perform(&mut self, action: Action) -> Outcome {
        match action {
            Action::CreateConfig(config) => self.create_config(*config),
            Action::ReplaceConfig(config) => self.replace_config(*config, false),
            Action::ReplaceConfigStatus(config) => self.replace_config(*config, true),
            Action::GetConfig => found(self.config.clone().map(|config| Answer::Config(Box::new(config)))),
            Action::CreatePage(page) => self.write_page(*page, true),
            Action::ReplacePage(page) => self.write_page(*page, false),
            Action::GetPage { name } if self.spoiled.contains(&name) => Outcome::Unreadable(name),
            Action::ListPages if !self.spoiled.is_empty() => Outcome::Unreadable("a page".to_owned()),
            Action::GetPage { name } => found(self.pages.get(&name).map(|page| Answer::Page(Box::new(page.clone())))),
            Action::ListPages => Outcome::Done(Answer::Pages(self.pages.values().cloned().collect())),
            Action::CreateIpamNode(node) => self.create_ipam_node(*node),
            Action::PatchIpamNode { name, uid, generation, spec } => self.change_ipam_node(&name, |node| {
                let tested = node.metadata.uid.as_ref() == Some(&uid) && node.metadata.generation == Some(generation);
                tested.then(|| node.spec = *spec).is_some()
            }),
            Action::SetIpamNodeConditions { name, conditions } => self.change_ipam_node(&name, |node| {
                let known = &mut node.status.get_or_insert_default().conditions;
                known.retain(|condition| condition.type_ == condition_type::SERVING);
                known.extend(conditions);
                true
            }),
            Action::DeleteIpamNode { name, uid } => self.delete_ipam_node(&name, &uid),
            Action::GetIpamNode { name } => {
                found(self.ipam_nodes.get(&name).map(|node| Answer::IpamNode(Box::new(node.clone()))))
            }
            Action::GetNode { name } => found(self.nodes.get(&name).cloned().map(Answer::Node)),
            Action::Untaint { name, uid, at } => self.change_node(&name, &uid, |node| {
                (node.not_ready_taint == Some(at)).then(|| node.not_ready_taint = None).is_some()
            }),
            Action::SetNetworkAvailable { name, uid } => self.change_node(&name, &uid, |node| {
                node.network_available = true;
                true
            }),
            Action::CreatePool(pool) => self.create_pool(*pool),
            Action::PatchPool(pool) => {
                let name = pool.metadata.name.clone().unwrap();
                self.change_pool(&name, |known| {
                    let tested = known.metadata.uid == pool.metadata.uid
                        && known.metadata.generation == pool.metadata.generation;
                    tested.then(|| known.spec = pool.spec).is_some()
                })
            }
            Action::SetPoolStatus { name, status } => self.change_pool(&name, |known| {
                known.status = Some(*status);
                true
            }),
            Action::Publish(_) => Outcome::Done(Answer::Nothing),
        }
    }

    /// Done by an operator or by a person.
    pub fn create_pool(&mut self, mut pool: IPPool) -> Outcome {
        let name = pool.metadata.name.clone().unwrap();
        if self.pools.contains_key(&name) {
            return Outcome::Conflict;
        }
        self.stamp(&mut pool.metadata, true, true);
        self.store_pool(name, pool)
    }

    fn change_pool(&mut self, name: &str, change: impl FnOnce(&mut IPPool) -> bool) -> Outcome {
        let Some(mut pool) = self.pools.get(name).cloned() else { return Outcome::NotFound };
        let spec = pool.spec.clone();
        if !change(&mut pool) {
            return Outcome::Conflict;
        }
        let spec_changed = spec != pool.spec;
        self.stamp(&mut pool.metadata, false, spec_changed);
        self.store_pool(name.to_owned(), pool)
    }

    fn store_pool(&mut self, name: String, pool: IPPool) -> Outcome {
        self.pools.insert(name, pool.clone());
        self.log.push(Event::Pool(Box::new(pool)));
        Outcome::Done(Answer::Nothing)
    }

    fn create_config(&mut self, mut config: IPAMConfig) -> Outcome {
        assert_eq!(config.metadata.name.as_deref(), Some(CONFIG_NAME));
        if self.config.is_some() {
            return Outcome::Conflict;
        }
        self.stamp(&mut config.metadata, true, true);
        self.store_config(config)
    }

    fn replace_config(&mut self, new: IPAMConfig, status: bool) -> Outcome {
        let Some(mut config) = self.config.clone() else { return Outcome::NotFound };
        if config.metadata.resource_version != new.metadata.resource_version {
            return Outcome::Conflict;
        }
        if status {
            config.status = new.status;
        } else {
            let in_use = config.status.as_ref().is_some_and(|status| status.in_use);
            assert!(!in_use || config.spec == new.spec, "the CEL rule would have refused this");
            config.spec = new.spec;
        }
        self.stamp(&mut config.metadata, false, !status);
        self.store_config(config)
    }

    fn store_config(&mut self, config: IPAMConfig) -> Outcome {
        self.config = Some(config.clone());
        self.log.push(Event::Config(Some(Box::new(config.clone()))));
        Outcome::Done(Answer::Config(Box::new(config)))
    }

    fn write_page(&mut self, mut page: IPAMLedger, create: bool) -> Outcome {
        let name = page.metadata.name.clone().unwrap();
        match self.pages.get(&name) {
            None if !create => return Outcome::NotFound,
            Some(_) if create => return Outcome::Conflict,
            Some(old) if old.metadata.resource_version != page.metadata.resource_version => return Outcome::Conflict,
            _ => {}
        }
        self.stamp(&mut page.metadata, create, true);
        self.pages.insert(name, page.clone());
        Outcome::Done(Answer::Page(Box::new(page)))
    }

    fn create_ipam_node(&mut self, mut node: IPAMNode) -> Outcome {
        let name = node.metadata.name.clone().unwrap();
        if self.ipam_nodes.contains_key(&name) {
            return Outcome::Conflict;
        }
        self.stamp(&mut node.metadata, true, true);
        self.node_writes += 1;
        self.store_ipam_node(name, node)
    }

    fn change_ipam_node(&mut self, name: &str, change: impl FnOnce(&mut IPAMNode) -> bool) -> Outcome {
        let Some(mut node) = self.ipam_nodes.get(name).cloned() else { return Outcome::NotFound };
        let spec = node.spec.clone();
        if !change(&mut node) {
            return Outcome::Conflict;
        }
        let spec_changed = spec != node.spec;
        self.node_writes += usize::from(spec_changed);
        self.stamp(&mut node.metadata, false, spec_changed);
        self.store_ipam_node(name.to_owned(), node)
    }

    fn store_ipam_node(&mut self, name: String, node: IPAMNode) -> Outcome {
        if is_serving(&node) {
            self.served.insert(node.spec.node_uid.clone());
        }
        self.ipam_nodes.insert(name, node.clone());
        self.log.push(Event::IpamNode(Box::new(node.clone())));
        Outcome::Done(Answer::IpamNode(Box::new(node)))
    }

    pub fn spoil(&mut self, name: &str) {
        let mut page = self.pages.remove(name).unwrap();
        self.stamp(&mut page.metadata, false, true);
        self.pages.insert(name.to_owned(), page);
        self.spoiled.insert(name.to_owned());
    }

    pub fn delete_a_page(&mut self) {
        self.pages.pop_first();
    }

    pub fn delete_config(&mut self) {
        self.config = None;
        self.log.push(Event::Config(None));
    }

    /// What the API server would do of an apply with force: no test of what it was planned from.
    pub fn upsert(&mut self, name: &str, spec: IPAMNodeSpec) -> Outcome {
        if self.ipam_nodes.contains_key(name) {
            return self.change_ipam_node(name, |node| {
                node.spec = spec;
                true
            });
        }
        self.create_ipam_node(IPAMNode::new(name, spec))
    }

    /// An agent's write of its part of the status.
    pub fn set_status(&mut self, name: &str, mut node: IPAMNode) {
        self.stamp(&mut node.metadata, false, false);
        self.store_ipam_node(name.to_owned(), node);
    }

    pub fn delete_ipam_node(&mut self, name: &str, uid: &str) -> Outcome {
        match self.ipam_nodes.get(name) {
            None => Outcome::NotFound,
            Some(node) if node.metadata.uid.as_deref() != Some(uid) => Outcome::Conflict,
            Some(node) if self.held.contains(name) => {
                let mut node = node.clone();
                node.metadata.finalizers = Some(vec!["example.com/hangs".to_owned()]);
                node.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
                self.stamp(&mut node.metadata, false, false);
                self.store_ipam_node(name.to_owned(), node.clone());
                Outcome::Done(Answer::IpamNode(Box::new(node)))
            }
            Some(_) => {
                self.ipam_nodes.remove(name);
                self.log.push(Event::IpamNodeGone { name: name.to_owned(), uid: uid.to_owned() });
                Outcome::Done(Answer::Nothing)
            }
        }
    }
}

/// What one operator's watches have seen, behind the store by however much.
pub struct Cache {
    /// How much of the log was read.
    read: usize,
    pub nodes: BTreeMap<String, NodeSeen>,
    /// By name, with UID.
    ipam_nodes: BTreeMap<String, String>,
}

impl Cache {
    /// As after a list.
    pub fn of(store: &Store) -> Self {
        let uid = |node: &IPAMNode| node.metadata.uid.clone().unwrap();
        let ipam_nodes = store.ipam_nodes.iter().map(|(name, node)| (name.clone(), uid(node))).collect();
        Self { read: store.log.len(), nodes: store.nodes.clone(), ipam_nodes }
    }

    pub fn is_current(&self, store: &Store) -> bool {
        self.read == store.log.len()
    }

    /// The next change.
    pub fn next(&mut self, store: &Store) -> Option<Event> {
        let event = store.log.get(self.read).cloned()?;
        self.read += 1;
        match &event {
            Event::Node(node) => drop(self.nodes.insert(node.name.clone(), node.clone())),
            Event::NodeGone { name } => drop(self.nodes.remove(name)),
            Event::IpamNode(node) => {
                drop(self.ipam_nodes.insert(node.metadata.name.clone().unwrap(), node.metadata.uid.clone().unwrap()));
            }
            Event::IpamNodeGone { name, .. } => drop(self.ipam_nodes.remove(name)),
            _ => {}
        }
        Some(event)
    }

    /// Everything as it is now, and what is not there any more.
    pub fn list_again(&mut self, store: &Store) -> Vec<Event> {
        let before = std::mem::replace(self, Self::of(store));
        let gone =
            before.nodes.iter().filter(|(name, node)| store.nodes.get(*name).is_none_or(|now| now.uid != node.uid));
        let mut events: Vec<_> = gone.map(|(name, _)| Event::NodeGone { name: name.clone() }).collect();
        let gone = before.ipam_nodes.into_iter().filter(|(name, uid)| self.ipam_nodes.get(name) != Some(uid));
        events.extend(gone.map(|(name, uid)| Event::IpamNodeGone { name, uid }));
        events.extend(store.nodes.values().cloned().map(Event::Node));
        events.extend(store.ipam_nodes.values().cloned().map(|node| Event::IpamNode(Box::new(node))));
        events.extend(store.pools.values().cloned().map(|pool| Event::Pool(Box::new(pool))));
        let version = store.version;
        events.push(Event::NodesListed { version, names: store.nodes.keys().cloned().collect() });
        events.push(Event::IpamNodesListed { version, names: store.ipam_nodes.keys().cloned().collect() });
        events.push(Event::Config(store.config.clone().map(Box::new)));
        events
    }
}

/// Whether its agent says so.
pub fn is_serving(node: &IPAMNode) -> bool {
    let conditions = node.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == condition_type::SERVING && condition.status == "True")
}

fn found(answer: Option<Answer>) -> Outcome {
    answer.map_or(Outcome::NotFound, Outcome::Done)
}
