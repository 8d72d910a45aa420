//! Networks with ranges of their own, addresses that are asked for by name, and what host-local had reserved.

use cadastre_messages::{LastReserved, Netns, Reservation, TakeOver};

use super::fixtures::*;
use crate::boot_time::BootTime;
use crate::pools::{Input, Live, Pools};
use crate::record::Record;

const SET: &[&[&str]] = &[&["10.1.2.0/29"]];

/// Pools in which the network `net` is known.
fn known() -> Pools<Live> {
    let mut pools = live(&["10.0.2.0/29"]);
    assert_eq!(ask(&mut pools, at(0), "t", nothing_before()), "ok");
    pools
}

fn give(pools: &mut Pools<Live>, second: u64, name: &str, sets: &[&[&str]]) -> String {
    ask(pools, at(second), name, local_add(name, sets))
}

#[test]
fn l1_one_address_of_each_set_with_mask_and_gateway() {
    let mut pools = known();
    let sets: &[&[&str]] = &[&["10.1.2.0/24"], &["2001:db8:1::/64"]];
    assert_eq!(give(&mut pools, 1, "a", sets), "10.1.2.2/24 via 10.1.2.1, 2001:db8:1::2/64 via 2001:db8:1::1");
    assert_eq!(
        give(&mut pools, 1, "b", &[&["10.9.0.0/30"], &["10.8.0.0/31"]]),
        "10.9.0.2/30 via 10.9.0.1, 10.8.0.0/31"
    );
    assert_eq!(ask(&mut pools, at(2), "a", del("a")), "ok");
    assert_eq!(give(&mut pools, 3, "c", sets), "10.1.2.3/24 via 10.1.2.1, 2001:db8:1::3/64 via 2001:db8:1::1");
    assert_eq!(pools.view().networks.iter().map(|network| network.counts.allocated).collect::<Vec<_>>(), [3, 1]);
}

#[test]
fn l3_the_same_again_and_nothing_changes() {
    let mut pools = known();
    let first = give(&mut pools, 1, "a", SET);
    let again = step(&mut pools, at(2), [local_add("a", SET)]);
    assert_eq!(told(&again, "a"), first);
    assert!(matches!(again.records[..], [Record::Acked { .. }]));
    // The range was moved since: the address stays, and nothing is said that is not known any more.
    assert_eq!(give(&mut pools, 3, "a", &[&["10.7.0.0/24"]]), "10.1.2.2/32");
    assert_eq!(give(&mut pools, 3, "a", &[&["10.1.2.0/24 10.1.2.100-10.1.2.200"]]), "10.1.2.2/24 via 10.1.2.1");
}

#[test]
fn a1_a2_a3_a5_a11_a12_the_search_goes_on_behind_the_last_and_wraps_once() {
    let mut pools = known();
    let set: &[&[&str]] = &[&["10.1.2.0/29 10.1.2.2-10.1.2.3", "10.1.3.0/30", "10.1.2.0/29 10.1.2.5-10.1.2.6"]];
    let all = ["10.1.2.2/29 via 10.1.2.1", "10.1.2.3/29 via 10.1.2.1", "10.1.3.2/30 via 10.1.3.1"];
    for (name, expected) in ["a", "b", "c"].iter().zip(all) {
        assert_eq!(give(&mut pools, 1, name, set), expected);
    }
    for (name, expected) in [("d", "10.1.2.5/29 via 10.1.2.1"), ("e", "10.1.2.6/29 via 10.1.2.1"), ("f", "101")] {
        assert_eq!(give(&mut pools, 1, name, set), expected);
    }
    for name in ["b", "e"] {
        ask(&mut pools, at(2), name, del(name));
    }
    assert_eq!(give(&mut pools, 40, "g", set), "10.1.2.3/29 via 10.1.2.1", "behind .6 comes the first range again");
    assert_eq!(give(&mut pools, 40, "h", set), "10.1.2.6/29 via 10.1.2.1");
}

#[test]
fn a10_exhaustion_names_network_ranges_and_counts_and_costs_the_other_set_nothing() {
    let mut pools = known();
    let sets: &[&[&str]] = &[&["10.1.2.0/24"], &["fd00::/127"]];
    for name in ["a", "b"] {
        assert!(give(&mut pools, 1, name, sets).starts_with("10.1.2."));
    }
    let before = pools.view();
    let refused = step(&mut pools, at(1), [local_add("c", sets)]);
    assert_eq!(told(&refused, "c"), "101");
    assert_eq!(
        why(&refused, "c"),
        "network net is exhausted: no IPv6 address of fd00::-fd00::1 is free; 2 are held, 0 cooling"
    );
    assert!(refused.records.is_empty());
    assert_eq!(pools.view(), before);
    assert_eq!(ask(&mut pools, at(1), "s", ask_status(Some(local(sets)))), "50");
    ask(&mut pools, at(2), "a", del("a"));
    assert_eq!(ask(&mut pools, at(2), "s", ask_status(Some(local(sets)))), "ok", "what cools can be had");
    assert!(give(&mut pools, 3, "c", sets).contains("fd00::/127"));
    assert_eq!(pools.view().networks.iter().map(|network| network.yielded).sum::<u64>(), 1);
}

#[test]
fn released_addresses_rest_also_across_a_restart() {
    let mut pools = known();
    let set: &[&[&str]] = &[&["10.1.2.0/29 10.1.2.2-10.1.2.4"]];
    for name in ["a", "b"] {
        give(&mut pools, 1, name, set);
    }
    ask(&mut pools, at(2), "a", del("a"));
    let mut pools = restored(pools.snapshot(), at(3));
    assert_eq!(give(&mut pools, 3, "c", set), "10.1.2.4/29 via 10.1.2.1", "behind the last, not the one that rests");
    assert_eq!(give(&mut pools, 31, "d", set), "10.1.2.2/29 via 10.1.2.1", "nothing else is free");
}

#[test]
fn l8_l9_l10_l11_c13_a6_a7_addresses_that_are_asked_for() {
    let mut pools = known();
    let sets: &[&[&str]] = &[&["10.1.2.0/29"], &["10.1.3.0/29"], &["fd00::/64"]];
    let asks = |name: &str, asked: &[&str]| {
        let asked = asked.iter().map(ToString::to_string).collect();
        changed(local_add(name, sets), |add| add.asked = asked)
    };
    let mut ask_for = |name: &str, asked: &[&str]| {
        let before = pools.view();
        let step = step(&mut pools, at(1), [asks(name, asked)]);
        let said = told(&step, name);
        assert!(
            said.contains(" via ") || (step.records.is_empty() && pools.view() == before),
            "nothing stays reserved"
        );
        (said, why(&step, name))
    };
    let given = "10.1.2.5/29 via 10.1.2.1, 10.1.3.2/29 via 10.1.3.1, fd00::9/64 via fd00::1";
    assert_eq!(ask_for("a", &["fd00::9", "10.1.2.5", "10.1.2.5"]).0, given);
    assert_eq!(ask_for("b", &[]).0, "10.1.2.6/29 via 10.1.2.1, 10.1.3.3/29 via 10.1.3.1, fd00::a/64 via fd00::1");
    let table = [
        (vec!["10.1.2.5"], "102", "10.1.2.5 of network net, which was asked for, is held by default/a"),
        (vec!["10.1.2.3", "10.9.9.9"], "103", "10.9.9.9, which was asked for, is of none of the ranges"),
        (vec!["10.1.2.3", "10.1.2.4"], "103", "10.1.2.4, which was asked for, is of none of the ranges"),
        (vec!["10.1.3.1"], "104", "10.1.3.1, which was asked for, is reserved in network net"),
        (vec!["ten"], "7", "\"ten\", which was asked for, is not an address"),
    ];
    for (asked, code, message) in table {
        let (said, msg) = ask_for("c", &asked);
        assert_eq!(said, code, "{asked:?}");
        assert!(msg.starts_with(message), "{msg}");
    }
}

#[test]
fn addresses_of_blocks_are_asked_for_by_name() {
    let mut pools = live(&["10.0.2.0/29", "fd00::/120"]);
    assert_eq!(
        ask(&mut pools, at(1), "a", asking("a", &["10.0.2.5"])),
        "10.0.2.5/29 via 10.0.2.1, fd00::2/120 via fd00::1"
    );
    assert_eq!(
        ask(&mut pools, at(1), "a", asking("a", &["10.0.2.5"])),
        "10.0.2.5/29 via 10.0.2.1, fd00::2/120 via fd00::1"
    );
    assert_eq!(
        ask(&mut pools, at(1), "b", asking("b", &["fd00::77", "10.0.2.6"])),
        "10.0.2.6/29 via 10.0.2.1, fd00::77/120 via fd00::1"
    );
    for (asked, code, message) in [
        (vec!["10.0.2.5"], "102", "10.0.2.5 of pool default, which was asked for, is held by default/a"),
        (vec!["10.0.2.4", "fd00::77"], "102", "fd00::77 of pool default, which was asked for, is held by default/b"),
        (vec!["10.9.9.9"], "103", "10.9.9.9, which was asked for, is of none of the ranges that pool default has"),
        (vec!["10.0.2.1"], "104", "10.0.2.1, which was asked for, is reserved in pool default"),
        (vec!["10.0.2.0"], "104", "10.0.2.0, which was asked for, is reserved in pool default"),
        (vec!["10.0.2.3", "10.0.2.4"], "7", "10.0.2.3 and 10.0.2.4 were asked for, and an attachment gets one"),
    ] {
        let before = pools.view();
        let refused = step(&mut pools, at(1), [asking("c", &asked)]);
        assert_eq!(told(&refused, "c"), code, "{asked:?}");
        assert!(why(&refused, "c").starts_with(message), "{}", why(&refused, "c"));
        assert!(refused.records.is_empty() && pools.view() == before, "nothing stays reserved");
    }
    // A pod that comes back gets its address, though it still rests.
    ask(&mut pools, at(2), "a", del("a"));
    assert_eq!(
        ask(&mut pools, at(3), "a2", asking("a2", &["10.0.2.5"])),
        "10.0.2.5/29 via 10.0.2.1, fd00::78/120 via fd00::1"
    );
    step(&mut pools, at(3), [assigned(&["10.0.2.0/29 retiring", "fd00::/120"])]);
    assert_eq!(
        ask(&mut pools, at(4), "d", asking("d", &["10.0.2.3"])),
        "103",
        "nothing is given of a block that retires"
    );
}

#[test]
fn ranges_and_blocks_keep_out_of_each_others_way() {
    let mut pools = known();
    let refused = step(&mut pools, at(1), [local_add("a", &[&["10.0.0.0/16"]])]);
    assert_eq!(told(&refused, "a"), "7");
    assert_eq!(
        why(&refused, "a"),
        "the range 10.0.0.1-10.0.255.254 of network net overlaps block 10.0.2.0/29 of pool default, which this node holds"
    );
    assert_eq!(ask(&mut pools, at(1), "s", ask_status(Some(local(&[&["10.0.0.0/16"]])))), "50");
    assert_eq!(give(&mut pools, 1, "a", &[&["10.0.0.0/16 10.0.3.1-10.0.3.9"]]), "10.0.3.1/16 via 10.0.0.1");
    let assigned = step(&mut pools, at(2), [assigned(&["10.0.2.0/29", "10.0.3.0/29"])]);
    assert_eq!(
        assigned.problems.unwrap(),
        [
            "block 10.0.3.0/29 of pool default is not used: network net, which has ranges of its own, uses addresses of it"
        ]
    );
}

fn reservation(name: &str, address: &str) -> Reservation {
    let netns = Netns { path: format!("/run/netns/{name}"), device: 4, inode: 9 };
    Reservation { address: address.into(), attachment: attachment(name), netns, pod: None }
}

#[test]
fn what_host_local_reserved_is_asked_for_once_and_kept() {
    let mut pools = live(&[]);
    assert_eq!(give(&mut pools, 1, "new", SET), "take over");
    assert!(pools.held() == 0);
    let first = TakeOver {
        network: "net".into(),
        reservations: vec![reservation("a", "10.1.2.2"), reservation("a", "fd00::2"), reservation("b", "10.1.2.4")],
        last: vec![LastReserved { set: 0, address: "10.1.2.4".into() }],
        done: false,
    };
    assert_eq!(ask(&mut pools, at(1), "t", take_over(first.clone())), "ok");
    assert_eq!(give(&mut pools, 1, "new", SET), "take over", "there is more");
    let rest = TakeOver { reservations: vec![reservation("c", "10.1.2.4")], done: true, ..first.clone() };
    assert_eq!(ask(&mut pools, at(1), "t", take_over(rest)), "ok");
    assert_eq!(pools.held(), 2, "nobody gets what another has");
    assert_eq!(give(&mut pools, 1, "new", SET), "10.1.2.5/29 via 10.1.2.1", "behind the last of host-local");
    assert_eq!(give(&mut pools, 1, "a", SET), "10.1.2.2/29 via 10.1.2.1, fd00::2/128", "as before");
    let mut again = restored(pools.snapshot(), at(2));
    assert_eq!(again.addresses(), pools.addresses());
    for pools in [&mut pools, &mut again] {
        assert_eq!(give(pools, 2, "more", SET), "10.1.2.6/29 via 10.1.2.1");
        ask(pools, at(3), "b", del("b"));
        assert_eq!(ask(pools, at(4), "t", take_over(first.clone())), "ok");
        assert_eq!(pools.held(), 3, "its files are old news by now");
    }
}

#[test]
fn what_ended_while_it_was_being_told_is_not_taken_over() {
    let mut pools = live(&[]);
    assert_eq!(give(&mut pools, 1, "new", SET), "take over");
    ask(&mut pools, at(1), "ended", del("ended"));
    let reservations = vec![reservation("ended", "10.1.2.2"), reservation("lives", "10.1.2.4")];
    let all = TakeOver { network: "net".into(), reservations, last: vec![], done: true };
    assert_eq!(ask(&mut pools, at(2), "t", take_over(all)), "ok");
    assert_eq!(pools.held(), 1, "only what lives");
}

#[test]
fn of_two_reservations_of_one_address_the_first_is_believed_however_they_write_it() {
    let mut pools = live(&["10.0.2.0/29"]);
    let reservations = vec![
        reservation("a", "fd00::2"),
        reservation("b", "FD00:0::2"),
        reservation("c", "10.0.2.2"),
        reservation("d", "10.0.2.2"),
    ];
    let all = TakeOver { network: "net".into(), reservations, last: vec![], done: true };
    assert_eq!(ask(&mut pools, at(1), "t", take_over(all)), "ok");
    assert_eq!(pools.held(), 2);
    assert_eq!(restored(pools.snapshot(), at(2)).addresses(), pools.addresses());
}

#[test]
fn what_could_not_be_recorded_was_not_taken_over() {
    let mut pools = live(&[]);
    let all =
        TakeOver { network: "net".into(), reservations: vec![reservation("a", "10.1.2.2")], last: vec![], done: true };
    let mut step = pools.apply(at(1), [take_over(all.clone())]);
    assert!(pools.undo(&mut step, "disk full").is_empty());
    pools.check().unwrap();
    assert_eq!((told(&step, "t").as_str(), pools.held()), ("11", 0));
    assert_eq!(give(&mut pools, 1, "new", SET), "take over");
    assert_eq!(ask(&mut pools, at(1), "t", take_over(all)), "ok");
    assert_eq!(give(&mut pools, 1, "new", SET), "10.1.2.3/29 via 10.1.2.1");
}

#[test]
fn two_networks_with_the_same_ranges_are_apart() {
    let mut pools = known();
    let other = |input: Input| changed(input, |add| add.attachment.network = "other".into());
    assert_eq!(give(&mut pools, 1, "a", SET), "10.1.2.2/29 via 10.1.2.1");
    let known = TakeOver { network: "other".into(), reservations: vec![], last: vec![], done: true };
    ask(&mut pools, at(1), "t", take_over(known));
    assert_eq!(ask(&mut pools, at(1), "a", other(local_add("a", SET))), "10.1.2.2/29 via 10.1.2.1");
    assert_eq!(ask(&mut pools, BootTime::from_millis(1_500), "a", del("a")), "ok");
    assert_eq!(pools.held(), 1);
}

#[test]
fn a_line_about_reservations_that_could_not_be_written_is_not_ok() {
    let mut pools = live(&[]);
    let line = |address: &str, done: bool| TakeOver {
        network: "net".into(),
        reservations: vec![reservation(address, address)],
        last: vec![LastReserved { set: 0, address: address.into() }],
        done,
    };
    let mut step = pools.apply(at(1), [take_over(line("10.1.2.2", false))]);
    assert!(pools.undo(&mut step, "disk full").is_empty(), "nothing piles up while it is told again and again");
    assert_eq!((told(&step, "t").as_str(), pools.held()), ("11", 0));
}

#[test]
fn what_host_local_reserved_in_a_block_is_kept_from_its_pods() {
    let mut pools = live(&["10.0.2.0/29"]);
    assert_eq!(ask(&mut pools, at(1), "a", add("a")), "10.0.2.2/29 via 10.0.2.1");
    let reservations = vec![reservation("b", "10.0.2.2"), reservation("c", "10.0.2.3"), reservation("d", "10.1.2.2")];
    let all = TakeOver { network: "net".into(), reservations, last: vec![], done: true };
    assert_eq!(ask(&mut pools, at(1), "t", take_over(all)), "ok");
    assert_eq!(pools.held(), 3, "a pod of the block has the first");
    assert_eq!(ask(&mut pools, at(2), "e", add("e")), "10.0.2.4/29 via 10.0.2.1");
    let again = step(&mut pools, at(3), [assignment(&["10.0.2.0/29"], 2)]);
    assert_eq!(again.problems.unwrap(), Vec::<String>::new());
    assert_eq!(restored(pools.snapshot(), at(4)).addresses(), pools.addresses());
}

#[test]
fn a_block_that_could_not_be_used_is_used_once_it_can_also_by_a_replay() {
    let mut pools = known();
    let ranges: &[&[&str]] = &[&["10.0.3.0/24"]];
    assert_eq!(give(&mut pools, 1, "a", ranges), "10.0.3.2/24 via 10.0.3.1");
    let mut journal: Vec<Record> = pools.snapshot().collect();
    let blocks = &["10.0.2.0/29", "10.0.3.0/29"];
    let refused = step(&mut pools, at(2), [assignment(blocks, 2)]);
    assert_eq!(refused.problems.as_ref().map(Vec::len), Some(1));
    journal.extend(refused.records);
    journal.extend(step(&mut pools, at(3), [del("a")]).records);
    assert!(step(&mut pools, at(4), [Input::Pass]).problems.is_none(), "it still rests");
    let used = step(&mut pools, at(34), [Input::Pass]);
    assert_eq!(used.problems, Some(vec![]));
    journal.extend(used.records);
    let given: Vec<Record> = (0..8).flat_map(|n| step(&mut pools, at(35), [add(&n.to_string())]).records).collect();
    assert_eq!(given.len(), 8, "of both blocks");
    journal.extend(given);
    assert_eq!(restored(journal, at(36)).addresses(), pools.addresses());
}
