//! What stays on the node when the agent stops.
//!
//! An agent is stopped for a rollout, because its node goes down, or because Cadastre is uninstalled. Only in the last case is
//! there to be nothing left, and only the DaemonSet tells it from the others:
//!
//! ```text
//! SIGTERM ─▶ GET DaemonSet ─┬─ there, or no answer ───────────────────────────────────────▶ all stays
//!                           ├─ 401 ──▶ watch of Pods ─┬─ its own Pod was deleted by force ─▶ all stays
//!                           │                         └─ else ───────────────────────────▶ all is taken back
//!                           └─ gone, going, or 403 ──────────────────────────────────────▶ all is taken back
//! ```
//! No right to ask (401, 403), because accounts and roles are uninstalled right after it. But a token is void with its Pod as
//! well as with its account: the Pod of an agent that is uninstalled is there until the agent has ended, and one that was
//! deleted by force was gone before. Should that be wrong, the next agent puts everything back as soon as it serves.

use std::time::Duration;

use cadastre_api::AGENT_MANAGER;
use cadastre_runtime::{DaemonSetName, Settings, client};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use kube::core::PartialObjectMeta;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::install::Installer;
use super::kernel::remove_routes;
use crate::health;
use crate::kube::{Pods, Standing};
use crate::serve::Message;

/// For the answer. kubelet kills 5 s after its signal.
const PATIENCE: Duration = Duration::from_secs(2);

const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;

/// For the watch to say what became of the Pod: kubelet heard of it from a watch like that, and may have been faster.
const LAG: Duration = Duration::from_millis(500);

/// Who asks, and for what.
pub struct Asking<'a> {
    pub settings: &'a Settings,
    pub daemon_set: &'a DaemonSetName,
    /// The watch goes on meanwhile.
    pub pods: &'a Pods,
    /// The agent's own, if it was told.
    pub pod_uid: Option<&'a str>,
}

/// What stopping means for the node.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Stays(&'static str),
    Uninstalled(String),
}

/// Takes back what the agents set up on this node, if that is what stopping means.
pub async fn farewell(
    asking: &Asking<'_>,
    installer: Option<&Installer>,
    health: &health::Host,
    owner: &mpsc::UnboundedSender<Message>,
) {
    if installer.is_none() && !asking.settings.cni.routes {
        return;
    }
    match timeout(PATIENCE, asking.ask()).await {
        Ok(Ok(Meaning::Stays(why))) => {
            return tracing::info!(why, "what is installed on this node stays for the next agent");
        }
        Ok(Ok(Meaning::Uninstalled(why))) => tracing::info!(why, "taking back what was installed on this node"),
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

impl Asking<'_> {
    async fn ask(&self) -> anyhow::Result<Meaning> {
        let DaemonSetName { namespace, name } = self.daemon_set;
        let api = Api::<DaemonSet>::namespaced(client(self.settings, AGENT_MANAGER).await?, namespace);
        let answer = api.get_metadata_opt(name).await;
        let own = match (&answer, self.pod_uid) {
            (Err(kube::Error::Api(status)), Some(uid)) if status.code == UNAUTHORIZED => self.standing(uid).await,
            _ => None,
        };
        Ok(meaning(self.daemon_set, answer, own)?)
    }

    async fn standing(&self, uid: &str) -> Option<Standing> {
        // A Pod that is neither deleted nor ends is a word, too.
        let _ = timeout(LAG, self.pods.end_of(uid)).await;
        self.pods.standing(uid)
    }
}

/// Of what the API server said of the `DaemonSet`, and its watch of the agent's own Pod.
fn meaning(
    DaemonSetName { namespace, name }: &DaemonSetName,
    answer: kube::Result<Option<PartialObjectMeta<DaemonSet>>>,
    own: Option<Standing>,
) -> kube::Result<Meaning> {
    Ok(match answer {
        Ok(None) => Meaning::Uninstalled(format!("DaemonSet {namespace}/{name} is gone")),
        Ok(Some(there)) if there.metadata.deletion_timestamp.is_some() => {
            Meaning::Uninstalled(format!("DaemonSet {namespace}/{name} is being deleted"))
        }
        Ok(Some(_)) => Meaning::Stays("the DaemonSet is there"),
        Err(kube::Error::Api(status)) if status.code == UNAUTHORIZED && own == Some(Standing::Gone) => {
            Meaning::Stays("the agent's own Pod was deleted by force, and its token with it")
        }
        Err(kube::Error::Api(status)) if matches!(status.code, UNAUTHORIZED | FORBIDDEN) => {
            Meaning::Uninstalled(format!("the agent's account or role is gone ({})", status.message))
        }
        Err(error) => return Err(error),
    })
}

/// Whether somebody holds an address, or may.
async fn pods_left(owner: &mpsc::UnboundedSender<Message>) -> bool {
    let (to, holders) = oneshot::channel();
    drop(owner.send(Message::Holders(to))); // Without an owner there is no answer.
    holders.await.map_or(true, |holders| !holders.is_empty())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use kube::core::Status;

    use super::*;

    type Answer = kube::Result<Option<PartialObjectMeta<DaemonSet>>>;

    #[test]
    fn a_pod_that_was_deleted_by_force_is_no_uninstallation() {
        let there = |deleted: Option<Time>| {
            let mut there = PartialObjectMeta::<DaemonSet>::default();
            there.metadata.deletion_timestamp = deleted;
            Ok(Some(there))
        };
        let refused = |code| Err(kube::Error::Api(Box::new(Status { code, ..Status::default() })));
        let stays = |answer: Answer, own| {
            let name = "kube-system/cadastre-agent".parse().unwrap();
            meaning(&name, answer, own).map(|meaning| matches!(meaning, Meaning::Stays(_))).ok()
        };
        let standings = [None, Some(Standing::There), Some(Standing::Ending), Some(Standing::Gone)];
        for own in standings {
            assert_eq!(stays(there(None), own), Some(true), "a rollout, {own:?}");
            assert_eq!(stays(Ok(None), own), Some(false), "uninstalled, {own:?}");
            assert_eq!(stays(there(Some(Time(Timestamp::now()))), own), Some(false), "in the foreground, {own:?}");
            assert_eq!(stays(refused(FORBIDDEN), own), Some(false), "no role, {own:?}");
            assert_eq!(stays(refused(503), own), None, "no answer, {own:?}");
            let forced = own == Some(Standing::Gone);
            assert_eq!(stays(refused(UNAUTHORIZED), own), Some(forced), "no account, or no Pod, {own:?}");
        }
    }
}
