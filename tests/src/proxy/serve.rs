//! Connections of a proxy, and each request's way through it.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use tokio::net::{TcpListener, TcpStream};

use super::Asked;
use super::shared::{Fault, Shared};

/// Why a connection breaks.
pub(super) type Broken = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, Broken>>;

/// As the API server ends a watch whose version it has forgotten.
const EXPIRED: &str = concat!(
    r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
    r#""message":"too old resource version","reason":"Expired","code":410}}"#,
    "\n"
);

/// Serves until it is aborted.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Only a lack of file descriptors makes this fail; the operator then sees that nobody accepts.
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, Arc::clone(&shared)));
    }
}

/// Lives until either side ends it, or all connections are cut.
async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let mut era = shared.era.subscribe();
    era.mark_unchanged();
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    tokio::select! {
        // That it broke is the operator's to notice.
        _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service) => {}
        _ = era.changed() => {}
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Answer, Broken> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let (asked, fault) = shared.see(&parts);
    let _under_way = (!asked.is_watch()).then(|| shared.enter());
    // A task of its own: it goes on when the connection has gone.
    tokio::spawn(travel(parts, body, asked, fault, shared)).await?
}

async fn travel(
    parts: http::request::Parts,
    body: Bytes,
    asked: Asked,
    fault: Fault,
    shared: Arc<Shared>,
) -> Result<Answer, Broken> {
    match fault {
        Fault::StopBefore => shared.stop(&asked),
        Fault::Cut => return Err("cut by the rule".into()),
        Fault::Late(wait) => tokio::time::sleep(wait).await,
        Fault::Pass | Fault::StopAfter | Fault::Refuse { .. } | Fault::Expire | Fault::Slow(_) => {}
    }
    shared.passes().await?;
    let answer = match fault {
        Fault::Refuse { code, retry_after } => return refuse(code, retry_after),
        Fault::Expire => {
            return Ok(Response::builder().header(CONTENT_TYPE, "application/json").body(text(EXPIRED))?);
        }
        _ => forward(parts, body, &shared).await?,
    };
    match fault {
        Fault::StopAfter => shared.stop(&asked),
        Fault::Slow(wait) => tokio::time::sleep(wait).await,
        _ => {}
    }
    shared.passes().await?;
    Ok(answer)
}

fn refuse(code: u16, retry_after: Option<u32>) -> Result<Answer, Broken> {
    let answer = Response::builder().status(code).header(CONTENT_TYPE, "text/plain; charset=utf-8");
    let answer = retry_after.into_iter().fold(answer, |answer, seconds| answer.header(RETRY_AFTER, seconds));
    Ok(answer.body(text("Too many requests, please try again later.\n"))?)
}

async fn forward(parts: http::request::Parts, body: Bytes, shared: &Arc<Shared>) -> Result<Answer, Broken> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(parts.method).uri(path).body(Body::from(body.to_vec()))?;
    *request.headers_mut() = end_to_end(parts.headers);
    let (parts, body) = shared.upstream.send(request).await?.into_parts();
    let gate = Arc::clone(shared);
    let frames = BodyStream::new(body).then(move |frame| {
        let gate = Arc::clone(&gate);
        async move {
            gate.passes().await?;
            frame.map_err(Broken::from)
        }
    });
    let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = end_to_end(parts.headers);
    Ok(answer)
}

/// Without what is said of one connection only.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH, HOST] {
        headers.remove(name);
    }
    headers
}

fn text(content: &'static str) -> UnsyncBoxBody<Bytes, Broken> {
    Full::new(Bytes::from_static(content.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}
