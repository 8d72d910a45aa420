//! The Pods of this node, as little of them as is needed: their names, what identifies them, the addresses they ask for, and
//! whether they are being deleted.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cadastre_core::Family;
use cadastre_messages::asked::{self, ANNOTATIONS};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{Notify, watch};

use super::head::Head;
use super::{afresh, chain};
use crate::record::PodName;

/// kubelet names a static pod to the runtime by this, and not by the UID of its mirror in the API.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// The Pods as the watch has them. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    /// `None` until the first list is complete. Locked for one look or one change, never across an await.
    known: Arc<Mutex<Option<HashMap<String, Identity>>>>,
    /// Whether the API server has answered the watch, or could not be asked; sent anew with each change of what is known.
    tried: Arc<watch::Sender<bool>>,
}

/// One Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    namespace: String,
    name: String,
    config_hash: Option<String>,
    /// As it is written.
    asked: Vec<String>,
    /// It is being deleted, and has its time to end.
    ending: bool,
}

/// What the watch knows of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is there, and asks for these addresses.
    Pod(Vec<String>),
    /// The watch is complete and has it not, so far.
    NotYet,
    /// The API server was not heard yet.
    Nothing,
}

/// Whether a Pod is to stay, by the word of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    There,
    /// It is being deleted, and there until its containers have ended.
    Ending,
    /// One whose containers run was deleted by force.
    Gone,
}

/// As the plugin would pass it on. What is no address of the family is named when it is asked for.
fn asked_in(pod: &impl ResourceExt, key: &str, family: Family) -> Option<String> {
    let text = pod.annotations().get(key).filter(|text| !text.trim().is_empty())?;
    let address = asked::address(text).filter(|address| Family::of(*address) == family);
    Some(address.map_or_else(|| format!("{} of {key}", beginning(text)), |address| address.to_string()))
}

/// Enough of it to be found. Whoever makes Pods may annotate them with 256 KiB, and what an ADD was told is remembered.
fn beginning(text: &str) -> String {
    const SHOWN: usize = 64;
    let mut letters = text.chars();
    let shown: String = letters.by_ref().take(SHOWN).collect();
    if letters.next().is_some() { shown + "…" } else { shown }
}

/// What a Pod asks for, if it is the one that is meant.
pub fn asked_by(found: &PartialObjectMeta<Pod>, named: &PodName) -> Vec<String> {
    let identity = Identity::of(found);
    if identity.may_be(&found.uid().unwrap_or_default(), named) { identity.asked } else { Vec::new() }
}

impl Identity {
    fn of(pod: &impl ResourceExt) -> Self {
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            config_hash: pod.annotations().get(CONFIG_HASH).cloned(),
            asked: ANNOTATIONS
                .into_iter()
                .zip(Family::ALL)
                .filter_map(|(key, family)| asked_in(pod, key, family))
                .collect(),
            ending: pod.meta().deletion_timestamp.is_some(),
        }
    }

    /// Whether the runtime may mean this Pod by `named`, its UID being `uid`. Anybody may annotate a Pod with any hash, so that
    /// proves nothing without the name.
    fn may_be(&self, uid: &str, named: &PodName) -> bool {
        let is_called_so = (&self.namespace, &self.name) == (&named.namespace, &named.name);
        match &named.uid {
            Some(named) => named == uid || (is_called_so && self.config_hash.as_ref() == Some(named)),
            None => is_called_so,
        }
    }
}

impl Pods {
    /// Whether the watch, once complete, has no such Pod.
    #[must_use]
    pub fn lack(&self, named: &PodName) -> bool {
        let known = self.known();
        known.as_ref().is_some_and(|pods| !pods.iter().any(|(uid, pod)| pod.may_be(uid, named)))
    }

    /// What is known of this Pod.
    #[must_use]
    pub fn look_up(&self, named: &PodName) -> Known {
        let known = self.known();
        let Some(pods) = known.as_ref() else { return Known::Nothing };
        let by_uid = named.uid.as_ref().and_then(|uid| pods.get(uid));
        let found = by_uid.or_else(|| pods.iter().find(|(uid, pod)| pod.may_be(uid, named)).map(|(_, pod)| pod));
        found.map_or(Known::NotYet, |pod| Known::Pod(pod.asked.clone()))
    }

    /// How it is with the Pod of this UID; `None` if the watch is not complete.
    #[must_use]
    pub fn standing(&self, uid: &str) -> Option<Standing> {
        let known = self.known();
        Some(match known.as_ref()?.get(uid) {
            Some(Identity { ending: false, .. }) => Standing::There,
            Some(Identity { ending: true, .. }) => Standing::Ending,
            None => Standing::Gone,
        })
    }

    /// Waits while the watch has the Pod of this UID as one that is to stay.
    pub async fn end_of(&self, uid: &str) {
        // It cannot be closed while `self` is there.
        let _ = self.tried.subscribe().wait_for(|_| self.standing(uid) != Some(Standing::There)).await;
    }

    fn complete(&self, listed: HashMap<String, Identity>) {
        *self.known() = Some(listed);
        self.tried.send_replace(true);
    }

    /// Of a watch that is complete.
    fn change(&self, change: impl FnOnce(&mut HashMap<String, Identity>)) {
        if self.known().as_mut().map(change).is_some() {
            self.tried.send_replace(true);
        }
    }

    /// Waits for the first answer to the watch, or the first error.
    pub async fn first_try(&self) {
        // It cannot be closed while `self` is there.
        let _ = self.tried.subscribe().wait_for(|tried| *tried).await;
    }

    fn known(&self) -> MutexGuard<'_, Option<HashMap<String, Identity>>> {
        // Every change is one insert, remove or replacement: what a panicking holder left is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the API server itself whether there is no such Pod any more.
pub async fn is_gone(client: &Client, named: &PodName) -> Result<bool, kube::Error> {
    let pods = Api::<Pod>::namespaced(client.clone(), &named.namespace);
    let found = pods.get_metadata_opt(&named.name).await?;
    Ok(found.is_none_or(|pod| !Identity::of(&pod).may_be(&pod.uid().unwrap_or_default(), named)))
}

pub async fn run(client: Client, node: String, pods: Pods, trouble: Arc<Notify>) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = pin!(afresh::watch(Api::<Head<Pod>>::all(client), config));
    let mut listed = HashMap::new();
    while let Some(event) = events.next().await {
        match event {
            Err(error) => {
                tracing::warn!(error = chain(&error), "the Pods of this node cannot be watched; nothing is reclaimed");
                trouble.notify_one();
                pods.tried.send_replace(true);
            }
            Ok(Event::Init) => listed = HashMap::new(),
            Ok(Event::InitApply(pod)) => drop(listed.insert(pod.uid().unwrap_or_default(), Identity::of(&pod))),
            Ok(Event::InitDone) => pods.complete(std::mem::take(&mut listed)),
            Ok(Event::Apply(pod)) => {
                pods.change(|known| drop(known.insert(pod.uid().unwrap_or_default(), Identity::of(&pod))));
            }
            Ok(Event::Delete(pod)) => pods.change(|known| drop(known.remove(&pod.uid().unwrap_or_default()))),
        }
    }
}

#[cfg(test)]
impl Pods {
    /// The watch is complete: there is one Pod, which asks for this address.
    pub fn complete_with(&self, pod: &PodName, asked: &str) {
        let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
        let identity = Identity { namespace, name, config_hash: None, asked: vec![asked.to_owned()], ending: false };
        self.complete([("u-1".to_owned(), identity)].into());
    }

    /// The watch has failed.
    pub fn fail(&self) {
        self.tried.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn of_what_is_no_address_the_beginning_is_kept() {
        let [key, _] = ANNOTATIONS;
        let asked = |text: &str| {
            let mut pod = PartialObjectMeta::<Pod>::default();
            pod.metadata.annotations = Some([(key.to_owned(), text.to_owned())].into());
            Identity::of(&pod).asked
        };
        assert_eq!(asked(" "), Vec::<String>::new());
        assert_eq!(asked("10.0.2.7/24"), ["10.0.2.7"]);
        assert_eq!(asked("fd00::7"), [format!("fd00::7 of {key}")]);
        assert_eq!(asked(&"ä".repeat(100_000)), [format!("{}… of {key}", "ä".repeat(64))]);
    }

    #[test]
    fn a_pod_is_known_by_uid_config_hash_or_name() {
        let named = |uid: Option<&str>, name: &str| PodName {
            namespace: "default".into(),
            name: name.into(),
            uid: uid.map(ToOwned::to_owned),
        };
        let pods = Pods::default();
        assert!(!pods.lack(&named(Some("u-9"), "x")), "nothing is known yet, so nothing lacks");
        assert_eq!(pods.look_up(&named(Some("u-9"), "x")), Known::Nothing);
        let identity = |name: &str, hash: Option<&str>| Identity {
            namespace: "default".into(),
            name: name.into(),
            config_hash: hash.map(ToOwned::to_owned),
            asked: if name == "a" { vec!["10.0.2.9".into()] } else { vec![] },
            ending: false,
        };
        let all = [("u-1", identity("a", None)), ("u-2", identity("etcd-n1", Some("h-2")))];
        *pods.known() = Some(all.into_iter().map(|(uid, pod)| (uid.to_owned(), pod)).collect());
        let table = [
            (named(Some("u-1"), "a"), false),
            (named(Some("u-0"), "a"), true), // Another Pod of the same name.
            (named(Some("h-2"), "etcd-n1"), false),
            (named(Some("h-2"), "gone"), true), // Whose UID somebody wrote into an annotation.
            (named(Some("u-2"), "etcd-n1"), false),
            (named(None, "a"), false),
            (named(None, "b"), true),
        ];
        for (named, lacks) in table {
            assert_eq!(pods.lack(&named), lacks, "{named:?}");
            let asked = if named.name == "a" { vec!["10.0.2.9".to_owned()] } else { vec![] };
            assert_eq!(pods.look_up(&named), if lacks { Known::NotYet } else { Known::Pod(asked) });
        }
    }

    #[tokio::test]
    async fn a_pod_that_ends_is_there_until_it_has_ended() {
        let pods = Pods::default();
        pods.end_of("u-1").await;
        assert_eq!(pods.standing("u-1"), None, "nothing is known yet");
        let mut pod = PartialObjectMeta::<Pod>::default();
        pods.complete([("u-1".to_owned(), Identity::of(&pod))].into());
        assert_eq!(pods.standing("u-1"), Some(Standing::There));
        pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
        let ends = async { pods.change(|known| drop(known.insert("u-1".to_owned(), Identity::of(&pod)))) };
        tokio::join!(pods.end_of("u-1"), ends);
        assert_eq!(pods.standing("u-1"), Some(Standing::Ending));
        pods.change(HashMap::clear);
        pods.end_of("u-1").await;
        assert_eq!(pods.standing("u-1"), Some(Standing::Gone));
    }
}
