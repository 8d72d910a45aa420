//! The namespace that each agent attaches for itself, to find out which nodes' pods are reached from its own.

use super::cni::CniSettings;
use super::findings::Findings;
use super::raw::RawHealthEndpoint;

/// Where Cilium's health endpoint listens, so that what lets that through lets ours.
const PORT: u16 = 4240;

/// `healthEndpoint`, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// TCP port in the endpoint's own namespace.
    pub port: u16,
}

/// On where the agent writes the CNI configuration that the endpoint is attached by.
pub fn settings(raw: &RawHealthEndpoint, cni: Option<&CniSettings>, findings: &mut Findings) -> Option<HealthSettings> {
    let RawHealthEndpoint { enabled, port } = raw;
    let port = match port.map(u16::try_from) {
        None => PORT,
        Some(Ok(port)) if port > 0 => port,
        _ => {
            let written = port.unwrap_or_default();
            findings.problem("healthEndpoint.port", format!("{written} is not a port; write a number from 1 to 65535"));
            PORT
        }
    };
    let writes = cni?.conflist.is_some();
    if *enabled == Some(true) && !writes {
        let why = if cni?.bin_path.is_some() { "cni.customConf is true" } else { "cni.install is false" };
        findings.problem(
            "healthEndpoint.enabled",
            format!("true, but {why}, and agents attach it by the configuration that they write themselves; remove one of the two"),
        );
    }
    (writes && *enabled != Some(false)).then_some(HealthSettings { port })
}
