//! Step 7: how things stand, for readiness and metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use cadastre_api::{BlockCounts, Mode, count, reason};
use cadastre_core::Family;

use crate::assign::shortage_reason;
use crate::claims::is_disputed;
use crate::config::Refusal;
use crate::engine::{Counters, Engine, Stage};
use crate::nodes::NodeRec;
use crate::page::Page;

/// Waiting, and not for want of anything: a plan is to come.
const QUEUED: &str = "Queued";

const SHORTAGES: [&str; 4] =
    [reason::POOL_EXHAUSTED, reason::WAITING_FOR_POD_CIDR, reason::POD_CIDR_OVERLAPS, reason::POD_CIDR_FENCED];

/// Failures in a row after which it is said that the ledger cannot be written: about 3 s.
const TROUBLE: u32 = 4;

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
    /// Nodes that wait for blocks, by reason: each of the condition `Assigned`, `DeletionHeld`, `LedgerNotWritten` and
    /// `Queued`.
    pub waiting: BTreeMap<&'static str, usize>,
    /// Why the ledger cannot be written or read, if so: the first such page's reason.
    pub ledger: Option<String>,
    /// Nodes whose `IPAMNode` has blocks.
    pub served_nodes: usize,
    /// Nodes with a block that another node claims, too.
    pub disputed_nodes: usize,
    /// Blocks of each pool and family.
    pub pools: Vec<PoolReport>,
    /// Mode kubernetes: blocks that `IPAMNode`s mirror, by family.
    pub mirrored: BTreeMap<Family, usize>,
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
    /// How things stand. Costs a pass over nodes and ledger: once a second, not for each event.
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
            ledger: self.ledger_trouble(),
            served_nodes: self.published.values().filter(|node| !node.spec.ipam.allocated.is_empty()).count(),
            disputed_nodes: self.nodes.values().filter(|rec| is_disputed(&rec.contested)).count(),
            pools: self.pool_reports(),
            mirrored: self.mirrored(),
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
        let held = self.published.keys().filter(|name| self.deletion_held(name).is_some());
        waiting.insert(reason::DELETION_HELD, held.count());
        let is_committing = |rec: &&NodeRec| !rec.committing.is_empty() && rec.unserved_since.is_some();
        let unwritten =
            if self.troubled_page().is_some() { self.nodes.values().filter(is_committing).count() } else { 0 };
        waiting.insert(reason::LEDGER_NOT_WRITTEN, unwritten);
        waiting
    }

    /// A page that could not be written or read often enough to be said.
    fn troubled_page(&self) -> Option<&Page> {
        self.ledger.ids().map(|id| self.ledger.page(id)).find(|page| page.failures >= TROUBLE)
    }

    fn ledger_trouble(&self) -> Option<String> {
        let page = self.troubled_page()?;
        Some(format!("IPAMLedger {}: {}", page.key.name(), page.trouble.as_deref().unwrap_or("conflicts")))
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

    /// What happened since the last call.
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.counters)
    }

    /// How long nodes had been known when their `IPAMNode` carried blocks: those since the last call.
    pub fn take_latencies(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.latencies)
    }

    pub(crate) fn pool_reports(&self) -> Vec<PoolReport> {
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
}
