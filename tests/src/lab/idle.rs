//! Pods that do nothing but have addresses, by name.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use super::Lab;

impl Lab {
    /// One for this node, past the scheduler, so that it goes to nodes in trouble as well.
    pub fn idle_pod(app: &str, name: &str, node: &str) -> Result<Pod> {
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": Self::pause_image(), "imagePullPolicy": "Never"}],
            },
        });
        serde_json::from_value(pod).context("a pod that does nothing")
    }

    /// Those with this label, whatever their state.
    pub async fn idle_pods(&self, app: &str) -> Result<Vec<Pod>> {
        let labelled = ListParams::default().labels(&format!("app={app}"));
        Ok(Api::<Pod>::namespaced(self.cp.admin().await?, "default").list(&labelled).await?.items)
    }
}
