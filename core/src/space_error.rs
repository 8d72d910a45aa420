//! What may be wrong with what a `Space` is asked to do, and what to do instead.

use crate::{AddrRange, Cidr, Family};

/// Addresses of the other family.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{asked} is {}, but this space holds {family} addresses; ask the {} one", asked.family(), asked.family())]
pub struct WrongFamily {
    /// What was asked for.
    pub asked: AddrRange,
    /// The family of the space.
    pub family: Family,
}

/// Why a block or address cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TakeError {
    /// It is of the other family.
    #[error(transparent)]
    WrongFamily(#[from] WrongFamily),
    /// It is, or overlaps, something taken.
    #[error("{asked} cannot be taken: {by} is taken; give {by} back first, or take another")]
    Taken {
        /// What was asked for.
        asked: Cidr,
        /// What is taken there, as it was taken.
        by: Cidr,
    },
    /// It overlaps a reservation.
    #[error("{asked} cannot be taken: {range} is reserved; remove the reservation, or take another")]
    Reserved {
        /// What was asked for.
        asked: Cidr,
        /// The reservation, merged with those beside it.
        range: AddrRange,
    },
    /// None of the CIDRs contains it.
    #[error("{asked} cannot be taken: it lies in none of the CIDRs; add one that contains it, or take another")]
    Outside {
        /// What was asked for.
        asked: Cidr,
    },
    /// It is larger or smaller than the unit.
    #[error("{asked} cannot be taken: only /{unit} is given from here; take a /{unit}")]
    Misaligned {
        /// What was asked for.
        asked: Cidr,
        /// The prefix length of what is given.
        unit: u8,
    },
}

/// Why a block or address cannot be given back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GiveBackError {
    /// It is of the other family.
    #[error(transparent)]
    WrongFamily(#[from] WrongFamily),
    /// Nothing in it is taken.
    #[error("{asked} cannot be given back: it is not taken; nothing has to be done")]
    NotTaken {
        /// What was to be given back.
        asked: Cidr,
    },
    /// Something is taken there, but something else.
    #[error("{asked} cannot be given back: what is taken is {taken}; give back exactly that")]
    NotExact {
        /// What was to be given back.
        asked: Cidr,
        /// What is taken there, as it was taken.
        taken: Cidr,
    },
}

/// Why a CIDR cannot be added to a space or removed from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrListError {
    /// It is of the other family.
    #[error(transparent)]
    WrongFamily(#[from] WrongFamily),
    /// It has no room for a single unit, or there is no such unit in the family.
    #[error("{cidr} cannot be added: no /{unit} fits in it; use a CIDR of /{unit} or larger, or a longer mask size")]
    TooSmall {
        /// What was to be added.
        cidr: Cidr,
        /// The prefix length of what is given.
        unit: u8,
    },
    /// It overlaps one that is there.
    #[error("{cidr} cannot be added: it overlaps {other}; use CIDRs that are disjoint")]
    Overlaps {
        /// What was to be added.
        cidr: Cidr,
        /// The CIDR that is there.
        other: Cidr,
    },
    /// It is not there.
    #[error("{cidr} cannot be removed: it is not in the list; name a CIDR as it was added")]
    Unknown {
        /// What was to be removed.
        cidr: Cidr,
    },
    /// Something in it is taken.
    #[error("{cidr} cannot be removed: {by} in it is taken; wait until all of it is given back")]
    InUse {
        /// What was to be removed.
        cidr: Cidr,
        /// The first thing taken in it.
        by: Cidr,
    },
}
