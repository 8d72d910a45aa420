//! The one way to the API server.
//!
//! `KUBECONFIG` if it is set, else the pod's service account. `~/.kube/config` is not looked at: an operator that was
//! started by mistake on somebody's desk would run against whatever cluster that points to.

use std::time::Duration;

use axum::http::uri::InvalidUri;
use axum::http::{HeaderValue, Uri, header};
use kube::client::ClientBuilder;
use kube::config::{InClusterError, KubeConfigOptions, KubeconfigError};
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;
use tower::util::{MapResponseLayer, option_layer};
use tower_http::timeout::ResponseBodyTimeoutLayer;

use crate::ApiRequests;
use crate::retry_after::spell_out;
use crate::settings::{ApiServer, Settings};

/// A dead API server's address is noticed within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A request to which nothing arrives for this long, and an answer that goes on with nothing, meet a dead connection.
/// Watches hear a bookmark every 60 s from the API server, but for kinds that never changed since its start.
const SILENCE: Duration = Duration::from_secs(90);

/// A request that cannot be written for this long meets a dead connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// `KUBECONFIG` names something unusable.
    #[error("KUBECONFIG={path} cannot be used")]
    Kubeconfig {
        /// What `KUBECONFIG` says.
        path: String,
        /// What is wrong.
        source: KubeconfigError,
    },
    /// Neither way is open.
    #[error(
        "not in a pod with a service account, and KUBECONFIG is not set: set KUBECONFIG to the path of a kubeconfig"
    )]
    NoCluster {
        /// What is missing of the service account.
        source: InClusterError,
    },
    /// `k8sServiceHost` does not make a URL.
    #[error("k8sServiceHost and k8sServicePort give the URL {url:?}, which is none")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        source: InvalidUri,
    },
    /// The client cannot be built, for example because a certificate is unreadable.
    #[error("the Kubernetes client cannot be built")]
    Build {
        /// What is wrong.
        source: Box<kube::Error>,
    },
}

/// A client for `component` (`cadastre-operator`, `cadastre-agent`), which the API server sees as the user agent.
///
/// Its default namespace is that of the pod, or of the kubeconfig's context.
pub async fn client(settings: &Settings, component: &str) -> Result<Client, ClientError> {
    build(configuration(settings, component).await?, None)
}

/// As [`client`], with its requests counted.
pub async fn counted_client(
    settings: &Settings,
    component: &str,
    requests: &ApiRequests,
) -> Result<Client, ClientError> {
    build(configuration(settings, component).await?, Some(requests.clone()))
}

fn build(config: Config, requests: Option<ApiRequests>) -> Result<Client, ClientError> {
    let unbuilt = |source| ClientError::Build { source: Box::new(source) };
    let builder = ClientBuilder::try_from(config).map_err(unbuilt)?;
    let patient = (ResponseBodyTimeoutLayer::new(SILENCE), TimeoutLayer::new(SILENCE));
    Ok(builder.with_layer(&(option_layer(requests), patient, MapResponseLayer::new(spell_out))).build())
}

async fn configuration(settings: &Settings, component: &str) -> Result<Config, ClientError> {
    let mut config = access(settings.api_server.as_ref()).await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // `SILENCE` is in its place: kube's wakes the thread twice for each event of a watch, for nothing.
    config.read_timeout = None;
    config.write_timeout = Some(WRITE_TIMEOUT);
    // Whoever asks decides what a failure means; a retry in here would hide it.
    config.default_retry = false;
    let agent = format!("{component}/{}", env!("CARGO_PKG_VERSION"));
    if let Ok(agent) = HeaderValue::from_str(&agent) {
        config.headers.push((header::USER_AGENT, agent));
    }
    tracing::info!(api_server = %config.cluster_url, "Kubernetes");
    Ok(config)
}

async fn access(api_server: Option<&ApiServer>) -> Result<Config, ClientError> {
    let path = std::env::var("KUBECONFIG").unwrap_or_default();
    if path.is_empty() {
        return in_cluster(api_server);
    }
    Config::from_kubeconfig(&KubeConfigOptions::default())
        .await
        .map_err(|source| ClientError::Kubeconfig { path, source })
}

/// Without kube-proxy the service address that kubelet announces leads nowhere: hence `k8sServiceHost`.
fn in_cluster(api_server: Option<&ApiServer>) -> Result<Config, ClientError> {
    let Some(api_server) = api_server else {
        return Config::incluster().map_err(|source| ClientError::NoCluster { source });
    };
    let url = api_server.url();
    let uri = url.parse::<Uri>().map_err(|source| ClientError::Url { url, source })?;
    let mut config = Config::incluster_dns().map_err(|source| ClientError::NoCluster { source })?;
    config.cluster_url = uri;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use futures::{AsyncBufReadExt as _, TryStreamExt as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::{Instant, timeout};

    use super::*;

    /// What becomes of a request whose answer begins with this, and does not go on.
    async fn asked_of_one_that_says(words: &'static str) -> Result<Vec<String>, kube::Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let client = build(Config::new(url), None).unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            // The request.
            let asked = stream.read(&mut [0; 4096]).await.unwrap();
            assert_ne!(asked, 0);
            stream.write_all(words.as_bytes()).await.unwrap();
            // It stays open.
            std::future::pending::<()>().await;
        };
        let lines = async {
            let lines = client.request_stream(Request::get("/").body(Vec::new()).unwrap()).await?.lines();
            lines.map_err(|error| kube::Error::Service(error.into())).try_collect().await
        };
        tokio::select! {
            lines = lines => lines,
            () = server => unreachable!(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_stops_to_is_given_up_after_a_while() {
        for words in ["", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n"] {
            let since = Instant::now();
            let answer = timeout(SILENCE * 2, asked_of_one_that_says(words)).await.expect(words);
            assert!(answer.is_err() && since.elapsed() >= SILENCE, "{words:?}: {answer:?}");
        }
    }

    #[test]
    fn outside_of_a_pod_the_remedy_is_a_kubeconfig() {
        let api_server = ApiServer { host: "fd00::1".into(), port: 6443 };
        for api_server in [None, Some(&api_server)] {
            let error = in_cluster(api_server).unwrap_err().to_string();
            assert!(error.ends_with("set KUBECONFIG to the path of a kubeconfig"), "{error}");
        }
    }
}
