//! The ranges of a network that brings its own, in the shape of the reference plugin host-local: checked once, then data.
//!
//! ```text
//! set 0   10.1.2.0/24 [10.1.2.9 … 10.1.2.20], 10.1.3.0/24      alternatives: an attachment gets one address of the set
//! set 1   fd00::/64                                            and one of this
//! ```
//! Defaults and refusals are host-local's, but for subnets of fewer than four addresses: host-local refuses them, here they
//! give all they have.

use std::net::IpAddr;

use cadastre_core::{Cidr, Family, addr_from_bits, addr_to_bits};
use cadastre_messages::{Failure, Local, code};

/// Smaller subnets have neither network, broadcast nor gateway address of their own.
const SMALLEST_WITH_ENDS: u128 = 4;

/// More would be no list that a person wrote.
const MOST_RANGES: usize = 256;

/// What a network may give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    pub(super) sets: Vec<Set>,
}

/// Alternatives, all of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub family: Family,
    pub ranges: Vec<Range>,
}

/// One range of addresses, as integers of its family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub subnet: Cidr,
    pub first: u128,
    pub last: u128,
    pub gateway: Option<IpAddr>,
}

impl Ranges {
    pub(super) fn parse(local: &Local) -> Result<Self, Failure> {
        let count: usize = local.sets.iter().map(Vec::len).sum();
        if local.sets.is_empty() || local.sets.iter().any(Vec::is_empty) || count > MOST_RANGES {
            let msg = format!("ipam.ranges has no range, an empty set, or more than {MOST_RANGES} ranges");
            return Err(refused(msg, "write [[{\"subnet\": \"10.1.2.0/24\"}]], a list of sets of ranges"));
        }
        let sets = local.sets.iter().enumerate();
        let sets: Vec<Set> = sets.map(|(place, set)| Set::parse(place, set)).collect::<Result<_, _>>()?;
        let ranges = Self { sets };
        ranges.disjoint()?;
        Ok(ranges)
    }

    fn disjoint(&self) -> Result<(), Failure> {
        let all: Vec<&Range> = self.all().collect();
        for (place, one) in all.iter().enumerate() {
            if let Some(other) = all[..place].iter().find(|other| other.overlaps(one.family(), one.first, one.last)) {
                let msg = format!("ipam.ranges {} and {} overlap", other.text(), one.text());
                return Err(refused(msg, "give each range addresses of its own"));
            }
        }
        Ok(())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Range> {
        self.sets.iter().flat_map(|set| &set.ranges)
    }

    /// The range that an address was given from, or whose subnet has it.
    pub(super) fn of(&self, address: IpAddr) -> Option<&Range> {
        let within = self.all().find(|range| range.contains(address));
        within.or_else(|| self.all().find(|range| range.subnet.contains_addr(address)))
    }
}

impl Set {
    fn parse(place: usize, set: &[cadastre_messages::Range]) -> Result<Self, Failure> {
        let ranges: Vec<Range> = set.iter().map(Range::parse).collect::<Result<_, _>>()?;
        let family = ranges.first().map_or(Family::V4, Range::family);
        match ranges.iter().find(|range| range.family() != family) {
            None => Ok(Self { family, ranges }),
            Some(other) => {
                let msg = format!("ipam.ranges[{place}] mixes {family} with {}", other.subnet);
                Err(refused(msg, "write a set for each family: an attachment gets one address of each set"))
            }
        }
    }
}

impl Range {
    fn parse(range: &cadastre_messages::Range) -> Result<Self, Failure> {
        let cadastre_messages::Range { subnet, range_start, range_end, gateway } = range;
        let subnet: Cidr = subnet.parse().map_err(|error| {
            refused(
                format!("subnet {subnet:?} is not a CIDR: {error}"),
                "write it as \"10.1.2.0/24\", without host bits",
            )
        })?;
        let (first, last) = ends(&subnet);
        let start = range_start.as_ref().map(|text| within("rangeStart", text, &subnet)).transpose()?;
        let end = range_end.as_ref().map(|text| within("rangeEnd", text, &subnet)).transpose()?;
        let (start, end) = (start.unwrap_or(first), end.unwrap_or(last));
        if start > end {
            let msg = format!("the range of subnet {subnet} ends before it starts");
            return Err(refused(msg, "write rangeStart and rangeEnd in order"));
        }
        let gateway = match gateway {
            Some(text) => Some(address("gateway", text, &subnet)?),
            None if subnet.size() < SMALLEST_WITH_ENDS => None,
            None => subnet.nth(1),
        };
        // What is written may touch the network's or the broadcast address; neither is ever given.
        Ok(Self { subnet, first: start.max(first.min(end)), last: end.min(last.max(start)), gateway })
    }

    pub fn family(&self) -> Family {
        self.subnet.family()
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = addr_to_bits(address);
        self.overlaps(Family::of(address), bits, bits)
    }

    pub fn overlaps(&self, family: Family, first: u128, last: u128) -> bool {
        family == self.family() && self.first <= last && first <= self.last
    }

    pub fn is_gateway(&self, bits: u128) -> bool {
        self.gateway.is_some_and(|gateway| addr_to_bits(gateway) == bits)
    }

    /// How many addresses it can give.
    pub fn capacity(&self) -> u128 {
        let gateway = self.gateway.is_some_and(|gateway| self.contains(gateway));
        (self.last - self.first).saturating_add(1) - u128::from(gateway)
    }

    /// `10.1.2.9-10.1.2.20`.
    pub fn text(&self) -> String {
        let text = |bits| addr_from_bits(self.family(), bits).map(|address| address.to_string()).unwrap_or_default();
        format!("{}-{}", text(self.first), text(self.last))
    }
}

/// The first and last address that a subnet gives unless told otherwise.
fn ends(subnet: &Cidr) -> (u128, u128) {
    let (first, last) = (subnet.first(), subnet.last());
    match subnet.family() {
        _ if subnet.size() < SMALLEST_WITH_ENDS => (first, last),
        Family::V4 => (first + 1, last - 1),
        Family::V6 => (first + 1, last),
    }
}

fn within(key: &str, text: &str, subnet: &Cidr) -> Result<u128, Failure> {
    let found = address(key, text, subnet)?;
    if subnet.contains_addr(found) {
        return Ok(addr_to_bits(found));
    }
    Err(refused(format!("{key} {found} is not in subnet {subnet}"), "choose an address of the subnet, or leave it out"))
}

fn address(key: &str, text: &str, subnet: &Cidr) -> Result<IpAddr, Failure> {
    let parsed: Option<IpAddr> = text.parse().ok();
    parsed.filter(|address| Family::of(*address) == subnet.family()).ok_or_else(|| {
        let msg = format!("{key} {text:?} of subnet {subnet} is not an {} address", subnet.family());
        refused(msg, "write an address without prefix length")
    })
}

fn refused(msg: String, details: &str) -> Failure {
    Failure { code: code::BAD_CONFIG, msg, details: details.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> cadastre_messages::Range {
        let mut parts = text.split(' ');
        let subnet = parts.next().unwrap().to_owned();
        let mut value = |key: &str| {
            let found = text.split(' ').find_map(|part| part.strip_prefix(key)).map(str::to_owned);
            parts.next();
            found
        };
        cadastre_messages::Range {
            subnet,
            range_start: value("start="),
            range_end: value("end="),
            gateway: value("gw="),
        }
    }

    fn parse(sets: &[&[&str]]) -> Result<Ranges, String> {
        let sets = sets.iter().map(|set| set.iter().map(|text| range(text)).collect()).collect();
        Ranges::parse(&Local { sets }).map_err(|failure| {
            assert!(failure.code == code::BAD_CONFIG && !failure.details.is_empty());
            failure.msg
        })
    }

    #[test]
    fn r1_r2_r3_r10_a_subnet_says_what_it_gives() {
        let table = [
            ("192.168.0.0/24", "192.168.0.1-192.168.0.254", Some("192.168.0.1"), 253),
            ("192.168.127.0/25", "192.168.127.1-192.168.127.126", Some("192.168.127.1"), 125),
            ("10.0.0.0/30", "10.0.0.1-10.0.0.2", Some("10.0.0.1"), 1),
            ("fd00::/126", "fd00::1-fd00::3", Some("fd00::1"), 2),
            ("10.0.0.0/24 start=10.0.0.9 end=10.0.0.20 gw=10.0.0.9", "10.0.0.9-10.0.0.20", Some("10.0.0.9"), 11),
            ("10.0.0.0/24 start=10.0.0.9 gw=10.9.9.9", "10.0.0.9-10.0.0.254", Some("10.9.9.9"), 246),
            ("10.0.0.0/24 start=10.0.0.0 end=10.0.0.255", "10.0.0.1-10.0.0.254", Some("10.0.0.1"), 253),
        ];
        for (text, given, gateway, capacity) in table {
            let ranges = parse(&[&[text]]).unwrap();
            let range = ranges.all().next().unwrap();
            assert_eq!(range.text(), given, "{text}");
            assert_eq!(range.gateway.map(|gateway| gateway.to_string()).as_deref(), gateway, "{text}");
            assert_eq!(range.capacity(), capacity, "{text}");
        }
        let wide = parse(&[&["::/0 start=::2"]]).unwrap();
        assert_eq!(wide.all().next().unwrap().capacity(), u128::MAX - 1);
    }

    #[test]
    fn r8_the_smallest_subnets_give_all_they_have() {
        for (text, given) in [
            ("10.0.0.4/31", "10.0.0.4-10.0.0.5"),
            ("10.0.0.4/32", "10.0.0.4-10.0.0.4"),
            ("fd00::4/127", "fd00::4-fd00::5"),
            ("fd00::4/128", "fd00::4-fd00::4"),
        ] {
            let ranges = parse(&[&[text]]).unwrap();
            let range = ranges.all().next().unwrap();
            assert_eq!((range.text().as_str(), range.gateway), (given, None));
        }
        let with_gateway = parse(&[&["10.0.0.4/31 gw=10.0.0.4"]]).unwrap();
        assert_eq!(with_gateway.all().next().unwrap().capacity(), 1);
    }

    #[test]
    fn r4_r5_r6_r7_r9_what_makes_no_sense_is_named() {
        let table: [(&[&[&str]], &str); 13] = [
            (&[], "ipam.ranges has no range, an empty set, or more than 256 ranges"),
            (&[&[]], "ipam.ranges has no range, an empty set, or more than 256 ranges"),
            (&[&["10.0.0.1/24"]], "subnet \"10.0.0.1/24\" is not a CIDR"),
            (&[&["::1/64"]], "subnet \"::1/64\" is not a CIDR"),
            (&[&["192.168.0.0/255"]], "subnet \"192.168.0.0/255\" is not a CIDR"),
            (&[&["10.0.0.0"]], "subnet \"10.0.0.0\" is not a CIDR"),
            (&[&["10.0.0.0/24 start=10.0.1.1"]], "rangeStart 10.0.1.1 is not in subnet 10.0.0.0/24"),
            (&[&["10.0.0.0/24 end=10.0.1.1"]], "rangeEnd 10.0.1.1 is not in subnet 10.0.0.0/24"),
            (&[&["10.0.0.0/24 start=fd00::1"]], "rangeStart \"fd00::1\" of subnet 10.0.0.0/24 is not an IPv4 address"),
            (&[&["10.0.0.0/24 gw=x"]], "gateway \"x\" of subnet 10.0.0.0/24 is not an IPv4 address"),
            (&[&["10.0.0.0/24 start=10.0.0.9 end=10.0.0.8"]], "the range of subnet 10.0.0.0/24 ends before it starts"),
            (&[&["10.0.0.0/24", "fd00::/64"]], "ipam.ranges[0] mixes IPv4 with fd00::/64"),
            (&[&["10.0.0.0/24"], &["fd00::/64", "10.1.0.0/24"]], "ipam.ranges[1] mixes IPv6 with 10.1.0.0/24"),
        ];
        for (sets, message) in table {
            let said = parse(sets).unwrap_err();
            assert!(said.starts_with(message), "{said}");
        }
    }

    #[test]
    fn c8_c9_r13_ranges_are_disjoint_by_what_they_give() {
        for sets in [
            [["10.0.0.0/24"].as_slice(), &["10.0.1.0/24"]],
            [&["10.0.0.0/24"], &["fd00::/64"]],
            [&["10.0.0.0/24 end=10.0.0.9", "10.0.0.0/24 start=10.0.0.10"], &["10.0.9.0/24"]],
            [&["10.0.0.0/16 end=10.0.0.254"], &["10.0.1.0/24"]],
        ] {
            assert!(parse(&sets).is_ok(), "{sets:?}");
        }
        for sets in [
            [["10.0.0.0/24"].as_slice(), &["10.0.0.0/24"]],
            [&["10.0.0.0/24", "10.0.0.0/20"], &["10.9.0.0/24"]],
            [&["10.0.0.0/24 end=10.0.0.9", "10.0.0.0/24 start=10.0.0.9"], &["10.9.0.0/24"]],
            [&["fd00::/64"], &["fd00::/32"]],
        ] {
            assert!(parse(&sets).unwrap_err().ends_with("overlap"), "{sets:?}");
        }
    }

    #[test]
    fn r11_r12_membership() {
        let ranges = parse(&[&["10.0.0.0/24 start=10.0.0.9 end=10.0.0.20", "10.0.1.0/24"], &["fd00::/64"]]).unwrap();
        let subnet = |text: &str| ranges.of(text.parse().unwrap()).map(|range| range.subnet.to_string());
        assert_eq!(subnet("10.0.0.9").as_deref(), Some("10.0.0.0/24"));
        assert_eq!(subnet("10.0.0.21").as_deref(), Some("10.0.0.0/24"), "of before, when the range was larger");
        assert_eq!(subnet("fd00::ff").as_deref(), Some("fd00::/64"));
        assert_eq!(subnet("10.0.2.1"), None);
        let first = &ranges.sets[0].ranges[0];
        assert!(first.contains("10.0.0.20".parse().unwrap()) && !first.contains("10.0.0.21".parse().unwrap()));
        assert!(!first.contains("::a00:9".parse().unwrap()), "the same number, another family");
    }
}
