//! Configurations of host-local, with nothing changed but the type: rows C1 to C3 and C8 to C12, and the shapes of ranges.
//! What ranges mean is the agent's to judge; what it is told is shown here.

use std::fs;

use serde_json::{Value, json};

use crate::peer::{Act, Peer, given};
use crate::run::{Plugin, VERSIONS, netconf};

fn plugin(peer: &Peer, version: &str, ipam: &Value, runtime: &Value) -> Plugin {
    let mut netconf = netconf(&peer.folder, version);
    netconf["ipam"].as_object_mut().unwrap().extend(ipam.as_object().unwrap().clone());
    netconf["runtimeConfig"] = runtime.clone();
    Plugin::new("ADD", &netconf)
}

/// The sets of which the agent is told; the same for every version.
fn sets(ipam: &Value, runtime: &Value) -> Value {
    let told = VERSIONS.map(|version| {
        let peer = Peer::new([given()]);
        plugin(&peer, version, ipam, runtime).run().success();
        peer.request().unwrap()["local"]["sets"].take()
    });
    assert!(told.iter().all(|sets| *sets == told[0]), "{told:?}");
    let [first, ..] = told;
    first
}

#[test]
fn c1_a_single_subnet() {
    let range =
        json!({ "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.20", "gateway": "10.1.2.30" });
    assert_eq!(sets(&range, &Value::Null), json!([[range]]));
    assert_eq!(sets(&json!({ "subnet": "10.1.2.0/24" }), &json!({})), json!([[{ "subnet": "10.1.2.0/24" }]]));
}

#[test]
fn c2_r10_a_list_of_sets() {
    let whole =
        json!({ "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.20", "gateway": "10.1.2.30" });
    let ranges = json!([[whole, { "subnet": "10.1.4.0/24" }], [{ "subnet": "fd00:1::/64" }]]);
    assert_eq!(sets(&json!({ "ranges": ranges }), &Value::Null), ranges);
}

#[test]
fn c3_the_runtimes_ranges_come_first_and_the_single_subnet_before_the_list() {
    let set = |subnet: &str| json!([{ "subnet": subnet }]);
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let peer = Peer::new([given()]);
        let ipam = json!({ "subnet": "10.2.0.0/16", "ranges": [set("10.3.0.0/16")] });
        plugin(&peer, version, &ipam, &json!({ "ipRanges": [set("10.1.0.0/16"), set("fd00::/64")] })).run().success();
        let expected = ["10.1.0.0/16", "fd00::/64", "10.2.0.0/16", "10.3.0.0/16"].map(set);
        assert_eq!(peer.request().unwrap()["local"]["sets"], json!(expected));
    }
}

#[test]
fn c8_c9_c10_r4_to_r13_what_ranges_mean_is_the_agents_to_say() {
    let peer = Peer::new([crate::peer::error(7, "10.1.0.1/16 has host bits", "write 10.1.0.0/16")]);
    let odd = json!({ "ranges": [
        [{ "subnet": "10.1.0.1/16" }, { "subnet": "10.1.0.0/16" }, { "subnet": "fd00::/127" }],
        [{ "subnet": "10.1.0.0/31", "rangeStart": "10.9.0.0", "rangeEnd": "10.8.0.0" }],
    ] });
    let said = plugin(&peer, "1.1.0", &odd, &Value::Null).run().refused("1.1.0", 7);
    assert_eq!(said, "10.1.0.1/16 has host bits – write 10.1.0.0/16");
    assert_eq!(peer.request().unwrap()["local"]["sets"], odd["ranges"]);
}

#[test]
fn shapes_that_are_wrong_are_named_by_their_path_before_anybody_is_asked() {
    let table = [
        (json!({ "subnet": ["10.0.0.0/8"] }), "ipam.subnet is [\"10.0.0.0/8\"]"),
        (json!({ "subnet": "10.0.0.0" }), "ipam.subnet is \"10.0.0.0\""),
        (json!({ "subnet": "10.0.0.0/8", "rangeEnd": "10.0.0.9/8" }), "ipam.rangeEnd is \"10.0.0.9/8\""),
        (json!({ "rangeStart": "10.0.0.9" }), "ipam.rangeStart is set, and ipam.subnet is not"),
        (json!({ "ranges": [[{ "subnet": "10.0.0.0/8" }], []] }), "ipam.ranges[1] is []"),
        (json!({ "ranges": [[{ "subnet": "10.0.0.0/8" }, {}]] }), "ipam.ranges[0][1].subnet is missing"),
        (json!({ "subnet": "10.0.0.0/8", "addressStyle": "host" }), "ipam.addressStyle \"host\" does not suit"),
        (json!({ "subnet": "10.0.0.0/8", "dataDir": 7 }), "ipam.dataDir is 7"),
    ];
    for version in VERSIONS {
        let peer = Peer::new([given()]);
        for (ipam, message) in &table {
            let said = plugin(&peer, version, ipam, &Value::Null).run().refused(version, 7);
            assert!(said.contains(message), "{said}");
        }
        let said = plugin(&peer, version, &json!({}), &json!({ "ipRanges": [{}] })).run().refused(version, 7);
        assert!(said.contains("runtimeConfig.ipRanges[0] is {}"), "{said}");
        assert_eq!(peer.request(), None);
    }
}

#[test]
fn c11_c12_old_versions_take_one_set_of_each_family() {
    for version in VERSIONS {
        let peer = Peer::new([given()]);
        let two = json!({ "ranges": [[{ "subnet": "10.0.0.0/9" }], [{ "subnet": "10.128.0.0/9" }]] });
        let outcome = plugin(&peer, version, &two, &Value::Null).run();
        match version {
            "0.1.0" | "0.2.0" => {
                assert!(outcome.refused(version, 1).contains("0.3.0 or later"));
                assert_eq!(peer.request(), None, "counted before anybody is asked");
            }
            _ => drop(outcome.success()),
        }
        let one_of_each = json!({ "ranges": [[{ "subnet": "10.0.0.0/9" }], [{ "subnet": "fd00::/64" }]] });
        plugin(&peer, version, &one_of_each, &Value::Null).run().success();
    }
}

#[test]
fn l1_routes_are_those_that_are_listed_and_several_addresses_pass() {
    let three = Act::Reply(json!({ "reply": "given", "addresses": [
        { "address": "10.1.0.2/16", "gateway": "10.1.0.1" },
        { "address": "10.2.0.2/16", "gateway": "10.2.0.1" },
        { "address": "fd00::2/64", "gateway": "fd00::1" },
    ] }));
    let peer = Peer::new([three]);
    let ipam = json!({ "subnet": "10.1.0.0/16" });
    let result = plugin(&peer, "1.0.0", &ipam, &Value::Null).run().success();
    assert_eq!(
        result,
        json!({ "cniVersion": "1.0.0", "ips": [
        { "address": "10.1.0.2/16", "gateway": "10.1.0.1" },
        { "address": "10.2.0.2/16", "gateway": "10.2.0.1" },
        { "address": "fd00::2/64", "gateway": "fd00::1" },
    ] })
    );
    let ipam = json!({ "subnet": "10.1.0.0/16", "routes": [{ "dst": "0.0.0.0/0" }] });
    let result = plugin(&peer, "1.0.0", &ipam, &Value::Null).run().success();
    assert_eq!(result["routes"], json!([{ "dst": "0.0.0.0/0" }]));
}

/// The result's `dns` with a resolver file of this text.
fn dns(version: &str, text: &str) -> Option<Value> {
    let peer = Peer::new([given()]);
    let path = peer.folder.path("resolv.conf");
    fs::write(&path, text).unwrap();
    let ipam = json!({ "subnet": "10.1.0.0/16", "resolvConf": path });
    plugin(&peer, version, &ipam, &Value::Null).run().success().get("dns").cloned()
}

#[test]
fn l12_l13_l14_a_resolver_file_becomes_the_results_dns() {
    let table = [
        ("nameserver 192.0.2.0\n", json!({ "nameservers": ["192.0.2.0"] })),
        (
            "nameserver 192.0.2.0\n#nameserver 192.0.2.1\n;nameserver 192.0.2.2\n",
            json!({ "nameservers": ["192.0.2.0"] }),
        ),
        (
            "# all\nnameserver 192.0.2.0\nnameserver 192.0.2.2\ndomain example.com\nsearch example.com example.net\noptions four score\noptions and\n",
            json!({
                "nameservers": ["192.0.2.0", "192.0.2.2"],
                "domain": "example.com",
                "search": ["example.com", "example.net"],
                "options": ["four", "score", "and"],
            }),
        ),
    ];
    for version in VERSIONS {
        for (text, expected) in &table {
            assert_eq!(dns(version, text).as_ref(), Some(expected), "{version}");
        }
        let empty = (!["1.0.0", "1.1.0"].contains(&version)).then(|| json!({}));
        assert_eq!(dns(version, "# nothing\n"), empty, "{version}");
    }
}

#[test]
fn l12_a_resolver_file_that_cannot_be_read_is_5_before_anybody_is_asked() {
    for version in VERSIONS {
        let peer = Peer::new([given()]);
        for path in [peer.folder.path("none"), peer.folder.path("")] {
            let said = plugin(&peer, version, &json!({ "resolvConf": path }), &Value::Null).run().refused(version, 5);
            assert!(said.contains("ipam.resolvConf") && said.contains(&*path.to_string_lossy()), "{said}");
        }
        plugin(&peer, version, &json!({ "resolvConf": 7 }), &Value::Null).run().refused(version, 7);
        assert_eq!(peer.request(), None);
    }
}
