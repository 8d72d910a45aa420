//! Step 6: one write makes a node's `IPAMNode` say what the ledger says. Created by POST, changed by patches that test
//! what they were planned from; never an upsert.

use std::collections::BTreeMap;

use cadastre_api::{
    AllocatedBlock, BlockEntry, BlockState, IPAMNode, IPAMNodeSpec, NodeAddress, NodeIpam, condition, condition_type,
    reason, set_condition,
};
use cadastre_core::{Cidr, Family};
use cadastre_modes::Planner;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference};

use crate::assign::shortage_reason;
use crate::claims::contest_message;
use crate::effect::{Action, Note, Regarding};
use crate::engine::{Engine, Flight, Later};
use crate::ledger::Place;
use crate::nodes::{NodeRec, Published, after, backoff};
use crate::page::Change;

/// What is known of a page is fresh for this long: half of what a block cools at least (the other half is for a write
/// under way).
const FRESH: std::time::Duration = std::time::Duration::from_mins(1);

/// Changes of one `IPAMNode` this close together are counted, and these many are done at once.
const WINDOW: std::time::Duration = std::time::Duration::from_mins(1);
const QUICK: u32 = 5;

/// As many as the definition of `IPAMNode` allows.
const MOST_ADDRESSES: usize = 16;

impl Engine {
    pub(crate) fn apply(&mut self, name: &str) {
        let busy = self.applying.contains(name) || self.unsettled.contains(name);
        let (Some(rec), false) = (self.nodes.get(name), busy) else { return };
        let Some(spec) = self.desired(name) else { return };
        let Some(published) = self.published.get(name) else {
            let wanted = !spec.ipam.allocated.is_empty() || rec.shortage.is_some() || !self.is_live();
            let node = owned(name, &rec.seen.uid, spec);
            if wanted && !self.recheck(name, &node.spec) {
                self.start_apply(name, Action::CreateIpamNode(Box::new(node)));
            }
            return;
        };
        let (uid, generation) = (published.uid.clone(), published.generation);
        if published.spec.node_uid != rec.seen.uid {
            match self.deletion_held(name).map(|finalizers| held_note(name, &rec.seen.uid, finalizers)) {
                Some(note) => self.publish(note),
                // Which of the two UIDs is the old one, only a live GET can say.
                None => self.raise_doubt(name),
            }
        } else if published.spec != spec {
            if !self.recheck(name, &spec) && self.is_calm(name) {
                let spec = Box::new(spec);
                self.start_apply(name, Action::PatchIpamNode { name: name.to_owned(), uid, generation, spec });
            }
        } else if let Some(conditions) = self.desired_conditions(name, published) {
            if !self.is_calm(name) {
                return;
            }
            self.start_apply(name, Action::SetIpamNodeConditions { name: name.to_owned(), conditions });
        } else {
            self.shed(name);
        }
    }

    /// The finalizers that hold the `IPAMNode` of an earlier Node of this name, which was told to go.
    pub(crate) fn deletion_held(&self, name: &str) -> Option<&[String]> {
        let (rec, published) = (self.nodes.get(name)?, self.published.get(name)?);
        published.held_by.as_deref().filter(|_| published.spec.node_uid != rec.seen.uid)
    }

    /// Whether the ledger is to be read again before `spec` is written, since it is not watched: the pages of blocks that
    /// would be put in, if what is known of them is so old that they could have been given back and be about to become
    /// another's.
    fn recheck(&mut self, name: &str, spec: &IPAMNodeSpec) -> bool {
        if !self.is_live() || !self.has_ledger() {
            return false;
        }
        let known = self.published.get(name).map(|node| node.spec.ipam.allocated.clone()).unwrap_or_default();
        let new = spec.ipam.allocated.iter().filter(|block| !known.iter().any(|other| other.cidr == block.cidr));
        let new: Vec<_> = new.map(|block| block.cidr).collect();
        let mut pages = Vec::new();
        for place in new.iter().filter_map(|block| self.place_of(block)).collect::<Vec<_>>() {
            if after(self.ledger.page(place.page).known_at, FRESH) < self.now {
                pages.push(place.page);
            }
        }
        self.waits_for(name, &pages)
    }

    /// Whether to change it now. Two operators with different views undo each other's changes until one has learned what
    /// it lacks: that ends sooner, and costs the API server less, if each takes its time.
    fn is_calm(&mut self, name: &str) -> bool {
        let now = self.now;
        let Some(rec) = self.nodes.get_mut(name) else { return false };
        let (last, count) = rec.changed;
        let count = if after(last, WINDOW) < now { 0 } else { count };
        let not_before = if count < QUICK { now } else { backoff(last, count - QUICK) };
        if not_before > now {
            self.timers.insert((not_before, Later::Node(name.to_owned())));
            return false;
        }
        rec.changed = (now, count + 1);
        true
    }

    fn start_apply(&mut self, name: &str, action: Action) {
        self.applying.insert(name.to_owned());
        let uid = self.published.get(name).map(|published| published.uid.clone());
        self.emit(Flight::Apply(name.to_owned(), uid), action);
    }

    /// What the `IPAMNode` is to say; `None` while that is not known yet.
    fn desired(&self, name: &str) -> Option<IPAMNodeSpec> {
        let rec = self.nodes.get(name)?;
        let mode = self.mode()?;
        let mut allocated = match (self.is_live(), self.planner.as_ref()?) {
            // Until everything was read, what is published stays as it is.
            (false, _) => self.published_of(name).map(|node| node.spec.ipam.allocated.clone()).unwrap_or_default(),
            (true, Planner::Kubernetes(_)) => {
                if !rec.mirrored.is_empty() && !self.config.as_ref()?.status.as_ref()?.in_use {
                    return None;
                }
                rec.mirrored.clone()
            }
            (true, Planner::ClusterPool(_)) => {
                let mut blocks: Vec<_> = self.chosen(name).into_values().collect();
                blocks.extend(self.kept(name));
                blocks
            }
        };
        let mut pod_cidrs: Vec<_> = allocated.iter().map(|block| block.cidr).collect();
        if self.is_live() {
            // Other nodes send packets for the podCIDRs here: not for what only this node's agent says is its own.
            let contested = self.contested_of(name);
            let own = |cidr: &Cidr| self.ledger.of(name, &rec.seen.uid).any(|(place, _)| place.block == *cidr);
            pod_cidrs.extend(contested.iter().map(|block| block.cidr).filter(own));
            allocated.extend(contested);
        } else if let Some(published) = self.published_of(name) {
            pod_cidrs.clone_from(&published.spec.ipam.pod_cidrs);
        }
        let (node_uid, addresses) = (rec.seen.uid.clone(), self.addresses(rec));
        Some(IPAMNodeSpec { mode, node_uid, addresses, ipam: NodeIpam { allocated, pod_cidrs } })
    }

    /// Where others reach the node. A Node that says nothing for a moment, as while its cloud is asked, takes nothing back.
    fn addresses(&self, rec: &NodeRec) -> Vec<NodeAddress> {
        let published = self.published.get(&rec.seen.name).filter(|node| node.spec.node_uid == rec.seen.uid);
        match published {
            Some(published) if rec.seen.internal.is_empty() => published.spec.addresses.clone(),
            _ => rec.seen.internal.iter().copied().take(MOST_ADDRESSES).map(NodeAddress::internal).collect(),
        }
    }

    /// One held block of each family: the one published to be allocated from, else the one held longest.
    fn chosen(&self, name: &str) -> BTreeMap<Family, AllocatedBlock> {
        let node = self.published.get(name);
        let published = |block: &Cidr| {
            node.is_some_and(|node| {
                node.spec.ipam.allocated.iter().any(|known| known.cidr == *block && !known.retiring)
            })
        };
        let held = self.holds(name).filter(|(_, entry)| entry.state == BlockState::Held);
        let mut held: Vec<_> = held.collect();
        held.sort_by_key(|(place, entry)| (!published(&place.block), entry.since.0, place.block));
        let mut chosen = BTreeMap::new();
        for (place, entry) in held {
            chosen.entry(place.block.family()).or_insert_with(|| self.allocated(&place, entry));
        }
        chosen
    }

    /// Held blocks beyond one of each family that the node may be using: they stay until its agent promises them away, and
    /// nothing new is allocated in them.
    fn kept(&self, name: &str) -> Vec<AllocatedBlock> {
        let (chosen, published) = (self.chosen(name), self.published_of(name));
        let may_use = |entry: &BlockEntry| {
            entry.state == BlockState::Held && published.is_some_and(|node| node.may_use(&entry.block, entry.grant))
        };
        let surplus = self.holds(name).filter(|(place, _)| !chosen.values().any(|kept| kept.cidr == place.block));
        let kept = surplus.filter(|(_, entry)| may_use(entry));
        kept.map(|(place, entry)| AllocatedBlock { retiring: true, ..self.allocated(&place, entry) }).collect()
    }

    fn allocated(&self, place: &Place, entry: &BlockEntry) -> AllocatedBlock {
        let (pool, family) = (self.ledger.pool_of(place).to_owned(), place.block.family());
        AllocatedBlock { pool, family, cidr: place.block, grant: entry.grant, retiring: false }
    }

    /// The operator's conditions, if they are to change. There are none on a node that never lacked anything.
    fn desired_conditions(&self, name: &str, published: &Published) -> Option<Vec<Condition>> {
        let rec = self.nodes.get(name)?;
        let mut conditions = published.conditions.clone();
        let mut say = |kind: &str, wrong: Option<(&str, String)>, wrong_status: bool, right: (&str, &str)| {
            let new = match wrong {
                Some((reason, message)) => {
                    condition(kind, wrong_status, reason, &message, published.generation, self.now)
                }
                None if conditions.iter().any(|old| old.type_ == kind) => {
                    condition(kind, !wrong_status, right.0, right.1, published.generation, self.now)
                }
                None => return false,
            };
            set_condition(&mut conditions, new)
        };
        let short = rec.shortage.as_ref().map(|shortage| (shortage_reason(shortage), shortage.to_string()));
        let assigned = say(condition_type::ASSIGNED, short, false, (reason::ASSIGNED, "the node has its blocks"));
        let dispute = contest_message(&rec.contested).map(|message| (reason::BLOCK_DISPUTED, message));
        let disputed =
            say(condition_type::DISPUTED, dispute, true, (reason::ASSIGNED, "nobody else claims its blocks"));
        (assigned || disputed).then_some(conditions)
    }

    /// Blocks that the ledger says are the node's, in which it cannot allocate any more, and that it does not claim.
    fn unclaimed(&self, name: &str) -> impl Iterator<Item = (Place, &BlockEntry)> {
        let rec = self.nodes.get(name);
        let claims = self.claims_of(name);
        let entries = rec.into_iter().flat_map(|rec| self.ledger.of(&rec.seen.name, &rec.seen.uid));
        entries.filter(move |(place, entry)| {
            let lost = rec.is_some_and(|rec| self.is_lost(rec, entry));
            lost && entry.state != BlockState::Cooling && !claims.iter().any(|claim| claim.cidr == place.block)
        })
    }

    /// Blocks beyond one of each family that the node cannot be using, left by operators that raced: they cool and are free.
    fn shed(&mut self, name: &str) {
        if !self.has_ledger() || !self.is_live() {
            return;
        }
        let (chosen, stay, at) = (self.chosen(name), self.kept(name), self.now);
        let kept = |block: &Cidr| chosen.values().chain(&stay).any(|kept| kept.cidr == *block);
        let surplus = self.holds(name).filter(|(place, _)| !chosen.is_empty() && !kept(&place.block));
        let surplus: Vec<_> = surplus.chain(self.unclaimed(name)).map(|(place, entry)| (place, entry.grant)).collect();
        for (place, grant) in surplus {
            self.ledger.queue(place.page, Change::Cool { block: place.block, grant, at });
        }
    }
}

fn held_note(name: &str, uid: &str, finalizers: &[String]) -> Note {
    let message = format!(
        "IPAMNode {name} is of an earlier Node of this name and being deleted, but finalizers hold it: {}. The node \
         gets its blocks once they are removed",
        finalizers.join(", ")
    );
    let regarding = Regarding::Node { name: name.to_owned(), uid: uid.to_owned() };
    Note { regarding, warning: true, reason: reason::DELETION_HELD, message }
}

/// An `IPAMNode` that goes with its Node.
fn owned(name: &str, uid: &str, spec: IPAMNodeSpec) -> IPAMNode {
    let mut node = IPAMNode::new(name, spec);
    node.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }]);
    node
}
