//! `IPAMLedger`: the record of which node holds which block, and the only authority on it.
//!
//! One object is a page of up to 64 blocks: an aligned range of an admitted CIDR, so that a block's page is a pure
//! function of the block. Two operators that want the same block write the same page, and the API server lets one win.

use cadastre_core::{Cidr, Family};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::entry::BlockEntry;
use crate::schema::{BlockSchema, FamilySchema};

/// Blocks of a page: an object of 64 entries is about 10 KB. The API server's cost of a write grows with the page, and a burst
/// writes each page a few times: pages of 256 cost it more in all (measured with `make bench-bringup`).
pub const PAGE_BLOCKS: u32 = 64;

/// One page. Written by the operator, by compare-and-swap on `metadata.resourceVersion` only.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cadastre.io",
    version = "v1alpha1",
    kind = "IPAMLedger",
    plural = "ipamledgers",
    shortname = "ipl",
    category = "ipam",
    derive = "PartialEq",
    doc = "A page of the operator's record of which node holds which block. Do not edit it: this is the authority.",
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Range", type_ = "string", json_path = ".spec.range"),
    printcolumn(name = "Mask", type_ = "integer", json_path = ".spec.maskSize"),
    printcolumn(
        name = "Held",
        type_ = "integer",
        json_path = ".spec.held",
        description = "blocks that nodes hold, or are about to"
    ),
    printcolumn(
        name = "Cooling",
        type_ = "integer",
        json_path = ".spec.cooling",
        description = "blocks of nodes that are gone, not to be given to others yet"
    ),
    printcolumn(name = "Free", type_ = "integer", json_path = ".spec.free", description = "blocks without an entry"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct IPAMLedgerSpec {
    /// Name of the `IPPool` its blocks belong to.
    #[schemars(length(max = 253))]
    pub pool: String,
    /// Family of its blocks.
    #[schemars(with = "FamilySchema")]
    pub family: Family,
    /// The blocks of this page lie in here.
    #[schemars(with = "BlockSchema")]
    pub range: Cidr,
    /// Prefix length of its blocks, in bits.
    #[schemars(range(min = 1, max = 128))]
    pub mask_size: u8,
    /// Entries that are held or pending, for people.
    #[serde(default)]
    pub held: u32,
    /// Entries that cool, for people.
    #[serde(default)]
    pub cooling: u32,
    /// Blocks of the range without an entry, for people. Fenced ones are among them.
    #[serde(default)]
    pub free: u32,
    /// Every block of the range that is not free, in order.
    #[schemars(length(max = PAGE_BLOCKS), extend("x-kubernetes-list-type" = "atomic"))]
    pub entries: Vec<BlockEntry>,
}
