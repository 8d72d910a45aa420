//! The running operator's engine over a store in memory, which takes its writes as the API server would and tells nobody.

use std::collections::{BTreeMap, VecDeque};

use cadastre_api::{IPAMConfig, IPAMLedger, IPAMNode, condition_type};
use cadastre_engine::{Action, Answer, Effect, Engine, EngineSettings, Event, Note, Outcome, Report, World};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::plan::{Outlook, PlanError};

/// Ticks until everything that the engine puts off to the next one is done: clearing what is unused takes the most, four.
const TICKS: usize = 10;

/// Versions of objects written here: later than any that an API server gave.
const FIRST_VERSION: u64 = 1 << 62;

/// What would come of an engine that starts now. `look` is the live word on a Node.
pub async fn rehearse(
    settings: EngineSettings,
    world: World,
    now: Timestamp,
    look: impl AsyncFn(String) -> Result<Outcome, PlanError>,
) -> Result<Outlook, PlanError> {
    let (report, after) = act_out(settings.clone(), world.clone(), now, look).await?;
    Ok(Outlook::of(&settings, &report, &world, &after))
}

/// Lets the engine act until nothing is left to do.
async fn act_out(
    settings: EngineSettings,
    world: World,
    now: Timestamp,
    look: impl AsyncFn(String) -> Result<Outcome, PlanError>,
) -> Result<(Report, Objects), PlanError> {
    let mut store = Store::of(&world);
    // Grants are drawn and not shown: any seed will do.
    let mut engine = Engine::new(settings, [0; 32]);
    let mut events = VecDeque::from([Event::Started(Box::new(world))]);
    for _ in 0..TICKS {
        let mut idle = true;
        events.push_back(Event::Tick);
        while let Some(event) = events.pop_front() {
            for Effect { id, action } in engine.handle(now, event) {
                idle = false;
                let outcome = match action {
                    Action::GetNode { name } => look(name).await?,
                    action => store.act(action),
                };
                events.push_back(Event::Outcome { id, outcome });
            }
            events.extend(store.seen.drain(..));
        }
        if idle {
            break;
        }
    }
    Ok((engine.report(), store.objects))
}

/// What there would be.
#[derive(Debug, Default)]
pub struct Objects {
    pub config: Option<IPAMConfig>,
    pub pages: BTreeMap<String, IPAMLedger>,
    pub ipam_nodes: BTreeMap<String, IPAMNode>,
    /// Events that would be published.
    pub notes: Vec<Note>,
}

impl Objects {
    pub fn of(world: &World) -> Self {
        Self {
            config: world.config.clone(),
            pages: world.pages.iter().map(|page| (page.name_any(), page.clone())).collect(),
            ipam_nodes: world.ipam_nodes.iter().map(|node| (node.name_any(), node.clone())).collect(),
            notes: Vec::new(),
        }
    }
}

/// The objects, and what a watch would tell of them.
#[derive(Debug)]
struct Store {
    objects: Objects,
    version: u64,
    seen: Vec<Event>,
}

impl Store {
    fn of(world: &World) -> Self {
        Self { objects: Objects::of(world), version: FIRST_VERSION, seen: Vec::new() }
    }

    /// There is only one writer, so what a write tests always holds.
    fn act(&mut self, action: Action) -> Outcome {
        match action {
            Action::CreateConfig(config) | Action::ReplaceConfig(config) => self.write_config(*config, true),
            Action::ReplaceConfigStatus(config) => self.write_config(*config, false),
            Action::GetConfig => self.config(),
            Action::CreatePage(page) | Action::ReplacePage(page) => {
                let page = IPAMLedger { metadata: self.stamp(&page.metadata, true), ..*page };
                let name = page.name_any();
                self.objects.pages.insert(name.clone(), page);
                self.page(&name)
            }
            Action::GetPage { name } => self.page(&name),
            Action::ListPages => Outcome::Done(Answer::Pages(self.objects.pages.values().cloned().collect())),
            Action::CreateIpamNode(node) => {
                let node = IPAMNode { metadata: self.stamp(&node.metadata, true), ..*node };
                let name = node.name_any();
                self.objects.ipam_nodes.insert(name.clone(), node);
                self.ipam_node(&name)
            }
            Action::PatchIpamNode { name, spec, .. } => self.change_node(&name, true, |node| node.spec = *spec),
            Action::SetIpamNodeConditions { name, conditions } => {
                self.change_node(&name, false, |node| set_ours(node, conditions))
            }
            Action::DeleteIpamNode { name, .. } => {
                self.objects.ipam_nodes.remove(&name);
                Outcome::Done(Answer::Nothing)
            }
            Action::GetIpamNode { name } => self.ipam_node(&name),
            Action::CreatePool(pool) | Action::PatchPool(pool) => {
                self.seen.push(Event::Pool(pool));
                Outcome::Done(Answer::Nothing)
            }
            Action::Publish(note) => {
                self.objects.notes.push(note);
                Outcome::Done(Answer::Nothing)
            }
            // A plan is about blocks; of the rest nothing is shown.
            Action::SetPoolStatus { .. } | Action::Untaint { .. } | Action::SetNetworkAvailable { .. } => {
                Outcome::Done(Answer::Nothing)
            }
            Action::GetNode { name } => Outcome::Uncertain(format!("Node {name} is read live")),
        }
    }

    /// The metadata after one more write, of the spec or only of the status.
    fn stamp(&mut self, metadata: &ObjectMeta, spec: bool) -> ObjectMeta {
        self.version += 1;
        ObjectMeta {
            uid: metadata.uid.clone().or_else(|| Some(format!("planned-{}", self.version))),
            resource_version: Some(self.version.to_string()),
            generation: Some(metadata.generation.unwrap_or(0) + i64::from(spec)),
            ..metadata.clone()
        }
    }

    fn write_config(&mut self, config: IPAMConfig, spec: bool) -> Outcome {
        let metadata = self.stamp(&config.metadata, spec);
        self.objects.config = Some(IPAMConfig { metadata, ..config });
        self.config()
    }

    fn change_node(&mut self, name: &str, spec: bool, change: impl FnOnce(&mut IPAMNode)) -> Outcome {
        let Some(mut node) = self.objects.ipam_nodes.remove(name) else { return Outcome::NotFound };
        node.metadata = self.stamp(&node.metadata, spec);
        change(&mut node);
        self.objects.ipam_nodes.insert(name.to_owned(), node);
        self.ipam_node(name)
    }

    fn config(&self) -> Outcome {
        answer(self.objects.config.clone(), |config| Answer::Config(Box::new(config)))
    }

    fn page(&self, name: &str) -> Outcome {
        answer(self.objects.pages.get(name).cloned(), |page| Answer::Page(Box::new(page)))
    }

    fn ipam_node(&self, name: &str) -> Outcome {
        answer(self.objects.ipam_nodes.get(name).cloned(), |node| Answer::IpamNode(Box::new(node)))
    }
}

fn answer<T>(object: Option<T>, wrap: impl FnOnce(T) -> Answer) -> Outcome {
    object.map_or(Outcome::NotFound, |object| Outcome::Done(wrap(object)))
}

/// Of an `IPAMNode`'s conditions the operator owns two.
fn set_ours(node: &mut IPAMNode, conditions: Vec<Condition>) {
    let status = node.status.get_or_insert_default();
    status.conditions.retain(|old| ![condition_type::ASSIGNED, condition_type::DISPUTED].contains(&old.type_.as_str()));
    status.conditions.extend(conditions);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cadastre_api::Mode;
    use cadastre_core::Family;
    use cadastre_engine::{ConfiguredPool, NodeSeen};

    use super::*;
    use crate::plan::outlook::{BlockChangeKind, Change};

    fn settings(cidrs: &[&str]) -> EngineSettings {
        let cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        EngineSettings {
            mode: Mode::ClusterPool,
            families: vec![Family::V4],
            required: vec![],
            pools: vec![ConfiguredPool { pool: "default".into(), family: Family::V4, cidrs, mask_size: 24 }],
            reserved: Vec::new(),
            block_cooling: Duration::from_mins(5),
            remove_taints: true,
            set_network_status: true,
            recover: false,
        }
    }

    fn node(name: &str, ready: bool) -> NodeSeen {
        NodeSeen { name: name.into(), uid: format!("uid-{name}"), version: 1, ready, ..NodeSeen::default() }
    }

    fn nodes(names: &[&str]) -> World {
        World { nodes: names.iter().map(|name| node(name, false)).collect(), ..World::default() }
    }

    /// Only what the watch said is there.
    async fn gone(_: String) -> Result<Outcome, PlanError> {
        Ok(Outcome::NotFound)
    }

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    /// The cluster after the operator did all it would, with these nodes in it then.
    async fn settled(cidrs: &[&str], world: World, then: &[&str]) -> World {
        let (_, mut after) = act_out(settings(cidrs), world, AT, gone).await.unwrap();
        // Older than what the next rehearsal writes, as an API server's versions are.
        let old = Some("1".to_owned());
        after.config.iter_mut().for_each(|config| config.metadata.resource_version.clone_from(&old));
        after.ipam_nodes.values_mut().for_each(|node| node.metadata.resource_version.clone_from(&old));
        World {
            config: after.config,
            pages: after.pages.into_values().collect(),
            ipam_nodes: after.ipam_nodes.into_values().collect(),
            ..nodes(then)
        }
    }

    async fn outlook(cidrs: &[&str], world: World, seconds: i64) -> Outlook {
        rehearse(settings(cidrs), world, Timestamp::from_second(seconds).unwrap(), gone).await.unwrap()
    }

    #[tokio::test]
    async fn nodes_get_blocks_and_one_waits_for_want_of_a_third() {
        let plan = outlook(&["10.0.0.0/23"], nodes(&["a", "b", "c"]), 0).await;
        let got: Vec<_> = plan.nodes.iter().map(|node| (node.change, node.gets.len())).collect();
        assert_eq!(got, [(Change::Create, 1), (Change::Create, 1), (Change::Create, 0)]);
        assert_eq!((plan.waiting.len(), plan.waiting[0].node.as_str()), (1, "c"));
        assert_eq!(plan.waiting[0].reason, "PoolExhausted");
        assert_eq!((plan.recorded_mode, plan.mode_in_force), (None, Some(Mode::ClusterPool)));
        assert_eq!(plan.cidrs.len(), 1, "the CIDR is admitted to the pool");
        assert!(!plan.is_refused() && plan.recovery.is_none());
    }

    #[tokio::test]
    async fn an_operator_that_starts_again_does_not_repeat_the_event_of_a_waiting_node() {
        let plan = outlook(&["10.0.0.0/24"], nodes(&["a", "b"]), 0).await;
        let said: Vec<_> = plan.events.iter().map(|event| (event.kind, event.name.as_str(), event.reason)).collect();
        assert_eq!(said, [("Node", "b", "PoolExhausted")]);
        let world = settled(&["10.0.0.0/24"], nodes(&["a", "b"]), &["a", "b"]).await;
        let plan = outlook(&["10.0.0.0/24"], world, 1).await;
        assert_eq!((plan.events.len(), plan.waiting.len()), (0, 1));
    }

    #[tokio::test]
    async fn what_is_settled_stays() {
        let world = settled(&["10.0.0.0/16"], nodes(&["a", "b"]), &["a", "b"]).await;
        let plan = outlook(&["10.0.0.0/16"], world, 1).await;
        assert_eq!((plan.nodes.len(), plan.blocks.len(), plan.cidrs.len(), plan.waiting.len()), (0, 0, 0, 0));
    }

    #[tokio::test]
    async fn blocks_of_a_node_that_is_gone_cool_and_later_are_freed() {
        let world = settled(&["10.0.0.0/16"], nodes(&["a", "b"]), &["a"]).await;
        let plan = outlook(&["10.0.0.0/16"], world.clone(), 1).await;
        let changes: Vec<_> = plan.blocks.iter().map(|block| (block.node.as_str(), block.change)).collect();
        assert_eq!(changes, [("b", BlockChangeKind::Cool)]);
        assert_eq!((plan.nodes[0].change, plan.nodes[0].loses.len()), (Change::Delete, 1));
        let world = settled(&["10.0.0.0/16"], world, &["a"]).await;
        let plan = outlook(&["10.0.0.0/16"], world.clone(), 299).await;
        assert_eq!(plan.blocks, []);
        let plan = outlook(&["10.0.0.0/16"], world, 300).await;
        assert_eq!(plan.blocks.iter().map(|block| block.change).collect::<Vec<_>>(), [BlockChangeKind::Free]);
    }

    #[tokio::test]
    async fn a_refusal_names_who_holds_what() {
        let world = settled(&["10.0.0.0/16", "10.1.0.0/16"], nodes(&["a", "b"]), &["a", "b"]).await;
        let plan = outlook(&["10.2.0.0/16"], world, 1).await;
        assert!(plan.is_refused());
        assert_eq!(plan.held_by.len(), 1);
        assert_eq!(plan.held_by[0].cidr, Some("10.0.0.0/16".parse().unwrap()));
        assert_eq!(plan.held_by[0].nodes, ["a".to_owned(), "b".to_owned()].into());
        let cidrs: Vec<_> = plan.cidrs.iter().map(|cidr| (cidr.cidr.to_string(), cidr.change)).collect();
        assert_eq!(cidrs, [("10.1.0.0/16".to_owned(), Change::Delete), ("10.2.0.0/16".to_owned(), Change::Create)]);
    }

    #[tokio::test]
    async fn a_change_of_mode_is_refused_while_blocks_are_held_and_made_when_none_is() {
        let world = settled(&["10.0.0.0/16"], nodes(&["a"]), &["a"]).await;
        let kubernetes = EngineSettings { mode: Mode::Kubernetes, pools: vec![], ..settings(&[]) };
        let plan = rehearse(kubernetes.clone(), world, AT, gone).await.unwrap();
        assert_eq!((plan.is_refused(), plan.mode_in_force), (true, Some(Mode::ClusterPool)));
        assert_eq!(plan.held_by[0].nodes, ["a".to_owned()].into());
        let world = settled(&["10.0.0.0/16"], nodes(&[]), &[]).await;
        let plan = rehearse(kubernetes, world, AT, gone).await.unwrap();
        assert_eq!((plan.recorded_mode, plan.mode_in_force), (Some(Mode::ClusterPool), Some(Mode::Kubernetes)));
        assert!(!plan.is_refused());
    }

    #[tokio::test]
    async fn recovery_names_the_agents_it_waits_for() {
        let world = World { nodes: vec![node("a", true), node("b", false)], ..World::default() };
        let plan = outlook(&["10.0.0.0/16"], world, 0).await;
        assert_eq!(plan.recovery, Some(vec!["a".to_owned()]));
        assert!(plan.nodes.iter().all(|node| node.gets.is_empty()), "{plan}");
        let text = plan.to_string();
        assert!(text.contains("recovery: nothing is assigned until") && text.contains("1 to come: a"), "{text}");
    }
}
