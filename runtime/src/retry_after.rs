//! `Retry-After` where the rest of the program looks for it: kube's errors hold the `Status` of an answer and none of its
//! headers, while the API server's filters (priority and fairness, shutdown) answer in plain text and say in the header
//! alone when to ask again: after 1 to 32 s, the longer the more it had to turn away.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use kube::client::DynBody;
use serde_json::json;

/// The answer, as a `Status` with `retryAfterSeconds` if it is a refusal in plain text that says so.
pub(crate) fn spell_out(answer: Response<Box<DynBody>>) -> Response<Box<DynBody>> {
    let code = answer.status();
    let Some(seconds) = seconds(&answer).filter(|_| is_put_off(code)) else { return answer };
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": if code == StatusCode::TOO_MANY_REQUESTS { "TooManyRequests" } else { "ServiceUnavailable" },
        "message": format!("the API server asks to be asked again in {seconds} s"),
        "details": {"retryAfterSeconds": seconds},
        "code": code.as_u16(),
    });
    let mut spelled = Response::new(body(status.to_string()));
    *spelled.status_mut() = code;
    spelled.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    spelled
}

fn body(text: String) -> Box<DynBody> {
    Box::new(Full::from(text.into_bytes()).map_err(|never| match never {}))
}

fn is_put_off(code: StatusCode) -> bool {
    matches!(code, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// What the header says. A `Status` says it itself.
fn seconds(answer: &Response<Box<DynBody>>) -> Option<u32> {
    let of = |name| answer.headers().get(name)?.to_str().ok();
    let is_status = of(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    of(RETRY_AFTER).filter(|_| !is_status)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn spelled(code: u16, retry_after: Option<&str>, kind: &str, text: &'static str) -> (u16, String) {
        let answer = Response::builder().status(code).header(CONTENT_TYPE, kind);
        let answer = retry_after.into_iter().fold(answer, |answer, value| answer.header(RETRY_AFTER, value));
        let answer = spell_out(answer.body(body(text.to_owned())).unwrap());
        let code = answer.status().as_u16();
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(text.to_vec()).unwrap())
    }

    const PLAIN: &str = "text/plain; charset=utf-8";
    const TEXT: &str = "Too many requests, please try again later.\n";

    #[tokio::test]
    async fn a_header_becomes_a_status() {
        for code in [429, 503] {
            let (same, text) = spelled(code, Some("7"), PLAIN, TEXT).await;
            let status: kube::core::Status = serde_json::from_str(&text).unwrap();
            assert_eq!((same, status.code), (code, code));
            assert_eq!(status.details.unwrap().retry_after_seconds, 7);
        }
    }

    #[tokio::test]
    async fn everything_else_stays_as_it_is() {
        assert_eq!(spelled(429, None, PLAIN, TEXT).await, (429, TEXT.into()));
        assert_eq!(spelled(429, Some("Fri, 31 Dec 1999 23:59:59 GMT"), PLAIN, TEXT).await, (429, TEXT.into()));
        assert_eq!(spelled(429, Some("7"), "application/json", "{}").await, (429, "{}".into()));
        assert_eq!(spelled(200, Some("7"), PLAIN, TEXT).await, (200, TEXT.into()));
    }
}
