//! What ADD prints: the agent's answer in the shape of the caller's version.

use cadastre_messages::{Given, GivenAddress, code};
use serde_json::{Map, Value, json};

use crate::address::{self, Family};
use crate::error::Error;
use crate::route::Route;
use crate::version::{Shape, Version};

/// One address of the answer, its family known.
struct Ip<'a> {
    family: Family,
    given: &'a GivenAddress,
}

/// `routes` are the configuration's; without them every family that has a gateway gets a way out.
pub fn render(version: Version, given: &Given, routes: Option<Vec<Route>>) -> Result<Value, Error> {
    let ips = given.addresses.iter().map(ip).collect::<Result<Vec<_>, _>>()?;
    if ips.is_empty() {
        return Err(broken("it holds no address"));
    }
    let routes = routes.unwrap_or_else(|| ways_out(&ips));
    match version.shape() {
        Shape::ByFamily => by_family(version, &ips, &routes),
        shape => Ok(listed(version, shape, &ips, &routes)),
    }
}

fn ip(given: &GivenAddress) -> Result<Ip<'_>, Error> {
    let Some(address) = address::in_cidr(&given.address) else {
        return Err(broken(&format!("{:?} is not an address with its prefix length", given.address)));
    };
    match given.gateway.as_deref() {
        Some(gateway) if gateway.parse::<std::net::IpAddr>().is_err() => {
            Err(broken(&format!("gateway {gateway:?} is not an address")))
        }
        _ => Ok(Ip { family: Family::of(&address), given }),
    }
}

fn broken(what: &str) -> Error {
    let message = format!("the agent's answer to ADD cannot be used: {what}");
    Error::new(code::INTERNAL, message, "run plugin and agent of the same release on this node")
}

fn ways_out(ips: &[Ip<'_>]) -> Vec<Route> {
    let has_gateway = |family: &Family| ips.iter().any(|ip| ip.family == *family && ip.given.gateway.is_some());
    Family::BOTH.into_iter().filter(has_gateway).map(Route::default).collect()
}

fn objects<'a>(routes: impl Iterator<Item = &'a Route>) -> Vec<Value> {
    routes.map(|route| Value::Object(route.object.clone())).collect()
}

fn listed(version: Version, shape: Shape, ips: &[Ip<'_>], routes: &[Route]) -> Value {
    let entry = |ip: &Ip<'_>| {
        let mut entry = Map::from_iter([("address".to_owned(), ip.given.address.as_str().into())]);
        if shape == Shape::Marked {
            entry.insert("version".into(), ip.family.mark().into());
        }
        if let Some(gateway) = &ip.given.gateway {
            entry.insert("gateway".into(), gateway.as_str().into());
        }
        Value::Object(entry)
    };
    let ips: Vec<Value> = ips.iter().map(entry).collect();
    let mut result = Map::from_iter([("cniVersion".to_owned(), version.text().into()), ("ips".to_owned(), ips.into())]);
    if !routes.is_empty() {
        result.insert("routes".into(), objects(routes.iter()).into());
    }
    if shape == Shape::Marked {
        result.insert("dns".into(), json!({}));
    }
    Value::Object(result)
}

fn by_family(version: Version, ips: &[Ip<'_>], routes: &[Route]) -> Result<Value, Error> {
    let mut result = Map::from_iter([("cniVersion".to_owned(), version.text().into()), ("dns".to_owned(), json!({}))]);
    for ip in ips {
        let mut object = Map::from_iter([("ip".to_owned(), ip.given.address.as_str().into())]);
        if let Some(gateway) = &ip.given.gateway {
            object.insert("gateway".into(), gateway.as_str().into());
        }
        let own = objects(routes.iter().filter(|route| route.family == ip.family));
        if !own.is_empty() {
            object.insert("routes".into(), own.into());
        }
        if result.insert(ip.family.key().into(), object.into()).is_some() {
            let message = format!("cniVersion {} has no room for two addresses of a family", version.text());
            let remedy = "set cniVersion in the network configuration to 0.3.0 or later";
            return Err(Error::new(code::INCOMPATIBLE_VERSION, message, remedy));
        }
    }
    Ok(Value::Object(result))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route;

    fn given(addresses: &[(&str, Option<&str>)]) -> Given {
        let address = |(address, gateway): &(&str, Option<&str>)| GivenAddress {
            address: (*address).into(),
            gateway: gateway.map(Into::into),
        };
        Given { addresses: addresses.iter().map(address).collect() }
    }

    fn dual() -> Given {
        given(&[("10.0.2.48/24", Some("10.0.2.1")), ("fd00::30/120", Some("fd00::1"))])
    }

    fn routes(routes: Value) -> Option<Vec<Route>> {
        route::of(Version::V1_1_0, &Map::from_iter([("routes".to_owned(), routes)])).unwrap()
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
            assert_eq!(render(version, &dual(), None).unwrap(), expected, "{cni}");
        }
    }

    #[test]
    fn a_family_without_gateway_has_no_way_out() {
        let given = given(&[("10.0.2.48/32", None), ("fd00::30/120", Some("fd00::1"))]);
        let new = render(Version::V1_0_0, &given, None).unwrap();
        assert_eq!(new["ips"][0], json!({ "address": "10.0.2.48/32" }));
        assert_eq!(new["routes"], json!([{ "dst": "::/0" }]));
        let old = render(Version::V0_2_0, &given, None).unwrap();
        assert_eq!(old["ip4"], json!({ "ip": "10.0.2.48/32" }));
    }

    #[test]
    fn the_configurations_routes_replace_ours() {
        let own = routes(json!([{ "dst": "192.168.0.0/16", "gw": "10.0.2.9" }, { "dst": "fd11::/16" }]));
        let new = render(Version::V1_1_0, &dual(), own.clone()).unwrap();
        assert_eq!(new["routes"], json!([{ "dst": "192.168.0.0/16", "gw": "10.0.2.9" }, { "dst": "fd11::/16" }]));
        let old = render(Version::V0_1_0, &dual(), own).unwrap();
        assert_eq!(old["ip4"]["routes"], json!([{ "dst": "192.168.0.0/16", "gw": "10.0.2.9" }]));
        assert_eq!(old["ip6"]["routes"], json!([{ "dst": "fd11::/16" }]));
        for version in Version::ALL {
            let none = render(version, &dual(), Some(vec![])).unwrap().to_string();
            assert!(!none.contains("routes"), "{none}");
        }
    }

    #[test]
    fn c11_c12_old_versions_hold_one_address_of_each_family() {
        let two = given(&[("10.0.2.48/24", None), ("10.0.2.49/24", None)]);
        for version in Version::ALL {
            let old = version.shape() == Shape::ByFamily;
            let refused = render(version, &two, None).map_err(|error| error.failure.code);
            assert_eq!(refused.err(), old.then_some(code::INCOMPATIBLE_VERSION), "{version:?}");
            assert!(render(version, &dual(), None).is_ok());
        }
    }

    #[test]
    fn an_answer_that_cannot_be_used_is_an_error() {
        for bad in [given(&[]), given(&[("10.0.2.48", None)]), given(&[("10.0.2.48/24", Some("10.0.2.1/24"))])] {
            assert_eq!(render(Version::V1_1_0, &bad, None).unwrap_err().failure.code, code::INTERNAL);
        }
    }
}
