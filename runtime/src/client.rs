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
use tower::util::MapResponseLayer;

use crate::ApiRequests;
use crate::retry_after::spell_out;
use crate::settings::{ApiServer, Settings};

/// A dead API server's address is noticed within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which nothing arrives for this long is dead. Watches hear a bookmark every 60 s from the API
/// server, but for kinds that never changed since its start.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

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
    let builder = ClientBuilder::try_from(configuration(settings, component).await?).map_err(unbuilt)?;
    Ok(builder.with_layer(&MapResponseLayer::new(spell_out)).build())
}

/// As [`client`], with its requests counted.
pub async fn counted_client(
    settings: &Settings,
    component: &str,
    requests: &ApiRequests,
) -> Result<Client, ClientError> {
    let builder = ClientBuilder::try_from(configuration(settings, component).await?).map_err(unbuilt)?;
    Ok(builder.with_layer(&MapResponseLayer::new(spell_out)).with_layer(requests).build())
}

fn unbuilt(source: kube::Error) -> ClientError {
    ClientError::Build { source: Box::new(source) }
}

async fn configuration(settings: &Settings, component: &str) -> Result<Config, ClientError> {
    let mut config = access(settings.api_server.as_ref()).await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    // Whoever asks decides what a failure means; a retry in here would hide it.
    config.default_retry = false;
    // Else the time that a pooled connection lay idle would count as silence of the API server.
    config.reset_reader_on_write = true;
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
    use super::*;

    #[test]
    fn outside_of_a_pod_the_remedy_is_a_kubeconfig() {
        let api_server = ApiServer { host: "fd00::1".into(), port: 6443 };
        for api_server in [None, Some(&api_server)] {
            let error = in_cluster(api_server).unwrap_err().to_string();
            assert!(error.ends_with("set KUBECONFIG to the path of a kubeconfig"), "{error}");
        }
    }
}
