//! A CIDR that cannot be wrong: parsed once at the border, aligned ever after.
//!
//! ```text
//! 10.0.0.0/8         a pool's CIDR     blocks(24) = 65536
//! └ 10.0.2.0/24      a block           nth_block(24, 2), supernet(8) leads back
//!   └ 10.0.2.48/32   an address        host(), nth(48)
//! ```
//! Everything is computed on addresses as integers within the family; no result leaves the family.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Family, addr_from_bits, addr_to_bits};

/// An aligned range of addresses, such as `10.0.0.0/24`: no bit is set beyond its prefix.
///
/// Ordered by family, then address, then from the shortest prefix to the longest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(IpNet);

/// Why a text or an address with a prefix length is not a CIDR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// There is no `/`; says what a single address would be, if it is one.
    #[error("{read:?} has no prefix length; {hint}")]
    NoPrefix {
        /// What was read.
        read: String,
        /// What would be right.
        hint: String,
    },
    /// What stands before the `/` is not an address.
    #[error("{read:?} is not a CIDR: {addr:?} is not an IP address; write it as 10.0.0.0/24 or fd00::/64")]
    BadAddress {
        /// What was read.
        read: String,
        /// The part that is not an address.
        addr: String,
    },
    /// The prefix length is not a number, or longer than the family's addresses.
    #[error("{read:?} is not a CIDR: the prefix length of an {family} CIDR is a number from 0 to {}", family.bits())]
    BadPrefix {
        /// What was read.
        read: String,
        /// The family of the address.
        family: Family,
    },
    /// The address has bits set beyond the prefix.
    #[error("{read:?} has host bits set; did you mean {meant}?")]
    HostBits {
        /// What was read.
        read: String,
        /// The CIDR that contains the address.
        meant: Cidr,
    },
}

impl Cidr {
    /// The CIDR of `addr` and `prefix_len`; an error if the prefix is too long or `addr` has host bits set.
    pub fn new(addr: IpAddr, prefix_len: u8) -> Result<Self, CidrError> {
        let cidr = Self::block_of(addr, prefix_len)?;
        if cidr.network() == addr {
            return Ok(cidr);
        }
        Err(CidrError::HostBits { read: format!("{addr}/{prefix_len}"), meant: cidr })
    }

    /// The CIDR of length `prefix_len` that contains `addr`; an error only if the prefix is too long.
    pub fn block_of(addr: IpAddr, prefix_len: u8) -> Result<Self, CidrError> {
        match IpNet::new(addr, prefix_len) {
            Ok(net) => Ok(Self(net.trunc())),
            Err(_) => Err(CidrError::BadPrefix { read: format!("{addr}/{prefix_len}"), family: Family::of(addr) }),
        }
    }

    /// The CIDR of one address: `/32` or `/128`.
    #[must_use]
    pub fn host(addr: IpAddr) -> Self {
        Self(IpNet::from(addr))
    }

    /// The CIDR of length `prefix_len` that contains the address `bits`; `None` if there is no such address or length.
    pub(crate) fn at(family: Family, bits: u128, prefix_len: u8) -> Option<Self> {
        let net = IpNet::new(addr_from_bits(family, bits)?, prefix_len).ok()?;
        Some(Self(net.trunc()))
    }

    /// IPv4 or IPv6.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self.0 {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }

    /// The number of leading bits that all addresses share: 0 to 32 or 128.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// The first address.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.0.addr()
    }

    /// The first address as an integer within the family.
    #[must_use]
    pub fn first(&self) -> u128 {
        addr_to_bits(self.0.addr())
    }

    /// The last address as an integer within the family.
    #[must_use]
    pub fn last(&self) -> u128 {
        self.first() | low_ones(self.host_bits())
    }

    /// Whether `other` lies wholly inside; a CIDR contains itself.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.prefix_len() <= other.prefix_len() && self.overlaps(other)
    }

    /// Whether `addr` lies inside.
    #[must_use]
    pub fn contains_addr(&self, addr: IpAddr) -> bool {
        self.family() == Family::of(addr) && (self.first()..=self.last()).contains(&addr_to_bits(addr))
    }

    /// Whether any address lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.family() == other.family() && self.first() <= other.last() && other.first() <= self.last()
    }

    /// The number of addresses; `u128::MAX` for `::/0`, whose 2^128 do not fit.
    #[must_use]
    pub fn size(&self) -> u128 {
        self.blocks(self.family().bits())
    }

    /// The number of blocks of length `mask` inside: 0 if no such block fits or the mask does not exist in the family,
    /// `u128::MAX` for the 2^128 of `::/0` cut in `/128`.
    #[must_use]
    pub fn blocks(&self, mask: u8) -> u128 {
        match mask.checked_sub(self.prefix_len()) {
            Some(bits) if mask <= self.family().bits() => 1_u128.checked_shl(bits.into()).unwrap_or(u128::MAX),
            _ => 0,
        }
    }

    /// The block of length `mask` at `index`, counted from the start.
    #[must_use]
    pub fn nth_block(&self, mask: u8, index: u128) -> Option<Self> {
        // `last` and not `blocks`: the last of 2^128 is there, too.
        let shift = self.family().bits().checked_sub(mask)?;
        let last = low_ones(mask.checked_sub(self.prefix_len())?);
        if index > last {
            return None;
        }
        let addr = addr_from_bits(self.family(), self.first() | index.checked_shl(shift.into()).unwrap_or(0))?;
        IpNet::new(addr, mask).ok().map(Self)
    }

    /// The address at `index`, counted from the first; `None` beyond the last.
    #[must_use]
    pub fn nth(&self, index: u128) -> Option<IpAddr> {
        self.nth_block(self.family().bits(), index).map(|host| host.network())
    }

    /// The CIDR of length `mask` that contains this one; `None` if `mask` is longer than its own.
    #[must_use]
    pub fn supernet(&self, mask: u8) -> Option<Self> {
        if mask > self.prefix_len() {
            return None;
        }
        Self::at(self.family(), self.first(), mask)
    }

    /// The same CIDR as `ipnet` has it.
    #[must_use]
    pub const fn as_ipnet(&self) -> &IpNet {
        &self.0
    }

    fn host_bits(&self) -> u8 {
        self.family().bits() - self.prefix_len()
    }
}

/// `count` ones, right-aligned.
const fn low_ones(count: u8) -> u128 {
    if count == 0 { 0 } else { u128::MAX >> (128 - count) }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Through a string, so that `{:>18}` aligns.
        f.pad(&self.0.to_string())
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(read: &str) -> Result<Self, CidrError> {
        let Some((addr, prefix)) = read.split_once('/') else {
            return Err(no_prefix(read));
        };
        let bad_addr = |_| CidrError::BadAddress { read: read.to_owned(), addr: addr.to_owned() };
        let addr: IpAddr = addr.parse().map_err(bad_addr)?;
        let bad_prefix = || CidrError::BadPrefix { read: read.to_owned(), family: Family::of(addr) };
        let net = IpNet::new(addr, parse_prefix(prefix).ok_or_else(bad_prefix)?).map_err(|_| bad_prefix())?;
        if net.trunc() != net {
            return Err(CidrError::HostBits { read: read.to_owned(), meant: Self(net.trunc()) });
        }
        Ok(Self(net))
    }
}

fn no_prefix(read: &str) -> CidrError {
    let hint = match read.parse::<IpAddr>() {
        Ok(addr) => format!("did you mean {}?", Cidr::host(addr)),
        Err(_) => "write a CIDR as 10.0.0.0/24 or fd00::/64".to_owned(),
    };
    CidrError::NoPrefix { read: read.to_owned(), hint }
}

/// Digits only, no leading zero: as Kubernetes reads it.
fn parse_prefix(text: &str) -> Option<u8> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(read: String) -> Result<Self, CidrError> {
        read.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl From<Cidr> for IpNet {
    fn from(cidr: Cidr) -> Self {
        cidr.0
    }
}

impl From<IpAddr> for Cidr {
    fn from(addr: IpAddr) -> Self {
        Self::host(addr)
    }
}
