//! Step 8: a node is opened to pods once its agent serves addresses.
//!
//! ```text
//! Node with our taint ──▶ agent: condition Serving ──▶ taint off ──▶ NetworkUnavailable=False
//! ```
//! By the operator and not by agents, so that no agent may write Nodes. By the agent's condition and not by its pod's
//! readiness: an agent that refuses another mode is not ready, and serves all the same.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::effect::Action;
use crate::engine::{Engine, Flight, Later};
use crate::event::{Answer, Outcome};
use crate::nodes::{after, backoff};

/// Between two writes of one Node, should a cloud's controller think otherwise of its network.
const PEACE: Duration = Duration::from_mins(1);

/// Where one Node is on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Opening {
    busy: bool,
    failures: u32,
    /// Nothing is written before.
    not_before: Timestamp,
}

impl Engine {
    pub(crate) fn open(&mut self, name: &str) {
        let Some(action) = self.opening(name) else { return };
        let Some(rec) = self.nodes.get_mut(name).filter(|rec| !rec.opening.busy) else { return };
        if rec.opening.not_before > self.now {
            self.timers.insert((rec.opening.not_before, Later::Node(name.to_owned())));
            return;
        }
        rec.opening.busy = true;
        let uid = rec.seen.uid.clone();
        self.emit(Flight::Open(name.to_owned(), uid), action);
    }

    /// The next thing to do for this very Node, if its agent serves.
    fn opening(&self, name: &str) -> Option<Action> {
        let (seen, node) = (&self.nodes.get(name)?.seen, self.published_of(name)?);
        let (name, uid) = (name.to_owned(), seen.uid.clone());
        match seen.not_ready_taint {
            _ if !node.serving => None,
            Some(at) if self.settings.remove_taints => Some(Action::Untaint { name, uid, at }),
            _ if self.settings.set_network_status && !seen.network_available => {
                Some(Action::SetNetworkAvailable { name, uid })
            }
            _ => None,
        }
    }

    pub(crate) fn opened(&mut self, name: &str, uid: &str, outcome: Outcome) {
        let now = self.now;
        let Some(rec) = self.nodes.get_mut(name).filter(|rec| rec.seen.uid == uid) else { return };
        rec.opening.busy = false;
        if let Outcome::Done(Answer::Node(seen)) = outcome {
            rec.opening.failures = 0;
            if seen.network_available {
                rec.opening.not_before = after(now, PEACE);
            }
            self.see_node(seen);
        } else {
            // After a conflict the watch tells of something newer; it may be late.
            rec.opening.failures += 1;
            rec.opening.not_before = backoff(now, rec.opening.failures);
        }
        self.dirty.insert(name.to_owned());
    }
}
