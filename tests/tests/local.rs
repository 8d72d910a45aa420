//! Networks whose configuration has ranges in host-local's shape: the same answers as host-local gives, its reservations
//! taken over, and pods that are reached. Tests carry the letters of the rows of docs/development/cni-conformance.md.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use cadastre_tests::{
    Answer, Attachment, Cni, DUAL_STACK, Interface, Machine, NODE, NetNs, Program, Release, Scratch, Served, addresses,
    held, report, served,
};
use serde_json::{Value, json};

const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// As people have them for host-local, but for the type.
const RANGES: &str = r#"{"cniVersion":"0.3.1","name":"my-bridge-network","type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"ipam":{"type":"cadastre","ranges":[[{"subnet":"10.244.0.0/16","rangeStart":"10.244.1.10","rangeEnd":"10.244.1.250"}]],"routes":[{"dst":"0.0.0.0/0"}]}}"#;
const SUBNET: &str = r#"{"cniVersion":"0.3.1","name":"my-network","type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"ipam":{"type":"cadastre","subnet":"192.168.1.0/24","routes":[{"dst":"0.0.0.0/0"}]}}"#;

#[tokio::test]
async fn c1_c2_configurations_of_host_local_work_with_nothing_changed_but_the_type() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let folder = served.socket().parent().context("the socket's folder")?.to_owned();
    for (config, first, gateway) in [(RANGES, "10.244.1.10", "10.244.0.1"), (SUBNET, "192.168.1.2", "192.168.1.1")] {
        for release in Release::BOTH {
            let machine = Machine::new()?;
            let config: Value = serde_json::from_str(config)?;
            let attach = |pod: usize| {
                let interface = Interface::new(release, &machine.host, config.clone(), &machine.pods[pod], "eth0")?;
                let mut interface = interface.agent_at_default(&folder);
                interface.config()["cniVersion"] = "0.3.1".into();
                anyhow::Ok(interface)
            };
            let mut attached = [attach(0)?, attach(1)?];
            let mut given = Vec::new();
            for interface in &mut attached {
                let result = interface.ok("ADD").await.with_context(|| served.agent.tail())?;
                assert_eq!((&result["cniVersion"], &result["ips"][0]["gateway"]), (&json!("0.3.1"), &json!(gateway)));
                given.extend(addresses(&result)?);
            }
            if release == Release::New {
                assert_eq!(given[0], first.parse::<IpAddr>()?, "{given:?}");
            }
            for address in [given[1], gateway.parse()?] {
                machine.pods[0].reaches(&address).await?;
            }
            let nat = machine.host.run(&["iptables", "-t", "nat", "-S"]).await?.ok()?;
            assert!(nat.contains("MASQUERADE"), "ipMasq: {nat}");
            for interface in &mut attached {
                interface.ok("DEL").await?;
                interface.ok("DEL").await?;
            }
            let ids = attached.each_ref().map(Interface::id);
            assert!(served.held_by(&ids).await?.is_empty());
        }
    }
    Ok(())
}

/// One caller of two IPAM plugins, each with a network of its own that is new to it.
struct Twins<'a> {
    served: &'a Served,
    scratch: Scratch,
    netns: NetNs,
}

impl Twins<'_> {
    /// The answer of host-local, and of ours.
    async fn ask(&self, command: &str, config: &Value, id: &str, args: &str) -> Result<[Answer; 2]> {
        let mut answers = Vec::new();
        for ours in [false, true] {
            let mut config = config.clone();
            config["ipam"]["type"] = if ours { "cadastre" } else { "host-local" }.into();
            config["ipam"]["socket"] = json!(self.served.socket());
            // What one reserved is not for the other to take over here.
            config["ipam"]["dataDir"] = json!(self.scratch.path().join(if ours { "nothing" } else { "networks" }));
            let program = if ours { Program::ours("cadastre")? } else { Program::tool("host-local")? };
            let path = self.netns.path();
            let path = path.to_str().context("a path")?;
            let env = [("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", path), ("CNI_ARGS", args)];
            answers.push(cadastre_tests::call_plugin(&program, command, &config, &env).await?);
        }
        answers.try_into().map_err(|_| anyhow!("two answers"))
    }
}

/// Rows with their configuration less name and version, `CNI_ARGS`, and whether versions before 0.3.0 take it.
fn rows(resolver: &Path) -> Vec<(&'static str, Value, &'static str, bool)> {
    let set = |subnet: &str| json!([{ "subnet": subnet }]);
    let both = json!([set("10.1.2.0/24"), set("2001:db8:1::/64")]);
    let routes = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }, { "dst": "192.168.0.0/16", "gw": "10.1.2.9" }]);
    let one = |ipam: Value| json!({ "ipam": ipam });
    let with = |key: &str, value: Value| json!({ "ipam": { "subnet": "10.1.2.0/24" }, key: value });
    vec![
        (
            "c1",
            one(
                json!({ "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.20", "gateway": "10.1.2.30" }),
            ),
            "",
            true,
        ),
        (
            "c2",
            one(
                json!({ "ranges": [[{ "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9" }, { "subnet": "10.1.4.0/24" }]] }),
            ),
            "",
            true,
        ),
        ("c3", json!({ "ipam": { "subnet": "10.1.9.0/24" }, "runtimeConfig": { "ipRanges": both } }), "", false),
        ("c4", with("other", json!(1)), "IP=10.1.2.10", true),
        ("c5", with("other", json!(1)), "IP=10.1.2.11/24", true),
        ("c6", with("args", json!({ "cni": { "ips": ["10.1.2.10"] } })), "", true),
        ("c7", with("args", json!({ "cni": { "ips": ["10.1.2.11/24"] } })), "", true),
        ("c8", one(json!({ "ranges": [set("10.1.2.0/24"), set("10.1.2.128/25")] })), "", true),
        ("c9", one(json!({ "ranges": [[{ "subnet": "10.1.2.0/24" }, { "subnet": "10.1.2.0/25" }]] })), "", true),
        ("c10", one(json!({ "ranges": [[{ "subnet": "10.1.2.0/24" }, { "subnet": "2001:db8::/64" }]] })), "", true),
        ("c11", one(json!({ "ranges": [set("10.1.2.0/24"), set("10.1.3.0/24")] })), "", false),
        ("c12", one(json!({ "ranges": both })), "", true),
        ("c13", with("runtimeConfig", json!({ "ips": ["10.1.2.77/24"] })), "", true),
        ("l1", one(json!({ "ranges": both, "routes": routes })), "", true),
        ("l8", one(json!({ "ranges": both })), "IP=10.1.2.88", true),
        (
            "l9",
            json!({ "ipam": { "ranges": [set("10.1.2.0/24"), set("10.1.3.0/24")] }, "args": { "cni": { "ips": ["10.1.3.5", "10.1.2.88"] } } }),
            "",
            false,
        ),
        (
            "l10",
            json!({ "ipam": { "ranges": both }, "args": { "cni": { "ips": ["10.1.2.88", "2001:db8:1::999"] } } }),
            "",
            true,
        ),
        ("l11", with("args", json!({ "cni": { "ips": ["10.1.9.1"] } })), "", true),
        ("l12", one(json!({ "subnet": "10.1.2.0/24", "resolvConf": resolver })), "", true),
        ("r1", one(json!({ "subnet": "192.0.2.0/24" })), "", true),
        ("r2", one(json!({ "subnet": "192.0.2.0/25" })), "", true),
        ("r3", one(json!({ "subnet": "2001:db8:1::/64" })), "", true),
        ("r4", one(json!({ "subnet": "192.0.2.12/24" })), "", true),
        ("r5", one(json!({ "ranges": [[{ "subnet": "2001:db8::1/64" }]] })), "", true),
        ("r9 start", one(json!({ "subnet": "192.0.2.0/24", "rangeStart": "192.0.3.0" })), "", true),
        ("r9 end", one(json!({ "subnet": "192.0.2.0/24", "rangeEnd": "192.0.3.0" })), "", true),
        (
            "r9 inverted",
            one(json!({ "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.50", "rangeEnd": "192.0.2.40" })),
            "",
            true,
        ),
        (
            "r10",
            one(
                json!({ "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.40", "rangeEnd": "192.0.2.41", "gateway": "192.0.2.254" }),
            ),
            "",
            true,
        ),
    ]
}

#[tokio::test]
async fn c_l_r_rows_are_answered_as_host_local_answers_them() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let twins = Twins { served: &served, scratch: Scratch::new()?, netns: NetNs::new("twins")? };
    let text = "nameserver 192.0.2.53\n# none\nsearch a b\ndomain a\noptions ndots:5\n";
    let resolver = twins.scratch.write("resolv.conf", text)?;
    for (row, config, args, old) in rows(&resolver) {
        for version in VERSIONS {
            let mut config = config.clone();
            config["cniVersion"] = version.into();
            config["name"] = format!("{}-{}", row.replace(' ', "-"), version.replace('.', "-")).into();
            let what = format!("{row} in {version}");
            for id in ["first", "second"] {
                let [theirs, ours] = twins.ask("ADD", &config, id, args).await?;
                match (&theirs, &ours) {
                    (Ok(theirs), Ok(ours)) => assert_eq!(theirs, ours, "{what}"),
                    (Err(_), Err(ours)) => assert_ne!(ours["code"], 999, "{what}: {ours}"),
                    _ => panic!("{what}, {id}: host-local says {theirs:?}, we say {ours:?}\n{}", served.agent.tail()),
                }
                assert!(
                    old || id == "second" || theirs.is_ok() != ["0.1.0", "0.2.0"].contains(&version),
                    "{what}: {theirs:?}"
                );
            }
            for id in ["first", "second", "second"] {
                let [_, ours] = twins.ask("DEL", &config, id, args).await?;
                ours.map_err(|error| anyhow!("{what}: {error}"))?;
            }
        }
    }
    let shown = report(&served.cp).await?;
    let free = |row: &Value| row["state"] == "cooling" || row["attachment"].is_null();
    let rows = shown["addresses"].as_array().context("no addresses")?;
    assert!(rows.iter().all(free), "nothing stays, of those that failed neither: {shown}");
    Ok(())
}

#[tokio::test]
async fn r8_d8_ranges_that_host_local_finds_too_small_are_served_and_say_when_they_are_full() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    for (subnet, count) in [("10.1.0.0/31", 2), ("10.1.0.0/32", 1), ("fd00:1::/127", 2), ("fd00:1::/128", 1)] {
        let network = subnet.replace(['.', ':', '/'], "-");
        let call = async |verb: &str, id: &str| {
            let netns = ("CNI_NETNS", "/proc/self/ns/net");
            let mut config = served.plugin.config.clone();
            config["name"] = network.clone().into();
            config["type"] = "macvlan".into();
            config["ipam"]["subnet"] = subnet.into();
            let env = [("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0"), netns];
            cadastre_tests::call_plugin(&Program::ours("cadastre")?, verb, &config, &env).await
        };
        let mut given = BTreeSet::new();
        for number in 0..count {
            let answer = call("ADD", &format!("c{number}")).await?.map_err(|error| anyhow!("{subnet}: {error}"))?;
            given.extend(addresses(&answer)?);
        }
        assert_eq!(given.len(), count, "{subnet}: {given:?}");
        let error = call("ADD", "more").await?.err().context("more than there is")?;
        assert_eq!(error["code"], 101, "{error}");
        let error = call("STATUS", "").await?.err().context("well while it is full")?;
        assert_eq!(error["code"], 50, "{error}");
        call("DEL", "c0").await?.map_err(|error| anyhow!("{subnet}: {error}"))?;
        call("STATUS", "").await?.map_err(|error| anyhow!("{subnet}: {error}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn l4_a_node_moves_from_host_local_with_the_pods_it_has() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let host = NetNs::new("node")?;
    let conflist = |ipam: &str| {
        let ipam = json!({ "type": ipam, "subnet": "10.77.0.0/24", "routes": [{ "dst": "0.0.0.0/0" }], "socket": served.socket() });
        let bridge = json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam });
        json!({ "cniVersion": "1.0.0", "name": "moving", "plugins": [bridge] })
    };
    let cni = Cni::new(&host, &conflist("host-local"))?;
    let pods = [NetNs::new("stays")?, NetNs::new("ends")?, NetNs::new("lost")?, NetNs::new("new")?];
    let attachment = |number: usize| Attachment::new(&pods[number]).pod("default", pods[number].name(), "uid");
    let mut before = Vec::new();
    for number in 0..3 {
        before.extend(addresses(&cni.add(&attachment(number)).await?)?);
    }
    let [stays, ends, lost] = before[..] else { return Err(anyhow!("three addresses: {before:?}")) };
    let store = cni.cache().join("networks/moving");
    let names =
        || anyhow::Ok(fs::read_dir(&store)?.map(|entry| Ok(entry?.file_name())).collect::<Result<BTreeSet<_>>>()?);
    let files = names()?;

    // A pod that went away while nobody told host-local, as by a reboot or a lost DEL.
    let gone = pods[2].path();
    let unmounted = std::process::Command::new("ip").args(["netns", "del", pods[2].name()]).status()?;
    assert!(unmounted.success() && !gone.exists());
    cni.rewrite(&conflist("cadastre"))?;
    let new = addresses(&cni.add(&attachment(3)).await.with_context(|| served.agent.tail())?)?;
    assert!(!before[..2].contains(&new[0]), "{new:?} is in use: {before:?}");
    let now: BTreeSet<IpAddr> = held(&report(&served.cp).await?)?.into_keys().collect();
    assert_eq!(now, BTreeSet::from([stays, ends, new[0]]), "{lost} is nobody's\n{}", served.agent.tail());
    assert_eq!(names()?, files, "host-local's records stay as they are");

    pods[3].reaches(&stays).await?;
    cni.check(&attachment(0)).await?;
    cni.del(&attachment(1)).await?;
    let now: BTreeSet<IpAddr> = held(&report(&served.cp).await?)?.into_keys().collect();
    assert_eq!(now, BTreeSet::from([stays, new[0]]), "what was taken over is released like any other");
    let shown = report(&served.cp).await?;
    assert_eq!(shown["node"], NODE);
    let owner =
        |row: &Value| row["address"] == stays.to_string() && row["owner"] == format!("default/{}", pods[0].name());
    assert!(shown["addresses"].as_array().context("no addresses")?.iter().any(owner), "{shown}");
    Ok(())
}
