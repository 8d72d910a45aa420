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

    /// Refuses what the reference plugin `static` asks for: ignoring it would give an address that nobody asked for.
    pub fn asks_for_nothing_static(&self) -> Result<(), Error> {
        let Some(value) = field(&self.ipam, "addresses").filter(|value| !is_blank(value)) else { return Ok(()) };
        let message = format!("ipam.addresses, which is {value}, is not supported");
        let remedy =
            "remove it: the node's blocks say which addresses there are; to ask for one of them, see runtimeConfig.ips";
        Err(Error::new(code::UNSUPPORTED_FIELD, message, remedy))
    }

    /// A section of the document, such as `runtimeConfig` or `args/cni`; none if it is anything but an object.
    pub fn section(&self, path: &str) -> Option<&Map<String, Value>> {
        let mut sections = path.split('/');
        let first = field(&self.document, sections.next()?)?.as_object();
        sections.fold(first, |section, key| field(section?, key)?.as_object())
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

/// A key's value, however its letters are cased: the reference plugins read JSON that way, and a `rangestart` that were
/// ignored would give addresses outside of the range. `null` is absent.
pub fn field<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let exact = object.get(key);
    let found =
        exact.or_else(|| object.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value));
    found.filter(|value| !value.is_null())
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
    fn the_static_plugins_addresses_are_refused_by_name() {
        let check = |addresses: Value| {
            let netconf = netconf(&json!({ "ipam": { "type": "cadastre", "addresses": addresses } }));
            let result = parse(Verb::Add, &netconf).unwrap().asks_for_nothing_static();
            result.map_err(|error| (error.failure.code, error.failure.msg))
        };
        assert_eq!(check(json!([])), Ok(()));
        assert_eq!(
            check(json!(["10.0.0.5/8"])),
            Err((code::UNSUPPORTED_FIELD, "ipam.addresses, which is [\"10.0.0.5/8\"], is not supported".into()))
        );
    }

    #[test]
    fn keys_are_found_whatever_their_case() {
        let Value::Object(object) = json!({ "rangestart": 1, "Subnet": 2, "subnet": 3, "gateway": null }) else {
            unreachable!()
        };
        assert_eq!(field(&object, "rangeStart"), Some(&json!(1)));
        assert_eq!(field(&object, "subnet"), Some(&json!(3)), "the exact one comes first");
        assert_eq!((field(&object, "gateway"), field(&object, "routes")), (None, None));
    }

    #[test]
    fn sections_are_objects() {
        let netconf = netconf(&json!({ "args": { "cni": { "ips": [] } }, "runtimeConfig": 7 }));
        let netconf = parse(Verb::Add, &netconf).unwrap();
        assert!(netconf.section("args/cni").unwrap().contains_key("ips"));
        for path in ["runtimeConfig", "args/other", "nothing/cni"] {
            assert_eq!(netconf.section(path), None, "{path}");
        }
    }
}
