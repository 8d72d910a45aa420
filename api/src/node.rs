//! `IPAMNode`: what a node may allocate from, and what its agent says of it. Named as the Node, owned by it.

use std::net::IpAddr;

use cadastre_core::{Cidr, Family};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::mode::Mode;
use crate::schema::{AddressSchema, BlockSchema, FamilySchema};

/// Written by the operator only: created by POST, changed by patches that test uid and generation.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cadastre.io",
    version = "v1alpha1",
    kind = "IPAMNode",
    plural = "ipamnodes",
    shortname = "ipn",
    category = "ipam",
    status = "IPAMNodeStatus",
    derive = "PartialEq",
    doc = "The blocks a node may allocate from (spec, the operator's word) and what its agent does with them (status).",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Pod CIDRs", type_ = "string", json_path = ".spec.ipam.podCIDRs"),
    printcolumn(
        name = "Used",
        type_ = "string",
        json_path = ".status.ipam.usage",
        description = "addresses held of those that can be"
    ),
    printcolumn(
        name = "Serving",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Serving')].status",
        description = "whether the agent can serve pods"
    ),
    printcolumn(
        name = "Why",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Serving')].reason",
        description = "why the agent can, or cannot"
    ),
    printcolumn(
        name = "Assigned",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Assigned')].reason",
        description = "why the node has no block, if it was ever short of one"
    ),
    printcolumn(
        name = "Disputed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Disputed')].status",
        priority = "1",
        description = "whether another node claims one of its blocks"
    ),
    printcolumn(
        name = "Assigned message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Assigned')].message",
        priority = "1"
    ),
    printcolumn(
        name = "Serving message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Serving')].message",
        priority = "1"
    ),
    printcolumn(
        name = "Reachable",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='NodesReachable')].status",
        priority = "1",
        description = "whether pods of other nodes are reached from this one"
    ),
    printcolumn(
        name = "Reachable message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='NodesReachable')].message",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct IPAMNodeSpec {
    /// The mode in force when this was written.
    pub mode: Mode,
    /// UID of the Node this is for: an `IPAMNode` of another UID is not this machine's.
    #[serde(rename = "nodeUID")]
    #[schemars(length(max = 64))]
    pub node_uid: String,
    /// Where other nodes reach this one: the Node's addresses of type `InternalIP`, as `CiliumNode` has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub addresses: Vec<NodeAddress>,
    /// What the node may allocate from.
    #[serde(default)]
    pub ipam: NodeIpam,
}

/// An address of the machine, not of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeAddress {
    /// `InternalIP`.
    #[serde(rename = "type")]
    #[schemars(length(max = 32))]
    pub kind: String,
    /// The address.
    #[schemars(with = "String", length(max = 45))]
    pub ip: IpAddr,
}

impl NodeAddress {
    /// An address of type `InternalIP`.
    #[must_use]
    pub fn internal(ip: IpAddr) -> Self {
        Self { kind: "InternalIP".to_owned(), ip }
    }
}

/// Blocks of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeIpam {
    /// Every block the node holds. Agents read this in every mode. As many as it says it holds, and as many beside them.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub allocated: Vec<AllocatedBlock>,
    /// Those of them that lead here, for the routes of other nodes, and for people and tools that know `CiliumNode`: all but
    /// what another node has too, and the ledger does not know as this one's.
    #[serde(default, rename = "podCIDRs")]
    #[schemars(with = "Vec<BlockSchema>", length(max = 512))]
    pub pod_cidrs: Vec<Cidr>,
}

/// One block of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllocatedBlock {
    /// Name of the `IPPool` it was cut from.
    #[schemars(length(max = 253))]
    pub pool: String,
    /// Its family.
    #[schemars(with = "FamilySchema")]
    pub family: Family,
    /// The block.
    #[schemars(with = "BlockSchema")]
    pub cidr: Cidr,
    /// This assignment of it.
    #[schemars(with = "String", length(max = 36))]
    pub grant: Uuid,
    /// The operator wants it back: nothing new is to be allocated from it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retiring: bool,
}

/// Written by this node's agent, except the conditions that the operator owns by type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAMNodeStatus {
    /// Demand and use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<NodeIpamStatus>,
    /// What the agent finds of each family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Where the agent answers in the pod network, if it has an endpoint there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_endpoint: Option<HealthEndpoint>,
    /// `metadata.generation` that the agent acts on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Serving`, `NodesReachable` (agent), `Assigned`, `Disputed` (operator).
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A namespace of the agent's own, attached like a pod's: whoever reaches it reaches the node's pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthEndpoint {
    /// Its addresses, at most one of each family.
    #[schemars(with = "Vec<AddressSchema>", length(max = 2))]
    pub addresses: Vec<IpAddr>,
    /// TCP port at which it answers.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

/// Demand and use of a node. Counts are addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeIpamStatus {
    /// For each pool and family.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub pools: Vec<PoolDemand>,
    /// The blocks the agent allocates from, or has addresses in.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub held: Vec<HeldBlock>,
    /// Blocks the agent promised never to allocate from again under this grant, and in which nothing is in use.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub releasable: Vec<HeldBlock>,
    /// `3/254` for each family: addresses held of those that can be. For people.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub usage: String,
}

/// What a node needs of one pool in one family. Counts are addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolDemand {
    /// Name of the `IPPool`.
    #[schemars(length(max = 253))]
    pub pool: String,
    /// Family.
    #[schemars(with = "FamilySchema")]
    pub family: Family,
    /// Addresses the node wants in all.
    pub needed: i64,
    /// Held by attachments, the router among them.
    pub in_use: i64,
    /// Released, and not yet to be given to another owner.
    pub cooling: i64,
    /// ADDs that wait for an address.
    pub waiting: i64,
    /// What can be held at once.
    pub capacity: i64,
}

/// A block under a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldBlock {
    /// The block.
    #[schemars(with = "BlockSchema")]
    pub cidr: Cidr,
    /// The assignment.
    #[schemars(with = "String", length(max = 36))]
    pub grant: Uuid,
}

/// Health of each family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// IPv4, if the node has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<FamilyHealth>,
    /// IPv6, if the node has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<FamilyHealth>,
}

/// Health of one family on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FamilyHealth {
    /// Addresses can be allocated.
    Ok,
    /// Every address is held or cooling.
    Exhausted,
    /// No block of this family.
    Missing,
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt as _;

    use super::*;

    /// Else an agent could say that it holds so much that its own `IPAMNode` cannot be written any more.
    #[test]
    fn all_that_an_agent_says_it_holds_can_be_allocated_beside_as_much() {
        let crd = serde_json::to_value(IPAMNode::crd()).unwrap();
        let most = |field: &str| {
            let field = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{field}/maxItems");
            crd.pointer(&field).and_then(serde_json::Value::as_u64).unwrap()
        };
        let [held, releasable] =
            ["held", "releasable"].map(|field| most(&format!("status/properties/ipam/properties/{field}")));
        for field in ["allocated", "podCIDRs"] {
            assert!(most(&format!("spec/properties/ipam/properties/{field}")) >= held + releasable, "{field}");
        }
    }
}
