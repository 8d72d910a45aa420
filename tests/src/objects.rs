//! Kubernetes objects in one line, so that a test is four lines long.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, Pod, PodSpec, Taint,
};
use kube::api::ObjectMeta;

/// A Node that is Ready and has no podCIDR.
pub fn node(name: &str) -> NodeBuilder {
    let (pod_cidrs, addresses, labels, taints) = (Vec::new(), Vec::new(), BTreeMap::new(), Vec::new());
    NodeBuilder { name: name.to_owned(), pod_cidrs, addresses, machine: None, labels, taints, ready: true }
}

/// See [`node`].
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    name: String,
    pod_cidrs: Vec<String>,
    addresses: Vec<String>,
    machine: Option<String>,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    ready: bool,
}

impl NodeBuilder {
    #[must_use]
    pub fn pod_cidrs<S: Into<String>>(mut self, cidrs: impl IntoIterator<Item = S>) -> Self {
        self.pod_cidrs = cidrs.into_iter().map(Into::into).collect();
        self
    }

    /// `status.addresses` of type `InternalIP`.
    #[must_use]
    pub fn addresses<S: Into<String>>(mut self, addresses: impl IntoIterator<Item = S>) -> Self {
        self.addresses = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// `status.nodeInfo.systemUUID` and `machineID`.
    #[must_use]
    pub fn machine(mut self, id: &str) -> Self {
        self.machine = Some(id.to_owned());
        self
    }

    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    #[must_use]
    pub fn taint(mut self, key: &str, effect: &str) -> Self {
        self.taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() });
        self
    }

    #[must_use]
    pub fn ready(mut self, ready: bool) -> Self {
        self.ready = ready;
        self
    }

    pub fn build(self) -> Node {
        let ready = NodeCondition {
            type_: "Ready".into(),
            status: if self.ready { "True" } else { "False" }.into(),
            ..NodeCondition::default()
        };
        let address = |address| NodeAddress { address, type_: "InternalIP".into() };
        let info = |id: String| NodeSystemInfo { system_uuid: id.clone(), machine_id: id, ..NodeSystemInfo::default() };
        let has_cidrs = !self.pod_cidrs.is_empty();
        Node {
            metadata: ObjectMeta { name: Some(self.name), labels: Some(self.labels), ..ObjectMeta::default() },
            spec: Some(NodeSpec {
                pod_cidr: self.pod_cidrs.first().cloned(),
                pod_cidrs: has_cidrs.then_some(self.pod_cidrs),
                taints: Some(self.taints),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                addresses: Some(self.addresses.into_iter().map(address).collect()),
                conditions: Some(vec![ready]),
                node_info: self.machine.map(info),
                ..NodeStatus::default()
            }),
        }
    }
}

impl From<NodeBuilder> for Node {
    fn from(builder: NodeBuilder) -> Self {
        builder.build()
    }
}

/// A Pod with one container, on no node yet.
pub fn pod(namespace: &str, name: &str) -> PodBuilder {
    PodBuilder { namespace: namespace.to_owned(), name: name.to_owned(), node: None, account: None }
}

/// See [`pod`].
#[derive(Clone, Debug)]
pub struct PodBuilder {
    namespace: String,
    name: String,
    node: Option<String>,
    account: Option<String>,
}

impl PodBuilder {
    #[must_use]
    pub fn on_node(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        self.account = Some(name.to_owned());
        self
    }

    pub fn build(self) -> Pod {
        let container =
            Container { name: "main".into(), image: Some("localhost/none:1".into()), ..Container::default() };
        Pod {
            metadata: ObjectMeta { name: Some(self.name), namespace: Some(self.namespace), ..ObjectMeta::default() },
            spec: Some(PodSpec {
                containers: vec![container],
                node_name: self.node,
                service_account_name: self.account,
                ..PodSpec::default()
            }),
            status: None,
        }
    }
}

impl From<PodBuilder> for Pod {
    fn from(builder: PodBuilder) -> Self {
        builder.build()
    }
}
