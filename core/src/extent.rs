//! One CIDR of a space, and which of its units are free.
//!
//! ```text
//! 10.0.0.0/8 by /24    unit 0 = 10.0.0.0/24 … last = 65535 = 10.255.255.0/24
//! busy   ▓▓▒▓··▒▒▓··   what is not free: a search asks nothing else
//! idle   ··▒···▒▒···   of those, the ones that are reserved and not taken; most often none or a few
//! ```
//! What is taken is the difference. Kept so and not as a set of its own, it costs taking and giving back nothing.

use crate::unit_set::UnitSet;
use crate::{Cidr, Counts};

#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub(crate) cidr: Cidr,
    unit: u8,
    /// The index of the last unit. `::/0` by `/128` ends one short of its last address, so that counts fit `u128`.
    last: u128,
    busy: UnitSet,
    idle: UnitSet,
}

impl Extent {
    /// `None` if no unit fits.
    pub(crate) fn new(cidr: Cidr, unit: u8) -> Option<Self> {
        let last = cidr.blocks(unit).checked_sub(1)?;
        Some(Self { cidr, unit, last, busy: UnitSet::default(), idle: UnitSet::default() })
    }

    pub(crate) fn has_free(&self) -> bool {
        self.busy.len() <= self.last
    }

    pub(crate) fn counts(&self) -> Counts {
        let (total, busy, reserved) = (self.last + 1, self.busy.len(), self.idle.len());
        Counts { total, taken: busy - reserved, reserved, free: total - busy }
    }

    pub(crate) fn unit_at(&self, index: u128) -> Option<Cidr> {
        self.cidr.nth_block(self.unit, index)
    }

    /// The unit in which the address `bits` lies.
    pub(crate) fn index_of(&self, bits: u128) -> Option<u128> {
        let shift = self.cidr.family().bits() - self.unit;
        let index = bits.checked_sub(self.cidr.first())?.checked_shr(shift.into()).unwrap_or(0);
        (index <= self.last).then_some(index)
    }

    /// The first and last unit that the addresses `first..=last` touch.
    pub(crate) fn span(&self, first: u128, last: u128) -> Option<(u128, u128)> {
        if first > self.cidr.last() || last < self.cidr.first() {
            return None;
        }
        let from = self.index_of(first.max(self.cidr.first()))?;
        Some((from, self.index_of(last.min(self.cidr.last())).unwrap_or(self.last)))
    }

    /// The first free unit from `from` on.
    pub(crate) fn next_free(&self, from: u128) -> Option<u128> {
        self.busy.next_gap(from).filter(|&index| index <= self.last)
    }

    /// The first taken unit from `from` on.
    pub(crate) fn next_taken(&self, mut from: u128) -> Option<u128> {
        loop {
            let index = self.busy.next_one(from)?;
            from = self.idle.next_gap(index)?;
            if from == index {
                return Some(index);
            }
        }
    }

    /// Takes the first free unit from `from` on.
    pub(crate) fn take_next(&mut self, from: u128) -> Option<u128> {
        self.busy.insert_gap(from, self.last)
    }

    /// Takes a unit that is not taken.
    pub(crate) fn take(&mut self, index: u128) {
        self.busy.insert(index);
        self.idle.remove(index);
    }

    /// Gives a unit back, which stays busy if it is `reserved`; false if it is not taken.
    pub(crate) fn give_back(&mut self, index: u128, reserved: bool) -> bool {
        // What is idle is reserved: then it is not taken, and `insert` says so.
        if reserved { self.busy.contains(index) && self.idle.insert(index) } else { self.busy.remove(index) }
    }

    /// Takes all units of `from..=to`, taken or not.
    pub(crate) fn take_all(&mut self, from: u128, to: u128) {
        self.busy.insert_range(from, to);
        self.idle.remove_range(from, to);
    }

    /// Gives back all units of `from..=to`, which are taken.
    pub(crate) fn give_back_all(&mut self, from: u128, to: u128) {
        self.busy.remove_range(from, to);
    }

    /// Reserves all units of `from..=to`: those that are free become busy.
    pub(crate) fn reserve(&mut self, from: u128, to: u128) {
        for (from, to) in self.busy.gaps(from, to) {
            self.idle.insert_range(from, to);
        }
        self.busy.insert_range(from, to);
    }

    /// Lifts the reservation of all units of `from..=to`.
    pub(crate) fn unreserve(&mut self, from: u128, to: u128) {
        for (from, to) in self.idle.runs(from, to) {
            self.busy.remove_range(from, to);
        }
        self.idle.remove_range(from, to);
    }
}
