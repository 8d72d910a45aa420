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
    IPPool, IPPoolSpec, IPPoolStatus, Mode, NodeIpam,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::outcome::with_causes;

/// A kind that can be put together from its parts.
pub trait Parts: Resource<DynamicType = ()> + Sized {
    /// Its `spec`.
    type Spec: DeserializeOwned;
    /// Its `status`.
    type Status: DeserializeOwned;

    /// The object.
    fn assemble(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self;

    /// What a spec that cannot be read says. `None` if nobody may go on from that.
    fn spoiled() -> Option<Self::Spec> {
        None
    }
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
parts!(IPPool, IPPoolSpec, IPPoolStatus);

/// Its spec is the operator's own and follows from the ledger: what somebody spoiled claims nothing, and the engine
/// puts it right.
impl Parts for IPAMNode {
    type Spec = IPAMNodeSpec;
    type Status = IPAMNodeStatus;

    fn assemble(metadata: ObjectMeta, spec: IPAMNodeSpec, status: Option<IPAMNodeStatus>) -> Self {
        Self { metadata, spec, status }
    }

    fn spoiled() -> Option<IPAMNodeSpec> {
        Some(IPAMNodeSpec {
            mode: Mode::default(),
            node_uid: String::new(),
            addresses: Vec::new(),
            ipam: NodeIpam::default(),
        })
    }
}

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
#[error("{kind} {name} cannot be read: undo what was edited by hand")]
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
        let unreadable = |source| Unreadable { kind: K::kind(&()).into_owned(), name: name.clone(), source };
        let spec = read(spec.as_deref()).map_err(unreadable);
        let status = read(status.as_deref()).map_err(unreadable);
        let Some(spoiled) = K::spoiled() else { return Ok(K::assemble(metadata, spec?, status?)) };
        let complain = |error: &Unreadable| tracing::error!(error = with_causes(error), "spoiled");
        let spec = spec.inspect_err(complain).unwrap_or(spoiled);
        let status = status.inspect_err(complain).unwrap_or_default();
        Ok(K::assemble(metadata, spec, status))
    }
}

fn read<T: DeserializeOwned>(text: Option<&RawValue>) -> serde_json::Result<T> {
    serde_json::from_str(text.map_or("null", RawValue::get))
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
        assert!(read[1].as_ref().unwrap_err().starts_with("IPAMConfig b cannot be read: "));
        assert!(read[2].as_ref().unwrap_err().starts_with("IPAMConfig c cannot be read: "));
    }

    #[test]
    fn a_spoiled_ipamnode_claims_nothing() {
        let text = r#"{"metadata":{"name":"a","generation":3},"spec":{"mode":"cluster-pool","nodeUID":"u",
            "ipam":{"allocated":[{"pool":"default","family":"IPv4","cidr":"10.0.0.0/24","grant":"nonsense"}]}}}"#;
        let node = serde_json::from_str::<Lean<IPAMNode>>(text).unwrap().into_object().unwrap();
        assert_eq!((node.metadata.generation, node.spec.ipam.allocated.len()), (Some(3), 0));
    }
}
