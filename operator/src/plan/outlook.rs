//! What would be different, as data: the cluster as read beside the cluster as it would be. The names of the fields are
//! documented in docs/usage/plan.md, and programs read them.

use std::collections::{BTreeMap, BTreeSet};

use cadastre_api::{AdmittedCidr, AllocatedBlock, BlockEntry, BlockState, CONFIG_NAME, IPAMNode, Mode, condition_type};
use cadastre_core::Cidr;
use cadastre_engine::{EngineSettings, Note, Phase, RefusalKind, Regarding, Report, World};
use serde::Serialize;

use crate::metrics::kind_label;
use crate::plan::rehearse::Objects;

/// Everything that the operator would do now.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outlook {
    /// What `ipam.mode` says.
    pub configured_mode: Mode,
    /// What the cluster records; none before the first start.
    pub recorded_mode: Option<Mode>,
    /// What it would record.
    pub mode_in_force: Option<Mode>,
    /// Names of Ready nodes whose agents would have to say first what they hold: until then, 2 minutes at most, nothing
    /// is assigned. None if nothing waits for that.
    pub recovery: Option<Vec<String>>,
    /// `IPAMNode`s that would be created, updated or deleted.
    pub nodes: Vec<NodeChange>,
    /// Nodes that would go on waiting.
    pub waiting: Vec<Waiting>,
    /// Blocks whose state in the ledger would change.
    pub blocks: Vec<BlockChange>,
    /// CIDRs that pools would gain or lose.
    pub cidrs: Vec<CidrChange>,
    /// What of the settings contradicts what is in use.
    pub refused: Vec<Refused>,
    /// Events that would be published.
    pub events: Vec<Said>,
    /// Who holds blocks of what the refused settings would take away.
    pub held_by: Vec<HeldBy>,
}

/// What would happen to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    Create,
    Update,
    Delete,
}

/// One `IPAMNode`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeChange {
    /// Name of the node.
    pub node: String,
    /// What happens to its `IPAMNode`.
    pub change: Change,
    /// Blocks that it gets.
    pub gets: Vec<Cidr>,
    /// Blocks that it loses.
    pub loses: Vec<Cidr>,
    /// Blocks that it keeps and is not to allocate from any more.
    pub retires: Vec<Cidr>,
}

/// One node without what its mode gives it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Waiting {
    pub node: String,
    /// As in the condition `Assigned`.
    pub reason: String,
    pub message: String,
}

/// What a block becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockChangeKind {
    Assign,
    Cool,
    Free,
}

/// One block of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlockChange {
    pub block: Cidr,
    pub pool: String,
    /// Who has it then, or had it.
    pub node: String,
    pub change: BlockChangeKind,
}

/// One CIDR of one pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CidrChange {
    pub cidr: Cidr,
    pub pool: String,
    pub mask_size: u8,
    /// `create`: it is added; `update`: its block size is another; `delete`: it is removed.
    pub change: Change,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refused {
    /// `mode` or `pool`.
    pub kind: &'static str,
    pub message: String,
}

/// One Event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Said {
    /// `Node`, `IPAMConfig` or `IPPool`.
    pub kind: &'static str,
    /// Name of the object.
    pub name: String,
    pub reason: &'static str,
    pub message: String,
}

impl From<&Note> for Said {
    fn from(note: &Note) -> Self {
        let (kind, name) = match &note.regarding {
            Regarding::Node { name, .. } => ("Node", name.as_str()),
            Regarding::Config { .. } => ("IPAMConfig", CONFIG_NAME),
            Regarding::Pool { name } => ("IPPool", name.as_str()),
        };
        Self { kind, name: name.to_owned(), reason: note.reason, message: note.message.clone() }
    }
}

/// Holders of one CIDR.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldBy {
    /// None in mode kubernetes, which has no pools.
    pub cidr: Option<Cidr>,
    /// Names of the nodes with blocks in it, held or cooling.
    pub nodes: BTreeSet<String>,
}

impl Outlook {
    /// What `report` and `after` make of `before`.
    pub fn of(settings: &EngineSettings, report: &Report, world: &World, after: &Objects) -> Self {
        let before = Objects::of(world);
        let refused = report.refusals.iter();
        Self {
            configured_mode: settings.mode,
            recorded_mode: before.config.as_ref().map(|config| config.spec.mode),
            mode_in_force: report.mode_in_force,
            recovery: (report.phase == Phase::Recovering).then(|| silent(world, after)),
            nodes: node_changes(&before, after),
            waiting: after.ipam_nodes.iter().filter_map(|(name, node)| waiting(name, node)).collect(),
            blocks: block_changes(&before, after),
            cidrs: cidr_changes(&admitted(&before), &admitted(after)),
            refused: refused.map(|r| Refused { kind: kind_label(r.kind), message: r.message.clone() }).collect(),
            events: after.notes.iter().map(Said::from).collect(),
            held_by: held_by(settings, report, &before),
        }
    }

    /// Whether something of the settings would be refused.
    pub fn is_refused(&self) -> bool {
        !self.refused.is_empty()
    }
}

/// Ready nodes whose agent has not said what it holds.
fn silent(world: &World, after: &Objects) -> Vec<String> {
    let reported = |name: &str, uid: &str| {
        let node = after.ipam_nodes.get(name).filter(|node| node.spec.node_uid == uid);
        node.and_then(|node| node.status.as_ref()).is_some_and(|status| status.ipam.is_some())
    };
    let asked = world.nodes.iter().filter(|node| node.ready && !node.excluded);
    asked.filter(|node| !reported(&node.name, &node.uid)).map(|node| node.name.clone()).collect()
}

fn node_changes(before: &Objects, after: &Objects) -> Vec<NodeChange> {
    let names: BTreeSet<_> = before.ipam_nodes.keys().chain(after.ipam_nodes.keys()).collect();
    let change = |name: &String| node_change(name, before.ipam_nodes.get(name), after.ipam_nodes.get(name));
    names.into_iter().filter_map(change).collect()
}

fn node_change(name: &str, before: Option<&IPAMNode>, after: Option<&IPAMNode>) -> Option<NodeChange> {
    let change = match (before, after) {
        (None, _) => Change::Create,
        (Some(_), None) => Change::Delete,
        (Some(before), Some(after)) if before.spec != after.spec => Change::Update,
        (Some(_), Some(_)) => return None,
    };
    let blocks = |node: Option<&IPAMNode>| node.map(|node| node.spec.ipam.allocated.clone()).unwrap_or_default();
    let (old, new) = (blocks(before), blocks(after));
    let missing = |from: &[AllocatedBlock], block: &AllocatedBlock| !from.iter().any(|other| other.cidr == block.cidr);
    let retiring =
        |block: &&AllocatedBlock| block.retiring && old.iter().any(|known| known.cidr == block.cidr && !known.retiring);
    Some(NodeChange {
        node: name.to_owned(),
        change,
        gets: new.iter().filter(|block| missing(&old, block)).map(|block| block.cidr).collect(),
        loses: old.iter().filter(|block| missing(&new, block)).map(|block| block.cidr).collect(),
        retires: new.iter().filter(retiring).map(|block| block.cidr).collect(),
    })
}

fn waiting(name: &str, node: &IPAMNode) -> Option<Waiting> {
    let conditions = &node.status.as_ref()?.conditions;
    let lacks = conditions.iter().find(|c| c.type_ == condition_type::ASSIGNED && c.status == "False")?;
    Some(Waiting { node: name.to_owned(), reason: lacks.reason.clone(), message: lacks.message.clone() })
}

fn entries(objects: &Objects) -> BTreeMap<Cidr, (&str, &BlockEntry)> {
    let pages = objects.pages.values();
    pages.flat_map(|page| page.spec.entries.iter().map(|e| (e.block, (page.spec.pool.as_str(), e)))).collect()
}

fn block_changes(before: &Objects, after: &Objects) -> Vec<BlockChange> {
    let (old, new) = (entries(before), entries(after));
    let blocks: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
    let change = |block: Cidr| {
        let (change, (pool, entry)) = match (old.get(&block), new.get(&block)) {
            (Some(was), None) => (BlockChangeKind::Free, was),
            (Some((_, was)), Some(is)) if was.state == is.1.state && was.grant == is.1.grant => return None,
            (_, Some(is)) if is.1.state == BlockState::Cooling => (BlockChangeKind::Cool, is),
            (_, Some(is)) => (BlockChangeKind::Assign, is),
            (None, None) => return None,
        };
        Some(BlockChange { block, pool: (*pool).to_owned(), node: entry.node.clone(), change })
    };
    blocks.into_iter().filter_map(change).collect()
}

fn admitted(objects: &Objects) -> Vec<AdmittedCidr> {
    let status = objects.config.as_ref().and_then(|config| config.status.as_ref());
    status.map(|status| status.cidrs.clone()).unwrap_or_default()
}

fn cidr_changes(before: &[AdmittedCidr], after: &[AdmittedCidr]) -> Vec<CidrChange> {
    let find = |list: &[AdmittedCidr], wanted: &AdmittedCidr| {
        list.iter().find(|cidr| cidr.cidr == wanted.cidr && cidr.pool == wanted.pool).map(|cidr| cidr.mask_size)
    };
    let say = |cidr: &AdmittedCidr, change| CidrChange {
        cidr: cidr.cidr,
        pool: cidr.pool.clone(),
        mask_size: cidr.mask_size,
        change,
    };
    let gone = before.iter().filter(|old| find(after, old).is_none()).map(|old| say(old, Change::Delete));
    let come = after.iter().filter_map(|new| match find(before, new) {
        None => Some(say(new, Change::Create)),
        Some(mask) if mask != new.mask_size => Some(say(new, Change::Update)),
        Some(_) => None,
    });
    gone.chain(come).collect()
}

/// Who stands against what is refused: for a pool, by CIDR; for a mode, everybody with a block.
fn held_by(settings: &EngineSettings, report: &Report, before: &Objects) -> Vec<HeldBy> {
    let refused = |kind| report.refusals.iter().any(|refusal| refusal.kind == kind);
    if report.refusals.is_empty() {
        return Vec::new();
    }
    let cidrs = admitted(before).into_iter().filter(|cidr| cidr.in_use);
    let stands = |old: &AdmittedCidr| {
        let wanted =
            settings.pools.iter().any(|pool| pool.cidrs.contains(&old.cidr) && pool.mask_size == old.mask_size);
        refused(RefusalKind::Mode) || !wanted
    };
    let entries = entries(before);
    let holders = |cidr: &Cidr| {
        let within = entries.iter().filter(|(block, _)| cidr.contains(block));
        within.map(|(_, (_, entry))| entry.node.clone()).collect()
    };
    let by_cidr = cidrs.filter(stands).map(|old| HeldBy { cidr: Some(old.cidr), nodes: holders(&old.cidr) });
    let by_cidr: Vec<_> = by_cidr.collect();
    if !by_cidr.is_empty() {
        return by_cidr;
    }
    let mirrored = before.ipam_nodes.iter().filter(|(_, node)| !node.spec.ipam.allocated.is_empty());
    vec![HeldBy { cidr: None, nodes: mirrored.map(|(name, _)| name.clone()).collect() }]
}
