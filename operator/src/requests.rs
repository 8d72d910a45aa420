//! Effects as requests. Each is sent once; what comes back is not interpreted here.

use cadastre_api::{
    CONFIG_NAME, IPAMConfig, IPAMLedger, IPAMNode, IPAMNodeSpec, IPPool, NOT_READY_TAINT, OPERATOR_MANAGER,
};
use cadastre_engine::{Action, Answer};
use http::header::CONTENT_TYPE;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{Request, TypeMeta};
use kube::{Client, Resource};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::lean::{Lean, Parts, Unreadable};
use crate::node_view::{NodeView, Selector};
use crate::publish;

/// Pages of the ledger in one answer of a list. Full ones are 12 KB each.
pub const LEDGER_PAGES_A_PAGE: u32 = 80;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// It happened, and what it did cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// Sends requests as the operator.
#[derive(Clone)]
pub struct Requests {
    client: Client,
    /// This process, in Events.
    instance: String,
    selector: Selector,
}

impl Requests {
    pub fn new(client: Client, instance: String, selector: Selector) -> Self {
        Self { client, instance, selector }
    }

    /// Sends `action`.
    pub async fn send(&self, action: &Action) -> Result<Answer, RequestError> {
        let nothing = |IgnoredAny| Answer::Nothing;
        match action {
            Action::CreateConfig(config) => self.create(&**config).await.map(config_answer),
            Action::ReplaceConfig(config) => self.replace(&**config, None).await.map(config_answer),
            Action::ReplaceConfigStatus(config) => self.replace(&**config, Some("status")).await.map(config_answer),
            Action::GetConfig => self.get(CONFIG_NAME).await.map(config_answer),
            Action::CreatePage(page) => self.create(&**page).await.map(page_answer),
            Action::ReplacePage(page) => self.replace(&**page, None).await.map(page_answer),
            Action::GetPage { name } => self.get(name).await.map(page_answer),
            Action::ListPages => self.pages().await.map(Answer::Pages),
            Action::CreateIpamNode(node) => self.create(&**node).await.map(node_answer),
            Action::PatchIpamNode { name, uid, generation, spec } => {
                self.patch_spec::<IPAMNode, IPAMNodeSpec>(name, uid, *generation, spec).await.map(node_answer)
            }
            Action::DeleteIpamNode { name, uid } => self.delete::<IPAMNode>(name, uid).await.map(still_there),
            Action::GetIpamNode { name } => self.get(name).await.map(node_answer),
            Action::GetNode { name } => self.node(node_path().get(name, &GetParams::default())).await,
            Action::Untaint { name, uid, at } => self.node(untaint(name, uid, *at)?).await,
            Action::SetNetworkAvailable { name, uid } => self.node(network_available(name, uid)?).await,
            Action::SetIpamNodeConditions { name, conditions } => {
                self.apply_status::<IPAMNode>(name, json!({ "conditions": conditions })).await.map(node_answer)
            }
            Action::CreatePool(pool) => self.create(&**pool).await.map(pool_answer),
            Action::PatchPool(pool) => self.patch_pool(pool).await.map(pool_answer),
            Action::SetPoolStatus { name, status } => {
                self.apply_status::<IPPool>(name, json!(status)).await.map(pool_answer)
            }
            Action::Publish(note) => {
                let event = publish::event(note, &self.instance, Timestamp::now());
                let request = Request::new(Event::url_path(&(), Some(publish::NAMESPACE)));
                self.ask(request.create(&post(), body(&event)?)).await.map(nothing)
            }
        }
    }

    async fn create<K: Parts + Serialize>(&self, object: &K) -> Result<K, RequestError> {
        self.object(path::<K>().create(&post(), body(object)?)).await
    }

    async fn replace<K: Parts + Serialize>(&self, object: &K, subresource: Option<&str>) -> Result<K, RequestError> {
        let name = object.meta().name.as_deref().unwrap_or_default();
        let request = match subresource {
            None => path::<K>().replace(name, &post(), body(object)?),
            Some(part) => path::<K>().replace_subresource(part, name, &post(), body(object)?),
        };
        self.object(request).await
    }

    async fn get<K: Parts>(&self, name: &str) -> Result<K, RequestError> {
        self.object(path::<K>().get(name, &GetParams::default())).await
    }

    async fn node(&self, request: Built) -> Result<Answer, RequestError> {
        let (seen, complaint) = self.ask::<NodeView>(request).await?.trim(&self.selector);
        if let Some(complaint) = complaint {
            tracing::debug!("{complaint}");
        }
        Ok(Answer::Node(seen))
    }

    async fn pages(&self) -> Result<Vec<IPAMLedger>, RequestError> {
        let mut pages = Vec::new();
        let mut params = ListParams::default().limit(LEDGER_PAGES_A_PAGE);
        loop {
            let list: List<IPAMLedger> = self.ask(path::<IPAMLedger>().list(&params)).await?;
            for item in list.items {
                pages.push(item.into_object()?);
            }
            params.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(pages);
            }
        }
    }

    /// The object if finalizers hold it, else nothing: it is gone.
    async fn delete<K: Parts>(&self, name: &str, uid: &str) -> Result<Option<K>, RequestError> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let request = path::<K>().delete(name, &params).map_err(kube::Error::BuildRequest)?;
        let answer = self.client.request_text(request).await?;
        let kind = serde_json::from_str::<TypeMeta>(&answer).map_err(kube::Error::SerdeError)?.kind;
        if kind != K::kind(&()) {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str::<Lean<K>>(&answer).map_err(kube::Error::SerdeError)?.into_object()?))
    }

    async fn patch_pool(&self, pool: &IPPool) -> Result<IPPool, RequestError> {
        let metadata = &pool.metadata;
        let (name, uid) = crate::watch::identity(metadata);
        self.patch_spec(&name, &uid, metadata.generation.unwrap_or_default(), &pool.spec).await
    }

    /// A delayed one changes nothing: the API server tests again at the moment of the write.
    async fn patch_spec<K: Parts, S: Serialize>(
        &self,
        name: &str,
        uid: &str,
        generation: i64,
        spec: &S,
    ) -> Result<K, RequestError> {
        let patch = json!([
            { "op": "test", "path": "/metadata/uid", "value": uid },
            { "op": "test", "path": "/metadata/generation", "value": generation },
            { "op": "replace", "path": "/spec", "value": spec },
        ]);
        self.object(raw_patch(&K::url_path(&(), None), name, "json-patch", &patch)?).await
    }

    /// Only what the operator owns of the status: it is the field manager of nothing else there.
    async fn apply_status<K: Parts>(&self, name: &str, status: Value) -> Result<K, RequestError> {
        let patch = Patch::Apply(json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": { "name": name },
            "status": status,
        }));
        let params = PatchParams::apply(OPERATOR_MANAGER).force();
        self.object(path::<K>().patch_subresource("status", name, &params, &patch)).await
    }

    async fn object<K: Parts>(&self, request: Built) -> Result<K, RequestError> {
        Ok(self.ask::<Lean<K>>(request).await?.into_object()?)
    }

    async fn ask<T: DeserializeOwned>(&self, request: Built) -> Result<T, RequestError> {
        Ok(self.client.request(request.map_err(kube::Error::BuildRequest)?).await?)
    }
}

type Built = Result<http::Request<Vec<u8>>, kube::core::request::Error>;

#[derive(Deserialize)]
#[serde(bound = "")]
struct List<K> {
    metadata: ListMeta,
    #[serde(default = "Vec::new")]
    items: Vec<Lean<K>>,
}

fn path<K: Parts>() -> Request {
    Request::new(K::url_path(&(), None))
}

/// kube's own JSON patch would need each operation as a type of another crate, and its apply would own what is patched.
fn raw_patch(kind_path: &str, rest: &str, kind: &str, patch: &Value) -> Result<Built, RequestError> {
    let target = format!("{kind_path}/{rest}?fieldManager={OPERATOR_MANAGER}");
    let request = http::Request::patch(target).header(CONTENT_TYPE, format!("application/{kind}+json"));
    Ok(request.body(body(patch)?).map_err(kube::core::request::Error::BuildRequest))
}

/// The taints before it may be others by now: then nothing is removed.
fn untaint(name: &str, uid: &str, at: usize) -> Result<Built, RequestError> {
    let patch = json!([
        { "op": "test", "path": "/metadata/uid", "value": uid },
        { "op": "test", "path": format!("/spec/taints/{at}/key"), "value": NOT_READY_TAINT },
        { "op": "remove", "path": format!("/spec/taints/{at}") },
    ]);
    raw_patch(&Node::url_path(&(), None), name, "json-patch", &patch)
}

/// Merged with the conditions of others, by type. A Node of another UID is a conflict.
fn network_available(name: &str, uid: &str) -> Result<Built, RequestError> {
    let now = Time(Timestamp::now());
    let condition = json!({
        "type": "NetworkUnavailable", "status": "False", "reason": "CadastreServes",
        "message": "the agent of this node gives addresses to pods", "lastHeartbeatTime": now, "lastTransitionTime": now,
    });
    let patch = json!({ "metadata": { "uid": uid }, "status": { "conditions": [condition] } });
    raw_patch(&Node::url_path(&(), None), &format!("{name}/status"), "strategic-merge-patch", &patch)
}

fn node_path() -> Request {
    Request::new(Node::url_path(&(), None))
}

fn post() -> PostParams {
    PostParams { field_manager: Some(OPERATOR_MANAGER.to_owned()), ..PostParams::default() }
}

fn body<T: Serialize>(object: &T) -> Result<Vec<u8>, RequestError> {
    let body = serde_json::to_vec(object).map_err(kube::core::request::Error::SerializeBody);
    Ok(body.map_err(kube::Error::BuildRequest)?)
}

fn config_answer(config: IPAMConfig) -> Answer {
    Answer::Config(Box::new(config))
}

fn page_answer(page: IPAMLedger) -> Answer {
    Answer::Page(Box::new(page))
}

fn node_answer(node: IPAMNode) -> Answer {
    Answer::IpamNode(Box::new(node))
}

fn still_there(node: Option<IPAMNode>) -> Answer {
    node.map_or(Answer::Nothing, node_answer)
}

/// The watch tells the engine what it became.
fn pool_answer(_: IPPool) -> Answer {
    Answer::Nothing
}
