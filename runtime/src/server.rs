//! The HTTP server that kubelet and Prometheus ask: `/metrics`, `/healthz`, `/readyz`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::{Readiness, Shutdown, callers};

/// What Prometheus calls the format that `prometheus-client` writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where it listens, with the port that the kernel chose if port 0 was asked for.
    pub addr: SocketAddr,
    /// Ends after a requested shutdown.
    pub task: JoinHandle<()>,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen} for metrics and health: choose another address with --listen")]
pub struct ServeError {
    listen: SocketAddr,
    #[source]
    source: io::Error,
}

/// An address and a port, as `--listen` takes them. IPv6 needs no brackets: the chart writes whatever address a node has
/// before a colon and the port.
///
/// # Errors
/// If it is neither, with what is wanted.
pub fn listen_addr(text: &str) -> Result<SocketAddr, String> {
    let apart = || -> Option<SocketAddr> {
        let (ip, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
    };
    text.parse().ok().or_else(apart).ok_or_else(|| "no ADDR:PORT such as 10.0.0.1:9963 or [::]:9963".to_owned())
}

#[derive(Clone)]
struct Answers {
    registry: Arc<Registry>,
    readiness: Readiness,
}

/// Listens and answers in a task of its own until `shutdown`. The address is logged, so that `127.0.0.1:0` is usable.
pub async fn serve(
    listen: SocketAddr,
    registry: Registry,
    readiness: Readiness,
    shutdown: Shutdown,
) -> Result<Server, ServeError> {
    let failed = |source| ServeError { listen, source };
    let listener = bind(listen).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    tracing::info!(listen = %addr, "serving metrics and health");
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(Answers { registry: Arc::new(registry), readiness });
    let task = tokio::spawn(async move {
        tokio::select! {
            () = callers::answer(listener, routes) => {}
            () = shutdown.requested() => {}
        }
    });
    Ok(Server { addr, task })
}

/// Listens. `[::]` takes both families; on a machine without IPv6 it means `0.0.0.0`.
///
/// # Errors
/// The kernel's, if the address cannot be had.
pub async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(listen).await {
        Err(error) if listen.ip().is_unspecified() && listen.is_ipv6() && lacks_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, listen.port())).await
        }
        bound => bound,
    }
}

/// What a kernel says to which IPv6 is unknown; std has no kind for it. The number is Linux's on every architecture of
/// ours.
const EAFNOSUPPORT: i32 = 97;

/// IPv6 is compiled out, or disabled by sysctl.
fn lacks_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

async fn metrics(State(answers): State<Answers>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &answers.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn readyz(State(answers): State<Answers>) -> Response {
    let status = if answers.readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, answers.readiness.report()).into_response()
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn an_address_is_read_with_brackets_and_without() {
        for (text, addr) in [
            ("10.0.0.1:9963", "10.0.0.1:9963"),
            ("[fd00::1]:9963", "[fd00::1]:9963"),
            ("fd00::1:9963", "[fd00::1]:9963"),
            (":::9963", "[::]:9963"),
        ] {
            assert_eq!(listen_addr(text), Ok(addr.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.1", "9963", "node:9963", "fd00::1:99630", ""] {
            assert!(listen_addr(text).unwrap_err().contains("ADDR:PORT"), "{text}");
        }
    }

    /// Status and body.
    async fn ask(addr: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
    }

    async fn start(listen: &str) -> (Server, Readiness, crate::Trigger) {
        let mut registry = crate::Catalog::new("cadastre_test").into_registry();
        let counter: Counter = Counter::default();
        counter.inc_by(3);
        registry.register("pods", "Pods seen", counter);
        let (trigger, shutdown) = Shutdown::manual();
        let readiness = Readiness::new();
        let server = serve(listen.parse().unwrap(), registry, readiness.clone(), shutdown).await.unwrap();
        (server, readiness, trigger)
    }

    #[tokio::test]
    async fn answers_metrics_health_and_readiness_until_shutdown() {
        let (server, readiness, trigger) = start("127.0.0.1:0").await;
        readiness.fail("mode", "eni is configured, kubernetes is recorded");
        let reason = "mode: not ready: eni is configured, kubernetes is recorded\n";
        assert_eq!(ask(server.addr, "/readyz").await, ("503".into(), reason.into()));
        assert_eq!(ask(server.addr, "/healthz").await, ("200".into(), "ok\n".into()));
        readiness.pass("mode");
        assert_eq!(ask(server.addr, "/readyz").await, ("200".into(), "mode: ok\n".into()));
        let (status, metrics) = ask(server.addr, "/metrics").await;
        assert_eq!(status, "200");
        assert!(metrics.contains("cadastre_test_pods_total 3\n"), "{metrics}");
        assert!(metrics.contains("cadastre_test_build_info{version=\""), "{metrics}");
        assert!(metrics.ends_with("# EOF\n"), "{metrics}");
        assert_eq!(ask(server.addr, "/nothing").await.0, "404");
        trigger.fire();
        server.task.await.unwrap();
        assert!(TcpStream::connect(server.addr).await.is_err());
    }

    #[tokio::test]
    async fn the_unspecified_ipv6_address_takes_ipv4_too() {
        let (server, _, _trigger) = start("[::]:0").await;
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, server.addr.port()));
        assert_eq!(ask(loopback, "/healthz").await.0, "200");
    }

    #[test]
    fn only_a_lack_of_ipv6_makes_it_fall_back() {
        let error = io::Error::from_raw_os_error;
        assert!(lacks_ipv6(&error(EAFNOSUPPORT)) && lacks_ipv6(&io::ErrorKind::AddrNotAvailable.into()));
        assert!(!lacks_ipv6(&io::ErrorKind::AddrInUse.into()) && !lacks_ipv6(&io::ErrorKind::PermissionDenied.into()));
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let (server, readiness, _trigger) = start("127.0.0.1:0").await;
        let (_other, shutdown) = Shutdown::manual();
        let error = serve(server.addr, crate::Catalog::new("cadastre_test").into_registry(), readiness, shutdown)
            .await
            .unwrap_err();
        let expected =
            format!("cannot listen on {} for metrics and health: choose another address with --listen", server.addr);
        assert_eq!(error.to_string(), expected);
    }
}
