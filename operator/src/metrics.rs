//! What Prometheus scrapes, under the prefix `cadastre_operator`.

use std::time::Duration;

use cadastre_engine::{RefusalKind, Report};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Seconds: a write takes 2 to 20 ms on a healthy API server; a request is given up after 15 s.
const LATENCY_BUCKETS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BlockLabels {
    pool: String,
    family: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    action: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// The operator's metrics. Clones share the values.
#[derive(Clone, Debug)]
pub struct Metrics {
    leader: Gauge,
    mode_mismatch: Gauge,
    refusals: Family<KindLabels, Gauge>,
    blocks: Family<BlockLabels, Gauge>,
    waiting_nodes: Gauge,
    served_nodes: Gauge,
    assignments: Counter,
    commits: Counter,
    conflicts: Counter,
    requests: Family<RequestLabels, Counter>,
    latency: Family<ActionLabels, Histogram>,
}

impl Metrics {
    /// Metrics that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            leader: Gauge::default(),
            mode_mismatch: Gauge::default(),
            refusals: Family::default(),
            blocks: Family::default(),
            waiting_nodes: Gauge::default(),
            served_nodes: Gauge::default(),
            assignments: Counter::default(),
            commits: Counter::default(),
            conflicts: Counter::default(),
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS)),
        };
        metrics.clone().show(registry);
        metrics
    }

    fn show(self, registry: &mut Registry) {
        let Self {
            leader,
            mode_mismatch,
            refusals,
            blocks,
            waiting_nodes,
            served_nodes,
            assignments,
            commits,
            conflicts,
            requests,
            latency,
        } = self;
        registry.register("leader", "Whether this operator acts (1) or stands by (0)", leader);
        registry.register(
            "mode_mismatch",
            "Whether another ipam.mode is configured than the recorded one",
            mode_mismatch,
        );
        registry.register("refusals", "Settings refused because they contradict what is in use, by kind", refusals);
        registry.register("blocks", "Blocks by pool, family and state", blocks);
        registry.register("waiting_nodes", "Nodes that wait for blocks", waiting_nodes);
        registry.register("served_nodes", "Nodes whose IPAMNode has blocks", served_nodes);
        registry.register("assignments", "Blocks committed to nodes since the start", assignments);
        registry.register("commits", "Writes of ledger pages since the start", commits);
        registry.register("conflicts", "Writes that somebody else's overtook, since the start", conflicts);
        registry.register("api_requests", "Requests to the API server by action and result", requests);
        registry.register_with_unit(
            "api_request_duration",
            "Time until the API server's answer, by action",
            Unit::Seconds,
            latency,
        );
    }

    /// Whether this operator acts.
    pub fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// A request came to its end.
    pub fn request(&self, action: &'static str, result: &'static str, took: Duration) {
        self.requests.get_or_create(&RequestLabels { action, result }).inc();
        self.latency.get_or_create(&ActionLabels { action }).observe(took.as_secs_f64());
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
        self.waiting_nodes.set(saturating(report.waiting_nodes));
        self.served_nodes.set(saturating(report.served_nodes));
        raise(&self.assignments, report.assignments);
        raise(&self.commits, report.commits);
        raise(&self.conflicts, report.conflicts);
        for pool in &report.pools {
            let counts = pool.counts;
            let states = [
                ("held", counts.held),
                ("cooling", counts.cooling),
                ("reserved", counts.reserved),
                ("free", counts.free),
            ];
            for (state, count) in states {
                let labels = BlockLabels { pool: pool.pool.clone(), family: pool.family.to_string(), state };
                self.blocks.get_or_create(&labels).set(count);
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

/// Brings a counter up to `total`. There is one writer.
fn raise(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn saturating(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
