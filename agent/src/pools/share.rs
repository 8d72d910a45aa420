//! One pool's addresses on this node in one family: its blocks, which addresses are taken, and which must rest.
//!
//! ```text
//! blocks    10.0.2.0/24 active            10.0.7.0/24 retiring        10.0.9.0/24 gone
//! space     R r ▓ ▓ c · ▓ · ···  R        (not in the space: nothing is taken from it any more)
//! cooling   10.0.2.4 since 12.5 s, 10.0.7.9 since 13.1 s, …           oldest first
//! ```
//! `R` reserved, `r` the router, `▓` held by an attachment, `c` cooling, `·` free. The space knows router, held and
//! cooling alike as taken; who holds what is the book's business.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use cadastre_core::{AddrRange, Cidr, Family, Space, TakeError};
use uuid::Uuid;

use super::local::NotThis;
use crate::boot_time::BootTime;
use crate::record::{BlockRecord, BlockState, HeldAddress};

/// The addresses of one pool in one family.
#[derive(Debug)]
pub struct Share {
    pub(super) pool: String,
    pub(super) family: Family,
    pub(super) blocks: Vec<Block>,
    space: Space,
    cooling: VecDeque<Cooling>,
    /// How often a cooling address was given because nothing else was free.
    pub(super) yielded: u64,
}

/// One block.
#[derive(Clone, Debug)]
pub struct Block {
    pub(super) cidr: Cidr,
    pub(super) grant: Uuid,
    pub(super) state: BlockState,
    /// The gateway of its pods, if it is large enough to spare one.
    pub(super) router: Option<IpAddr>,
    /// Addresses that attachments hold.
    pub(super) used: u64,
}

/// A released address that nobody is to get yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cooling {
    pub address: IpAddr,
    pub since: BootTime,
}

/// An address on its way to an attachment.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub held: HeldAddress,
    /// Set if it should still have rested.
    pub cooled_since: Option<BootTime>,
    /// Where the search would have gone on without it.
    pub before: Option<IpAddr>,
}

/// How full a share is. Counts are addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShareCounts {
    /// What can be held at once, routers included.
    pub capacity: u128,
    /// Held by attachments and routers.
    pub allocated: u64,
    pub cooling: u64,
    pub reserved: u128,
    pub free: u128,
}

impl Share {
    pub(super) fn new(pool: &str, family: Family) -> Self {
        let space = Space::new(family, family.bits());
        Self { pool: pool.to_owned(), family, blocks: Vec::new(), space, cooling: VecDeque::new(), yielded: 0 }
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.cooling.is_empty()
    }

    /// Whether the operator assigns a block of it.
    pub(super) fn is_assigned(&self) -> bool {
        self.blocks.iter().any(|block| block.state != BlockState::Gone)
    }

    /// Whether `take` would find one.
    pub(super) fn has_any(&self) -> bool {
        let gives = |cooling: &Cooling| self.blocks.iter().any(|block| block.gives(cooling.address));
        self.space.counts().free > 0 || self.cooling.iter().any(gives)
    }

    /// Takes an address: the next that is free and has rested, else the one that has rested longest.
    pub(super) fn take(&mut self, now: BootTime, rest: Duration) -> Option<Taken> {
        self.end_cooling(now, rest);
        let before = self.cursor().map(|cursor| cursor.network());
        let (address, cooled_since) = match self.space.take_next() {
            Some(unit) => (unit.network(), None),
            None => self.longest_rested().map(|cooling| (cooling.address, Some(cooling.since)))?,
        };
        self.set_cursor(Cidr::host(address));
        let held = self.occupy(address)?;
        Some(Taken { held, cooled_since, before })
    }

    /// Takes exactly this address, which may be cooling: whoever asks for it by name is to have it.
    pub(super) fn take_this(&mut self, address: IpAddr) -> Result<Taken, NotThis> {
        let block = self.blocks.iter().find(|block| block.gives(address)).ok_or(NotThis::Outside)?;
        if block.router == Some(address) {
            return Err(NotThis::Reserved);
        }
        let cooling = self.cooling.iter().position(|cooling| cooling.address == address);
        let cooled_since = cooling.and_then(|at| self.cooling.remove(at)).map(|cooling| cooling.since);
        if cooled_since.is_none() {
            self.space.take(&Cidr::host(address)).map_err(|error| match error {
                TakeError::Reserved { .. } => NotThis::Reserved,
                TakeError::Taken { .. } => NotThis::Taken,
                TakeError::WrongFamily(_) | TakeError::Misaligned { .. } | TakeError::Outside { .. } => {
                    NotThis::Outside
                }
            })?;
        }
        // As after `take`, and as a replay of the record leaves it.
        let before = self.cursor().map(|cursor| cursor.network());
        self.set_cursor(Cidr::host(address));
        self.yielded += u64::from(cooled_since.is_some());
        let held = self.occupy(address).ok_or(NotThis::Outside)?;
        Ok(Taken { held, cooled_since, before })
    }

    /// Counts the address as held in its block. The space has it as taken already.
    fn occupy(&mut self, address: IpAddr) -> Option<HeldAddress> {
        let pool = self.pool.clone();
        let block = self.blocks.iter_mut().find(|block| block.gives(address))?;
        block.used += 1;
        Some(HeldAddress { pool, address, grant: block.grant })
    }

    fn longest_rested(&mut self) -> Option<Cooling> {
        let gives = |cooling: &Cooling| self.blocks.iter().any(|block| block.gives(cooling.address));
        let oldest = self.cooling.iter().position(gives)?;
        self.yielded += 1;
        self.cooling.remove(oldest)
    }

    /// Undoes `take`, as if it had not happened: nobody was told of the address.
    pub(super) fn put_back(&mut self, taken: &Taken) {
        let address = taken.held.address;
        self.vacate(&taken.held);
        match taken.cooled_since {
            Some(since) => {
                self.rest(address, since);
                self.yielded = self.yielded.saturating_sub(1);
            }
            None => self.free(address),
        }
        if self.cursor() == Some(Cidr::host(address)) {
            self.space.set_cursor(taken.before.map(Cidr::host));
        }
    }

    /// An attachment gave the address up; it rests from `now` on.
    pub(super) fn release(&mut self, held: &HeldAddress, now: BootTime) {
        self.vacate(held);
        self.rest(held.address, now);
    }

    fn vacate(&mut self, held: &HeldAddress) {
        if let Some(block) = self.block_of_mut(held) {
            block.used = block.used.saturating_sub(1);
        }
    }

    /// Keeps the queue ordered by time: what was undone, and a snapshot's, may be older than the newest.
    pub(super) fn rest(&mut self, address: IpAddr, since: BootTime) {
        let place = self.cooling.partition_point(|cooling| cooling.since <= since);
        self.cooling.insert(place, Cooling { address, since });
    }

    /// Frees what has rested long enough.
    pub(super) fn end_cooling(&mut self, now: BootTime, rest: Duration) {
        while let Some(cooling) = self.cooling.front().copied().filter(|cooling| cooling.since.plus(rest) <= now) {
            self.cooling.pop_front();
            self.free(cooling.address);
        }
    }

    /// An address of a block that gives none is not in the space; then there is nothing to free.
    fn free(&mut self, address: IpAddr) {
        if self.blocks.iter().any(|block| block.gives(address)) {
            drop(self.space.give_back(&Cidr::host(address))); // A journal that contradicts itself is found by `check`.
        }
    }

    /// Replay: an attachment holds that address. An address of no known block gets one of its own that gives nothing.
    pub(super) fn restore(&mut self, held: &HeldAddress, at: BootTime, rest: Duration) {
        self.end_cooling(at, rest);
        let unit = Cidr::host(held.address);
        if let Some(block) = self.block_of_mut(held) {
            block.used += 1;
        } else {
            self.blocks.push(Block { cidr: unit, grant: held.grant, state: BlockState::Gone, router: None, used: 1 });
        }
        if !self.keep_taken(held.address) {
            self.cooling.retain(|cooling| cooling.address != held.address); // It was given before it had rested.
        }
        self.set_cursor(unit);
    }

    /// Takes an address out of what the blocks give, also one that was given by a block which was cut differently: then it
    /// may be what is the router's now. False if it was taken already.
    fn keep_taken(&mut self, address: IpAddr) -> bool {
        let Some(block) = self.blocks.iter_mut().find(|block| block.gives(address)) else { return true };
        let was_router = block.router.take_if(|router| *router == address).is_some();
        was_router || self.space.claim(&Cidr::host(address)).is_ok()
    }

    /// Replay: the address rests since then.
    pub(super) fn restore_cooling(&mut self, address: IpAddr, since: BootTime) {
        self.keep_taken(address);
        self.rest(address, since);
    }

    /// The address is used, though it was said to rest: it stays taken.
    pub(super) fn stop_cooling(&mut self, address: IpAddr) {
        if let Some(place) = self.cooling.iter().position(|cooling| cooling.address == address) {
            self.cooling.remove(place);
            self.free(address);
        }
    }

    pub(super) fn set_cursor(&mut self, cursor: Cidr) {
        self.space.set_cursor(Some(cursor));
    }

    pub(super) fn cursor(&self) -> Option<Cidr> {
        self.space.cursor()
    }

    fn block_of_mut(&mut self, held: &HeldAddress) -> Option<&mut Block> {
        self.blocks.iter_mut().find(|block| block.grant == held.grant && block.cidr.contains_addr(held.address))
    }

    /// The block that an address was given from.
    pub(super) fn block_of(&self, held: &HeldAddress) -> Option<&Block> {
        self.blocks.iter().find(|block| block.grant == held.grant && block.cidr.contains_addr(held.address))
    }

    /// Whether one of the blocks contains it.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.blocks.iter().any(|block| block.cidr.contains_addr(address))
    }

    /// Whether nobody gets it, ever: first or last of its block.
    pub(super) fn is_reserved(&self, address: IpAddr) -> bool {
        let host = Cidr::host(address);
        self.space.reserved().any(|range| range.overlaps(&host))
    }

    pub(super) fn cooling(&self) -> impl Iterator<Item = &Cooling> {
        self.cooling.iter()
    }

    fn cools_in(&self, cidr: &Cidr) -> bool {
        self.cooling.iter().any(|cooling| cidr.contains_addr(cooling.address))
    }

    pub(super) fn counts(&self) -> ShareCounts {
        let space = self.space.counts();
        let routers = self.routers().count() as u64;
        let used: u64 = self.blocks.iter().map(|block| block.used).sum();
        ShareCounts {
            capacity: space.total - space.reserved,
            allocated: used + routers,
            cooling: self.cooling.len() as u64,
            reserved: space.reserved,
            free: space.free,
        }
    }

    /// The addresses that the blocks in use keep for their gateways.
    pub(super) fn routers(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.blocks.iter().filter(|block| block.state == BlockState::Active).filter_map(|block| block.router)
    }
}

/// Changes of the blocks.
impl Share {
    /// Makes `wanted` the blocks, keeping what is in those that stay. `held` yields what attachments hold in this share,
    /// with the grants as they are afterwards. Returns what cannot be used, and why.
    pub(super) fn set_blocks<'a>(
        &mut self,
        wanted: &[&BlockRecord],
        held: &(impl Iterator<Item = &'a HeldAddress> + Clone),
    ) -> Vec<String> {
        let before = std::mem::take(&mut self.blocks);
        for block in &before {
            let stays = wanted.iter().any(|new| new.cidr == block.cidr && new.state == BlockState::Active);
            if block.state == BlockState::Active && !stays {
                self.close(block, held.clone());
            }
        }
        let mut problems = Vec::new();
        // What an address was held in while its block was not known is a part of the block now.
        let part = |record: &BlockRecord| {
            record.state == BlockState::Gone
                && wanted.iter().any(|other| {
                    other.grant == record.grant && other.cidr != record.cidr && other.cidr.contains(&record.cidr)
                })
        };
        for record in wanted.iter().filter(|record| !part(record)) {
            if self.blocks.iter().any(|block| block.cidr == record.cidr) {
                problems.push(format!(
                    "block {} of pool {} is assigned twice; the second is not used",
                    record.cidr, self.pool
                ));
                continue;
            }
            let was_open = before.iter().find(|old| old.cidr == record.cidr && old.state == BlockState::Active);
            let mut block = Block::new(record);
            block.used = held.clone().filter(|held| block.holds(held)).count() as u64;
            match was_open {
                _ if block.state != BlockState::Active => {}
                Some(old) => block.router = old.router,
                None => problems.extend(self.open(&mut block, held.clone()).err()),
            }
            self.blocks.push(block);
        }
        problems
    }

    /// Takes a block out of the space, so that nothing more is given from it.
    fn close<'a>(&mut self, block: &Block, held: impl Iterator<Item = &'a HeldAddress>) {
        let cooling: Vec<IpAddr> = self.cooling.iter().map(|cooling| cooling.address).collect();
        let taken = held.map(|held| held.address).chain(cooling).chain(block.router);
        for address in taken.filter(|address| block.cidr.contains_addr(*address)) {
            drop(self.space.give_back(&Cidr::host(address))); // An older block that overlapped may have held it.
        }
        drop(self.space.remove_cidr(&block.cidr)); // Likewise.
        for end in reserved_of(&block.cidr) {
            drop(self.space.unreserve(AddrRange::from(end)));
        }
    }

    /// Puts a block into the space with everything in it that is taken already.
    fn open<'a>(&mut self, block: &mut Block, held: impl Iterator<Item = &'a HeldAddress>) -> Result<(), String> {
        if let Err(error) = self.space.add_cidr(block.cidr) {
            block.state = BlockState::Gone;
            return Err(format!("block {} of pool {} is not used: {error}", block.cidr, self.pool));
        }
        let Block { cidr, router, .. } = block;
        let taken = held.map(|held| held.address).chain(self.cooling.iter().map(|cooling| cooling.address));
        for address in taken.filter(|address| cidr.contains_addr(*address)) {
            drop(self.space.claim(&Cidr::host(address)));
        }
        for end in reserved_of(cidr) {
            drop(self.space.reserve(AddrRange::from(end)));
        }
        // Held by a pod since the block was cut differently: then there is no router until the block is new again.
        *router = router.filter(|router| self.space.claim(&Cidr::host(*router)).is_ok());
        Ok(())
    }

    /// Forgets blocks that are neither assigned nor hold anything, and promises those that the operator wants back and
    /// that are empty. Returns whether anything changed.
    pub(super) fn settle(&mut self) -> bool {
        if !self.blocks.iter().any(|block| matches!(block.state, BlockState::Retiring | BlockState::Gone)) {
            return false;
        }
        let idle: Vec<bool> = self.blocks.iter().map(|block| block.used == 0 && !self.cools_in(&block.cidr)).collect();
        let mut changed = false;
        for (block, idle) in self.blocks.iter_mut().zip(&idle) {
            if *idle && block.state == BlockState::Retiring {
                block.state = BlockState::Promised;
                changed = true;
            }
        }
        let mut idle = idle.into_iter();
        let before = self.blocks.len();
        self.blocks.retain(|block| !(idle.next() == Some(true) && block.state == BlockState::Gone));
        changed || self.blocks.len() != before
    }
}

impl Block {
    fn new(record: &BlockRecord) -> Self {
        let BlockRecord { pool: _, cidr, grant, state } = record;
        let router = has_router(cidr).then(|| cidr.nth(1)).flatten();
        Self { cidr: *cidr, grant: *grant, state: *state, router, used: 0 }
    }

    fn gives(&self, address: IpAddr) -> bool {
        self.state == BlockState::Active && self.cidr.contains_addr(address)
    }

    fn holds(&self, held: &HeldAddress) -> bool {
        held.grant == self.grant && self.cidr.contains_addr(held.address)
    }

    pub(super) fn record(&self, pool: &str) -> BlockRecord {
        let Self { cidr, grant, state, router: _, used: _ } = self;
        BlockRecord { pool: pool.to_owned(), cidr: *cidr, grant: *grant, state: *state }
    }
}

/// First and last address of a block that can spare them.
fn reserved_of(cidr: &Cidr) -> impl Iterator<Item = IpAddr> {
    let ends = [cidr.nth(0), cidr.nth(cidr.size() - 1)];
    ends.into_iter().flatten().filter(|_| has_router(cidr)).collect::<Vec<_>>().into_iter()
}

fn has_router(cidr: &Cidr) -> bool {
    cidr.prefix_len() <= cidr.family().longest_with_router()
}
