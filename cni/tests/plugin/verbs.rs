//! CHECK, GC and STATUS with an agent that works.

use serde_json::{Value, json};

use crate::peer::{Peer, error, ok};
use crate::run::{Plugin, VERSIONS, netconf, verbs};

fn check(peer: &Peer, version: &str, previous: Value) -> Plugin {
    let mut netconf = netconf(&peer.folder, version);
    netconf["prevResult"] = previous;
    Plugin::new("CHECK", &netconf)
}

#[test]
fn check_asks_for_what_prev_result_lists_and_prints_nothing() {
    let table = [
        (json!({ "ips": [{ "version": "4", "address": "10.0.2.48/24" }] }), json!(["10.0.2.48"])),
        (
            json!({ "ips": [{ "address": "10.0.2.48/24", "interface": 0 }, { "address": "fd00::30/120" }] }),
            json!(["10.0.2.48", "fd00::30"]),
        ),
        (json!({ "ip4": { "ip": "10.0.2.48/24" }, "ip6": { "ip": "fd00::30/120" } }), json!(["10.0.2.48", "fd00::30"])),
    ];
    for version in VERSIONS.into_iter().filter(|version| verbs(version).contains(&"CHECK")) {
        for (previous, addresses) in table.clone() {
            let peer = Peer::new([ok()]);
            check(&peer, version, previous).run().silent_success();
            let request = peer.request().unwrap();
            assert_eq!((&request["verb"], &request["addresses"]), (&json!("check"), &addresses));
        }
    }
}

#[test]
fn check_without_prev_result_names_the_remedy() {
    for version in VERSIONS.into_iter().filter(|version| verbs(version).contains(&"CHECK")) {
        let peer = Peer::new([ok()]);
        for bad in [Value::Null, json!("x"), json!({ "ips": [{ "address": "10.0.2.48" }] })] {
            let said = check(&peer, version, bad).run().refused(version, 7);
            assert!(said.contains("prevResult") && said.contains("the result of ADD"), "{said}");
        }
        assert_eq!(peer.request(), None);
    }
}

#[test]
fn d9_d10_gc_names_its_network_and_what_is_valid() {
    let list = json!([{ "containerID": "c1", "ifname": "eth0" }]);
    let table = [
        (json!({ "cni.dev/valid-attachments": [] }), json!([])),
        (json!({ "cni.dev/valid-attachments": list }), list.clone()),
        (json!({ "cni.dev/attachments": list }), list.clone()),
        (json!({ "cni.dev/valid-attachments": list, "cni.dev/attachments": list }), list.clone()),
    ];
    for (keys, valid) in table {
        let peer = Peer::new([ok()]);
        let mut netconf = netconf(&peer.folder, "1.1.0");
        netconf.as_object_mut().unwrap().remove("cni.dev/valid-attachments");
        netconf.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        Plugin::new("GC", &netconf).run().silent_success();
        let request = json!({ "protocol": 1, "verb": "gc", "network": "net", "valid": valid });
        assert_eq!(peer.request(), Some(request));
    }
}

#[test]
fn d9_gc_without_a_list_changes_nothing() {
    let peer = Peer::new([ok()]);
    for list in [None, Some(Value::Null)] {
        let mut netconf = netconf(&peer.folder, "1.1.0");
        netconf.as_object_mut().unwrap().remove("cni.dev/valid-attachments");
        netconf.as_object_mut().unwrap().extend(list.map(|list| ("cni.dev/attachments".to_owned(), list)));
        Plugin::new("GC", &netconf).run().silent_success();
    }
    for bad in [json!({}), json!([{ "containerID": "c1" }]), json!(["c1"])] {
        let mut netconf = netconf(&peer.folder, "1.1.0");
        netconf["cni.dev/valid-attachments"] = bad;
        assert!(Plugin::new("GC", &netconf).run().refused("1.1.0", 7).contains("cni.dev/valid-attachments"));
    }
    assert_eq!(peer.request(), None);
}

#[test]
fn d9_a_list_that_does_not_fit_is_never_cut() {
    let peer = Peer::new([ok()]);
    let mut netconf = netconf(&peer.folder, "1.1.0");
    let entry = |number| json!({ "containerID": format!("{number:064}"), "ifname": "eth0" });
    netconf["cni.dev/valid-attachments"] = (0..1000).map(entry).collect();
    assert!(Plugin::new("GC", &netconf).run().refused("1.1.0", 7).contains("65536"));
    assert_eq!(peer.request(), None);
}

#[test]
fn status_passes_on_what_the_agent_says() {
    let peer = Peer::new([ok(), error(50, "no IPv4 address is free", ""), error(51, "an interface is lost", "")]);
    let status = || Plugin::new("STATUS", &netconf(&peer.folder, "1.1.0")).run();
    status().silent_success();
    status().refused("1.1.0", 50);
    status().refused("1.1.0", 51);
    assert_eq!(peer.request(), Some(json!({ "protocol": 1, "verb": "status" })));
}

#[test]
fn status_of_a_network_with_ranges_names_them() {
    let peer = Peer::new([ok()]);
    let mut netconf = netconf(&peer.folder, "1.1.0");
    netconf["ipam"]["subnet"] = json!("10.1.0.0/16");
    Plugin::new("STATUS", &netconf).run().silent_success();
    let local = json!({ "sets": [[{ "subnet": "10.1.0.0/16" }]] });
    assert_eq!(peer.request(), Some(json!({ "protocol": 1, "verb": "status", "network": "net", "local": local })));
    netconf["ipam"]["subnet"] = json!(7);
    assert!(Plugin::new("STATUS", &netconf).run().refused("1.1.0", 7).contains("ipam.subnet is 7"));
}

#[test]
fn check_and_gc_of_a_network_with_ranges_ask_as_of_any_other() {
    for verb in ["CHECK", "GC"] {
        let asked = |ipam: Value| {
            let peer = Peer::new([ok()]);
            let mut netconf = netconf(&peer.folder, "1.1.0");
            netconf["ipam"].as_object_mut().unwrap().extend(ipam.as_object().unwrap().clone());
            Plugin::new(verb, &netconf).run().silent_success();
            peer.request().unwrap()
        };
        assert_eq!(asked(json!({ "subnet": "10.1.0.0/16" })), asked(json!({})));
    }
}
