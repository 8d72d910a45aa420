//! What host-local had reserved in a network, when its configuration is given to us on a node that runs: nobody is
//! renumbered, and nobody gets an address that somebody has.
//!
//! ```text
//! first ADD of the network ──▶ Answer::TakeOver ──▶ plugin reads host-local's folder ──▶ Input::TakeOver … done ──▶ ADD again
//! ```
//! Once for each network and boot: afterwards host-local's files are old news.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cadastre_api::DEFAULT_POOL;
use cadastre_core::Family;
use cadastre_messages::{Attachment, Failure, LastReserved, Local, Reservation, TakeOver};

use super::book::{Book, Hold};
use super::input::{Answer, Fresh, Holder, Step, Token};
use super::ranges::Ranges;
use super::share::Taken;
use super::{Live, Pools, refusal};
use crate::boot_time::BootTime;
use crate::record::{Gave, Held, HeldAddress, NetnsRecord, PodName, Record};

/// DELs that are remembered at once: more than a node has pods.
const MOST_ENDED: usize = 4_096;

impl Pools<Live> {
    /// `seen`: of each reservation, whether the agent found the namespace.
    pub(super) fn take_over(
        &mut self,
        now: BootTime,
        token: Token,
        take_over: TakeOver,
        seen: &[bool],
        step: &mut Step,
    ) {
        let TakeOver { network: name, reservations, last, done } = take_over;
        step.replies.push((token, Answer::Done));
        if self.book.network(&name).taken_over {
            return; // Another caller was faster; since then addresses may have been released.
        }
        // Of two that have one address the first is believed, however each writes it.
        let mut used = self.book.held_of_blocks();
        let mut by_attachment: BTreeMap<Attachment, Vec<(IpAddr, Reservation, bool)>> = BTreeMap::new();
        for (reservation, seen) in reservations.into_iter().zip(seen) {
            let known = self.book.held.contains_key(&reservation.attachment)
                || self.phase.ended.contains(&reservation.attachment)
                || reservation.attachment.network != name;
            let Ok(address) = reservation.address.parse() else { continue };
            if !known && !self.book.network(&name).holds(address) && used.insert(address) {
                by_attachment.entry(reservation.attachment.clone()).or_default().push((address, reservation, *seen));
            }
        }
        for (attachment, reserved) in by_attachment {
            self.hold_reserved(now, &name, attachment, reserved, step);
        }
        for LastReserved { set, address } in last {
            let Ok(address) = address.parse() else { continue };
            self.book.network(&name).set_last(set, address);
            step.records.push(Record::LastOfSet { network: name.clone(), set: set as u64, address });
        }
        step.took_over.push((token, done.then(|| name.clone())));
        if done {
            self.book.network(&name).taken_over = true;
            self.phase.ended.retain(|ended| ended.network != name);
            step.records.push(Record::TookOver { network: name });
        }
    }

    /// The plugin may have read host-local's folder before this DEL came, and tell of it after.
    pub(super) fn remember_ended(&mut self, attachment: &Attachment) {
        let awaited = self.book.networks.get(&attachment.network).is_some_and(|network| !network.taken_over);
        if awaited && self.phase.ended.len() < MOST_ENDED {
            self.phase.ended.insert(attachment.clone());
        }
    }

    fn hold_reserved(
        &mut self,
        now: BootTime,
        name: &str,
        attachment: Attachment,
        mut reserved: Vec<(IpAddr, Reservation, bool)>,
        step: &mut Step,
    ) {
        reserved.sort_by_key(|(address, ..)| (Family::of(*address), *address));
        reserved.dedup_by_key(|(address, ..)| *address);
        let id = self.book.next_id();
        let pool = self.book.network(name).pool.clone();
        // What lies in a block of this node is kept from the block's pods, whatever the ranges are.
        let place = |book: &Book, address: IpAddr| {
            let of_block = book.place(DEFAULT_POOL, address);
            let of_network = HeldAddress { pool: pool.clone(), address, grant: uuid::Uuid::nil() };
            if of_block.grant.is_nil() { of_network } else { of_block }
        };
        let addresses: Vec<HeldAddress> = reserved.iter().map(|(address, ..)| place(&self.book, *address)).collect();
        for (place, held) in addresses.iter().enumerate() {
            self.book.restore(place, held, now);
        }
        let Some((_, Reservation { netns, pod, .. }, seen)) = reserved.pop() else { return };
        let cadastre_messages::Netns { path, device, inode } = netns;
        let netns = NetnsRecord { path, device, inode, seen };
        let held = Held { addresses, netns, pod: pod.map(PodName::from), since: now, acked: now };
        let holder = Holder { attachment: Arc::new(attachment.clone()), id };
        let taken =
            held.addresses.iter().map(|held| Taken { held: held.clone(), cooled_since: None, before: None }).collect();
        step.fresh.push(Fresh { holder: holder.clone(), taken });
        self.book.held.insert(holder.attachment, Arc::new(Hold { id, confirmed: true, held: held.clone() }));
        step.records.push(Record::Gave(Box::new(Gave { id, attachment, held })));
    }
}

impl Book {
    /// Whether an ADD of this network could be served.
    pub(super) fn status_of_ranges(&self, name: &str, local: &Local) -> Result<(), Failure> {
        let ranges = Ranges::parse(local)?;
        self.overlap(name, &ranges).map_or(Ok(()), Err)?;
        let Some(network) = self.networks.get(name) else { return Ok(()) };
        let full = ranges.sets.iter().enumerate().find(|(place, set)| !network.has_any(*place, set));
        full.map_or(Ok(()), |(_, set)| Err(refusal::ranges_exhausted(name, network, set)))
    }
}
