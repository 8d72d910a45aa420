//! What the API server's answers mean: one place that tells "it is not there" from "nobody knows".
//!
//! | answer of kube-apiserver 1.36 | meaning |
//! |---|---|
//! | 404, reason NotFound, names the object | not found |
//! | 404 otherwise (`404 page not found`: no such CRD) | refused: no proof that an object is gone |
//! | 409 AlreadyExists; 409 Conflict (resourceVersion, UID precondition) | conflict |
//! | 422 Invalid without a name and causes, to a JSON patch: a `test` failed | conflict |
//! | 422 with causes (schema, CEL), 400, 401, 403 and other 4xx | refused |
//! | 429 | not done; ask again after `Retry-After` |
//! | 408, 5xx, a broken connection, no answer in time | uncertain |

use std::time::Duration;

use cadastre_engine::Outcome;
pub use cadastre_runtime::with_causes;
use kube::core::Status;

/// What came of a request that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Somebody else was first.
    Conflict,
    /// The object does not exist.
    NotFound,
    /// Understood, and will not be done.
    Refused(String),
    /// It was read, and cannot be understood.
    Unreadable(String),
    /// Turned away before anything was done.
    Busy(Duration),
    /// Nobody knows whether it was done.
    Unknown(String),
}

/// If it does not say when.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

impl Failure {
    /// `tests` if the request was a JSON patch with `test` operations.
    pub fn of(error: &kube::Error, tests: bool) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status, tests),
            kube::Error::BuildRequest(error) => Self::Refused(format!("the request could not be built: {error}")),
            kube::Error::Auth(_) => Self::Busy(DEFAULT_RETRY_AFTER),
            error => Self::Unknown(with_causes(error)),
        }
    }

    fn of_status(status: &Status, tests: bool) -> Self {
        let named = status.details.as_ref().is_some_and(|details| !details.name.is_empty());
        let says_why = status.details.as_ref().is_some_and(|details| !details.causes.is_empty());
        match status.code {
            404 if status.reason == "NotFound" && named => Self::NotFound,
            404 => Self::Refused(format!("{}: are Cadastre's CRDs installed?", status.message)),
            409 => Self::Conflict,
            422 if tests && !named && !says_why => Self::Conflict,
            429 => Self::Busy(retry_after(status).unwrap_or(DEFAULT_RETRY_AFTER)),
            408 => Self::Unknown(status.message.clone()),
            400..=499 => Self::Refused(status.message.clone()),
            _ => Self::Unknown(format!("{} (HTTP {})", status.message, status.code)),
        }
    }

    /// What the engine is told.
    pub fn into_outcome(self) -> Outcome {
        match self {
            Self::Conflict => Outcome::Conflict,
            Self::NotFound => Outcome::NotFound,
            Self::Refused(message) => Outcome::Refused(message),
            Self::Unreadable(message) => Outcome::Unreadable(message),
            Self::Busy(_) => Outcome::Refused("the API server is overloaded (429)".to_owned()),
            Self::Unknown(message) => Outcome::Uncertain(message),
        }
    }
}

/// When the API server asks to be asked again.
pub fn retry_after(status: &Status) -> Option<Duration> {
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(json: &str, tests: bool) -> Failure {
        Failure::of(&kube::Error::Api(Box::new(serde_json::from_str(json).unwrap())), tests)
    }

    /// The bodies are those of kube-apiserver 1.36.3.
    #[test]
    fn answers_of_a_real_server() {
        let exists = r#"{"kind":"Status","status":"Failure","message":"things.probe.io \"a\" already exists","reason":"AlreadyExists","details":{"name":"a","group":"probe.io","kind":"things"},"code":409}"#;
        assert_eq!(answer(exists, false), Failure::Conflict);
        let stale = r#"{"kind":"Status","status":"Failure","message":"Operation cannot be fulfilled on things.probe.io \"a\": the object has been modified; please apply your changes to the latest version and try again","reason":"Conflict","details":{"name":"a","group":"probe.io","kind":"things"},"code":409}"#;
        assert_eq!(answer(stale, false), Failure::Conflict);
        let test_failed = r#"{"kind":"Status","status":"Failure","message":"the server rejected our request due to an error in our request","reason":"Invalid","details":{},"code":422}"#;
        assert_eq!(answer(test_failed, true), Failure::Conflict);
        assert!(matches!(answer(test_failed, false), Failure::Refused(_)));
        let invalid = r#"{"kind":"Status","status":"Failure","message":"Thing.probe.io \"a\" is invalid: spec.size: Invalid value: 30","reason":"Invalid","details":{"name":"a","group":"probe.io","kind":"Thing","causes":[{"reason":"FieldValueInvalid","message":"x","field":"spec.size"}]},"code":422}"#;
        assert!(matches!(answer(invalid, true), Failure::Refused(_)));
        let forbidden = r#"{"kind":"Status","status":"Failure","message":"things.probe.io is forbidden","reason":"Forbidden","details":{"group":"probe.io","kind":"things"},"code":403}"#;
        assert!(matches!(answer(forbidden, false), Failure::Refused(_)));
    }

    #[test]
    fn only_a_404_that_names_the_object_proves_that_it_is_gone() {
        let gone = r#"{"kind":"Status","status":"Failure","message":"nodes \"a\" not found","reason":"NotFound","details":{"name":"a","kind":"nodes"},"code":404}"#;
        assert_eq!(answer(gone, false), Failure::NotFound);
        let no_such_page =
            r#"{"status":"Failure","message":"404 page not found","reason":"Failed to parse error data","code":404}"#;
        assert!(matches!(answer(no_such_page, false), Failure::Refused(_)));
    }

    #[test]
    fn overload_is_told_from_trouble() {
        let asked = r#"{"kind":"Status","message":"slow down","reason":"TooManyRequests","details":{"retryAfterSeconds":7},"code":429}"#;
        assert_eq!(answer(asked, false), Failure::Busy(Duration::from_secs(7)));
        let plain = r#"{"message":"Too many requests, please try again later.","reason":"Failed to parse error data","code":429}"#;
        assert_eq!(answer(plain, false), Failure::Busy(DEFAULT_RETRY_AFTER));
        let timeout = r#"{"kind":"Status","message":"etcdserver: request timed out","reason":"Timeout","code":504}"#;
        assert!(matches!(answer(timeout, false), Failure::Unknown(_)));
    }
}
