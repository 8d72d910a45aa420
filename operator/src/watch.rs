//! One kind of object: listed page by page, then watched, and listed again whenever the watch cannot be trusted.
//!
//! ```text
//! list ──▶ watch from the list's version ──▶ change, change, … ──▶ ends ──▶ watch from the last version
//!   ▲                                                                │
//!   └──────────────────────── too old (410) ─────────────────────────┘
//! ```
//!
//! kube's own watcher does not say which version it is at. We must know: after etcd was restored from a backup, a watch
//! from a version of the lost future is accepted and stays silent until the store has caught up (measured on 1.36). So
//! after a watch broke off, the store's version is read; if it is behind ours, what we know is of that lost future.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use cadastre_runtime::resource_version;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::Client;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::backoff::Backoff;
use crate::lean::Unreadable;
use crate::outcome::{retry_after, with_causes};

/// A page that takes longer is asked for again.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// So often is a page asked for again that was put off, before health says that the list fails. What is left of it is
/// forgotten by the API server after 5 minutes.
const PUT_OFF: usize = 5;
/// However long somebody on the way asks to be left alone. The API server itself asks for 32 s at most.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// The API server ends a watch after this. Less than the client's patience with a silent connection (90 s): of a kind that
/// never changed since its own start the API server sends no bookmarks.
const WATCH_SECONDS: u32 = 80;
/// A watch that lived that much less came to its end all the same: its time began before we heard of it. Little, as a
/// store that went back in this time is not noticed; and one that is suspected in vain costs a cheap read.
const WATCH_SLACK: Duration = Duration::from_secs(1);
/// An answer of a list may have: what it costs in memory while it is read. The API server answers few large pages faster
/// than many small ones.
const PAGE_BYTES: usize = 1 << 20;
/// Objects in one answer, however small they are.
const LARGEST_PAGE: u32 = 2000;
/// A watch that outlives its end by this is dead.
const WATCH_GRACE: Duration = Duration::from_secs(15);

/// An object as a watch needs it.
pub trait Watched: DeserializeOwned + Clone + Send + 'static {
    fn metadata(&self) -> &ObjectMeta;
}

/// What happened to an object.
#[derive(Debug)]
pub enum Change<V> {
    Seen(V),
    Gone {
        name: String,
        uid: String,
    },
    /// Everything was listed anew: what is not among these was not there at this version, whoever knows of it.
    Listed {
        version: u64,
        names: BTreeSet<String>,
    },
}

/// Why a list or a watch did not go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("{kind} cannot be read{remedy}")]
    Api { kind: &'static str, remedy: &'static str, source: kube::Error },
    #[error("{kind}: no answer within {} s", .after.as_secs())]
    Timeout { kind: &'static str, after: Duration },
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("the store is at version {theirs} and {kind} were seen at {ours}: it was restored from a backup")]
    WentBack { kind: &'static str, ours: String, theirs: String },
}

impl WatchError {
    /// The cluster does not have this API. A missing permission is no such thing: it is to be mended, and waited for.
    pub fn is_unavailable(&self) -> bool {
        self.code() == Some(404)
    }

    /// The API server has too much to do.
    fn is_put_off(&self) -> bool {
        self.code() == Some(429)
    }

    /// The API server has forgotten the version that was asked for.
    fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }

    fn code(&self) -> Option<u16> {
        if let Self::Api { source: kube::Error::Api(status), .. } = self { Some(status.code) } else { None }
    }

    fn retry_after(&self) -> Option<Duration> {
        if let Self::Api { source: kube::Error::Api(status), .. } = self { retry_after(status) } else { None }
    }
}

#[derive(Deserialize)]
#[serde(bound = "V: DeserializeOwned")]
struct Page<V> {
    metadata: ListMeta,
    #[serde(default = "Vec::new")]
    items: Vec<V>,
}

/// Follows the objects of one kind.
pub struct Watch<V> {
    client: Client,
    /// As people call it: `Nodes`.
    kind: &'static str,
    request: Request,
    /// Objects in one answer of a list: few at first, as nobody knows how large they are.
    page: u32,
    known: Known,
    /// `resourceVersion` up to which everything was seen.
    version: Option<String>,
    /// The last watch broke off: whoever answers next may have another store.
    suspect: bool,
    backoff: Backoff,
    /// What the API server asked for with its last refusal.
    retry_after: Option<Duration>,
    /// The watch under way, and since when.
    stream: Option<(BoxStream<'static, kube::Result<WatchEvent<V>>>, Instant)>,
    /// Changes that a list or an event brought along and that were not handed out yet.
    pending: VecDeque<Change<V>>,
}

impl<V: Watched> Watch<V> {
    /// `page` is how many objects the first answer may hold untrimmed; the next ones, what fits into [`PAGE_BYTES`].
    pub fn new(client: Client, kind: &'static str, path: String, page: u32) -> Self {
        Self {
            client,
            kind,
            request: Request::new(path),
            page,
            known: Known::default(),
            version: None,
            suspect: false,
            backoff: Backoff::default(),
            retry_after: None,
            stream: None,
            pending: VecDeque::new(),
        }
    }

    /// As people call what it watches.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Waits before the next attempt after an error.
    pub async fn pause(&mut self) {
        let wait = self.backoff.next();
        let asked = self.retry_after.take().unwrap_or_default().min(LONGEST_PAUSE);
        tokio::time::sleep(asked + wait).await;
    }

    /// Reads everything, consistently, and says what vanished since. After an error, what was said so far holds. An object
    /// that is at an older version than it was shows that the store was restored, though its version may have been bumped.
    pub async fn list(&mut self, mut on: impl FnMut(Change<V>)) -> Result<(), WatchError> {
        self.version = None;
        let mut present = BTreeSet::new();
        let (mut continue_token, mut limit) = (None, self.page);
        loop {
            let (page, bytes) = self.read_page(limit, continue_token).await?;
            limit = next_limit(bytes, page.items.len());
            for object in page.items {
                present.extend(object.metadata().name.clone());
                if let Some((ours, theirs)) = self.known.newer_than(object.metadata()) {
                    return Err(WatchError::WentBack { kind: self.kind, ours, theirs });
                }
                self.known.see(object, &mut on);
            }
            continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if continue_token.is_none() {
                self.version = page.metadata.resource_version;
                break;
            }
        }
        for (name, uid) in self.known.vanished(&present) {
            on(Change::Gone { name, uid });
        }
        let version = self.version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default();
        on(Change::Listed { version, names: present });
        self.backoff.reset();
        Ok(())
    }

    /// Waits for the next change, listing again if it must. `None`: nothing happened, and all is well. After an error,
    /// pause and call again.
    pub async fn next(&mut self) -> Result<Option<Change<V>>, WatchError> {
        if let Some(change) = self.pending.pop_front() {
            return Ok(Some(change));
        }
        let advanced = self.advance().await;
        if let Err(error) = &advanced {
            (self.stream, self.suspect) = (None, true);
            if error.is_expired() {
                self.version = None;
            }
        }
        advanced.map(|()| self.pending.pop_front())
    }

    async fn advance(&mut self) -> Result<(), WatchError> {
        let life = Duration::from_secs(WATCH_SECONDS.into());
        let Some((stream, begun)) = &mut self.stream else { return self.open().await };
        let begun = *begun;
        if let Ok(Some(event)) = tokio::time::timeout(life + WATCH_GRACE, stream.next()).await {
            return self.take(event);
        }
        (self.stream, self.suspect) = (None, begun.elapsed() + WATCH_SLACK < life);
        Ok(())
    }

    /// One list if the version is unknown, then a watch.
    async fn open(&mut self) -> Result<(), WatchError> {
        if self.suspect {
            self.check_store().await?;
        }
        if self.version.is_none() {
            let mut changes = VecDeque::new();
            let listed = self.list(|change| changes.push_back(change)).await;
            self.pending.append(&mut changes);
            listed?;
        }
        let kind = self.kind;
        let version = self.version.as_deref().unwrap_or_default();
        let request = self.request.watch(&WatchParams::default().timeout(WATCH_SECONDS), version);
        let stream = async { self.client.request_events::<V>(request.map_err(kube::Error::BuildRequest)?).await };
        let stream = match tokio::time::timeout(PAGE_TIMEOUT, stream).await {
            Ok(stream) => stream.map_err(|source| self.refused(source))?,
            Err(_) => return Err(WatchError::Timeout { kind, after: PAGE_TIMEOUT }),
        };
        self.stream = Some((Box::pin(stream), Instant::now()));
        self.backoff.reset();
        Ok(())
    }

    fn take(&mut self, event: kube::Result<WatchEvent<V>>) -> Result<(), WatchError> {
        match event.map_err(|source| api_error(self.kind, source))? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.version.clone_from(&object.metadata().resource_version);
                self.known.see(object, |change| self.pending.push_back(change));
            }
            WatchEvent::Deleted(object) => {
                self.version.clone_from(&object.metadata().resource_version);
                let (name, uid) = identity(object.metadata());
                self.known.forget(&name);
                self.pending.push_back(Change::Gone { name, uid });
            }
            WatchEvent::Bookmark(mark) => self.version = Some(mark.metadata.resource_version),
            WatchEvent::Error(status) if status.code == 410 => (self.stream, self.version) = (None, None),
            WatchEvent::Error(status) => return Err(api_error(self.kind, kube::Error::Api(status))),
        }
        Ok(())
    }

    /// One cheap read after a watch broke off.
    async fn check_store(&mut self) -> Result<(), WatchError> {
        let theirs = self.read(1, None).await?.0.metadata.resource_version.unwrap_or_default();
        self.suspect = false;
        match self.version.take_if(|ours| is_behind(&theirs, ours)) {
            Some(ours) => Err(WatchError::WentBack { kind: self.kind, ours, theirs }),
            None => Ok(()),
        }
    }

    /// A page that was put off is asked for again, for a list that began anew with each would never come to its end.
    async fn read_page(&mut self, limit: u32, continue_token: Option<String>) -> Result<(Page<V>, usize), WatchError> {
        for _ in 0..PUT_OFF {
            match self.read(limit, continue_token.clone()).await {
                Err(error) if error.is_put_off() => {
                    tracing::info!(error = with_causes(&error), "put off");
                    self.pause().await;
                }
                answer => return answer,
            }
        }
        self.read(limit, continue_token).await
    }

    fn refused(&mut self, source: kube::Error) -> WatchError {
        let error = api_error(self.kind, source);
        self.retry_after = error.retry_after();
        error
    }

    /// One answer of a list, and how long it was.
    async fn read(&mut self, limit: u32, continue_token: Option<String>) -> Result<(Page<V>, usize), WatchError> {
        let kind = self.kind;
        let params = ListParams { continue_token, ..ListParams::default().limit(limit) };
        let request = self.request.list(&params).map_err(kube::Error::BuildRequest);
        let answer = async { self.client.request_text(request?).await };
        let text = match tokio::time::timeout(PAGE_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|source| self.refused(source))?,
            Err(_) => return Err(WatchError::Timeout { kind, after: PAGE_TIMEOUT }),
        };
        let page = serde_json::from_str(&text).map_err(|error| api_error(kind, kube::Error::SerdeError(error)))?;
        Ok((page, text.len()))
    }
}

/// How many objects to ask for after an answer of so many `bytes` and `items`.
fn next_limit(bytes: usize, items: usize) -> u32 {
    let fitting = PAGE_BYTES.saturating_mul(items.max(1)) / bytes.max(1);
    u32::try_from(fitting).unwrap_or(LARGEST_PAGE).clamp(1, LARGEST_PAGE)
}

/// Name, UID and version of each object, to tell what went while nobody watched.
#[derive(Clone, Debug, Default)]
struct Known(BTreeMap<String, (String, u64)>);

impl Known {
    /// An object was created or changed. If it is another one of the same name, its predecessor is gone.
    fn see<V: Watched>(&mut self, object: V, mut on: impl FnMut(Change<V>)) {
        let (name, uid) = identity(object.metadata());
        let before = self.0.insert(name.clone(), (uid.clone(), resource_version(object.metadata()).unwrap_or(0)));
        if let Some((before, _)) = before.filter(|(before, _)| *before != uid) {
            on(Change::Gone { name, uid: before });
        }
        on(Change::Seen(object));
    }

    /// The version at which an object was seen and the one it is said to be at, if that is older.
    fn newer_than(&self, metadata: &ObjectMeta) -> Option<(String, String)> {
        let (name, uid) = identity(metadata);
        let (_, ours) = self.0.get(&name).filter(|(known, _)| *known == uid)?;
        let theirs = resource_version(metadata).unwrap_or(0);
        (theirs < *ours).then(|| (ours.to_string(), theirs.to_string()))
    }

    fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// What was known and is not `present`; forgotten with that.
    fn vanished(&mut self, present: &BTreeSet<String>) -> Vec<(String, String)> {
        self.0.extract_if(.., |name, _| !present.contains(name)).map(|(name, (uid, _))| (name, uid)).collect()
    }
}

fn api_error(kind: &'static str, source: kube::Error) -> WatchError {
    let remedy = match &source {
        kube::Error::Api(status) if status.code == 404 => ": are Cadastre's CRDs installed?",
        kube::Error::Api(status) if status.code == 403 => ": the operator's ClusterRole lacks list or watch of them",
        _ => "",
    };
    WatchError::Api { kind, remedy, source }
}

/// The name and UID of an object.
pub fn identity(metadata: &ObjectMeta) -> (String, String) {
    (metadata.name.clone().unwrap_or_default(), metadata.uid.clone().unwrap_or_default())
}

/// Versions are numbers that grow with every write; what is none cannot be trusted to go on from.
fn is_behind(theirs: &str, ours: &str) -> bool {
    match (theirs.parse::<u64>(), ours.parse::<u64>()) {
        (Ok(theirs), Ok(ours)) => theirs < ours,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Deserialize)]
    struct Thing(ObjectMeta);

    impl Watched for Thing {
        fn metadata(&self) -> &ObjectMeta {
            &self.0
        }
    }

    fn thing(name: &str, uid: &str) -> Thing {
        Thing(ObjectMeta { name: Some(name.into()), uid: Some(uid.into()), ..ObjectMeta::default() })
    }

    fn see(known: &mut Known, name: &str, uid: &str) -> Vec<String> {
        let mut said = Vec::new();
        known.see(thing(name, uid), |change| {
            said.push(match change {
                Change::Seen(thing) => format!("+{}", identity(&thing.0).1),
                Change::Gone { uid, .. } => format!("-{uid}"),
                Change::Listed { .. } => unreachable!("nothing was listed"),
            });
        });
        said
    }

    #[test]
    fn another_object_of_the_same_name_means_that_the_first_is_gone() {
        let mut known = Known::default();
        assert_eq!(see(&mut known, "a", "1"), ["+1"]);
        assert_eq!(see(&mut known, "a", "1"), ["+1"]);
        assert_eq!(see(&mut known, "a", "2"), ["-1", "+2"]);
    }

    #[test]
    fn what_a_new_list_lacks_is_gone_once() {
        let mut known = Known::default();
        see(&mut known, "a", "1");
        see(&mut known, "b", "2");
        let present = BTreeSet::from(["b".to_owned()]);
        assert_eq!(known.vanished(&present), [("a".to_owned(), "1".to_owned())]);
        assert_eq!(known.vanished(&present), []);
        assert_eq!(see(&mut known, "a", "3"), ["+3"]);
    }

    #[test]
    fn an_object_at_an_older_version_shows_that_the_store_went_back() {
        let at = |version: &str, uid: &str| ObjectMeta { resource_version: Some(version.into()), ..thing("a", uid).0 };
        let mut known = Known::default();
        known.see(Thing(at("100", "1")), |_| ());
        assert_eq!(known.newer_than(&at("99", "1")), Some(("100".into(), "99".into())));
        assert_eq!(known.newer_than(&at("100", "1")), None);
        assert_eq!(known.newer_than(&at("99", "2")), None, "another object");
    }

    #[test]
    fn a_page_holds_as_many_objects_as_fit_into_its_bytes() {
        assert_eq!(next_limit(1_000_000, 100), 104);
        assert_eq!(next_limit(100_000, 100), 1048);
        assert_eq!(next_limit(200, 0), LARGEST_PAGE);
        assert_eq!(next_limit(100 << 20, 1), 1);
    }

    #[test]
    fn a_store_that_went_back_is_noticed() {
        assert!(is_behind("99", "100"));
        assert!(!is_behind("100", "100"));
        assert!(!is_behind("1000", "999"));
        assert!(is_behind("", "100"));
    }
}
