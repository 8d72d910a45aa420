//! `IPAMConfig/cluster`: what this cluster was installed with, and whether it may still be changed.

use cadastre_core::Cidr;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mode::Mode;
use crate::schema::CidrSchema;

/// Name of the only `IPAMConfig`.
pub const CONFIG_NAME: &str = "cluster";

/// What may not change while anything is in use. Written by the operator.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cadastre.io",
    version = "v1alpha1",
    kind = "IPAMConfig",
    plural = "ipamconfigs",
    shortname = "ipamconfig",
    category = "ipam",
    status = "IPAMConfigStatus",
    derive = "PartialEq",
    doc = "What this cluster was installed with: the mode is recorded at the first start and cannot be changed while blocks are in use.",
    validation = Rule::new("self.metadata.name == 'cluster'").message("the only IPAMConfig is named cluster"),
    validation = Rule::new("self.spec.mode == oldSelf.spec.mode || !has(oldSelf.status) || !oldSelf.status.inUse")
        .message("the mode cannot be changed while blocks are in use (status.inUse): set ipam.mode back to the recorded mode, or drain and remove every node first")
        .field_path(".spec.mode"),
    validation = Rule::new("!has(oldSelf.status) || !oldSelf.status.inUse || (has(oldSelf.status.draining) && oldSelf.status.draining) || (has(self.status) && self.status.inUse && oldSelf.status.cidrs.all(old, !old.inUse || self.status.cidrs.exists(new, new.cidr == old.cidr && new.inUse && new.maskSize == old.maskSize && new.pool == old.pool)))")
        .message("what is in use stays as it is recorded (status.inUse, status.cidrs): remove the nodes that hold blocks, and the operator clears it once they have cooled")
        .field_path(".status"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode", description = "recorded mode"),
    printcolumn(name = "In use", type_ = "boolean", json_path = ".status.inUse", description = "whether the mode is fixed"),
    printcolumn(name = "Mode refused", type_ = "string", json_path = ".status.conditions[?(@.type=='ModeChangeRefused')].status", description = "whether somebody configured another mode"),
    printcolumn(name = "Pools refused", type_ = "string", json_path = ".status.conditions[?(@.type=='PoolChangeRefused')].status", description = "whether somebody configured pools that contradict what is in use"),
    printcolumn(name = "Draining", type_ = "boolean", json_path = ".status.draining", priority = "1", description = "whether flags of what is unused are being cleared"),
    printcolumn(name = "Mode message", type_ = "string", json_path = ".status.conditions[?(@.type=='ModeChangeRefused')].message", priority = "1"),
    printcolumn(name = "Pools message", type_ = "string", json_path = ".status.conditions[?(@.type=='PoolChangeRefused')].message", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct IPAMConfigSpec {
    /// The mode that the first start recorded. Written by the operator.
    pub mode: Mode,
}

/// What is in use. Written by the operator, by compare-and-swap only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAMConfigStatus {
    /// Whether a node holds a block or one cools. Set before the first block is committed; while it is true the mode is fixed.
    #[serde(default)]
    pub in_use: bool,
    /// Somebody is about to clear `inUse` of the cluster or of a CIDR: no block committed meanwhile is published.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// The CIDRs that were admitted to pools. Overlap is decided here. (A pool has 64 of a family at most; the bound is what
    /// the API server's budget for rules allows.)
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub cidrs: Vec<AdmittedCidr>,
    /// `ModeChangeRefused`, `PoolChangeRefused`.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One CIDR of one pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdmittedCidr {
    /// The CIDR that blocks are cut from.
    #[schemars(with = "CidrSchema")]
    pub cidr: Cidr,
    /// Name of its `IPPool`.
    #[schemars(length(max = 253))]
    pub pool: String,
    /// Prefix length of its blocks, in bits.
    #[schemars(range(min = 1, max = 128))]
    pub mask_size: u8,
    /// Whether a block of it is held or cooling. While it is, the CIDR stays and its mask cannot change.
    #[serde(default)]
    pub in_use: bool,
}
