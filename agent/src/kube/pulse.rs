//! Whether the API server can be heard, and which version it is: asked rarely, and at once when a watch broke.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{Notify, watch};

use super::{RETRY, chain};
use crate::boot_time::BootTime;
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
                tell(&cluster, Some(version), None);
                RARELY
            }
            Err(error) => {
                let trouble = format!(
                    "the API server cannot be reached ({}): pods are served from what is known; see whether it runs and is reachable from here",
                    chain(&error)
                );
                tell(&cluster, None, Some(trouble));
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = trouble.notified() => tokio::time::sleep(RETRY.min(pause)).await,
        }
    }
}

/// A version that was heard once stays.
fn tell(cluster: &watch::Sender<Cluster>, version: Option<String>, trouble: Option<String>) {
    cluster.send_modify(|cluster| {
        if cluster.trouble.is_some() != trouble.is_some() {
            if let Some(trouble) = &trouble {
                tracing::warn!("{trouble}");
            } else {
                tracing::info!(version, "the API server answers");
            }
        }
        if trouble.is_none() {
            cluster.heard = Some(BootTime::now());
        }
        cluster.version = version.or_else(|| cluster.version.take());
        cluster.trouble = trouble;
    });
}
