//! Keys that are known and written, but mean nothing in the configured mode: named, not refused, so that a values file
//! can be carried from Cilium or from mode to mode.

use cadastre_api::Mode;
use cadastre_core::Family;
use serde_json::Value;

use super::findings::Findings;
use super::shape;

/// Keys by how they begin, with the modes in which they have an effect. Keys that begin like none have it in all.
const EFFECTIVE: [(&str, &[Mode]); 11] = [
    ("ipam.clusterPool", &[Mode::ClusterPool]),
    ("ipam.operator.clusterPool", &[Mode::ClusterPool]),
    ("k8s.require", &[Mode::Kubernetes]),
    ("ipam.multiPoolPreAllocation", &[Mode::MultiPool]),
    ("ipam.operator.autoCreateCiliumPodIPPools", &[Mode::MultiPool]),
    ("ipam.operator.externalAPILimit", &[Mode::Eni, Mode::Azure]),
    ("ipam.nodeSpec", &[Mode::Eni, Mode::Azure]),
    ("eni.", &[Mode::Eni]),
    ("azure.", &[Mode::Azure]),
    ("ipam.ciliumNodeUpdateRate", &[]),
    ("ipam.installUplinkRoutesForDelegatedIPAM", &[]),
];

/// Warns of each written key without effect in `mode`, or of a family that is not enabled.
pub fn without(mode: Mode, families: &[Family], values: &Value, findings: &mut Findings) {
    for (key, value) in shape::leaves(values) {
        if is_unset(value) {
            continue;
        }
        let effective = EFFECTIVE.iter().find(|(prefix, _)| key.starts_with(prefix)).map(|(_, modes)| *modes);
        match effective {
            Some([]) => {
                findings.warn(format!("{key} has no effect: it is a setting of Cilium that Cadastre does not need"));
            }
            Some(modes) if !modes.contains(&mode) => {
                let modes = modes.iter().map(|mode| mode.label()).collect::<Vec<_>>().join(" and ");
                findings.warn(format!("{key} has no effect in mode {mode}: it is a setting of mode {modes}"));
            }
            Some(_) => disabled(&key, families, findings),
            None => {}
        }
    }
}

fn disabled(key: &str, families: &[Family], findings: &mut Findings) {
    for (family, part, enabling) in [(Family::V4, "PoolIPv4", "ipv4.enabled"), (Family::V6, "PoolIPv6", "ipv6.enabled")]
    {
        if key.contains(part) && !families.contains(&family) {
            findings.warn(format!("{key} has no effect: {family} is not enabled ({enabling})"));
        }
    }
}

/// What Cilium's values.yaml says by default where it says nothing.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(values) => values.is_empty(),
        _ => false,
    }
}
