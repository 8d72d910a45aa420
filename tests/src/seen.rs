//! What a person sees of one node: conditions on its `IPAMNode`, Events on its Node.

use anyhow::Result;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::ListParams;

use crate::ControlPlane;

impl ControlPlane {
    /// A condition of the `IPAMNode` of this name, if both are there.
    pub async fn condition(&self, node: &str, kind: &str) -> Result<Option<Condition>> {
        let node = self.ipam_nodes().await?.remove(node);
        let conditions = node.and_then(|node| node.status).map(|status| status.conditions).unwrap_or_default();
        Ok(conditions.into_iter().find(|condition| condition.type_ == kind))
    }

    /// Whether the node waits for this reason, with all of `parts` in the message of its condition `Assigned` and of an
    /// Event on its Node.
    pub async fn says(&self, node: &str, reason: &str, parts: &[&str]) -> Result<bool> {
        let has = |message: &str| parts.iter().all(|part| message.contains(part));
        let condition = self.condition(node, "Assigned").await?;
        let said = condition.is_some_and(|c| c.status == "False" && c.reason == reason && has(&c.message));
        Ok(said && self.events_on(node, reason).await?.iter().any(|message| has(message)))
    }

    /// The messages of the Events on a Node with this reason.
    pub async fn events_on(&self, node: &str, reason: &str) -> Result<Vec<String>> {
        let events = Api::<Event>::all(self.admin().await?).list(&ListParams::default()).await?;
        let about = |event: &Event| {
            let regarding = event.regarding.as_ref().and_then(|object| object.name.as_deref());
            regarding == Some(node) && event.reason.as_deref() == Some(reason)
        };
        Ok(events.into_iter().filter(about).filter_map(|event| event.note).collect())
    }
}
