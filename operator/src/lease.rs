//! Who leads, decided from what was seen of a Lease: no I/O, time comes in.
//!
//! ```text
//!            free, released, or unchanged for its whole duration
//! standing by ───────────────────────────────────────────▶ POST or PUT ─accepted─▶ leading until sent + deadline
//!     ▲                                                                        │  renewed in time: again
//!     └──────────── another holds it, or not renewed in time ──────────────────┘
//! ```
//!
//! Every write is conditional on the resourceVersion that was seen. Another's lease has run out when we saw it unchanged
//! for its whole duration on our own monotonic clock: clocks of two machines are never compared. Our own ends earlier
//! for us than for others, counted from before the request was sent. The ledger, not the lease, carries safety: a lease
//! only spares two operators the same work.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

/// Name of the Lease.
pub const LEASE_NAME: &str = "cadastre-operator";

/// How long what lasts; all but `look` the defaults of Kubernetes' own components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Others may take a lease that was not renewed for this long.
    pub duration: Duration,
    /// We stop leading if we could not renew for this long: before others may start.
    pub deadline: Duration,
    /// Between two renewals.
    pub renewal: Duration,
    /// Between two looks of who does not lead: a lease that was given back is taken within this.
    pub look: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            renewal: Duration::from_secs(2),
            look: Duration::from_secs(1),
        }
    }
}

/// What to do about the Lease.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// POST this: there is none.
    Create(Box<Lease>),
    /// PUT this, at the resourceVersion it carries.
    Replace(Box<Lease>),
    /// Another leads. Look again later.
    Wait,
}

/// What another's lease looked like, and since when it has.
#[derive(Clone, Debug)]
struct Sighting {
    holder: String,
    renewed: Option<MicroTime>,
    duration: Duration,
    since: Instant,
}

/// One candidate.
#[derive(Clone, Debug)]
pub struct Elector {
    identity: String,
    /// How identities of this very pod begin, if it is one. Its containers run one after another, so a holder of such an
    /// identity that is not us is dead.
    pod: Option<String>,
    timing: Timing,
    sighting: Option<Sighting>,
}

impl Elector {
    /// `unique` must differ between any two processes, `pod` between any two that may run at once.
    pub fn new(pod: Option<&str>, unique: &str, timing: Timing) -> Self {
        let pod = pod.map(|pod| format!("{pod}_"));
        let identity = format!("{}{unique}", pod.as_deref().unwrap_or_default());
        Self { identity, pod, timing, sighting: None }
    }

    /// As the Lease shows it.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// How long to wait before the next look: not past the moment at which the lease seen runs out.
    pub fn wait(&self, now: Instant) -> Duration {
        let left = self.sighting.as_ref().map(|seen| (seen.since + seen.duration).saturating_duration_since(now));
        left.filter(|left| !left.is_zero()).map_or(self.timing.look, |left| left.min(self.timing.look))
    }

    /// When leadership ends that was won or renewed by a request sent at `sent`.
    pub fn leads_until(&self, sent: Instant) -> Instant {
        sent + self.timing.deadline
    }

    /// Whether the Lease, as seen, is ours.
    pub fn holds(&self, lease: &Lease) -> bool {
        holder(lease) == self.identity
    }

    /// Who holds it instead of us, as of the last look.
    pub fn other(&self) -> Option<&str> {
        self.sighting.as_ref().map(|sighting| sighting.holder.as_str())
    }

    /// What to do about the Lease as just seen (`None`: there is none) at monotonic time `now` and wall time `wall`.
    pub fn decide(&mut self, seen: Option<&Lease>, now: Instant, wall: Timestamp) -> Move {
        let Some(lease) = seen else {
            self.sighting = None;
            return Move::Create(Box::new(self.fresh(wall)));
        };
        if self.holds(lease) {
            self.sighting = None;
            return Move::Replace(Box::new(self.renewed(lease, wall)));
        }
        if !holder(lease).is_empty() && !self.is_predecessor(lease) && !self.has_run_out(lease, now) {
            return Move::Wait;
        }
        self.sighting = None;
        Move::Replace(Box::new(self.taken(lease, wall)))
    }

    /// The Lease given back, at the resourceVersion it carries: whoever sees it need not wait.
    pub fn released(lease: &Lease, wall: Timestamp) -> Lease {
        let mut lease = lease.clone();
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        // As client-go does: a holder that gives it back asks nobody to wait.
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(wall));
        lease
    }

    fn is_predecessor(&self, lease: &Lease) -> bool {
        self.pod.as_deref().is_some_and(|pod| holder(lease).starts_with(pod))
    }

    /// Whether another's lease was seen unchanged for its whole duration.
    fn has_run_out(&mut self, lease: &Lease, now: Instant) -> bool {
        let (holder, renewed) = (holder(lease), lease.spec.as_ref().and_then(|spec| spec.renew_time.clone()));
        match &self.sighting {
            Some(seen) if seen.holder == holder && seen.renewed == renewed => {
                now.saturating_duration_since(seen.since) >= seen.duration
            }
            _ => {
                let duration = self.duration_of(lease);
                self.sighting = Some(Sighting { holder: holder.to_owned(), renewed, duration, since: now });
                false
            }
        }
    }

    fn duration_of(&self, lease: &Lease) -> Duration {
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        seconds.map_or(self.timing.duration, Duration::from_secs)
    }

    fn fresh(&self, wall: Timestamp) -> Lease {
        let metadata = ObjectMeta { name: Some(LEASE_NAME.to_owned()), ..ObjectMeta::default() };
        let spec = LeaseSpec { lease_transitions: Some(0), ..self.held(wall, wall) };
        Lease { metadata, spec: Some(spec) }
    }

    fn renewed(&self, lease: &Lease, wall: Timestamp) -> Lease {
        let old = lease.spec.clone().unwrap_or_default();
        let acquired = old.acquire_time.as_ref().map_or(wall, |time| time.0);
        let spec = LeaseSpec { lease_transitions: old.lease_transitions, ..self.held(acquired, wall) };
        Lease { metadata: lease.metadata.clone(), spec: Some(spec) }
    }

    fn taken(&self, lease: &Lease, wall: Timestamp) -> Lease {
        let before = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let spec = LeaseSpec { lease_transitions: Some(before.saturating_add(1)), ..self.held(wall, wall) };
        Lease { metadata: lease.metadata.clone(), spec: Some(spec) }
    }

    fn held(&self, acquired: Timestamp, renewed: Timestamp) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            acquire_time: Some(MicroTime(acquired)),
            renew_time: Some(MicroTime(renewed)),
            ..LeaseSpec::default()
        }
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Timestamp = Timestamp::UNIX_EPOCH;

    fn elector(identity: &str) -> Elector {
        Elector::new(None, identity, Timing::default())
    }

    fn after(seconds: u64) -> Timestamp {
        Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap()
    }

    /// The Lease as the API server would keep it.
    fn written(step: Move) -> Lease {
        match step {
            Move::Create(lease) | Move::Replace(lease) => *lease,
            Move::Wait => panic!("nothing was written"),
        }
    }

    #[test]
    fn creates_then_renews() {
        let (mut a, start) = (elector("a"), Instant::now());
        let step = a.decide(None, start, WALL);
        assert!(matches!(step, Move::Create(_)));
        let mut lease = written(step);
        lease.metadata.resource_version = Some("5".into());
        let renewed = written(a.decide(Some(&lease), start, after(2)));
        assert_eq!(renewed.metadata.resource_version.as_deref(), Some("5"), "conditional on what was seen");
        let spec = renewed.spec.unwrap();
        assert_eq!(spec.acquire_time, Some(MicroTime(WALL)));
        assert_eq!(spec.renew_time, Some(MicroTime(after(2))));
        assert_eq!(spec.lease_transitions, Some(0));
    }

    #[test]
    fn waits_while_another_renews_however_long() {
        let (mut a, mut b, start) = (elector("a"), elector("b"), Instant::now());
        let mut lease = written(a.decide(None, start, WALL));
        for seconds in (0..600).step_by(10) {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(b.decide(Some(&lease), now, WALL), Move::Wait, "at {seconds}");
            lease = written(a.decide(Some(&lease), now, after(seconds + 1)));
        }
    }

    #[test]
    fn takes_over_after_seeing_it_unchanged_for_its_duration_whatever_the_wall_clock_says() {
        let (mut a, mut b, start) = (elector("a"), elector("b"), Instant::now());
        let lease = written(a.decide(None, start, WALL));
        let century = after(3_000_000_000);
        assert_eq!(b.decide(Some(&lease), start, century), Move::Wait);
        assert_eq!(b.decide(Some(&lease), start + Duration::from_secs(14), century), Move::Wait);
        let spec = written(b.decide(Some(&lease), start + Duration::from_secs(15), WALL)).spec.unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(1)));
    }

    #[test]
    fn another_holders_own_duration_counts() {
        let (mut b, start) = (elector("b"), Instant::now());
        let mut lease = written(elector("a").decide(None, start, WALL));
        lease.spec.as_mut().unwrap().lease_duration_seconds = Some(60);
        assert_eq!(b.decide(Some(&lease), start, WALL), Move::Wait);
        assert_eq!(b.decide(Some(&lease), start + Duration::from_secs(59), WALL), Move::Wait);
        assert_ne!(b.decide(Some(&lease), start + Duration::from_mins(1), WALL), Move::Wait);
    }

    #[test]
    fn looks_again_when_the_lease_runs_out() {
        let (mut b, start) = (elector("b"), Instant::now());
        let lease = written(elector("a").decide(None, start, WALL));
        assert_eq!(b.wait(start), Duration::from_secs(1));
        assert_eq!(b.decide(Some(&lease), start, WALL), Move::Wait);
        assert_eq!(b.wait(start + Duration::from_secs(3)), Duration::from_secs(1));
        assert_eq!(b.wait(start + Duration::from_millis(14_800)), Duration::from_millis(200));
    }

    #[test]
    fn a_container_that_was_restarted_does_not_wait_for_its_predecessor() {
        let (start, timing) = (Instant::now(), Timing::default());
        let lease = written(Elector::new(Some("pod-1"), "x", timing).decide(None, start, WALL));
        assert_eq!(Elector::new(Some("pod"), "y", timing).decide(Some(&lease), start, WALL), Move::Wait);
        assert_ne!(Elector::new(Some("pod-1"), "y", timing).decide(Some(&lease), start, WALL), Move::Wait);
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let (mut a, mut b, start) = (elector("a"), elector("b"), Instant::now());
        let lease = written(a.decide(None, start, WALL));
        assert_eq!(b.decide(Some(&lease), start, WALL), Move::Wait);
        let released = Elector::released(&lease, after(1));
        assert!(b.holds(&written(b.clone().decide(Some(&released), start, after(1)))));
    }

    #[test]
    fn leadership_ends_before_others_may_start() {
        let (a, sent) = (elector("a"), Instant::now());
        assert_eq!(a.leads_until(sent), sent + Duration::from_secs(10));
        assert!(a.timing().deadline < a.timing().duration);
    }
}
