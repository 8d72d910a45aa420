//! Addresses that no pod may have, because somebody else has them: those of services and of the nodes themselves.

use std::collections::BTreeMap;

use cadastre_core::{Cidr, CidrMap};

use crate::plan::Shortage;

/// What a change fences from now on, and what it no longer does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FenceChange {
    /// Nodes whose podCIDRs overlap one of these may not be served any more, if they are not yet.
    pub rose: Vec<Cidr>,
    /// Nodes that waited for one of these can be.
    pub fell: Vec<Cidr>,
}

impl FenceChange {
    fn between(before: &[Cidr], now: &[Cidr]) -> Self {
        let without = |all: &[Cidr], others: &[Cidr]| all.iter().filter(|one| !others.contains(one)).copied().collect();
        Self { rose: without(now, before), fell: without(before, now) }
    }
}

/// What is fenced now. Found by overlap in time that does not grow with the number of Nodes.
#[derive(Clone, Debug, Default)]
pub struct Fences {
    services: Vec<Cidr>,
    /// Each address, as a CIDR of that alone, with the Nodes that have it.
    addresses: CidrMap<String>,
    nodes: BTreeMap<String, Vec<Cidr>>,
}

impl Fences {
    /// The cluster's service CIDRs, in place of those before.
    pub fn set_services(&mut self, cidrs: Vec<Cidr>) -> FenceChange {
        let change = FenceChange::between(&self.services, &cidrs);
        self.services = cidrs;
        change
    }

    /// A Node's addresses, in place of those before; none if it is gone.
    pub fn set_node(&mut self, name: &str, addresses: &[Cidr]) -> FenceChange {
        let change = FenceChange::between(self.nodes.get(name).map_or(&[], Vec::as_slice), addresses);
        for address in &change.fell {
            self.addresses.remove(address, &name.to_owned());
        }
        for address in &change.rose {
            self.addresses.insert(*address, name.to_owned());
        }
        if addresses.is_empty() {
            self.nodes.remove(name);
        } else {
            self.nodes.insert(name.to_owned(), addresses.to_vec());
        }
        change
    }

    /// Why a podCIDR cannot be served, if it cannot.
    pub(crate) fn shortage(&self, cidr: &Cidr) -> Option<Shortage> {
        let service = self.services.iter().find(|service| service.overlaps(cidr));
        let service = service.map(|service| (*service, "the service CIDR".to_owned()));
        let address = || {
            let (address, node) = self.addresses.overlapping(cidr).next()?;
            Some((address, format!("the address of node {node},")))
        };
        let (fence, whose) = service.or_else(address)?;
        Some(Shortage::Fenced { cidr: *cidr, fence, whose })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn services_and_addresses_fence_while_they_are_there() {
        let mut fences = Fences::default();
        let said = |fences: &Fences, text: &str| fences.shortage(&cidr(text)).map(|shortage| shortage.to_string());
        let services = [cidr("10.96.0.0/16"), cidr("fd96::/112")];
        assert_eq!(fences.set_services(services.to_vec()), FenceChange { rose: services.to_vec(), fell: vec![] });
        assert_eq!(fences.set_services(services.to_vec()), FenceChange::default());
        for name in ["n1", "n2"] {
            assert_eq!(fences.set_node(name, &[cidr("192.168.0.7/32")]).rose, [cidr("192.168.0.7/32")]);
        }
        assert_eq!(fences.set_node("n1", &[cidr("192.168.0.7/32")]), FenceChange::default());
        for (pod_cidr, fence) in [
            ("10.96.3.0/24", "overlaps the service CIDR 10.96.0.0/16"),
            ("10.0.0.0/8", "overlaps the service CIDR 10.96.0.0/16"),
            ("fd96::/64", "overlaps the service CIDR fd96::/112"),
            ("192.168.0.0/24", "overlaps the address of node n1, 192.168.0.7/32"),
            ("192.168.0.7/32", "overlaps the address of node n1, 192.168.0.7/32"),
        ] {
            assert!(said(&fences, pod_cidr).unwrap().contains(fence), "{pod_cidr}: {:?}", said(&fences, pod_cidr));
        }
        for free in ["10.97.0.0/24", "192.168.1.0/24", "192.168.0.8/29", "fd00::/64"] {
            assert_eq!(said(&fences, free), None, "{free}");
        }
        assert_eq!(fences.set_node("n1", &[]).fell, [cidr("192.168.0.7/32")]);
        assert!(said(&fences, "192.168.0.0/24").unwrap().contains("node n2"));
        fences.set_node("n2", &[cidr("192.168.9.9/32")]);
        assert_eq!(said(&fences, "192.168.0.0/24"), None);
        fences.set_services(vec![]);
        assert_eq!(said(&fences, "10.96.3.0/24"), None);
    }
}
