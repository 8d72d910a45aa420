//! Our objects as they come in: without managed fields, which would be half of the work of reading them, and with the
//! spec and status read only once the object is known, so that one that somebody spoiled does not hide its neighbours.
//!
//! ```text
//! bytes ─serde─▶ Lean { metadata, spec: text, status: text } ─into_object─▶ IPAMNode, or Unreadable
//! ```

use std::collections::BTreeMap;
use std::marker::PhantomData;

use cadastre_api::{
    IPAMConfig, IPAMConfigSpec, IPAMConfigStatus, IPAMLedger, IPAMLedgerSpec, IPAMNode, IPAMNodeSpec, IPAMNodeStatus,
    IPPool, IPPoolSpec, IPPoolStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A kind that can be put together from its parts.
pub trait Parts: Resource<DynamicType = ()> + Sized {
    /// Its `spec`.
    type Spec: DeserializeOwned;
    /// Its `status`.
    type Status: DeserializeOwned;

    /// The object.
    fn assemble(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self;
}

macro_rules! parts {
    ($kind:ident, $spec:ty, $status:ty) => {
        impl Parts for $kind {
            type Spec = $spec;
            type Status = $status;

            fn assemble(metadata: ObjectMeta, spec: $spec, status: Option<$status>) -> Self {
                Self { metadata, spec, status }
            }
        }
    };
}

parts!(IPAMConfig, IPAMConfigSpec, IPAMConfigStatus);
parts!(IPAMNode, IPAMNodeSpec, IPAMNodeStatus);
parts!(IPPool, IPPoolSpec, IPPoolStatus);

impl Parts for IPAMLedger {
    type Spec = IPAMLedgerSpec;
    type Status = IgnoredAny;

    fn assemble(metadata: ObjectMeta, spec: IPAMLedgerSpec, _: Option<IgnoredAny>) -> Self {
        Self { metadata, spec }
    }
}

/// The metadata that somebody here reads, or must send back unharmed in a PUT. An absent `managedFields` in a PUT
/// leaves it as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeanMeta {
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<String>>,
}

impl From<LeanMeta> for ObjectMeta {
    fn from(lean: LeanMeta) -> Self {
        let LeanMeta {
            name,
            uid,
            resource_version,
            generation,
            creation_timestamp,
            deletion_timestamp,
            labels,
            annotations,
            owner_references,
            finalizers,
        } = lean;
        Self {
            name,
            uid,
            resource_version,
            generation,
            creation_timestamp,
            deletion_timestamp,
            labels,
            annotations,
            owner_references,
            finalizers,
            ..Self::default()
        }
    }
}

/// For `deserialize_with`: metadata without what nobody reads.
pub fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    LeanMeta::deserialize(deserializer).map(Into::into)
}

/// An object of kind `K` whose metadata was read and the rest was not.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "")]
pub struct Lean<K> {
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

/// Somebody wrote what the schema lets through and we cannot read.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name} cannot be read ({source}): undo what was edited by hand, or delete it")]
pub struct Unreadable {
    kind: String,
    name: String,
    source: serde_json::Error,
}

impl<K: Parts> Lean<K> {
    /// Reads the rest.
    pub fn into_object(self) -> Result<K, Unreadable> {
        let Self { metadata, spec, status, kind: PhantomData } = self;
        let name = metadata.name.clone().unwrap_or_default();
        let unreadable = |source| Unreadable { kind: K::kind(&()).into_owned(), name, source };
        let spec = spec.as_deref().map_or("null", RawValue::get);
        let status = status.as_deref().map_or("null", RawValue::get);
        match (serde_json::from_str(spec), serde_json::from_str(status)) {
            (Ok(spec), Ok(status)) => Ok(K::assemble(metadata, spec, status)),
            (Err(source), _) | (_, Err(source)) => Err(unreadable(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_fields_are_left_out_and_the_rest_survives() {
        let text = r#"{"apiVersion":"cadastre.io/v1alpha1","kind":"IPAMConfig","metadata":{"name":"cluster","uid":"u",
            "resourceVersion":"7","generation":2,"managedFields":[{"manager":"x"}],"labels":{"a":"b"}},
            "spec":{"mode":"cluster-pool"}}"#;
        let config = serde_json::from_str::<Lean<IPAMConfig>>(text).unwrap().into_object().unwrap();
        assert_eq!(config.metadata.managed_fields, None);
        assert_eq!(config.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(config.metadata.labels.unwrap()["a"], "b");
        assert_eq!(config.status, None);
    }

    #[test]
    fn one_unreadable_object_does_not_hide_the_others() {
        let text = r#"[{"metadata":{"name":"a"},"spec":{"mode":"cluster-pool"}},{"metadata":{"name":"b"},"spec":{"mode":7}},
            {"metadata":{"name":"c"}}]"#;
        let read: Vec<Lean<IPAMConfig>> = serde_json::from_str(text).unwrap();
        let read: Vec<_> = read.into_iter().map(|lean| lean.into_object().map_err(|error| error.to_string())).collect();
        assert!(read[0].is_ok());
        assert!(read[1].as_ref().unwrap_err().starts_with("IPAMConfig b cannot be read ("));
        assert!(read[2].as_ref().unwrap_err().starts_with("IPAMConfig c cannot be read ("));
    }
}
