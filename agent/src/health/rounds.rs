//! What probes have shown so far. One that fails is looked at again soon; two rounds that fail make a node unreachable.

use std::collections::HashMap;
use std::time::Duration;

use super::NodeSeen;
use super::ring::Target;

/// One lost packet, or an agent that restarts, is no failure of the network.
pub const FAILED_ROUNDS: u32 = 2;

/// The slowest of a node's addresses, or the first that failed.
pub type Outcome = Result<Duration, String>;

/// This node first.
#[derive(Debug, Default)]
pub struct Rounds {
    looks: Vec<Look>,
}

#[derive(Debug)]
struct Look {
    target: Target,
    last: Option<Outcome>,
    /// Rounds that failed since it was reached.
    failed: u32,
    reached: Option<bool>,
}

impl Rounds {
    /// These are to be probed from now on. What is known of one that was already, at the same addresses, stays.
    pub fn follow(&mut self, targets: Vec<Target>) {
        let mut known: HashMap<String, Look> =
            self.looks.drain(..).map(|look| (look.target.node.clone(), look)).collect();
        let look = |target: Target| {
            let known = known.remove(&target.node).filter(|look| look.target == target);
            known.unwrap_or(Look { target, last: None, failed: 0, reached: None })
        };
        self.looks = targets.into_iter().map(look).collect();
    }

    /// Everybody in a round; between two of them, who did not answer last.
    pub fn due(&self, round: bool) -> Vec<Target> {
        let due = self.looks.iter().filter(|look| round || !matches!(look.last, Some(Ok(_))));
        due.map(|look| look.target.clone()).collect()
    }

    /// Whether there is somebody to look at before the next round.
    pub fn unsettled(&self) -> bool {
        self.looks.iter().any(|look| !matches!(look.last, Some(Ok(_))))
    }

    pub fn record(&mut self, node: &str, outcome: Outcome, round: bool) {
        let Some(look) = self.looks.iter_mut().find(|look| look.target.node == node) else { return };
        if outcome.is_ok() {
            (look.failed, look.reached) = (0, Some(true));
        } else if round {
            look.failed += 1;
            if look.failed >= FAILED_ROUNDS {
                look.reached = Some(false);
            }
        }
        look.last = Some(outcome);
    }

    /// Whether this node itself is not reached.
    pub fn own_is_lost(&self) -> bool {
        self.looks.first().is_some_and(|look| look.reached == Some(false))
    }

    pub fn own_is_reached(&self) -> bool {
        self.looks.first().is_some_and(|look| look.reached == Some(true))
    }

    pub fn view(&self) -> Vec<NodeSeen> {
        let seen = |look: &Look| NodeSeen {
            node: look.target.node.clone(),
            addresses: look.target.addresses.clone(),
            reached: look.reached,
            took: look.last.as_ref().and_then(|last| last.as_ref().ok()).copied(),
            failure: look.last.as_ref().and_then(|last| last.as_ref().err()).cloned(),
        };
        self.looks.iter().map(seen).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(node: &str, address: &str) -> Target {
        Target { node: node.into(), addresses: vec![address.parse().unwrap()], port: 4240 }
    }

    fn two() -> Rounds {
        let mut rounds = Rounds::default();
        rounds.follow(vec![target("me", "10.0.1.5"), target("b", "10.0.2.5")]);
        rounds
    }

    fn reached(rounds: &Rounds) -> Vec<Option<bool>> {
        rounds.view().into_iter().map(|node| node.reached).collect()
    }

    fn lost() -> Outcome {
        Err("no answer in 3 s".into())
    }

    #[test]
    fn two_rounds_that_fail_make_a_node_unreachable_and_one_answer_makes_it_well() {
        let mut rounds = two();
        let well = || Ok(Duration::from_millis(1));
        rounds.record("me", well(), true);
        rounds.record("b", well(), true);
        assert_eq!(reached(&rounds), [Some(true), Some(true)]);
        rounds.record("b", lost(), true);
        assert_eq!(reached(&rounds), [Some(true), Some(true)], "one is none");
        assert_eq!(rounds.view()[1].failure.as_deref(), Some("no answer in 3 s"));
        for _ in 0..9 {
            rounds.record("b", lost(), false);
        }
        assert_eq!(reached(&rounds), [Some(true), Some(true)], "looks between rounds do not count");
        rounds.record("b", lost(), true);
        assert_eq!(reached(&rounds), [Some(true), Some(false)]);
        assert!(!rounds.own_is_lost());
        rounds.record("b", well(), false);
        assert_eq!(reached(&rounds), [Some(true), Some(true)]);
        rounds.record("b", lost(), true);
        assert_eq!(reached(&rounds), [Some(true), Some(true)], "counted anew");
        rounds.record("me", lost(), true);
        rounds.record("me", lost(), true);
        assert!(rounds.own_is_lost());
    }

    #[test]
    fn who_did_not_answer_is_looked_at_between_rounds() {
        let mut rounds = two();
        assert!(rounds.unsettled());
        assert_eq!(rounds.due(false).len(), 2);
        rounds.record("me", Ok(Duration::ZERO), false);
        rounds.record("b", lost(), false);
        assert_eq!(rounds.due(false), [target("b", "10.0.2.5")]);
        assert_eq!(rounds.due(true).len(), 2);
        rounds.record("b", Ok(Duration::ZERO), false);
        assert!(!rounds.unsettled());
    }

    #[test]
    fn what_is_known_stays_with_the_addresses() {
        let mut rounds = two();
        for _ in 0..2 {
            rounds.record("b", lost(), true);
        }
        rounds.follow(vec![target("me", "10.0.1.5"), target("b", "10.0.2.5"), target("c", "10.0.3.5")]);
        assert_eq!(reached(&rounds), [None, Some(false), None]);
        rounds.follow(vec![target("me", "10.0.1.5"), target("b", "10.0.2.6")]);
        assert_eq!(reached(&rounds), [None, None]);
        rounds.record("c", lost(), true);
        assert_eq!(rounds.view().len(), 2);
    }
}
