//! Sandboxes that could not be made, as kubelet's Events count them. Kubelet tries again, so a pod is only late by one.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;

use super::Lab;

/// How libcni begins to say what a plugin failed with; all else is of containerd itself.
const OF_PLUGIN: &str = "plugin type=";

/// Events `FailedCreatePodSandBox` of some pods.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    /// Because a network plugin failed: ours, or one that called it.
    pub plugin: i32,
    /// Because of containerd itself.
    pub runtime: i32,
    /// How often each was said.
    pub messages: BTreeMap<String, i32>,
}

impl Failures {
    /// Those that were told so far of pods by names that begin with `prefix` and a dash.
    pub async fn of_pods(lab: &Lab, prefix: &str) -> Result<Self> {
        let events = Api::<Event>::namespaced(lab.cp.admin().await?, "default");
        let failed = ListParams::default().fields("reason=FailedCreatePodSandBox");
        let mut failures = Self::default();
        for event in events.list(&failed).await? {
            let name = event.involved_object.name.unwrap_or_default();
            if name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-')) {
                failures.add(event.message.unwrap_or_default(), event.count.unwrap_or(1));
            }
        }
        Ok(failures)
    }

    fn add(&mut self, message: String, count: i32) {
        let of = if message.contains(OF_PLUGIN) { &mut self.plugin } else { &mut self.runtime };
        *of += count;
        *self.messages.entry(message).or_default() += count;
    }

    /// Whoever's they are.
    pub fn all(&self) -> i32 {
        self.plugin + self.runtime
    }
}
