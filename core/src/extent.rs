//! One CIDR of a space and which of its units are taken, or not free for another reason.
//!
//! ```text
//! 10.0.0.0/8 by /24    unit index 0 = 10.0.0.0/24 … last = 65535 = 10.255.255.0/24
//! taken ⊆ busy         busy − taken = reserved and not taken
//! ```

use crate::unit_set::UnitSet;
use crate::{Cidr, Counts};

#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub(crate) cidr: Cidr,
    unit: u8,
    /// The index of the last unit. `::/0` by `/128` ends one short of its last address, so that counts fit `u128`.
    last: u128,
    /// Units that something taken touches.
    pub(crate) taken: UnitSet,
    /// Units that something taken or reserved touches.
    pub(crate) busy: UnitSet,
}

impl Extent {
    /// `None` if no unit fits.
    pub(crate) fn new(cidr: Cidr, unit: u8) -> Option<Self> {
        let last = cidr.blocks(unit).checked_sub(1)?;
        Some(Self { cidr, unit, last, taken: UnitSet::default(), busy: UnitSet::default() })
    }

    pub(crate) fn has_free(&self) -> bool {
        self.busy.len() <= self.last
    }

    pub(crate) fn counts(&self) -> Counts {
        let (total, taken, busy) = (self.last + 1, self.taken.len(), self.busy.len());
        Counts { total, taken, reserved: busy - taken, free: total - busy }
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
}
