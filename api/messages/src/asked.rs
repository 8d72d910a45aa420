//! How people write an address that they ask for: the same rule for the plugin, which reads configurations, and for the agent,
//! which looks a Pod's annotations up.

use std::net::IpAddr;

/// By which a Pod asks for an address, IPv4 first.
pub const ANNOTATIONS: [&str; 2] = ["cadastre.io/ipv4", "cadastre.io/ipv6"];

/// The only interface whose address a Pod's annotations choose: its other networks have other addresses.
pub const ANNOTATED_INTERFACE: &str = "eth0";

/// An address with or without prefix length. An IPv4 address that is written as one of IPv6 is one of IPv4, as in the reference
/// plugins.
#[must_use]
pub fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let fits = |length: &str| {
        length.bytes().all(|byte| byte.is_ascii_digit()) && length.parse::<u8>().is_ok_and(|length| length <= longest)
    };
    length.is_none_or(fits).then(|| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_spelling() {
        for text in ["10.0.0.5", "10.0.0.5/24", " 10.0.0.5 ", "::ffff:10.0.0.5", "::ffff:10.0.0.5/120"] {
            assert_eq!(address(text).unwrap().to_string(), "10.0.0.5");
        }
        assert_eq!(address("FD00:0::5/64").unwrap().to_string(), "fd00::5");
        for text in ["", "10.0.0", "10.0.0.5/33", "10.0.0.5/", "10.0.0.5/+8", "x", "fd00::5/129"] {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
