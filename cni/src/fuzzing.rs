//! What must hold whatever a caller, an agent or another plugin hands to this one; called by `tests/fuzz`.
//!
//! Nothing is sent and no tombstone is left: paths that come from arbitrary bytes must not be written to.

use std::ffi::OsString;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cadastre_messages::{Call, Given, GivenAddress, Request, code};
use serde_json::{Value, json};

use crate::agent::{self, Away, Deadline};
use crate::answer::Answer;
use crate::call::{self, Addition, Errand};
use crate::environment::{Environment, Variables, Verb};
use crate::netconf::Netconf;
use crate::version::Version;
use crate::{act, cache, host_local, line_of, log, resolver, result, take_over};

/// One call: `CNI_COMMAND`, `CNI_CONTAINERID`, `CNI_IFNAME`, `CNI_NETNS`, `CNI_ARGS`, stdin, and what the agent gives.
pub fn call(variables: [&[u8]; 5], stdin: &[u8], given: &[u8]) {
    let [command, container_id, interface, netns, args] = variables.map(|bytes| OsString::from_vec(bytes.to_vec()));
    let environment = match Environment::parse(Variables { command, container_id, interface, netns, args }) {
        Ok(Some(environment)) if !names_a_file(stdin) => environment,
        Ok(_) => return,
        Err(error) => return printed(&error.render()),
    };
    let verb = environment.verb;
    match call::parse(&environment, stdin) {
        Ok(order) => {
            assert_eq!(order.errand.is_some(), verb != Verb::Version && !is_idle_gc(verb, order.errand.as_ref()));
            order.errand.into_iter().for_each(|errand| errand_is_sound(verb, errand, given));
        }
        Err(error) => {
            assert!(verb != Verb::Del || name(stdin).is_none(), "DEL with a name became {error:?}");
            printed(&error.render());
        }
    }
}

/// A GC that lists nothing asks for nothing.
fn is_idle_gc(verb: Verb, errand: Option<&Errand>) -> bool {
    verb == Verb::Gc && errand.is_none()
}

fn errand_is_sound(verb: Verb, errand: Errand, given: &[u8]) {
    let call = match errand {
        Errand::Add(Addition { add, answer, host_local }) => {
            assert!(host_local.file_name().is_some_and(|name| *name == *add.attachment.network));
            rendered(answer, &serde_json::from_slice(given).unwrap_or_else(|_| usual()));
            Call::Add(add)
        }
        Errand::Other(call) => call,
    };
    assert_eq!(verb == Verb::Del, matches!(call, Call::Del(_)));
    fits_one_line(call);
}

/// What is sent is read as what was meant.
fn fits_one_line(call: Call) {
    match agent::line_of(&call) {
        Ok(line) => {
            assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
            let back: Option<Request> = serde_json::from_slice(&line).ok();
            assert_eq!(back.map(|request| request.call), Some(call));
        }
        Err(away) => assert!(matches!(away, Away::TooLong(_)), "{away:?}"),
    }
}

/// Whether a file of this machine would be read, which may block for ever.
fn names_a_file(stdin: &[u8]) -> bool {
    let Ok(Value::Object(document)) = serde_json::from_slice(stdin) else { return false };
    let ipam = document.get("ipam").and_then(Value::as_object);
    let named = ipam.into_iter().flatten().filter(|(key, _)| key.eq_ignore_ascii_case("resolvConf"));
    named.filter_map(|(_, value)| value.as_str()).any(|path| !path.is_empty() && !path.starts_with("/nonexistent"))
}

fn name(stdin: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(stdin).ok()?;
    document.as_object()?.get("name")?.as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

fn usual() -> Given {
    let address =
        |address: &str, gateway: &str| GivenAddress { address: address.to_owned(), gateway: Some(gateway.to_owned()) };
    Given { addresses: vec![address("10.0.2.48/24", "10.0.2.1"), address("fd00::30/120", "fd00::1")], again: false }
}

fn rendered(answer: Answer, given: &Given) {
    let version = answer.version;
    let result = result::render(given, answer);
    match &result {
        Ok(value) => assert_eq!(value.get("cniVersion"), Some(&version.text().into())),
        Err(error) => assert!(!error.failure.msg.is_empty()),
    }
    printed(&result.unwrap_or_else(|error| error.render()));
}

/// One line of one JSON object.
fn printed(value: &Value) {
    let line = line_of(value);
    assert_eq!(line.find('\n'), Some(line.len() - 1), "{line:?}");
    let read: Vec<Value> = serde_json::Deserializer::from_str(&line).into_iter().flatten().collect();
    assert!(value.is_object() && read == [value.clone()], "{line:?}");
}

/// Whatever listens on the agent's socket says this and closes.
pub fn reply(bytes: &[u8]) {
    let Ok((ours, mut theirs)) = UnixStream::pair() else { return };
    let written = theirs.set_nonblocking(true).and_then(|()| theirs.write_all(bytes));
    if written.is_err() || theirs.shutdown(Shutdown::Write).is_err() {
        return; // More than a socket takes at once.
    }
    let whole = Duration::from_secs(30);
    let reply = agent::exchange(ours, b"{}\n", Deadline { at: Instant::now() + whole, whole });
    assert!(!matches!(reply, Err(Away::Silent(_) | Away::Unreachable(_) | Away::TooLong(_))), "{reply:?}");
    let told = act::told(Path::new("/nonexistent/socket"), reply, code::TRY_AGAIN);
    if let Ok(given) = told.clone().and_then(act::given) {
        for answer in answers() {
            rendered(answer, &given);
        }
    }
    match act::nothing(told) {
        Ok(value) => assert_eq!(value, None),
        Err(error) => printed(&error.render()),
    }
}

/// Of configurations that differ in what becomes of an address.
fn answers() -> Vec<Answer> {
    let styles = ["subnet", "host", "onlink"].map(|style| json!({ "addressStyle": style }));
    let ipams =
        styles.into_iter().chain([json!({ "gateway": ["10.0.2.254", "fd00::fe"], "routes": [{ "dst": "::/0" }] })]);
    let mut answers = Vec::new();
    for ipam in ipams {
        for (version, caller) in Version::ALL.into_iter().zip(["ptp", "bridge", "macvlan", "other"].into_iter().cycle())
        {
            let netconf =
                json!({ "cniVersion": version.text(), "name": "net", "type": caller, "isGateway": true, "ipam": ipam });
            let netconf = Netconf::parse(Verb::Add, netconf.to_string().as_bytes());
            answers.extend(netconf.and_then(|netconf| Answer::of(&netconf, false)));
        }
    }
    answers
}

/// A folder of host-local's. Its files are also read as entries of libcni's cache and as resolver files.
pub fn files(folder: &Path, contents: &[&[u8]]) {
    log::SILENT.store(true, Ordering::Relaxed);
    let (read, lines) = (host_local::read(folder, "net"), take_over::lines(folder, "net"));
    assert!(read.is_ok() && lines.is_ok(), "{read:?}");
    if let (Ok(read), Ok(lines)) = (read, lines) {
        assert!(lines.last().is_some_and(|line| line.done && line.last == read.last));
        assert_eq!(lines.iter().flat_map(|line| line.reservations.clone()).collect::<Vec<_>>(), read.reservations);
        for call in lines.into_iter().map(Call::TakeOver) {
            assert!(agent::line_of(&call).is_ok());
            fits_one_line(call);
        }
    }
    for content in contents {
        if let Some(entry) = serde_json::from_slice(content).ok().and_then(|entry| cache::parse(&entry, "eth0")) {
            assert!(entry.netns.is_none_or(|path| !path.as_os_str().is_empty()));
        }
        printed(&Value::Object(resolver::parse(&String::from_utf8_lossy(content))));
    }
}
