//! IPv4 and IPv6 as data, and addresses as integers, so that nothing else has to be written twice.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// An IP family, spelled as in Kubernetes' `ipFamily`: `IPv4`, `IPv6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// 32-bit addresses.
    #[serde(rename = "IPv4")]
    V4,
    /// 128-bit addresses.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// Both families, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The length of an address in bits, which is also the longest prefix: 32 or 128.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The prefix length of the smallest blocks with a router: 29 or 125. Blocks of fewer than 8 addresses give all of them to
    /// pods; larger ones keep first, last and the router's.
    #[must_use]
    pub const fn longest_with_router(self) -> u8 {
        self.bits() - 3
    }

    /// The family of an address.
    #[must_use]
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The last address of the family as an integer.
    #[must_use]
    pub const fn max(self) -> u128 {
        u128::MAX >> (128 - self.bits())
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address as an integer within its family.
#[must_use]
pub const fn addr_to_bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits() as u128,
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

/// The address that an integer stands for in `family`; `None` if it is longer than the family's addresses.
#[must_use]
pub fn addr_from_bits(family: Family, bits: u128) -> Option<IpAddr> {
    match family {
        Family::V4 => u32::try_from(bits).ok().map(|bits| Ipv4Addr::from_bits(bits).into()),
        Family::V6 => Some(Ipv6Addr::from_bits(bits).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelled_as_kubernetes_spells_it() {
        for (family, text) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
            assert_eq!(family.to_string(), text);
            assert_eq!(serde_json::to_string(&family).unwrap(), format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Family>(&format!("{text:?}")).unwrap(), family);
        }
        assert_eq!(format!("[{:6}]", Family::V4), "[IPv4  ]");
        assert!(Family::V4 < Family::V6);
    }

    #[test]
    fn addresses_are_integers_of_their_family() {
        let cases = [
            (Family::V4, "0.0.0.0", 0),
            (Family::V4, "10.0.0.1", 0x0a00_0001),
            (Family::V4, "255.255.255.255", Family::V4.max()),
            (Family::V6, "::", 0),
            (Family::V6, "::10.0.0.1", 0x0a00_0001),
            (Family::V6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", u128::MAX),
        ];
        for (family, text, bits) in cases {
            let addr: IpAddr = text.parse().unwrap();
            assert_eq!(Family::of(addr), family);
            assert_eq!(addr_to_bits(addr), bits, "{text}");
            assert_eq!(addr_from_bits(family, bits), Some(addr));
        }
        assert_eq!(addr_from_bits(Family::V4, 1 << 32), None);
    }
}
