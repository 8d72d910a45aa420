//! Addresses that the caller asks for, from each place where it may: rows C4 to C7, C13 and S4 to S14.

use serde_json::{Value, json};

use crate::peer::{Peer, given};
use crate::run::{Plugin, VERSIONS, netconf};

const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

fn plugin(peer: &Peer, version: &str, patch: &Value, args: &str) -> Plugin {
    let mut netconf = netconf(&peer.folder, version);
    netconf.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
    Plugin::new("ADD", &netconf).with("CNI_ARGS", args)
}

/// The addresses of which the agent is told, in every version.
fn asks(patch: &Value, args: &str, addresses: &[&str]) {
    for version in VERSIONS {
        let peer = Peer::new([given()]);
        plugin(&peer, version, patch, args).run().success();
        let request = peer.request().unwrap();
        let asked = request.get("asked").cloned().unwrap_or(json!([]));
        assert_eq!(asked, json!(addresses), "{version} {patch} {args}");
    }
}

/// Refused before anybody is asked, in every version.
fn refused(patch: &Value, args: &str, code: u32, message: &str) {
    for version in VERSIONS {
        let peer = Peer::new([given()]);
        let said = plugin(&peer, version, patch, args).run().refused(version, code);
        assert!(said.contains(message), "{said}");
        assert_eq!(peer.request(), None);
    }
}

#[test]
fn c4_c5_s4_s5_from_cni_args_with_and_without_prefix_length() {
    asks(&json!({}), "IP=10.1.2.10", &["10.1.2.10"]);
    asks(&json!({}), "IgnoreUnknown=1;IP=10.1.2.11/24;K8S_POD_NAME=x", &["10.1.2.11"]);
    asks(&json!({}), "IP=10.1.2.10,FD00:0::10/64", &["10.1.2.10", "fd00::10"]);
    asks(&json!({}), "IP=", &[]);
}

#[test]
fn c6_c7_s7_from_args_with_and_without_prefix_length() {
    asks(&json!({ "args": { "cni": { "ips": ["10.1.2.10", "10.1.2.11/24"] } } }), "", &["10.1.2.10", "10.1.2.11"]);
    asks(&json!({ "args": { "cni": { "ips": [] } } }), "", &[]);
    asks(&json!({ "args": null }), "", &[]);
}

#[test]
fn c13_s6_l8_l9_l10_from_runtime_config() {
    asks(
        &json!({ "runtimeConfig": { "ips": ["192.168.0.1/24", "2001:db8::1/64"] } }),
        "",
        &["192.168.0.1", "2001:db8::1"],
    );
    asks(&json!({ "runtimeConfig": { "ips": ["192.168.0.1"] } }), "", &["192.168.0.1"]);
}

#[test]
fn s8_all_places_count_and_each_address_once() {
    let patch = json!({
        "args": { "cni": { "ips": ["10.1.2.11", "10.1.2.10/24"] } },
        "runtimeConfig": { "ips": ["10.1.2.12/24", "10.1.2.11"] },
    });
    asks(&patch, "IP=10.1.2.10", &["10.1.2.10", "10.1.2.11", "10.1.2.12"]);
}

#[test]
fn the_pods_annotations_count_for_eth0_and_are_said_to_be_known() {
    let annotations = json!({ "cadastre.io/ipv4": "10.1.2.10", "cadastre.io/ipv6": "fd00::10", "other": "x" });
    for (interface, annotations, asked) in [
        ("eth0", annotations.clone(), json!(["10.1.2.10", "fd00::10"])),
        ("net1", annotations, Value::Null),
        ("eth0", json!({ "other": "x" }), Value::Null),
        ("eth0", json!({}), Value::Null),
    ] {
        let peer = Peer::new([given()]);
        let patch = json!({ "runtimeConfig": { ANNOTATIONS: annotations } });
        plugin(&peer, "1.1.0", &patch, "").with("CNI_IFNAME", interface).run().success();
        let request = peer.request().unwrap();
        assert_eq!((&request["asked"], &request["annotated"]), (&asked, &json!(true)));
    }
}

#[test]
fn s9_s10_without_ipam_nothing_is_asked() {
    let remedy = "\"ipam\": {\"type\": \"cadastre\"}";
    refused(&json!({ "ipam": null }), "IP=10.1.2.10", 7, remedy);
    refused(&json!({ "ipam": null, "args": { "cni": { "ips": ["10.1.2.10"] } } }), "", 7, remedy);
}

#[test]
fn s12_s13_s14_what_is_no_address_is_named_by_its_place() {
    refused(&json!({}), "IP=10.1.2.10/33", 4, "IP=10.1.2.10/33 in CNI_ARGS");
    refused(&json!({}), "IP=10.1.2.10,", 4, "IP= in CNI_ARGS");
    refused(&json!({ "runtimeConfig": { "ips": ["10.1.2.10/24", "x"] } }), "", 7, "runtimeConfig.ips[1] is \"x\"");
    refused(&json!({ "args": { "cni": { "ips": ["invalid-ip/24"] } } }), "", 7, "args.cni.ips[0] is \"invalid-ip/24\"");
    refused(&json!({ "args": { "cni": { "ips": "10.1.2.10" } } }), "", 7, "args.cni.ips is \"10.1.2.10\"");
    let annotated = json!({ "runtimeConfig": { ANNOTATIONS: { "cadastre.io/ipv6": "10.1.2.10" } } });
    refused(&annotated, "", 7, "the pod's annotation cadastre.io/ipv6 is \"10.1.2.10\"");
}
