//! Addresses as text: checked here, and passed on in the one spelling that the agent compares.

use std::net::IpAddr;

/// The family is data: everything that differs between the two is a value below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `version` of an address in 0.3.0 to 0.4.0.
    pub fn mark(self) -> &'static str {
        match self {
            Self::V4 => "4",
            Self::V6 => "6",
        }
    }

    /// Key of the family's object before 0.3.0.
    pub fn key(self) -> &'static str {
        match self {
            Self::V4 => "ip4",
            Self::V6 => "ip6",
        }
    }

    /// The address that stands for "no gateway" in a route.
    pub fn unspecified(self) -> &'static str {
        match self {
            Self::V4 => "0.0.0.0",
            Self::V6 => "::",
        }
    }

    /// By which a pod asks for an address.
    pub fn annotation(self) -> &'static str {
        match self {
            Self::V4 => "cadastre.io/ipv4",
            Self::V6 => "cadastre.io/ipv6",
        }
    }

    pub fn everywhere(self) -> &'static str {
        match self {
            Self::V4 => "0.0.0.0/0",
            Self::V6 => "::/0",
        }
    }

    /// Length of an address, in bits.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// The address in `10.0.2.48/24`, if that is what it is.
pub fn in_cidr(text: &str) -> Option<IpAddr> {
    let (address, length) = text.split_once('/')?;
    let address = address.parse().ok()?;
    let digits = length.bytes().all(|byte| byte.is_ascii_digit());
    (digits && length.parse::<u8>().ok()? <= Family::of(&address).bits()).then_some(address)
}

/// An address in its canonical spelling, with or without prefix length. An IPv4 address that is written as one of IPv6 is
/// one of IPv4, as in the reference plugins.
pub fn with_or_without_length(text: &str) -> Option<IpAddr> {
    let address = if text.contains('/') { in_cidr(text) } else { text.parse().ok() };
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_spelling() {
        for text in ["10.0.0.5", "10.0.0.5/24", "::ffff:10.0.0.5"] {
            assert_eq!(with_or_without_length(text).unwrap().to_string(), "10.0.0.5");
        }
        assert_eq!(with_or_without_length("FD00:0::5/64").unwrap().to_string(), "fd00::5");
        for bad in ["", "10.0.0.256", "10.0.0.5/33", "10.0.0.5/", "a", " 10.0.0.5"] {
            assert_eq!(with_or_without_length(bad), None, "{bad}");
        }
    }

    #[test]
    fn cidrs() {
        for good in ["10.0.2.48/24", "0.0.0.0/0", "10.0.0.1/32", "::/0", "fd00::12/120", "fd00::1/128"] {
            let address = good.split('/').next().unwrap();
            assert_eq!(in_cidr(good).unwrap().to_string(), address);
        }
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0/8",
            "10.0.0.1/33",
            "10.0.0.1/",
            "10.0.0.1/+8",
            "10.0.0.1/-1",
            "::1/129",
            "x/8",
            "10.0.0.1/8/8",
        ] {
            assert_eq!(in_cidr(bad), None, "{bad}");
        }
    }
}
