//! What ADD prints: the agent's answer in the shape of the caller's version.

use cadastre_messages::Given;
use serde_json::{Map, Value};

use crate::answer::{Answer, Ip};
use crate::error::Error;
use crate::route::Route;
use crate::version::{Shape, Version};

pub fn render(given: &Given, answer: Answer) -> Result<Value, Error> {
    let version = answer.version;
    let ips = answer.ips(given)?;
    let dns = answer.dns.clone();
    let routes = answer.routes(&ips);
    let mut result = Map::from_iter([("cniVersion".to_owned(), Value::from(version.text()))]);
    match version.shape() {
        Shape::ByFamily => result.extend(by_family(version, ips, &routes)?),
        shape => result.extend(listed(shape, ips, &routes)),
    }
    // The older versions have it always.
    if version.shape() != Shape::Plain || !dns.is_empty() {
        result.insert("dns".into(), dns.into());
    }
    Ok(result.into())
}

fn objects<'a>(routes: impl Iterator<Item = &'a Route>) -> Vec<Value> {
    routes.map(|route| Value::Object(route.object.clone())).collect()
}

fn listed(shape: Shape, ips: Vec<Ip>, routes: &[Route]) -> Map<String, Value> {
    let entry = |ip: Ip| {
        let mut entry = Map::from_iter([("address".to_owned(), Value::from(ip.address))]);
        if shape == Shape::Marked {
            entry.insert("version".into(), ip.family.mark().into());
        }
        if let Some(gateway) = ip.gateway {
            entry.insert("gateway".into(), gateway.into());
        }
        Value::Object(entry)
    };
    let ips: Vec<Value> = ips.into_iter().map(entry).collect();
    let mut result = Map::from_iter([("ips".to_owned(), ips.into())]);
    if !routes.is_empty() {
        result.insert("routes".into(), objects(routes.iter()).into());
    }
    result
}

fn by_family(version: Version, ips: Vec<Ip>, routes: &[Route]) -> Result<Map<String, Value>, Error> {
    let mut result = Map::new();
    for ip in ips {
        let mut object = Map::from_iter([("ip".to_owned(), Value::from(ip.address))]);
        if let Some(gateway) = ip.gateway {
            object.insert("gateway".into(), gateway.into());
        }
        let own = objects(routes.iter().filter(|route| route.family == ip.family));
        if !own.is_empty() {
            object.insert("routes".into(), own.into());
        }
        if result.insert(ip.family.key().into(), object.into()).is_some() {
            return Err(version.no_room_for_two());
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use cadastre_messages::{GivenAddress, code};
    use serde_json::json;

    use super::*;
    use crate::environment::Verb;
    use crate::netconf::Netconf;

    fn given(addresses: &[(&str, Option<&str>)]) -> Given {
        let address = |(address, gateway): &(&str, Option<&str>)| GivenAddress {
            address: (*address).into(),
            gateway: gateway.map(Into::into),
        };
        Given { addresses: addresses.iter().map(address).collect(), again: false }
    }

    fn dual() -> Given {
        given(&[("10.0.2.48/24", Some("10.0.2.1")), ("fd00::30/120", Some("fd00::1"))])
    }

    fn render(version: Version, given: &Given, routes: &Value) -> Result<Value, Error> {
        let netconf = json!({ "cniVersion": version.text(), "name": "net", "ipam": { "routes": routes } });
        let netconf = Netconf::parse(Verb::Add, netconf.to_string().as_bytes()).unwrap();
        super::render(given, Answer::of(&netconf, false).unwrap())
    }

    #[test]
    fn each_version_has_its_shape() {
        let ways = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
        for version in Version::ALL {
            let cni = version.text();
            let expected = match cni {
                "0.1.0" | "0.2.0" => json!({
                    "cniVersion": cni,
                    "ip4": { "ip": "10.0.2.48/24", "gateway": "10.0.2.1", "routes": [{ "dst": "0.0.0.0/0" }] },
                    "ip6": { "ip": "fd00::30/120", "gateway": "fd00::1", "routes": [{ "dst": "::/0" }] },
                    "dns": {},
                }),
                "0.3.0" | "0.3.1" | "0.4.0" => json!({
                    "cniVersion": cni,
                    "ips": [
                        { "version": "4", "address": "10.0.2.48/24", "gateway": "10.0.2.1" },
                        { "version": "6", "address": "fd00::30/120", "gateway": "fd00::1" },
                    ],
                    "routes": ways,
                    "dns": {},
                }),
                _ => json!({
                    "cniVersion": cni,
                    "ips": [
                        { "address": "10.0.2.48/24", "gateway": "10.0.2.1" },
                        { "address": "fd00::30/120", "gateway": "fd00::1" },
                    ],
                    "routes": ways,
                }),
            };
            assert_eq!(render(version, &dual(), &Value::Null).unwrap(), expected, "{cni}");
        }
    }

    #[test]
    fn a_family_without_gateway_has_no_way_out() {
        let given = given(&[("10.0.2.48/32", None), ("fd00::30/120", Some("fd00::1"))]);
        let new = render(Version::V1_0_0, &given, &Value::Null).unwrap();
        assert_eq!(new["ips"][0], json!({ "address": "10.0.2.48/32" }));
        assert_eq!(new["routes"], json!([{ "dst": "::/0" }]));
        let old = render(Version::V0_2_0, &given, &Value::Null).unwrap();
        assert_eq!(old["ip4"], json!({ "ip": "10.0.2.48/32" }));
    }

    #[test]
    fn the_configurations_routes_replace_ours() {
        let own = json!([{ "dst": "192.168.0.0/16", "gw": "10.0.2.9" }, { "dst": "fd11::/16" }]);
        let new = render(Version::V1_1_0, &dual(), &own).unwrap();
        assert_eq!(new["routes"], own);
        let old = render(Version::V0_1_0, &dual(), &own).unwrap();
        assert_eq!(old["ip4"]["routes"], json!([{ "dst": "192.168.0.0/16", "gw": "10.0.2.9" }]));
        assert_eq!(old["ip6"]["routes"], json!([{ "dst": "fd11::/16" }]));
        for version in Version::ALL {
            let none = render(version, &dual(), &json!([])).unwrap().to_string();
            assert!(!none.contains("routes"), "{none}");
        }
    }

    #[test]
    fn c11_c12_old_versions_hold_one_address_of_each_family() {
        let two = given(&[("10.0.2.48/24", None), ("10.0.2.49/24", None)]);
        for version in Version::ALL {
            let old = version.shape() == Shape::ByFamily;
            let refused = render(version, &two, &Value::Null).map_err(|error| error.failure.code);
            assert_eq!(refused.err(), old.then_some(code::INCOMPATIBLE_VERSION), "{version:?}");
            assert!(render(version, &dual(), &Value::Null).is_ok());
        }
    }
}
