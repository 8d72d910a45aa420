//! An error with its causes as one clean sentence, for log, health and standard error.

use std::error::Error;

use kube::core::Status;

/// The error and what caused it, on one line; what the API server answered in its own words.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = words(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = words(error);
        // Some errors print their source themselves.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// kube prints an answer of the API server as it lies in memory: its message says it all.
fn words(error: &(dyn Error + 'static)) -> String {
    let answer = |error: &(dyn Error + 'static)| {
        let boxed = error.downcast_ref::<Box<Status>>().map(AsRef::as_ref);
        boxed.or_else(|| error.downcast_ref::<Status>()).map(|status| status.message.clone())
    };
    answer(error)
        .or_else(|| error.source().and_then(answer).filter(|_| is_of_kube(error)))
        .unwrap_or_else(|| error.to_string())
}

/// Whether the text is that of kube's own error, perhaps through a wrapper that adds nothing.
fn is_of_kube(error: &(dyn Error + 'static)) -> bool {
    error.to_string().starts_with("ApiError: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("Nodes cannot be read")]
    struct Read(#[source] kube::Error);

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Transparent(kube::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("file x: {0}")]
    struct Twice(#[source] std::io::Error);

    fn initializing() -> kube::Error {
        let answer = r#"{"kind":"Status","status":"Failure","message":"storage is (re)initializing","reason":"TooManyRequests","details":{"retryAfterSeconds":1},"code":429}"#;
        kube::Error::Api(Box::new(serde_json::from_str(answer).unwrap()))
    }

    #[test]
    fn an_answer_of_the_api_server_is_its_message() {
        assert_eq!(with_causes(&initializing()), "storage is (re)initializing");
        assert_eq!(with_causes(&Transparent(initializing())), "storage is (re)initializing");
        assert_eq!(with_causes(&Read(initializing())), "Nodes cannot be read: storage is (re)initializing");
    }

    #[test]
    fn no_cause_is_said_twice() {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(with_causes(&Twice(missing())), "file x: entity not found");
    }
}
