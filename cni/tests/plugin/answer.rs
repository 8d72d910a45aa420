//! The answer suits the interface plugin that asks, or nothing stays reserved.

use std::fs::File;

use serde_json::{Value, json};

use crate::peer::{Act, Peer, error, given, lone, ok};
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
        (json!({ "type": "bridge", "isDefaultGateway": true }), &Value::Null), // It makes its own.
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
    let (v4, out) = (json!({ "dst": "10.0.2.1/32", "gw": "0.0.0.0", "scope": 253 }), |gateway: &str| match gateway {
        "10.0.2.1" => json!({ "dst": "0.0.0.0/0", "gw": gateway }),
        _ => json!({ "dst": "::/0", "gw": gateway }),
    });
    let ip = |address: &str, gateway: &str| json!({ "address": address, "gateway": gateway });
    // In IPv6 a route on the link has no gateway, and so the address has none that a caller could put into it.
    let (ips, routes) = printed(&json!({ "type": "macvlan" }), &json!({ "addressStyle": "onlink" }));
    assert_eq!(ips, [ip("10.0.2.48/32", "10.0.2.1"), json!({ "address": "fd00::30/128" })]);
    let v6 = json!({ "dst": "fd00::1/128", "scope": 253 });
    assert_eq!(routes, json!([v4, v6, out("10.0.2.1"), out("fd00::1")]));
    // A bridge that is the gateway would invent one then.
    let (ips, routes) = printed(&json!({ "type": "bridge", "isGateway": true }), &json!({ "addressStyle": "onlink" }));
    assert_eq!(ips, [ip("10.0.2.48/32", "10.0.2.1"), ip("fd00::30/120", "fd00::1")]);
    assert_eq!(routes, json!([v4, out("10.0.2.1"), out("fd00::1")]));
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
        (json!({ "gateway": "10.0.2.49" }), lone(), "10.0.2.49"),
        (json!({ "gateway": ["fd00::fe", "10.0.2.49"] }), lone(), "10.0.2.49"),
        (json!({ "gateway": "10.0.2.49" }), given(), "10.0.2.1"),
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
fn d3_an_address_that_cannot_be_printed_is_given_back() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let peer = Peer::new([lone(), ok()]);
    let plugin = add(&peer, "1.1.0", &json!({}), &json!({}));
    let mut command = plugin.command();
    command.stdout(full());
    let outcome = plugin.run_as(command);
    assert!(outcome.exit == 1 && outcome.stderr.contains("cannot write the answer"), "{outcome:?}");
    assert_eq!(peer.requests("verb"), ["add", "del"]);
    let Act::Reply(mut again) = lone() else { panic!("no reply") };
    again["again"] = true.into();
    let peer = Peer::new([Act::Reply(again)]);
    let plugin = add(&peer, "1.1.0", &json!({}), &json!({}));
    let mut command = plugin.command();
    command.stdout(full());
    assert_eq!(plugin.run_as(command).exit, 1);
    assert_eq!(peer.requests("verb"), ["add"], "it had them before, and may use them");
}

#[test]
fn d3_an_address_that_the_caller_cannot_use_is_given_back() {
    let onlink = json!({ "addressStyle": "onlink" });
    for (patch, ipam, remedy) in [
        (json!({ "type": "ptp" }), json!({}), "ipam.gateway"),
        (json!({ "type": "ptp" }), json!({ "gateway": "10.0.9.1" }), "larger blocks"),
        (json!({ "isGateway": true }), json!({ "gateway": "10.0.2.48" }), "onlink"),
        (json!({ "isGateway": true }), json!({ "gateway": "fd00::1" }), "larger blocks"),
        (json!({ "type": "macvlan" }), onlink, "ipam.gateway"),
        (json!({ "type": "ptp" }), json!({ "subnet": "10.0.2.48/30" }), "in the range"),
    ] {
        let peer = Peer::new([lone(), ok()]);
        let said = add(&peer, "1.1.0", &patch, &ipam).run().refused("1.1.0", 7);
        assert!(said.contains("10.0.2.48/30") && said.contains("gateway") && said.contains(remedy), "{said}");
        assert_eq!(peer.requests("verb"), ["add", "del"]);
        assert!(!peer.folder.path("tombstones").exists());
    }
    let peer = Peer::new([lone(), error(999, "the journal is full", "")]);
    add(&peer, "1.1.0", &json!({ "type": "ptp" }), &json!({})).run().refused("1.1.0", 7);
    assert!(peer.folder.path("tombstones").exists(), "the agent is to give it back later");
    let Act::Reply(mut again) = lone() else { panic!("no reply") };
    again["again"] = true.into();
    let peer = Peer::new([Act::Reply(again)]);
    add(&peer, "1.1.0", &json!({ "type": "ptp" }), &json!({})).run().refused("1.1.0", 7);
    assert_eq!(peer.requests("verb"), ["add"], "it had them before, and may use them");
    let peer = Peer::new([lone()]);
    add(&peer, "1.1.0", &json!({}), &json!({})).run().success();
    assert_eq!(peer.requests("verb"), ["add"], "a plain bridge needs no gateway");
}
