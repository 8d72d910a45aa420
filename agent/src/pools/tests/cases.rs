//! Each verb and each rule once.

use std::collections::BTreeSet;

use cadastre_messages::Failure;
use cadastre_messages::explain::Finding;

use super::fixtures::*;
use crate::pools::{Answer, Assignment, Holder, Input, Live, Pools, Restoring, Token};
use crate::record::{BlockState, NetnsRecord, Record};
use crate::survey::{Attached, Stray, Survey};

#[test]
fn an_add_gets_an_address_of_each_assigned_family_and_the_same_again() {
    let mut pools = live(&["10.0.2.0/24", "fd00::/120"]);
    assert_eq!(ask(&mut pools, at(1), "a", add("a")), "10.0.2.2/24 via 10.0.2.1, fd00::2/120 via fd00::1");
    assert_eq!(ask(&mut pools, at(1), "b", add("b")), "10.0.2.3/24 via 10.0.2.1, fd00::3/120 via fd00::1");
    let again = step(&mut pools, at(2), [add("a")]);
    assert_eq!(told(&again, "a"), "10.0.2.2/24 via 10.0.2.1, fd00::2/120 via fd00::1");
    assert!(matches!(again.records[..], [Record::Acked { netns: None, .. }]));
}

#[test]
fn small_blocks_give_all_of_their_addresses() {
    for (block, expected) in [
        ("10.0.2.0/30", vec!["10.0.2.0/30", "10.0.2.1/30", "10.0.2.2/30", "10.0.2.3/30", "101"]),
        ("10.0.2.4/31", vec!["10.0.2.4/31", "10.0.2.5/31", "101"]),
        ("10.0.2.9/32", vec!["10.0.2.9/32", "101"]),
        ("fd00::/127", vec!["fd00::/127", "fd00::1/127", "101"]),
        (
            "10.0.2.0/29",
            vec![
                "10.0.2.2/29 via 10.0.2.1",
                "10.0.2.3/29 via 10.0.2.1",
                "10.0.2.4/29 via 10.0.2.1",
                "10.0.2.5/29 via 10.0.2.1",
                "10.0.2.6/29 via 10.0.2.1",
                "101",
            ],
        ),
    ] {
        let mut pools = live(&[block]);
        let given: Vec<String> =
            (0..expected.len()).map(|n| ask(&mut pools, at(1), &n.to_string(), add(&n.to_string()))).collect();
        assert_eq!(given, expected, "{block}");
    }
}

#[test]
fn what_was_released_rests_and_yields_only_when_nothing_else_is_free() {
    let mut pools = live(&["10.0.2.0/30"]);
    for name in ["a", "b", "c"] {
        ask(&mut pools, at(1), name, add(name));
    }
    assert_eq!(ask(&mut pools, at(2), "b", del("b")), "ok");
    assert_eq!(ask(&mut pools, at(3), "a", del("a")), "ok");
    assert_eq!(ask(&mut pools, at(4), "d", add("d")), "10.0.2.3/30", "the free one");
    assert_eq!(ask(&mut pools, at(5), "e", add("e")), "10.0.2.1/30", "the one that has rested longest");
    assert_eq!(pools.view().shares[0].yielded, 1);
    assert_eq!(ask(&mut pools, at(5), "c", del("c")), "ok");
    assert_eq!(ask(&mut pools, at(35), "f", add("f")), "10.0.2.2/30", "next behind the cursor, both having rested");
    assert_eq!(pools.view().shares[0].yielded, 1);
}

#[test]
fn exhaustion_names_pool_counts_and_remedy_and_costs_the_other_family_nothing() {
    let mut pools = live(&["10.0.2.0/24", "fd00::/127"]);
    ask(&mut pools, at(1), "a", add("a"));
    ask(&mut pools, at(1), "b", add("b"));
    let before = pools.view();
    let refused = step(&mut pools, at(1), [add("c")]);
    assert_eq!(told(&refused, "c"), "101");
    assert_eq!(
        why(&refused, "c"),
        "pool default is exhausted on node n1: 2 of 2 IPv6 addresses of fd00::/127 are held, 0 cooling"
    );
    assert!(refused.records.is_empty());
    assert_eq!(pools.view(), before);
    assert_eq!(ask(&mut pools, at(1), "s", ask_status(None)), "50");
    ask(&mut pools, at(2), "a", del("a"));
    assert_eq!(ask(&mut pools, at(2), "s", ask_status(None)), "ok");
}

#[test]
fn an_add_waits_for_the_assignment_and_no_longer_than_it_may() {
    let mut pools = live(&[]);
    assert_eq!(ask(&mut pools, at(1), "s", ask_status(None)), "50");
    for (second, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        assert_eq!(ask(&mut pools, at(second), name, add(name)), "waits");
    }
    assert_eq!(pools.next_deadline(), Some(at(11)));
    let late = step(&mut pools, at(11), []);
    assert_eq!(told(&late, "a"), "11");
    assert_eq!(why(&late, "a"), "node n1 has no block assigned: pool default has no free block");
    let cancelled = step(&mut pools, at(11), [del("b")]);
    assert!(cancelled.replies.iter().any(|(_, answer)| matches!(answer, Answer::Failed(Failure { code: 11, .. }))));
    step(&mut pools, at(11), [Input::PeerGone(token("c"))]);
    let served = step(&mut pools, at(12), [assigned(&["10.0.2.0/29"])]);
    assert_eq!(told(&served, "d"), "10.0.2.2/29 via 10.0.2.1");
    assert_eq!(served.replies.len(), 1, "nobody reads the others");
    assert_eq!(pools.next_deadline(), None);
}

#[test]
fn without_an_ipamnode_nothing_is_given_and_everything_stays() {
    let mut pools = live(&["10.0.2.0/29"]);
    ask(&mut pools, at(1), "a", add("a"));
    step(&mut pools, at(2), [gone()]);
    assert_eq!(ask(&mut pools, at(2), "a", add("a")), "10.0.2.2/29 via 10.0.2.1");
    assert_eq!(ask(&mut pools, at(2), "b", add("b")), "waits");
    let late = step(&mut pools, at(12), []);
    assert_eq!(why(&late, "b"), "node n1 has no address to give: it was deleted");
    assert_eq!(ask(&mut pools, at(13), "a", del("a")), "ok");
    step(&mut pools, at(43), [Input::Pass]);
    assert!(pools.view().shares.is_empty(), "nothing is left of the block");
}

#[test]
fn check_compares_what_is_held_with_what_is_listed() {
    let mut pools = live(&["10.0.2.0/29", "fd00::/120"]);
    ask(&mut pools, at(1), "a", add("a"));
    ask(&mut pools, at(1), "b", add("b"));
    for (listed, expected) in [
        (vec!["10.0.2.2", "fd00::2"], "ok"),
        (vec!["fd00:0::2", "10.0.2.2", "192.168.9.9"], "ok"),
        (vec!["10.0.2.2"], "105"),
        (vec!["10.0.2.2", "fd00::2", "10.0.2.3"], "105"),
        (vec!["10.0.2.3", "fd00::3"], "105"),
        (vec![], "105"),
    ] {
        assert_eq!(ask(&mut pools, at(1), "a", check("a", &listed)), expected, "{listed:?}");
    }
    assert_eq!(ask(&mut pools, at(1), "x", check("x", &["10.0.2.2"])), "105");
}

#[test]
fn a_block_that_retires_is_promised_once_it_is_empty_and_never_given_from_again() {
    let mut pools = live(&["10.0.2.0/30", "10.0.3.0/30"]);
    ask(&mut pools, at(1), "a", add("a"));
    step(&mut pools, at(2), [assignment(&["10.0.2.0/30 retiring", "10.0.3.0/30"], 2)]);
    assert_eq!(ask(&mut pools, at(3), "b", add("b")), "10.0.3.0/30");
    assert_eq!(ask(&mut pools, at(4), "a", add("a")), "10.0.2.0/30", "what is held stays");
    ask(&mut pools, at(5), "a", del("a"));
    assert!(step(&mut pools, at(34), [Input::Pass]).records.is_empty(), "it still rests");
    let promised = step(&mut pools, at(35), [Input::Pass]);
    assert!(
        matches!(&promised.records[..], [Record::Blocks(blocks)] if blocks.blocks[0].state == BlockState::Promised)
    );
    step(&mut pools, at(36), [assignment(&["10.0.2.0/30", "10.0.3.0/30"], 3)]);
    let names = ["c", "d", "e", "f"];
    let given: Vec<String> = names.map(|name| ask(&mut pools, at(37), name, add(name))).to_vec();
    assert_eq!(given, ["10.0.3.1/30", "10.0.3.2/30", "10.0.3.3/30", "101"]);
}

#[test]
fn a_block_that_comes_back_under_another_grant_brings_its_addresses_along() {
    let mut pools = live(&["10.0.2.0/29"]);
    ask(&mut pools, at(1), "a", add("a"));
    ask(&mut pools, at(1), "b", add("b"));
    ask(&mut pools, at(2), "b", del("b"));
    step(&mut pools, at(3), [gone()]);
    let Input::Assigned(mut again) = assigned(&["10.0.2.0/29"]) else { unreachable!() };
    again.blocks = vec![block("10.0.2.0/29", 1)];
    step(&mut pools, at(4), [Input::Assigned(again)]);
    assert_eq!(ask(&mut pools, at(5), "a", add("a")), "10.0.2.2/29 via 10.0.2.1");
    assert_eq!(ask(&mut pools, at(5), "c", add("c")), "10.0.2.4/29 via 10.0.2.1", "b's still rests");
}

#[test]
fn blocks_that_clash_are_named_and_not_used() {
    let mut pools = live(&["10.0.2.0/24"]);
    let clash = step(&mut pools, at(1), [assignment(&["10.0.2.0/24", "10.0.2.128/25"], 2)]);
    let problems = clash.problems.unwrap();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("block 10.0.2.128/25 of pool default is not used: "), "{problems:?}");
    assert_eq!(ask(&mut pools, at(1), "a", add("a")), "10.0.2.2/24 via 10.0.2.1");
}

#[test]
fn a_lost_reply_undoes_a_new_allocation_and_never_a_repeated_one() {
    let mut pools = live(&["10.0.2.0/29"]);
    let holder = |step: &crate::pools::Step| match &step.replies[0].1 {
        Answer::Given { holder, .. } => holder.clone(),
        other => unreachable!("{other:?}"),
    };
    let a = holder(&step(&mut pools, at(1), [add("a")]));
    assert_eq!(step(&mut pools, at(1), [Input::Undelivered(a.clone())]).undelivered, 1);
    assert_eq!(pools.held(), 0);
    let a = holder(&step(&mut pools, at(1), [add("a")]));
    step(&mut pools, at(1), [add("a")]);
    assert_eq!(step(&mut pools, at(1), [Input::Undelivered(a.clone())]).undelivered, 0);
    let stale = Holder { id: crate::record::HoldId(a.id.0 - 1), ..a };
    assert_eq!(step(&mut pools, at(1), [Input::Reclaim(stale, netns("a"))]).by_proof, 0);
    assert_eq!(pools.held(), 1);
}

#[test]
fn a_tombstone_releases_only_what_was_acknowledged_before_it() {
    // Acknowledged at 100.019 s, which the plugin's clock shows as 100.01.
    let now = crate::boot_time::BootTime::from_millis(100_019);
    for (tombstone, held) in [(10_000, 1), (10_001, 0), (10_002, 0)] {
        let mut pools = live(&["10.0.2.0/29"]);
        step(&mut pools, at(50), [add("a")]);
        step(&mut pools, now, [add("a")]);
        let replayed = step(&mut pools, at(200), [Input::Tombstone { attachment: attachment("a"), at: tombstone }]);
        assert_eq!(pools.held(), held, "{tombstone}");
        assert_eq!(replayed.by_tombstone, 1 - held as u64);
    }
}

#[test]
fn gc_releases_the_listed_holders_only() {
    let mut pools = live(&["10.0.2.0/29"]);
    for name in ["a", "b"] {
        ask(&mut pools, at(1), name, add(name));
    }
    let unlisted = pools.holders(Some("net")).filter(|view| view.holder.attachment.container_id == "b");
    let gone: Vec<_> = unlisted.map(|view| (view.holder.clone(), view.netns().clone())).collect();
    let before = NetnsRecord { path: "/run/netns/before".into(), ..NetnsRecord::default() };
    let of_before = gone.iter().map(|(holder, _)| (holder.clone(), before.clone())).collect();
    assert_eq!(ask(&mut pools, at(2), "g", Input::Gc { token: token("g"), gone: of_before }), "ok");
    assert_eq!(pools.held(), 2, "told again meanwhile, with another namespace");
    assert_eq!(ask(&mut pools, at(2), "g", Input::Gc { token: token("g"), gone }), "ok");
    assert_eq!(pools.holders(None).map(|view| view.holder.attachment.container_id.clone()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(pools.holders(Some("other")).count(), 0);
}

#[test]
fn a_step_that_could_not_be_written_gives_nothing_and_releases_all_the_same() {
    let mut pools = live(&["10.0.2.0/29"]);
    ask(&mut pools, at(1), "a", add("a"));
    let before = pools.addresses();
    let mut failed = step(&mut pools, at(2), [add("b"), del("a"), add("c"), del("c"), add("b")]);
    let later = pools.undo(&mut failed, "disk full");
    pools.check().unwrap();
    assert_eq!(told(&failed, "b"), "11");
    let of_b = failed.replies.iter().filter(|(to, _)| *to == token("b"));
    assert!(of_b.clone().count() == 2 && of_b.clone().all(|(_, answer)| matches!(answer, Answer::Failed(_))));
    assert_eq!(told(&failed, "a"), "11", "it is done, and not recorded: the plugin leaves a tombstone");
    assert!(matches!(later[..], [Record::Released { id, .. }] if id.0 == 1), "{later:?}");
    assert_eq!(pools.held(), 0);
    assert_eq!(before.iter().filter(|row| row.state == "held").count(), 2, "router and a");
}

#[test]
fn addresses_are_listed_by_number_with_their_owners() {
    let mut pools = live(&["10.0.2.0/28", "fd00::/120"]);
    for n in 0..10 {
        ask(&mut pools, at(1), &format!("p{n}"), add(&format!("p{n}")));
    }
    ask(&mut pools, at(2), "p7", del("p7"));
    let rows = pools.addresses();
    let v4: Vec<_> =
        rows.iter().filter(|row| row.family == "IPv4").map(|row| (row.address.as_str(), row.owner.as_str())).collect();
    assert_eq!(v4[0], ("10.0.2.1", "router"));
    assert_eq!(v4[1], ("10.0.2.2", "default/p0"));
    assert_eq!(v4[8], ("10.0.2.9", ""));
    assert_eq!(rows.iter().find(|row| row.address == "10.0.2.9").unwrap().state, "cooling");
    assert_eq!(v4[10], ("10.0.2.11", "default/p9"));
    let counts = pools.view().shares[0].counts;
    assert_eq!((counts.allocated, counts.capacity, counts.cooling), (10, 14, 1));
}

#[test]
fn too_many_waiters_are_told_at_once() {
    let mut pools = live(&[]);
    let batch = (0..700).map(|n| add(&n.to_string()));
    let step = step(&mut pools, at(1), batch);
    assert_eq!(step.replies.len(), 60);
    assert_eq!(pools.view().waiting, 640);
    let _ = Token(0);
}

/// What a survey finds of `name`, in a namespace that lives.
fn found(name: &str, addresses: &[&str]) -> Attached {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let netns = NetnsRecord { path: format!("/run/netns/{name}"), device: 4, inode: 7, seen: true };
    Attached { attachment: attachment(name), netns, pod: None, addresses, of_ranges: false }
}

#[test]
fn what_a_survey_finds_has_the_last_word() {
    let mut before = live(&["10.0.2.0/28", "fd00::/120"]);
    for name in ["a", "b", "c", "d"] {
        ask(&mut before, at(1), name, add(name));
    }
    let mut pools = Pools::<Restoring>::new(rules());
    before.snapshot().for_each(|record| pools.restore(record));
    // The journal's end is lost: b went, and its address went to e; c is gone; d lives and is not in the runtime's cache.
    let attached = vec![found("a", &["10.0.2.2", "fd00::2"]), found("e", &["fd00::3", "10.0.2.3"])];
    let stray = |address: &str| Stray { address: address.parse().unwrap(), netns: found("s", &[]).netns };
    let strays = vec![stray("10.0.2.9"), stray("10.0.2.5"), stray("10.7.0.1")];
    pools.take_in(Survey { attached, strays }, |netns| netns.path.ends_with('c'), at(5));
    let mut pools = pools.live(at(5)).unwrap();
    assert_eq!(pools.held(), 3);
    assert_eq!(ask(&mut pools, at(6), "e", add("e")), "10.0.2.3/28 via 10.0.2.1, fd00::3/120 via fd00::1");
    assert_eq!(ask(&mut pools, at(6), "d", add("d")), "10.0.2.5/28 via 10.0.2.1, fd00::5/120 via fd00::1");
    let rests = |pools: &Pools<Live>, address: &str| {
        pools.addresses().iter().any(|row| row.address == address && row.state == "cooling")
    };
    assert!(rests(&pools, "10.0.2.4") && !rests(&pools, "10.0.2.3"));
    let told = step(&mut pools, at(7), [assignment(&["10.0.2.0/28", "fd00::/120"], 2)]);
    assert_eq!(pools.held(), 4, "one stray is of these blocks, and d's is no stray");
    let journal: Vec<Record> = before.snapshot().collect();
    assert!(told.records.iter().any(|record| matches!(record, Record::Gave(_))) && !journal.is_empty());
    let all: BTreeSet<String> = (0..12).map(|n| ask(&mut pools, at(8), &n.to_string(), add(&n.to_string()))).collect();
    assert!(all.iter().all(|given| !given.starts_with("10.0.2.9/")), "{all:?}");
    assert_eq!(restored(pools.snapshot(), at(9)).addresses(), pools.addresses());
}

#[test]
fn what_is_found_before_its_block_is_known_waits_for_it() {
    let mut pools = Pools::<Restoring>::new(rules());
    assert!(pools.knows_nothing());
    let strays = vec![Stray { address: "10.0.2.6".parse().unwrap(), netns: found("s", &[]).netns }];
    pools.take_in(Survey { attached: vec![found("a", &["10.0.2.4"])], strays }, |_| false, at(1));
    let pools = pools.live(at(1)).unwrap();
    assert!(pools.view().shares.iter().all(|share| share.blocks.is_empty()), "the operator hears of no such block");
    let mut pools = restored(pools.snapshot(), at(1)); // As the next start does, but for strays.
    assert_eq!(ask(&mut pools, at(2), "a", add("a")), "10.0.2.4/32");
    step(&mut pools, at(3), [assigned(&["10.0.2.0/29"])]);
    assert_eq!(ask(&mut pools, at(3), "a", add("a")), "10.0.2.4/29 via 10.0.2.1");
    let given: Vec<String> = (0..4).map(|n| ask(&mut pools, at(4), &n.to_string(), add(&n.to_string()))).collect();
    assert_eq!(given.iter().filter(|given| given.starts_with("10.0.2.4")).count(), 0, "{given:?}");
    ask(&mut pools, at(5), "a", del("a"));
    step(&mut pools, at(40), [Input::Pass]);
    let share = &pools.view().shares[0];
    assert_eq!((share.blocks.len(), share.counts.free), (1, 1));
}

#[test]
fn every_address_can_be_explained() {
    let mut pools = live(&["10.0.2.0/29", "fd00::/120"]);
    for name in ["a", "b"] {
        ask(&mut pools, at(1), name, add(name));
    }
    ask(&mut pools, at(2), "b", del("b"));
    let look = |_: &NetnsRecord| crate::netns::Probe::Lives;
    let state = |pools: &Pools<Live>, address: &str| {
        let findings = pools.explain_address(address.parse().unwrap(), at(62), &look);
        let [finding] = &findings[..] else { return findings.len().to_string() };
        serde_json::to_value(finding).unwrap()["state"].as_str().unwrap().to_owned()
    };
    for (address, expected) in [
        ("10.0.2.0", "reserved"),
        ("10.0.2.1", "router"),
        ("10.0.2.2", "held"),
        ("10.0.2.3", "cooling"),
        ("10.0.2.4", "free"),
        ("10.0.2.7", "reserved"),
        ("fd00::3", "cooling"),
        ("10.0.3.1", "0"),
    ] {
        assert_eq!(state(&pools, address), expected, "{address}");
    }
    let Finding::Held(held) = &pools.explain_pod("a", at(62), &look)[0] else { panic!("not held") };
    assert_eq!((held.owner.as_str(), held.since, held.told), ("default/a", 61, Some(61)));
    assert_eq!(held.from, "block 10.0.2.0/29 of pool default");
    assert!(
        held.freed_by.starts_with("the DEL of net/a/eth0; or, once pod and namespace are gone"),
        "{}",
        held.freed_by
    );
    assert_eq!(pools.explain_pod("default/a", at(62), &look).len(), 2);
    assert!(pools.explain_pod("other/a", at(62), &look).is_empty());
    step(&mut pools, at(62), [assigned(&["10.0.2.0/29 retiring"])]);
    assert_eq!(state(&pools, "10.0.2.5"), "closed");
    step(&mut pools, at(63), [gone(), add("w")]);
    let waits = pools.explain_pod("w", at(64), &look);
    assert!(matches!(&waits[..], [Finding::Waiting { left: 9, .. }]), "{waits:?}");
}

fn stray(address: &str) -> Stray {
    Stray { address: address.parse().unwrap(), netns: netns("s") }
}

#[test]
fn blocks_of_a_damaged_journal_are_closed_until_the_operator_speaks() {
    let mut before = live(&["10.0.2.0/29", "10.0.3.0/29"]);
    ask(&mut before, at(1), "a", add("a"));
    let mut pools = Pools::<Restoring>::new(rules());
    before.snapshot().for_each(|record| pools.restore(record));
    pools.take_in(Survey { attached: vec![], strays: vec![stray("10.0.2.3")] }, |_| false, at(2));
    let mut pools = pools.live(at(2)).unwrap();
    let blocks: Vec<String> = pools.view().shares[0].blocks.iter().map(|block| block.cidr.to_string()).collect();
    assert_eq!(blocks, ["10.0.2.0/29"], "the one with nothing in it may have been given back");
    assert_eq!(ask(&mut pools, at(3), "b", add("b")), "waits");
    assert_eq!(ask(&mut pools, at(3), "a", add("a")), "10.0.2.2/29 via 10.0.2.1");
    let served = step(&mut pools, at(4), [assigned(&["10.0.2.0/29"])]);
    assert_eq!(told(&served, "b"), "10.0.2.4/29 via 10.0.2.1", "a namespace has .3");
}

#[test]
fn strays_outlive_a_restart_before_their_block_is_known() {
    let mut pools = Pools::<Restoring>::new(rules());
    let attached = vec![found("a", &["10.0.2.2"])];
    pools.take_in(Survey { attached, strays: vec![stray("10.0.2.3")] }, |_| false, at(1));
    let pools = pools.live(at(1)).unwrap();
    let mut pools = restored(pools.snapshot(), at(2));
    step(&mut pools, at(3), [assigned(&["10.0.2.0/29"])]);
    assert_eq!(ask(&mut pools, at(3), "b", add("b")), "10.0.2.4/29 via 10.0.2.1");
}

#[test]
fn what_the_runtime_lists_is_put_together_with_what_the_journal_had() {
    let mut before = live(&["10.0.2.0/28", "fd00::/120"]);
    ask(&mut before, at(1), "a", add("a"));
    let mut pools = Pools::<Restoring>::new(rules());
    before.snapshot().for_each(|record| pools.restore(record));
    // A plugin of the chain took IPv6 out of one result, and put an address of its own before ours in the other.
    let attached = vec![found("a", &["10.0.2.2"]), found("b", &["10.0.1.9", "10.0.2.7"])];
    pools.take_in(Survey { attached, strays: vec![] }, |_| false, at(2));
    let mut pools = pools.live(at(2)).unwrap();
    step(&mut pools, at(3), [assignment(&["10.0.2.0/28", "fd00::/120"], 2)]);
    assert_eq!(ask(&mut pools, at(3), "a", add("a")), "10.0.2.2/28 via 10.0.2.1, fd00::2/120 via fd00::1");
    assert_eq!(ask(&mut pools, at(3), "b", add("b")), "10.0.2.7/28 via 10.0.2.1");
}

#[test]
fn a_routers_address_that_somebody_has_is_theirs_also_after_a_restart() {
    let mut pools = Pools::<Restoring>::new(rules());
    pools.take_in(Survey { attached: vec![found("a", &["10.0.2.1"])], strays: vec![] }, |_| false, at(1));
    let mut pools = pools.live(at(1)).unwrap();
    step(&mut pools, at(2), [assigned(&["10.0.2.0/29"])]);
    let mut pools = restored(pools.snapshot(), at(3));
    pools.check().unwrap();
    assert_eq!(ask(&mut pools, at(3), "a", add("a")), "10.0.2.1/29");
}

#[test]
fn a_proof_is_void_if_the_namespace_is_another_by_now() {
    let mut pools = live(&["10.0.2.0/29"]);
    let first = step(&mut pools, at(1), [add("a")]);
    let Some(Answer::Given { holder, .. }) = first.replies.into_iter().next().map(|(_, answer)| answer) else {
        panic!("nothing given")
    };
    let moved = changed(add("a"), |add| add.netns.inode = 8);
    let step = step(&mut pools, at(2), [moved, Input::Reclaim(holder.clone(), netns("a"))]);
    assert_eq!((step.by_proof, pools.held()), (0, 1));
    let proof = Input::Reclaim(holder, NetnsRecord { inode: 8, ..netns("a") });
    assert_eq!(pools.apply(at(3), [proof]).by_proof, 1);
}

#[test]
fn what_is_undone_leaves_its_block_by_the_grant_that_it_has_by_then() {
    let mut pools = live(&["10.0.2.0/29"]);
    let regranted = Input::Assigned(Assignment {
        blocks: vec![block("10.0.2.0/29", 1)],
        ..match assignment(&["10.0.2.0/29"], 2) {
            Input::Assigned(assignment) => assignment,
            _ => unreachable!(),
        }
    });
    let mut failed = step(&mut pools, at(1), [add("a"), regranted]);
    pools.undo(&mut failed, "disk full");
    pools.check().unwrap();
    assert_eq!(pools.held(), 0);
}

#[test]
fn pods_of_a_block_that_is_cut_differently_now_keep_their_addresses_over_a_restart() {
    let mut pools = live(&["10.0.2.0/30"]);
    for name in ["a", "b"] {
        ask(&mut pools, at(1), name, add(name));
    }
    // What b holds would be the router's.
    step(&mut pools, at(2), [assigned(&["10.0.2.0/29"])]);
    step(&mut pools, at(3), [assigned(&["10.0.2.0/29", "fd00::/120"])]);
    let mut again = restored(pools.snapshot().collect::<Vec<_>>(), at(4));
    assert_eq!(again.held(), 2);
    for (name, address) in [("c", "10.0.2.2/29"), ("d", "10.0.2.3/29")] {
        assert!(ask(&mut again, at(5), name, add(name)).starts_with(address), "{address}");
    }
    step(&mut again, at(6), [del("b")]);
    let mut again = restored(again.snapshot().collect::<Vec<_>>(), at(7));
    step(&mut again, at(100), [Input::Pass]);
}

#[test]
fn a_journal_that_gives_an_address_twice_is_refused_even_if_one_of_both_was_released() {
    let mut pools = live(&["10.0.2.0/29"]);
    let mut records: Vec<Record> = pools.snapshot().collect();
    let Record::Gave(gave) = step(&mut pools, at(1), [add("a")]).records.remove(0) else { panic!("nothing was given") };
    let mut other = gave.clone();
    (other.id.0, other.attachment) = (7, attachment("b"));
    let released = Record::Released { id: other.id, at: at(2) };
    records.extend([Record::Gave(gave), Record::Gave(other), released]);
    let mut again = Pools::<Restoring>::new(rules());
    for record in records {
        again.restore(record);
    }
    assert_eq!(again.live(at(3)).unwrap_err().to_string(), "10.0.2.2 is held twice");
}
