//! What the parts of the agent know of each other, and what that means: for the condition, for readiness, for people.

use cadastre_api::{FamilyHealth, Mode, reason};
use cadastre_core::Family;

use crate::boot_time::BootTime;
use crate::health::{HealthSeen, Said};
use crate::node::NodeSetup;
use crate::pools::View;

/// What the owner of the pools shows after each batch. Counts are to be looked at: who waits for a change is woken by the rest
/// of it only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    pub view: View,
    pub journal: JournalOutlook,
    /// What the operator assigned and cannot be used.
    pub problems: Vec<String>,
}

/// How the journal is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalOutlook {
    /// Why no ADD can be recorded, or why the journal cannot be read.
    pub trouble: Option<String>,
    /// It cannot be read: who holds what is not known, and nothing may be said of it.
    pub unreadable: bool,
    pub bytes: u64,
    pub compactions: u64,
}

/// What goes on beside the pools: in the cluster, as the watches show it, and on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// `1.36 (v1.36.3)`, once it was heard.
    pub version: Option<String>,
    /// Why the API server cannot be heard, while it cannot.
    pub trouble: Option<String>,
    /// When it was heard last.
    pub heard: Option<BootTime>,
    /// When the operator's last word came.
    pub told: Option<BootTime>,
    /// The last pass of reconciliation.
    pub reconciled: Option<Reconciled>,
    /// How the node is set up.
    pub setup: NodeSetup,
    /// Which nodes' pods are reached; `None` if nobody looks.
    pub health: Option<HealthSeen>,
}

impl Cluster {
    /// What of it is written to the `IPAMNode`: the rest changes all the time.
    #[must_use]
    pub fn said(&self) -> (NodeSetup, Option<Said>) {
        (self.setup.clone(), self.health.as_ref().map(HealthSeen::said))
    }
}

/// What a pass of reconciliation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconciled {
    pub at: BootTime,
    /// Attachments that will be freed at the next pass if nothing speaks for them.
    pub suspects: usize,
    pub freed: u64,
}

/// Whether ADDs are served, as the condition `Serving` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub serving: bool,
    pub reason: &'static str,
    pub message: String,
}

/// Reasons that only the agent gives.
mod reasons {
    pub const SERVING: &str = "Serving";
    pub const NO_ASSIGNMENT: &str = "NoAssignment";
    pub const BLOCK_UNUSABLE: &str = "BlockUnusable";
    pub const JOURNAL_FAILED: &str = "JournalFailed";
    pub const NOT_INSTALLED: &str = "NotInstalled";
}

impl Outlook {
    /// Whether nothing but counts differs, which change with every pod. Nobody is woken by that.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let Self { view, journal: JournalOutlook { trouble, unreadable, bytes: _, compactions: _ }, problems } = self;
        view.is_like(&other.view)
            && (trouble, unreadable) == (&other.journal.trouble, &other.journal.unreadable)
            && *problems == other.problems
    }

    /// What people should know first.
    #[must_use]
    pub fn verdict(&self, configured: Mode, setup: &NodeSetup) -> Verdict {
        let no = |reason, message| Verdict { serving: false, reason, message };
        if let Some(trouble) = &self.journal.trouble {
            return no(reasons::JOURNAL_FAILED, trouble.clone());
        }
        if let Some(trouble) = setup.not_installed() {
            return no(reasons::NOT_INSTALLED, trouble.to_owned());
        }
        let assigned = self.view.shares.iter().filter(|share| !share.blocks.is_empty());
        if self.view.assigned.is_none() || assigned.clone().next().is_none() {
            return no(reasons::NO_ASSIGNMENT, self.absence());
        }
        if let Some(full) = assigned.clone().find(|share| !share.has_any) {
            let message = format!("pool {} has no free {} address on this node", full.pool, full.family);
            return no(reason::POOL_EXHAUSTED, message);
        }
        if let Some(problem) = self.problems.first() {
            return Verdict { serving: true, reason: reasons::BLOCK_UNUSABLE, message: problem.clone() };
        }
        match self.mode_differs(configured) {
            Some(message) => Verdict { serving: true, reason: reason::MODE_DIFFERS, message },
            None => Verdict { serving: true, reason: reasons::SERVING, message: "addresses are allocated".to_owned() },
        }
    }

    /// Why there is no block.
    #[must_use]
    pub fn absence(&self) -> String {
        match &self.view.assigned {
            Some(assigned) if assigned.note.is_empty() => "the operator has assigned no block".to_owned(),
            Some(assigned) => assigned.note.clone(),
            None if self.view.absence.is_empty() => {
                "there is no IPAMNode yet: see whether the operator runs and what its log says".to_owned()
            }
            None => self.view.absence.clone(),
        }
    }

    /// The mode in force.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        self.view.assigned.as_ref().map(|assigned| assigned.mode)
    }

    /// Both modes and the remedy, if they are two.
    #[must_use]
    pub fn mode_differs(&self, configured: Mode) -> Option<String> {
        let recorded = self.mode().filter(|recorded| *recorded != configured)?;
        Some(format!(
            "configured mode {configured} is not the recorded mode {recorded}, which goes on: set ipam.mode back to {recorded}"
        ))
    }

    /// Health of a family, if the node has it.
    #[must_use]
    pub fn health(&self, family: Family) -> Option<FamilyHealth> {
        let mut shares = self.view.shares.iter().filter(|share| share.family == family && !share.blocks.is_empty());
        let full = shares.clone().all(|share| !share.has_any);
        shares.next().map(|_| if full { FamilyHealth::Exhausted } else { FamilyHealth::Ok })
    }

    /// `3/254`, or `3/254, 3/254` for two families: held of what can be.
    #[must_use]
    pub fn usage(&self) -> String {
        let of_family = |family: Family| {
            let shares: Vec<_> = self.view.shares.iter().filter(|share| share.family == family).collect();
            let allocated: u64 = shares.iter().map(|share| share.counts.allocated).sum();
            let capacity = shares.iter().fold(0_u128, |sum, share| sum.saturating_add(share.counts.capacity));
            (!shares.is_empty()).then(|| format!("{allocated}/{capacity}"))
        };
        Family::ALL.into_iter().filter_map(of_family).collect::<Vec<_>>().join(", ")
    }
}
