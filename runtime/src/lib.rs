//! What operator and agent both need and neither owns.
//!
//! ```text
//! file ─┐
//!       ├─▶ RawSettings ─▶ Settings ─▶ client (API server), logging
//! env  ─┘    every error at once
//! Readiness, Registry ─▶ server: /metrics /healthz /readyz
//! SIGTERM, SIGINT     ─▶ Shutdown
//! PodSeen, AuditVerdict: a Pod as audits see it, and how they end
//! DaemonSetName: NAMESPACE/NAME, as command lines have it
//! resource_version: the version of an object, as a number
//! RawSettings, ChartValues, CRD types ─▶ generated: values.schema.json, crds.yaml
//! ```

mod api_requests;
mod audit_verdict;
mod callers;
mod catalog;
mod causes;
mod chart_values;
mod client;
mod daemon_set;
mod generated;
mod logging;
mod pod_seen;
mod readiness;
mod resource_version;
mod retry_after;
mod server;
mod settings;
mod shutdown;

pub use api_requests::ApiRequests;
pub use audit_verdict::AuditVerdict;
pub use catalog::{Catalog, check_table};
pub use causes::with_causes;
pub use client::{ClientError, client, counted_client};
pub use daemon_set::DaemonSetName;
pub use generated::{GenerateError, crds_yaml, values_schema};
pub use logging::{LoggingError, init_logging};
pub use pod_seen::PodSeen;
pub use readiness::Readiness;
pub use resource_version::resource_version;
pub use server::{ServeError, Server, bind, listen_addr, serve};
pub use settings::{
    AgentSettings, ApiServer, ClusterPoolSettings, CniSettings, Conflist, HealthSettings, InterfacePlugin,
    KubernetesSettings, LogFormat, LogSettings, ModeSettings, OperatorSettings, PoolFamily, Problem, RawSettings,
    Settings, SettingsError,
};
pub use shutdown::{Shutdown, Trigger};
