//! A network that is new to the agent: what host-local reserved for it before is told first.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::peer::{Act, Peer, error, given, ok, take_over};
use crate::run::{BINARY, Folder, Outcome, Plugin, netconf};

fn data(folder: &Folder) -> PathBuf {
    folder.path("networks")
}

/// A file of host-local's, in the network `net`.
fn record(folder: &Folder, name: &str, text: &str) -> PathBuf {
    let network = data(folder).join("net");
    fs::create_dir_all(&network).unwrap();
    fs::write(network.join(name), text).unwrap();
    network.join(name)
}

fn local(folder: &Folder, data: &Path) -> Plugin {
    let mut netconf = netconf(folder, "1.1.0");
    netconf["ipam"]["subnet"] = json!("10.0.0.0/16");
    netconf["ipam"]["dataDir"] = json!(data);
    Plugin::new("ADD", &netconf)
}

fn add(peer: &Peer) -> Plugin {
    local(&peer.folder, &data(&peer.folder))
}

fn reservation(address: &str, container_id: &str, interface: &str) -> Value {
    json!({
        "address": address,
        "attachment": { "network": "net", "containerId": container_id, "interface": interface },
        "netns": { "path": "", "device": 0, "inode": 0 },
    })
}

#[test]
fn nothing_to_take_over_is_said_and_the_add_is_repeated() {
    let peer = Peer::new([take_over(), ok(), given()]);
    add(&peer).run().success();
    let first = peer.request().unwrap();
    let told = json!({ "protocol": 1, "verb": "takeover", "network": "net", "reservations": [], "done": true });
    assert_eq!(peer.request(), Some(told));
    assert_eq!(peer.request(), Some(first), "the same ADD again");
    assert_eq!(peer.request(), None);
}

#[test]
fn l4_records_of_every_release_of_host_local_are_told_and_stay_as_they_are() {
    let peer = Peer::new([take_over(), ok(), given()]);
    let files = [
        record(&peer.folder, "10.0.0.5", "c5\r\neth0"),
        record(&peer.folder, "10.0.0.6", "c5\r\nnet1"),
        record(&peer.folder, "10.0.0.7", "old"),
        record(&peer.folder, "fd00::5", "c6\r\neth0"),
        record(&peer.folder, "last_reserved_ip.0", "10.0.0.7"),
        record(&peer.folder, "lock", ""),
        record(&peer.folder, "10.0.0.8", ""),
        record(&peer.folder, "10.0.0.9", "../x\r\neth0"),
    ];
    let before =
        files.each_ref().map(|file| (fs::read(file).unwrap(), fs::metadata(file).unwrap().modified().unwrap()));
    // Of a runtime that keeps no cache.
    let Some(outcome) = in_own_cache(&add(&peer), "rmdir /var/lib/cni/results;") else { return };
    outcome.success();
    for skipped in ["10.0.0.8", "10.0.0.9"] {
        assert!(outcome.stderr.contains(skipped), "{outcome:?}");
    }
    peer.request();
    let told = peer.request().unwrap();
    let expected = json!([
        reservation("10.0.0.5", "c5", "eth0"),
        reservation("10.0.0.6", "c5", "net1"),
        reservation("fd00::5", "c6", "eth0"),
        reservation("10.0.0.7", "old", "eth0"),
    ]);
    assert_eq!((&told["reservations"], &told["done"]), (&expected, &json!(true)));
    assert_eq!(told["last"], json!([{ "set": 0, "address": "10.0.0.7" }]));
    let after = files.each_ref().map(|file| (fs::read(file).unwrap(), fs::metadata(file).unwrap().modified().unwrap()));
    assert_eq!(before, after);
    assert_eq!(fs::read_dir(data(&peer.folder).join("net")).unwrap().count(), files.len());
}

#[test]
fn what_is_no_record_is_left_out_and_stops_nobody() {
    let peer = Peer::new([take_over(), ok(), given()]);
    record(&peer.folder, "10.0.0.5", "c5\r\neth0");
    record(&peer.folder, "10.0.0.6", &"c".repeat(257));
    let network = data(&peer.folder).join("net");
    fs::create_dir(network.join("10.0.0.7")).unwrap();
    for pipe in ["10.0.0.8", "last_reserved_ip.0"] {
        assert!(Command::new("mkfifo").arg(network.join(pipe)).status().unwrap().success());
    }
    let outcome = add(&peer).run();
    outcome.success();
    for skipped in ["10.0.0.6", "10.0.0.7", "10.0.0.8", "last_reserved_ip.0"] {
        assert!(outcome.stderr.contains(skipped), "{skipped}: {outcome:?}");
    }
    peer.request();
    assert_eq!(peer.request().unwrap()["reservations"], json!([reservation("10.0.0.5", "c5", "eth0")]));
}

#[test]
fn without_the_runtimes_word_only_records_of_this_boot_count() {
    let peer = Peer::new([take_over(), ok(), given()]);
    record(&peer.folder, "10.0.0.5", "c5\r\neth0");
    let old = File::options().write(true).open(record(&peer.folder, "10.0.0.6", "c6\r\neth0")).unwrap();
    old.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    let outcome = add(&peer).run();
    outcome.success();
    assert!(outcome.stderr.contains("10.0.0.6") && outcome.stderr.contains("before this boot"), "{outcome:?}");
    peer.request();
    assert_eq!(peer.request().unwrap()["reservations"], json!([reservation("10.0.0.5", "c5", "eth0")]));
}

#[test]
fn what_does_not_fit_a_line_goes_into_several() {
    let peer = Peer::new([vec![take_over()], vec![ok(); 8], vec![given()]].concat());
    for number in 0..1_200 {
        record(&peer.folder, &format!("10.0.{}.{}", number / 250, number % 250), &format!("{number:064}\r\neth0"));
    }
    // As many lines as these need, by the length of their JSON.
    let length = reservation("10.0.0.250", &"0".repeat(64), "eth0").to_string().len() + 1;
    assert_eq!((1_200 * length).div_ceil(32 * 1024), 8, "{length}");
    add(&peer).run().success();
    assert_eq!(peer.request().unwrap()["verb"], "add");
    let lines: Vec<Value> = (0..8).map(|_| peer.request().unwrap()).collect();
    assert!(lines.iter().all(|line| line["verb"] == "takeover" && line.to_string().len() <= 64 * 1024));
    let done: Vec<&Value> = lines.iter().map(|line| &line["done"]).collect();
    assert_eq!(done, [vec![&json!(false); 7], vec![&json!(true)]].concat());
    assert_eq!(lines.iter().map(|line| line["reservations"].as_array().unwrap().len()).sum::<usize>(), 1_200);
    assert_eq!(peer.request().unwrap()["verb"], "add");
}

#[test]
fn a_folder_that_cannot_be_read_is_5_and_no_address_is_given() {
    let peer = Peer::new([take_over(), ok(), given()]);
    fs::create_dir_all(data(&peer.folder)).unwrap();
    fs::write(data(&peer.folder).join("net"), "in the way").unwrap();
    let said = add(&peer).run().refused("1.1.0", 5);
    assert!(said.contains("networks/net") && said.contains("ipam.dataDir"), "{said}");
    assert_eq!(peer.requests("verb"), ["add"]);
}

#[test]
fn an_agent_that_does_not_take_it_over_gives_no_address() {
    let refusal = || error(11, "nothing can be recorded", "make room");
    for (act, code) in [(refusal(), 11), (given(), 999), (take_over(), 999), (Act::Bytes(b"garbage\n".to_vec()), 6)] {
        let peer = Peer::new([take_over(), act]);
        add(&peer).run().refused("1.1.0", code);
        assert_eq!(peer.requests("verb"), ["add", "takeover"]);
    }
    let peer = Peer::new([take_over(), ok(), take_over()]);
    add(&peer).run().refused("1.1.0", 999);
    assert_eq!(peer.requests("verb"), ["add", "takeover", "add"], "it is repeated once");
}

#[test]
fn an_agent_that_rolls_meanwhile_is_waited_for() {
    let peer = Peer::new([take_over(), Act::Close, ok(), Act::Close, given()]);
    add(&peer).run().success();
    assert_eq!(peer.requests("verb"), ["add", "takeover", "add"]);
}

/// The ADD, run with a `/var/lib/cni` of its own that `script` fills, or none where namespaces of mounts are not allowed.
fn in_own_cache(plugin: &Plugin, script: &str) -> Option<Outcome> {
    if !Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    {
        eprintln!("skipped: no mount namespaces here");
        return None;
    }
    let own = format!(
        "mkdir -p /var/lib/cni && mount -t tmpfs none /var/lib/cni && mkdir /var/lib/cni/results /var/lib/cni/networks\n{script}\nexec $PLUGIN"
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec", &own]).env("PLUGIN", BINARY).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(plugin.command().get_envs().filter_map(|(name, value)| Some((name, value?))));
    Some(plugin.run_as(command))
}

/// A line of shell that writes what libcni keeps of an attachment.
fn cached(container_id: &str, entry: &Value) -> String {
    format!("echo '{entry}' > /var/lib/cni/results/net-{container_id}-eth0\n")
}

#[test]
fn the_runtimes_cache_says_whose_namespace_is_there() {
    let peer = Peer::new([take_over(), ok(), given()]);
    for (address, id) in [("10.0.0.5", "alive"), ("10.0.0.6", "gone"), ("10.0.0.7", "older"), ("10.0.0.8", "garbled")] {
        let file = File::options().write(true).open(record(&peer.folder, address, &format!("{id}\r\neth0"))).unwrap();
        if id != "garbled" {
            // A namespace that is there counts for more than the time of a file.
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
    }
    let there = peer.folder.path("there");
    fs::write(&there, "").unwrap();
    let args = json!([
        ["IgnoreUnknown", "1"],
        ["K8S_POD_NAMESPACE", "default"],
        ["K8S_POD_NAME", "nginx"],
        ["K8S_POD_UID", "u1"]
    ]);
    let interfaces = json!([{ "name": "veth1" }, { "name": "eth0", "sandbox": there }]);
    let script = [
        cached("alive", &json!({ "kind": "cniCacheV1", "netns": there, "cniArgs": args })),
        cached("gone", &json!({ "kind": "cniCacheV1", "netns": peer.folder.path("gone") })),
        cached("older", &json!({ "kind": "cniCacheV1", "result": { "interfaces": interfaces } })),
        "echo { > /var/lib/cni/results/net-garbled-eth0".to_owned(),
    ];
    let Some(outcome) = in_own_cache(&add(&peer), &script.concat()) else { return };
    outcome.success();
    assert!(outcome.stderr.contains("10.0.0.6") && outcome.stderr.contains("is gone"), "{outcome:?}");
    peer.request();
    let file = fs::metadata(&there).unwrap();
    let netns = json!({ "path": there, "device": file.dev(), "inode": file.ino() });
    let mut alive = reservation("10.0.0.5", "alive", "eth0");
    alive["netns"] = netns.clone();
    alive["pod"] = json!({ "namespace": "default", "name": "nginx", "uid": "u1" });
    let mut older = reservation("10.0.0.7", "older", "eth0");
    older["netns"] = netns;
    let garbled = reservation("10.0.0.8", "garbled", "eth0");
    assert_eq!(peer.request().unwrap()["reservations"], json!([alive, garbled, older]));
}

#[test]
fn host_locals_own_folder_is_read_where_none_is_named() {
    let script = "rmdir /var/lib/cni/results; mkdir /var/lib/cni/networks/net; printf 'c5\\r\\neth0' > /var/lib/cni/networks/net/10.0.0.5";
    for data_dir in ["", "absent"] {
        let peer = Peer::new([take_over(), ok(), given()]);
        let mut netconf = netconf(&peer.folder, "1.1.0");
        if data_dir.is_empty() {
            netconf["ipam"]["dataDir"] = json!("");
        }
        let Some(outcome) = in_own_cache(&Plugin::new("ADD", &netconf), script) else { return };
        outcome.success();
        peer.request();
        assert_eq!(peer.request().unwrap()["reservations"], json!([reservation("10.0.0.5", "c5", "eth0")]));
    }
}
