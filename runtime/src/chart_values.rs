//! The values of the chart that no process reads: images, pods, resources. Only their schema is used.
//!
//! Together with `RawSettings` they are everything that values.yaml may hold; `generated` merges the two.

#![expect(dead_code, reason = "read by Helm's templates, not by us")]

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// Anything that Kubernetes defines, which the API server checks better than we could.
type Object = BTreeMap<String, serde_json::Value>;

/// Top level.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChartValues {
    /// The cluster half.
    pub operator: OperatorValues,
    /// The node half.
    pub agent: AgentValues,
    /// The custom resource definitions.
    pub crds: CrdsValues,
    /// Alerts.
    pub prometheus_rule: Option<RuleValues>,
    /// Grafana's dashboard.
    pub dashboards: Option<DashboardsValues>,
    /// Who may scrape.
    pub network_policy: Option<NetworkPolicyValues>,
    /// Names of the secrets for pulling images.
    pub image_pull_secrets: Option<Vec<Object>>,
    /// Values of a parent chart; not read.
    pub global: Option<Object>,
}

/// `operator`
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorValues {
    /// How many run.
    #[schemars(range(min = 0))]
    pub replicas: Option<i64>,
    /// How its replicas spread.
    pub topology_spread_constraints: Option<Vec<Object>>,
    /// How many of its replicas may be evicted at once.
    pub pod_disruption_budget: Option<BudgetValues>,
    /// What every workload has.
    #[serde(flatten)]
    pub workload: Workload,
}

/// `agent`
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentValues {
    /// What every workload has.
    #[serde(flatten)]
    pub workload: Workload,
}

/// What both workloads have.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// The image.
    pub image: ImageValues,
    /// Where metrics and health are served.
    pub prometheus: ListenValues,
    /// Its account.
    pub service_account: AccountValues,
    /// How a new version replaces the old one.
    pub update_strategy: Option<Object>,
    /// CPU and memory.
    pub resources: Option<Object>,
    /// Labels of the nodes it may run on.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints it tolerates.
    pub tolerations: Option<Vec<Object>>,
    /// Where it would rather run.
    pub affinity: Option<Object>,
    /// How important it is.
    pub priority_class_name: Option<String>,
    /// Annotations of its pods.
    pub pod_annotations: Option<BTreeMap<String, String>>,
    /// Labels of its pods.
    pub pod_labels: Option<BTreeMap<String, String>>,
    /// Security of its pods.
    pub pod_security_context: Option<Object>,
    /// Security of its container.
    pub security_context: Option<Object>,
    /// Arguments after those of the chart.
    pub extra_args: Option<Vec<String>>,
    /// Environment variables.
    pub extra_env: Option<Vec<Object>>,
}

/// `image`
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageValues {
    /// Where the image is pulled from.
    pub repository: Option<String>,
    /// Its tag; a number where YAML reads one.
    #[schemars(schema_with = "tag")]
    pub tag: Option<String>,
    /// Its digest, which then counts and not the tag.
    #[schemars(regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// When it is pulled.
    #[schemars(extend("enum" = ["Always", "IfNotPresent", "Never", null]))]
    pub pull_policy: Option<String>,
}

/// `prometheus`
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenValues {
    /// Address that metrics and health are served on, or `node`.
    pub host: Option<String>,
    /// Port of the same.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i64>,
    /// Whether there is a Service for scrapers.
    pub metrics_service: Option<bool>,
    /// Scraped through the Service by Prometheus Operator.
    pub service_monitor: Option<MonitorValues>,
    /// Scraped without a Service by Prometheus Operator.
    pub pod_monitor: Option<MonitorValues>,
}

/// `serviceMonitor`, `podMonitor`
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MonitorValues {
    /// Whether there is one.
    pub enabled: Option<bool>,
    /// Labels by which Prometheus finds it.
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Label whose value becomes the label `job`.
    pub job_label: Option<String>,
    /// Time between two scrapes.
    pub interval: Option<String>,
    /// When a scrape is given up.
    pub scrape_timeout: Option<String>,
    /// Changes of a target's labels.
    pub relabelings: Option<Vec<Object>>,
    /// Changes of what was scraped.
    pub metric_relabelings: Option<Vec<Object>>,
}

/// `prometheusRule`
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleValues {
    /// Whether there is one.
    pub enabled: Option<bool>,
    /// Labels by which Prometheus finds it.
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Where docs/usage of the project is served.
    #[serde(rename = "runbookURL")]
    pub runbook_url: Option<String>,
}

/// `dashboards`
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DashboardsValues {
    /// Whether there is one.
    pub enabled: Option<bool>,
    /// Label by which Grafana's sidecar finds it.
    pub label: Option<String>,
    /// That label's value.
    pub label_value: Option<String>,
    /// Namespace in which the sidecar looks.
    pub namespace: Option<String>,
    /// Annotations, such as the folder.
    pub annotations: Option<BTreeMap<String, String>>,
}

/// `networkPolicy`
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyValues {
    /// Whether there is one.
    pub enabled: Option<bool>,
    /// Who may scrape.
    pub from: Option<Vec<Object>>,
}

/// `podDisruptionBudget`
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetValues {
    /// Whether there is one, with several replicas.
    pub enabled: Option<bool>,
    /// How many may be away: a number, or a part in percent.
    #[schemars(schema_with = "number_or_percent")]
    pub max_unavailable: Option<String>,
}

/// `serviceAccount`
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccountValues {
    /// Whether the chart creates the account.
    pub create: Option<bool>,
    /// Its name.
    pub name: Option<String>,
    /// Annotations of the account.
    pub annotations: Option<BTreeMap<String, String>>,
}

/// `crds`
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CrdsValues {
    /// Whether the chart installs and upgrades them.
    pub install: Option<bool>,
    /// Whether they stay when the release is uninstalled.
    pub keep: Option<bool>,
}

fn tag(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "number", "null"] })
}

fn number_or_percent(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["integer", "string", "null"], "minimum": 0, "pattern": "^[0-9]+%$" })
}
