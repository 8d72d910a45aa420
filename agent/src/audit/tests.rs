//! What is found, of evidence made by hand.

use super::*;

const BLOCK: &str = "10.0.2.0/24";

fn netns(name: &str) -> Netns {
    let inode = name.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte));
    Netns { path: format!("/run/netns/{name}"), device: 4, inode }
}

fn held(address: &str, owner: &str, space: &str) -> Address {
    Address {
        address: address.into(),
        family: "IPv4".into(),
        pool: "default".into(),
        owner: owner.into(),
        state: "held".into(),
        attachment: Some(Attachment { network: "pods".into(), container_id: owner.into(), interface: "eth0".into() }),
        netns: Some(netns(space)),
    }
}

fn space(name: &str, addresses: &[&str]) -> Space {
    Space { netns: netns(name), addresses: addresses.iter().map(|address| address.parse().unwrap()).collect() }
}

fn pod(name: &str, address: &str) -> PodSeen {
    PodSeen { name: name.into(), node: "n1".into(), addresses: vec![address.parse().unwrap()] }
}

/// Two pods, as they should be.
fn well() -> Evidence {
    Evidence {
        held: vec![held("10.0.2.7", "default/a", "a"), held("10.0.2.8", "default/b", "b")],
        blocks: vec![BLOCK.parse().unwrap()],
        spaces: vec![space("a", &["10.0.2.7"]), space("b", &["10.0.2.8", "192.0.2.1"]), space("empty", &[])],
        pods: Some(vec![pod("default/a", "10.0.2.7"), pod("default/b", "10.0.2.8")]),
    }
}

fn ids(evidence: &Evidence) -> Vec<String> {
    audit(evidence).into_iter().map(|finding| finding.id).collect()
}

#[test]
fn what_is_as_it_should_be_is_not_found() {
    assert_eq!(audit(&well()), []);
    let unheard = Evidence { pods: None, ..well() };
    assert_eq!(audit(&unheard), []);
}

#[test]
fn an_address_in_two_namespaces_is_found_whoever_holds_it() {
    let mut evidence = well();
    evidence.spaces.push(space("c", &["10.0.2.7"]));
    assert_eq!(ids(&evidence), ["duplicate/10.0.2.7"]);
    let mut foreign = well();
    foreign.spaces.push(space("c", &["192.0.2.1"]));
    assert_eq!(audit(&foreign), [], "it is none of ours");
}

#[test]
fn an_address_in_use_that_nobody_holds_can_be_held() {
    let mut evidence = well();
    evidence.spaces.push(space("c", &["10.0.2.9", "10.9.9.9"]));
    let findings = audit(&evidence);
    let fix = Some(Fix::Hold { address: "10.0.2.9".into(), netns: netns("c") });
    assert_eq!((findings.len(), &findings[0].id[..], &findings[0].fix), (1, "unheld/10.0.2.9", &fix));
}

#[test]
fn a_leak_is_what_neither_pod_nor_namespace_speaks_for() {
    let mut evidence = well();
    evidence.spaces.remove(0);
    assert_eq!(audit(&evidence), [], "the pod is there: its next sandbox comes");
    evidence.pods.as_mut().unwrap().remove(0);
    let findings = audit(&evidence);
    assert_eq!((findings.len(), &findings[0].id[..]), (1, "leaked/10.0.2.7"));
    assert!(matches!(findings[0].fix, Some(Fix::Release { .. })));
    evidence.pods = None;
    assert_eq!(audit(&evidence), [], "one proof is none");
}

#[test]
fn held_addresses_are_where_they_were_given_to() {
    let mut evidence = well();
    evidence.spaces[0].addresses.clear();
    assert_eq!(ids(&evidence), ["unused/10.0.2.7"]);
    evidence.spaces[2] = space("empty", &["10.0.2.7"]);
    assert_eq!(ids(&evidence), ["misplaced/10.0.2.7"]);
}

#[test]
fn a_pods_address_is_its_own() {
    let mut evidence = well();
    evidence.pods =
        Some(vec![pod("default/a", "10.0.2.8"), pod("default/c", "10.0.2.50"), pod("default/d", "10.9.9.9")]);
    assert_eq!(ids(&evidence), ["pod/default/a/10.0.2.8", "pod/default/c/10.0.2.50"]);
    let mut unnamed = well();
    unnamed.held[0].owner = "c0ffee".into();
    assert_eq!(audit(&unnamed), [], "the runtime named no pod");
}

#[test]
fn networks_with_ranges_of_their_own_may_repeat_each_other() {
    let mut evidence = well();
    for (owner, space_name) in [("default/a", "x"), ("default/b", "y")] {
        evidence.held.push(Address { pool: format!("local/{space_name}"), ..held("172.16.0.5", owner, space_name) });
        evidence.spaces.push(space(space_name, &["172.16.0.5"]));
    }
    assert_eq!(audit(&evidence), []);
}

#[test]
fn blocks_that_are_closed_count() {
    let mut report = Report::default();
    report.pools.push(cadastre_messages::report::Pool {
        blocks: vec![BLOCK.into()],
        closed: vec!["fd00::/120: the operator wants it back; 1 held".into()],
        ..Default::default()
    });
    let (_, blocks) = Evidence::of_report(&report);
    assert_eq!(blocks, [BLOCK.parse().unwrap(), "fd00::/120".parse().unwrap()]);
}

#[test]
fn the_health_endpoint_is_no_leak() {
    let mut evidence = well();
    let own = Netns { path: "/proc/1/task/9/ns/net".into(), ..netns("own") };
    evidence.held.push(Address { netns: Some(own), ..held("10.0.2.9", "health", "own") });
    assert_eq!(audit(&evidence), []);
}
