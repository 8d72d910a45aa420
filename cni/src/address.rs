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

    /// The gateway of a route to what is on the link, where the caller would put its own for a route without one.
    pub fn no_gateway(self) -> Option<&'static str> {
        match self {
            Self::V4 => Some("0.0.0.0"),
            Self::V6 => None, // The kernel refuses "::".
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
    parts(text).map(|(address, _)| address)
}

fn parts(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address = address.parse().ok()?;
    let digits = length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse().ok().filter(|length| digits && *length <= Family::of(&address).bits())?;
    Some((address, length))
}

/// Whether `other` is another address of the subnet in `10.0.2.48/24`.
pub fn is_neighbour(cidr: &str, other: &IpAddr) -> bool {
    let number = |address: &IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(*address)),
        IpAddr::V6(address) => u128::from(*address),
    };
    parts(cidr).is_some_and(|(address, length)| {
        let family = Family::of(&address);
        let differing = number(&address) ^ number(other);
        let host_bits = u32::from(family.bits() - length);
        family == Family::of(other) && differing != 0 && differing.checked_shr(host_bits).unwrap_or(0) == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_subnet() {
        let table = [
            ("10.0.2.48/24", "10.0.2.1", true),
            ("10.0.2.48/24", "10.0.2.48", false),
            ("10.0.2.48/24", "10.0.3.1", false),
            ("10.0.2.48/32", "10.0.2.49", false),
            ("10.0.2.48/0", "192.0.2.1", true),
            ("10.0.2.48/24", "::10.0.2.1", false),
            ("fd00::30/120", "fd00::1", true),
            ("fd00::30/120", "fd00::101", false),
            ("fd00::30/0", "::1", true),
            ("nonsense", "10.0.2.1", false),
        ];
        for (cidr, other, expected) in table {
            assert_eq!(is_neighbour(cidr, &other.parse().unwrap()), expected, "{cidr} {other}");
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
