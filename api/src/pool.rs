//! `IPPool`: CIDRs that blocks are cut from.

use cadastre_core::{AddrRange, Cidr};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{CidrSchema, RangeSchema};

/// CIDRs that blocks are cut from, with a block size for each family. In cluster-pool mode the operator writes the
/// pool `default` from the Helm values.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cadastre.io",
    version = "v1alpha1",
    kind = "IPPool",
    plural = "ippools",
    shortname = "ipp",
    category = "ipam",
    status = "IPPoolStatus",
    derive = "PartialEq",
    doc = "CIDRs that blocks are cut from, with a block size for each family.",
    printcolumn(name = "IPv4 CIDRs", type_ = "string", json_path = ".spec.ipv4.cidrs"),
    printcolumn(
        name = "IPv4 held",
        type_ = "integer",
        json_path = ".status.ipv4.held",
        description = "blocks that nodes hold"
    ),
    printcolumn(name = "IPv4 free", type_ = "integer", json_path = ".status.ipv4.free", description = "blocks left"),
    printcolumn(name = "IPv6 CIDRs", type_ = "string", json_path = ".spec.ipv6.cidrs"),
    printcolumn(
        name = "IPv6 held",
        type_ = "integer",
        json_path = ".status.ipv6.held",
        description = "blocks that nodes hold"
    ),
    printcolumn(name = "IPv6 free", type_ = "integer", json_path = ".status.ipv6.free", description = "blocks left"),
    printcolumn(
        name = "Waiting",
        type_ = "integer",
        json_path = ".status.waitingNodes",
        description = "nodes without a block"
    ),
    printcolumn(
        name = "IPv4 mask",
        type_ = "integer",
        json_path = ".spec.ipv4.maskSize",
        priority = "1",
        description = "prefix length of a block, in bits"
    ),
    printcolumn(
        name = "IPv4 total",
        type_ = "integer",
        json_path = ".status.ipv4.total",
        priority = "1",
        description = "all blocks"
    ),
    printcolumn(
        name = "IPv4 cooling",
        type_ = "integer",
        json_path = ".status.ipv4.cooling",
        priority = "1",
        description = "blocks of deleted nodes, not given to others yet"
    ),
    printcolumn(
        name = "IPv4 reserved",
        type_ = "integer",
        json_path = ".status.ipv4.reserved",
        priority = "1",
        description = "blocks that are never given"
    ),
    printcolumn(
        name = "IPv6 mask",
        type_ = "integer",
        json_path = ".spec.ipv6.maskSize",
        priority = "1",
        description = "prefix length of a block, in bits"
    ),
    printcolumn(
        name = "IPv6 total",
        type_ = "integer",
        json_path = ".status.ipv6.total",
        priority = "1",
        description = "all blocks"
    ),
    printcolumn(
        name = "IPv6 cooling",
        type_ = "integer",
        json_path = ".status.ipv6.cooling",
        priority = "1",
        description = "blocks of deleted nodes, not given to others yet"
    ),
    printcolumn(
        name = "IPv6 reserved",
        type_ = "integer",
        json_path = ".status.ipv6.reserved",
        priority = "1",
        description = "blocks that are never given"
    ),
    printcolumn(
        name = "Exhausted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Exhausted')].status",
        priority = "1"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Exhausted')].message",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolSpec {
    /// IPv4 CIDRs and block size. Written by whoever owns the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.maskSize <= 32 && self.cidrs.all(c, isCIDR(c) && cidr(c).ip().family() == 4 && cidr(c).prefixLength() <= self.maskSize)")
        .message("cidrs must be IPv4, and maskSize at least their prefix length and at most 32"))]
    #[x_kube(validation = Rule::new("self.cidrs.all(c, isCIDR(c) && self.cidrs.exists_one(x, isCIDR(x) && cidr(x).containsCIDR(c)))")
        .message("cidrs of a pool must be disjoint: one of these contains another, or is listed twice"))]
    pub ipv4: Option<PoolCidrs>,
    /// IPv6 CIDRs and block size. Written by whoever owns the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.cidrs.all(c, isCIDR(c) && cidr(c).ip().family() == 6 && cidr(c).prefixLength() <= self.maskSize)")
        .message("cidrs must be IPv6, and maskSize at least their prefix length"))]
    #[x_kube(validation = Rule::new("self.cidrs.all(c, isCIDR(c) && self.cidrs.exists_one(x, isCIDR(x) && cidr(x).containsCIDR(c)))")
        .message("cidrs of a pool must be disjoint: one of these contains another, or is listed twice"))]
    pub ipv6: Option<PoolCidrs>,
    /// Addresses, CIDRs and ranges (first-last) that no pod may have: a block with such an address in it is never assigned.
    /// Written by whoever owns the pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<RangeSchema>", length(max = 256))]
    pub reserved: Vec<AddrRange>,
}

/// CIDRs of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolCidrs {
    /// Tried in this order. Append to grow the pool.
    #[schemars(with = "Vec<CidrSchema>", length(min = 1, max = 64))]
    pub cidrs: Vec<Cidr>,
    /// Prefix length of the blocks cut from them, in bits.
    #[schemars(range(min = 1, max = 128))]
    pub mask_size: u8,
}

/// How full the pool is. Written by the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolStatus {
    /// Blocks of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<BlockCounts>,
    /// Blocks of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<BlockCounts>,
    /// Nodes that wait for a block of this pool.
    #[serde(default)]
    pub waiting_nodes: i64,
    /// `Admitted`, `Exhausted`, `Fenced`.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Blocks of one family by state. `total` is the sum of the others; each saturates at the largest 64-bit integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockCounts {
    /// All blocks of the pool.
    pub total: i64,
    /// Held by nodes, or about to be.
    pub held: i64,
    /// Of deleted nodes, not given to others yet.
    pub cooling: i64,
    /// Reserved or fenced: never assigned.
    pub reserved: i64,
    /// Can be assigned.
    pub free: i64,
}

/// An exact count as the API shows it: saturated at the largest 64-bit integer, since a /48 holds more /128 than that.
#[must_use]
pub fn count(exact: u128) -> i64 {
    i64::try_from(exact).unwrap_or(i64::MAX)
}
