//! Step 7: what people and metrics see. Written when it changed, once a second at most.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cadastre_api::{
    BlockCounts, IPPool, IPPoolSpec, IPPoolStatus, Mode, PoolCidrs, condition, condition_type, count, reason,
    set_condition,
};
use cadastre_core::{Cidr, Family};
use cadastre_modes::Shortage;

use crate::assign::shortage_reason;
use crate::config::Refusal;
use crate::effect::Action;
use crate::engine::{Engine, Flight, Stage};

/// Waiting, and not for want of anything: a plan is to come.
const QUEUED: &str = "Queued";

const SHORTAGES: [&str; 3] = [reason::POOL_EXHAUSTED, reason::WAITING_FOR_POD_CIDR, reason::POD_CIDR_OVERLAPS];

/// How far the engine is, for readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The cluster is being read.
    Starting,
    /// Agents are to report before anything is assigned.
    Recovering,
    /// Assigning.
    Live,
}

/// The engine at one moment.
#[derive(Clone, Debug)]
pub struct Report {
    /// The recorded mode, which goes on whatever is configured.
    pub mode_in_force: Option<Mode>,
    /// What is configured and refused.
    pub refusals: Vec<Refusal>,
    /// How far it is.
    pub phase: Phase,
    /// Nodes that wait for blocks, by reason: each of the condition `Assigned`, and `Queued`.
    pub waiting: BTreeMap<&'static str, usize>,
    /// Nodes whose `IPAMNode` has blocks.
    pub served_nodes: usize,
    /// Blocks of each pool and family.
    pub pools: Vec<PoolReport>,
    /// Mode kubernetes: blocks that `IPAMNode`s mirror, by family.
    pub mirrored: BTreeMap<Family, usize>,
    /// Blocks committed since the start.
    pub assignments: u64,
    /// Writes that somebody else's overtook, since the start.
    pub conflicts: u64,
    /// Ledger writes since the start.
    pub commits: u64,
}

/// One family of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolReport {
    /// Name of the `IPPool`.
    pub pool: String,
    /// Family.
    pub family: Family,
    /// Blocks by state.
    pub counts: BlockCounts,
}

impl Engine {
    /// How things stand. Costs a pass over the nodes: for a scrape, not for each event.
    #[must_use]
    pub fn report(&self) -> Report {
        let phase = match &self.stage {
            Stage::Starting => Phase::Starting,
            Stage::Recovering { .. } => Phase::Recovering,
            Stage::Live { .. } => Phase::Live,
        };
        Report {
            mode_in_force: self.mode(),
            refusals: self.refusals(),
            phase,
            waiting: self.waiting(),
            served_nodes: self.published.values().filter(|node| !node.spec.ipam.allocated.is_empty()).count(),
            pools: self.pool_reports(),
            mirrored: self.mirrored(),
            assignments: self.counters.assignments,
            conflicts: self.counters.conflicts,
            commits: self.counters.commits,
        }
    }

    /// Every reason, also those that nobody has.
    fn waiting(&self) -> BTreeMap<&'static str, usize> {
        let mut waiting = BTreeMap::from([(QUEUED, self.to_plan.len())]);
        waiting.extend(SHORTAGES.map(|reason| (reason, 0)));
        for (_, name) in &self.stuck {
            let shortage = self.nodes.get(name).and_then(|rec| rec.shortage.as_ref());
            *waiting.entry(shortage.map_or(QUEUED, shortage_reason)).or_default() += 1;
        }
        waiting
    }

    fn mirrored(&self) -> BTreeMap<Family, usize> {
        if self.mode() != Some(Mode::Kubernetes) {
            return BTreeMap::new();
        }
        let mut mirrored = BTreeMap::from(Family::ALL.map(|family| (family, 0)));
        for block in self.published.values().flat_map(|node| &node.spec.ipam.allocated) {
            *mirrored.entry(block.family).or_default() += 1;
        }
        mirrored
    }

    /// How long nodes had been known when their `IPAMNode` carried blocks: those since the last call.
    pub fn take_latencies(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.latencies)
    }

    fn pool_reports(&self) -> Vec<PoolReport> {
        let Stage::Live { occupancy } = &self.stage else { return Vec::new() };
        let report = |(pool, family): &(String, Family)| {
            let space = occupancy.counts(pool, *family)?;
            let (held, cooling) = self.ledger.counts(pool, *family);
            // Blocks on their way into the ledger count as held already.
            let held = held.max(space.taken.saturating_sub(cooling));
            let counts = BlockCounts {
                total: count(space.total),
                held: count(held),
                cooling: count(cooling),
                reserved: count(space.reserved),
                free: count(space.free),
            };
            Some(PoolReport { pool: pool.clone(), family: *family, counts })
        };
        occupancy.pools().filter_map(report).collect()
    }

    pub(crate) fn report_pools(&mut self) {
        let reports = self.pool_reports();
        let names: BTreeSet<_> = reports.iter().map(|report| report.pool.clone()).collect();
        for name in names {
            self.write_pool_spec(&name);
            let of_pool: BTreeMap<_, _> = reports
                .iter()
                .filter(|report| report.pool == name)
                .map(|report| (report.family, report.counts))
                .collect();
            self.write_pool_status(&name, &of_pool);
        }
    }

    /// The pool's object says what was admitted. In cluster-pool mode its spec is the operator's.
    fn write_pool_spec(&mut self, name: &str) {
        let spec = IPPoolSpec { ipv4: self.admitted(name, Family::V4), ipv6: self.admitted(name, Family::V6) };
        let rec = self.pools.entry(name.to_owned()).or_default();
        if rec.busy || rec.object.as_ref().is_some_and(|pool| pool.spec == spec) {
            return;
        }
        rec.busy = true;
        let action = match &rec.object {
            None => Action::CreatePool(Box::new(IPPool::new(name, spec))),
            Some(pool) => Action::PatchPool(Box::new(IPPool { spec, ..pool.clone() })),
        };
        self.emit(Flight::Pool(name.to_owned()), action);
    }

    fn admitted(&self, pool: &str, family: Family) -> Option<PoolCidrs> {
        let status = self.config.as_ref()?.status.as_ref()?;
        let of_pool: Vec<_> =
            status.cidrs.iter().filter(|cidr| cidr.pool == pool && cidr.cidr.family() == family).collect();
        let mask_size = of_pool.first()?.mask_size;
        let cidrs: Vec<Cidr> = of_pool.into_iter().map(|cidr| cidr.cidr).collect();
        Some(PoolCidrs { cidrs, mask_size })
    }

    fn write_pool_status(&mut self, name: &str, counts: &BTreeMap<Family, BlockCounts>) {
        let waiting = self.exhausted(name);
        let Some(rec) = self.pools.get(name).filter(|rec| rec.object.is_some()) else { return };
        let generation = rec.object.as_ref().and_then(|pool| pool.metadata.generation).unwrap_or(0);
        let mut status = IPPoolStatus {
            ipv4: counts.get(&Family::V4).copied(),
            ipv6: counts.get(&Family::V6).copied(),
            waiting_nodes: i64::try_from(waiting.len()).unwrap_or(i64::MAX),
            conditions: rec.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default(),
        };
        let empty: Vec<_> =
            counts.iter().filter(|(_, counts)| counts.free == 0).map(|(family, _)| family.to_string()).collect();
        let set = if empty.is_empty() {
            condition(condition_type::EXHAUSTED, false, reason::BLOCKS_FREE, "blocks are free", generation, self.now)
        } else {
            let names = crate::record::some_names(waiting.iter().map(String::as_str));
            let who = if names.is_empty() { String::new() } else { format!("; waiting: {names}") };
            let message = format!(
                "no free {} block: append a CIDR to the pool, or remove nodes{who}",
                empty.join(" and no free ")
            );
            condition(condition_type::EXHAUSTED, true, reason::POOL_EXHAUSTED, &message, generation, self.now)
        };
        set_condition(&mut status.conditions, set);
        if rec.status.as_ref() == Some(&status) {
            return;
        }
        if let Some(rec) = self.pools.get_mut(name) {
            rec.status = Some(status.clone());
        }
        self.emit(
            Flight::PoolStatus(name.to_owned()),
            Action::SetPoolStatus { name: name.to_owned(), status: Box::new(status) },
        );
    }

    /// Nodes that wait for a block of this pool.
    fn exhausted(&self, name: &str) -> Vec<String> {
        let waits = |node: &String| match self.nodes.get(node).and_then(|rec| rec.shortage.as_ref()) {
            Some(Shortage::Exhausted { pool, .. }) => pool == name,
            _ => false,
        };
        self.stuck.iter().map(|(_, node)| node).filter(|node| waits(node)).cloned().collect()
    }
}
