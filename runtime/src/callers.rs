//! Connections to the HTTP server: none lasts long, and with too many the oldest gives way.
//!
//! axum serves any number for as long as they like. Whoever reaches the port could take all files and memory of the process by
//! requests that never end, and pods wait for this process.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// At once. kubelet, a few Prometheus and people need a handful.
const AT_ONCE: usize = 128;

/// What is kept of one request: far more than any of them has.
const REQUEST: usize = 16 * 1024;

/// From connecting to the end of the answer: Prometheus waits for 10 s, unless told otherwise.
const LONGEST: Duration = Duration::from_secs(10);

/// After `accept` failed, mostly for want of files: others have to end first.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers one request of each connection, for ever.
pub async fn answer(listener: TcpListener, routes: Router) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() >= AT_ONCE
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                open.push_back(tokio::spawn(serve(stream, routes.clone(), LONGEST)).abort_handle());
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics and health could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, routes: Router, longest: Duration) {
    let service = TowerToHyperService::new(routes);
    let mut http = http1::Builder::new();
    let connection = http.keep_alive(false).max_buf_size(REQUEST).serve_connection(TokioIo::new(stream), service);
    match timeout(longest, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a request for metrics or health was not answered"),
        Err(_) => tracing::debug!("a request for metrics or health took too long"),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What is said until the end of the connection, which comes sooner than by [`LONGEST`].
    async fn heard(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        let read = timeout(LONGEST / 2, stream.read_to_string(&mut text)).await;
        drop(read.expect("it lasts")); // One that is cut off may be reset.
        text
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (caller, listener.accept().await.unwrap().0)
    }

    fn routes() -> Router {
        Router::new().route("/", get(async || "here"))
    }

    #[tokio::test]
    async fn with_too_many_half_requests_the_oldest_gives_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(answer(listener, routes()));
        let mut half = Vec::new();
        for _ in 0..=AT_ONCE {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(b"GET / HT").await.unwrap();
            half.push(stream);
        }
        assert_eq!(heard(&mut half[0]).await, "");
        let mut whole = TcpStream::connect(addr).await.unwrap();
        whole.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        assert!(heard(&mut whole).await.ends_with("here"), "and the connection ends with the answer");
        let last = half.last_mut().unwrap();
        last.write_all(b"TP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        assert!(heard(last).await.ends_with("here"), "the newest are still served");
        server.abort();
    }

    #[tokio::test]
    async fn a_request_that_does_not_end_is_cut_off() {
        let (mut caller, stream) = pair().await;
        caller.write_all(b"GET / HT").await.unwrap();
        tokio::spawn(serve(stream, routes(), Duration::from_millis(20)));
        assert_eq!(heard(&mut caller).await, "");
    }
}
