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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SIZE: u128 = 40;

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u128, u128),
        Remove(u128, u128),
    }

    fn op() -> impl Strategy<Value = Op> {
        // The first may be after the last: nothing happens.
        let (a, b) = (0..SIZE, 0..SIZE);
        (any::<bool>(), a, b).prop_map(|(insert, a, b)| if insert { Op::Insert(a, b) } else { Op::Remove(a, b) })
    }

    proptest! {
        #[test]
        fn is_the_same_set_as_points(
            // Points lie at the start or at the very end of `u128`.
            base in prop_oneof![Just(0), Just(u128::MAX - SIZE + 1)],
            steps in prop::collection::vec((op(), 0..SIZE, 0..SIZE), 1..40),
        ) {
            let (mut model, mut set) = (BTreeSet::new(), RangeSet::new());
            for (op, first, last) in steps {
                match op {
                    Op::Insert(a, b) => {
                        model.extend(a..=b);
                        set.insert(base + a, base + b);
                    }
                    Op::Remove(a, b) => {
                        model.retain(|point| !(a..=b).contains(point));
                        set.remove(base + a, base + b);
                    }
                }
                let points: BTreeSet<u128> = set.iter().flat_map(|(f, l)| f - base..=l - base).collect();
                prop_assert_eq!(&points, &model);
                prop_assert_eq!(set.len(), model.len() as u128);
                prop_assert_eq!(set.is_empty(), model.is_empty());
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{:?} touch", ranges);
                prop_assert_eq!(set.contains(base + first), model.contains(&first));
                prop_assert_eq!(set.overlaps(base + first, base + last), (first..=last).any(|p| model.contains(&p)));
                let touched: Vec<_> = set.overlapping(base + first, base + last).collect();
                let kept = |&(f, l): &(u128, u128)| first <= last && f <= base + last && l >= base + first;
                prop_assert_eq!(touched, ranges.into_iter().filter(kept).collect::<Vec<_>>());
                let gap = (first..SIZE).find(|point| !model.contains(point)).unwrap_or(SIZE);
                prop_assert_eq!(set.next_gap(base + first), base.checked_add(gap));
            }
        }
    }

    #[test]
    fn holds_all_there_is() {
        let mut set = RangeSet::new();
        set.insert(0, u128::MAX);
        assert_eq!((set.len(), set.next_gap(0)), (u128::MAX, None));
        set.remove(7, 7);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, 6), (8, u128::MAX)]);
        assert_eq!((set.len(), set.next_gap(0)), (u128::MAX, Some(7)));
        set.insert(7, 7);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, u128::MAX)]);
    }
}
