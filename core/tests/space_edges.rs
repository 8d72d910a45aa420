//! `Space` where the arithmetic ends: the smallest and the largest CIDRs, the last block, millions of steps; and what it
//! says when it refuses.
#![allow(clippy::unwrap_used, reason = "a test")]

use cadastre_core::{AddrRange, Cidr, Counts, Family, Space};

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn range(text: &str) -> AddrRange {
    text.parse().unwrap()
}

fn space(unit: u8, cidrs: &[&str]) -> Space {
    let mut space = Space::new(cidr(cidrs[0]).family(), unit);
    for text in cidrs {
        space.add_cidr(cidr(text)).unwrap();
    }
    space
}

/// What `take_next` gives, until it gives nothing or `most`.
fn take(space: &mut Space, most: usize) -> Vec<String> {
    std::iter::from_fn(|| space.take_next()).take(most).map(|unit| unit.to_string()).collect()
}

#[test]
fn gives_all_of_the_smallest_and_starts_with_the_largest() {
    let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128";
    // CIDR, unit, total, the first few units
    let cases: [(&str, u8, u128, &[&str]); 13] = [
        ("10.0.0.7/32", 32, 1, &["10.0.0.7/32"]),
        ("10.0.0.6/31", 32, 2, &["10.0.0.6/32", "10.0.0.7/32"]),
        ("10.0.0.6/31", 31, 1, &["10.0.0.6/31"]),
        ("255.255.255.255/32", 32, 1, &["255.255.255.255/32"]),
        ("255.255.255.0/24", 25, 2, &["255.255.255.0/25", "255.255.255.128/25"]),
        ("10.0.0.0/8", 24, 1 << 16, &["10.0.0.0/24", "10.0.1.0/24"]),
        ("0.0.0.0/0", 0, 1, &["0.0.0.0/0"]),
        ("0.0.0.0/0", 32, 1 << 32, &["0.0.0.0/32", "0.0.0.1/32"]),
        (last, 128, 1, &[last]),
        ("fd00::/127", 128, 2, &["fd00::/128", "fd00::1/128"]),
        ("fd00::/48", 128, 1 << 80, &["fd00::/128", "fd00::1/128"]),
        ("::/0", 0, 1, &["::/0"]),
        ("::/0", 128, u128::MAX, &["::/128", "::1/128"]),
    ];
    for (text, unit, total, units) in cases {
        let mut space = space(unit, &[text]);
        assert_eq!(space.counts(), Counts { total, taken: 0, reserved: 0, free: total }, "{text} by /{unit}");
        assert_eq!(take(&mut space, 2), units, "{text} by /{unit}");
        let taken = units.len() as u128;
        assert_eq!(space.counts(), Counts { total, taken, reserved: 0, free: total - taken }, "{text} by /{unit}");
        for unit in units {
            space.give_back(&cidr(unit)).unwrap();
        }
        assert_eq!(space.counts(), Counts { total, taken: 0, reserved: 0, free: total }, "{text} by /{unit}");
    }
}

#[test]
fn wraps_at_the_last_block_of_the_address_space() {
    let cases = [
        ("0.0.0.0/0", 24, "255.255.254.0/24", ["255.255.255.0/24", "0.0.0.0/24"]),
        ("::/0", 64, "ffff:ffff:ffff:fffe::/64", ["ffff:ffff:ffff:ffff::/64", "::/64"]),
        // 2^128 units do not fit a count: this one CIDR does without its last address.
        (
            "::/0",
            128,
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffd/128",
            ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/128", "::/128"],
        ),
        ("::/0", 128, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", ["::/128", "::1/128"]),
    ];
    for (text, unit, cursor, next) in cases {
        let mut space = space(unit, &[text]);
        space.set_cursor(Some(cidr(cursor)));
        assert_eq!(take(&mut space, 2), next, "{text} by /{unit} behind {cursor}");
    }
}

#[test]
fn all_of_ipv6_can_be_reserved_and_claimed() {
    let mut space = space(128, &["::/0"]);
    let total = u128::MAX;
    space.reserve(range("::/0")).unwrap();
    assert_eq!(space.counts(), Counts { total, taken: 0, reserved: total, free: 0 });
    assert_eq!(space.take_next(), None);
    space.claim(&cidr("fd00::/8")).unwrap();
    let taken = 1 << 120;
    assert_eq!(space.counts(), Counts { total, taken, reserved: total - taken, free: 0 });
    space.unreserve(range("::/0")).unwrap();
    assert_eq!(space.counts(), Counts { total, taken, reserved: 0, free: total - taken });
    space.set_cursor(Some(cidr("fcff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/128")));
    assert_eq!(take(&mut space, 2), ["fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "fe00::/128"]);
    let taken: Vec<String> = space.taken().map(|cidr| cidr.to_string()).collect();
    assert_eq!(taken, ["fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "fe00::/128", "fd00::/8"]);
    space.give_back(&cidr("fd00::/8")).unwrap();
    assert_eq!(space.counts().taken, 2);
}

#[test]
fn goes_through_the_cidrs_in_their_order() {
    let mut space = space(25, &["10.9.0.0/24", "10.1.0.0/24"]);
    assert_eq!(take(&mut space, 3), ["10.9.0.0/25", "10.9.0.128/25", "10.1.0.0/25"]);
    space.add_cidr(cidr("10.5.0.0/25")).unwrap();
    space.give_back(&cidr("10.9.0.0/25")).unwrap();
    // What was just given back comes last.
    assert_eq!(take(&mut space, 9), ["10.1.0.128/25", "10.5.0.0/25", "10.9.0.0/25"]);
    assert_eq!(space.peek_after(None), None);
}

#[test]
fn a_reservation_outlives_what_is_taken_in_it() {
    let mut space = space(24, &["10.0.0.0/22"]);
    space.take(&cidr("10.0.1.0/24")).unwrap();
    space.reserve(range("10.0.1.7-10.0.2.0")).unwrap();
    assert_eq!(space.counts(), Counts { total: 4, taken: 1, reserved: 1, free: 2 });
    space.give_back(&cidr("10.0.1.0/24")).unwrap();
    assert_eq!(space.counts(), Counts { total: 4, taken: 0, reserved: 2, free: 2 });
    assert_eq!(take(&mut space, 9), ["10.0.0.0/24", "10.0.3.0/24"]);
    // One unit is still touched by the rest of the reservation.
    space.unreserve(range("10.0.1.8-10.0.2.255")).unwrap();
    assert_eq!(space.reserved().collect::<Vec<_>>(), [range("10.0.1.7")]);
    assert_eq!(take(&mut space, 9), ["10.0.2.0/24"]);
}

#[test]
fn says_why_not_and_what_to_do() {
    let mut space = space(24, &["10.0.0.0/22"]);
    space.take(&cidr("10.0.0.0/24")).unwrap();
    space.claim(&cidr("10.0.1.64/26")).unwrap();
    space.reserve(range("10.0.2.7")).unwrap();
    let take = [
        ("10.0.0.0/24", "10.0.0.0/24 is taken; give 10.0.0.0/24 back first, or take another"),
        ("10.0.1.0/24", "10.0.1.64/26 is taken; give 10.0.1.64/26 back first, or take another"),
        ("10.0.2.0/24", "10.0.2.7 is reserved; remove the reservation, or take another"),
        ("10.0.4.0/24", "it lies in none of the CIDRs; add one that contains it, or take another"),
        ("10.0.0.0/23", "only /24 is given from here; take a /24"),
    ];
    for (asked, why) in take {
        let error = space.take(&cidr(asked)).unwrap_err().to_string();
        assert_eq!(error, format!("{asked} cannot be taken: {why}"));
    }
    let give_back = [
        ("10.0.3.0/24", "it is not taken; nothing has to be done"),
        ("10.0.2.0/24", "it is not taken; nothing has to be done"),
        ("10.0.0.0/25", "what is taken is 10.0.0.0/24; give back exactly that"),
        ("10.0.1.0/24", "what is taken is 10.0.1.64/26; give back exactly that"),
    ];
    for (asked, why) in give_back {
        let error = space.give_back(&cidr(asked)).unwrap_err().to_string();
        assert_eq!(error, format!("{asked} cannot be given back: {why}"));
    }
    let add = [
        ("10.0.2.0/23", "it overlaps 10.0.0.0/22; use CIDRs that are disjoint"),
        ("10.1.0.0/25", "no /24 fits in it; use a CIDR of /24 or larger, or a longer mask size"),
    ];
    for (asked, why) in add {
        let error = space.add_cidr(cidr(asked)).unwrap_err().to_string();
        assert_eq!(error, format!("{asked} cannot be added: {why}"));
    }
    let remove = [
        ("10.0.0.0/22", "10.0.1.64/26 in it is taken; wait until all of it is given back"),
        ("10.0.0.0/23", "it is not in the list; name a CIDR as it was added"),
    ];
    for (asked, why) in remove {
        let error = space.remove_cidr(&cidr(asked)).unwrap_err().to_string();
        assert_eq!(error, format!("{asked} cannot be removed: {why}"));
    }
}

#[test]
fn keeps_the_families_apart() {
    let mut space = space(24, &["10.0.0.0/22"]);
    let other = cidr("fd00::/24");
    let error = "fd00::/24 is IPv6, but this space holds IPv4 addresses; ask the IPv6 one";
    assert_eq!(space.take(&other).unwrap_err().to_string(), error);
    assert_eq!(space.claim(&other).unwrap_err().to_string(), error);
    assert_eq!(space.give_back(&other).unwrap_err().to_string(), error);
    assert_eq!(space.add_cidr(other).unwrap_err().to_string(), error);
    assert_eq!(space.remove_cidr(&other).unwrap_err().to_string(), error);
    assert_eq!(space.reserve(other.into()).unwrap_err().to_string(), error);
    assert_eq!(space.unreserve(other.into()).unwrap_err().to_string(), error);
    assert!(!space.is_free(&other));
    // The same bits in the other family: no cursor here.
    space.set_cursor(Some(cidr("::a00:0/120")));
    assert_eq!(take(&mut space, 1), ["10.0.0.0/24"]);
}

#[test]
fn a_unit_longer_than_an_address_is_refused_with_the_first_cidr() {
    let mut space = Space::new(Family::V4, 33);
    assert!(space.add_cidr(cidr("10.0.0.0/8")).is_err());
    assert_eq!((space.take_next(), space.counts()), (None, Counts::default()));
}

#[test]
fn a_million_steps_leave_no_trace() {
    let mut space = space(64, &["fd00::/48"]);
    let pool = cidr("fd00::/48");
    let mut seed = 1_u64;
    for _ in 0..1_000_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = pool.nth_block(64, u128::from(seed >> 48)).unwrap();
        if space.take(&unit).is_err() {
            space.give_back(&unit).unwrap();
        }
    }
    let Counts { total, taken, reserved, free } = space.counts();
    assert_eq!((total, reserved, taken + free), (1 << 16, 0, 1 << 16));
    assert_eq!(space.taken().count() as u128, taken);
    assert_eq!(take(&mut space, 1 << 17).len() as u128, free);
}
