//! What is taken of each pool, and the proof that everything was read before anything is taken.
//!
//! `Occupancy<Loading>` can only be told of claims. `seal` turns it into `Occupancy<Sealed>`, and only that can take:
//! restoring before allocating is a type here, because a flag was what other allocators forgot.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use cadastre_core::{AddrRange, Cidr, Counts, Family, RangeSet, Space};

/// Name of the pool, and family.
pub type PoolKey = (String, Family);

/// Claims are still being read.
#[derive(Clone, Copy, Debug)]
pub enum Loading {}

/// Every claim was read.
#[derive(Clone, Copy, Debug)]
pub enum Sealed {}

/// One [`Space`] for each pool and family.
#[derive(Clone, Debug)]
pub struct Occupancy<Phase> {
    spaces: BTreeMap<PoolKey, Space>,
    phase: PhantomData<Phase>,
}

impl Default for Occupancy<Loading> {
    fn default() -> Self {
        Self { spaces: BTreeMap::new(), phase: PhantomData }
    }
}

impl Occupancy<Loading> {
    /// Every claim was read: from here on blocks can be taken.
    #[must_use]
    pub fn seal(self) -> Occupancy<Sealed> {
        Occupancy { spaces: self.spaces, phase: PhantomData }
    }
}

impl<Phase> Occupancy<Phase> {
    /// Adds `cidr`, cut into blocks of `mask` bits, to a pool. `false` if the pool has blocks of another size or the
    /// CIDR overlaps one that is there.
    pub fn admit(&mut self, pool: &str, cidr: Cidr, mask: u8) -> bool {
        let key = (pool.to_owned(), cidr.family());
        if let Some(space) = self.spaces.get_mut(&key) {
            return space.unit() == mask && space.add_cidr(cidr).is_ok();
        }
        let mut space = Space::new(cidr.family(), mask);
        let added = space.add_cidr(cidr).is_ok();
        if added {
            self.spaces.insert(key, space);
        }
        added
    }

    /// Removes a CIDR in which nothing is taken. `false` if something is, or it is not there.
    pub fn expel(&mut self, pool: &str, cidr: &Cidr) -> bool {
        let key = (pool.to_owned(), cidr.family());
        let Some(space) = self.spaces.get_mut(&key) else { return false };
        let removed = space.remove_cidr(cidr).is_ok();
        if removed && space.cidrs().next().is_none() {
            self.spaces.remove(&key);
        }
        removed
    }

    /// Marks a block that somebody holds, of whatever size and wherever it lies. `false` if part of it is taken.
    pub fn claim(&mut self, pool: &str, cidr: &Cidr) -> bool {
        self.spaces.get_mut(&(pool.to_owned(), cidr.family())).is_some_and(|space| space.claim(cidr).is_ok())
    }

    /// Gives a block back. `false` if exactly that was not taken.
    pub fn give_back(&mut self, pool: &str, cidr: &Cidr) -> bool {
        self.spaces.get_mut(&(pool.to_owned(), cidr.family())).is_some_and(|space| space.give_back(cidr).is_ok())
    }

    /// Fences a range in every pool of its family: never assigned.
    pub fn reserve(&mut self, range: AddrRange) {
        for ((_, family), space) in &mut self.spaces {
            if *family == range.family() {
                // The families agree, so the space takes it.
                let _same_family = space.reserve(range);
            }
        }
    }

    /// How many blocks of a pool have an address in one of `ranges`.
    #[must_use]
    pub fn touched(&self, key: &PoolKey, ranges: &[AddrRange]) -> u128 {
        let Some(space) = self.spaces.get(key) else { return 0 };
        // Blocks by number: as many addresses as a block has are one.
        let host_bits = u32::from(key.1.bits() - space.unit());
        let number = |address: u128| address.checked_shr(host_bits).unwrap_or(0);
        let mut touched = RangeSet::new();
        for cidr in space.cidrs() {
            for range in ranges.iter().filter(|range| range.overlaps(&cidr)) {
                let (first, last) = (range.first().max(cidr.first()), range.last().min(cidr.last()));
                touched.insert(number(first), number(last));
            }
        }
        touched.len()
    }

    /// Blocks by state, exact.
    #[must_use]
    pub fn counts(&self, pool: &str, family: Family) -> Option<Counts> {
        self.spaces.get(&(pool.to_owned(), family)).map(Space::counts)
    }

    /// Every pool and family there is.
    pub fn pools(&self) -> impl Iterator<Item = &PoolKey> {
        self.spaces.keys()
    }

    /// Every pool's CIDRs.
    #[must_use]
    pub fn cidrs(&self) -> Vec<(String, Cidr)> {
        let of =
            |((pool, _), space): (&PoolKey, &Space)| space.cidrs().map(|cidr| (pool.clone(), cidr)).collect::<Vec<_>>();
        self.spaces.iter().flat_map(of).collect()
    }

    /// The pool and the CIDR of it that a block was cut from, with the block size.
    #[must_use]
    pub fn find(&self, block: &Cidr) -> Option<(&str, Cidr, u8)> {
        let of_family = self.spaces.iter().filter(|((_, family), _)| *family == block.family());
        let found = of_family.filter_map(|((pool, _), space)| {
            let cidr = space.cidrs().find(|cidr| cidr.contains(block))?;
            Some((pool.as_str(), cidr, space.unit()))
        });
        found.into_iter().next()
    }

    /// Whether a CIDR of any pool overlaps `cidr`.
    #[must_use]
    pub fn overlaps(&self, cidr: &Cidr) -> bool {
        self.spaces.values().any(|space| space.cidrs().any(|pooled| pooled.overlaps(cidr)))
    }
}

impl Occupancy<Sealed> {
    /// The next free block after the last one taken.
    pub fn take_next(&mut self, pool: &str, family: Family) -> Option<Cidr> {
        self.spaces.get_mut(&(pool.to_owned(), family))?.take_next()
    }
}
