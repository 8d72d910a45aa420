//! From what was written to what is meant. Defaults are given here and nowhere else.

use std::net::IpAddr;
use std::str::FromStr as _;
use std::time::Duration;

use cadastre_api::Mode;
use cadastre_core::Family;

use super::duration::{self, show};
use super::findings::Findings;
use super::problem::SettingsError;
use super::raw::{Port, RawAgent, RawSettings};
use super::shape::Shape;
use super::source::Tree;
use super::{
    AgentSettings, ApiServer, ClusterPoolSettings, CniSettings, KubernetesSettings, LogFormat, LogSettings,
    ModeSettings, OperatorSettings, Settings, cni, effect, health, labels, pools,
};

/// Connections to a pod outlive it by less than this: two minutes is how long Linux keeps retrying one by default.
const MIN_BLOCK_COOLING: Duration = Duration::from_mins(2);

/// The plugin gives an ADD up after 30 s, 3 s of which may go by before it reaches the agent; the agent must be first,
/// since it knows the reason.
const MAX_ADD_WAIT: Duration = Duration::from_secs(25);

/// Validates everything that was read, in which `known` may stand.
pub fn settings(tree: Tree, known: &Shape) -> Result<Settings, SettingsError> {
    let Tree { mut values, variables, problems } = tree;
    let mut findings = Findings { problems, warnings: Vec::new() };
    findings.problems.extend(known.check(&mut values));
    // What is known and no setting is the chart's own.
    drop(Shape::settings().check(&mut values));
    let raw = match serde_json::from_value::<RawSettings>(values.clone()) {
        Ok(raw) => raw,
        Err(error) => {
            // Only if schema and types disagree, which is a mistake of ours; the person still gets to see it.
            findings.problem("settings", error.to_string());
            RawSettings::default()
        }
    };
    let settings = Settings::gather(&raw, &values, &mut findings);
    match settings {
        Some(settings) if findings.problems.is_empty() => Ok(settings),
        _ => Err(findings.refusal(&variables)),
    }
}

impl Settings {
    /// `None` only with a problem among the findings.
    fn gather(raw: &RawSettings, values: &serde_json::Value, findings: &mut Findings) -> Option<Self> {
        let built = mode(raw, findings);
        let families = families(raw, built, findings);
        let cni = cni::settings(raw, findings);
        // Pools that make no sense are named whatever mode is meant.
        let checked = mode_settings(built.unwrap_or(Mode::ClusterPool), raw, &families, cni.as_ref(), findings);
        let mode = built.and(checked);
        let operator = operator(raw, findings);
        let agent = agent(&raw.agent, findings);
        let health = health::settings(&raw.health_endpoint, cni.as_ref(), findings);
        let api_server = api_server(raw, findings);
        let log = log(raw, findings);
        if let Some(built) = built {
            effect::without(built, &families, values, findings);
        }
        let warnings = findings.warnings.clone();
        let (operator, agent, cni, log) = (operator?, agent?, cni?, log?);
        Some(Self { mode: mode?, families, operator, agent, cni, health, api_server, log, warnings })
    }
}

/// The configured mode, if this release runs it.
fn mode(raw: &RawSettings, findings: &mut Findings) -> Option<Mode> {
    let Some(text) = &raw.ipam.mode else { return Some(Mode::default()) };
    let mode = findings.ok("ipam.mode", Mode::from_str(text))?;
    if !Mode::BUILT.contains(&mode) {
        let built = Mode::BUILT.map(Mode::label).join(" and ");
        findings.problem(
            "ipam.mode",
            format!("{text:?} is known but not built in this release; this release runs {built}"),
        );
        return None;
    }
    Some(mode)
}

/// The enabled families. In mode kubernetes, requiring a family's podCIDR enables it.
fn families(raw: &RawSettings, mode: Option<Mode>, findings: &mut Findings) -> Vec<Family> {
    let before = findings.problems.len();
    let mut families = Vec::new();
    for family in Family::ALL {
        let keys = FamilyKeys::of(family, raw);
        let required = mode == Some(Mode::Kubernetes) && keys.required == Some(true);
        if required && keys.enabled == Some(false) {
            findings
                .problem(keys.enabled_key, format!("false, but {} is true; remove one of the two", keys.required_key));
        }
        if required || keys.enabled.unwrap_or(family == Family::V4) {
            families.push(family);
        }
    }
    if families.is_empty() && findings.problems.len() == before {
        findings
            .problem("ipv4.enabled", "false, and IPv6 is not enabled either; set ipv4.enabled or ipv6.enabled to true");
    }
    families
}

/// The keys that exist once for each family.
struct FamilyKeys {
    enabled_key: &'static str,
    enabled: Option<bool>,
    required_key: &'static str,
    required: Option<bool>,
}

impl FamilyKeys {
    fn of(family: Family, raw: &RawSettings) -> Self {
        match family {
            Family::V4 => Self {
                enabled_key: "ipv4.enabled",
                enabled: raw.ipv4.enabled,
                required_key: "k8s.requireIPv4PodCIDR",
                required: raw.k8s.require_ipv4_pod_cidr,
            },
            Family::V6 => Self {
                enabled_key: "ipv6.enabled",
                enabled: raw.ipv6.enabled,
                required_key: "k8s.requireIPv6PodCIDR",
                required: raw.k8s.require_ipv6_pod_cidr,
            },
        }
    }
}

fn mode_settings(
    mode: Mode,
    raw: &RawSettings,
    families: &[Family],
    cni: Option<&CniSettings>,
    findings: &mut Findings,
) -> Option<ModeSettings> {
    match mode {
        Mode::Kubernetes => {
            let required = Family::ALL.into_iter().filter(|family| FamilyKeys::of(*family, raw).required == Some(true));
            Some(ModeSettings::Kubernetes(KubernetesSettings { required: required.collect() }))
        }
        Mode::ClusterPool => {
            let plugin = cni.and_then(|cni| cni.conflist.as_ref()).map(|conflist| conflist.interface_plugin);
            let pools = families.iter().map(|family| pools::family(*family, raw, plugin, findings)).collect::<Vec<_>>();
            let pools = pools.into_iter().collect::<Option<Vec<_>>>()?;
            let reserved = pools::reserved(raw.ipam.operator.cluster_pool_reserved.as_ref(), &pools, findings);
            Some(ModeSettings::ClusterPool(ClusterPoolSettings { pools, reserved }))
        }
        // Refused by `mode`.
        Mode::MultiPool | Mode::Eni | Mode::Azure => None,
    }
}

fn operator(raw: &RawSettings, findings: &mut Findings) -> Option<OperatorSettings> {
    let key = "operator.cooling";
    let block_cooling = duration(key, raw.operator.cooling.as_deref(), Duration::from_mins(5), findings)?;
    if block_cooling < MIN_BLOCK_COOLING {
        let (read, least) = (show(block_cooling), show(MIN_BLOCK_COOLING));
        let why = "others may still talk to the addresses of a deleted node";
        findings.problem(key, format!("{read} is too short, since {why}; write {least} or more"));
    }
    let node_selector = raw.ipam.operator.node_selector.clone().unwrap_or_default();
    for (key, value) in &node_selector {
        if let Some(what) = labels::problem(key, value) {
            findings.problem("ipam.operator.nodeSelector", what);
        }
    }
    Some(OperatorSettings {
        block_cooling,
        remove_node_taints: raw.operator.remove_node_taints.unwrap_or(true),
        set_node_network_status: raw.operator.set_node_network_status.unwrap_or(true),
        node_selector,
    })
}

fn agent(raw: &RawAgent, findings: &mut Findings) -> Option<AgentSettings> {
    let key = "agent.addWait";
    let cooling = raw.address_cooling.as_deref();
    let address_cooling = duration("agent.addressCooling", cooling, Duration::from_secs(30), findings);
    let add_wait = duration(key, raw.add_wait.as_deref(), Duration::from_secs(10), findings)?;
    if add_wait > MAX_ADD_WAIT {
        let (read, most) = (show(add_wait), show(MAX_ADD_WAIT));
        findings.problem(key, format!("{read} is longer than the plugin waits for the agent; write {most} or less"));
    }
    Some(AgentSettings { address_cooling: address_cooling?, add_wait })
}

fn duration(key: &str, text: Option<&str>, default: Duration, findings: &mut Findings) -> Option<Duration> {
    text.map_or(Some(default), |text| findings.ok(key, duration::parse(text)))
}

/// Empty texts are Cilium's defaults and mean not written.
fn api_server(raw: &RawSettings, findings: &mut Findings) -> Option<ApiServer> {
    let port = match &raw.k8s_service_port {
        Some(Port::Number(number)) => Some(number.to_string()),
        Some(Port::Text(text)) if !text.is_empty() => Some(text.clone()),
        _ => None,
    };
    let Some(host) = raw.k8s_service_host.as_ref().filter(|host| !host.is_empty()) else {
        if port.is_some() {
            findings.warn("k8sServicePort has no effect without k8sServiceHost");
        }
        return None;
    };
    if !is_host(host) {
        let what = format!("{host:?} is not a host; write a name or an address, without scheme and port");
        findings.problem("k8sServiceHost", what);
    }
    let Some(port) = port else {
        findings
            .problem("k8sServicePort", "not written, but k8sServiceHost is; write the API server's port, such as 6443");
        return None;
    };
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Some(ApiServer { host: host.clone(), port }),
        _ => {
            findings.problem("k8sServicePort", format!("{port} is not a port; write a number from 1 to 65535"));
            None
        }
    }
}

/// `auto` is Cilium's wish that its chart look the address up, which ours does not.
fn is_host(host: &str) -> bool {
    let is_name = host.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    host != "auto" && (is_name || host.parse::<IpAddr>().is_ok())
}

fn log(raw: &RawSettings, findings: &mut Findings) -> Option<LogSettings> {
    let level = match raw.log_level.as_deref().unwrap_or("info") {
        "error" => Some(tracing::Level::ERROR),
        "warn" => Some(tracing::Level::WARN),
        "info" => Some(tracing::Level::INFO),
        "debug" => Some(tracing::Level::DEBUG),
        "trace" => Some(tracing::Level::TRACE),
        text => {
            findings.problem("logLevel", format!("{text:?} is no level; one of error, warn, info, debug, trace is"));
            None
        }
    };
    let format = match raw.log_format.as_deref().unwrap_or("text") {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        text => {
            findings.problem("logFormat", format!("{text:?} is no format; one of text, json is"));
            None
        }
    };
    Some(LogSettings { level: level?, format: format? })
}
