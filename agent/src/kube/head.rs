//! Of an object that a watch sends, the few lines that say what it is. Each Pod that starts is sent half a dozen times, and who
//! set which of its fields (`managedFields`) is half of what there is to read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::Deserialize;

/// A `K` by its name, UID, version, annotations, and whether it is being deleted; the other metadata are empty.
#[derive(Debug, Deserialize)]
#[serde(from = "Sent", bound = "")]
pub struct Head<K> {
    metadata: ObjectMeta,
    kind: PhantomData<fn() -> K>,
}

#[derive(Deserialize)]
struct Sent {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<Time>,
}

impl<K> From<Sent> for Head<K> {
    fn from(Sent { metadata }: Sent) -> Self {
        let Metadata { name, namespace, uid, resource_version, annotations, deletion_timestamp } = metadata;
        let metadata = ObjectMeta {
            name,
            namespace,
            uid,
            resource_version,
            annotations,
            deletion_timestamp,
            ..ObjectMeta::default()
        };
        Self { metadata, kind: PhantomData }
    }
}

impl<K> Clone for Head<K> {
    fn clone(&self) -> Self {
        Self { metadata: self.metadata.clone(), kind: PhantomData }
    }
}

/// It is asked for as a `K`.
impl<K: Resource> Resource for Head<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::ResourceExt;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_says_which_object_it_is_is_read() {
        let sent = json!({
            "kind": "Pod",
            "metadata": {
                "name": "a", "namespace": "x", "uid": "u-1", "resourceVersion": "7", "annotations": {"k": "v"},
                "deletionTimestamp": "2026-11-22T08:00:00Z",
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
            },
            "spec": {"nodeName": "n1"},
        });
        let head: Head<Pod> = serde_json::from_value(sent).unwrap();
        assert_eq!((head.name_any(), head.namespace(), head.uid()), ("a".into(), Some("x".into()), Some("u-1".into())));
        assert_eq!((head.resource_version(), &head.annotations()["k"][..]), (Some("7".into()), "v"));
        assert!(head.meta().deletion_timestamp.is_some());
        assert_eq!(head.managed_fields(), [], "who reads that, pays for it");
        assert_eq!(Head::<Pod>::plural(&()), "pods");
    }
}
