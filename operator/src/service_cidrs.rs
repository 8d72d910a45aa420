//! What is read of the cluster's `ServiceCIDR`s: blocks that overlap one are never assigned. The engine wants all of them
//! at once, whatever changed.

use std::collections::BTreeMap;

use cadastre_core::Cidr;
use cadastre_engine::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::watch::{Change, Watched};

/// What is read of a `ServiceCIDR`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrView {
    #[serde(deserialize_with = "crate::lean::metadata")]
    metadata: ObjectMeta,
    spec: ServiceCidrSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceCidrSpec {
    cidrs: Vec<String>,
}

impl Watched for ServiceCidrView {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// All that were seen, by name.
#[derive(Debug, Default)]
pub struct ServiceCidrs(BTreeMap<String, Vec<Cidr>>);

impl ServiceCidrs {
    pub fn see(&mut self, object: ServiceCidrView) {
        let parsed = object.spec.cidrs.iter().filter_map(|text| {
            text.parse().inspect_err(|error| tracing::warn!(cidr = %text, %error, "service CIDR left out")).ok()
        });
        self.0.insert(object.metadata.name.unwrap_or_default(), parsed.collect());
    }

    pub fn event(&mut self, change: Change<ServiceCidrView>) -> Event {
        match change {
            Change::Seen(object) => self.see(object),
            Change::Gone { name, .. } => drop(self.0.remove(&name)),
            Change::Listed { .. } => {}
        }
        Event::ServiceCidrs(self.all())
    }

    pub fn all(&self) -> Vec<Cidr> {
        self.0.values().flatten().copied().collect()
    }
}
