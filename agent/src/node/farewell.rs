//! What stays on the node when the agent stops.
//!
//! An agent is stopped for a rollout, because its node goes down, or because Cadastre is uninstalled. Only in the last case is
//! there to be nothing left, and only the DaemonSet tells it from the others:
//!
//! ```text
//! SIGTERM ─▶ GET DaemonSet ─┬─ there, or no answer ───────────────▶ all stays
//!                           └─ gone, going, or no right to ask ───▶ all is taken back
//! ```
//! No right to ask, because accounts and roles are uninstalled right after it. Should that be wrong, the next agent puts
//! everything back as soon as it serves.

use std::time::Duration;

use cadastre_api::AGENT_MANAGER;
use cadastre_runtime::{DaemonSetName, Settings, client};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::install::Installer;
use super::kernel::remove_routes;
use crate::health;
use crate::serve::Message;

/// For the answer. kubelet kills 5 s after its signal.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes back what the agents set up on this node, if that is what stopping means.
pub async fn farewell(
    settings: &Settings,
    daemon_set: &DaemonSetName,
    installer: Option<&Installer>,
    health: &health::Host,
    owner: &mpsc::UnboundedSender<Message>,
) {
    if installer.is_none() && !settings.cni.routes {
        return;
    }
    match timeout(PATIENCE, ask(settings, daemon_set)).await {
        Ok(Ok(None)) => return tracing::info!("what is installed on this node stays for the next agent"),
        Ok(Ok(Some(why))) => tracing::info!(why, "taking back what was installed on this node"),
        Ok(Err(error)) => {
            return tracing::warn!(%error, "nobody says whether Cadastre is uninstalled: what is installed on this node stays");
        }
        Err(_) => {
            return tracing::warn!("the API server says nothing: what is installed on this node stays");
        }
    }
    // As long as there are plugins to do it.
    health::release(health, owner).await;
    if let Some(installer) = installer {
        let pods = pods_left(owner).await;
        if pods {
            tracing::info!("pods are left with addresses of Cadastre: the plugin stays, as they cannot end without it");
        }
        for error in installer.remove(pods) {
            tracing::error!(%error, "left behind");
        }
    }
    remove_routes().await;
}

/// Why the `DaemonSet` is not to come back, if it is not.
async fn ask(settings: &Settings, daemon_set: &DaemonSetName) -> anyhow::Result<Option<String>> {
    let DaemonSetName { namespace, name } = daemon_set;
    let api = Api::<DaemonSet>::namespaced(client(settings, AGENT_MANAGER).await?, namespace);
    match api.get_metadata_opt(name).await {
        Ok(None) => Ok(Some(format!("DaemonSet {namespace}/{name} is gone"))),
        Ok(Some(there)) if there.metadata.deletion_timestamp.is_some() => {
            Ok(Some(format!("DaemonSet {namespace}/{name} is being deleted")))
        }
        Ok(Some(_)) => Ok(None),
        Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
            Ok(Some(format!("the agent's account or role is gone ({})", status.message)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether somebody holds an address, or may.
async fn pods_left(owner: &mpsc::UnboundedSender<Message>) -> bool {
    let (to, holders) = oneshot::channel();
    drop(owner.send(Message::Holders(to))); // Without an owner there is no answer.
    holders.await.map_or(true, |holders| !holders.is_empty())
}
