//! Step 3: `IPAMConfig/cluster` says what is in use before it is, and nothing is cleared while somebody may be writing.
//!
//! Clearing an in-use flag and committing a block could pass each other. So each side raises its flag before it looks
//! at the other's:
//!
//! ```text
//! who clears:   draining=true ─▶ read the whole ledger ─▶ clear what is unused, by compare-and-swap
//! who commits:  write the page ─▶ read the config ─▶ publish only if in use and not draining, else mark it again
//! ```
//!
//! Whichever read comes second sees the other's flag.

use cadastre_api::{CONFIG_NAME, IPAMConfig, IPAMConfigSpec, IPAMConfigStatus, Mode};

use crate::config::{Use, announce, cleared, wanted_status};
use crate::effect::Action;
use crate::engine::{Drain, Engine, Flight};

impl Engine {
    pub(crate) fn record(&mut self) {
        if !self.config_due || self.config_busy {
            return;
        }
        self.config_due = false;
        let Some(config) = &self.config else {
            let mode = self.evidence.unwrap_or(self.settings.mode);
            let config = IPAMConfig::new(CONFIG_NAME, IPAMConfigSpec { mode });
            self.write_config(Action::CreateConfig(Box::new(config)));
            return;
        };
        let used = self.used();
        let in_use = config.status.as_ref().is_some_and(|status| status.in_use);
        let published = self.published.values().any(|node| !node.spec.ipam.allocated.is_empty());
        if config.spec.mode != self.settings.mode && !in_use && !used.any && !used.waiting && !published {
            let mut config = config.clone();
            config.spec.mode = self.settings.mode;
            self.write_config(Action::ReplaceConfig(Box::new(config)));
            return;
        }
        let refusals = self.refusals();
        if self.announced.as_ref() != Some(&refusals) {
            let holders = |cidr: &cadastre_core::Cidr| some_names(self.ledger.holders(cidr).into_iter());
            if let Some((config, notes)) = announce(&self.settings, config, &holders, self.now) {
                // Said once for each change of what is refused; a write that fails is tried again without its Events.
                let first = self.announcing.as_ref() != Some(&refusals);
                self.announcing = Some(refusals);
                for note in notes.into_iter().filter(|_| first) {
                    self.publish(note);
                }
                self.config_due = true;
                self.write_config(Action::ReplaceConfigStatus(Box::new(config)));
                return;
            }
            self.announced = Some(refusals);
        }
        let Some(config) = &self.config else { return };
        let draining = config.status.as_ref().is_some_and(|status| status.draining);
        if matches!(self.drain, Drain::Listing | Drain::Clearing) && !draining {
            // Somebody marked a block as in use since: what was read is no longer all there is.
            self.drain = Drain::Idle;
        }
        let status = match self.drain {
            Drain::Announcing if !used.waiting => {
                IPAMConfigStatus { draining: true, ..config.status.clone().unwrap_or_default() }
            }
            Drain::Listing if !used.waiting => return,
            Drain::Clearing if !used.waiting => cleared(&self.settings, &self.offers(), config, &used),
            _ => {
                self.drain = Drain::Idle;
                wanted_status(&self.settings, &self.offers(), config, &used)
            }
        };
        self.write_status(status);
    }

    fn write_status(&mut self, status: IPAMConfigStatus) {
        let Some(config) = &self.config else { return };
        if config.status.as_ref() == Some(&status) {
            self.space_grew |= !std::mem::replace(&mut self.config_settled, true);
            self.drained();
            return;
        }
        let config = IPAMConfig { status: Some(status), ..config.clone() };
        self.write_config(Action::ReplaceConfigStatus(Box::new(config)));
    }

    fn write_config(&mut self, action: Action) {
        self.config_busy = true;
        self.emit(Flight::Config, action);
    }

    pub(crate) fn read_config(&mut self) {
        if !self.config_busy {
            self.config_busy = true;
            self.emit(Flight::ReadConfig, Action::GetConfig);
        }
    }

    /// What is in use, or about to be.
    pub(crate) fn used(&self) -> Use {
        let admitted =
            self.config.as_ref().and_then(|config| config.status.as_ref()).map(|status| status.cidrs.as_slice());
        let cidrs: std::collections::BTreeSet<_> = admitted
            .unwrap_or_default()
            .iter()
            .map(|admitted| admitted.cidr)
            .filter(|cidr| self.ledger.is_used(cidr))
            .collect();
        let mirrors = self.mode() == Some(Mode::Kubernetes)
            && (self.nodes.values().any(|rec| !rec.mirrored.is_empty())
                || self.published.values().any(|node| !node.spec.ipam.allocated.is_empty()));
        let any = mirrors || self.ledger.node_names().next().is_some() || !cidrs.is_empty();
        let waiting = !self.gated.is_empty() || !self.to_verify.is_empty();
        Use { any, cidrs, waiting }
    }

    /// Begins to clear flags of what nobody uses any more.
    pub(crate) fn begin_drain(&mut self) {
        let Some(status) = self.config.as_ref().and_then(|config| config.status.as_ref()) else { return };
        let used = self.used();
        let unused = status.cidrs.iter().any(|cidr| cidr.in_use && !used.cidrs.contains(&cidr.cidr));
        let idle = self.to_plan.is_empty()
            && !used.waiting
            && self.drain == Drain::Idle
            && !self.config_busy
            && self.drain_after <= self.now;
        if self.is_live() && idle && (unused || (status.in_use && !used.any) || (status.draining && !used.any)) {
            self.drain = if status.draining { Drain::Listing } else { Drain::Announcing };
            self.config_due = true;
            if self.drain == Drain::Listing {
                self.drained();
            }
        }
    }

    /// The last step of a drain succeeded: go to the next.
    pub(crate) fn drained(&mut self) {
        self.drain = match self.drain {
            Drain::Announcing | Drain::Listing => {
                self.drain_round += 1;
                self.emit(Flight::Drain(self.drain_round), Action::ListPages);
                Drain::Listing
            }
            Drain::Clearing | Drain::Idle => Drain::Idle,
        };
    }
}

/// A few names, and how many more there are: for messages.
pub(crate) fn some_names<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let total = names.len();
    let shown: Vec<_> = names.take(SHOWN).collect();
    let more = total.saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}
