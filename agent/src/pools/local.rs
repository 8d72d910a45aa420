//! One network that brings its own ranges: which addresses are taken, and where each search goes on.
//!
//! ```text
//! ranges   come with every call, and may change between two     (see `ranges`)
//! taken    10.1.2.2-10.1.2.9, 10.1.2.14, …                      held or cooling, whatever the ranges are now
//! cooling  10.1.2.4 since 12.5 s, …                             oldest first
//! last     set 0: 10.1.2.14    set 1: fd00::9                   the search in a set begins behind its last address
//! ```
//! Nothing here depends on the ranges of before, so that a range that grows, shrinks or moves is followed by the next call.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use cadastre_core::{Cidr, Family, RangeSet, addr_from_bits, addr_to_bits};
use uuid::Uuid;

use super::ranges::{Range, Ranges, Set};
use super::share::{Cooling, Taken};
use crate::boot_time::BootTime;
use crate::record::HeldAddress;

/// Begins the name of the pool of each such network; no `IPPool` can be called so.
const PREFIX: &str = "local/";

/// The network whose pool this is, if it is one.
pub(super) fn network_of(pool: &str) -> Option<&str> {
    pool.strip_prefix(PREFIX)
}

/// The addresses of one network.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// `local/` and the network's name.
    pub pool: String,
    /// As in `Family::ALL`.
    families: [OfFamily; 2],
    cooling: VecDeque<Cooling>,
    last: BTreeMap<usize, IpAddr>,
    /// What host-local had reserved is known.
    pub taken_over: bool,
    /// As the last call said; for people.
    pub ranges: Option<Ranges>,
}

/// What is used in one family.
#[derive(Debug, Default)]
pub(super) struct OfFamily {
    /// Held or cooling.
    taken: RangeSet,
    held: u64,
    /// How often a cooling address was given because nothing else was free.
    yielded: u64,
}

/// How much is used in one family. Counts are addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub held: u64,
    /// Held or cooling.
    pub taken: u128,
    pub yielded: u64,
}

/// Why an address that was asked for is not given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotThis {
    Outside,
    Reserved,
    Taken,
}

impl Network {
    pub fn new(name: &str) -> Self {
        Self { pool: format!("{PREFIX}{name}"), ..Self::default() }
    }

    fn taken(&self, family: Family) -> &RangeSet {
        &self.families[family as usize].taken
    }

    fn of(&mut self, address: IpAddr) -> &mut OfFamily {
        &mut self.families[Family::of(address) as usize]
    }

    fn occupy(&mut self, place: usize, address: IpAddr, cooled_since: Option<BootTime>) -> Taken {
        let bits = addr_to_bits(address);
        let family = self.of(address);
        family.taken.insert(bits, bits);
        family.held += 1;
        let before = self.last.insert(place, address);
        let held = HeldAddress { pool: self.pool.clone(), address, grant: Uuid::nil() };
        Taken { held, cooled_since, before }
    }

    /// Takes an address of a set: the next that is free and has rested, else the one that has rested longest.
    pub fn take(&mut self, place: usize, set: &Set, now: BootTime, rest: Duration) -> Option<Taken> {
        self.end_cooling(now, rest);
        if let Some(address) = self.next_free(place, set) {
            return Some(self.occupy(place, address, None));
        }
        let of_set = |cooling: &Cooling| set.ranges.iter().any(|range| gives(range, cooling.address));
        let oldest = self.cooling.iter().position(of_set)?;
        let Cooling { address, since } = self.cooling.remove(oldest)?;
        self.of(address).yielded += 1;
        Some(self.occupy(place, address, Some(since)))
    }

    /// Takes exactly this address, which may be cooling: whoever asks for it by name is to have it.
    pub fn take_this(&mut self, place: usize, set: &Set, address: IpAddr) -> Result<Taken, NotThis> {
        let range = set.ranges.iter().find(|range| range.contains(address)).ok_or(NotThis::Outside)?;
        if range.is_gateway(addr_to_bits(address)) {
            return Err(NotThis::Reserved);
        }
        let cooling = self.cooling.iter().position(|cooling| cooling.address == address);
        if cooling.is_none() && self.taken(range.family()).contains(addr_to_bits(address)) {
            return Err(NotThis::Taken);
        }
        let since = cooling.and_then(|at| self.cooling.remove(at)).map(|cooling| cooling.since);
        self.of(address).yielded += u64::from(since.is_some());
        Ok(self.occupy(place, address, since))
    }

    /// Whether `take` would find one.
    pub fn has_any(&self, place: usize, set: &Set) -> bool {
        let cools = || self.cooling.iter().any(|cooling| set.ranges.iter().any(|range| gives(range, cooling.address)));
        self.next_free(place, set).is_some() || cools()
    }

    /// The next free address behind the last one, through the ranges in their order, wrapping once.
    fn next_free(&self, place: usize, set: &Set) -> Option<IpAddr> {
        let taken = self.taken(set.family);
        let last = self.last.get(&place).copied();
        let at = last.and_then(|last| set.ranges.iter().position(|range| range.contains(last)));
        let (at, from) = match (at, last) {
            (Some(at), Some(last)) => (at, addr_to_bits(last).checked_add(1)),
            _ => (0, set.ranges.first().map(|range| range.first)),
        };
        let rest = from.and_then(|from| free_in(taken, set.ranges.get(at)?, from));
        let others = || (1..=set.ranges.len()).map(|step| &set.ranges[(at + step) % set.ranges.len()]);
        let bits = rest.or_else(|| others().find_map(|range| free_in(taken, range, range.first)))?;
        addr_from_bits(set.family, bits)
    }

    /// Undoes `take`, as if it had not happened: nobody was told of the address.
    pub fn put_back(&mut self, taken: &Taken) {
        let address = taken.held.address;
        self.vacate(address);
        match taken.cooled_since {
            Some(since) => {
                self.rest(address, since);
                let family = self.of(address);
                family.yielded = family.yielded.saturating_sub(1);
            }
            None => self.free(address),
        }
        let place = self.last.iter().find(|(_, last)| **last == address).map(|(place, _)| *place);
        match (place, taken.before) {
            (Some(place), Some(before)) => drop(self.last.insert(place, before)),
            (Some(place), None) => drop(self.last.remove(&place)),
            (None, _) => {}
        }
    }

    /// An attachment gave the address up; it rests from `now` on.
    pub fn release(&mut self, address: IpAddr, now: BootTime) {
        self.vacate(address);
        self.rest(address, now);
    }

    fn vacate(&mut self, address: IpAddr) {
        let family = self.of(address);
        family.held = family.held.saturating_sub(1);
    }

    /// Keeps the queue ordered by time: what was undone, and a snapshot's, may be older than the newest.
    pub fn rest(&mut self, address: IpAddr, since: BootTime) {
        let bits = addr_to_bits(address);
        self.of(address).taken.insert(bits, bits);
        let place = self.cooling.partition_point(|cooling| cooling.since <= since);
        self.cooling.insert(place, Cooling { address, since });
    }

    /// Frees what has rested long enough.
    pub fn end_cooling(&mut self, now: BootTime, rest: Duration) {
        while let Some(cooling) = self.cooling.front().copied().filter(|cooling| cooling.since.plus(rest) <= now) {
            self.cooling.pop_front();
            self.free(cooling.address);
        }
    }

    fn free(&mut self, address: IpAddr) {
        let bits = addr_to_bits(address);
        self.of(address).taken.remove(bits, bits);
    }

    /// Replay, and what was reserved before: an attachment holds this address, of its addresses the one at `place`.
    pub fn restore(&mut self, place: usize, address: IpAddr) {
        self.cooling.retain(|cooling| cooling.address != address); // It was given before it had rested.
        drop(self.occupy(place, address, None));
    }

    /// The address is used, though it was said to rest.
    pub fn stop_cooling(&mut self, address: IpAddr) {
        if let Some(place) = self.cooling.iter().position(|cooling| cooling.address == address) {
            self.cooling.remove(place);
            self.free(address);
        }
    }

    pub fn set_last(&mut self, place: usize, address: IpAddr) {
        self.last.insert(place, address);
    }

    pub fn last(&self) -> impl Iterator<Item = (usize, IpAddr)> + '_ {
        self.last.iter().map(|(place, address)| (*place, *address))
    }

    pub fn cooling(&self) -> impl Iterator<Item = &Cooling> {
        self.cooling.iter()
    }

    pub fn holds(&self, address: IpAddr) -> bool {
        self.taken(Family::of(address)).contains(addr_to_bits(address))
    }

    /// Whether something is held or cooling in `cidr`.
    pub fn uses(&self, cidr: &Cidr) -> bool {
        self.taken(cidr.family()).overlaps(cidr.first(), cidr.last())
    }

    /// For the check of the invariants, and for people. Costs a step for each gap.
    pub fn used(&self, family: Family) -> Used {
        let OfFamily { taken, held, yielded } = &self.families[family as usize];
        Used { held: *held, taken: taken.len(), yielded: *yielded }
    }
}

fn gives(range: &Range, address: IpAddr) -> bool {
    range.contains(address) && !range.is_gateway(addr_to_bits(address))
}

/// The first free address of a range from `from` on.
fn free_in(taken: &RangeSet, range: &Range, from: u128) -> Option<u128> {
    let gap = |from: u128| taken.next_gap(from).filter(|bits| *bits <= range.last);
    let first = gap(from)?;
    if range.is_gateway(first) { gap(first.checked_add(1)?) } else { Some(first) }
}
