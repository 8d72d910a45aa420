//! What a survey of the node found, put together with what could still be read of a journal.
//!
//! ```text
//! journal's readable part ─┐                          held: by attachments that live
//! survey: attachments ─────┼─▶ Pools<Restoring> ─▶    cooling: what the journal had and whose namespace is gone
//!         strays ──────────┘                          strays: held by their namespace, once a block contains them
//! ```
//! Blocks of a damaged journal are closed until the operator speaks: it may have taken them back in the part that is lost.
//! Addresses that no block contains wait under no grant for the block that does.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use cadastre_api::DEFAULT_POOL;
use cadastre_core::Family;
use cadastre_messages::{Attachment, Failure, Hold as FoundInUse, Netns};
use uuid::Uuid;

use super::book::{Book, Hold};
use super::input::Step;
use super::{Live, Pools, Restoring, local, refusal};
use crate::boot_time::BootTime;
use crate::record::{BlockRecord, BlockState, Blocks, Gave, Held, HeldAddress, NetnsRecord, Record};
use crate::survey::{Attached, Stray, Survey};

/// Network of the attachments that stand for addresses which no attachment explains. No configuration can be called so.
pub const STRAY_NETWORK: &str = "(found)";

impl Pools<Restoring> {
    /// Whether the journal said nothing that it could not have said of an empty node that no operator has spoken to.
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
        self.phase.strays = strays;
        for found in attached {
            let (_, others) = self.book.hold_found(found, now);
            self.phase.strays.extend(others);
        }
        self.book.close_all();
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
            step.records.extend(self.book.hold_found(found, now).0);
        }
    }
}

impl Pools<Live> {
    /// An address that is in use and that nobody holds is held by its namespace from now on.
    pub(super) fn hold(
        &mut self,
        found: FoundInUse,
        seen: bool,
        now: BootTime,
        step: &mut Step,
    ) -> Result<(), Failure> {
        let FoundInUse { address, netns: Netns { path, device, inode } } = found;
        let blocks = self.book.blocks().blocks;
        let in_block = |address: &IpAddr| blocks.iter().any(|block| block.cidr.contains_addr(*address));
        let Some(address) = address.parse().ok().filter(in_block) else {
            return Err(refusal::of_no_block(&address));
        };
        if !seen {
            return Err(refusal::namespace_gone(&path));
        }
        self.phase.strays.push(Stray { address, netns: NetnsRecord { path, device, inode, seen } });
        self.hold_strays(&blocks, now, step);
        Ok(())
    }
}

impl Book {
    /// Whether an attachment holds it, networks with ranges of their own aside.
    pub(super) fn is_held(&self, address: IpAddr) -> bool {
        self.held_in_blocks().any(|held| held == address)
    }

    /// The same of all of them, for who asks often.
    pub(super) fn held_of_blocks(&self) -> HashSet<IpAddr> {
        self.held_in_blocks().collect()
    }

    fn held_in_blocks(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let held = self.held.values().flat_map(|hold| &hold.held.addresses);
        held.filter(|held| local::network_of(&held.pool).is_none()).map(|held| held.address)
    }

    /// Nothing is given from any block, and those in which nothing is are forgotten.
    fn close_all(&mut self) {
        let Blocks { assigned: _, mut blocks } = self.blocks();
        for block in &mut blocks {
            block.state = BlockState::Gone;
        }
        drop(self.replay_blocks(&Blocks { assigned: None, blocks })); // All of them were there.
        self.settle();
    }

    /// An attachment that lives holds what it says it does, whoever else was said to. Returns the record of it, if it is
    /// news, and addresses that it cannot hold here: a block gives one of each family.
    fn hold_found(&mut self, found: Attached, now: BootTime) -> (Option<Record>, Vec<Stray>) {
        let Attached { attachment, netns, pod, addresses, of_ranges } = found;
        let pool = if of_ranges { self.network(&attachment.network).pool.clone() } else { DEFAULT_POOL.to_owned() };
        let known: Vec<IpAddr> = self.held.get(&attachment).map(|hold| hold.addresses()).unwrap_or_default();
        let (addresses, others) =
            if of_ranges { (sorted(addresses), Vec::new()) } else { self.one_of_each_family(&known, addresses) };
        let others = others.into_iter().map(|address| Stray { address, netns: netns.clone() }).collect();
        if known == addresses {
            return (None, others);
        }
        self.drop_holders(&attachment, &pool, &addresses, now);
        let held: Vec<HeldAddress> = addresses.iter().map(|address| self.place(&pool, *address)).collect();
        for (place, held) in held.iter().enumerate() {
            self.restore(place, held, now);
        }
        let id = self.next_id();
        // A DEL that waits for us came after whatever it was told.
        let held = Held { addresses: held, netns, pod, since: now, acked: BootTime::default() };
        self.held.insert(Arc::new(attachment.clone()), Arc::new(Hold { id, confirmed: true, held: held.clone() }));
        (Some(Record::Gave(Box::new(Gave { id, attachment, held }))), others)
    }

    /// Of each family the address that the journal had, else one that a block contains, else the first; and the rest, which
    /// another plugin may have added, or taken from the result.
    fn one_of_each_family(&self, known: &[IpAddr], found: Vec<IpAddr>) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let all = sorted([known.to_vec(), found].concat());
        let of_block = |address: &&IpAddr| {
            self.shares.iter().flat_map(|share| &share.blocks).any(|block| block.cidr.contains_addr(**address))
        };
        let chosen: Vec<IpAddr> = Family::ALL
            .into_iter()
            .filter_map(|family| {
                let of_family = all.iter().filter(move |address| Family::of(**address) == family);
                let journals = of_family.clone().find(|address| known.contains(address));
                journals.or_else(|| of_family.clone().find(of_block)).or_else(|| of_family.clone().next()).copied()
            })
            .collect();
        let others = all.into_iter().filter(|address| !chosen.contains(address)).collect();
        (chosen, others)
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
    pub(super) fn place(&self, pool: &str, address: IpAddr) -> HeldAddress {
        let blocks = self.shares.iter().flat_map(|share| share.blocks.iter().map(move |block| (share, block)));
        let of_blocks = local::network_of(pool).is_none();
        let found = blocks.filter(|_| of_blocks).find(|(_, block)| block.cidr.contains_addr(address));
        let (pool, grant) = found.map_or((pool, Uuid::nil()), |(share, block)| (share.pool.as_str(), block.grant));
        HeldAddress { pool: pool.to_owned(), address, grant }
    }

    /// An attachment holds this address, of its addresses the one at `place`.
    pub(super) fn restore(&mut self, place: usize, held: &HeldAddress, now: BootTime) {
        match self.network_of(&held.pool) {
            Some(network) => network.restore(place, held.address),
            None => self.share_of(&held.pool, held.address).restore(held, now, std::time::Duration::MAX),
        }
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

fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_by_key(|address| (Family::of(*address), *address));
    addresses.dedup();
    addresses
}
