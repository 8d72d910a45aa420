//! What Prometheus scrapes, under the prefix `cadastre_operator`.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cadastre_api::DEFAULT_POOL;
use cadastre_engine::{Counters, RefusalKind, Report};
use cadastre_runtime::{ApiRequests, Catalog};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use crate::forecast::Forecast;

/// Seconds: a write takes 2 to 20 ms on a healthy API server; a request is given up after 15 s.
const COMMIT_LATENCIES: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];
/// Seconds: 10 ms on a quiet cluster, 10 s for the last of thousands at once, minutes for want of blocks.
const SERVED_LATENCIES: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0];

/// Prefix of every name.
pub const PREFIX: &str = "cadastre_operator";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
    family: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BlockLabels {
    pool: String,
    family: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// States of blocks that pools count, in this order.
const STATES: [&str; 4] = ["held", "cooling", "reserved", "free"];

type PoolKey = (String, cadastre_core::Family);

/// The operator's metrics. Clones share the values.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Counted by the client itself.
    pub api: ApiRequests,
    leader: Gauge,
    mode_mismatch: Gauge,
    refusals: Family<KindLabels, Gauge>,
    blocks: Family<BlockLabels, Gauge>,
    until_full: Family<PoolLabels, Gauge<f64, AtomicU64>>,
    waiting_nodes: Family<ReasonLabels, Gauge>,
    served_nodes: Gauge,
    disputed_nodes: Gauge,
    /// Pools with values, so that those of pools that went can go.
    shown: Arc<Mutex<BTreeSet<PoolKey>>>,
    assignments: Counter,
    commits: Counter,
    conflicts: Counter,
    commit_latency: Histogram,
    served_latency: Histogram,
}

impl Metrics {
    /// Metrics that `catalog` shows.
    pub fn register(catalog: &mut Catalog) -> Self {
        let metrics = Self {
            api: ApiRequests::register(catalog),
            leader: Gauge::default(),
            mode_mismatch: Gauge::default(),
            refusals: Family::default(),
            blocks: Family::default(),
            until_full: Family::default(),
            waiting_nodes: Family::default(),
            served_nodes: Gauge::default(),
            disputed_nodes: Gauge::default(),
            shown: Arc::default(),
            assignments: Counter::default(),
            commits: Counter::default(),
            conflicts: Counter::default(),
            commit_latency: Histogram::new(COMMIT_LATENCIES),
            served_latency: Histogram::new(SERVED_LATENCIES),
        };
        metrics.clone().show(catalog);
        metrics
    }

    fn show(self, catalog: &mut Catalog) {
        let Self {
            api: _,
            leader,
            mode_mismatch,
            refusals,
            blocks,
            until_full,
            waiting_nodes,
            served_nodes,
            disputed_nodes,
            shown: _,
            assignments,
            commits,
            conflicts,
            commit_latency,
            served_latency,
        } = self;
        catalog.show("leader", &[], "Whether this operator acts (1) or stands by (0)", leader);
        catalog.show(
            "mode_mismatch",
            &[],
            "Whether another ipam.mode is configured than the recorded one",
            mode_mismatch,
        );
        let help = "Settings refused because they contradict what is in use; kind is mode or pool";
        catalog.show("refusals", &["kind"], help, refusals);
        let help = "Blocks; state is held, cooling, reserved or free, and mirrored in mode kubernetes";
        catalog.show("blocks", &["pool", "family", "state"], help, blocks);
        let help = "When the pool has no free block, at the rate of the last hour; absent while it does not fill";
        catalog.show_in(Unit::Seconds, "time_until_full", &["pool", "family"], help, until_full);
        let help = "Nodes that wait for blocks; reason is that of the condition Assigned or of an Event, or Queued while it is on its way";
        catalog.show("waiting_nodes", &["reason"], help, waiting_nodes);
        catalog.show("served_nodes", &[], "Nodes whose IPAMNode has blocks", served_nodes);
        let help = "Nodes with a block that another node claims, too";
        catalog.show("disputed_nodes", &[], help, disputed_nodes);
        catalog.show("assignments", &[], "Blocks committed to nodes since the start", assignments);
        catalog.show("commits", &[], "Writes of ledger pages since the start", commits);
        catalog.show("conflicts", &[], "Writes that somebody else's overtook, since the start", conflicts);
        let help = "From the wish to write a ledger page to the answer that it is written";
        catalog.show_in(Unit::Seconds, "commit_duration", &[], help, commit_latency);
        let help = "From the first sight of a Node to its IPAMNode carrying its blocks";
        catalog.show_in(Unit::Seconds, "node_to_block", &[], help, served_latency);
    }

    /// Whether this operator acts.
    pub fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// A page of the ledger was written, so long after that was wished.
    pub fn committed(&self, took: Duration) {
        self.commit_latency.observe(took.as_secs_f64());
    }

    /// How many settings of each kind are refused.
    pub fn refused(&self, modes: usize, pools: usize) {
        self.mode_mismatch.set(i64::from(modes > 0));
        for (kind, count) in [(RefusalKind::Mode, modes), (RefusalKind::Pool, pools)] {
            self.refusals.get_or_create(&KindLabels { kind: kind_label(kind) }).set(saturating(count));
        }
    }

    /// How the engine stands.
    pub fn report(&self, report: &Report) {
        for (reason, count) in &report.waiting {
            self.waiting_nodes.get_or_create(&ReasonLabels { reason }).set(saturating(*count));
        }
        self.served_nodes.set(saturating(report.served_nodes));
        self.disputed_nodes.set(saturating(report.disputed_nodes));
        let shown = report.pools.iter().map(|pool| (pool.pool.clone(), pool.family)).collect();
        for (pool, family) in self.forget_others(shown) {
            for state in STATES {
                self.blocks.remove(&BlockLabels { pool: pool.clone(), family: family.to_string(), state });
            }
            self.until_full.remove(&PoolLabels { pool, family: family.to_string() });
        }
        for pool in &report.pools {
            let counts = pool.counts;
            let counts = [counts.held, counts.cooling, counts.reserved, counts.free];
            for (state, count) in STATES.into_iter().zip(counts) {
                self.count_blocks(&pool.pool, pool.family, state, count);
            }
        }
        for (family, count) in &report.mirrored {
            self.count_blocks(DEFAULT_POOL, *family, "mirrored", saturating(*count));
        }
    }

    /// What happened since this was called last.
    pub fn count(&self, counters: &Counters) {
        let Counters { assignments, conflicts, commits } = *counters;
        self.assignments.inc_by(assignments);
        self.conflicts.inc_by(conflicts);
        self.commits.inc_by(commits);
    }

    /// Pools that were shown and are not among these any more.
    fn forget_others(&self, shown: BTreeSet<PoolKey>) -> Vec<PoolKey> {
        let mut before = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = before.difference(&shown).cloned().collect();
        *before = shown;
        gone
    }

    fn count_blocks(&self, pool: &str, family: cadastre_core::Family, state: &'static str, count: i64) {
        let labels = BlockLabels { pool: pool.to_owned(), family: family.to_string(), state };
        self.blocks.get_or_create(&labels).set(count);
    }

    /// These nodes got their blocks, each so long after it was first seen.
    pub fn served(&self, latencies: impl IntoIterator<Item = Duration>) {
        latencies.into_iter().for_each(|took| self.served_latency.observe(took.as_secs_f64()));
    }

    /// When each pool will be full.
    pub fn forecast(&self, forecast: &Forecast) {
        for (pool, family, until_full) in forecast.until_full() {
            let labels = PoolLabels { pool: pool.to_owned(), family: family.to_string() };
            match until_full {
                Some(time) => _ = self.until_full.get_or_create(&labels).set(time.as_secs_f64()),
                None => _ = self.until_full.remove(&labels),
            }
        }
    }
}

/// As people read it in metrics and readiness.
pub fn kind_label(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::Mode => "mode",
        RefusalKind::Pool => "pool",
    }
}

fn saturating(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_them() {
        let mut catalog = Catalog::new(PREFIX);
        Metrics::register(&mut catalog);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/usage/metrics.md");
        assert!(catalog.check_document(path.as_ref()).unwrap(), "{path} is old: run `make generate`");
    }
}
