//! The node's own `IPAMNode`, whatever others wrote into it: what cannot be read of its status must not keep the agent from
//! its blocks, nor from saying it anew.

use cadastre_api::{IPAMNode, IPAMNodeSpec, IPAMNodeStatus};
use kube::core::{ApiResource, Object};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::Value;

/// One whose spec and status were not read yet.
pub type Raw = Object<Value, Value>;

/// All that a client can reach.
pub fn api(client: Client) -> Api<Raw> {
    Api::all_with(client, &ApiResource::erase::<IPAMNode>(&()))
}

/// `None` for what somebody spoiled; the operator puts it right.
pub fn read(raw: Raw) -> Option<IPAMNode> {
    let name = raw.name_any();
    let Raw { metadata, spec, status, types: _ } = raw;
    let status = status.map(|status| {
        IPAMNodeStatus::deserialize(status).unwrap_or_else(|error| {
            tracing::warn!(ipamnode = name, %error, "its status cannot be read; it is written anew");
            IPAMNodeStatus::default()
        })
    });
    let unreadable = |error: &serde_json::Error| {
        tracing::warn!(ipamnode = name, %error, "its spec cannot be read; what is known of it goes on");
    };
    let spec = IPAMNodeSpec::deserialize(spec).inspect_err(unreadable).ok()?;
    Some(IPAMNode { metadata, spec, status })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(spec: &Value, status: &Value) -> Option<IPAMNode> {
        let raw = json!({"metadata": {"name": "n1"}, "spec": spec, "status": status});
        super::read(serde_json::from_value(raw).unwrap())
    }

    #[test]
    fn a_spoiled_status_hides_no_blocks_and_a_spoiled_spec_is_none() {
        let spec = json!({"mode": "cluster-pool", "nodeUID": "u-1", "ipam": {}});
        let endpoint = |address: &str| json!({"healthEndpoint": {"addresses": [address], "port": 4240}});
        let well = read(&spec, &endpoint("10.0.2.9")).unwrap();
        assert!(well.status.unwrap().health_endpoint.is_some());
        let spoiled = read(&spec, &endpoint("nonsense")).unwrap();
        assert_eq!((spoiled.spec.node_uid.as_str(), spoiled.status), ("u-1", Some(IPAMNodeStatus::default())));
        assert_eq!(read(&spec, &Value::Null).unwrap().status, None);
        assert_eq!(read(&json!({"mode": 7}), &Value::Null), None);
    }
}
