//! The network configuration on stdin, as far as it concerns us.
//!
//! Strict for every verb that may fail; for DEL only the network's name counts, since configurations change, shrink and
//! break between ADD and DEL, and a DEL that fails keeps a pod from going away.

use std::path::{Path, PathBuf};

use cadastre_messages::{DEFAULT_SOCKET, code};
use serde_json::{Map, Value};

use crate::environment::Verb;
use crate::error::Error;
use crate::names;
use crate::version::Version;

/// Longest path that fits into a socket address, without its closing zero (`sun_path`, unix(7)).
const LONGEST_SOCKET: usize = 108 - 1;

/// Keys that choose addresses in other IPAM plugins. Ignoring one would hand out an address that nobody asked for.
const UNSERVED_IPAM: [&str; 7] = ["subnet", "ranges", "rangeStart", "rangeEnd", "gateway", "addresses", "resolvConf"];
const UNSERVED_ELSEWHERE: [&str; 3] = ["runtimeConfig/ips", "runtimeConfig/ipRanges", "args/cni/ips"];

/// A configuration that may be acted on.
#[derive(Clone, Debug, PartialEq)]
pub struct Netconf {
    pub version: Version,
    pub name: String,
    pub socket: PathBuf,
    /// The `ipam` section; empty if DEL was called without one.
    pub ipam: Map<String, Value>,
    /// Everything else that was read.
    pub document: Map<String, Value>,
}

impl Netconf {
    pub fn parse(verb: Verb, stdin: &[u8]) -> Result<Self, Error> {
        let document = object(stdin)?;
        if verb == Verb::Del {
            return Self::lenient(document);
        }
        let version = Version::of(&document)?;
        version.allows(verb).and_then(|()| Self::strict(version, document)).map_err(|error| error.at(version))
    }

    /// Refuses what asks for particular addresses.
    pub fn asks_nothing_unserved(&self) -> Result<(), Error> {
        let of_ipam = UNSERVED_IPAM.iter().map(|key| (format!("ipam.{key}"), self.ipam.get(*key)));
        let elsewhere = UNSERVED_ELSEWHERE.iter().map(|path| (path.replace('/', "."), self.find(path)));
        for (path, value) in of_ipam.chain(elsewhere) {
            let Some(value) = value.filter(|value| !is_blank(value)) else { continue };
            let message = format!("{path}, which is {value}, is not supported");
            let remedy = "remove it: the node's blocks say which addresses there are";
            return Err(Error::new(code::UNSUPPORTED_FIELD, message, remedy));
        }
        Ok(())
    }

    fn find(&self, path: &str) -> Option<&Value> {
        let (first, rest) = path.split_once('/')?;
        rest.split('/').fold(self.document.get(first), |value, key| value?.get(key))
    }

    fn strict(version: Version, mut document: Map<String, Value>) -> Result<Self, Error> {
        let name = name(&document)?;
        if !names::is_identifier(&name) {
            let message = format!("network name {name:?} is not valid");
            let remedy = "it has to start with a letter or digit and hold only letters, digits, '_', '.' and '-'";
            return Err(Error::new(code::BAD_CONFIG, message, remedy));
        }
        let Some(Value::Object(ipam)) = document.remove("ipam") else {
            let message = format!("network {name:?} has no ipam section");
            return Err(Error::new(
                code::BAD_CONFIG,
                message,
                "add \"ipam\": {\"type\": \"cadastre\"} to its configuration",
            ));
        };
        let socket = socket(&ipam)?;
        Ok(Self { version, name, socket, ipam, document })
    }

    fn lenient(mut document: Map<String, Value>) -> Result<Self, Error> {
        let version = Version::of(&document).unwrap_or(Version::NEWEST);
        let name = name(&document).map_err(|error| error.at(version))?;
        let ipam = match document.remove("ipam") {
            Some(Value::Object(ipam)) => ipam,
            _ => Map::new(),
        };
        let socket = socket(&ipam).unwrap_or_else(|_| DEFAULT_SOCKET.into());
        Ok(Self { version, name, socket, ipam, document })
    }
}

fn object(stdin: &[u8]) -> Result<Map<String, Value>, Error> {
    const REMEDY: &str = "the caller has to pass the network configuration, a JSON object, on stdin";
    match serde_json::from_slice(stdin) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err(Error::new(code::DECODE, "the network configuration is no JSON object", REMEDY)),
        Err(error) => {
            Err(Error::new(code::DECODE, format!("the network configuration is no JSON object: {error}"), REMEDY))
        }
    }
}

fn name(document: &Map<String, Value>) -> Result<String, Error> {
    match document.get("name") {
        Some(Value::String(name)) if !name.is_empty() => Ok(name.clone()),
        _ => {
            Err(Error::new(code::BAD_CONFIG, "the network configuration has no name", "add \"name\", a string, to it"))
        }
    }
}

fn socket(ipam: &Map<String, Value>) -> Result<PathBuf, Error> {
    let wrong = |found: &Value| {
        let remedy = format!(
            "name the agent's socket by its whole path of at most {LONGEST_SOCKET} bytes, or leave the key out for {DEFAULT_SOCKET}"
        );
        Error::new(code::BAD_CONFIG, format!("ipam.socket {found} is not the path of a socket"), remedy)
    };
    match ipam.get("socket") {
        None | Some(Value::Null) => Ok(DEFAULT_SOCKET.into()),
        Some(Value::String(path)) if is_socket_path(path) => Ok(path.into()),
        Some(other) => Err(wrong(other)),
    }
}

fn is_socket_path(path: &str) -> bool {
    Path::new(path).is_absolute() && path.len() <= LONGEST_SOCKET && !path.contains('\0') && !path.ends_with('/')
}

/// `null`, `""`, `[]` and `{}` ask for nothing.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(verb: Verb, netconf: &Value) -> Result<Netconf, (u32, String)> {
        Netconf::parse(verb, netconf.to_string().as_bytes()).map_err(|error| (error.failure.code, error.failure.msg))
    }

    fn netconf(patch: &Value) -> Value {
        let mut netconf =
            json!({ "cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipam": { "type": "cadastre" } });
        for (key, value) in patch.as_object().unwrap() {
            netconf[key] = value.clone();
        }
        netconf
    }

    #[test]
    fn garbage_is_code_6_for_every_verb() {
        for verb in [Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status] {
            for stdin in ["", "{", "[]", "null", "{}{}", "{\"name\": \"\u{0}\"}", "\u{feff}{}"] {
                let error = Netconf::parse(verb, stdin.as_bytes()).unwrap_err();
                assert_eq!(error.failure.code, code::DECODE, "{verb:?} {stdin}");
            }
            let deep = "[".repeat(500_000);
            assert_eq!(Netconf::parse(verb, deep.as_bytes()).unwrap_err().failure.code, code::DECODE);
            assert_eq!(Netconf::parse(verb, b"{\"name\": \"\xff\"}").unwrap_err().failure.code, code::DECODE);
        }
    }

    #[test]
    fn names_are_checked_but_not_by_del() {
        for name in [json!(null), json!(""), json!(7)] {
            for verb in [Verb::Add, Verb::Del] {
                assert_eq!(parse(verb, &netconf(&json!({ "name": name }))).unwrap_err().0, code::BAD_CONFIG);
            }
        }
        let odd = netconf(&json!({ "name": "my net" }));
        assert_eq!(
            parse(Verb::Add, &odd).unwrap_err(),
            (code::BAD_CONFIG, "network name \"my net\" is not valid".into())
        );
        assert_eq!(parse(Verb::Del, &odd).unwrap().name, "my net");
    }

    #[test]
    fn the_socket_is_a_whole_path() {
        let with = |socket: Value| netconf(&json!({ "ipam": { "type": "cadastre", "socket": socket } }));
        let fits = format!("/{}", "x".repeat(106));
        for good in ["/s", &fits] {
            assert_eq!(parse(Verb::Add, &with(good.into())).unwrap().socket, Path::new(good));
        }
        assert_eq!(parse(Verb::Add, &with(Value::Null)).unwrap().socket, Path::new(DEFAULT_SOCKET));
        for bad in [json!(""), json!("s"), json!("/run/"), json!("/a\u{0}b"), json!(7), json!(format!("{fits}x"))] {
            assert_eq!(parse(Verb::Add, &with(bad.clone())).unwrap_err().0, code::BAD_CONFIG, "{bad}");
            assert_eq!(parse(Verb::Del, &with(bad)).unwrap().socket, Path::new(DEFAULT_SOCKET));
        }
    }

    #[test]
    fn del_needs_the_name_only() {
        for (key, value) in [
            ("ipam", Value::Null),
            ("ipam", json!("garbage")),
            ("ipam", json!({ "routes": 7, "subnet": "x" })),
            ("prevResult", json!({})),
            ("prevResult", json!(1)),
            ("cniVersion", json!("9.9.9")),
            ("cniVersion", json!({})),
        ] {
            let changed = netconf(&json!({ key: value }));
            assert_eq!(parse(Verb::Del, &changed).unwrap().name, "net", "{changed}");
        }
        assert_eq!(parse(Verb::Add, &json!({ "name": "net" })).unwrap_err().0, code::BAD_CONFIG);
    }

    #[test]
    fn keys_that_choose_addresses_are_refused_by_name() {
        let check = |patch: Value| {
            let result = parse(Verb::Add, &netconf(&patch)).unwrap().asks_nothing_unserved();
            result.map_err(|error| (error.failure.code, error.failure.msg))
        };
        assert_eq!(check(json!({ "runtimeConfig": { "mac": "x", "ips": [] }, "args": 1 })), Ok(()));
        assert_eq!(
            check(json!({ "ipam": { "subnet": "10.0.0.0/8" } })),
            Err((code::UNSUPPORTED_FIELD, "ipam.subnet, which is \"10.0.0.0/8\", is not supported".into()))
        );
        for patch in [json!({ "runtimeConfig": { "ips": ["1"] } }), json!({ "args": { "cni": { "ips": ["1"] } } })] {
            assert_eq!(check(patch).unwrap_err().0, code::UNSUPPORTED_FIELD);
        }
    }
}
