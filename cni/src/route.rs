//! Routes that the configuration asks for: checked before anything is asked of the agent, since an address that is given
//! and then cannot be printed would be held by nobody.

use std::net::IpAddr;

use cadastre_messages::code;
use serde_json::{Map, Value};

use crate::address::{self, Family};
use crate::error::Error;
use crate::netconf;
use crate::version::Version;

/// What 1.1.0 added; a reader of an older version may not know them.
const NUMBERS_OF_1_1_0: [&str; 5] = ["mtu", "advmss", "priority", "table", "scope"];

/// `RT_SCOPE_LINK`, rtnetlink(7).
const SCOPE_LINK: u8 = 253;

/// One route, in the result's own shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub family: Family,
    pub object: Map<String, Value>,
}

impl Route {
    /// To everywhere; the interface plugin sends it through the address's gateway.
    pub fn default(family: Family) -> Self {
        let object = Map::from_iter([("dst".to_owned(), family.everywhere().into())]);
        Self { family, object }
    }

    /// To everywhere, by a gateway of its own.
    pub fn default_via(family: Family, gateway: &str) -> Self {
        let mut route = Self::default(family);
        route.object.insert("gw".into(), gateway.into());
        route
    }

    /// To a gateway that lies in no subnet of the interface: it is on the same link all the same.
    pub fn on_link(family: Family, gateway: &str) -> Self {
        let destination = format!("{gateway}/{}", family.bits());
        let mut object =
            Map::from_iter([("dst".to_owned(), destination.into()), ("scope".to_owned(), SCOPE_LINK.into())]);
        object.extend(family.no_gateway().map(|none| ("gw".to_owned(), none.into())));
        Self { family, object }
    }

    fn parse(version: Version, at: usize, value: &Value) -> Result<Self, Error> {
        let field = |key: &str| value.as_object().and_then(|route| netconf::field(route, key));
        let wrong = |key: &str, remedy: &str| Error::of_key(&format!("ipam.routes[{at}].{key}"), field(key), remedy);
        let destination = field("dst").and_then(Value::as_str).unwrap_or_default();
        let Some(network) = address::in_cidr(destination) else {
            return Err(wrong("dst", "name a destination as a CIDR, such as \"0.0.0.0/0\" or \"fd00::/8\""));
        };
        let mut object = Map::from_iter([("dst".to_owned(), destination.into())]);
        if let Some(gateway) = field("gw") {
            if gateway.as_str().is_none_or(|text| text.parse::<IpAddr>().is_err()) {
                return Err(wrong("gw", "name the gateway as an address without prefix length, or leave gw out"));
            }
            object.insert("gw".into(), gateway.clone());
        }
        for key in NUMBERS_OF_1_1_0.into_iter().filter(|_| version >= Version::V1_1_0) {
            let Some(number) = field(key) else { continue };
            if !number.is_u64() {
                return Err(wrong(key, "write it as a whole number, or leave it out"));
            }
            object.insert(key.into(), number.clone());
        }
        Ok(Self { family: Family::of(&network), object })
    }
}

/// `ipam.routes`; `None` if the configuration leaves the choice to us.
pub fn of(version: Version, ipam: &Map<String, Value>) -> Result<Option<Vec<Route>>, Error> {
    let Some(listed) = netconf::field(ipam, "routes") else { return Ok(None) };
    let Some(routes) = listed.as_array() else {
        let remedy = "write [{\"dst\": \"0.0.0.0/0\"}], or leave it out";
        return Err(Error::new(code::BAD_CONFIG, "ipam.routes is not a list", remedy));
    };
    routes.iter().enumerate().map(|(at, value)| Route::parse(version, at, value)).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(version: Version, routes: Value) -> Result<Option<Vec<Route>>, Error> {
        of(version, &Map::from_iter([("routes".to_owned(), routes)]))
    }

    #[test]
    fn absent_and_empty_differ() {
        assert_eq!(of(Version::V1_1_0, &Map::new()), Ok(None));
        assert_eq!(parse(Version::V1_1_0, Value::Null), Ok(None));
        assert_eq!(parse(Version::V1_1_0, json!([])), Ok(Some(vec![])));
    }

    #[test]
    fn routes_pass_with_what_their_version_knows() {
        let route = json!([{ "dst": "fd00::/8", "gw": "fd00::1", "mtu": 1400, "scope": 0, "colour": "red" }]);
        let new = parse(Version::V1_1_0, route.clone()).unwrap().unwrap();
        assert_eq!(
            Value::from(new[0].object.clone()),
            json!({ "dst": "fd00::/8", "gw": "fd00::1", "mtu": 1400, "scope": 0 })
        );
        let old = parse(Version::V1_0_0, route).unwrap().unwrap();
        assert_eq!(Value::from(old[0].object.clone()), json!({ "dst": "fd00::/8", "gw": "fd00::1" }));
        assert_eq!(old[0].family, Family::V6);
    }

    #[test]
    fn a_wrong_route_is_named_by_its_place() {
        let table = [
            (json!({}), "ipam.routes is not a list"),
            (json!(["0.0.0.0/0"]), "ipam.routes[0].dst is missing"),
            (json!([{ "dst": "0.0.0.0/0" }, { "dst": "10.0.0.0" }]), "ipam.routes[1].dst is \"10.0.0.0\""),
            (json!([{ "dst": 1 }]), "ipam.routes[0].dst is 1"),
            (json!([{ "dst": "::/0", "gw": "fd00::1/64" }]), "ipam.routes[0].gw is \"fd00::1/64\""),
            (json!([{ "dst": "::/0", "mtu": "big" }]), "ipam.routes[0].mtu is \"big\""),
        ];
        for (routes, message) in table {
            let error = parse(Version::V1_1_0, routes).unwrap_err();
            assert_eq!((error.failure.code, error.failure.msg.as_str()), (code::BAD_CONFIG, message));
        }
    }
}
