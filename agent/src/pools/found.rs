//! What a survey of the node found, put together with what could still be read of a journal.
//!
//! ```text
//! journal's readable part ─┐                          held: by attachments that live
//! survey: attachments ─────┼─▶ Pools<Restoring> ─▶    cooling: what the journal had and whose namespace is gone
//!         strays ──────────┘                          strays: held by their namespace, once a block contains them
//! ```
//! The survey has the last word: it looked at what lives. Addresses that no known block contains wait under no grant for the
//! block that does.

use std::net::IpAddr;
use std::sync::Arc;

use cadastre_api::DEFAULT_POOL;
use cadastre_core::Family;
use cadastre_messages::Attachment;
use uuid::Uuid;

use super::book::{Book, Hold};
use super::input::Step;
use super::{Live, Pools, Restoring, local};
use crate::boot_time::BootTime;
use crate::record::{BlockRecord, Gave, Held, HeldAddress, NetnsRecord, Record};
use crate::survey::{Attached, Stray, Survey};

/// Network of the attachments that stand for addresses which no attachment explains. No configuration can be called so.
pub const STRAY_NETWORK: &str = "(found)";

impl Pools<Restoring> {
    /// Whether the journal said nothing that it could not have said of an empty node.
    #[must_use]
    pub fn knows_nothing(&self) -> bool {
        self.book.held.is_empty() && self.book.assigned.is_none() && self.book.networks.is_empty()
    }

    /// Takes in what lives. `gone`: whether a namespace certainly is.
    pub fn take_in(&mut self, survey: Survey, gone: impl Fn(&NetnsRecord) -> bool, now: BootTime) {
        let Survey { attached, strays } = survey;
        let dead = self.book.held.iter().filter(|(attachment, hold)| {
            gone(&hold.held.netns) && attached.iter().all(|found| found.attachment != ***attachment)
        });
        let dead: Vec<Arc<Attachment>> = dead.map(|(attachment, _)| Arc::clone(attachment)).collect();
        for attachment in dead {
            self.book.release(&attachment, now);
        }
        for found in attached {
            self.book.hold_found(found, now);
        }
        self.phase.strays = strays;
    }
}

impl Pools<Live> {
    /// Strays that lie in one of these blocks and are not held become held by their namespace.
    pub(super) fn hold_strays(&mut self, blocks: &[BlockRecord], now: BootTime, step: &mut Step) {
        let strays = std::mem::take(&mut self.phase.strays);
        let (inside, outside): (Vec<Stray>, Vec<Stray>) =
            strays.into_iter().partition(|stray| blocks.iter().any(|block| block.cidr.contains_addr(stray.address)));
        self.phase.strays = outside;
        for Stray { address, netns } in inside {
            if self.book.is_held(address) {
                continue;
            }
            let space = netns.path.rsplit('/').next().unwrap_or_default().to_owned();
            let network = STRAY_NETWORK.to_owned();
            let attachment = Attachment { network, container_id: space, interface: address.to_string() };
            let found = Attached { attachment, netns, pod: None, addresses: vec![address], of_ranges: false };
            step.records.extend(self.book.hold_found(found, now));
        }
    }
}

impl Book {
    fn is_held(&self, address: IpAddr) -> bool {
        let held = self.held.values().flat_map(|hold| &hold.held.addresses);
        held.filter(|held| local::network_of(&held.pool).is_none()).any(|held| held.address == address)
    }

    /// An attachment that lives holds what it says it does, whoever else was said to.
    fn hold_found(&mut self, found: Attached, now: BootTime) -> Option<Record> {
        let Attached { attachment, netns, pod, mut addresses, of_ranges } = found;
        addresses.sort_by_key(|address| (Family::of(*address), *address));
        addresses.dedup();
        if !of_ranges {
            addresses.dedup_by_key(|address| Family::of(*address)); // Blocks give one of each family.
        }
        let pool = if of_ranges { self.network(&attachment.network).pool.clone() } else { DEFAULT_POOL.to_owned() };
        let known = self.held.get(&attachment);
        if known.is_some_and(|hold| hold.held.addresses.iter().map(|held| held.address).eq(addresses.iter().copied())) {
            return None;
        }
        self.drop_holders(&attachment, &pool, &addresses, now);
        let held: Vec<HeldAddress> = addresses.iter().map(|address| self.place(&pool, *address)).collect();
        for held in &held {
            match self.network_of(&held.pool) {
                Some(network) => network.restore(None, held.address),
                None => self.share_of(&held.pool, held.address).restore(held, now, std::time::Duration::MAX),
            }
        }
        let id = self.next_id();
        // A DEL that waits for us came after whatever it was told.
        let held = Held { addresses: held, netns, pod, since: now, acked: BootTime::default() };
        self.held.insert(Arc::new(attachment.clone()), Arc::new(Hold { id, confirmed: true, held: held.clone() }));
        Some(Record::Gave(Box::new(Gave { id, attachment, held })))
    }

    /// Whoever was said to hold these addresses does not any more, nor does the attachment hold others.
    fn drop_holders(&mut self, attachment: &Attachment, pool: &str, addresses: &[IpAddr], now: BootTime) {
        let same_space = |held: &HeldAddress| local::network_of(&held.pool) == local::network_of(pool);
        let holds =
            |hold: &Hold| hold.held.addresses.iter().any(|held| same_space(held) && addresses.contains(&held.address));
        let others = self.held.iter().filter(|(other, hold)| ***other == *attachment || holds(hold));
        let others: Vec<Arc<Attachment>> = others.map(|(other, _)| Arc::clone(other)).collect();
        for other in others {
            self.release(&other, now);
        }
        for address in addresses {
            match self.network_of(pool) {
                Some(network) => network.stop_cooling(*address),
                None => self.shares.iter_mut().for_each(|share| share.stop_cooling(*address)),
            }
        }
    }

    /// The block that has the address, or none yet.
    fn place(&self, pool: &str, address: IpAddr) -> HeldAddress {
        let blocks = self.shares.iter().flat_map(|share| share.blocks.iter().map(move |block| (share, block)));
        let found =
            blocks.filter(|_| local::network_of(pool).is_none()).find(|(_, block)| block.cidr.contains_addr(address));
        let (pool, grant) = found.map_or((pool, Uuid::nil()), |(share, block)| (share.pool.as_str(), block.grant));
        HeldAddress { pool: pool.to_owned(), address, grant }
    }

    /// Addresses that were found before their block was known belong to it now.
    pub(super) fn follow_found(&mut self, blocks: &[BlockRecord]) {
        let found = |held: &HeldAddress| held.grant.is_nil() && local::network_of(&held.pool).is_none();
        for hold in self.held.values_mut().filter(|hold| hold.held.addresses.iter().any(found)) {
            for held in Arc::make_mut(hold).held.addresses.iter_mut().filter(|held| found(held)) {
                let known = |block: &&BlockRecord| !block.grant.is_nil() && block.cidr.contains_addr(held.address);
                if let Some(block) = blocks.iter().find(known) {
                    held.pool.clone_from(&block.pool);
                    held.grant = block.grant;
                }
            }
        }
    }
}
