//! DEL: succeeds, needs three names, and is never lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::peer::{Act, Peer, error, given, ok};
use crate::run::{BINARY, Folder, Outcome, Plugin, VERSIONS, netconf};

fn del(folder: &Folder) -> Plugin {
    Plugin::new("DEL", &netconf(folder, "1.1.0"))
}

/// What lies in the folder of tombstones, by name.
fn tombstones(folder: &Folder) -> Vec<(String, Value)> {
    let Ok(files) = fs::read_dir(folder.path("tombstones")) else { return vec![] };
    let read = |path: &Path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let file = |path: &Path| (path.file_name().unwrap().to_string_lossy().into_owned(), read(path));
    files.map(|entry| file(&entry.unwrap().path())).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn hundredths_since_boot() -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    uptime.split(' ').next().unwrap().replace('.', "").parse().unwrap()
}

#[test]
fn l5_the_agent_is_told_and_nothing_is_printed() {
    for version in VERSIONS {
        let peer = Peer::new([ok()]);
        let outcome = Plugin::new("DEL", &netconf(&peer.folder, version)).run();
        outcome.silent_success();
        assert_eq!(outcome.stderr, "");
        let attachment = json!({ "network": "net", "containerId": "c1", "interface": "eth0" });
        assert_eq!(peer.request(), Some(json!({ "protocol": 1, "verb": "del", "attachment": attachment })));
        assert_eq!(tombstones(&peer.folder), []);
    }
}

#[test]
fn d4_d5_d6_only_network_container_and_interface_count() {
    let peer = Peer::new([ok()]);
    let socket = peer.folder.socket();
    let only = json!({ "type": "cadastre", "socket": socket });
    for patch in [
        json!({ "ipam": only, "prevResult": null }),
        json!({ "ipam": { "socket": socket, "routes": 7, "subnet": "x", "ranges": [[]] } }),
        json!({ "ipam": only, "prevResult": "garbage" }),
        json!({ "ipam": only, "prevResult": {} }),
        json!({ "cniVersion": "9.9.9" }),
        json!({ "cniVersion": ["garbage"] }),
        json!({ "type": 7, "runtimeConfig": { "ips": ["x"] }, "args": "x" }),
    ] {
        let mut netconf = netconf(&peer.folder, "1.1.0");
        netconf.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        let plugin = Plugin::new("DEL", &netconf).with("CNI_ARGS", "IP=x;;=");
        for plugin in
            [plugin.with("CNI_NETNS", "").without("CNI_PATH"), Plugin::new("DEL", &netconf).with("CNI_NETNS", "/gone")]
        {
            plugin.run().silent_success();
            assert_eq!(peer.request().unwrap()["attachment"]["network"], "net", "{netconf}");
        }
    }
}

/// The plugin run by a script that has a `/run` of its own, where nobody listens at the default socket.
fn in_own_run(plugin: &Plugin, script: &str) -> Option<Outcome> {
    if !Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    {
        eprintln!("skipped: no mount namespaces here");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec", script]).env("PLUGIN", BINARY);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(plugin.command().get_envs().filter_map(|(name, value)| Some((name, value?))));
    Some(plugin.run_as(command))
}

fn del_at_default_socket(netconf: &Value) -> Plugin {
    let plugin = Plugin::bare("DEL").with("CNI_CONTAINERID", "c1").with("CNI_IFNAME", "eth0");
    plugin.with("PATH", "/usr/bin:/bin").stdin(netconf.to_string())
}

#[test]
fn d4_no_ipam_section_at_all() {
    let script = "mount -t tmpfs none /run; $PLUGIN; cat /run/cadastre/tombstones/*.json";
    for ipam in [json!({ "type": "cadastre" }), Value::Null, json!([7]), json!({ "socket": "relative" })] {
        let plugin = del_at_default_socket(&json!({ "name": "net", "ipam": ipam }));
        let Some(outcome) = in_own_run(&plugin, script) else { return };
        assert_eq!(outcome.success()["attachment"]["network"], "net", "{ipam}");
    }
}

#[test]
fn k3_a_full_disk_neither_fails_the_del_nor_keeps_half_a_tombstone() {
    let fill = "mount -t tmpfs -o size=4k none /run; echo x > /run/x";
    let script = format!("{fill}; $PLUGIN; ls -A /run/cadastre/tombstones");
    let plugin = del_at_default_socket(&json!({ "name": "net" }));
    let Some(outcome) = in_own_run(&plugin, &script) else { return };
    outcome.silent_success();
    assert!(outcome.stderr.contains("no tombstone either: No space left"), "{outcome:?}");
}

#[test]
fn without_a_name_nobody_knows_what_to_release() {
    let peer = Peer::new([ok()]);
    del(&peer.folder).stdin("{\"ipam\":").run().refused("1.1.0", 6);
    del(&peer.folder).stdin("{\"ipam\":{\"type\":\"cadastre\"}}").run().refused("0.1.0", 7);
    assert_eq!((peer.request(), tombstones(&peer.folder)), (None, vec![]));
}

#[test]
fn an_absent_or_refusing_agent_is_left_a_tombstone() {
    let (absent, refusing) = (Folder::new(), Folder::new());
    drop(UnixListener::bind(refusing.socket()).unwrap());
    for folder in [absent, refusing] {
        let before = hundredths_since_boot();
        let outcome = del(&folder).run();
        outcome.silent_success();
        let after = hundredths_since_boot();
        let [(name, tombstone)] = &tombstones(&folder)[..] else { panic!("{:?}", tombstones(&folder)) };
        assert!(outcome.stderr.contains(name), "{outcome:?}");
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let at = tombstone["at"].as_u64().unwrap();
        assert!((before..=after).contains(&at), "{before} {at} {after}");
        let attachment = json!({ "network": "net", "containerId": "c1", "interface": "eth0" });
        let expected = json!({ "protocol": 1, "bootId": boot_id.trim(), "at": at, "attachment": attachment });
        assert_eq!(tombstone, &expected);
        assert_eq!(mode(&folder.path("tombstones")), 0o700);
        assert_eq!(mode(&folder.path("tombstones").join(name)), 0o600);
    }
}

#[test]
fn a_tombstones_name_holds_nothing_from_outside() {
    let folder = Folder::new();
    let mut netconf = netconf(&folder, "1.1.0");
    netconf["name"] = json!("../../etc/passwd");
    for _ in 0..3 {
        Plugin::new("DEL", &netconf).with("CNI_IFNAME", "eth1").run().silent_success();
    }
    let found = tombstones(&folder);
    assert_eq!(found.len(), 3, "each has its own name");
    for (name, tombstone) in found {
        let stem = name.strip_suffix(".json").unwrap();
        let numbers: Vec<&str> = stem.split('-').collect();
        assert!(numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u64>().is_ok()), "{name}");
        assert_eq!(tombstone["attachment"]["network"], "../../etc/passwd");
    }
}

#[test]
fn an_agent_that_says_anything_but_ok_is_left_a_tombstone() {
    let half = Act::Bytes(b"{\"reply\":\"ok\"}".to_vec());
    let long = Act::Bytes(vec![b'x'; 100_000]);
    for act in
        [error(999, "the journal is full", ""), given(), Act::Bytes(b"garbage\n".to_vec()), half, long, Act::Close]
    {
        let peer = Peer::new([act]);
        del(&peer.folder).run().silent_success();
        assert_eq!(tombstones(&peer.folder).len(), 1);
    }
}

#[test]
fn an_agent_that_hangs_is_left_a_tombstone_after_5_s() {
    let peer = Peer::new([Act::Hang]);
    let outcome = del(&peer.folder).run();
    outcome.silent_success();
    assert!(outcome.stderr.contains("no reply within 5 s"), "{outcome:?}");
    assert_eq!(tombstones(&peer.folder).len(), 1);
}

#[test]
fn a_short_gap_in_the_agents_life_needs_no_tombstone() {
    let peer = Peer::new([Act::Close, ok()]);
    del(&peer.folder).run().silent_success();
    assert_eq!(tombstones(&peer.folder), []);
}

#[test]
fn a_folder_that_takes_no_tombstone_does_not_fail_the_del() {
    let folder = Folder::new();
    fs::write(folder.path("tombstones"), "in the way").unwrap();
    let outcome = del(&folder).run();
    outcome.silent_success();
    assert!(outcome.stderr.contains("no tombstone either") && outcome.stderr.contains("c1"), "{outcome:?}");
}

#[test]
fn a_folder_that_went_with_the_agent_comes_back() {
    let folder = Folder::new();
    let mut netconf = netconf(&folder, "1.1.0");
    netconf["ipam"]["socket"] = json!(folder.path("gone").join("agent.sock"));
    Plugin::new("DEL", &netconf).run().silent_success();
    assert_eq!(mode(&folder.path("gone")), 0o700);
    assert_eq!(fs::read_dir(folder.path("gone").join("tombstones")).unwrap().count(), 1);
}
