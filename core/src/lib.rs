//! The arithmetic of CIDRs, blocks and addresses: no I/O, no async, no Kubernetes.
//!
//! ```text
//! Family     IPv4 or IPv6, as data: one code path serves both; addresses as integers
//! Cidr       an aligned range of addresses; the only form in which CIDRs travel through Cadastre
//! AddrRange  any range of addresses, for reservations
//! CidrMap    values filed under CIDRs, found by overlap
//! RangeSet   a set of integers kept as ranges: costs by range, not by member
//! Space      the allocator: blocks of a pool, and addresses of blocks
//! ```

#![warn(missing_docs)]

mod addr_range;
mod cidr;
mod cidr_map;
mod extent;
mod family;
mod range_set;
mod space;
mod space_error;
mod unit_set;

pub use addr_range::{AddrRange, AddrRangeError};
pub use cidr::{Cidr, CidrError};
pub use cidr_map::CidrMap;
pub use family::{Family, addr_from_bits, addr_to_bits};
pub use range_set::RangeSet;
pub use space::{Counts, Space};
pub use space_error::{CidrListError, GiveBackError, TakeError, WrongFamily};
