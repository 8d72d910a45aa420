//! The real engine, several of them, over a store with the API server's rules, under faults, by seed.
//!
//! A failure prints its seed: `CADASTRE_SEED=<n> cargo test -p cadastre-engine --test simulation` replays it;
//! `CADASTRE_SEEDS=<n>` runs so many in place of the usual.

// A test's helpers fail by panicking, as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broken;
mod check;
mod liar;
mod machine;
mod scenario;
mod store;
mod world;

use std::collections::BTreeMap;

use broken::Rule;
use cadastre_api::{AllocatedBlock, BlockState, IPAMNode, IPPool, IPPoolSpec, PoolCidrs};
use cadastre_core::{Cidr, Family};
use scenario::{Scenario, seeds};
use world::{Simulation, settings};

/// One operator over one pool of IPv4 that has served one node, `n0` of this machine.
fn one_served(seed: u64, v4: &str, machine: &str) -> Simulation {
    let mut simulation = Simulation::new(seed, 1, settings(&[Family::V4], v4, "fd00::/112"));
    simulation.add_node("n0", machine);
    simulation.settle();
    simulation
}

#[test]
fn a_quiet_start_serves_every_node_with_one_write_each() {
    let mut simulation = Simulation::new(1, 1, settings(&Family::ALL, "10.0.0.0/16", "fd00::/112"));
    for node in 0..50 {
        simulation.add_node(&format!("n{node}"), "");
    }
    simulation.settle();
    simulation.check_settled(&Family::ALL);
    assert_eq!(simulation.store.node_writes, 50);
    let status = simulation.store.config.as_ref().unwrap().status.clone().unwrap();
    assert!(status.in_use && status.cidrs.iter().all(|cidr| cidr.in_use));
}

#[test]
fn a_config_write_that_never_arrived_is_written_again() {
    let mut simulation = Simulation::new(3, 1, settings(&Family::ALL, "10.0.0.0/16", "fd00::/112"));
    simulation.lost_status_writes = 3;
    simulation.add_node("n0", "");
    simulation.settle();
    simulation.check_settled(&Family::ALL);
}

/// Schedules of each scenario in a usual run: 10,000 in all.
const SCHEDULES: u64 = 1_250;

#[test]
fn one_operator_under_faults() {
    seeds(SCHEDULES).run(Scenario { operators: 1, ..Scenario::default() });
}

#[test]
fn two_operators_under_faults() {
    seeds(SCHEDULES).run(Scenario { operators: 2, ..Scenario::default() });
}

#[test]
fn three_operators_two_families_under_faults() {
    // Seed 233 found a block shed by an operator with an older view than the one that published it.
    seeds(2 * SCHEDULES).run(Scenario { operators: 3, families: &Family::ALL, ..Scenario::default() });
}

#[test]
fn a_small_pool_under_faults_serves_everybody_in_the_end() {
    // 16 blocks, 12 names: exhausted while blocks cool.
    seeds(SCHEDULES).run(Scenario { operators: 2, families: &Family::ALL, v4: "10.0.0.0/20", ..Scenario::default() });
}

#[test]
fn a_backup_restored_under_operators_and_agents_that_run_on() {
    seeds(SCHEDULES).run(Scenario { operators: 2, restore: true, ..Scenario::default() });
}

#[test]
fn foreign_hands_are_contained_and_settled() {
    seeds(SCHEDULES).run(Scenario { operators: 1, foreign_hands: true, ..Scenario::default() });
}

#[test]
fn pod_cidrs_that_overlap_are_mirrored_for_one_node_each() {
    seeds(SCHEDULES / 2).run(Scenario { operators: 1, mirror: true, ..Scenario::default() });
}

#[test]
fn two_operators_that_mirror_agree_in_the_end_who_has_what_overlaps() {
    seeds(SCHEDULES / 2).run(Scenario { operators: 2, mirror: true, ..Scenario::default() });
}

#[test]
fn unused_flags_are_cleared_once_everything_is_gone_and_cooled() {
    let mut simulation = Simulation::new(7, 2, settings(&Family::ALL, "10.0.0.0/16", "fd00::/112"));
    simulation.add_node("n0", "");
    simulation.settle();
    simulation.delete_node("n0");
    simulation.settle();
    let status = simulation.store.config.as_ref().unwrap().status.clone().unwrap();
    assert!(!status.in_use && !status.draining, "{status:?}");
    simulation.add_node("n1", "");
    simulation.settle();
    simulation.check_settled(&Family::ALL);
}

#[test]
fn an_ipam_node_whose_deletion_hangs_is_waited_for_and_named() {
    let mut simulation = one_served(3, "10.0.0.0/17", "");
    simulation.store.held.insert("n0".to_owned());
    simulation.delete_node("n0");
    simulation.settle_for(1);
    simulation.add_node("n0", "");
    // Comes to rest, which a loop of deletions and creations does not.
    simulation.settle_for(3);
    assert_ne!(simulation.store.ipam_nodes["n0"].spec.node_uid, simulation.store.nodes["n0"].uid);
    assert_eq!(simulation.waiting("DeletionHeld"), 1);
    simulation.store.held.clear();
    let uid = simulation.store.ipam_nodes["n0"].metadata.uid.clone().unwrap();
    simulation.store.delete_ipam_node("n0", &uid);
    simulation.settle();
    assert_eq!(simulation.waiting("DeletionHeld"), 0);
    simulation.check_settled(&[Family::V4]);
}

#[test]
fn an_object_that_is_no_page_is_left_out() {
    let mut simulation = one_served(3, "10.0.0.0/17", "");
    let (name, page) = simulation.store.pages.first_key_value().unwrap();
    let (name, mut copy, mut odd) = (name.clone(), page.clone(), page.clone());
    copy.metadata.name = Some("copy".to_owned());
    copy.metadata.resource_version = Some("1000000".to_owned());
    (odd.metadata.name, odd.spec.mask_size) = (Some("odd".to_owned()), 8);
    simulation.store.pages.extend([("copy".to_owned(), copy), ("odd".to_owned(), odd)]);
    simulation.restart();
    simulation.add_node("n1", "");
    simulation.settle();
    for name in ["copy", "odd"] {
        simulation.store.pages.remove(name);
    }
    assert_eq!(simulation.store.pages[&name].spec.entries.len(), 2);
    simulation.check_settled(&[Family::V4]);
}

#[test]
fn a_page_that_somebody_spoiled_keeps_nobody_waiting() {
    let mut simulation = one_served(5, "10.0.0.0/17", "");
    let first = simulation.store.pages.keys().next().unwrap().clone();
    let range = simulation.store.pages[&first].spec.range;
    let blocks = |simulation: &Simulation| -> BTreeMap<String, Cidr> {
        let of = |node: &IPAMNode| node.spec.ipam.allocated.first().map(|block| block.cidr);
        let nodes = &simulation.store.ipam_nodes;
        nodes.iter().filter_map(|(name, node)| Some((name.clone(), of(node)?))).collect()
    };
    let before = blocks(&simulation);
    simulation.store.spoil(&first);
    for number in 1..9 {
        simulation.add_node(&format!("n{number}"), "");
    }
    simulation.settle_for(3);
    let now = blocks(&simulation);
    assert_eq!((now.len(), now["n0"]), (9, before["n0"]), "{now:?}");
    assert_eq!(now.values().filter(|block| range.contains(block)).count(), 1, "{now:?}");

    // The other page is full, so the rest waits for the one that is spoiled.
    for number in 9..70 {
        simulation.add_node(&format!("n{number}"), "");
    }
    simulation.settle_for(3);
    assert_eq!(blocks(&simulation).len(), 65);
    simulation.store.spoiled.clear();
    simulation.settle();
    assert_eq!(blocks(&simulation).len(), 70);
    simulation.check_settled(&[Family::V4]);
}

#[test]
fn a_block_that_a_live_agent_still_holds_is_not_freed_and_comes_back_after_a_restart() {
    let mut simulation = one_served(11, "10.0.0.0/20", "machine");
    let old = simulation.store.ipam_nodes["n0"].spec.ipam.allocated[0].clone();
    // Registered again, and nothing tells that it is the same machine: its agent and its pods run on.
    simulation.delete_node("n0");
    simulation.add_node("n0", "");
    simulation.settle_for(3);
    simulation.report_held("n0", &old);
    simulation.settle();
    let cooling = |simulation: &Simulation| {
        let entries = simulation.store.pages.values().flat_map(|page| page.spec.entries.clone());
        entries.filter(|entry| entry.block == old.cidr).map(|entry| (entry.grant, entry.uid)).next()
    };
    assert_eq!(cooling(&simulation).map(|(grant, _)| grant), Some(old.grant), "not freed while the agent holds it");
    simulation.restart();
    simulation.settle();
    let uid = simulation.store.nodes["n0"].uid.clone();
    assert_eq!(cooling(&simulation), Some((old.grant, uid)), "the node's own again");
    let published = &simulation.store.ipam_nodes["n0"].spec.ipam.allocated;
    assert!(published.iter().any(|block| block.cidr == old.cidr), "{published:?}");
    assert_eq!(published.iter().filter(|block| !block.retiring).count(), 1, "{published:?}");

    let before = published.clone();
    simulation.restart();
    simulation.settle();
    assert_eq!(simulation.store.ipam_nodes["n0"].spec.ipam.allocated, before, "a restart changes no choice");
    simulation.promise("n0", &old);
    simulation.settle();
    let after = &simulation.store.ipam_nodes["n0"].spec.ipam.allocated;
    assert!(!after.is_empty() && after.iter().all(|block| block.cidr != old.cidr), "given back: {after:?}");
}

/// Whether a schedule ends in a broken invariant, and not merely without an end; the same schedule keeps them all with no
/// rule broken.
fn breaks_an_invariant(scenario: Scenario, seed: u64) -> bool {
    let Err(why) = std::panic::catch_unwind(|| scenario.run(seed)) else { return false };
    let text = why.downcast_ref::<String>().map_or("", String::as_str);
    let broken = !text.contains("come to rest");
    if broken {
        Scenario { broken: None, ..scenario }.run(seed);
    }
    broken
}

#[test]
fn each_rule_that_is_broken_on_purpose_is_found() {
    for rule in Rule::ALL {
        let restore = rule == Rule::RestoreWithoutIpamNodes;
        let v4 = if restore { "10.0.0.0/18" } else { "10.0.0.0/20" };
        let scenario = Scenario { operators: 2, steps: 2_000, v4, restore, broken: Some(rule), ..Scenario::default() };
        let found = (0..1_000).find(|seed| breaks_an_invariant(scenario, *seed));
        println!("{rule:?}: found by seed {found:?}");
        assert!(found.is_some(), "{rule:?} is broken and 1,000 seeds did not find it");
    }
}

#[test]
fn what_a_deleted_node_claimed_of_another_s_block_cools_for_it_too() {
    let mut simulation = Simulation::new(13, 1, settings(&[Family::V4], "10.0.0.0/20", "fd00::/112"));
    for name in ["n0", "n1"] {
        simulation.add_node(name, "");
    }
    simulation.settle_for(2);
    let block = simulation.store.ipam_nodes["n0"].spec.ipam.allocated[0].clone();
    let mut spec = simulation.store.ipam_nodes["n1"].spec.clone();
    spec.ipam.allocated.push(AllocatedBlock { grant: uuid::Uuid::from_u128(1), ..block.clone() });
    simulation.touched.insert(block.cidr, ["n0".to_owned(), "n1".to_owned()].into());
    simulation.store.upsert("n1", spec);
    simulation.settle_for(2);
    let allocated = &simulation.store.ipam_nodes["n1"].spec.ipam.allocated;
    assert!(allocated.iter().any(|kept| kept.cidr == block.cidr && kept.retiring), "contested: {allocated:?}");
    // The one that the ledger names goes, and has almost cooled when the other one goes.
    simulation.delete_node("n0");
    simulation.settle_for(14);
    simulation.delete_node("n1");
    let gone = simulation.now;
    simulation.settle_for(3);
    let entries = simulation.store.pages.values().flat_map(|page| &page.spec.entries);
    let entry = entries.into_iter().find(|entry| entry.block == block.cidr).expect("it is not free yet");
    assert_eq!(entry.state, BlockState::Cooling);
    assert!(entry.since.0 >= gone, "{entry:?}");
}

fn ippool(name: &str, cidr: &str, reserved: &[&str]) -> IPPool {
    let ipv4 = Some(PoolCidrs { cidrs: vec![cidr.parse().unwrap()], mask_size: 24 });
    let reserved = reserved.iter().map(|range| range.parse().unwrap()).collect();
    IPPool::new(name, IPPoolSpec { ipv4, ipv6: None, reserved })
}

fn condition_of(simulation: &Simulation, pool: &str, kind: &str) -> Option<(String, String)> {
    let status = simulation.store.pools[pool].status.as_ref()?;
    let set = status.conditions.iter().find(|set| set.type_ == kind)?;
    Some((set.status.clone(), set.message.clone()))
}

#[test]
fn what_is_reserved_or_fenced_is_never_assigned_and_is_counted() {
    let mut settings = settings(&[Family::V4], "10.0.0.0/20", "fd00::/112");
    // 16 blocks: an address, a CIDR and a range take 1 + 4 + 2 of them, a service CIDR 2 more.
    settings.reserved = ["10.0.0.77", "10.0.4.0/22", "10.0.9.250-10.0.10.3"].map(|range| range.parse().unwrap()).into();
    let mut simulation = Simulation::new(5, 1, settings);
    simulation.store.service_cidrs = vec!["10.0.14.0/23".parse().unwrap()];
    simulation.restart();
    for node in 0..9 {
        simulation.add_node(&format!("n{node}"), "");
    }
    simulation.settle_for(3);
    let nodes = simulation.store.ipam_nodes.values();
    let given: Vec<_> = nodes.flat_map(|node| &node.spec.ipam.allocated).map(|block| block.cidr.to_string()).collect();
    assert_eq!(given.len(), 7, "{given:?}");
    for withheld in ["10.0.0.", "10.0.4.", "10.0.7.", "10.0.9.", "10.0.10.", "10.0.14.", "10.0.15."] {
        assert!(!given.iter().any(|block| block.starts_with(withheld)), "{withheld} in {given:?}");
    }
    let counts = simulation.store.pools["default"].status.as_ref().unwrap().ipv4.unwrap();
    assert_eq!((counts.total, counts.held, counts.reserved, counts.free), (16, 7, 9, 0));
    let (status, message) = condition_of(&simulation, "default", "Fenced").unwrap();
    assert_eq!(status, "True");
    assert!(message.starts_with("2 IPv4 blocks") && message.ends_with("10.0.14.0/23"), "{message}");
    let listed = &simulation.store.pools["default"].spec.reserved;
    assert_eq!(listed.len(), 3, "{listed:?}");
}

#[test]
fn of_two_pools_made_at_once_before_two_operators_one_has_the_cidr() {
    for seed in 0..50 {
        let mut simulation = Simulation::new(seed, 2, settings(&[Family::V4], "10.0.0.0/16", "fd00::/112"));
        simulation.add_node("n0", "");
        simulation.settle_for(2);
        let mut made = [("a", "10.8.0.0/16"), ("b", "10.8.9.0/24")];
        made.rotate_left(usize::from(seed % 2 == 1));
        for (name, cidr) in made {
            simulation.store.create_pool(ippool(name, cidr, &[]));
        }
        simulation.settle_for(3);
        let [first, second] = made.map(|(name, _)| name);
        let status = simulation.store.config.as_ref().unwrap().status.clone().unwrap();
        let recorded: Vec<_> = status.cidrs.iter().map(|cidr| cidr.pool.as_str()).collect();
        assert_eq!(recorded, ["default", first], "seed {seed}");
        assert_eq!(condition_of(&simulation, first, "Admitted").unwrap().0, "True");
        let (admitted, message) = condition_of(&simulation, second, "Admitted").unwrap();
        assert!(admitted == "False" && message.contains(&format!("of pool {first},")), "{message}");
    }
}
