//! Lists the Pods that have addresses of their own.

use cadastre_runtime::PodSeen;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::outcome::with_causes;

/// Pods in one answer.
const A_PAGE: u32 = 500;

/// All of them. The operator's own account may not list Pods; an administrator's may.
pub async fn list(client: &Client) -> Result<Vec<PodSeen>, String> {
    let api = Api::<Pod>::all(client.clone());
    let (mut seen, mut params) = (Vec::new(), ListParams::default().limit(A_PAGE));
    loop {
        let list = api.list(&params).await.map_err(|error| with_causes(&error))?;
        seen.extend(list.items.iter().filter_map(PodSeen::of));
        params.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok(seen);
        }
    }
}
