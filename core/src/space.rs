//! The allocator: blocks of a pool (unit = mask size) and addresses of blocks (unit = /32 or /128), both families.
//!
//! ```text
//! cidrs      10.0.0.0/22          10.8.0.0/22           in the configured order; each an `Extent`
//! units      ▓ ▓ · ▓              · · ▒ ▒               by /24: ▓ taken  ▒ reserved  · free
//! reserved                        10.8.2.7-10.8.3.0     ranges of addresses; a unit that one touches is not given
//! claims     10.0.3.64/26                     10.9/16   taken in another size, or outside the CIDRs
//! cursor         ↑ the next search begins behind it, and wraps once
//! ```
//! Taken units are bits, because there are many (see `unit_set`). Reservations and claims are few and of any size: they are
//! kept as ranges of addresses, and the units that they touch as bits, too, so that a search asks one structure only.
//! Reservations are a set: two that overlap are one, and a part of it can be removed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};

use crate::extent::Extent;
use crate::{AddrRange, Cidr, CidrListError, Family, GiveBackError, RangeSet, TakeError, WrongFamily, addr_from_bits};

/// How many units there are: `total = taken + reserved + free`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Units in all CIDRs.
    pub total: u128,
    /// Units that something taken touches, reserved or not.
    pub taken: u128,
    /// Units that a reservation touches and nothing taken does.
    pub reserved: u128,
    /// Units that can be taken.
    pub free: u128,
}

/// Which units of a list of CIDRs are taken, reserved and free.
#[derive(Debug, Clone)]
pub struct Space {
    family: Family,
    unit: u8,
    /// In the configured order; disjoint.
    extents: Vec<Extent>,
    /// The first address of each extent → its place in `extents`.
    by_first: BTreeMap<u128, usize>,
    /// The places of the extents that have a free unit, so that a search skips those that are full.
    open: BTreeSet<usize>,
    /// Addresses never given.
    reserved: RangeSet,
    /// What was claimed that is no unit of an extent, by first address; disjoint from each other and from taken units.
    claims: BTreeMap<u128, Cidr>,
    cursor: Option<Cidr>,
}

impl Space {
    /// A space that gives CIDRs of length `unit`, and has none until CIDRs are added. A unit longer than the family's
    /// addresses is refused with the first CIDR.
    #[must_use]
    pub fn new(family: Family, unit: u8) -> Self {
        Self {
            family,
            unit,
            extents: Vec::new(),
            by_first: BTreeMap::new(),
            open: BTreeSet::new(),
            reserved: RangeSet::new(),
            claims: BTreeMap::new(),
            cursor: None,
        }
    }

    /// IPv4 or IPv6.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// The prefix length of what is given.
    #[must_use]
    pub const fn unit(&self) -> u8 {
        self.unit
    }

    /// The CIDRs, in the order in which they are searched.
    pub fn cidrs(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.extents.iter().map(|extent| extent.cidr)
    }

    /// Appends a CIDR. What was claimed or reserved in it before counts from now on.
    pub fn add_cidr(&mut self, cidr: Cidr) -> Result<(), CidrListError> {
        self.check_family(cidr.into())?;
        if let Some(place) = self.touching(cidr.into()).next() {
            return Err(CidrListError::Overlaps { cidr, other: self.extents[place].cidr });
        }
        let mut extent = Extent::new(cidr, self.unit).ok_or(CidrListError::TooSmall { cidr, unit: self.unit })?;
        let enclosing = self.claims.range(..cidr.first()).next_back();
        for (_, claim) in enclosing.into_iter().chain(self.claims.range(cidr.first()..=cidr.last())) {
            if let Some((from, to)) = extent.span(claim.first(), claim.last()) {
                extent.take_all(from, to);
            }
        }
        for (first, last) in self.reserved.overlapping(cidr.first(), cidr.last()) {
            if let Some((from, to)) = extent.span(first, last) {
                extent.reserve(from, to);
            }
        }
        let place = self.extents.len();
        self.by_first.insert(cidr.first(), place);
        self.extents.push(extent);
        self.note(place);
        Ok(())
    }

    /// Removes a CIDR in which nothing is taken. A cursor in it then stands for the start of the list.
    pub fn remove_cidr(&mut self, cidr: &Cidr) -> Result<(), CidrListError> {
        self.check_family((*cidr).into())?;
        let place = self.place_of(cidr).ok_or(CidrListError::Unknown { cidr: *cidr })?;
        if let Some(by) = self.overlapping(cidr) {
            return Err(CidrListError::InUse { cidr: *cidr, by });
        }
        self.extents.remove(place);
        self.by_first = self.extents.iter().enumerate().map(|(place, extent)| (extent.cidr.first(), place)).collect();
        self.open = (0..self.extents.len()).filter(|&place| self.extents[place].has_free()).collect();
        Ok(())
    }

    /// Takes the next free unit behind the cursor, through the CIDRs in their order, wrapping once, and moves the cursor
    /// there; `None` if nothing is free.
    pub fn take_next(&mut self) -> Option<Cidr> {
        let (place, from) = self.start(self.cursor);
        let (place, index) = match self.extents.get_mut(place)?.take_next(from) {
            Some(index) => (place, index),
            None => self.next_open(place).and_then(|place| Some((place, self.extents[place].take_next(0)?)))?,
        };
        let extent = &self.extents[place];
        if !extent.has_free() {
            self.open.remove(&place);
        }
        self.cursor = extent.unit_at(index);
        self.cursor
    }

    /// What `take_next` would take if the cursor were `cursor`.
    #[must_use]
    pub fn peek_after(&self, cursor: Option<Cidr>) -> Option<Cidr> {
        let (place, from) = self.start(cursor);
        let extent = self.extents.get(place)?;
        if let Some(index) = extent.next_free(from) {
            return extent.unit_at(index);
        }
        let extent = &self.extents[self.next_open(place)?];
        extent.unit_at(extent.next_free(0)?)
    }

    /// The next free unit behind `cursor` within one CIDR of the list, wrapping once.
    #[must_use]
    pub fn peek_in(&self, cidr: &Cidr, cursor: Option<Cidr>) -> Option<Cidr> {
        let place = self.place_of(cidr)?;
        let from = cursor.and_then(|cursor| self.behind(&cursor)).filter(|at| at.0 == place).map_or(0, |at| at.1);
        let extent = &self.extents[place];
        extent.unit_at(extent.next_free(from).or_else(|| extent.next_free(0))?)
    }

    /// Takes this unit, which must be free. Does not move the cursor.
    pub fn take(&mut self, cidr: &Cidr) -> Result<(), TakeError> {
        self.check_family((*cidr).into())?;
        if cidr.prefix_len() != self.unit {
            return Err(TakeError::Misaligned { asked: *cidr, unit: self.unit });
        }
        let (place, index) = self.locate(cidr).ok_or(TakeError::Outside { asked: *cidr })?;
        if let Some(by) = self.overlapping(cidr) {
            return Err(TakeError::Taken { asked: *cidr, by });
        }
        if let Some(range) = self.reservation_in(cidr) {
            return Err(TakeError::Reserved { asked: *cidr, range });
        }
        self.mark(place, index);
        Ok(())
    }

    /// Takes a CIDR of any size, inside or outside the list, reserved or not, if nothing in it is taken: what others
    /// already hold.
    pub fn claim(&mut self, cidr: &Cidr) -> Result<(), TakeError> {
        self.check_family((*cidr).into())?;
        if let Some(by) = self.overlapping(cidr) {
            return Err(TakeError::Taken { asked: *cidr, by });
        }
        if cidr.prefix_len() == self.unit
            && let Some((place, index)) = self.locate(cidr)
        {
            self.mark(place, index);
            return Ok(());
        }
        self.claims.insert(cidr.first(), *cidr);
        for (place, from, to) in self.spans((*cidr).into()) {
            self.extents[place].take_all(from, to);
            self.note(place);
        }
        Ok(())
    }

    /// Gives back exactly what was taken or claimed. What is reserved there stays reserved.
    pub fn give_back(&mut self, cidr: &Cidr) -> Result<(), GiveBackError> {
        self.check_family((*cidr).into())?;
        if cidr.prefix_len() == self.unit
            && self.claim_in(cidr).is_none()
            && let Some((place, index)) = self.locate(cidr)
            && self.unmark(place, index, cidr)
        {
            return Ok(());
        }
        match self.overlapping(cidr) {
            Some(claim) if claim == *cidr => self.drop_claim(cidr),
            Some(taken) => return Err(GiveBackError::NotExact { asked: *cidr, taken }),
            None => return Err(GiveBackError::NotTaken { asked: *cidr }),
        }
        Ok(())
    }

    /// Keeps a range from being given. What is taken there stays taken, and is not free once given back.
    pub fn reserve(&mut self, range: AddrRange) -> Result<(), WrongFamily> {
        self.check_family(range)?;
        self.reserved.insert(range.first(), range.last());
        for (place, from, to) in self.spans(range) {
            self.extents[place].reserve(from, to);
            self.note(place);
        }
        Ok(())
    }

    /// Lifts the reservation of all of `range`, by whatever calls it was made.
    pub fn unreserve(&mut self, range: AddrRange) -> Result<(), WrongFamily> {
        self.check_family(range)?;
        self.reserved.remove(range.first(), range.last());
        for (place, from, to) in self.spans(range) {
            self.extents[place].unreserve(from, to);
            self.reserve_again(place, from, to);
        }
        Ok(())
    }

    /// The reserved ranges in order; those that overlap or touch are one.
    pub fn reserved(&self) -> impl Iterator<Item = AddrRange> + '_ {
        self.reserved.iter().filter_map(|(first, last)| self.addr_range(first, last))
    }

    /// What is taken: the units of each CIDR of the list, then what was claimed in other sizes or outside.
    pub fn taken(&self) -> impl Iterator<Item = Cidr> + '_ {
        let units = self.extents.iter().flat_map(|extent| {
            let first = self.next_unit(extent, 0);
            std::iter::successors(first, |(index, _)| self.next_unit(extent, index + 1)).map(|(_, unit)| unit)
        });
        units.chain(self.claims.values().copied())
    }

    /// Whether `cidr`, of whatever size, lies in the list and nothing in it is taken or reserved.
    #[must_use]
    pub fn is_free(&self, cidr: &Cidr) -> bool {
        cidr.family() == self.family
            && self.locate(cidr).is_some()
            && self.overlapping(cidr).is_none()
            && !self.reserved.overlaps(cidr.first(), cidr.last())
    }

    /// Something taken that overlaps `cidr`, as it was taken.
    #[must_use]
    pub fn overlapping(&self, cidr: &Cidr) -> Option<Cidr> {
        if cidr.family() != self.family {
            return None;
        }
        if let Some(claim) = self.claim_in(cidr) {
            return Some(claim);
        }
        // No claim overlaps, so a taken unit does, unless `cidr` is a part of a unit that a claim beside it touches.
        let first_unit = |(place, from, to): (usize, u128, u128)| {
            let index = self.extents[place].next_taken(from).filter(|&index| index <= to)?;
            self.extents[place].unit_at(index).filter(|unit| self.claim_in(unit).is_none())
        };
        self.touching((*cidr).into()).filter_map(|place| self.span_at(place, (*cidr).into())).find_map(first_unit)
    }

    /// What `take_next` took last, or `set_cursor` set.
    #[must_use]
    pub const fn cursor(&self) -> Option<Cidr> {
        self.cursor
    }

    /// Has the next search begin behind `cursor`; at the start of the list if it is `None` or outside.
    pub const fn set_cursor(&mut self, cursor: Option<Cidr>) {
        self.cursor = cursor;
    }

    /// The units of all CIDRs. Costs a few additions for each CIDR; 2^128 units count as `u128::MAX`.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for extent in &self.extents {
            let Counts { total, taken, reserved, free: _ } = extent.counts();
            sum.total = sum.total.saturating_add(total);
            sum.taken = sum.taken.saturating_add(taken);
            sum.reserved = sum.reserved.saturating_add(reserved).min(sum.total - sum.taken);
        }
        sum.free = sum.total - sum.taken - sum.reserved;
        sum
    }

    /// The units of one CIDR of the list.
    #[must_use]
    pub fn counts_of(&self, cidr: &Cidr) -> Option<Counts> {
        Some(self.extents[self.place_of(cidr)?].counts())
    }
}

/// What the methods above are made of. A place is an index of `extents`.
impl Space {
    fn check_family(&self, asked: AddrRange) -> Result<(), WrongFamily> {
        if asked.family() == self.family { Ok(()) } else { Err(WrongFamily { asked, family: self.family }) }
    }

    fn addr_range(&self, first: u128, last: u128) -> Option<AddrRange> {
        AddrRange::new(addr_from_bits(self.family, first)?, addr_from_bits(self.family, last)?).ok()
    }

    /// The place of this CIDR of the list.
    fn place_of(&self, cidr: &Cidr) -> Option<usize> {
        let place = *self.by_first.get(&cidr.first())?;
        (self.extents[place].cidr == *cidr).then_some(place)
    }

    /// The places of the extents that have an address in `range`.
    fn touching(&self, range: AddrRange) -> impl Iterator<Item = usize> + '_ {
        let (first, last) = (range.first(), range.last());
        let before = self.by_first.range(..=first).next_back();
        let before = before.filter(move |(_, place)| self.extents[**place].cidr.last() >= first);
        before.into_iter().chain(self.by_first.range((Excluded(first), Included(last)))).map(|(_, place)| *place)
    }

    fn span_at(&self, place: usize, range: AddrRange) -> Option<(usize, u128, u128)> {
        let (from, to) = self.extents[place].span(range.first(), range.last())?;
        Some((place, from, to))
    }

    /// The extents that have an address in `range`, and the first and last unit of each that it touches.
    fn spans(&self, range: AddrRange) -> Vec<(usize, u128, u128)> {
        self.touching(range).filter_map(|place| self.span_at(place, range)).collect()
    }

    /// The extent that contains `cidr`, and the unit in which it begins.
    fn locate(&self, cidr: &Cidr) -> Option<(usize, u128)> {
        let (_, &place) = self.by_first.range(..=cidr.first()).next_back()?;
        let extent = &self.extents[place];
        let index = extent.index_of(cidr.first())?;
        (cidr.last() <= extent.cidr.last()).then_some((place, index))
    }

    /// The extent in which `cursor` ends, and the index of the unit behind it, which may be one too many.
    fn behind(&self, cursor: &Cidr) -> Option<(usize, u128)> {
        if cursor.family() != self.family {
            return None;
        }
        let (_, &place) = self.by_first.range(..=cursor.last()).next_back()?;
        Some((place, self.extents[place].index_of(cursor.last())? + 1))
    }

    /// Where a search behind `cursor` begins: a place, which may not exist, and a unit there.
    fn start(&self, cursor: Option<Cidr>) -> (usize, u128) {
        cursor.and_then(|cursor| self.behind(&cursor)).unwrap_or((0, 0))
    }

    /// The next place behind `place` that has a free unit, wrapping, and at last `place` itself.
    fn next_open(&self, place: usize) -> Option<usize> {
        self.open.range(place + 1..).next().or_else(|| self.open.first()).copied()
    }

    /// The first unit from `from` on that was taken as such, and not by a claim that touches it.
    fn next_unit(&self, extent: &Extent, mut from: u128) -> Option<(u128, Cidr)> {
        loop {
            let index = extent.next_taken(from)?;
            let unit = extent.unit_at(index)?;
            let Some(claim) = self.claim_in(&unit) else { return Some((index, unit)) };
            // The claim may be as large as the extent: step over all of it.
            from = extent.span(claim.first(), claim.last())?.1 + 1;
        }
    }

    fn claim_in(&self, cidr: &Cidr) -> Option<Cidr> {
        // Claims are disjoint, so the one that begins last also ends last.
        let (_, claim) = self.claims.range(..=cidr.last()).next_back()?;
        claim.overlaps(cidr).then_some(*claim)
    }

    fn reservation_in(&self, cidr: &Cidr) -> Option<AddrRange> {
        let (first, last) = self.reserved.first_overlap(cidr.first(), cidr.last())?;
        self.addr_range(first, last)
    }

    fn mark(&mut self, place: usize, index: u128) {
        let extent = &mut self.extents[place];
        extent.take(index);
        if !extent.has_free() {
            self.open.remove(&place);
        }
    }

    /// False if the unit is not taken.
    fn unmark(&mut self, place: usize, index: u128, unit: &Cidr) -> bool {
        let extent = &mut self.extents[place];
        let was_full = !extent.has_free();
        let done = extent.give_back(index, self.reserved.overlaps(unit.first(), unit.last()));
        if was_full {
            self.note(place);
        }
        done
    }

    /// Records whether the extent has a free unit.
    fn note(&mut self, place: usize) {
        if self.extents[place].has_free() {
            self.open.insert(place);
        } else {
            self.open.remove(&place);
        }
    }

    fn drop_claim(&mut self, claim: &Cidr) {
        self.claims.remove(&claim.first());
        for (place, from, to) in self.spans((*claim).into()) {
            // A claim smaller than a unit may share it with others.
            let shared = self.extents[place].unit_at(from).is_some_and(|unit| self.claim_in(&unit).is_some());
            if !shared {
                self.extents[place].give_back_all(from, to);
                self.reserve_again(place, from, to);
            }
        }
    }

    /// Reserves what is still reserved of the units `from..=to`, after something there was lifted.
    fn reserve_again(&mut self, place: usize, from: u128, to: u128) {
        let extent = &mut self.extents[place];
        let ends = extent.unit_at(from).zip(extent.unit_at(to));
        let reserved = ends.map(|(from, to)| self.reserved.overlapping(from.first(), to.last()));
        for (first, last) in reserved.into_iter().flatten() {
            if let Some((f, l)) = extent.span(first, last) {
                // What lies beyond is reserved already, and may be long.
                extent.reserve(f.max(from), l.min(to));
            }
        }
        self.note(place);
    }
}
