//! What a healthy ADD asks and prints, for every version.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::peer::{Act, Peer, given, ok};
use crate::run::{Plugin, VERSIONS, netconf};

/// The answer of [`given`] in a version, with these routes.
fn expected(version: &str, v4: &Value, v6: &Value) -> Value {
    let routes = json!([v4, v6]);
    match version {
        "0.1.0" | "0.2.0" => json!({
            "cniVersion": version,
            "ip4": { "ip": "10.0.2.48/24", "gateway": "10.0.2.1", "routes": [v4] },
            "ip6": { "ip": "fd00::30/120", "gateway": "fd00::1", "routes": [v6] },
            "dns": {},
        }),
        "0.3.0" | "0.3.1" | "0.4.0" => json!({
            "cniVersion": version,
            "ips": [
                { "version": "4", "address": "10.0.2.48/24", "gateway": "10.0.2.1" },
                { "version": "6", "address": "fd00::30/120", "gateway": "fd00::1" },
            ],
            "routes": routes,
            "dns": {},
        }),
        _ => json!({
            "cniVersion": version,
            "ips": [
                { "address": "10.0.2.48/24", "gateway": "10.0.2.1" },
                { "address": "fd00::30/120", "gateway": "fd00::1" },
            ],
            "routes": routes,
        }),
    }
}

#[test]
fn l1_l7_an_address_of_each_family_and_nothing_else_is_printed() {
    for version in VERSIONS {
        let peer = Peer::new([given()]);
        let mut netconf = netconf(&peer.folder, version);
        netconf["isGateway"] = json!(true);
        let outcome = Plugin::new("ADD", &netconf).run();
        let (v4, v6) = (json!({ "dst": "0.0.0.0/0" }), json!({ "dst": "::/0" }));
        assert_eq!(outcome.success(), expected(version, &v4, &v6));
        assert_eq!(outcome.stderr, "");
    }
}

#[test]
fn l1_routes_of_the_configuration_take_the_place_of_ours() {
    for version in VERSIONS {
        let peer = Peer::new([given()]);
        let mut netconf = netconf(&peer.folder, version);
        let (v4, v6) = (json!({ "dst": "192.168.0.0/16", "gw": "10.0.2.9" }), json!({ "dst": "fd11::/16" }));
        netconf["ipam"]["routes"] = json!([v4, v6]);
        assert_eq!(Plugin::new("ADD", &netconf).run().success(), expected(version, &v4, &v6));
    }
}

#[test]
fn a_wrong_route_is_refused_before_an_address_is_held() {
    for version in VERSIONS {
        let peer = Peer::new([given()]);
        let mut netconf = netconf(&peer.folder, version);
        netconf["ipam"]["routes"] = json!([{ "dst": "10.0.0.0" }]);
        let said = Plugin::new("ADD", &netconf).run().refused(version, 7);
        assert!(said.contains("ipam.routes[0].dst is \"10.0.0.0\""), "{said}");
        assert_eq!(peer.request(), None);
    }
}

#[test]
fn the_agent_is_told_attachment_namespace_and_pod() {
    let peer = Peer::new([given()]);
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=nginx;K8S_POD_UID=a=b;COLOUR=red;;x";
    Plugin::new("ADD", &netconf(&peer.folder, "1.1.0")).with("CNI_ARGS", args).run().success();
    let namespace = fs::metadata("/proc/self/ns/net").unwrap();
    let request = json!({
        "protocol": 1,
        "verb": "add",
        "attachment": { "network": "net", "containerId": "c1", "interface": "eth0" },
        "netns": { "path": "/proc/self/ns/net", "device": namespace.dev(), "inode": namespace.ino() },
        "pod": { "namespace": "default", "name": "nginx", "uid": "a=b" },
    });
    assert_eq!(peer.request(), Some(request));
}

#[test]
fn a_call_that_names_no_pod_or_no_real_namespace_is_served() {
    let peer = Peer::new([given()]);
    let plugin = Plugin::new("ADD", &netconf(&peer.folder, "1.1.0")).with("CNI_NETNS", "/nonexistent/netns");
    plugin.run().success();
    let request = peer.request().unwrap();
    assert_eq!(request["netns"], json!({ "path": "/nonexistent/netns", "device": 0, "inode": 0 }));
    assert_eq!(request.get("pod"), None);
}

#[test]
fn l3_d12_the_same_call_is_the_same_question() {
    let peer = Peer::new([given()]);
    let ask = || Plugin::new("ADD", &netconf(&peer.folder, "1.1.0")).run().success();
    assert_eq!(ask(), ask());
    assert_eq!(peer.request().unwrap(), peer.request().unwrap());
}

#[test]
fn l2_two_interfaces_are_two_attachments() {
    let peer = Peer::new([given()]);
    for name in ["eth0", "net1"] {
        Plugin::new("ADD", &netconf(&peer.folder, "1.1.0")).with("CNI_IFNAME", name).run().success();
        assert_eq!(peer.request().unwrap()["attachment"]["interface"], name);
    }
}

#[test]
fn l6_stray_space_in_ids_does_not_defeat_matching() {
    let peer = Peer::new([given()]);
    for id in ["dummy", " dummy\n"] {
        Plugin::new("ADD", &netconf(&peer.folder, "1.1.0")).with("CNI_CONTAINERID", id).run().success();
        assert_eq!(peer.request().unwrap()["attachment"]["containerId"], "dummy");
    }
}

#[test]
fn c11_old_versions_have_no_room_for_two_addresses_of_a_family() {
    let two = Act::Reply(json!({ "reply": "given", "addresses": [
        { "address": "10.0.2.48/24" }, { "address": "10.0.2.49/24" },
    ] }));
    for version in VERSIONS {
        let peer = Peer::new([two.clone(), ok()]);
        let outcome = Plugin::new("ADD", &netconf(&peer.folder, version)).run();
        assert_eq!(peer.request().unwrap()["verb"], "add");
        let next = peer.request();
        match version {
            "0.1.0" | "0.2.0" => {
                assert!(outcome.refused(version, 1).contains("0.3.0 or later"));
                assert_eq!(next.unwrap()["verb"], "del", "what cannot be said is given back");
            }
            _ => {
                assert_eq!(outcome.success()["ips"].as_array().unwrap().len(), 2);
                assert_eq!(next, None);
            }
        }
    }
}

#[test]
fn s2_routes_with_several_gateways_pass() {
    let peer = Peer::new([given()]);
    let routes = json!([{ "dst": "10.9.0.0/16", "gw": "10.0.2.2" }, { "dst": "10.9.0.0/16", "gw": "10.0.2.3" }]);
    let mut netconf = netconf(&peer.folder, "1.1.0");
    netconf["ipam"]["routes"] = routes.clone();
    assert_eq!(Plugin::new("ADD", &netconf).run().success()["routes"], routes);
}

#[test]
fn s1_s11_the_static_plugins_addresses_are_refused_rather_than_ignored() {
    for version in VERSIONS {
        let peer = Peer::new([given()]);
        let mut netconf = netconf(&peer.folder, version);
        netconf["ipam"]["addresses"] = json!([{ "address": "10.0.2.7/24" }]);
        assert!(Plugin::new("ADD", &netconf).run().refused(version, 2).contains("ipam.addresses"));
        assert_eq!(peer.request(), None);
    }
}

#[test]
fn the_configurations_of_the_manual_are_served() {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/usage/cni.md")).unwrap();
    let blocks: Vec<&str> = manual.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 7, "{blocks:?}");
    for block in blocks {
        let peer = Peer::new([given()]);
        let mut netconf: Value = serde_json::from_str(block).unwrap();
        netconf["ipam"]["socket"] = json!(peer.folder.socket());
        let result = Plugin::new("ADD", &netconf).run().success();
        assert_eq!(result["cniVersion"], netconf["cniVersion"], "{block}");
    }
}

#[test]
fn d7_stdout_holds_one_value_whatever_logging_is_asked_for() {
    let peer = Peer::new([given()]);
    let plugin = Plugin::new("ADD", &netconf(&peer.folder, "1.1.0"));
    let plugin = plugin.with("RUST_LOG", "trace").with("RUST_BACKTRACE", "full").with("CNI_DEBUG", "1");
    assert_eq!(plugin.run().success()["cniVersion"], "1.1.0");
    let mut absent = netconf(&peer.folder, "1.1.0");
    absent["ipam"]["socket"] = json!(peer.folder.path("nobody"));
    let outcome = Plugin::new("DEL", &absent).with("RUST_LOG", "trace").run();
    outcome.silent_success();
    assert!(!outcome.stderr.is_empty(), "a tombstone is worth a line");
}
