//! The set of units of a CIDR that are not free: many, small, and asked thousands of times a second.
//!
//! ```text
//! UnitSet        pages   0 ········  3 ▓░▓▓░░▓▓  4 ▓▓▓▓▓▓▓▓        512 units a page, a bit each; absent = empty or full
//! └ full         pages   0 ····▓▓▓▓                               the numbers of the full pages: again a UnitSet
//!   └ full …                                                      as deep as there are full pages of full pages
//! ```
//! Why so: a page is a cache line, so that a set of 2^20 scattered units is a tree of 2,048 entries and a step in it costs
//! tens of nanoseconds; the next gap is found by going up over whatever is full and down again, one page a level, however
//! full the set is; a range is stored at the highest level that it fills, so that 2^100 reserved units cost a few pages; and
//! what is neither taken nor reserved costs nothing.
//! Indexes go up to `u128::MAX - 1`, so that their number fits `u128`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Units of a page: eight words are one cache line.
const PAGE_BITS: u32 = 512;
const PAGE: u128 = PAGE_BITS as u128;
const WORDS: usize = PAGE_BITS as usize / 64;

/// 512 bits; the lowest bit of the first word is the first unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page([u64; WORDS]);

impl Page {
    const EMPTY: Self = Self([0; WORDS]);
    const FULL: Self = Self([u64::MAX; WORDS]);

    /// The bits from `lo` to `hi`, both below 512.
    fn mask(lo: u32, hi: u32) -> Self {
        let mut mask = Self::EMPTY;
        for (base, word) in (0..).step_by(64).zip(&mut mask.0) {
            if lo < base + 64 && hi >= base {
                let (from, to) = (lo.max(base) - base, hi.min(base + 63) - base);
                *word = (u64::MAX << from) & (u64::MAX >> (63 - to));
            }
        }
        mask
    }

    fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn contains(&self, bit: u32) -> bool {
        self.0[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    /// Sets the bit; false if it was set.
    fn insert(&mut self, bit: u32) -> bool {
        let (word, mask) = (&mut self.0[(bit / 64) as usize], 1 << (bit % 64));
        let new = *word & mask == 0;
        *word |= mask;
        new
    }

    /// Clears the bit; false if it was clear.
    fn remove(&mut self, bit: u32) -> bool {
        let (word, mask) = (&mut self.0[(bit / 64) as usize], 1 << (bit % 64));
        let was = *word & mask != 0;
        *word &= !mask;
        was
    }

    /// Sets what `mask` has, and says how many bits were clear.
    fn insert_all(&mut self, mask: &Self) -> u32 {
        let before = self.len();
        self.0.iter_mut().zip(mask.0).for_each(|(word, mask)| *word |= mask);
        self.len() - before
    }

    /// Clears what `mask` has, and says how many bits were set.
    fn remove_all(&mut self, mask: &Self) -> u32 {
        let before = self.len();
        self.0.iter_mut().zip(mask.0).for_each(|(word, mask)| *word &= !mask);
        before - self.len()
    }

    /// The first set bit from `lo` on, of this page or, with `flip` all ones, of its complement.
    fn next(&self, lo: u32, flip: u64) -> Option<u32> {
        let start = (lo / 64) as usize;
        let mut word = (self.0.get(start)? ^ flip) & (u64::MAX << (lo % 64));
        for index in start.. {
            if word != 0 {
                return Some(u32::try_from(index).ok()? * 64 + word.trailing_zeros());
            }
            word = self.0.get(index + 1)? ^ flip;
        }
        None
    }

    fn next_one(&self, lo: u32) -> Option<u32> {
        self.next(lo, 0)
    }

    fn next_gap(&self, lo: u32) -> Option<u32> {
        self.next(lo, u64::MAX)
    }
}

/// A set of unit indexes.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnitSet {
    /// By number; none is empty. A page that is not here is empty, or full if `full` says so.
    pages: BTreeMap<u128, Page>,
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
        let new = self.edit(number, |page| page.insert(bit).into());
        self.len += u128::from(new);
        new == 1
    }

    /// Takes out one unit; false if it was not there.
    pub(crate) fn remove(&mut self, index: u128) -> bool {
        let (number, bit) = split(index);
        let gone = self.edit(number, |page| page.remove(bit).into());
        self.len -= u128::from(gone);
        gone == 1
    }

    /// Adds all units of `first..=last`, and says how many were not there.
    pub(crate) fn insert_range(&mut self, first: u128, last: u128) -> u128 {
        let mut new = 0;
        for (number, lo, hi) in edges(first, last) {
            new += u128::from(self.edit(number, |page| page.insert_all(&Page::mask(lo, hi))));
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
            gone += u128::from(self.edit(number, |page| page.remove_all(&Page::mask(lo, hi))));
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

    /// The runs of neighbouring units that begin in `first..=last`, cut at both ends; what it costs is their number.
    pub(crate) fn runs(&self, first: u128, last: u128) -> impl Iterator<Item = (u128, u128)> + '_ {
        let run = move |from: u128| {
            let from = self.next_one(from).filter(|&from| from <= last)?;
            Some((from, self.next_gap(from).map_or(last, |gap| last.min(gap - 1))))
        };
        std::iter::successors(run(first), move |&(_, to)| run(to + 1))
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

    /// Brings up a page, has it changed, and keeps true what is recorded about it. Returns what `change` does: the number
    /// of bits that it changed.
    fn edit(&mut self, number: u128, change: impl FnOnce(&mut Page) -> u32) -> u32 {
        let full = &mut self.full;
        let mut page = match self.pages.entry(number) {
            Entry::Occupied(page) => page,
            Entry::Vacant(place) if full.as_ref().is_some_and(|full| full.contains(number)) => {
                place.insert_entry(Page::FULL)
            }
            Entry::Vacant(place) => place.insert_entry(Page::EMPTY),
        };
        let was_full = *page.get() == Page::FULL;
        let changed = change(page.get_mut());
        let is_full = *page.get() == Page::FULL;
        if *page.get() == Page::EMPTY || (is_full && changed == 0) {
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
        dropped.filter(|(_, page)| *page != Page::FULL).map(|(_, page)| u128::from(page.len())).sum()
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
