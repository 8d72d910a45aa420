//! The one shape in which every failure leaves: a CNI error object on stdout.

use cadastre_messages::{Failure, code};
use serde_json::{Value, json};

use crate::version::Version;

/// A failure, and the version in which to say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub version: Version,
    pub failure: Failure,
}

impl Error {
    /// `details` holds the remedy. The newest version is said until [`Error::at`] names the caller's.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Failure { code, msg: msg.into(), details: details.into() }.into()
    }

    /// A key of the configuration, named by its path, that is missing or holds what it should not.
    pub fn of_key(path: &str, found: Option<&Value>, remedy: impl Into<String>) -> Self {
        let found = found.map_or_else(|| "is missing".into(), |found| format!("is {found}"));
        Self::new(code::BAD_CONFIG, format!("{path} {found}"), remedy)
    }

    pub fn at(self, version: Version) -> Self {
        Self { version, ..self }
    }

    pub fn render(&self) -> Value {
        let Failure { code, msg, details } = &self.failure;
        let mut object = json!({ "cniVersion": self.version.text(), "code": code, "msg": msg });
        if let (Value::Object(fields), false) = (&mut object, details.is_empty()) {
            fields.insert("details".into(), details.as_str().into());
        }
        object
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self { version: Version::NEWEST, failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_cni_error_object() {
        let error = Error::new(11, "no agent", "start it").at(Version::V0_4_0);
        assert_eq!(
            error.render(),
            json!({ "cniVersion": "0.4.0", "code": 11, "msg": "no agent", "details": "start it" })
        );
        assert_eq!(Error::new(4, "m", "").render(), json!({ "cniVersion": "1.1.0", "code": 4, "msg": "m" }));
    }
}
