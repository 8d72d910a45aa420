//! Rows P1 to P20: what is refused before anybody is asked, and how errors leave.

use std::fs::{File, OpenOptions};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::peer::{Act, Peer, error, given, ok};
use crate::run::{BINARY, Folder, Outcome, Plugin, VERSIONS, netconf, verbs};

/// A peer that would answer any call; afterwards nobody may have asked.
fn unasked(check: impl Fn(&Folder)) {
    let peer = Peer::new([given()]);
    check(&peer.folder);
    assert_eq!(peer.request(), None);
}

/// Every verb of every version that is about an attachment.
fn each_attachment_verb(folder: &Folder, check: impl Fn(&str, Plugin)) {
    for version in VERSIONS {
        for verb in verbs(version).iter().filter(|verb| ["ADD", "DEL", "CHECK"].contains(verb)) {
            check(version, Plugin::new(verb, &netconf(folder, version)));
        }
    }
}

#[test]
fn p1_bad_container_id() {
    unasked(|folder| {
        each_attachment_verb(folder, |_, plugin| {
            // The configuration is not read before the environment is right, so the newest version is said.
            let said = plugin.with("CNI_CONTAINERID", "1234%%%").run().refused("1.1.0", 4);
            assert!(said.contains("CNI_CONTAINERID") && said.contains("1234%%%"), "{said}");
        });
    });
}

#[test]
fn p2_to_p7_bad_interface_names() {
    unasked(|folder| {
        for name in ["", "1234567890123456", ".", "..", "test/test", "test:test", "test test"] {
            each_attachment_verb(folder, |_, plugin| {
                let said = plugin.with("CNI_IFNAME", name).run().refused("1.1.0", 4);
                assert!(said.contains("CNI_IFNAME"), "{said}");
            });
        }
    });
}

#[test]
fn p8_all_missing_variables_are_listed_at_once() {
    let said = Plugin::bare("ADD").run().refused("1.1.0", 4);
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        assert!(said.contains(name), "{said}");
    }
    assert!(!said.contains("CNI_PATH"), "it is needed by nobody here: {said}");
}

#[test]
fn p9_each_verb_has_its_variables() {
    let table = [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
        ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
        ("GC", &[]),
        ("STATUS", &[]),
    ];
    for (verb, required) in table {
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_ARGS"] {
            let peer = Peer::new([if verb == "ADD" { given() } else { ok() }]);
            let outcome = Plugin::new(verb, &netconf(&peer.folder, "1.1.0")).without(name).run();
            if required.contains(&name) {
                assert!(outcome.refused("1.1.0", 4).contains(name), "{verb} {outcome:?}");
            } else {
                assert_eq!(outcome.exit, 0, "{verb} without {name}: {outcome:?}");
            }
            assert_eq!(peer.request().is_some(), !required.contains(&name), "{verb} without {name}");
        }
    }
}

#[test]
fn p10_no_version_means_0_1_0() {
    let peer = Peer::new([given()]);
    let mut netconf = netconf(&peer.folder, "1.1.0");
    netconf.as_object_mut().unwrap().remove("cniVersion");
    let result = Plugin::new("ADD", &netconf).run().success();
    assert_eq!(result["cniVersion"], "0.1.0");
    assert_eq!(result["ip4"]["ip"], "10.0.2.48/24");
    assert!(Plugin::new("CHECK", &netconf).run().refused("0.1.0", 1).contains("0.1.0"));
}

#[test]
fn p11_unsupported_version() {
    unasked(|folder| {
        for verb in ["ADD", "CHECK", "GC", "STATUS"] {
            let said = Plugin::new(verb, &netconf(folder, "9.9.9")).run().refused("1.1.0", 1);
            assert!(said.contains("9.9.9"), "{said}");
            assert!(VERSIONS.iter().all(|version| said.contains(version)), "{said}");
        }
    });
}

#[test]
fn p12_verbs_older_configurations_do_not_know() {
    unasked(|folder| {
        for version in VERSIONS {
            for verb in ["CHECK", "GC", "STATUS"].into_iter().filter(|verb| !verbs(version).contains(verb)) {
                let said = Plugin::new(verb, &netconf(folder, version)).run().refused(version, 1);
                assert!(said.contains(&format!("config version does not allow {verb}")), "{said}");
            }
        }
    });
}

#[test]
fn p13_malformed_version() {
    unasked(|folder| {
        for version in ["adsfsadf", "1.1", "v1.0.0"] {
            for verb in ["ADD", "CHECK", "GC", "STATUS"] {
                let said = Plugin::new(verb, &netconf(folder, version)).run().refused("1.1.0", 6);
                assert!(said.contains(version), "{said}");
            }
        }
    });
}

#[test]
fn p14_bad_or_missing_name() {
    unasked(|folder| {
        for version in VERSIONS {
            for verb in verbs(version) {
                let mut netconf = netconf(folder, version);
                netconf.as_object_mut().unwrap().remove("name");
                assert!(Plugin::new(verb, &netconf).run().refused(version, 7).contains("name"));
                netconf["name"] = json!("my/net");
                if *verb != "DEL" {
                    assert!(Plugin::new(verb, &netconf).run().refused(version, 7).contains("my/net"));
                }
            }
        }
    });
}

#[test]
fn p15_version_reads_nothing_and_needs_nothing() {
    let mut child = Plugin::bare("VERSION").command().spawn().unwrap();
    let open = child.stdin.take(); // Never written, never closed: whoever reads it waits forever.
    let output = child.wait_with_output().unwrap();
    drop(open);
    assert!(output.status.success());
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer, json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS }));
}

#[test]
fn p16_unknown_verb() {
    unasked(|folder| {
        for verb in ["add", "UPDATE", "ADD "] {
            let said = Plugin::new(verb, &netconf(folder, "1.1.0")).run().refused("1.1.0", 4);
            assert!(said.contains(&format!("unknown CNI_COMMAND: {verb:?}")), "{said}");
        }
    });
}

#[test]
fn p17_no_verb_prints_what_this_is() {
    for plugin in [Plugin::bare("ADD").without("CNI_COMMAND"), Plugin::bare("")] {
        let outcome = plugin.run();
        outcome.silent_success();
        assert!(outcome.stderr.contains("CNI IPAM plugin") && outcome.stderr.contains("1.1.0"), "{outcome:?}");
    }
}

#[test]
fn p18_unreadable_stdin() {
    unasked(|folder| {
        let write_only = || OpenOptions::new().write(true).open("/dev/null").unwrap();
        for verb in verbs("1.1.0") {
            for unreadable in [File::open("/").unwrap(), write_only()] {
                let mut command = Plugin::new(verb, &netconf(folder, "1.1.0")).command();
                let output = command.stdin(unreadable).output().unwrap();
                let stdout = String::from_utf8(output.stdout).unwrap();
                let outcome = Outcome { exit: output.status.code().unwrap(), stdout, stderr: String::new() };
                assert!(outcome.refused("1.1.0", 5).contains("stdin"), "{verb}");
            }
        }
    });
}

#[test]
fn p18_stdin_without_end() {
    unasked(|folder| {
        for verb in verbs("1.1.0") {
            let long = " ".repeat(1024 * 1024) + "{}";
            let outcome = Plugin::new(verb, &netconf(folder, "1.1.0")).stdin(long).run();
            assert!(outcome.refused("1.1.0", 5).contains("1048576"), "{verb}");
        }
    });
}

#[test]
fn stdin_that_is_no_json_object() {
    unasked(|folder| {
        for verb in verbs("1.1.0") {
            for stdin in ["", "{", "[]", "7", "{} {}", "\u{0}"] {
                Plugin::new(verb, &netconf(folder, "1.1.0")).stdin(stdin).run().refused("1.1.0", 6);
            }
        }
    });
}

#[test]
fn p19_the_agents_errors_pass_unchanged() {
    for version in VERSIONS {
        for verb in verbs(version).iter().filter(|verb| **verb != "DEL") {
            for code in [11, 50, 101, 102, 103, 104, 105, 999] {
                let peer = Peer::new([error(code, "no address is free", "add a CIDR to pool \"default\"")]);
                let said = Plugin::new(verb, &netconf(&peer.folder, version)).run().refused(version, code);
                assert_eq!(said, "no address is free – add a CIDR to pool \"default\"");
            }
        }
    }
}

#[test]
fn p20_a_reply_that_does_not_belong_to_the_question_is_999() {
    for verb in verbs("1.1.0").iter().filter(|verb| **verb != "DEL") {
        let peer = Peer::new([if *verb == "ADD" { ok() } else { given() }]);
        Plugin::new(verb, &netconf(&peer.folder, "1.1.0")).run().refused("1.1.0", 999);
    }
    for bad in [json!([]), json!([{ "address": "10.0.2.48" }])] {
        let peer = Peer::new([Act::Reply(json!({ "reply": "given", "addresses": bad })), ok()]);
        Plugin::new("ADD", &netconf(&peer.folder, "1.1.0")).run().refused("1.1.0", 999);
        assert_eq!(peer.requests("verb"), ["add", "del"], "what cannot be said is given back");
    }
}

#[test]
fn an_answer_that_nobody_takes_is_no_panic() {
    let peer = Peer::new([given()]);
    for stdout in ["/dev/full", "closed pipe"] {
        let plugin = Plugin::new("ADD", &netconf(&peer.folder, "1.1.0"));
        let mut command = plugin.command();
        match stdout {
            "/dev/full" => command.stdout(OpenOptions::new().write(true).open(stdout).unwrap()),
            _ => command.stdout(std::io::pipe().unwrap().1),
        };
        let outcome = plugin.run_as(command);
        assert_eq!(outcome.exit, 1, "{outcome:?}");
        assert!(outcome.stderr.contains("cannot write the answer"), "{outcome:?}");
        assert!(!outcome.stderr.contains("panicked"), "{outcome:?}");
    }
    let mut command = Plugin::bare("").command();
    let status = command.stderr(OpenOptions::new().write(true).open("/dev/full").unwrap()).status().unwrap();
    assert!(status.success(), "log lines may be lost");
}

#[test]
fn standard_streams_may_be_closed() {
    let closed = |script: &str| {
        let script = format!("exec {BINARY} {script}");
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", &script]).env("CNI_COMMAND", "STATUS").stderr(Stdio::null()).output().unwrap()
    };
    assert_eq!(closed("<&-").status.code(), Some(1));
    assert_eq!(closed("<&- >&-").status.code(), Some(1));
    assert_eq!(closed("<&- >&- 2>&-").status.code(), Some(1));
}
