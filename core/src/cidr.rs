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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn says_what_is_wrong_and_what_would_be_right() {
        let form = "write a CIDR as 10.0.0.0/24 or fd00::/64";
        let prefix =
            |family: &str, max: u8| format!("the prefix length of an {family} CIDR is a number from 0 to {max}");
        let cases = [
            ("10.0.0.1/24", "has host bits set; did you mean 10.0.0.0/24?".to_owned()),
            ("fd00::1/64", "has host bits set; did you mean fd00::/64?".to_owned()),
            ("10.0.0.1", "has no prefix length; did you mean 10.0.0.1/32?".to_owned()),
            ("fd00::1", "has no prefix length; did you mean fd00::1/128?".to_owned()),
            ("", format!("has no prefix length; {form}")),
            ("default", format!("has no prefix length; {form}")),
            ("10.0.0.0/33", format!("is not a CIDR: {}", prefix("IPv4", 32))),
            ("fd00::/129", format!("is not a CIDR: {}", prefix("IPv6", 128))),
            ("10.0.0.0/", format!("is not a CIDR: {}", prefix("IPv4", 32))),
            ("10.0.0.0/+8", format!("is not a CIDR: {}", prefix("IPv4", 32))),
            ("10.0.0.0/08", format!("is not a CIDR: {}", prefix("IPv4", 32))),
            ("10.0.0.0/8/8", format!("is not a CIDR: {}", prefix("IPv4", 32))),
            (
                "10.0.0/24",
                "is not a CIDR: \"10.0.0\" is not an IP address; write it as 10.0.0.0/24 or fd00::/64".into(),
            ),
            (
                "010.0.0.0/8",
                "is not a CIDR: \"010.0.0.0\" is not an IP address; write it as 10.0.0.0/24 or fd00::/64".into(),
            ),
            (
                " 10.0.0.0/8",
                "is not a CIDR: \" 10.0.0.0\" is not an IP address; write it as 10.0.0.0/24 or fd00::/64".into(),
            ),
        ];
        for (read, error) in cases {
            assert_eq!(read.parse::<Cidr>().unwrap_err().to_string(), format!("{read:?} {error}"));
            assert!(serde_json::from_str::<Cidr>(&format!("{read:?}")).unwrap_err().to_string().contains(&error));
        }
        let addr = "10.0.0.1".parse().unwrap();
        assert_eq!(
            Cidr::new(addr, 24).unwrap_err().to_string(),
            "\"10.0.0.1/24\" has host bits set; did you mean 10.0.0.0/24?"
        );
        assert!(matches!(Cidr::new(addr, 33), Err(CidrError::BadPrefix { .. })));
        assert_eq!(Cidr::new(addr, 32).unwrap(), Cidr::host(addr));
    }

    #[test]
    fn counts_and_cuts_at_both_ends_of_the_address_space() {
        // text, size, mask, blocks, the last block
        let cases = [
            ("0.0.0.0/0", 1 << 32, 24, 1 << 24, Some("255.255.255.0/24")),
            ("0.0.0.0/0", 1 << 32, 0, 1, Some("0.0.0.0/0")),
            ("255.255.255.255/32", 1, 32, 1, Some("255.255.255.255/32")),
            ("255.255.255.254/31", 2, 32, 2, Some("255.255.255.255/32")),
            ("10.0.0.0/8", 1 << 24, 7, 0, None),
            ("10.0.0.0/8", 1 << 24, 33, 0, None),
            ("10.0.0.0/8", 1 << 24, 255, 0, None),
            ("::/0", u128::MAX, 0, 1, Some("::/0")),
            ("::/0", u128::MAX, 127, 1 << 127, Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127")),
            ("::/0", u128::MAX, 128, u128::MAX, Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/128")),
            ("fd00::/48", 1 << 80, 64, 1 << 16, Some("fd00:0:0:ffff::/64")),
            ("fd00::/48", 1 << 80, 129, 0, None),
        ];
        for (text, size, mask, blocks, last) in cases {
            let cidr = cidr(text);
            assert_eq!(cidr.to_string(), text);
            assert_eq!(cidr.size(), size, "{text}");
            assert_eq!(cidr.blocks(mask), blocks, "{text} by /{mask}");
            let found = blocks.checked_sub(1).and_then(|last| cidr.nth_block(mask, last));
            assert_eq!(found.map(|block| block.to_string()).as_deref(), last, "{text} by /{mask}");
            assert!(blocks == u128::MAX || cidr.nth_block(mask, blocks).is_none(), "{text} by /{mask}");
        }
        let all = cidr("::/0");
        assert_eq!(all.nth(u128::MAX), Some(IpAddr::from([0xff; 16])));
        assert_eq!((all.first(), all.last()), (0, u128::MAX));
        assert_eq!(cidr("255.255.255.255/32").nth(1), None);
    }

    #[test]
    fn is_ordered_by_family_address_and_length() {
        let sorted = ["9.0.0.0/8", "10.0.0.0/8", "10.0.0.0/24", "10.0.1.0/24", "::/0", "::/1", "8000::/1"].map(cidr);
        assert!(sorted.is_sorted());
        assert_eq!(format!("[{:>12}]", sorted[1]), "[  10.0.0.0/8]");
    }

    /// CIDRs that are often near each other, so that some of them overlap.
    fn some_cidr() -> impl Strategy<Value = Cidr> {
        let family = prop::sample::select(Family::ALL.to_vec());
        let bits = prop_oneof![0..64_u128, any::<u128>(), (0..64_u128).prop_map(|down| u128::MAX - down)];
        (family, bits, any::<u8>()).prop_map(|(family, bits, len)| {
            let addr = addr_from_bits(family, bits & family.max()).unwrap();
            Cidr::block_of(addr, len % (family.bits() + 1)).unwrap()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_ipnet(a in some_cidr(), b in some_cidr()) {
            let (x, y) = (a.as_ipnet(), b.as_ipnet());
            prop_assert_eq!(a.contains(&b), x.contains(y));
            prop_assert_eq!(a.overlaps(&b), x.contains(y) || y.contains(x));
            prop_assert_eq!(a.contains_addr(b.network()), x.contains(&b.network()));
            prop_assert_eq!(addr_from_bits(a.family(), a.last()), Some(x.broadcast()));
            prop_assert_eq!(a.network(), x.network());
            prop_assert_eq!(a.to_string().parse::<Cidr>(), Ok(a));
            prop_assert_eq!(serde_json::from_str::<Cidr>(&serde_json::to_string(&a).unwrap()).unwrap(), a);
            prop_assert_eq!(Cidr::new(a.network(), a.prefix_len()), Ok(a));
        }

        #[test]
        fn the_blocks_are_its_parts(a in some_cidr(), longer in 0..9_u8) {
            let mask = (a.prefix_len() + longer).min(a.family().bits());
            let blocks: Vec<Cidr> = (0..=a.blocks(mask)).map_while(|index| a.nth_block(mask, index)).collect();
            prop_assert_eq!(blocks.len() as u128, a.blocks(mask));
            let mut next = Some(a.first());
            for block in &blocks {
                prop_assert_eq!(Some(block.first()), next);
                prop_assert_eq!(block.supernet(a.prefix_len()), Some(a));
                prop_assert_eq!(Cidr::block_of(block.network(), a.prefix_len()), Ok(a));
                next = block.last().checked_add(1);
            }
            prop_assert_eq!(next, a.last().checked_add(1));
            prop_assert_eq!(a.supernet(a.prefix_len().saturating_add(1)), None);
        }
    }
}
