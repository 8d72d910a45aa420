//! A Pod as the audits of operator and agent see it: one rule says which Pods have addresses of their own.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// One Pod that was given to a node, has a network of its own, and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSeen {
    /// `namespace/name`
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// Those of its status.
    pub addresses: Vec<IpAddr>,
}

impl PodSeen {
    /// `None` for a Pod that is none of these.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if ended || spec.host_network == Some(true) {
            return None;
        }
        Some(Self {
            name: format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
            node: spec.node_name.clone()?,
            addresses: status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn pods_of_the_nodes_network_and_those_that_ended_have_no_addresses_of_their_own() {
        let seen = |spec: Value, phase: &str| {
            let status = json!({"phase": phase, "podIPs": [{"ip": "10.0.1.7"}, {"ip": "fd00::7"}]});
            let pod = json!({"metadata": {"namespace": "x", "name": "a"}, "spec": spec, "status": status});
            PodSeen::of(&serde_json::from_value(pod).unwrap())
        };
        let spec = json!({"nodeName": "n1", "containers": []});
        let addresses = ["10.0.1.7", "fd00::7"].map(|address| address.parse().unwrap()).into();
        let expected = PodSeen { name: "x/a".into(), node: "n1".into(), addresses };
        assert_eq!(seen(spec.clone(), "Running"), Some(expected));
        assert_eq!(seen(spec.clone(), "Succeeded"), None);
        assert_eq!(seen(spec, "Failed"), None);
        assert_eq!(seen(json!({"nodeName": "n1", "hostNetwork": true, "containers": []}), "Running"), None);
        assert_eq!(seen(json!({"containers": []}), "Pending"), None, "on no node yet");
    }
}
