//! Who holds which address: the agent's decisions, without I/O and without a clock.
//!
//! ```text
//!              Record, Record, …                 now, [Input, …] ──▶ apply ──▶ Step { records, replies }
//! journal ──▶ Pools<Restoring> ── live() ──▶ Pools<Live>                         │ written?
//!                                                        undo(step) ◀── no ──────┴── yes ──▶ replies go out
//! ```
//! Nothing is told to anybody before its records are written; if they cannot be, `undo` takes back what was given, and
//! what was released stays released. `share` holds the addresses, `book` who has them, `live` the verbs.

mod book;
mod check;
mod explain;
mod found;
mod give;
mod input;
mod live;
mod local;
mod ranges;
mod refusal;
mod share;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
pub(crate) use tests::fixtures;
mod take_over;
mod view;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cadastre_messages::Attachment;

pub use check::Violation;
pub use found::STRAY_NETWORK;
pub use input::{Answer, Assignment, Holder, Input, Step, Token};
pub use refusal::{broken, not_written};
pub use share::ShareCounts;
pub use view::{BlockView, HolderView, NetworkView, ShareView, View};

use crate::boot_time::BootTime;
use crate::record::{BlockRecord, Gave, HeldAddress, HoldId, Record};
use crate::survey::Stray;
use book::{Book, Hold};
use live::Parked;

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Rules {
    pub node: String,
    /// How long a released address rests.
    pub address_cooling: Duration,
    /// How long an ADD waits for an assignment.
    pub add_wait: Duration,
}

/// The addresses of this node.
#[derive(Debug)]
pub struct Pools<Phase> {
    rules: Rules,
    book: Book,
    phase: Phase,
}

/// What the journal says is being read: nothing may be given yet.
#[derive(Debug, Default)]
pub struct Restoring {
    by_id: HashMap<HoldId, Arc<Attachment>>,
    /// What is held so far, by network if that has ranges of its own.
    held: HashSet<(Option<String>, IpAddr)>,
    /// The first record that cannot follow those before it; later ones are not looked at.
    contradiction: Option<Violation>,
    strays: Vec<Stray>,
}

/// Everything is known: ADDs are served.
#[derive(Debug, Default)]
pub struct Live {
    /// ADDs that wait for an assignment, in the order of their deadlines.
    parked: VecDeque<Parked>,
    /// Something came that a parked ADD may have waited for.
    stirred: bool,
    /// DELs that released nothing in networks of which host-local's reservations are still to be told: those may list them.
    ended: BTreeSet<Attachment>,
    /// Addresses that a survey found in namespaces, and that no block contained so far.
    strays: Vec<Stray>,
    /// Blocks of the last assignment that could not be used, and that assignment.
    refused: Vec<BlockRecord>,
    assignment: Option<Assignment>,
}

impl Pools<Restoring> {
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { rules, book: Book::default(), phase: Restoring::default() }
    }

    /// Takes in one record of the journal. What no record explains is caught by the check of `live`.
    pub fn restore(&mut self, record: Record) {
        if self.phase.contradiction.is_some() {
            return;
        }
        match record {
            // What was recorded fitted when it was new.
            Record::Blocks(blocks) => drop(self.book.replay_blocks(&blocks)),
            Record::Gave(gave) => self.restore_gave(*gave),
            Record::Acked { id, at, netns } => {
                let attachment = self.phase.by_id.get(&id);
                if let Some(hold) = attachment.and_then(|attachment| self.book.held.get_mut(attachment)) {
                    let held = &mut Arc::make_mut(hold).held;
                    held.acked = at;
                    held.netns = netns.unwrap_or_else(|| std::mem::take(&mut held.netns));
                }
            }
            Record::Released { id, at } => {
                if let Some(hold) = self.phase.by_id.remove(&id).and_then(|holder| self.book.release(&holder, at)) {
                    for held in &hold.held.addresses {
                        self.phase.held.remove(&place_of(held));
                    }
                }
            }
            Record::Cooling { pool, address, since } => match self.book.network_of(&pool) {
                Some(network) => network.rest(address, since),
                None => self.book.share_of(&pool, address).restore_cooling(address, since),
            },
            Record::Cursor { pool, cursor } => self.book.share_of(&pool, cursor.network()).set_cursor(cursor),
            Record::LastOfSet { network, set, address } => {
                self.book.network(&network).set_last(usize::try_from(set).unwrap_or_default(), address);
            }
            Record::Stray { address, netns } => self.phase.strays.push(Stray { address, netns }),
            Record::TookOver { network } => self.book.network(&network).taken_over = true,
        }
    }

    fn restore_gave(&mut self, gave: Gave) {
        let Gave { id, attachment, held } = gave;
        let attachment = Arc::new(attachment);
        let twice = self.book.held.contains_key(&attachment) || self.phase.by_id.contains_key(&id);
        if let Some(again) = held.addresses.iter().find(|held| !self.phase.held.insert(place_of(held)) || twice) {
            self.phase.contradiction = Some(Violation::HeldTwice { address: again.address });
            return;
        }
        for (place, address) in held.addresses.iter().enumerate() {
            if let Some(network) = self.book.network_of(&address.pool) {
                network.end_cooling(held.since, self.rules.address_cooling);
                network.restore(place, address.address);
                continue;
            }
            let share = self.book.share_of(&address.pool, address.address);
            share.restore(address, held.since, self.rules.address_cooling);
        }
        self.book.last_id = self.book.last_id.max(id.0);
        self.phase.by_id.insert(id, Arc::clone(&attachment));
        // Whether the reply arrived is not known any more, so it is never undone.
        self.book.held.insert(attachment, Arc::new(Hold { id, confirmed: true, held }));
    }

    /// Everything is read. Refused if what was read contradicts itself.
    pub fn live(mut self, now: BootTime) -> Result<Pools<Live>, Violation> {
        self.book.end_cooling(now, self.rules.address_cooling);
        self.book.shares.retain(|share| !share.is_empty());
        let Self { rules, book, phase: Restoring { by_id: _, held: _, contradiction, strays } } = self;
        contradiction.map_or(Ok(()), Err)?;
        let pools = Pools { rules, book, phase: Live { strays, ..Live::default() } };
        pools.check()?;
        Ok(pools)
    }
}

fn place_of(held: &HeldAddress) -> (Option<String>, IpAddr) {
    (local::network_of(&held.pool).map(ToOwned::to_owned), held.address)
}
