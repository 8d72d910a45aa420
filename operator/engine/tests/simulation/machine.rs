//! The machines behind the Nodes: an agent that follows its `IPAMNode` with a delay, hands out addresses, promises blocks
//! away, and reports; and pods that outlive their Node's deletion by up to two minutes.

use std::collections::{BTreeMap, BTreeSet};

use cadastre_api::{AllocatedBlock, HeldBlock, IPAMNode, condition, condition_type, set_condition};
use cadastre_core::Cidr;
use k8s_openapi::jiff::Timestamp;
use uuid::Uuid;

type Grant = (Cidr, Uuid);

/// One machine with its agent's journal.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Name of its Node.
    pub node: String,
    /// Since when its Node is deleted; nothing new is started on it.
    pub deleted: Option<Timestamp>,
    /// What its `IPAMNode` listed when the agent last looked.
    listed: Vec<AllocatedBlock>,
    /// Pods with an address in each block, by the grant it was given under.
    pub pods: BTreeMap<Grant, u32>,
    promised: BTreeSet<Grant>,
    /// When its agent published last, or began to run.
    pub reported: Option<Timestamp>,
}

impl Machine {
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }

    /// The agent reads its `IPAMNode`, which is for this very Node.
    pub fn look(&mut self, object: &IPAMNode) {
        self.listed.clone_from(&object.spec.ipam.allocated);
        self.promised
            .retain(|(cidr, grant)| self.listed.iter().any(|block| block.cidr == *cidr && block.grant == *grant));
    }

    /// Blocks in which it may give out addresses now.
    pub fn usable(&self) -> Vec<Grant> {
        let listed = self.listed.iter().filter(|block| !block.retiring).map(|block| (block.cidr, block.grant));
        listed.filter(|grant| self.deleted.is_none() && !self.promised.contains(grant)).collect()
    }

    /// A pod gets an address.
    pub fn allocate(&mut self, grant: Grant) {
        *self.pods.entry(grant).or_default() += 1;
    }

    /// One pod ends.
    pub fn release(&mut self) {
        let Some(mut entry) = self.pods.first_entry() else { return };
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }

    /// Journals a promise for each retiring block without a pod.
    pub fn promise(&mut self) {
        let retiring = self.listed.iter().filter(|block| block.retiring).map(|block| (block.cidr, block.grant));
        let idle: Vec<_> = retiring.filter(|grant| !self.pods.contains_key(grant)).collect();
        self.promised.extend(idle);
    }

    /// What the agent publishes in the status.
    pub fn report(&self, object: &mut IPAMNode) {
        let held = |(cidr, grant): &Grant| HeldBlock { cidr: *cidr, grant: *grant };
        let listed = self.listed.iter().map(|block| (block.cidr, block.grant));
        let all: BTreeSet<_> = listed.chain(self.pods.keys().copied()).collect();
        let status = object.status.get_or_insert_default();
        let serving =
            condition(condition_type::SERVING, !self.usable().is_empty(), "Usable", "", 0, Timestamp::UNIX_EPOCH);
        set_condition(&mut status.conditions, serving);
        let ipam = status.ipam.get_or_insert_default();
        ipam.held = all.iter().filter(|grant| !self.promised.contains(*grant)).map(held).collect();
        ipam.releasable = self.promised.iter().map(held).collect();
    }

    /// Blocks with pods in them.
    pub fn in_use(&self) -> impl Iterator<Item = &Cidr> {
        self.pods.keys().map(|(cidr, _)| cidr)
    }
}
