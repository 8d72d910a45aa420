//! What was asked of the API server, from its own audit log: so tests count writes and reads, and see whose they were.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::{ControlPlane, eventually};

/// One finished request on cadastre's objects, Nodes, Pods, Namespaces, Events, Leases or
/// what networking has. A watch counts when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`
    pub verb: String,
    /// As in `cadastre.io`; empty for the core's.
    pub group: String,
    /// The plural, as in `ipamnodes`.
    pub resource: String,
    /// As in `status`; empty for the object itself.
    pub subresource: String,
    pub namespace: String,
    /// Empty for a list, a watch, and a create.
    pub name: String,
    /// As in `system:serviceaccount:kube-system:cadastre-agent`.
    pub user: String,
    /// The HTTP status.
    pub code: u16,
}

impl AuditEvent {
    /// Whether it changed an object, or was meant to.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

impl ControlPlane {
    /// All requests that were answered before this call, in the order in which they were.
    pub async fn audit(&self) -> Result<Vec<AuditEvent>> {
        // The log is written just after the answer: a request of our own marks where to read to.
        let marker = format!("marker-{}", self.audit_markers.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let path = format!("/api/v1/nodes/{marker}");
        // It is answered with 404, and that is all it is for.
        let _ = self.admin().await?.request_text(http::Request::get(path).body(Vec::new())?).await;
        let log = eventually(Duration::from_secs(10), "the audit log to be written", async || {
            let log = tokio::fs::read_to_string(&self.files.audit_log).await.map_err(|error| error.to_string())?;
            if log.contains(&marker) && log.ends_with('\n') { Ok(log) } else { Err("no marker in it".to_owned()) }
        });
        let log = log.await?;
        let events = log.lines().filter_map(|line| event(line).transpose()).collect::<Result<Vec<_>>>()?;
        Ok(events.into_iter().filter(|event| !event.name.starts_with("marker-")).collect())
    }

    /// How many requests `wanted` accepts; the usual use is `cp.count(|e| e.resource == "ipamnodes" && e.is_write())`.
    pub async fn count(&self, wanted: impl Fn(&AuditEvent) -> bool) -> Result<usize> {
        Ok(self.audit().await?.iter().filter(|event| wanted(event)).count())
    }
}

/// What we read of a line of the log.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    user: Value,
    #[serde(default)]
    object_ref: Value,
    #[serde(default)]
    response_status: Value,
}

fn event(line: &str) -> Result<Option<AuditEvent>> {
    let line: Line = serde_json::from_str(line).with_context(|| format!("a line of the audit log: {line}"))?;
    let counted = if line.verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
    if line.stage != counted {
        return Ok(None);
    }
    let reference = |field: &str| line.object_ref[field].as_str().unwrap_or_default().to_owned();
    let code = line.response_status["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or_default();
    Ok(Some(AuditEvent {
        group: reference("apiGroup"),
        resource: reference("resource"),
        subresource: reference("subresource"),
        namespace: reference("namespace"),
        name: reference("name"),
        user: line.user["username"].as_str().unwrap_or_default().to_owned(),
        code,
        verb: line.verb,
    }))
}
