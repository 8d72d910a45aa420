//! Ranges of addresses that are not given out: what people write is an address, a CIDR, or `first-last`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Cidr, CidrError, Family, addr_to_bits};

/// All addresses of one family from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddrRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is not a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddrRangeError {
    /// One end is not an address.
    #[error("{read:?} is not a range: {addr:?} is not an IP address; write 10.0.0.5, 10.0.0.0/28 or 10.0.0.5-10.0.0.9")]
    BadAddress {
        /// What was read.
        read: String,
        /// The part that is not an address.
        addr: String,
    },
    /// It has a `/` but is not a CIDR.
    #[error(transparent)]
    BadCidr(#[from] CidrError),
    /// The ends are of two families.
    #[error("{first}-{last} is not a range: {first} is {}, {last} is {}; use one family", Family::of(*first), Family::of(*last))]
    TwoFamilies {
        /// The first end.
        first: IpAddr,
        /// The other end.
        last: IpAddr,
    },
    /// The first end is after the last.
    #[error("{first}-{last} ends before it begins; did you mean {last}-{first}?")]
    Reversed {
        /// The end that was written first.
        first: IpAddr,
        /// The other end.
        last: IpAddr,
    },
}

impl AddrRange {
    /// The range from `first` to `last`, both included.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, AddrRangeError> {
        if Family::of(first) != Family::of(last) {
            return Err(AddrRangeError::TwoFamilies { first, last });
        }
        if first > last {
            return Err(AddrRangeError::Reversed { first, last });
        }
        Ok(Self { first, last })
    }

    /// IPv4 or IPv6.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// The first address as an integer within the family.
    #[must_use]
    pub const fn first(&self) -> u128 {
        addr_to_bits(self.first)
    }

    /// The last address as an integer within the family.
    #[must_use]
    pub const fn last(&self) -> u128 {
        addr_to_bits(self.last)
    }

    /// The first address.
    #[must_use]
    pub const fn first_addr(&self) -> IpAddr {
        self.first
    }

    /// The last address.
    #[must_use]
    pub const fn last_addr(&self) -> IpAddr {
        self.last
    }

    /// The number of addresses; `u128::MAX` for all of IPv6, whose 2^128 do not fit.
    #[must_use]
    pub const fn size(&self) -> u128 {
        (self.last() - self.first()).saturating_add(1)
    }

    /// Whether `addr` lies inside.
    #[must_use]
    pub fn contains_addr(&self, addr: IpAddr) -> bool {
        self.family() == Family::of(addr) && (self.first..=self.last).contains(&addr)
    }

    /// Whether any address of `cidr` lies inside.
    #[must_use]
    pub fn overlaps(&self, cidr: &Cidr) -> bool {
        self.family() == cidr.family() && self.first() <= cidr.last() && cidr.first() <= self.last()
    }

    /// The CIDR that holds exactly these addresses, if there is one.
    #[must_use]
    pub fn to_cidr(&self) -> Option<Cidr> {
        // The bits that differ between the ends are the host bits, if the ends are all zeros and all ones there.
        let host_bits = 128 - (self.first() ^ self.last()).leading_zeros();
        let prefix_len = u32::from(self.family().bits()).checked_sub(host_bits)?;
        let cidr = Cidr::block_of(self.first, u8::try_from(prefix_len).ok()?).ok()?;
        ((cidr.first(), cidr.last()) == (self.first(), self.last())).then_some(cidr)
    }
}

impl From<IpAddr> for AddrRange {
    fn from(addr: IpAddr) -> Self {
        Self { first: addr, last: addr }
    }
}

impl From<Cidr> for AddrRange {
    fn from(cidr: Cidr) -> Self {
        Self { first: cidr.network(), last: cidr.as_ipnet().broadcast() }
    }
}

impl fmt::Display for AddrRange {
    /// The shortest of the three forms.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        match self.to_cidr() {
            Some(cidr) => cidr.fmt(f),
            None => f.pad(&format!("{}-{}", self.first, self.last)),
        }
    }
}

impl fmt::Debug for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AddrRange {
    type Err = AddrRangeError;

    fn from_str(read: &str) -> Result<Self, AddrRangeError> {
        if read.contains('/') {
            return Ok(read.parse::<Cidr>()?.into());
        }
        let end = |text: &str| {
            let text = text.trim();
            let bad = |_| AddrRangeError::BadAddress { read: read.to_owned(), addr: text.to_owned() };
            text.parse::<IpAddr>().map_err(bad)
        };
        match read.split_once('-') {
            Some((first, last)) => Self::new(end(first)?, end(last)?),
            None => end(read).map(Self::from),
        }
    }
}

impl TryFrom<String> for AddrRange {
    type Error = AddrRangeError;

    fn try_from(read: String) -> Result<Self, AddrRangeError> {
        read.parse()
    }
}

impl From<AddrRange> for String {
    fn from(range: AddrRange) -> Self {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_from_three_forms_and_shown_in_the_shortest() {
        let cases = [
            ("10.0.0.5", "10.0.0.5", 1),
            ("10.0.0.5/32", "10.0.0.5", 1),
            ("10.0.0.5-10.0.0.5", "10.0.0.5", 1),
            ("10.0.0.0/28", "10.0.0.0/28", 16),
            ("10.0.0.0-10.0.0.15", "10.0.0.0/28", 16),
            ("10.0.0.0 - 10.0.0.14", "10.0.0.0-10.0.0.14", 15),
            ("10.0.0.1-10.0.0.2", "10.0.0.1-10.0.0.2", 2),
            ("0.0.0.0-255.255.255.255", "0.0.0.0/0", 1 << 32),
            ("255.255.255.254-255.255.255.255", "255.255.255.254/31", 2),
            ("fd00::-fd00::ffff", "fd00::/112", 1 << 16),
            ("fd00::1-fd00:0:0:1::", "fd00::1-fd00:0:0:1::", 1 << 64),
            ("::/0", "::/0", u128::MAX),
            ("::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", u128::MAX),
        ];
        for (read, shown, size) in cases {
            let range: AddrRange = read.parse().unwrap();
            assert_eq!(range.to_string(), shown, "{read}");
            assert_eq!(range.size(), size, "{read}");
            assert_eq!(serde_json::to_string(&range).unwrap(), format!("{shown:?}"));
            assert_eq!(serde_json::from_str::<AddrRange>(&format!("{read:?}")).unwrap(), range);
        }
    }

    #[test]
    fn says_what_is_wrong_and_what_would_be_right() {
        let bad_addr = |read: &str, addr: &str| {
            format!(
                "{read:?} is not a range: {addr:?} is not an IP address; \
                 write 10.0.0.5, 10.0.0.0/28 or 10.0.0.5-10.0.0.9"
            )
        };
        let cases = [
            ("", bad_addr("", "")),
            ("10.0.0.256", bad_addr("10.0.0.256", "10.0.0.256")),
            ("10.0.0.1-9", bad_addr("10.0.0.1-9", "9")),
            ("10.0.0.1-10.0.0.2-10.0.0.3", bad_addr("10.0.0.1-10.0.0.2-10.0.0.3", "10.0.0.2-10.0.0.3")),
            ("10.0.0.9-10.0.0.5", "10.0.0.9-10.0.0.5 ends before it begins; did you mean 10.0.0.5-10.0.0.9?".into()),
            (
                "10.0.0.9-fd00::",
                "10.0.0.9-fd00:: is not a range: 10.0.0.9 is IPv4, fd00:: is IPv6; use one family".into(),
            ),
            ("10.0.0.1/24", "\"10.0.0.1/24\" has host bits set; did you mean 10.0.0.0/24?".into()),
        ];
        for (read, error) in cases {
            assert_eq!(read.parse::<AddrRange>().unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn overlaps_what_shares_an_address() {
        let range: AddrRange = "10.0.0.4-10.0.1.3".parse().unwrap();
        let cases = [
            ("10.0.0.0/30", false),
            ("10.0.0.4/32", true),
            ("10.0.1.0/30", true),
            ("10.0.1.4/30", false),
            ("10.0.0.0/8", true),
            ("::/0", false),
        ];
        for (cidr, overlaps) in cases {
            assert_eq!(range.overlaps(&cidr.parse().unwrap()), overlaps, "{cidr}");
        }
        assert!(range.contains_addr("10.0.1.3".parse().unwrap()) && !range.contains_addr("10.0.1.4".parse().unwrap()));
        assert!(!range.contains_addr("::a00:4".parse().unwrap()));
    }
}
