//! The answer suits the interface plugin that asks, or nothing stays reserved.

use serde_json::{Value, json};

use crate::peer::{Peer, error, given, lone, ok};
use crate::run::{Folder, Plugin, VERSIONS, netconf};

fn patched(folder: &Folder, version: &str, patch: &Value, ipam: &Value) -> Value {
    let mut netconf = netconf(folder, version);
    netconf.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
    netconf["ipam"].as_object_mut().unwrap().extend(ipam.as_object().unwrap().clone());
    netconf
}

fn add(peer: &Peer, version: &str, patch: &Value, ipam: &Value) -> Plugin {
    Plugin::new("ADD", &patched(&peer.folder, version, patch, ipam))
}

/// Prefix lengths and gateways in order, and routes, as version 1.1.0 prints them.
fn printed(patch: &Value, ipam: &Value) -> (Vec<Value>, Value) {
    let peer = Peer::new([given()]);
    let mut result = add(&peer, "1.1.0", patch, ipam).run().success();
    let routes = result["routes"].take();
    (result["ips"].as_array().unwrap().clone(), routes)
}

#[test]
fn default_routes_follow_the_caller() {
    let ways_out = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    for (patch, routes) in [
        (json!({ "type": "ptp" }), &ways_out),
        (json!({ "type": "bridge", "isGateway": true }), &ways_out),
        (json!({ "type": "bridge", "isDefaultGateway": true }), &ways_out),
        (json!({ "type": "cilium-cni" }), &ways_out),
        (json!({ "type": null }), &ways_out),
        (json!({ "type": "bridge" }), &Value::Null),
        (json!({ "type": "macvlan" }), &Value::Null),
        (json!({ "type": "ipvlan" }), &Value::Null),
        (json!({ "type": "vlan" }), &Value::Null),
        (json!({ "type": "host-device" }), &Value::Null),
    ] {
        let (ips, given) = printed(&patch, &json!({}));
        assert_eq!(&given, routes, "{patch}");
        assert_eq!(ips[0], json!({ "address": "10.0.2.48/24", "gateway": "10.0.2.1" }), "{patch}");
        assert_eq!(printed(&patch, &json!({ "routes": [] })).1, Value::Null, "{patch}");
    }
}

#[test]
fn style_host_is_an_address_and_nothing_else() {
    for version in VERSIONS {
        let peer = Peer::new([given()]);
        let text = add(&peer, version, &json!({}), &json!({ "addressStyle": "host" })).run().success().to_string();
        assert!(text.contains("10.0.2.48/32") && text.contains("fd00::30/128"), "{text}");
        assert!(!text.contains("gateway") && !text.contains("routes"), "{text}");
    }
}

#[test]
fn style_onlink_leads_to_the_gateway_first() {
    let (ips, routes) = printed(&json!({ "type": "bridge", "isGateway": true }), &json!({ "addressStyle": "onlink" }));
    assert_eq!(
        ips,
        [
            json!({ "address": "10.0.2.48/32", "gateway": "10.0.2.1" }),
            json!({ "address": "fd00::30/128", "gateway": "fd00::1" }),
        ]
    );
    let expected = json!([
        { "dst": "10.0.2.1/32", "gw": "0.0.0.0", "scope": 253 },
        { "dst": "fd00::1/128", "gw": "::", "scope": 253 },
        { "dst": "0.0.0.0/0", "gw": "10.0.2.1" },
        { "dst": "::/0", "gw": "fd00::1" },
    ]);
    assert_eq!(routes, expected);
}

#[test]
fn styles_that_cannot_work_are_refused_before_anybody_is_asked() {
    for version in VERSIONS {
        let peer = Peer::new([given()]);
        let mut table = vec![
            (json!({ "type": "ptp" }), "host"),
            (json!({ "type": "ptp" }), "onlink"),
            (json!({ "isGateway": true }), "host"),
            (json!({}), "link"),
        ];
        table.extend((version != "1.1.0").then(|| (json!({}), "onlink")));
        for (patch, style) in table {
            let said = add(&peer, version, &patch, &json!({ "addressStyle": style })).run().refused(version, 7);
            assert!(said.contains("ipam.addressStyle"), "{said}");
        }
        assert_eq!(peer.request(), None);
    }
}

#[test]
fn a_configured_gateway_is_for_blocks_that_have_none() {
    for (ipam, act, gateway) in [
        (json!({ "gateway": "10.0.2.254" }), lone(), "10.0.2.254"),
        (json!({ "gateway": ["fd00::fe", "10.0.2.254"] }), lone(), "10.0.2.254"),
        (json!({ "gateway": "10.0.2.254" }), given(), "10.0.2.1"),
    ] {
        let peer = Peer::new([act]);
        let result = add(&peer, "1.1.0", &json!({ "type": "ptp" }), &ipam).run().success();
        assert_eq!(result["ips"][0]["gateway"], gateway);
    }
    let peer = Peer::new([given()]);
    for bad in [json!(7), json!("10.0.2.1/24"), json!(["10.0.2.1", "10.0.2.2"])] {
        let said = add(&peer, "1.1.0", &json!({}), &json!({ "gateway": bad })).run().refused("1.1.0", 7);
        assert!(said.contains("ipam.gateway is"), "{said}");
    }
    assert_eq!(peer.request(), None);
}

#[test]
fn d3_an_address_that_the_caller_cannot_use_is_given_back() {
    let onlink = json!({ "addressStyle": "onlink" });
    for (patch, ipam, remedy) in [
        (json!({ "type": "ptp" }), json!({}), "ipam.gateway"),
        (json!({ "isGateway": true }), json!({ "gateway": "fd00::1" }), "larger blocks"),
        (json!({ "type": "macvlan" }), onlink, "ipam.gateway"),
        (json!({ "type": "ptp" }), json!({ "subnet": "10.0.2.48/30" }), "in the range"),
    ] {
        let peer = Peer::new([lone(), ok()]);
        let said = add(&peer, "1.1.0", &patch, &ipam).run().refused("1.1.0", 7);
        assert!(said.contains("10.0.2.48/30 has no gateway") && said.contains(remedy), "{said}");
        assert_eq!(peer.requests("verb"), ["add", "del"]);
        assert!(!peer.folder.path("tombstones").exists());
    }
    let peer = Peer::new([lone(), error(999, "the journal is full", "")]);
    add(&peer, "1.1.0", &json!({ "type": "ptp" }), &json!({})).run().refused("1.1.0", 7);
    assert!(peer.folder.path("tombstones").exists(), "the agent is to give it back later");
    let peer = Peer::new([lone()]);
    add(&peer, "1.1.0", &json!({}), &json!({})).run().success();
    assert_eq!(peer.requests("verb"), ["add"], "a plain bridge needs no gateway");
}
