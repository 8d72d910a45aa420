//! Finds what a lost DEL left behind, and frees it only on two independent proofs.
//!
//! ```text
//! pass n      namespace gone?  and  no such Pod in the watch?   ──▶ suspect
//! pass n + 1  the same again   and  no such Pod, asked live?  and  namespace still gone?  ──▶ Reclaim ──▶ cooling
//! ```
//! A call that named no pod has its namespace as the only proof. With the API server away there is none, and nothing is
//! freed; a path that cannot be read proves nothing.

use std::collections::HashSet;

use kube::Client;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::pods::{self, Pods};
use super::{Links, chain};
use crate::netns::{Probe, probe};
use crate::pools::{HolderView, Input};
use crate::record::HoldId;
use crate::serve::Message;

pub async fn run(client: Client, links: Links, pods: Pods) {
    let mut passes = interval_at(Instant::now() + links.reconcile_every, links.reconcile_every);
    passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut suspects = HashSet::new();
    loop {
        passes.tick().await;
        let (to, holders) = oneshot::channel();
        if links.owner.send(Message::Holders(to)).is_err() {
            return;
        }
        let Ok(holders) = holders.await else { continue };
        let gone: Vec<HolderView> = holders.into_iter().filter(|view| is_suspect(view, &pods)).collect();
        let (again, new): (Vec<_>, Vec<_>) = gone.into_iter().partition(|view| suspects.contains(&view.holder.id));
        suspects = new.iter().chain(&again).map(|view| view.holder.id).collect::<HashSet<HoldId>>();
        for view in again {
            reclaim(&client, &links, view).await;
        }
    }
}

fn is_suspect(view: &HolderView, pods: &Pods) -> bool {
    probe(view.netns()) == Probe::Gone && view.pod().is_none_or(|pod| pods.lack(pod))
}

/// The last look, right before it is done.
async fn reclaim(client: &Client, links: &Links, view: HolderView) {
    if let Some(pod) = view.pod() {
        match pods::is_gone(client, pod).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(error = chain(&error), pod = %pod, "whether the Pod is gone cannot be asked: its address stays");
                return;
            }
        }
    }
    if probe(view.netns()) != Probe::Gone {
        return;
    }
    let attachment = &view.holder.attachment;
    let pod = view.pod().map(ToString::to_string);
    tracing::warn!(
        pod,
        ?attachment,
        netns = view.netns().path,
        "reclaimed: pod and namespace are gone, and no DEL came"
    );
    drop(links.owner.send(Message::Event(Input::Reclaim(view.holder))));
}
