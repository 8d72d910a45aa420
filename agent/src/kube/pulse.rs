//! Whether the API server can be heard, and which version it is: asked rarely, and at once when a watch broke.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{Notify, watch};

use super::{RETRY, chain};
use crate::outlook::Cluster;

/// While all is well: a thousand nodes then ask three times a second.
const RARELY: Duration = Duration::from_mins(5);

pub async fn run(client: Client, cluster: Arc<watch::Sender<Cluster>>, trouble: Arc<Notify>) {
    loop {
        let pause = match client.apiserver_version().await {
            Ok(version) => {
                let plain = |text: &str| text.trim_end_matches('+').to_owned();
                let (major, minor) = (plain(&version.major), plain(&version.minor));
                let version = format!("{major}.{minor} ({})", version.git_version);
                tell(&cluster, Cluster { version: Some(version), trouble: None });
                RARELY
            }
            Err(error) => {
                let version = cluster.borrow().version.clone();
                let trouble = format!(
                    "the API server cannot be reached ({}): pods are served from what is known; see whether it runs and is reachable from here",
                    chain(&error)
                );
                tell(&cluster, Cluster { version, trouble: Some(trouble) });
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = trouble.notified() => tokio::time::sleep(RETRY.min(pause)).await,
        }
    }
}

fn tell(cluster: &watch::Sender<Cluster>, now: Cluster) {
    cluster.send_if_modified(|before| {
        if before.trouble.is_some() != now.trouble.is_some() {
            if let Some(trouble) = &now.trouble {
                tracing::warn!("{trouble}");
            } else {
                tracing::info!(version = now.version, "the API server answers");
            }
        }
        let changed = *before != now;
        *before = now;
        changed
    });
}
