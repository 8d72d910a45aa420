//! The set of units of a CIDR that are not free: many, small, and asked thousands of times a second.
//!
//! ```text
//! UnitSet        pages   0 ········  3 ▓░▓▓░░▓▓  4 ▓▓▓▓▓▓▓▓        4,096 units a page, a bit each; absent = empty or full
//! └ full         pages   0 ····▓▓▓▓                               the numbers of the full pages: again a UnitSet
//!   └ full …                                                      as deep as there are full pages of full pages
//! ```
//! Why so: 2^20 scattered units are a tree of 256 pages, so that a step costs the same as for 2^8 but for a cache miss or
//! two; the next gap is found by going up over whatever is full and down again, however full the set is; a range is stored
//! at the highest level that it fills, so that 2^100 reserved units cost a few pages; and what is neither taken nor reserved
//! costs nothing. The price is half a kilobyte for a unit that is alone in its page, which next-fit does not leave behind.
//! Indexes go up to `u128::MAX - 1`, so that their number fits `u128`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Units of a page: 64 words, so that a summary of them is one word.
const PAGE_BITS: u32 = 64 * 64;
const PAGE: u128 = PAGE_BITS as u128;

/// 4,096 bits; the lowest bit of the first word is the first unit.
#[derive(Debug, Clone)]
struct Page {
    words: [u64; 64],
    /// Which words have a bit set.
    some: u64,
    /// Which words have all bits set.
    full: u64,
}

impl Page {
    const EMPTY: Self = Self { words: [0; 64], some: 0, full: 0 };
    const FULL: Self = Self { words: [u64::MAX; 64], some: u64::MAX, full: u64::MAX };

    const fn is_empty(&self) -> bool {
        self.some == 0
    }

    const fn is_full(&self) -> bool {
        self.full == u64::MAX
    }

    fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    fn contains(&self, bit: u32) -> bool {
        self.words[word_of(bit)] >> (bit % 64) & 1 == 1
    }

    /// Sets the bits `lo..=hi`, and says how many were clear.
    fn insert(&mut self, lo: u32, hi: u32) -> u32 {
        self.change(lo, hi, |word, mask| word | mask)
    }

    /// Clears the bits `lo..=hi`, and says how many were set.
    fn remove(&mut self, lo: u32, hi: u32) -> u32 {
        self.change(lo, hi, |word, mask| word & !mask)
    }

    fn change(&mut self, lo: u32, hi: u32, new: impl Fn(u64, u64) -> u64) -> u32 {
        let mut changed = 0;
        for index in word_of(lo)..=word_of(hi) {
            let from = if index == word_of(lo) { lo % 64 } else { 0 };
            let to = if index == word_of(hi) { hi % 64 } else { 63 };
            let word = &mut self.words[index];
            let was = std::mem::replace(word, new(*word, (u64::MAX << from) & (u64::MAX >> (63 - to))));
            changed += (was ^ *word).count_ones();
            self.some = self.some & !(1 << index) | u64::from(*word != 0) << index;
            self.full = self.full & !(1 << index) | u64::from(*word == u64::MAX) << index;
        }
        changed
    }

    /// The first set bit from `lo` on.
    fn next_one(&self, lo: u32) -> Option<u32> {
        first_bit(lo, |index| self.words[index], self.some)
    }

    /// The first clear bit from `lo` on.
    fn next_gap(&self, lo: u32) -> Option<u32> {
        first_bit(lo, |index| !self.words[index], !self.full)
    }
}

const fn word_of(bit: u32) -> usize {
    (bit / 64) as usize
}

/// The first bit from `lo` on that is set in `word`, where `some` says which words have one.
fn first_bit(lo: u32, word: impl Fn(usize) -> u64, some: u64) -> Option<u32> {
    let (index, rest) = (lo / 64, word(word_of(lo)) & (u64::MAX << (lo % 64)));
    if rest != 0 {
        return Some(index * 64 + rest.trailing_zeros());
    }
    let later = some & (u64::MAX - 1) << index;
    (later != 0).then(|| later.trailing_zeros() * 64 + word(later.trailing_zeros() as usize).trailing_zeros())
}

/// A set of unit indexes.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnitSet {
    /// By number; none is empty. A page that is not here is empty, or full if `full` says so.
    pages: BTreeMap<u128, Box<Page>>,
    /// The numbers of all full pages, also of those in `pages`.
    full: Option<Box<UnitSet>>,
    len: u128,
}

impl UnitSet {
    /// The number of units.
    pub(crate) const fn len(&self) -> u128 {
        self.len
    }

    pub(crate) fn contains(&self, index: u128) -> bool {
        let (number, bit) = split(index);
        match self.pages.get(&number) {
            Some(page) => page.contains(bit),
            None => self.is_full(number),
        }
    }

    /// Adds one unit; false if it was there.
    pub(crate) fn insert(&mut self, index: u128) -> bool {
        let (number, bit) = split(index);
        let new = self.edit(number, true, |page| page.insert(bit, bit));
        self.len += u128::from(new);
        new == 1
    }

    /// Takes out one unit; false if it was not there.
    pub(crate) fn remove(&mut self, index: u128) -> bool {
        let (number, bit) = split(index);
        let gone = self.edit(number, false, |page| page.remove(bit, bit));
        self.len -= u128::from(gone);
        gone == 1
    }

    /// Adds the first unit from `from` on that is not there, if that is at most `last`.
    pub(crate) fn insert_gap(&mut self, from: u128, last: u128) -> Option<u128> {
        let (number, bit) = split(from);
        // Most often it is in the page at hand: one search of the tree in place of two.
        if let Some(page) = self.pages.get_mut(&number)
            && let Some(bit) = page.next_gap(bit)
            && join(number, bit) <= last
        {
            page.insert(bit, bit);
            if page.is_full() {
                self.full.get_or_insert_default().insert(number);
            }
            self.len += 1;
            return Some(join(number, bit));
        }
        let index = self.next_gap(from).filter(|&index| index <= last)?;
        self.insert(index);
        Some(index)
    }

    /// Adds all units of `first..=last`, and says how many were not there.
    pub(crate) fn insert_range(&mut self, first: u128, last: u128) -> u128 {
        let mut new = 0;
        for (number, lo, hi) in edges(first, last) {
            new += u128::from(self.edit(number, true, |page| page.insert(lo, hi)));
        }
        if let Some((from, to)) = between(first, last) {
            let partial = self.drop_pages(from, to);
            new += self.full.get_or_insert_default().insert_range(from, to) * PAGE - partial;
        }
        self.len += new;
        new
    }

    /// Takes out all units of `first..=last`, and says how many were there.
    pub(crate) fn remove_range(&mut self, first: u128, last: u128) -> u128 {
        let mut gone = 0;
        for (number, lo, hi) in edges(first, last) {
            gone += u128::from(self.edit(number, false, |page| page.remove(lo, hi)));
        }
        if let Some((from, to)) = between(first, last) {
            gone += self.drop_pages(from, to);
            gone += self.full.as_mut().map_or(0, |full| full.remove_range(from, to)) * PAGE;
        }
        self.len -= gone;
        gone
    }

    /// The first unit of the set from `from` on.
    pub(crate) fn next_one(&self, from: u128) -> Option<u128> {
        let (number, bit) = split(from);
        let in_page = self.pages.get(&number).and_then(|page| page.next_one(bit)).map(|bit| join(number, bit));
        let in_later = || {
            let (number, page) = self.pages.range(number + 1..).next()?;
            Some(join(*number, page.next_one(0)?))
        };
        let in_full = self.full.as_ref().and_then(|full| full.next_one(number)).map(|number| from.max(join(number, 0)));
        in_page.or_else(in_later).into_iter().chain(in_full).min()
    }

    /// The first index from `from` on that is not in the set; `None` beyond `u128::MAX`.
    pub(crate) fn next_gap(&self, from: u128) -> Option<u128> {
        let (number, bit) = split(from);
        if let Some(bit) = self.gap_in(number, bit) {
            return Some(join(number, bit));
        }
        let number = match &self.full {
            Some(full) => full.next_gap(number + 1)?,
            None => number + 1,
        };
        number.checked_mul(PAGE).map(|first| first + u128::from(self.gap_in(number, 0).unwrap_or(0)))
    }

    /// The runs of neighbouring units in `first..=last`; the cost is in their number, not their length.
    pub(crate) fn runs(&self, first: u128, last: u128) -> impl Iterator<Item = (u128, u128)> + '_ {
        let run = move |from: u128| {
            let from = self.next_one(from).filter(|&from| from <= last)?;
            Some((from, self.next_gap(from).map_or(last, |gap| last.min(gap - 1))))
        };
        std::iter::successors(run(first), move |&(_, to)| run(to + 1))
    }

    /// The runs of neighbouring indexes in `first..=last` that are not in the set, likewise.
    pub(crate) fn gaps(&self, first: u128, last: u128) -> impl Iterator<Item = (u128, u128)> + '_ {
        let gap = move |from: u128| {
            let from = self.next_gap(from).filter(|&from| from <= last)?;
            Some((from, self.next_one(from).map_or(last, |one| last.min(one - 1))))
        };
        std::iter::successors(gap(first), move |&(_, to)| gap(to + 1))
    }

    fn gap_in(&self, number: u128, bit: u32) -> Option<u32> {
        match self.pages.get(&number) {
            Some(page) => page.next_gap(bit),
            None => (!self.is_full(number)).then_some(bit),
        }
    }

    fn is_full(&self, number: u128) -> bool {
        self.full.as_ref().is_some_and(|full| full.contains(number))
    }

    /// Has a page changed, towards full if `fill`, and keeps true what is recorded about it. Returns what `change` does: the
    /// number of bits that it changed.
    fn edit(&mut self, number: u128, fill: bool, change: impl FnOnce(&mut Page) -> u32) -> u32 {
        let Self { pages, full, len: _ } = self;
        let mut page = match pages.entry(number) {
            Entry::Occupied(page) => page,
            Entry::Vacant(_) if full.as_ref().is_some_and(|full| full.contains(number)) == fill => return 0,
            Entry::Vacant(place) => place.insert_entry(Box::new(if fill { Page::EMPTY } else { Page::FULL })),
        };
        let was_full = page.get().is_full();
        let changed = change(page.get_mut());
        let is_full = page.get().is_full();
        if page.get().is_empty() {
            page.remove();
        }
        if is_full && !was_full {
            full.get_or_insert_default().insert(number);
        } else if was_full && !is_full {
            full.get_or_insert_default().remove(number);
        }
        changed
    }

    /// Drops the pages `from..=to`, and says how many units were in those that were not full.
    fn drop_pages(&mut self, from: u128, to: u128) -> u128 {
        let dropped = self.pages.extract_if(from..=to, |_, _| true);
        dropped.filter(|(_, page)| !page.is_full()).map(|(_, page)| u128::from(page.len())).sum()
    }
}

/// The number of the page that `index` is in, and its bit there.
fn split(index: u128) -> (u128, u32) {
    (index / PAGE, (index % PAGE) as u32)
}

/// The reverse of `split`.
fn join(number: u128, bit: u32) -> u128 {
    number * PAGE + u128::from(bit)
}

/// The parts of `first..=last` in the page of `first` and in that of `last`, as page and first and last bit.
fn edges(first: u128, last: u128) -> impl Iterator<Item = (u128, u32, u32)> {
    let ((from, lo), (to, hi)) = (split(first), split(last));
    let (head, tail) = if from == to { (hi, None) } else { (PAGE_BITS - 1, Some((to, 0, hi))) };
    std::iter::once((from, lo, head)).chain(tail)
}

/// The pages that lie wholly between those two.
fn between(first: u128, last: u128) -> Option<(u128, u128)> {
    let (from, to) = (first / PAGE + 1, (last / PAGE).checked_sub(1)?);
    (from <= to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::RangeSet;

    /// Points that meet at pages, at pages of pages, and at the end of what an index can be.
    fn point() -> impl Strategy<Value = u128> {
        let level = prop::sample::select(vec![0, 6, 12, 24, 36, 120]);
        let base = (level, 0..6_u128).prop_map(|(bits, times)| times << bits);
        let base = prop_oneof![4 => base, 1 => Just(u128::MAX - 1)];
        (base, -70..70_i128).prop_map(|(base, by)| base.saturating_add_signed(by).min(u128::MAX - 1))
    }

    fn range() -> impl Strategy<Value = (u128, u128)> {
        (point(), point()).prop_map(|(a, b)| (a.min(b), a.max(b)))
    }

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u128),
        InsertGap((u128, u128)),
        Remove(u128),
        InsertRange((u128, u128)),
        RemoveRange((u128, u128)),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            point().prop_map(Op::Insert),
            range().prop_map(Op::InsertGap),
            point().prop_map(Op::Remove),
            range().prop_map(Op::InsertRange),
            range().prop_map(Op::RemoveRange),
        ]
    }

    /// Does the same to both; returns how many points each says it changed.
    fn apply(op: &Op, model: &mut RangeSet, set: &mut UnitSet) -> (u128, u128) {
        let before = model.len();
        let changed = match *op {
            Op::Insert(point) => {
                model.insert(point, point);
                set.insert(point).into()
            }
            Op::InsertGap((first, last)) => {
                let gap = model.next_gap(first).filter(|&gap| gap <= last);
                if let Some(gap) = gap {
                    model.insert(gap, gap);
                }
                assert_eq!(set.insert_gap(first, last), gap);
                u128::from(gap.is_some())
            }
            Op::Remove(point) => {
                model.remove(point, point);
                set.remove(point).into()
            }
            Op::InsertRange((first, last)) => {
                model.insert(first, last);
                set.insert_range(first, last)
            }
            Op::RemoveRange((first, last)) => {
                model.remove(first, last);
                set.remove_range(first, last)
            }
        };
        (model.len().abs_diff(before), changed)
    }

    /// What `pages` and `full` promise of each other.
    fn check_shape(set: &UnitSet) {
        for (number, page) in &set.pages {
            assert!(!page.is_empty(), "page {number} is empty");
            assert_eq!(page.is_full(), set.is_full(*number), "page {number}");
            for (index, word) in page.words.iter().enumerate() {
                assert_eq!((page.some >> index & 1 == 1, page.full >> index & 1 == 1), (*word != 0, *word == u64::MAX));
            }
        }
        set.full.as_deref().into_iter().for_each(check_shape);
    }

    proptest! {
        #[test]
        fn is_the_same_set_as_ranges(steps in prop::collection::vec((op(), point(), range()), 1..30)) {
            let (mut model, mut set) = (RangeSet::new(), UnitSet::default());
            for (op, probe, (first, last)) in steps {
                let (expected, changed) = apply(&op, &mut model, &mut set);
                prop_assert_eq!(expected, changed, "{:?}", op);
                check_shape(&set);
                prop_assert_eq!(set.len(), model.len());
                prop_assert_eq!(set.contains(probe), model.contains(probe));
                prop_assert_eq!(set.next_gap(probe), model.next_gap(probe));
                let next = model.first_overlap(probe, u128::MAX).map(|(first, _)| first.max(probe));
                prop_assert_eq!(set.next_one(probe), next);
                let runs: Vec<_> = set.runs(first, last).collect();
                let cut = model.overlapping(first, last).map(|(f, l)| (f.max(first), l.min(last)));
                prop_assert_eq!(&runs, &cut.collect::<Vec<_>>());
                let mut gaps = RangeSet::new();
                gaps.insert(first, last);
                for (f, l) in runs {
                    gaps.remove(f, l);
                }
                prop_assert_eq!(set.gaps(first, last).collect::<Vec<_>>(), gaps.iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn all_that_can_be_is_a_few_pages() {
        let mut set = UnitSet::default();
        assert_eq!(set.insert_range(0, u128::MAX - 1), u128::MAX);
        assert_eq!((set.next_gap(0), set.next_one(1 << 99)), (Some(u128::MAX), Some(1 << 99)));
        assert!(set.remove(1 << 100) && !set.remove(1 << 100));
        assert_eq!((set.len(), set.next_gap(5)), (u128::MAX - 1, Some(1 << 100)));
        assert!(set.insert(1 << 100));
        assert_eq!(set.remove_range(0, u128::MAX - 1), u128::MAX);
        assert_eq!((set.len(), set.next_one(0), set.pages.len()), (0, None, 0));
    }

    #[test]
    fn gives_its_pages_back() {
        let mut set = UnitSet::default();
        for index in (0..1 << 20).step_by(1 << 10) {
            set.insert(index);
        }
        assert_eq!(set.pages.len(), 256);
        for index in (0..1 << 20).step_by(1 << 10) {
            set.remove(index);
        }
        assert!(set.pages.is_empty());
    }
}
