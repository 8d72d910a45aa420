//! Addresses as text: checked here, passed on as they came.

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

    pub fn everywhere(self) -> &'static str {
        match self {
            Self::V4 => "0.0.0.0/0",
            Self::V6 => "::/0",
        }
    }

    fn bits(self) -> u8 {
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

#[cfg(test)]
mod tests {
    use super::*;

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
