//! Sandboxes that could not be made, as kubelet's Events count them.

use std::collections::BTreeMap;

use anyhow::Result;
use cadastre_tests::Lab;
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;

/// How libcni begins to say what a plugin failed with; all else is of containerd itself.
const OF_PLUGIN: &str = "plugin type=";

/// Those of the pods of one fault.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    /// Because a network plugin failed: ours, or one that called it.
    pub plugin: i32,
    /// Because of containerd itself.
    pub other: i32,
    /// How often each was said.
    pub messages: BTreeMap<String, i32>,
}

impl Failures {
    /// Those that were seen so far.
    pub async fn seen(lab: &Lab, fault: usize) -> Result<Self> {
        let events = Api::<Event>::namespaced(lab.cp.admin().await?, "default");
        let failed = ListParams::default().fields("reason=FailedCreatePodSandBox");
        let mut failures = Self::default();
        for event in events.list(&failed).await? {
            let name = event.involved_object.name.unwrap_or_default();
            if !name.starts_with(&format!("churn-{fault}-")) {
                continue;
            }
            let (count, message) = (event.count.unwrap_or(1), event.message.unwrap_or_default());
            if message.contains(OF_PLUGIN) {
                failures.plugin += count;
            } else {
                failures.other += count;
            }
            *failures.messages.entry(message).or_default() += count;
        }
        Ok(failures)
    }
}
