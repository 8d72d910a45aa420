//! The reference plugins of two releases call ours, in real network namespaces. Tests carry the letters of the rows of
//! docs/development/cni-conformance.md.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use cadastre_tests::{
    Answer, CARDS, DUAL_STACK, Interface, Machine, NetNs, Plugin, Program, Release, SMALL_BLOCKS, Served, addresses,
    call_plugin, held, ipam, report, served, until,
};
use futures::future::try_join_all;
use serde_json::{Value, json};

/// An interface plugin with its configuration, less the section `ipam`.
struct Kind {
    name: &'static str,
    /// For each of the two pods.
    configs: [Value; 2],
    /// Whether pods get a default route that nobody wrote down.
    way_out: bool,
    /// Whether the gateway answers.
    gateway: bool,
    /// The device that the kernel has to know.
    device: Option<&'static [&'static str]>,
}

impl Kind {
    fn new(name: &'static str, config: Value) -> Self {
        Self { name, configs: [config.clone(), config], way_out: false, gateway: false, device: None }
    }

    /// Those that make the gateway themselves.
    fn gateway(name: &'static str, config: Value) -> Self {
        Self { way_out: true, gateway: true, ..Self::new(name, config) }
    }

    /// Each pod on a card of its own.
    fn on_cards(name: &'static str, config: impl Fn(&str) -> Value, device: Option<&'static [&'static str]>) -> Self {
        Self { configs: CARDS.map(config), device, ..Self::new(name, Value::Null) }
    }

    fn all() -> Vec<Self> {
        let master = |kind: &'static str| move |card: &str| json!({ "type": kind, "master": card });
        let vlan = |card: &str| json!({ "type": "vlan", "master": card, "vlanId": 5 });
        vec![
            Self::new("bridge", json!({ "type": "bridge", "bridge": "cni0" })),
            Self::gateway("gateway bridge", json!({ "type": "bridge", "bridge": "cni0", "isGateway": true })),
            Self::gateway(
                "default gateway bridge",
                json!({ "type": "bridge", "bridge": "cni0", "isDefaultGateway": true }),
            ),
            Self::gateway(
                "masquerading bridge",
                json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true }),
            ),
            Self::gateway("ptp", json!({ "type": "ptp" })),
            Self::on_cards("macvlan", master("macvlan"), Some(&["macvlan"])),
            Self::on_cards("ipvlan", master("ipvlan"), Some(&["ipvlan"])),
            Self::on_cards("vlan", vlan, Some(&["vlan", "id", "5"])),
            Self::on_cards("host-device", |card| json!({ "type": "host-device", "device": card }), None),
        ]
    }

    /// The attachment of one of the machine's pods.
    fn attach(&self, release: Release, machine: &Machine, pod: usize, ipam: &Value) -> Result<Interface> {
        let mut config = self.configs[pod].clone();
        config["name"] = "pods".into();
        config["ipam"] = ipam.clone();
        Interface::new(release, &machine.host, config, &machine.pods[pod], "eth0")
    }
}

/// Does something with each interface plugin of each release, on a machine of its own, all at once.
async fn each(test: impl AsyncFn(&Kind, Release, Machine) -> Result<()>) -> Result<()> {
    let kinds = Kind::all();
    let pairs = kinds.iter().flat_map(|kind| Release::BOTH.map(|release| (kind, release)));
    let run = async |(kind, release): (&Kind, Release)| {
        let machine = Machine::new()?;
        if kind.device.is_some_and(|device| !machine.makes(device)) {
            eprintln!("skipped: this kernel makes no {}", kind.name);
            return Ok(());
        }
        test(kind, release, machine).await.with_context(|| format!("{} of {release:?}", kind.name))
    };
    try_join_all(pairs.map(run)).await.map(drop)
}

#[tokio::test]
async fn d1_each_interface_plugin_attaches_checks_and_detaches() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let ipam = ipam(&served.socket());
    each(async |kind, release, machine| {
        let mut given = Vec::new();
        let mut attached = [kind.attach(release, &machine, 0, &ipam)?, kind.attach(release, &machine, 1, &ipam)?];
        for interface in &mut attached {
            given.push(addresses(&interface.ok("ADD").await.with_context(|| served.agent.tail())?)?);
            interface.ok("CHECK").await?;
        }
        ensure!(given.iter().all(|addresses| addresses.len() == 2), "one of each family: {given:?}");
        let ids = attached.each_ref().map(Interface::id).map(str::to_owned);
        let ids = ids.each_ref().map(String::as_str);
        ensure!(served.held_by(&ids).await? == given.iter().flatten().copied().collect(), "{given:?}");
        usable(kind, &machine, &given, &served).await?;
        for interface in &mut attached {
            interface.ok("DEL").await?;
            let again = interface.call("DEL").await?;
            // This one misses its device, after it told us.
            ensure!(again.is_ok() || kind.name == "host-device", "{again:?}");
            ensure!(interface.call("CHECK").await?.is_err(), "nothing is held any more");
        }
        ensure!(served.held_by(&ids).await?.is_empty(), "nothing stays");
        Ok(())
    })
    .await
}

/// Pods reach each other, and the gateway where there is one.
async fn usable(kind: &Kind, machine: &Machine, given: &[Vec<IpAddr>], served: &Served) -> Result<()> {
    let [pod, _] = &machine.pods;
    let routers = served.blocks.iter().filter_map(|block| block.nth(1));
    for other in given[1].iter().copied().chain(routers.filter(|_| kind.gateway)) {
        pod.reaches(&other).await?;
    }
    let expected = if kind.way_out { 2 } else { 0 };
    let found = pod.default_routes().await?;
    ensure!(found == expected, "{found} default routes, {expected} expected");
    Ok(())
}

#[tokio::test]
async fn d2_without_an_agent_each_interface_plugin_says_11_and_status_50() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let ipam = ipam(&served.socket());
    served.agent.kill9();
    each(async |kind, release, machine| {
        let mut interface = kind.attach(release, &machine, 0, &ipam)?;
        let error = interface.call("ADD").await?.err().context("an address without an agent")?;
        ensure!(error["code"] == 11, "{error}");
        let forwards = release == Release::New && ["bridge", "ptp", "macvlan", "ipvlan"].contains(&kind.name);
        if forwards {
            let error = interface.call("STATUS").await?.err().context("well without an agent")?;
            ensure!(error["code"] == 50, "{error}");
        }
        Ok(())
    })
    .await?;
    served.agent.restart()?;
    until("the agent is back", async || Ok(report(&served.cp).await.is_ok())).await?;
    let held = held(&report(&served.cp).await?)?;
    assert!(held.is_empty(), "nothing was reserved, but {held:?}\n{}", served.agent.tail());
    Ok(())
}

#[tokio::test]
async fn d3_an_add_that_fails_leaves_nothing_reserved() -> Result<()> {
    let served = served(SMALL_BLOCKS).await?;
    let without = ipam(&served.socket());
    each(async |kind, release, machine| {
        let mut interface = kind.attach(release, &machine, 0, &without)?;
        let answer = interface.call("ADD").await?;
        // Blocks of four have no gateway: who needs one is told so, and the address goes back.
        match answer {
            Err(error) if error["code"] == 101 => {} // The others have them all just now.
            Err(error) if kind.gateway => {
                ensure!(error["code"] == 7 && error["details"].to_string().contains("ipam.gateway"), "{error}");
            }
            Err(error) => return Err(anyhow!("{error}")),
            Ok(_) => ensure!(!kind.gateway, "no gateway, and nobody minded"),
        }
        interface.ok("DEL").await?;
        ensure!(served.held_by(&[interface.id()]).await?.is_empty(), "nothing stays");
        Ok(())
    })
    .await?;
    assert!(held(&report(&served.cp).await?)?.is_empty());
    Ok(())
}

#[tokio::test]
async fn d3_an_interface_plugin_that_fails_later_leaves_nothing_reserved() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let ipam = ipam(&served.socket());
    for release in Release::BOTH {
        // The bridge has another address of the subnet, and may not have two.
        let machine = Machine::new()?;
        let other = served.blocks[0].nth(9).context("a block of nine")?;
        machine.ip(&["link", "add", "name", "cni0", "type", "bridge"])?;
        machine.ip(&["addr", "add", &format!("{other}/{}", served.blocks[0].prefix_len()), "dev", "cni0"])?;
        let bridge = Kind::gateway("gateway bridge", json!({ "type": "bridge", "bridge": "cni0", "isGateway": true }));
        let error = bridge.attach(release, &machine, 0, &ipam)?.call("ADD").await?.err().context("two addresses")?;
        assert!(error["msg"].to_string().contains("cni0"), "{error}");
        assert!(held(&report(&served.cp).await?)?.is_empty(), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_gateway_outside_of_small_blocks_is_reached_on_the_link() -> Result<()> {
    const GATEWAY: &str = "10.255.255.1";
    let served = served(SMALL_BLOCKS).await?;
    let mut ipam = ipam(&served.socket());
    ipam["gateway"] = GATEWAY.into();
    let machine = Machine::new()?;
    let ptp = Kind::gateway("ptp", json!({ "type": "ptp" }));
    let refused = ptp.attach(Release::New, &machine, 0, &ipam)?.call("ADD").await?.err().context("out of reach")?;
    assert!(refused["code"] == 7 && refused["details"].to_string().contains("larger blocks"), "{refused}");
    assert!(held(&report(&served.cp).await?)?.is_empty(), "nothing stays");

    ipam["addressStyle"] = "onlink".into();
    let bridge = Kind::gateway("gateway bridge", json!({ "type": "bridge", "bridge": "cni0", "isGateway": true }));
    let attach = |pod| bridge.attach(Release::New, &machine, pod, &ipam);
    let mut attached = [attach(0)?, attach(1)?];
    for interface in &mut attached {
        interface.ok("ADD").await?;
    }
    machine.routes_back(&served.blocks)?;
    for (pod, other) in [(&machine.pods[0], attached[1].id()), (&machine.pods[1], attached[0].id())] {
        for address in served.held_by(&[other]).await?.iter().copied().chain([GATEWAY.parse()?]) {
            pod.reaches(&address).await?;
        }
    }
    for interface in &mut attached {
        interface.ok("DEL").await?;
    }
    Ok(())
}

/// CHECK by our plugin alone.
async fn checked(interface: &mut Interface, machine: &Machine) -> Result<()> {
    let pod = machine.pods[0].path();
    let netns = ("CNI_NETNS", pod.to_str().context("a path")?);
    let id = interface.id().to_owned();
    let env = [("CNI_CONTAINERID", id.as_str()), ("CNI_IFNAME", "eth0"), netns];
    let answer = call_plugin(&Program::ours("cadastre")?, "CHECK", interface.config(), &env).await?;
    answer.map(drop).map_err(|error| anyhow!("CHECK: {error}"))
}

#[tokio::test]
async fn addresses_of_their_own_length_work_where_they_are_said_to() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let with = |style: &str| {
        let mut ipam = ipam(&served.socket());
        ipam["addressStyle"] = style.into();
        ipam
    };
    for (kind, style) in [
        (Kind::gateway("gateway bridge", json!({ "type": "bridge", "bridge": "cni0", "isGateway": true })), "onlink"),
        (Kind::new("bridge", json!({ "type": "bridge", "bridge": "cni0" })), "host"),
        (Kind::on_cards("macvlan", |card| json!({ "type": "macvlan", "master": card }), None), "host"),
        (Kind::on_cards("macvlan", |card| json!({ "type": "macvlan", "master": card }), None), "onlink"),
    ] {
        for release in Release::BOTH.into_iter().filter(|release| style == "host" || *release == Release::New) {
            let machine = Machine::new()?;
            let mut interface = kind.attach(release, &machine, 0, &with(style))?;
            let result = interface.ok("ADD").await.with_context(|| format!("{style} of {release:?}"))?;
            let alone =
                |ip: &Value| ip["address"].as_str().is_some_and(|ip| ip.ends_with("/32") || ip.ends_with("/128"));
            let ips = result["ips"].as_array().context("no ips")?;
            // In IPv6 a bridge that is the gateway has to have the prefix length of a subnet.
            assert!(ips.iter().take(if kind.gateway { 1 } else { 2 }).all(alone), "{result}");
            // The reference plugins' own CHECK takes no IPv4 address without a subnet's route, so ours is called.
            checked(&mut interface, &machine).await.with_context(|| format!("{style} of {release:?}"))?;
            if kind.gateway {
                machine.routes_back(&served.blocks)?;
                for router in served.blocks.iter().filter_map(|block| block.nth(1)) {
                    machine.pods[0].reaches(&router).await?;
                }
            }
            assert_eq!(machine.pods[0].default_routes().await?, if style == "onlink" { 2 } else { 0 });
            interface.ok("DEL").await?;
        }
    }
    assert!(held(&report(&served.cp).await?)?.is_empty());
    Ok(())
}

#[tokio::test]
async fn d4_d5_d6_d7_a_del_releases_whatever_became_of_configuration_and_namespace() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let socket = served.socket();
    let bare = json!({ "type": "cadastre", "socket": socket });
    let bridge = json!({ "type": "bridge", "bridge": "cni0", "isGateway": true });
    let kind = Kind::gateway("gateway bridge", bridge);
    for release in Release::BOTH {
        for (what, ipam, previous, netns) in [
            ("type and socket only", bare.clone(), true, true),
            ("no result of ADD", bare.clone(), false, true),
            (
                "another pool",
                json!({ "type": "cadastre", "socket": socket, "subnet": "192.0.2.0/24", "routes": 7 }),
                true,
                true,
            ),
            ("no namespace", bare.clone(), true, false),
        ] {
            let machine = Machine::new()?;
            // D7: what is logged, and whoever asks for more of it, leaves stdout one JSON value.
            let interface = kind.attach(release, &machine, 0, &bare)?.env("RUST_LOG", "trace").env("CNI_DEBUG", "1");
            let mut interface = if netns {
                interface
            } else {
                interface.env("CNI_NETNS", machine.pods[0].path().to_str().context("a path")?)
            };
            interface.ok("ADD").await?;
            assert_eq!(served.held_by(&[interface.id()]).await?.len(), 2, "{what}");
            interface.config()["ipam"] = ipam;
            if !previous {
                interface.config().as_object_mut().context("an object")?.remove("prevResult");
            }
            let mut interface = if netns { interface } else { interface.env("CNI_NETNS", "") };
            interface.ok("DEL").await.with_context(|| format!("{what}, {release:?}"))?;
            assert!(served.held_by(&[interface.id()]).await?.is_empty(), "{what}, {release:?}");
        }
    }
    Ok(())
}

/// GC by our binary itself, since no reference plugin passes it on.
async fn gc(plugin: &Plugin, network: &str, valid: &Value, key: &str) -> Result<Answer> {
    let mut config = plugin.config.clone();
    config["name"] = network.into();
    if !valid.is_null() {
        config[key] = valid.clone();
    }
    call_plugin(&Program::ours("cadastre")?, "GC", &config, &[]).await
}

/// ADD by our binary itself, in a network of this name.
async fn add(plugin: &Plugin, network: &str, netns: &Path, id: &str) -> Result<Vec<IpAddr>> {
    let mut config = plugin.config.clone();
    config["name"] = network.into();
    let netns = netns.to_str().context("a path")?;
    let env = [("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", netns)];
    let answer = call_plugin(&Program::ours("cadastre")?, "ADD", &config, &env).await?;
    addresses(&answer.map_err(|error| anyhow!("ADD of {id} in {network}: {error}"))?)
}

#[tokio::test]
async fn d9_d10_gc_releases_what_is_not_listed_in_its_own_network() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let plugin = &served.plugin;
    let (key, draft) = ("cni.dev/valid-attachments", "cni.dev/attachments");
    let ids = ["first", "second", "third"];
    let spaces = [NetNs::new("first")?, NetNs::new("second")?, NetNs::new("third")?];
    for network in ["blue", "red"] {
        for (id, space) in ids.iter().zip(&spaces) {
            add(plugin, network, &space.path(), id).await?;
        }
    }
    let count = async |id: &str| Ok::<_, anyhow::Error>(served.held_by(&[id]).await?.len());
    // Two proofs free an address: the list that does not name it, and its namespace that is gone.
    drop(spaces);
    let done = |answer: Result<Answer>| answer?.map(drop).map_err(|error| anyhow!("GC: {error}"));
    done(gc(plugin, "blue", &Value::Null, key).await)?;
    assert_eq!(count("first").await?, 4, "an absent list says nothing");
    let list = |ids: &[&str]| ids.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect::<Value>();
    done(gc(plugin, "blue", &list(&["first", "second"]), key).await)?;
    assert_eq!((count("first").await?, count("second").await?, count("third").await?), (4, 4, 2));
    done(gc(plugin, "blue", &list(&["first"]), draft).await)?;
    assert_eq!((count("first").await?, count("second").await?, count("third").await?), (4, 2, 2));
    done(gc(plugin, "blue", &json!([]), key).await)?;
    for id in ids {
        assert_eq!(count(id).await?, 2, "the other network's {id} is not touched");
    }
    Ok(())
}

#[tokio::test]
async fn d12_a_stable_container_id_gets_the_same_address_after_each_restart_of_the_agent() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let mut config = served.plugin.config.clone();
    config["type"] = "cilium-cni".into();
    let mut first = None;
    for round in 0..4 {
        // Each round has a namespace of its own, which is gone at its end.
        let space = NetNs::new("ingress")?;
        let path = space.path();
        let env = [
            ("CNI_CONTAINERID", "cilium-ingress-n0"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", path.to_str().context("a path")?),
            ("CNI_ARGS", "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=cilium-ingress-n0"),
        ];
        let answer = call_plugin(&Program::ours("cadastre")?, "ADD", &config, &env).await?;
        let given = addresses(&answer.map_err(|error| anyhow!("round {round}: {error}"))?)?;
        assert!(given.len() == 2 && given[0].is_ipv4() && given[1].is_ipv6(), "{given:?}");
        assert_eq!(first.get_or_insert_with(|| given.clone()), &given, "round {round}\n{}", served.agent.tail());
        served.agent.restart()?;
        until("the agent answers", async || Ok(report(&served.cp).await.is_ok())).await?;
    }
    assert_eq!(held(&report(&served.cp).await?)?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn d4_multus_a_pods_networks_are_apart_and_need_no_definition_to_end() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    let socket = served.socket();
    for release in Release::BOTH {
        let machine = Machine::new()?;
        let [pod, _] = &machine.pods;
        let attach = |name: &str, config: Value, interface: &str| {
            let mut config = config;
            config["name"] = name.into();
            config["ipam"] = ipam(&socket);
            Interface::new(release, &machine.host, config, pod, interface)
        };
        let gateway = json!({ "type": "bridge", "bridge": "cni0", "isGateway": true });
        let mut networks = [
            attach("cluster", gateway, "eth0")?,
            attach("storage", json!({ "type": "macvlan", "master": CARDS[0] }), "net1")?,
            attach("storage", json!({ "type": "macvlan", "master": CARDS[0] }), "net2")?,
            attach("backup", json!({ "type": "bridge", "bridge": "cni1" }), "net3")?,
        ];
        let mut given = BTreeSet::new();
        for network in &mut networks {
            given.extend(addresses(&network.ok("ADD").await?)?);
        }
        assert_eq!(given.len(), 8, "each has its own: {given:?}");
        assert_eq!(served.held_by(&[networks[0].id()]).await?, given);
        assert_eq!(pod.default_routes().await?, 2, "only the first network leads out");
        let [cluster, storage, second, backup] = &mut networks;
        // A conflist's DEL has been seen with the type of IPAM alone; a definition that is gone leaves not even the result.
        storage.config()["ipam"] = json!({ "type": "cadastre", "socket": socket });
        storage.ok("DEL").await?;
        assert_eq!(served.held_by(&[cluster.id()]).await?.len(), 6);
        let direct =
            json!({ "cniVersion": "0.3.1", "name": "storage", "ipam": { "type": "cadastre", "socket": socket } });
        let env = [("CNI_CONTAINERID", second.id()), ("CNI_IFNAME", "net2")];
        call_plugin(&Program::ours("cadastre")?, "DEL", &direct, &env).await?.map_err(|error| anyhow!("{error}"))?;
        assert_eq!(served.held_by(&[cluster.id()]).await?.len(), 4);
        backup.ok("DEL").await?;
        cluster.ok("DEL").await?;
        assert!(served.held_by(&[cluster.id()]).await?.is_empty());
    }
    Ok(())
}
