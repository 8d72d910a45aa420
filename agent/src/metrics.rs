//! What Prometheus is told. Every name begins with `cadastre_agent_`.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use cadastre_api::Mode;
use cadastre_core::Family;
use cadastre_runtime::Catalog;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use crate::node::NodeSetup;
use crate::outlook::{Outlook, Verdict};
use crate::pools::{ShareCounts, View};

/// Prefix of every name.
pub const PREFIX: &str = "cadastre_agent";

/// From a tenth of a millisecond, which a call takes, to 10 s, which an ADD waits for an assignment.
const LATENCIES: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AddressLabels {
    pool: String,
    family: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    /// `ok`, or the CNI error code.
    result: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    /// That of the condition `Serving`.
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: &'static str,
}

/// Clones share the numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    addresses: Labelled<AddressLabels, Gauge<f64, AtomicU64>>,
    requests: Labelled<RequestLabels, Counter>,
    latency: Labelled<VerbLabels, Histogram, fn() -> Histogram>,
    serving: Labelled<ReasonLabels, Gauge>,
    waiting: Gauge,
    journal_bytes: Gauge,
    journal_compactions: Counter,
    journal_failed: Gauge,
    mode_mismatch: Gauge,
    cooling_cut_short: Counter,
    pub tombstones: Counter,
    pub reclaimed: Counter,
    pub undelivered: Counter,
    pub reconciliations: Counter,
    pub suspects: Gauge,
    pub setup_failed: Gauge,
    pub routes: Gauge,
    pub unreached_nodes: Gauge,
    pub health_probed: Gauge,
    pub health_reachable: Gauge,
    pub health_probe: Histogram,
    pub health_failed: Gauge,
}

impl Metrics {
    /// Registers all of them.
    #[must_use]
    pub fn new(catalog: &mut Catalog) -> Self {
        let latency: fn() -> Histogram = || Histogram::new(LATENCIES);
        let metrics = Self {
            addresses: Labelled::default(),
            requests: Labelled::default(),
            latency: Labelled::new_with_constructor(latency),
            serving: Labelled::default(),
            waiting: Gauge::default(),
            journal_bytes: Gauge::default(),
            journal_compactions: Counter::default(),
            journal_failed: Gauge::default(),
            mode_mismatch: Gauge::default(),
            cooling_cut_short: Counter::default(),
            tombstones: Counter::default(),
            reclaimed: Counter::default(),
            undelivered: Counter::default(),
            reconciliations: Counter::default(),
            suspects: Gauge::default(),
            setup_failed: Gauge::default(),
            routes: Gauge::default(),
            unreached_nodes: Gauge::default(),
            health_probed: Gauge::default(),
            health_reachable: Gauge::default(),
            health_probe: latency(),
            health_failed: Gauge::default(),
        };
        metrics.register(catalog);
        metrics
    }

    fn register(&self, catalog: &mut Catalog) {
        let Self { addresses, requests, latency, waiting, journal_bytes, journal_compactions, .. } = self.clone();
        let Self { journal_failed, mode_mismatch, cooling_cut_short, tombstones, reclaimed, undelivered, .. } =
            self.clone();
        let Self { reconciliations, suspects, serving, setup_failed, routes, unreached_nodes, .. } = self.clone();
        catalog.show(
            "addresses",
            &["pool", "family", "state"],
            "Addresses of this node; state is allocated, cooling, reserved or free",
            addresses,
        );
        catalog.show(
            "requests",
            &["verb", "result"],
            "Calls of the plugin; result is ok, or the CNI error code",
            requests,
        );
        catalog.show_in(Unit::Seconds, "request", &["verb"], "Time from reading a call to its reply", latency);
        let help = "Whether ADDs are served (1), with the reason of the condition Serving";
        catalog.show("serving", &["reason"], help, serving);
        catalog.show("waiting", &[], "ADDs that wait for an assignment", waiting);
        catalog.show_in(Unit::Bytes, "journal", &[], "Length of the journal", journal_bytes);
        catalog.show("journal_compactions", &[], "How often the journal was written anew", journal_compactions);
        catalog.show("journal_failed", &[], "1 while no ADD can be recorded", journal_failed);
        catalog.show("mode_mismatch", &[], "1 while configured and recorded mode differ", mode_mismatch);
        catalog.show(
            "cooling_cut_short",
            &[],
            "Addresses given early because nothing else was free",
            cooling_cut_short,
        );
        catalog.show("tombstones_replayed", &[], "Attachments released by a DEL that found no agent", tombstones);
        catalog.show("reclaimed", &[], "Attachments released because pod and namespace were gone", reclaimed);
        catalog.show("reconciliations", &[], "Searches for addresses that nobody uses any more", reconciliations);
        catalog.show("suspects", &[], "Attachments that the next search frees if nothing speaks for them", suspects);
        catalog.show(
            "setup_failed",
            &[],
            "1 while the CNI plugin or its configuration cannot be installed",
            setup_failed,
        );
        catalog.show("routes", &[], "Routes to the blocks of other nodes", routes);
        catalog.show("unreached_nodes", &[], "Nodes with a block that no route leads to", unreached_nodes);
        let Self { health_probed, health_reachable, health_probe, health_failed, .. } = self.clone();
        let help = "Nodes whose health endpoint is probed from this one's, the own among them";
        catalog.show("health_nodes_probed", &[], help, health_probed);
        catalog.show("health_nodes_reachable", &[], "Those of them that answer", health_reachable);
        let help = "Time until a node's health endpoint has answered at all its addresses";
        catalog.show_in(Unit::Seconds, "health_probe", &[], help, health_probe);
        catalog.show("health_endpoint_failed", &[], "1 while the node's own cannot be attached", health_failed);
        catalog.show("undelivered", &[], "Allocations undone because the caller had gone away", undelivered);
    }

    /// One call was answered. `code`: of its error, if it failed.
    pub fn answered(&self, verb: &'static str, code: Option<u32>, took: Duration) {
        let result = code.map_or_else(|| "ok".to_owned(), |code| code.to_string());
        self.requests.get_or_create(&RequestLabels { verb, result }).inc();
        self.latency.get_or_create(&VerbLabels { verb }).observe(took.as_secs_f64());
    }

    /// The pools have changed.
    pub fn show(&self, before: &Outlook, now: &Outlook, configured: Mode) {
        // What is installed on the node has a metric of its own.
        let setup = NodeSetup::default();
        self.show_verdict(before.verdict(configured, &setup).reason, &now.verdict(configured, &setup));
        let now_there = counts(now);
        for (pool, family) in counts(before).keys().chain(now_there.keys()) {
            let counts = now_there.get(&(*pool, *family)).copied().unwrap_or_default();
            #[expect(clippy::cast_precision_loss, reason = "a /64 is shown to 16 digits")]
            let states = [
                ("allocated", counts.allocated as f64),
                ("cooling", counts.cooling as f64),
                ("reserved", counts.reserved as f64),
                ("free", counts.free as f64),
            ];
            for (state, count) in states {
                let labels = AddressLabels { pool: (*pool).to_owned(), family: family.to_string(), state };
                self.addresses.get_or_create(&labels).set(count);
            }
        }
        let yielded = |outlook: &Outlook| {
            let View { shares, networks, .. } = &outlook.view;
            let of_networks = networks.iter().map(|network| network.yielded);
            shares.iter().map(|share| share.yielded).chain(of_networks).sum::<u64>()
        };
        self.cooling_cut_short.inc_by(yielded(now).saturating_sub(yielded(before)));
        self.waiting.set(i64::try_from(now.view.waiting).unwrap_or(i64::MAX));
        self.journal_bytes.set(i64::try_from(now.journal.bytes).unwrap_or(i64::MAX));
        self.journal_compactions.inc_by(now.journal.compactions.saturating_sub(before.journal.compactions));
        self.journal_failed.set(now.journal.trouble.is_some().into());
        self.mode_mismatch.set(now.mode_differs(configured).is_some().into());
    }

    /// Of the reasons there are, only the one that holds is shown; while it changes both are, and never none.
    fn show_verdict(&self, before: &'static str, now: &Verdict) {
        self.serving.get_or_create(&ReasonLabels { reason: now.reason }).set(now.serving.into());
        if before != now.reason {
            self.serving.remove(&ReasonLabels { reason: before });
        }
    }
}

/// How full each pool is, those of networks with ranges of their own among them.
fn counts(outlook: &Outlook) -> BTreeMap<(&str, Family), ShareCounts> {
    let View { shares, networks, .. } = &outlook.view;
    let shares = shares.iter().map(|share| ((share.pool.as_str(), share.family), share.counts));
    let networks = networks.iter().map(|network| ((network.pool.as_str(), network.family), network.counts));
    shares.chain(networks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_them() {
        let mut catalog = Catalog::new(PREFIX);
        drop(Metrics::new(&mut catalog));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/usage/metrics.md");
        assert!(catalog.check_document(path.as_ref()).unwrap(), "{path} is old: run `make generate`");
    }
}
