//! The settings as written: what may stand where, before anybody asks whether it makes sense.
//!
//! The schema of these types is the list of known keys: it refuses unknown ones here (`shape`) and, as
//! `values.schema.json`, in Helm. A key that is absent or null was not written; defaults are given in `validate`, so
//! that nothing a person did not write can clash with what they wrote.
//!
//! Ranges and patterns are for Helm, whose refusal comes earliest; ours, in `validate`, says more.

use std::collections::BTreeMap;

use cadastre_api::Mode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

/// Everything that the settings file may hold. All keys are optional.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawSettings {
    /// How nodes get their blocks.
    pub ipam: RawIpam,
    /// IPv4.
    pub ipv4: RawFamily,
    /// IPv6.
    pub ipv6: RawFamily,
    /// What Kubernetes must provide.
    pub k8s: RawK8s,
    /// Name or address of the API server, for nodes on which the service address of Kubernetes does not work (yet).
    #[schemars(extend("examples" = ["10.66.0.1"]))]
    pub k8s_service_host: Option<String>,
    /// Port of the API server at `k8sServiceHost`.
    #[schemars(schema_with = "port")]
    pub k8s_service_port: Option<Port>,
    /// What agents install on their nodes, so that pods are attached.
    pub cni: RawCni,
    /// Whether agents route to the blocks of other nodes. Default: true if they install a CNI configuration.
    pub auto_direct_node_routes: Option<bool>,
    /// MTU of pods' interfaces, in bytes. Default: that of the interface that leads to other nodes.
    #[serde(rename = "MTU")]
    #[schemars(range(min = 0, max = 65535))]
    pub mtu: Option<i64>,
    /// The endpoint in the pod network by which agents see whether pods of other nodes are reached.
    pub health_endpoint: RawHealthEndpoint,
    /// What only the operator reads.
    pub operator: RawOperator,
    /// What only the agent reads.
    pub agent: RawAgent,
    /// The least severe level that operator and agent log. Default: info.
    #[schemars(extend("enum" = ["error", "warn", "info", "debug", "trace", null]))]
    pub log_level: Option<String>,
    /// text for people, json for collectors. Default: text.
    #[schemars(extend("enum" = ["text", "json", null]))]
    pub log_format: Option<String>,
    /// AWS: without effect in the modes of this release.
    pub eni: RawEni,
    /// Azure: without effect in the modes of this release.
    pub azure: RawAzure,
}

/// `ipam`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawIpam {
    /// Who cuts blocks: cluster-pool (the default) or kubernetes. Cannot be changed while nodes hold blocks.
    #[schemars(extend("enum" = modes()))]
    pub mode: Option<String>,
    /// The pools of mode cluster-pool, and limits of the cloud modes.
    pub operator: RawIpamOperator,
    /// Older spelling of `ipam.operator.clusterPoolIPv4PodCIDRList`.
    #[serde(rename = "clusterPoolIPv4")]
    pub cluster_pool_ipv4: Option<CidrList>,
    /// Older spelling of `ipam.operator.clusterPoolIPv4MaskSize`.
    #[serde(rename = "clusterPoolIPv4MaskSize")]
    #[schemars(range(min = 1, max = 32))]
    pub cluster_pool_ipv4_mask_size: Option<i64>,
    /// Older spelling of `ipam.operator.clusterPoolIPv6PodCIDRList`.
    #[serde(rename = "clusterPoolIPv6")]
    pub cluster_pool_ipv6: Option<CidrList>,
    /// Older spelling of `ipam.operator.clusterPoolIPv6MaskSize`.
    #[serde(rename = "clusterPoolIPv6MaskSize")]
    #[schemars(range(min = 1, max = 128))]
    pub cluster_pool_ipv6_mask_size: Option<i64>,
    /// Cilium's. Without effect: demand is written at once.
    #[schemars(extend("examples" = ["15s"]))]
    pub cilium_node_update_rate: Option<String>,
    /// Mode multi-pool: addresses kept ready for each pool. Without effect in the modes of this release.
    #[schemars(extend("examples" = ["default=8"]))]
    pub multi_pool_pre_allocation: Option<String>,
    /// Cilium's. Without effect: it is for the uplinks of clouds.
    #[serde(rename = "installUplinkRoutesForDelegatedIPAM")]
    pub install_uplink_routes_for_delegated_ipam: Option<bool>,
    /// Demand of a node in the cloud modes. Without effect in the modes of this release.
    pub node_spec: RawNodeSpec,
}

/// `ipam.operator`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawIpamOperator {
    /// Mode cluster-pool: the IPv4 CIDRs that blocks are cut from, used up in this order. Default: 10.0.0.0/8.
    #[serde(rename = "clusterPoolIPv4PodCIDRList")]
    pub cluster_pool_ipv4_pod_cidr_list: Option<CidrList>,
    /// Mode cluster-pool: prefix length of a node's IPv4 block, in bits. Default: 24.
    #[serde(rename = "clusterPoolIPv4MaskSize")]
    #[schemars(range(min = 1, max = 32))]
    pub cluster_pool_ipv4_mask_size: Option<i64>,
    /// Mode cluster-pool: the IPv6 CIDRs that blocks are cut from, used up in this order. Default: `fd00::/104`.
    #[serde(rename = "clusterPoolIPv6PodCIDRList")]
    pub cluster_pool_ipv6_pod_cidr_list: Option<CidrList>,
    /// Mode cluster-pool: prefix length of a node's IPv6 block, in bits. Default: 120.
    #[serde(rename = "clusterPoolIPv6MaskSize")]
    #[schemars(range(min = 1, max = 128))]
    pub cluster_pool_ipv6_mask_size: Option<i64>,
    /// Mode cluster-pool: addresses, CIDRs and ranges (first-last) of the pool that no pod may have. A block with such an
    /// address in it is given to no node. Default: none.
    #[schemars(schema_with = "ranges")]
    pub cluster_pool_reserved: Option<CidrList>,
    /// Labels that a node must have, all of them, to be given blocks. Default: none, so every node is.
    #[schemars(extend("examples" = [{"example.com/network": "cadastre"}]))]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Mode multi-pool: pools to create at the first start. Without effect in the modes of this release.
    #[serde(rename = "autoCreateCiliumPodIPPools")]
    pub auto_create_cilium_pod_ip_pools: Option<BTreeMap<String, serde_json::Value>>,
    /// Cloud modes: burst of calls to the cloud. Without effect in the modes of this release.
    #[serde(rename = "externalAPILimitBurstSize")]
    #[schemars(range(min = 1))]
    pub external_api_limit_burst_size: Option<i64>,
    /// Cloud modes: calls to the cloud in each second. Without effect in the modes of this release.
    #[serde(rename = "externalAPILimitQPS")]
    pub external_api_limit_qps: Option<f64>,
}

/// `ipam.nodeSpec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(clippy::struct_field_names)] // Named as the keys are.
pub struct RawNodeSpec {
    /// Addresses to hold at least.
    #[schemars(range(min = 0))]
    pub ipam_min_allocate: Option<i64>,
    /// Free addresses to keep ready.
    #[schemars(range(min = 0))]
    pub ipam_pre_allocate: Option<i64>,
    /// Addresses to hold at most.
    #[schemars(range(min = 0))]
    pub ipam_max_allocate: Option<i64>,
    /// Tags of elastic addresses.
    #[serde(rename = "ipamStaticIPTags")]
    pub ipam_static_ip_tags: Option<Vec<String>>,
}

/// `ipv4`, `ipv6`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawFamily {
    /// Whether nodes get blocks of this family. Default: IPv4 true, IPv6 false; requiring a family's podCIDR enables it.
    pub enabled: Option<bool>,
}

/// `k8s`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawK8s {
    /// Mode kubernetes: a Node waits until it has an IPv4 podCIDR. Default: false.
    #[serde(rename = "requireIPv4PodCIDR")]
    pub require_ipv4_pod_cidr: Option<bool>,
    /// Mode kubernetes: a Node waits until it has an IPv6 podCIDR. Default: false.
    #[serde(rename = "requireIPv6PodCIDR")]
    pub require_ipv6_pod_cidr: Option<bool>,
}

/// `cni`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawCni {
    /// Whether agents install the plugin and a configuration on their nodes. Default: true.
    pub install: Option<bool>,
    /// Whether somebody else writes the CNI configuration: only the plugin is installed then. Default: false.
    pub custom_conf: Option<bool>,
    /// Whether configurations of others are renamed while ours is there. Default: false.
    pub exclusive: Option<bool>,
    /// Folder of the CNI configurations on the node. Default: /etc/cni/net.d.
    #[schemars(regex(pattern = "^(/[^/]+)+$"), extend("examples" = ["/etc/cni/net.d"]))]
    pub conf_path: Option<String>,
    /// Folder of the CNI plugins on the node. Default: /opt/cni/bin.
    #[schemars(regex(pattern = "^(/[^/]+)+$"), extend("examples" = ["/opt/cni/bin"]))]
    pub bin_path: Option<String>,
    /// The reference plugin that makes pods' interfaces: ptp (the default) or bridge.
    #[schemars(extend("enum" = ["ptp", "bridge", null]))]
    pub interface_plugin: Option<String>,
}

/// `healthEndpoint`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawHealthEndpoint {
    /// Whether each agent attaches a namespace of its own, like a pod, and probes those of other nodes from there. Default: true
    /// if agents install a CNI configuration.
    pub enabled: Option<bool>,
    /// TCP port at which it answers, in its own namespace. Default: 4240.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i64>,
}

/// `operator`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawOperator {
    /// For how long the blocks of a deleted node are given to nobody; at least 2m. Default: 5m.
    #[schemars(schema_with = "duration")]
    pub cooling: Option<String>,
    /// Take the taint cadastre.io/agent-not-ready off nodes whose agent serves. Default: true.
    pub remove_node_taints: Option<bool>,
    /// Set the condition `NetworkUnavailable` of nodes whose agent serves to False. Default: true.
    pub set_node_network_status: Option<bool>,
}

/// `agent`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawAgent {
    /// For how long a released address is not given to another owner while others are free. Default: 30s.
    #[schemars(schema_with = "duration")]
    pub address_cooling: Option<String>,
    /// For how long a pod waits for an address when none is free but more may come. Default: 10s.
    #[schemars(schema_with = "duration")]
    pub add_wait: Option<String>,
}

/// `eni`: Cilium's keys, known so that they are not taken for typing errors.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawEni {
    /// Whether mode eni is meant.
    pub enabled: Option<bool>,
    /// Ask for /28 prefixes in place of addresses.
    pub aws_enable_prefix_delegation: Option<bool>,
    /// Give addresses back that are not needed.
    #[serde(rename = "awsReleaseExcessIPs")]
    pub aws_release_excess_ips: Option<bool>,
    /// Another endpoint of the EC2 API.
    #[serde(rename = "ec2APIEndpoint")]
    pub ec2_api_endpoint: Option<String>,
    /// Tags of the interfaces that are created.
    pub eni_tags: Option<BTreeMap<String, serde_json::Value>>,
    /// How often detached interfaces are looked for.
    pub gc_interval: Option<String>,
    /// Tags of the interfaces that may be removed when detached.
    pub gc_tags: Option<BTreeMap<String, serde_json::Value>>,
    /// Role of the operator's service account.
    pub iam_role: Option<String>,
    /// Only instances with these tags.
    pub instance_tags_filter: Option<Vec<String>>,
    /// Only these subnets.
    #[serde(rename = "subnetIDsFilter")]
    pub subnet_ids_filter: Option<Vec<String>>,
    /// Only subnets with these tags.
    pub subnet_tags_filter: Option<Vec<String>>,
    /// What a node asks for.
    pub node_spec: RawEniNodeSpec,
}

/// `eni.nodeSpec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawEniNodeSpec {
    /// The first interface whose addresses pods get.
    #[schemars(range(min = 0))]
    pub first_interface_index: Option<i64>,
    /// Subnets of new interfaces.
    #[serde(rename = "subnetIDs")]
    pub subnet_ids: Option<Vec<String>>,
    /// Tags of the subnets of new interfaces.
    pub subnet_tags: Option<Vec<String>>,
    /// Security groups of new interfaces.
    pub security_groups: Option<Vec<String>>,
    /// Tags of the security groups of new interfaces.
    pub security_group_tags: Option<Vec<String>>,
    /// Interfaces with these tags are left alone.
    pub exclude_interface_tags: Option<Vec<String>>,
    /// Give the primary address of an interface to pods, too.
    pub use_primary_address: Option<bool>,
    /// No prefixes on this node.
    pub disable_prefix_delegation: Option<bool>,
    /// Remove interfaces with the instance.
    pub delete_on_termination: Option<bool>,
}

/// `azure`: Cilium's keys, known so that they are not taken for typing errors.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawAzure {
    /// Whether mode azure is meant.
    pub enabled: Option<bool>,
    /// Resource group of the nodes.
    pub resource_group: Option<String>,
    /// Subscription of the nodes.
    #[serde(rename = "subscriptionID")]
    pub subscription_id: Option<String>,
    /// Tenant of the operator's identity.
    #[serde(rename = "tenantID")]
    pub tenant_id: Option<String>,
    /// Client of the operator's identity.
    #[serde(rename = "clientID")]
    pub client_id: Option<String>,
    /// Secret of the operator's identity.
    pub client_secret: Option<String>,
    /// The operator's managed identity.
    #[serde(rename = "userAssignedIdentityID")]
    pub user_assigned_identity_id: Option<String>,
    /// Give the primary address of an interface to pods, too.
    pub use_primary_address: Option<bool>,
    /// What a node asks for.
    pub node_spec: RawAzureNodeSpec,
}

/// `azure.nodeSpec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawAzureNodeSpec {
    /// The interface whose addresses pods get.
    pub azure_interface_name: Option<String>,
}

/// CIDRs as Cilium users write them: a list, or one text with spaces or commas between.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum CidrList {
    /// `"10.0.0.0/8"` or `"10.0.0.0/8, 172.16.0.0/12"`
    Text(String),
    /// `["10.0.0.0/8", "172.16.0.0/12"]`
    List(Vec<String>),
}

impl CidrList {
    /// Each CIDR with what its key has to be followed by: nothing for a single text, else its index.
    pub fn entries(&self) -> Vec<(String, &str)> {
        let split = |text| str::split(text, [',', ' ', '\t', '\n']).filter(|cidr| !cidr.is_empty());
        match self {
            Self::Text(text) => split(text).map(|cidr| (String::new(), cidr)).collect(),
            Self::List(list) => {
                let entries = list.iter().enumerate();
                entries.flat_map(|(i, text)| split(text).map(move |cidr| (format!("[{i}]"), cidr))).collect()
            }
        }
    }
}

impl JsonSchema for CidrList {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CidrList".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        listed("[0-9a-fA-F.:]+/[0-9]{1,3}", &["10.0.0.0/8", "172.16.0.0/12"])
    }
}

/// Addresses, CIDRs and ranges.
fn ranges(_: &mut SchemaGenerator) -> Schema {
    listed("[0-9a-fA-F.:]+(/[0-9]{1,3}|-[0-9a-fA-F.:]+)?", &["10.0.0.0/20", "10.0.99.7", "10.0.200.10-10.0.201.20"])
}

/// A list, or one text with spaces or commas between.
fn listed(element: &str, example: &[&str]) -> Schema {
    const GAP: &str = "[, \\t\\n]";
    let text = format!("^{GAP}*({element}({GAP}+{element})*)?{GAP}*$");
    json_schema!({
        "type": ["array", "string", "null"],
        "items": { "type": "string", "pattern": text },
        "pattern": text,
        "examples": [example],
    })
}

/// A port, as a number or, as Helm's `--set-string` has it, as text.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Port {
    /// `6443`
    Number(i64),
    /// `"6443"`; the empty text means not written, as in Cilium's chart.
    Text(String),
}

fn port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["integer", "string", "null"],
        "minimum": 1,
        "maximum": 65535,
        "pattern": "^[0-9]*$",
        "examples": [6443],
    })
}

fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "null"],
        "pattern": "^([0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$",
        "examples": ["30s", "5m"],
    })
}

/// Helm refuses a mode that is not built with the list of those that are.
fn modes() -> serde_json::Value {
    Mode::BUILT.iter().map(|mode| Some(mode.label())).chain([None]).collect()
}
