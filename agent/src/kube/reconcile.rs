//! Finds what a lost DEL left behind, and frees it only on two independent proofs.
//!
//! ```text
//! pass n      namespace gone?  and  no such Pod in the watch, or it has a newer attachment that lives?  ──▶ suspect
//! pass n + 1  the same again   and  the Pod asked for live, the namespace looked at  ──▶ Reclaim ──▶ cooling, Event
//! ```
//! A call that named no pod has its namespace as the only proof. With the API server away there is none, and nothing is
//! freed; a path that cannot be read proves nothing.

use std::collections::{HashMap, HashSet};

use cadastre_api::reason;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::pods::{self, Pods};
use super::{Links, OwnNode, chain, reporter};
use crate::boot_time::BootTime;
use crate::netns::{Probe, probe};
use crate::outlook::Reconciled;
use crate::pools::{HolderView, Input};
use crate::record::{HoldId, PodName};
use crate::serve::Message;

/// What the passes need.
struct Reconciler {
    client: Client,
    links: Links,
    node: OwnNode,
    pods: Pods,
    recorder: Recorder,
}

pub async fn run(client: Client, links: Links, node: OwnNode, pods: Pods) {
    let recorder = Recorder::new(client.clone(), reporter(&links));
    let mut passes = interval_at(Instant::now() + links.reconcile_every, links.reconcile_every);
    passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reconciler = Reconciler { client, links, node, pods, recorder };
    let mut suspects = HashSet::new();
    loop {
        passes.tick().await;
        let (to, holders) = oneshot::channel();
        if reconciler.links.owner.send(Message::Holders(to)).is_err() {
            return;
        }
        let Ok(holders) = holders.await else { continue };
        let newest = Newest::of(&holders);
        let gone: Vec<HolderView> = holders.into_iter().filter(|view| reconciler.is_suspect(view, &newest)).collect();
        let (again, new): (Vec<_>, Vec<_>) = gone.into_iter().partition(|view| suspects.contains(&view.holder.id));
        suspects = new.iter().chain(&again).map(|view| view.holder.id).collect::<HashSet<HoldId>>();
        let mut freed = 0;
        for view in again {
            freed += u64::from(reconciler.reclaim(view, &newest).await);
        }
        reconciler.links.metrics.reconciliations.inc();
        reconciler.links.metrics.suspects.set(i64::try_from(suspects.len()).unwrap_or(i64::MAX));
        let result = Reconciled { at: BootTime::now(), suspects: suspects.len(), freed };
        reconciler.links.cluster.send_modify(|cluster| cluster.reconciled = Some(result));
    }
}

/// The newest attachment that lives, of each Pod's interface in each network: a runtime that tried again made another one,
/// and may never say DEL of the first.
struct Newest(HashMap<(String, String, String), HoldId>);

impl Newest {
    fn of(holders: &[HolderView]) -> Self {
        let mut newest = HashMap::new();
        for view in holders.iter().filter(|view| probe(view.netns()) == Probe::Lives) {
            if let Some(key) = key(view) {
                let id = newest.entry(key).or_insert(view.holder.id);
                *id = view.holder.id.max(*id);
            }
        }
        Self(newest)
    }

    fn replaces(&self, view: &HolderView) -> bool {
        key(view).and_then(|key| self.0.get(&key)).is_some_and(|newest| *newest > view.holder.id)
    }
}

fn key(view: &HolderView) -> Option<(String, String, String)> {
    let PodName { namespace, name, uid } = view.pod()?;
    let pod = uid.clone().unwrap_or_else(|| format!("{namespace}/{name}"));
    let attachment = &view.holder.attachment;
    Some((pod, attachment.network.clone(), attachment.interface.clone()))
}

impl Reconciler {
    fn is_suspect(&self, view: &HolderView, newest: &Newest) -> bool {
        let unused = || view.pod().is_none_or(|pod| self.pods.lack(pod) || newest.replaces(view));
        probe(view.netns()) == Probe::Gone && unused()
    }

    /// The last look, right before it is done. Returns whether it was.
    async fn reclaim(&self, view: HolderView, newest: &Newest) -> bool {
        if let Some(pod) = view.pod().filter(|_| !newest.replaces(&view)) {
            match pods::is_gone(&self.client, pod).await {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    tracing::warn!(error = chain(&error), pod = %pod, "whether the Pod is gone cannot be asked: its address stays");
                    return false;
                }
            }
        }
        if probe(view.netns()) != Probe::Gone {
            return false;
        }
        let attachment = &view.holder.attachment;
        let owner = view.pod().map_or_else(|| attachment.container_id.clone(), ToString::to_string);
        let addresses: Vec<String> = view.addresses().map(|address| address.to_string()).collect();
        let (addresses, netns) = (addresses.join(", "), view.netns().path.clone());
        tracing::warn!(owner, ?attachment, addresses, netns, "reclaimed: pod and namespace are gone, and no DEL came");
        drop(self.links.owner.send(Message::Event(Input::Reclaim(view.holder.clone(), view.netns().clone()))));
        let note =
            format!("{addresses} of {owner} freed: pod and network namespace are gone, and the runtime never said DEL");
        self.say(note, view.pod()).await;
        true
    }

    /// Of the Pod, too: Events that differ in nothing but their note are counted as one.
    async fn say(&self, note: String, pod: Option<&PodName>) {
        let Some(own) = self.node.borrow().clone() else { return };
        let event = Event {
            type_: EventType::Warning,
            reason: reason::ADDRESS_RECLAIMED.to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: pod.map(|pod| ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: pod.uid.clone(),
                ..ObjectReference::default()
            }),
        };
        if let Err(error) = self.recorder.publish(&event, &own.object_ref(&())).await {
            tracing::warn!(error = chain(&error), "the Event cannot be written");
        }
    }
}
