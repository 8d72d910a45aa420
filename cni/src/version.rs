//! The CNI versions spoken here, and what differs between them.
//!
//! ```text
//! 0.1.0  0.2.0               ip4 {…} ip6 {…} dns {}                ADD DEL VERSION
//! 0.3.0  0.3.1               ips [{version "4"|"6", …}] routes dns  "
//! 0.4.0                      the same                               + CHECK
//! 1.0.0                      ips [{…}] routes                       "
//! 1.1.0                      the same, more fields in routes        + GC STATUS
//! ```

use cadastre_messages::code;
use serde_json::{Map, Value, json};

use crate::environment::Verb;
use crate::error::Error;

/// One released version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// How a version writes what ADD gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One object for each family, each with its own routes.
    ByFamily,
    /// A list whose entries say their family.
    Marked,
    /// A list without that mark.
    Plain,
}

impl Version {
    /// Oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// What a failure says while the caller's version is unknown.
    pub const NEWEST: Self = Self::V1_1_0;

    pub fn text(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub fn shape(self) -> Shape {
        match self {
            Self::V0_1_0 | Self::V0_2_0 => Shape::ByFamily,
            Self::V0_3_0 | Self::V0_3_1 | Self::V0_4_0 => Shape::Marked,
            Self::V1_0_0 | Self::V1_1_0 => Shape::Plain,
        }
    }

    /// The version a configuration is written for; one that says nothing is of 0.1.0.
    pub fn of(netconf: &Map<String, Value>) -> Result<Self, Error> {
        match netconf.get("cniVersion") {
            None | Some(Value::Null) => Ok(Self::V0_1_0),
            Some(Value::String(text)) if text.is_empty() => Ok(Self::V0_1_0),
            Some(Value::String(text)) => Self::parse(text),
            Some(other) => Err(malformed(&other.to_string())),
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        if let Some(version) = Self::ALL.into_iter().find(|version| version.text() == text) {
            return Ok(version);
        }
        if !well_formed(text) {
            return Err(malformed(&format!("{text:?}")));
        }
        let message = format!("cniVersion {text:?} is not supported");
        let remedy = format!("set cniVersion in the network configuration to one of {}", list());
        Err(Error::new(code::INCOMPATIBLE_VERSION, message, remedy))
    }

    /// For the versions with one object for each family.
    pub fn no_room_for_two(self) -> Error {
        let message = format!("cniVersion {} has no room for two addresses of a family", self.text());
        let remedy = "set cniVersion in the network configuration to 0.3.0 or later";
        Error::new(code::INCOMPATIBLE_VERSION, message, remedy)
    }

    /// Refuses a verb that the configuration's version does not know yet.
    pub fn allows(self, verb: Verb) -> Result<(), Error> {
        let since = match verb {
            Verb::Add | Verb::Del | Verb::Version => Self::V0_1_0,
            Verb::Check => Self::V0_4_0,
            Verb::Gc | Verb::Status => Self::V1_1_0,
        };
        if self >= since {
            return Ok(());
        }
        let message = format!("config version does not allow {}: cniVersion is {}", verb.text(), self.text());
        let remedy = format!("set cniVersion in the network configuration to {} or later", since.text());
        Err(Error::new(code::INCOMPATIBLE_VERSION, message, remedy))
    }
}

/// `major.minor.patch`, all of them numbers.
fn well_formed(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split('.').count() == 3 && text.split('.').all(number)
}

fn malformed(found: &str) -> Error {
    let remedy = format!("write it as \"major.minor.patch\", one of {}", list());
    Error::new(code::DECODE, format!("cniVersion {found} is not a version"), remedy)
}

/// Every version, for people.
pub fn list() -> String {
    Version::ALL.map(Version::text).join(", ")
}

/// The answer to VERSION.
pub fn supported() -> Value {
    json!({ "cniVersion": Version::NEWEST.text(), "supportedVersions": Version::ALL.map(Version::text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(netconf: Value) -> Result<Version, u32> {
        let Value::Object(netconf) = netconf else { panic!("{netconf} is no object") };
        Version::of(&netconf).map_err(|error| error.failure.code)
    }

    #[test]
    fn a_configuration_says_its_version() {
        for version in Version::ALL {
            assert_eq!(of(json!({ "cniVersion": version.text() })), Ok(version));
        }
        // P10
        assert_eq!(of(json!({})), Ok(Version::V0_1_0));
        assert_eq!(of(json!({ "cniVersion": null })), Ok(Version::V0_1_0));
        assert_eq!(of(json!({ "cniVersion": "" })), Ok(Version::V0_1_0));
    }

    #[test]
    fn unknown_and_malformed_versions_differ() {
        for text in ["9.9.9", "1.2.0", "0.0.0", "0.3.2", "00.1.0"] {
            assert_eq!(of(json!({ "cniVersion": text })), Err(code::INCOMPATIBLE_VERSION), "{text}");
        }
        for text in ["1", "1.1", "1.1.0.0", "v1.1.0", "1..0", " 1.0.0", "1.0.0-rc1", "adsfsadf"] {
            assert_eq!(of(json!({ "cniVersion": text })), Err(code::DECODE), "{text}");
        }
        assert_eq!(of(json!({ "cniVersion": 1.1 })), Err(code::DECODE));
    }

    #[test]
    fn verbs_have_a_first_version() {
        let firsts = [
            (Verb::Add, Version::V0_1_0),
            (Verb::Del, Version::V0_1_0),
            (Verb::Check, Version::V0_4_0),
            (Verb::Gc, Version::V1_1_0),
            (Verb::Status, Version::V1_1_0),
        ];
        for (verb, first) in firsts {
            for version in Version::ALL {
                assert_eq!(version.allows(verb).is_ok(), version >= first, "{verb:?} at {version:?}");
            }
        }
    }
}
