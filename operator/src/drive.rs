//! The one task that owns the engine: what was seen goes in, effects come out, what came of each goes in again.
//!
//! ```text
//! watches ─▶ queue ─┐                        ┌─▶ performer ─▶ API server
//! outcomes ─────────┼─▶ Engine::handle ──────┤       │
//! tick, each second ┘                        └───────┘ outcome
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cadastre_engine::{Engine, Event, Phase, World};
use cadastre_runtime::Shutdown;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::forecast::Forecast;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::perform::Performer;
use crate::witness::{Doubt, Witness};

/// Events that may wait: at thousands of Nodes in a burst the watches wait, not the memory.
pub const QUEUE: usize = 1024;
/// The engine is told the time at least this often.
const TICK: Duration = Duration::from_secs(1);
/// For requests under way when the operator stops.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// The ledger was read at an older version than it had.
#[derive(Debug, thiserror::Error)]
#[error("a page of the ledger is at an older version than it had: the store was restored from a backup")]
pub struct WentBack;

/// What the engine's task needs.
pub struct Driver {
    pub engine: Engine,
    pub performer: Performer,
    pub events: mpsc::Receiver<Event>,
    pub health: Health,
    pub metrics: Metrics,
    pub forecast: Forecast,
    /// The forecast's clock.
    pub started: Instant,
    pub pulse: Pulse,
    pub witness: Witness,
    /// Settled once every agent was heard.
    pub doubt: Option<Doubt>,
}

impl Driver {
    /// Runs until the shutdown, then lets requests under way end. An error: nothing that is known holds any more.
    pub async fn run(mut self, world: World, shutdown: Shutdown) -> Result<(), WentBack> {
        self.handle(Event::Started(Box::new(world)));
        self.report();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                biased;
                () = shutdown.requested() => break,
                // Before what may be there without end.
                _ = ticks.tick() => Event::Tick,
                (id, outcome) = self.performer.next() => Event::Outcome { id, outcome },
                Some(event) = self.events.recv() => event,
            };
            let tick = matches!(event, Event::Tick);
            self.handle(event);
            self.drain();
            if self.engine.went_back() {
                return Err(WentBack);
            }
            if tick {
                self.report();
            }
        }
        self.performer.finish(LAST_REQUESTS).await;
        Ok(())
    }

    /// What is there already, in one go; outcomes first, since nodes wait for them.
    fn drain(&mut self) {
        for _ in 0..QUEUE {
            let event = match self.performer.try_next() {
                Some((id, outcome)) => Event::Outcome { id, outcome },
                None => match self.events.try_recv() {
                    Ok(event) => event,
                    Err(_) => return,
                },
            };
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        for effect in self.engine.handle(Timestamp::now(), event) {
            self.performer.submit(effect);
        }
    }

    fn report(&mut self) {
        let report = self.engine.report();
        self.pulse.beat();
        self.health.phase(report.phase);
        if let Some(doubt) = self.doubt.take_if(|_| report.phase == Phase::Live) {
            self.witness.settle(doubt);
        }
        if report.phase != Phase::Starting {
            self.health.refusals(Ok(&report.refusals));
        }
        self.health.ledger(report.ledger.as_deref());
        self.metrics.report(&report);
        self.metrics.count(&self.engine.take_counters());
        self.metrics.served(self.engine.take_latencies());
        if self.forecast.see(self.started.elapsed(), &report.pools) {
            self.metrics.forecast(&self.forecast);
        }
    }
}

/// Shows that the engine's task is alive.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

/// Two looks this far apart without a beat in between mean that the engine hangs: it beats each second. Two, since a
/// process that was stopped and continued has not beaten for a while either.
const HANGS: Duration = Duration::from_secs(30);

impl Pulse {
    fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the process when it hangs, from a thread of its own: whatever hangs the engine hangs the runtime too. Stops
    /// with the engine's task.
    pub fn watch(&self) -> std::io::Result<()> {
        let (pulse, mut looks) = (Arc::downgrade(&self.0), Looks::default());
        let watch = move || {
            std::thread::sleep(HANGS);
            while let Some(pulse) = pulse.upgrade() {
                if looks.hangs(pulse.load(Ordering::Relaxed)) {
                    tracing::error!("the engine does not answer any more: starting over");
                    std::process::exit(1);
                }
                drop(pulse);
                std::thread::sleep(HANGS);
            }
        };
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch).map(drop)
    }
}

/// What was seen of a pulse.
#[derive(Debug, Default)]
struct Looks {
    last: Option<u64>,
    misses: u32,
}

impl Looks {
    /// Whether two looks in a row saw no beat.
    fn hangs(&mut self, beats: u64) -> bool {
        self.misses = if self.last == Some(beats) { self.misses + 1 } else { 0 };
        self.last = Some(beats);
        self.misses == 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_that_stops_is_noticed_and_a_beating_one_is_not() {
        let mut looks = Looks::default();
        assert!((0..100).all(|beats| !looks.hangs(beats)));
        assert!(!looks.hangs(99), "it may have been stopped and continued");
        assert!(looks.hangs(99));
    }
}
