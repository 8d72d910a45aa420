//! A set of integers kept as ranges, so that it costs what its ranges cost, whatever they contain.
//!
//! ```text
//! insert 1..=4, 5..=9, 20..=20   →   1..=9   20..=20     neighbours become one
//! ```
//! For the few and the huge (reservations, what others hold); what is many and small is in `unit_set`.

use std::collections::BTreeMap;

/// A set of `u128`, kept as disjoint ranges with a gap between any two. A range whose first is after its last is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// First → last. No two overlap or touch.
    ranges: BTreeMap<u128, u128>,
}

impl RangeSet {
    /// An empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: BTreeMap::new() }
    }

    /// Adds all of `first..=last`.
    pub fn insert(&mut self, first: u128, last: u128) {
        if first > last {
            return;
        }
        // Ranges that overlap or touch are taken out and become part of the new one.
        let (mut from, mut to) = (first, last);
        while let Some((f, l)) = self.first_overlap(first.saturating_sub(1), last.saturating_add(1)) {
            self.ranges.remove(&f);
            (from, to) = (from.min(f), to.max(l));
        }
        self.ranges.insert(from, to);
    }

    /// Takes out all of `first..=last`.
    pub fn remove(&mut self, first: u128, last: u128) {
        while let Some((f, l)) = self.first_overlap(first, last) {
            self.ranges.remove(&f);
            if f < first {
                self.ranges.insert(f, first - 1);
            }
            if l > last {
                self.ranges.insert(last + 1, l);
            }
        }
    }

    /// Whether `point` is in the set.
    #[must_use]
    pub fn contains(&self, point: u128) -> bool {
        self.overlaps(point, point)
    }

    /// Whether any of `first..=last` is in the set.
    #[must_use]
    pub fn overlaps(&self, first: u128, last: u128) -> bool {
        self.first_overlap(first, last).is_some()
    }

    /// The first range, whole, that has a point in `first..=last`.
    #[must_use]
    pub fn first_overlap(&self, first: u128, last: u128) -> Option<(u128, u128)> {
        self.overlapping(first, last).next()
    }

    /// The ranges, whole and in order, that have a point in `first..=last`.
    pub fn overlapping(&self, first: u128, last: u128) -> impl Iterator<Item = (u128, u128)> + '_ {
        let before = self.ranges.range(..first).next_back().filter(|&(_, &l)| l >= first && first <= last);
        // An empty range would be a panic in `BTreeMap::range`.
        let rest = (first <= last).then(|| self.ranges.range(first..=last));
        before.into_iter().chain(rest.into_iter().flatten()).map(|(&f, &l)| (f, l))
    }

    /// The first point from `from` on that is not in the set; `None` if all up to `u128::MAX` are.
    #[must_use]
    pub fn next_gap(&self, from: u128) -> Option<u128> {
        match self.first_overlap(from, from) {
            Some((_, last)) => last.checked_add(1),
            None => Some(from),
        }
    }

    /// The ranges as (first, last), in order.
    pub fn iter(&self) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.ranges.iter().map(|(&f, &l)| (f, l))
    }

    /// The number of points; `u128::MAX` also for all 2^128, which do not fit. Costs a step for each range.
    #[must_use]
    pub fn len(&self) -> u128 {
        self.iter().fold(0, |len, (first, last)| (last - first).saturating_add(1).saturating_add(len))
    }

    /// Whether there is no point.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}
