//! Pods with a network of their own, as little of them as is compared.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use crate::outcome::with_causes;

/// Pods in one answer.
const A_PAGE: u32 = 500;

/// One Pod that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSeen {
    /// `namespace/name`
    pub name: String,
    pub node: String,
    pub addresses: Vec<IpAddr>,
}

/// All of them. The operator's own account may not list Pods; an administrator's may.
pub async fn list(client: &Client) -> Result<Vec<PodSeen>, String> {
    let api = Api::<Pod>::all(client.clone());
    let (mut seen, mut params) = (Vec::new(), ListParams::default().limit(A_PAGE));
    loop {
        let list = api.list(&params).await.map_err(|error| with_causes(&error))?;
        seen.extend(list.items.iter().filter_map(of));
        params.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok(seen);
        }
    }
}

fn of(pod: &Pod) -> Option<PodSeen> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if ended || spec.host_network == Some(true) {
        return None;
    }
    Some(PodSeen {
        name: format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
        node: spec.node_name.clone()?,
        addresses: status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect(),
    })
}
