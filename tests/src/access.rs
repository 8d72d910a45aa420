//! Kubeconfigs and clients: for the administrator, and for `ServiceAccount`s with exactly the rights the chart gave them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::{Value, json};

use crate::{ControlPlane, pod};

/// Longer than any test.
const TOKEN_SECONDS: i64 = 3600;

impl ControlPlane {
    /// A client with the rights of a `ServiceAccount`, which must exist.
    pub async fn service_account_client(&self, namespace: &str, name: &str) -> Result<Client> {
        client(self.kubeconfig(&self.token(namespace, name, None).await?)).await
    }

    /// A kubeconfig file with the rights of a `ServiceAccount`, which must exist.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self.token(namespace, name, None).await?;
        self.scratch.write(&format!("{namespace}.{name}.kubeconfig"), self.kubeconfig(&token).to_string())
    }

    /// As [`ControlPlane::service_account_kubeconfig`], but with the token that a pod on `node` would get: it names the
    /// pod and the node, as admission policies like to check. Such a pod is created, once.
    pub async fn service_account_kubeconfig_on(&self, namespace: &str, name: &str, node: &str) -> Result<PathBuf> {
        // Boxed, as futures of tests that start agents would grow too large.
        let token = Box::pin(self.token_on(namespace, name, node)).await?;
        self.scratch.write(&format!("{namespace}.{name}-{node}.kubeconfig"), self.kubeconfig(&token).to_string())
    }

    /// A client with that token.
    pub async fn service_account_client_on(&self, namespace: &str, name: &str, node: &str) -> Result<Client> {
        client(self.kubeconfig(&Box::pin(self.token_on(namespace, name, node)).await?)).await
    }

    async fn token_on(&self, namespace: &str, name: &str, node: &str) -> Result<String> {
        let host = format!("{name}-{node}");
        let pods = Api::<Pod>::namespaced(self.admin().await?, namespace);
        let pod = match pods.get_opt(&host).await? {
            Some(pod) => pod,
            None => {
                self.create_in(namespace, &pod(namespace, &host).on_node(node).service_account(name).into()).await?
            }
        };
        self.token(namespace, name, Some(&pod)).await
    }

    async fn token(&self, namespace: &str, name: &str, pod: Option<&Pod>) -> Result<String> {
        let bound_object_ref = pod.map(|pod| BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.name_any()),
            uid: pod.uid(),
        });
        let spec = TokenRequestSpec {
            bound_object_ref,
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let accounts = Api::<ServiceAccount>::namespaced(self.admin().await?, namespace);
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("a token for the ServiceAccount {namespace}/{name}"))?;
        answer.status.and_then(|status| status.token).context("the answer to a TokenRequest has no token")
    }
}

/// A kubeconfig for a token, as JSON, which is YAML too. Whatever the address, the certificate is for `kubernetes`.
pub(crate) fn kubeconfig(url: &str, ca: &Path, token: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": ca, "tls-server-name": "kubernetes"}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    })
}

/// A kubeconfig for who does not ask who one is, as JSON.
pub(crate) fn plain_kubeconfig(url: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    })
}

/// A client that uses this kubeconfig and nothing of the environment.
pub(crate) async fn client(kubeconfig: Value) -> Result<Client> {
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    // A test wants to see the first answer.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
