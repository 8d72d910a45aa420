//! Agents that are absent, roll, hang or talk nonsense, seen by every verb but DEL.

use std::fs;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::peer::{Act, Peer, error, given, ok};
use crate::run::{Folder, Plugin, netconf};

/// How long ADD and CHECK go on trying.
const ROLL: Duration = Duration::from_secs(3);

fn call(verb: &str, folder: &Folder) -> Plugin {
    Plugin::new(verb, &netconf(folder, "1.1.0"))
}

fn bytes(bytes: impl Into<Vec<u8>>) -> Act {
    Act::Bytes(bytes.into())
}

#[test]
fn add_and_check_try_an_absent_agent_for_3_s_then_say_11() {
    for verb in ["ADD", "CHECK"] {
        let folder = Folder::new();
        let start = Instant::now();
        let said = call(verb, &folder).run().refused("1.1.0", 11);
        assert!(start.elapsed() + Duration::from_millis(50) > ROLL, "{verb} gave up after {:?}", start.elapsed());
        assert!(said.contains(&*folder.socket().to_string_lossy()) && said.contains("cadastre-agent"), "{said}");
    }
}

#[test]
fn an_agent_that_rolls_is_waited_for() {
    let folder = Folder::new();
    // What a killed agent leaves: the file is there, nobody listens.
    drop(UnixListener::bind(folder.socket()).unwrap());
    let plugin = call("ADD", &folder);
    let late = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        fs::remove_file(folder.socket()).unwrap();
        Peer::in_folder(folder, [given()])
    });
    plugin.run().success();
    drop(late.join().unwrap());
}

#[test]
fn an_agent_that_goes_before_it_answers_is_asked_again() {
    for end in [Act::Close, bytes(""), bytes("{\"reply\":\"gi")] {
        for (verb, answer) in [("ADD", given()), ("CHECK", ok())] {
            let peer = Peer::new([end.clone(), answer]);
            assert_eq!(call(verb, &peer.folder).run().exit, 0, "{verb}");
        }
    }
}

#[test]
fn an_agent_that_always_goes_before_it_answers_is_11() {
    let half = bytes("{\"reply\":\"given\",\"addresses\":[]}"); // No line end, so not all of it for sure.
    for end in [Act::Close, half] {
        let peer = Peer::new([end]);
        let said = call("ADD", &peer.folder).run().refused("1.1.0", 11);
        assert!(said.contains("the connection ended") && said.contains("agent.sock"), "{said}");
    }
}

#[test]
fn an_agent_may_take_longer_than_the_tries_to_connect() {
    let reply = json!({ "reply": "given", "addresses": [{ "address": "10.0.2.48/24" }] });
    let peer = Peer::new([Act::Late(ROLL + Duration::from_millis(500), reply)]);
    assert_eq!(call("ADD", &peer.folder).run().success()["ips"][0]["address"], "10.0.2.48/24");
}

#[test]
fn nonsense_is_6_and_is_not_asked_for_again() {
    let long = [b"{\"reply\":\"ok\",\"x\":\"".to_vec(), vec![b'x'; 70_000], b"\"}\n".to_vec()].concat();
    let table = [
        bytes("garbage\n"),
        bytes("\n"),
        bytes("\u{0}\n"),
        bytes(vec![0xff, b'\n']),
        bytes("{\"reply\":\"given\"}\n"),
        bytes("{\"reply\":\"future\"}\n"),
        bytes(long),
        bytes(vec![b'x'; 1024 * 1024]),
    ];
    for nonsense in table {
        for (verb, code) in [("ADD", 6), ("CHECK", 6), ("GC", 6), ("STATUS", 50)] {
            let peer = Peer::new([nonsense.clone(), given()]);
            let said = call(verb, &peer.folder).run().refused("1.1.0", code);
            assert!(said.contains("cannot be read") && said.contains("same release"), "{said}");
            assert!(peer.request().is_some() && peer.request().is_none());
        }
    }
}

#[test]
fn what_follows_the_line_is_not_read() {
    let peer = Peer::new([bytes("{\"reply\":\"ok\"}\ngarbage\n")]);
    call("STATUS", &peer.folder).run().silent_success();
}

#[test]
fn status_is_50_and_gc_is_11_at_once() {
    let folder = Folder::new();
    let refusing = Folder::new();
    drop(UnixListener::bind(refusing.socket()).unwrap());
    for folder in [&folder, &refusing] {
        for (verb, code) in [("STATUS", 50), ("GC", 11)] {
            let start = Instant::now();
            let said = call(verb, folder).run().refused("1.1.0", code);
            assert!(said.contains("agent.sock"), "{said}");
            assert!(start.elapsed() < ROLL, "{verb} tried again");
        }
    }
}

#[test]
fn an_agent_that_hangs_is_status_50() {
    let peer = Peer::new([Act::Hang]);
    assert!(call("STATUS", &peer.folder).run().refused("1.1.0", 50).contains("no reply within 5 s"));
}

#[test]
fn a_socket_that_cannot_be_one_is_refused_by_name() {
    let folder = Folder::new();
    for socket in [json!("relative"), json!(7), Value::from("/x".repeat(60))] {
        let mut netconf = netconf(&folder, "1.1.0");
        netconf["ipam"]["socket"] = socket;
        for verb in ["ADD", "CHECK", "GC", "STATUS"] {
            assert!(Plugin::new(verb, &netconf).run().refused("1.1.0", 7).contains("ipam.socket"));
        }
    }
}

#[test]
fn no_ipam_section_is_named() {
    let mut netconf = netconf(&Folder::new(), "1.1.0");
    for ipam in [Value::Null, json!("cadastre")] {
        netconf["ipam"] = ipam;
        for verb in ["ADD", "CHECK", "GC", "STATUS"] {
            assert!(Plugin::new(verb, &netconf).run().refused("1.1.0", 7).contains("ipam"));
        }
    }
}

#[test]
fn another_protocol_is_the_agents_error_to_tell() {
    let peer = Peer::new([error(999, "protocol 1 is not spoken here", "")]);
    call("ADD", &peer.folder).run().refused("1.1.0", 999);
}
