//! A Node, trimmed while it comes in to what the engine reads: the rest is most of its 10 KB.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cadastre_api::NOT_READY_TAINT;
use cadastre_core::Cidr;
use cadastre_engine::NodeSeen;
use cadastre_runtime::resource_version;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// Values that many machines share, because their makers left the field empty: they identify none.
const PLACEHOLDERS: [&str; 8] = [
    "not settable",
    "not specified",
    "not applicable",
    "not present",
    "to be filled by o.e.m.",
    "default string",
    "unknown",
    "none",
];

/// A UUID that some boards of one maker all carry, in the two byte orders it is seen in.
const SHARED_UUIDS: [&str; 2] = ["03000200-0400-0500-0006-000700080009", "00020003-0004-0005-0006-000700080009"];

/// What fits into an entry of the ledger, whose words are set apart by spaces. A systemUUID has 36 characters, a machineID 32.
const LONGEST_ID: usize = 64;

/// Which nodes are given blocks. The same labels for every part of the process.
#[derive(Clone, Debug, Default)]
pub struct Selector(Arc<BTreeMap<String, String>>);

impl From<&BTreeMap<String, String>> for Selector {
    fn from(labels: &BTreeMap<String, String>) -> Self {
        Self(Arc::new(labels.clone()))
    }
}

impl Selector {
    /// Whether a node with these labels is one of them. Virtual and Windows nodes run no agent of ours, and are none.
    fn takes(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |key: &str, value: &str| labels.get(key).is_some_and(|label| label == value);
        let foreign = has("kubernetes.io/os", "windows") || has("type", "virtual-kubelet");
        !foreign && self.0.iter().all(|(key, value)| has(key, value))
    }
}

/// What is read of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeView {
    #[serde(deserialize_with = "crate::lean::metadata")]
    pub metadata: ObjectMeta,
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
    taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    addresses: Vec<Address>,
    conditions: Vec<NodeCondition>,
    node_info: NodeInfo,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeInfo {
    #[serde(rename = "systemUUID")]
    system_uuid: String,
    #[serde(rename = "machineID")]
    machine_id: String,
}

impl NodeView {
    /// What the engine is told, and the podCIDRs that are none.
    pub fn trim(self, selector: &Selector) -> (NodeSeen, Option<String>) {
        let excluded = !selector.takes(self.metadata.labels.as_ref().unwrap_or(&BTreeMap::new()));
        let Self { metadata, spec, status } = self;
        let (pod_cidrs, bad) = pod_cidrs(&spec);
        let version = resource_version(&metadata).unwrap_or(0);
        let name = metadata.name.unwrap_or_default();
        let complaint = (!bad.is_empty())
            .then(|| format!("Node {name}: {} in spec.podCIDRs is no CIDR, so it is left out", bad.join(", ")));
        let seen = NodeSeen {
            name,
            uid: metadata.uid.unwrap_or_default(),
            version,
            created: metadata.creation_timestamp.map_or(0, |time| time.0.as_second()),
            pod_cidrs,
            ready: status.says("Ready", "True"),
            network_available: status.says("NetworkUnavailable", "False"),
            not_ready_taint: spec.taints.iter().position(|taint| taint.key == NOT_READY_TAINT),
            internal: internal(&status.addresses),
            excluded,
            addresses: addresses(&status.addresses),
            machine: machine(status.node_info),
        };
        (seen, complaint)
    }
}

impl Status {
    fn says(&self, kind: &str, status: &str) -> bool {
        self.conditions.iter().any(|condition| condition.kind == kind && condition.status == status)
    }
}

/// `podCIDRs`, else `podCIDR`, and what of them is no CIDR.
fn pod_cidrs(spec: &Spec) -> (Vec<Cidr>, Vec<String>) {
    let single = (!spec.pod_cidr.is_empty()).then_some(&spec.pod_cidr);
    let texts = spec.pod_cidrs.iter().chain(single.filter(|_| spec.pod_cidrs.is_empty()));
    let mut bad = Vec::new();
    let good = texts.filter_map(|text| text.parse().map_err(|error| bad.push(format!("{text:?} ({error})"))).ok());
    (good.collect(), bad)
}

fn addresses(addresses: &[Address]) -> Vec<Cidr> {
    let of_the_machine = addresses.iter().filter(|address| matches!(&*address.kind, "InternalIP" | "ExternalIP"));
    of_the_machine.filter_map(|address| address.address.parse::<IpAddr>().ok()).map(Cidr::host).collect()
}

fn internal(addresses: &[Address]) -> Vec<IpAddr> {
    let internal = addresses.iter().filter(|address| address.kind == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).collect()
}

/// What tells one machine from another, if anything does.
fn machine(info: NodeInfo) -> String {
    let NodeInfo { system_uuid, machine_id } = info;
    [system_uuid, machine_id]
        .into_iter()
        .map(|id| id.trim().to_lowercase())
        .find(|id| identifies(id))
        .unwrap_or_default()
}

fn identifies(id: &str) -> bool {
    let mut digits = id.chars().filter(char::is_ascii_alphanumeric);
    // All zeros, all ones: one digit over and over.
    let uniform = digits.next().is_none_or(|first| digits.all(|digit| digit == first));
    let fits = id.len() <= LONGEST_ID && id.bytes().all(|byte| byte.is_ascii_graphic());
    !uniform && fits && !PLACEHOLDERS.contains(&id) && !SHARED_UUIDS.contains(&id)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn trim(node: Value) -> (NodeSeen, Option<String>) {
        serde_json::from_value::<NodeView>(node).unwrap().trim(&Selector::default())
    }

    #[test]
    fn keeps_what_the_engine_reads() {
        let (seen, complaint) = trim(json!({
            "metadata": {"name": "n1", "uid": "u1", "resourceVersion": "77", "creationTimestamp": "1970-01-01T00:01:40Z", "managedFields": [{}]},
            "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/120"],
                "taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "cadastre.io/agent-not-ready", "effect": "NoExecute"}]},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "192.168.0.7"}, {"type": "Hostname", "address": "n1"},
                    {"type": "ExternalIP", "address": "203.0.113.7"},
                ],
                "conditions": [{"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": "True"},
                    {"type": "NetworkUnavailable", "status": "False"}],
                "nodeInfo": {"systemUUID": "EC2D1C2A-0000-1111-2222-333344445555", "machineID": "m"},
                "images": [{"names": ["big"]}],
            },
        }));
        let expected = NodeSeen {
            name: "n1".into(),
            uid: "u1".into(),
            version: 77,
            created: 100,
            pod_cidrs: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/120".parse().unwrap()],
            machine: "ec2d1c2a-0000-1111-2222-333344445555".into(),
            addresses: vec!["192.168.0.7/32".parse().unwrap(), "203.0.113.7/32".parse().unwrap()],
            internal: vec!["192.168.0.7".parse().unwrap()],
            ready: true,
            not_ready_taint: Some(1),
            network_available: true,
            excluded: false,
        };
        assert_eq!((seen, complaint), (expected, None));
    }

    #[test]
    fn a_fresh_node_has_next_to_nothing() {
        let (seen, complaint) = trim(json!({"metadata": {"name": "n"}, "spec": {}}));
        assert_eq!((seen, complaint), (NodeSeen { name: "n".into(), ..NodeSeen::default() }, None));
    }

    #[test]
    fn a_single_pod_cidr_counts_and_a_bad_one_is_named() {
        let (seen, _) = trim(json!({"metadata": {"name": "n"}, "spec": {"podCIDR": "10.1.0.0/24"}}));
        assert_eq!(seen.pod_cidrs, ["10.1.0.0/24".parse().unwrap()]);
        let (seen, complaint) =
            trim(json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.1.0.0/33", "fd00::/64"]}}));
        assert_eq!(seen.pod_cidrs, ["fd00::/64".parse().unwrap()]);
        assert!(complaint.unwrap().starts_with("Node n: \"10.1.0.0/33\" ("));
    }

    #[test]
    fn placeholders_identify_no_machine() {
        let id = |system_uuid: &str, machine_id: &str| {
            machine(NodeInfo { system_uuid: system_uuid.into(), machine_id: machine_id.into() })
        };
        for placeholder in [
            "",
            " ",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "Not Settable",
            "To Be Filled By O.E.M.",
            "unknown",
            "03000200-0400-0500-0006-000700080009",
            "Board 7 of 12",
        ] {
            assert_eq!(id(placeholder, "abc1"), "abc1", "{placeholder:?}");
            assert_eq!(id(placeholder, ""), "", "{placeholder:?}");
        }
        assert_eq!(id("4C4C4544-0042", "abc1"), "4c4c4544-0042");
    }

    #[test]
    fn virtual_and_windows_nodes_are_excluded_and_those_a_selector_leaves_out() {
        let excluded = |selector: &[(&str, &str)], labels: Value| {
            let selector = selector.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let node = json!({"metadata": {"name": "n", "labels": labels}});
            serde_json::from_value::<NodeView>(node).unwrap().trim(&Selector::from(&selector)).0.excluded
        };
        assert!(excluded(&[], json!({"kubernetes.io/os": "windows"})));
        assert!(excluded(&[], json!({"type": "virtual-kubelet"})));
        assert!(!excluded(&[], json!({"kubernetes.io/os": "linux", "type": "kwok"})));
        assert!(!excluded(&[], Value::Null));
        let ours = [("pods", "ours"), ("zone", "")];
        assert!(!excluded(&ours, json!({"pods": "ours", "zone": "", "more": "yes"})));
        assert!(excluded(&ours, json!({"pods": "ours"})), "an empty value is not an absent label");
        assert!(excluded(&ours, json!({"pods": "theirs", "zone": ""})));
        assert!(excluded(&ours, json!({"pods": "ours", "zone": "", "kubernetes.io/os": "windows"})));
        assert!(excluded(&ours, Value::Null));
    }
}
