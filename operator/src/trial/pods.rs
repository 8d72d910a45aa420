//! The pods of the test: waits until each has its addresses.

use std::net::IpAddr;
use std::time::Duration;

use cadastre_runtime::DaemonSetName;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tokio::time::{Instant, sleep};

/// kubelet pulls an image meanwhile; `helm test` itself gives up after 5 minutes.
const PATIENCE: Duration = Duration::from_mins(2);
const BETWEEN: Duration = Duration::from_secs(1);

/// A pod that can be reached, if the network is as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TestPod {
    pub node: String,
    pub addresses: Vec<IpAddr>,
}

/// What became of the pods of the test.
pub(super) struct Pods {
    /// Nodes that are to have one; none while the controller of `DaemonSets` has not looked yet.
    pub nodes: Option<usize>,
    /// By node.
    pub running: Vec<TestPod>,
    /// Nodes without one, and why.
    pub without: Vec<(String, String)>,
}

/// Waits for them, and says every now and then how many there are.
pub(super) async fn with_addresses(client: &Client, name: &DaemonSetName) -> Result<Pods, kube::Error> {
    let until = Instant::now() + PATIENCE;
    let mut said = None;
    loop {
        let pods = look(client, name).await?;
        let (running, nodes) = (pods.running.len(), pods.nodes);
        let all = nodes.is_some_and(|nodes| running >= nodes) && pods.without.is_empty();
        if all || Instant::now() >= until {
            return Ok(pods);
        }
        if let Some(nodes) = nodes.filter(|_| said != Some(running)) {
            println!("waiting: {running} of {nodes} nodes have a pod of the test");
            said = Some(running);
        }
        sleep(BETWEEN).await;
    }
}

async fn look(client: &Client, name: &DaemonSetName) -> Result<Pods, kube::Error> {
    let DaemonSetName { namespace, name } = name;
    let daemon_set = Api::<DaemonSet>::namespaced(client.clone(), namespace).get(name).await?;
    let of_test = ListParams::default().labels(&selector(&daemon_set));
    let found = Api::<Pod>::namespaced(client.clone(), namespace).list(&of_test).await?.items;
    Ok(sort(desired(&daemon_set), &found))
}

fn desired(daemon_set: &DaemonSet) -> Option<usize> {
    let DaemonSetStatus { observed_generation, desired_number_scheduled, .. } = daemon_set.status.as_ref()?;
    observed_generation.and_then(|_| usize::try_from(*desired_number_scheduled).ok())
}

fn selector(daemon_set: &DaemonSet) -> String {
    let labels = daemon_set.spec.as_ref().and_then(|spec| spec.selector.match_labels.as_ref());
    let pairs = labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Those with addresses, by node, and those without.
fn sort(nodes: Option<usize>, found: &[Pod]) -> Pods {
    let (mut running, mut without) = (Vec::new(), Vec::new());
    for pod in found.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let status = pod.status.as_ref();
        let addresses = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
        let addresses: Vec<IpAddr> = addresses.filter_map(|address| address.ip.parse().ok()).collect();
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        match node {
            // One that crashes again and again is Running, too.
            Some(node) if is_ready(pod) && !addresses.is_empty() => running.push(TestPod { node, addresses }),
            node => {
                let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
                let why = format!("its pod is {phase} and not ready: see kubectl -n {namespace} describe pod {name}");
                without.push((node.unwrap_or_else(|| "no node".to_owned()), why));
            }
        }
    }
    running.sort();
    without.sort();
    Pods { nodes, running, without }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str, addresses: &[&str]) -> Pod {
        let ready = if phase == "Running" { "True" } else { "False" };
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": "x", "name": name},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "podIPs": ips, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_counts_once_it_runs_with_an_address() {
        let found = [
            pod("b", Some("n2"), "Running", &["10.0.2.3", "fd00::3"]),
            pod("a", Some("n1"), "Running", &["10.0.1.3"]),
            pod("c", Some("n3"), "Pending", &[]),
            pod("d", None, "Pending", &[]),
        ];
        let Pods { nodes, running, without } = sort(Some(4), &found);
        assert_eq!(
            (nodes, running.iter().map(|pod| pod.node.as_str()).collect::<Vec<_>>()),
            (Some(4), vec!["n1", "n2"])
        );
        assert_eq!(running[1].addresses.len(), 2);
        let remedy = "its pod is Pending and not ready: see kubectl -n x describe pod c".to_owned();
        assert_eq!(without.iter().find(|(node, _)| node == "n3"), Some(&("n3".to_owned(), remedy)));
        assert_eq!(without.len(), 2);
    }

    #[test]
    fn nothing_is_desired_before_the_controller_has_looked() {
        let daemon_set = |status: Value| -> DaemonSet {
            let selector = json!({"matchLabels": {"a": "b", "c": "d"}});
            serde_json::from_value(
                json!({"metadata": {}, "spec": {"selector": selector, "template": {}}, "status": status}),
            )
            .unwrap()
        };
        let counts = |status: &mut Value| {
            for key in ["currentNumberScheduled", "numberMisscheduled", "numberReady"] {
                status[key] = 0.into();
            }
        };
        let mut status = json!({"desiredNumberScheduled": 3});
        counts(&mut status);
        assert_eq!(desired(&daemon_set(status.clone())), None);
        status["observedGeneration"] = 1.into();
        assert_eq!(desired(&daemon_set(status.clone())), Some(3));
        assert_eq!(selector(&daemon_set(status)), "a=b,c=d");
    }
}
