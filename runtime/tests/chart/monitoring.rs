//! What the chart says to Prometheus, Grafana, the scheduler and drains: off unless asked for, and then about our pods.

use serde_json::{Value, json};

use crate::helm::{chart, of_kind, render, repo, yaml};

const KINDS: [&str; 5] = ["Service", "ServiceMonitor", "PodMonitor", "PrometheusRule", "NetworkPolicy"];

fn everything() -> Value {
    json!({
        "operator": { "prometheus": { "serviceMonitor": { "enabled": true, "labels": { "release": "p" } } } },
        "agent": { "prometheus": { "podMonitor": { "enabled": true, "interval": "10s" }, "metricsService": true } },
        "prometheusRule": { "enabled": true },
        "dashboards": { "enabled": true, "namespace": "grafana", "annotations": { "folder": "IPAM" } },
        "networkPolicy": { "enabled": true, "from": [{ "podSelector": {} }] },
    })
}

/// Whether `labels` has all that `selector` wants.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().unwrap();
    !wanted.is_empty() && wanted.iter().all(|(key, value)| labels[key] == *value)
}

/// The only one of this kind that stays: what `helm test` makes does not.
fn workload(values: &Value, kind: &str) -> Value {
    let stays = |object: &Value| object["metadata"]["annotations"]["helm.sh/hook"].is_null();
    let all: Vec<Value> = of_kind(values, kind).into_iter().filter(stays).collect();
    assert_eq!(all.len(), 1, "{kind}");
    all[0].clone()
}

#[test]
fn nothing_of_it_is_there_unless_asked_for() {
    for kind in KINDS {
        assert_eq!(of_kind(&json!({}), kind), [Value::Null; 0], "{kind}");
    }
    let maps = of_kind(&json!({}), "ConfigMap");
    assert_eq!(maps.len(), 1, "the settings alone: {maps:?}");
}

#[test]
fn monitors_find_our_pods_by_the_port_that_they_have() {
    let values = everything();
    let operator = &workload(&values, "Deployment")["spec"]["template"];
    let agent = &workload(&values, "DaemonSet")["spec"]["template"];
    let services = of_kind(&values, "Service");
    assert_eq!(services.len(), 2);
    for (service, pod) in services.iter().zip([operator, agent]) {
        assert!(selects(&service["spec"]["selector"], &pod["metadata"]["labels"]), "{service}");
        assert_eq!(service["spec"]["ports"][0]["targetPort"], pod["spec"]["containers"][0]["ports"][0]["name"]);
        assert_eq!(service["spec"]["publishNotReadyAddresses"], true, "what is refused is never ready");
    }
    let monitor = workload(&values, "ServiceMonitor");
    assert!(selects(&monitor["spec"]["selector"]["matchLabels"], &services[0]["metadata"]["labels"]));
    assert!(!selects(&monitor["spec"]["selector"]["matchLabels"], &services[1]["metadata"]["labels"]));
    assert_eq!(monitor["metadata"]["labels"]["release"], "p");
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], services[0]["spec"]["ports"][0]["name"]);
    let pods = workload(&values, "PodMonitor");
    assert!(selects(&pods["spec"]["selector"]["matchLabels"], &agent["metadata"]["labels"]));
    assert!(!selects(&pods["spec"]["selector"]["matchLabels"], &operator["metadata"]["labels"]));
    let endpoint = &pods["spec"]["podMetricsEndpoints"][0];
    assert_eq!((&endpoint["port"], &endpoint["interval"]), (&json!("metrics"), &json!("10s")));
    assert_eq!(endpoint["relabelings"][0]["targetLabel"], "node");
    // Alerts go by the label `job`.
    let job = agent["metadata"]["labels"][pods["spec"]["jobLabel"].as_str().unwrap()].as_str().unwrap();
    assert!(chart("files/alerts.yaml").contains(&format!("up{{job=\"{job}\"}}")), "{job}");
}

#[test]
fn two_monitors_of_one_component_are_refused() {
    let both = json!({ "serviceMonitor": { "enabled": true }, "podMonitor": { "enabled": true } });
    let output = render(&json!({ "agent": { "prometheus": both } }), &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("agent.prometheus: serviceMonitor.enabled and"), "{said}");
}

#[test]
fn the_alerts_are_those_of_the_file_and_their_runbooks_exist() {
    let spec = &workload(&everything(), "PrometheusRule")["spec"];
    assert_eq!(*spec, yaml(&chart("files/alerts.yaml")));
    let guide = std::fs::read_to_string(repo().join("docs/usage/monitoring.md")).unwrap();
    let rules = spec["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let mut alerts = 0;
    for rule in rules {
        let alert = rule["alert"].as_str().unwrap();
        let said = |key: &str| rule["annotations"][key].as_str().unwrap_or_default().to_owned();
        assert!(!said("summary").is_empty() && !said("description").is_empty(), "{alert}");
        assert_eq!(said("runbook_url"), format!("docs/usage/monitoring.md#{}", alert.to_lowercase()));
        assert!(guide.contains(&format!("\n### {alert}\n")), "{alert} has no section in the guide");
        alerts += 1;
    }
    assert_eq!(guide.matches("\n### Cadastre").count(), alerts, "a section of no alert");

    let served = json!({ "prometheusRule": { "enabled": true, "runbookURL": "https://example.com/docs/" } });
    let text = workload(&served, "PrometheusRule").to_string();
    assert_eq!(text.matches("\"https://example.com/docs/monitoring.md#cadastre").count(), alerts);
}

#[test]
fn the_dashboard_is_where_the_sidecar_looks() {
    let maps = of_kind(&everything(), "ConfigMap");
    let map = maps.iter().find(|map| map["metadata"]["name"] == "cadastre-dashboard").unwrap();
    let meta = &map["metadata"];
    assert_eq!((&meta["namespace"], &meta["labels"]["grafana_dashboard"]), (&json!("grafana"), &json!("1")));
    assert_eq!(meta["annotations"]["folder"], "IPAM");
    let dashboard: Value = serde_json::from_str(map["data"]["cadastre.json"].as_str().unwrap()).unwrap();
    assert_eq!(dashboard, serde_json::from_str::<Value>(&chart("files/dashboard.json")).unwrap());
}

#[test]
fn a_network_policy_lets_scrapers_in() {
    let policies = of_kind(&everything(), "NetworkPolicy");
    assert_eq!(policies.len(), 2);
    for policy in policies {
        let ingress = &policy["spec"]["ingress"][0];
        assert_eq!(ingress["ports"], json!([{ "protocol": "TCP", "port": "metrics" }]));
        assert_eq!(ingress["from"], json!([{ "podSelector": {} }]));
    }
    let open = of_kind(&json!({ "networkPolicy": { "enabled": true } }), "NetworkPolicy");
    assert!(open.iter().all(|policy| policy["spec"]["ingress"][0].get("from").is_none()));
}

#[test]
fn the_server_can_listen_on_the_nodes_own_address() {
    let values = json!({ "operator": { "prometheus": { "host": "node" } } });
    let pod = &workload(&values, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    assert!(pod["args"].as_array().unwrap().contains(&json!("--listen=$(HOST_IP):9963")), "{}", pod["args"]);
    let env = pod["env"].as_array().unwrap().iter().find(|env| env["name"] == "HOST_IP").unwrap();
    assert_eq!(env["valueFrom"]["fieldRef"]["fieldPath"], "status.hostIP");
    // The address of the pod, which is the node's, is where kubelet asks of itself.
    assert!(pod["livenessProbe"]["httpGet"].get("host").is_none());
}

#[test]
fn replicas_spread_where_they_can_and_drains_take_one_at_a_time() {
    let values = json!({});
    let pod = &workload(&values, "Deployment")["spec"]["template"];
    let spread = pod["spec"]["topologySpreadConstraints"].as_array().unwrap();
    let keys: Vec<_> = spread.iter().map(|rule| rule["topologyKey"].as_str().unwrap()).collect();
    assert_eq!(keys, ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]);
    for rule in spread {
        assert_eq!(rule["whenUnsatisfiable"], "ScheduleAnyway", "one node must do");
        assert!(selects(&rule["labelSelector"]["matchLabels"], &pod["metadata"]["labels"]));
    }
    let own = json!({ "operator": { "topologySpreadConstraints": [] } });
    assert_eq!(workload(&own, "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"], json!([]));

    let budget = workload(&values, "PodDisruptionBudget");
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    assert!(selects(&budget["spec"]["selector"]["matchLabels"], &pod["metadata"]["labels"]));
    for none in [json!({ "replicas": 1 }), json!({ "podDisruptionBudget": { "enabled": false } })] {
        assert_eq!(of_kind(&json!({ "operator": none }), "PodDisruptionBudget"), [Value::Null; 0]);
    }
}
