//! Counts every request to the API server where it leaves the process, so that none is forgotten: watches, the Lease and
//! what was given up too.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::http::{Method, Request, Response, Uri};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;
use tower::{Layer, Service};

use crate::Catalog;

/// Seconds: a write takes 2 to 20 ms on a healthy API server; a request is given up after 15 s.
const LATENCIES: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];

/// What is asked for by name here; anything else is `other`, so that no answer makes labels without end.
const RESOURCES: [&str; 12] = [
    "nodes",
    "pods",
    "servicecidrs",
    "ipamconfigs",
    "ipamconfigs/status",
    "ippools",
    "ippools/status",
    "ipamledgers",
    "ipamnodes",
    "ipamnodes/status",
    "events",
    "leases",
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    verb: &'static str,
    resource: &'static str,
    result: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: &'static str,
}

/// Numbers of requests. Clones share them.
#[derive(Clone, Debug)]
pub struct ApiRequests {
    requests: Family<Labels, Counter>,
    latency: Family<VerbLabels, Histogram, fn() -> Histogram>,
}

impl ApiRequests {
    /// Metrics that `catalog` shows.
    pub fn register(catalog: &mut Catalog) -> Self {
        let latency: fn() -> Histogram = || Histogram::new(LATENCIES);
        let this = Self { requests: Family::default(), latency: Family::new_with_constructor(latency) };
        let help = "Requests to the API server; result is the HTTP status, or none if there was no answer";
        catalog.show("api_requests", &["verb", "resource", "result"], help, this.requests.clone());
        let help = "Time until the API server's answer, of a watch until it begins";
        catalog.show_in(Unit::Seconds, "api_request_duration", &["verb"], help, this.latency.clone());
        this
    }
}

impl<S> Layer<S> for ApiRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, numbers: self.clone() }
    }
}

/// A client's HTTP stack with its requests counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    numbers: ApiRequests,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (verb, resource) = meaning(request.method(), request.uri());
        let mut asked = Asked { numbers: self.numbers.clone(), verb, resource, status: None, begun: Instant::now() };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            // By a method, so that all of it moves in here and lives until now.
            asked.answered(answer.as_ref().ok().map(|answer| answer.status().as_u16()));
            answer
        })
    }
}

/// A request under way. It counts when it ends, also if that is because nobody waits for it any more.
struct Asked {
    numbers: ApiRequests,
    verb: &'static str,
    resource: &'static str,
    status: Option<u16>,
    begun: Instant,
}

impl Asked {
    fn answered(&mut self, status: Option<u16>) {
        self.status = status;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let result = self.status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        let labels = Labels { verb: self.verb, resource: self.resource, result };
        self.numbers.requests.get_or_create(&labels).inc();
        let took = self.begun.elapsed().as_secs_f64();
        self.numbers.latency.get_or_create(&VerbLabels { verb: self.verb }).observe(took);
    }
}

/// Verb and resource as RBAC and the audit log call them.
fn meaning(method: &Method, uri: &Uri) -> (&'static str, &'static str) {
    let parts: Vec<_> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    // /api/v1/… or /apis/GROUP/VERSION/…, then namespaces/NAMESPACE for what has one.
    let prefix = if parts.first() == Some(&"api") { 2 } else { 3 };
    let path = parts.get(prefix..).unwrap_or_default();
    let path = if path.first() == Some(&"namespaces") && path.len() > 2 { &path[2..] } else { path };
    let resource = match path {
        [resource, _, subresource] => format!("{resource}/{subresource}"),
        [resource, ..] => (*resource).to_owned(),
        [] => String::new(),
    };
    let watches = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    let verb = match (method.as_str(), path.len()) {
        ("GET", _) if watches => "watch",
        ("GET", 0 | 1) => "list",
        ("GET", _) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", _) => "delete",
        _ => "other",
    };
    (verb, known(&resource))
}

fn known(resource: &str) -> &'static str {
    RESOURCES.into_iter().find(|known| *known == resource).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn paths_mean_what_the_audit_log_says() {
        let table = [
            (Method::GET, "/api/v1/nodes?limit=100", ("list", "nodes")),
            (Method::GET, "/api/v1/nodes/n1", ("get", "nodes")),
            (Method::GET, "/apis/cadastre.io/v1alpha1/ipamnodes?watch=true&timeoutSeconds=290", ("watch", "ipamnodes")),
            (Method::POST, "/apis/cadastre.io/v1alpha1/ipamnodes?fieldManager=x", ("create", "ipamnodes")),
            (Method::PATCH, "/apis/cadastre.io/v1alpha1/ipamnodes/n1/status", ("patch", "ipamnodes/status")),
            (Method::PUT, "/apis/cadastre.io/v1alpha1/ipamledgers/p", ("update", "ipamledgers")),
            (Method::DELETE, "/apis/cadastre.io/v1alpha1/ipamnodes/n1", ("delete", "ipamnodes")),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/l", ("update", "leases")),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events", ("create", "events")),
            (Method::GET, "/version", ("list", "other")),
        ];
        for (method, uri, expected) in table {
            assert_eq!(meaning(&method, &uri.parse().unwrap()), expected, "{method} {uri}");
        }
    }

    #[tokio::test]
    async fn answers_failures_and_what_was_given_up_are_counted() {
        let mut catalog = Catalog::new("t");
        let numbers = ApiRequests::register(&mut catalog);
        let request = || Request::get("/api/v1/nodes/n1").body(()).unwrap();
        let answers = tower::service_fn(async |_: Request<()>| {
            Ok::<_, std::io::Error>(Response::builder().status(404).body(()).unwrap())
        });
        numbers.layer(answers).call(request()).await.unwrap();
        let fails = tower::service_fn(async |_: Request<()>| {
            Err::<Response<()>, _>(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
        });
        numbers.layer(fails).call(request()).await.unwrap_err();
        let hangs = tower::service_fn(async |_: Request<()>| {
            std::future::pending::<Result<Response<()>, std::io::Error>>().await
        });
        drop(numbers.layer(hangs).call(request()));
        let mut text = String::new();
        encode(&mut text, &catalog.into_registry()).unwrap();
        for line in ["result=\"404\"} 1", "result=\"none\"} 2"] {
            assert!(text.contains(&format!("t_api_requests_total{{verb=\"get\",resource=\"nodes\",{line}")), "{text}");
        }
    }
}
