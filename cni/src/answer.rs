//! How ADD is to be answered: interface plugins differ in what they make of an address.
//!
//! ```text
//! ipam.addressStyle   address               gateway   routes, unless the configuration lists its own
//! subnet (default)    10.0.2.48/24          yes       a default route, if the caller is one of those that want it
//! host                10.0.2.48/32          no        none
//! onlink              10.0.2.48/32          yes       to the gateway on the link, then a default route by it
//! ```
//!
//! Networks with ranges of their own are answered as host-local answers: `subnet`, and no route that is not listed.

use std::net::IpAddr;

use cadastre_messages::{Given, GivenAddress, code};
use serde_json::{Map, Value};

use crate::address::{self, Family};
use crate::error::Error;
use crate::netconf::{Netconf, field};
use crate::resolver;
use crate::route::{self, Route};
use crate::version::Version;

/// What the configuration says of the answer, checked before anything is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub version: Version,
    style: Style,
    caller: Caller,
    /// The network has ranges of its own.
    local: bool,
    /// For addresses that come without one; at most one of each family.
    gateways: Vec<String>,
    routes: Option<Vec<Route>>,
    pub dns: Map<String, Value>,
}

/// One address as it will be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    pub family: Family,
    pub address: String,
    pub gateway: Option<String>,
}

/// `ipam.addressStyle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Subnet,
    Host,
    Onlink,
}

/// The interface plugin that asks, by what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// Puts the gateway on the host's end: no address without gateway, none without a subnet's route to replace.
    Ptp,
    /// Puts the gateway on the bridge, and invents one where there is none, which may be a pod's address.
    GatewayBridge,
    /// Joins a network that is there already, at whose gateway nobody may answer.
    Joiner,
    /// Nobody that is known to go wrong.
    Other,
}

impl Answer {
    pub fn of(netconf: &Netconf, local: bool) -> Result<Self, Error> {
        let version = netconf.version;
        let style = Style::of(&netconf.ipam)?;
        let caller = Caller::of(&netconf.document);
        style.suits(version, caller, local)?;
        let gateways = if local { Vec::new() } else { gateways(&netconf.ipam)? };
        let routes = route::of(version, &netconf.ipam)?;
        Ok(Self { version, style, caller, local, gateways, routes, dns: resolver::of(&netconf.ipam)? })
    }

    /// The addresses, each with its gateway as far as it is to have one.
    pub fn ips(&self, given: &Given) -> Result<Vec<Ip>, Error> {
        let ips = given.addresses.iter().map(|given| self.ip(given)).collect::<Result<Vec<_>, _>>()?;
        if ips.is_empty() { Err(broken("it holds no address")) } else { Ok(ips) }
    }

    fn ip(&self, given: &GivenAddress) -> Result<Ip, Error> {
        let Some(address) = address::in_cidr(&given.address) else {
            return Err(broken(&format!("{:?} is not an address with its prefix length", given.address)));
        };
        if let Some(gateway) = given.gateway.as_ref().filter(|gateway| gateway.parse::<IpAddr>().is_err()) {
            return Err(broken(&format!("gateway {gateway:?} is not an address")));
        }
        let family = Family::of(&address);
        let gateway = given.gateway.clone().or_else(|| self.gateway(family));
        if gateway.is_none() && (self.caller.needs_gateway() || self.style == Style::Onlink) {
            return Err(self.without_gateway(&given.address));
        }
        Ok(match self.style {
            Style::Subnet => Ip { family, address: given.address.clone(), gateway },
            Style::Host => Ip { family, address: format!("{address}/{}", family.bits()), gateway: None },
            Style::Onlink => Ip { family, address: format!("{address}/{}", family.bits()), gateway },
        })
    }

    fn gateway(&self, family: Family) -> Option<String> {
        let of_family = |gateway: &&String| gateway.parse().is_ok_and(|gateway| Family::of(&gateway) == family);
        self.gateways.iter().find(of_family).cloned()
    }

    fn without_gateway(&self, address: &str) -> Error {
        let who = match self.caller {
            Caller::Ptp => "ptp",
            Caller::GatewayBridge => "a bridge that is the gateway",
            Caller::Joiner | Caller::Other => "ipam.addressStyle \"onlink\"",
        };
        let remedy = if self.local {
            "name a gateway in the range that the address is of"
        } else {
            "name one in ipam.gateway, or use larger blocks: those of 8 addresses and more have one"
        };
        Error::new(code::BAD_CONFIG, format!("address {address} has no gateway, and {who} needs one"), remedy)
    }

    /// The routes, those to gateways first: others lead through them.
    pub fn routes(self, ips: &[Ip]) -> Vec<Route> {
        let gateways = || Family::BOTH.into_iter().filter_map(|family| Some((family, gateway(ips, family)?)));
        let ways_out = !self.local && self.caller.wants_way_out();
        match (self.style, self.routes) {
            (Style::Onlink, listed) => {
                let on_link = gateways().map(|(family, gateway)| Route::on_link(family, gateway));
                let out = || gateways().map(|(family, gateway)| Route::default_via(family, gateway)).collect();
                on_link.chain(listed.unwrap_or_else(out)).collect()
            }
            (_, Some(listed)) => listed,
            (Style::Subnet, None) if ways_out => gateways().map(|(family, _)| Route::default(family)).collect(),
            (Style::Subnet | Style::Host, None) => Vec::new(),
        }
    }
}

/// The first gateway of a family.
fn gateway(ips: &[Ip], family: Family) -> Option<&str> {
    ips.iter().filter(|ip| ip.family == family).find_map(|ip| ip.gateway.as_deref())
}

fn broken(what: &str) -> Error {
    let message = format!("the agent's answer to ADD cannot be used: {what}");
    Error::new(code::INTERNAL, message, "run plugin and agent of the same release on this node")
}

impl Style {
    const ALL: [(&str, Self); 3] = [("subnet", Self::Subnet), ("host", Self::Host), ("onlink", Self::Onlink)];

    fn of(ipam: &Map<String, Value>) -> Result<Self, Error> {
        let Some(value) = field(ipam, "addressStyle") else { return Ok(Self::Subnet) };
        let style = Self::ALL.into_iter().find(|(name, _)| value == name).map(|(_, style)| style);
        style.ok_or_else(|| {
            Error::of_key(
                "ipam.addressStyle",
                Some(value),
                "use one of subnet, host, onlink, or leave it out for subnet",
            )
        })
    }

    /// Refuses what is known to end in an interface plugin's error, or in a network that does not work.
    fn suits(self, version: Version, caller: Caller, local: bool) -> Result<(), Error> {
        let (why, remedy) = match (self, caller) {
            (Self::Subnet, _) => return Ok(()),
            _ if local => (
                "networks with ranges of their own give addresses with the prefix length of their subnet",
                "remove one of them",
            ),
            (_, Caller::Ptp) => ("ptp needs the prefix length of a subnet", "remove it, or use \"subnet\""),
            (Self::Host, Caller::GatewayBridge) => {
                ("it gives no gateway, and a bridge that is the gateway needs one", "use \"subnet\" or \"onlink\"")
            }
            (Self::Onlink, _) if version < Version::V1_1_0 => {
                ("it needs the routes of cniVersion 1.1.0", "set cniVersion in the network configuration to 1.1.0")
            }
            _ => return Ok(()),
        };
        let name = Self::ALL.into_iter().find(|(_, style)| *style == self).map_or("", |(name, _)| name);
        Err(Error::new(code::BAD_CONFIG, format!("ipam.addressStyle \"{name}\" does not suit: {why}"), remedy))
    }
}

impl Caller {
    fn of(document: &Map<String, Value>) -> Self {
        let set = |key| field(document, key) == Some(&Value::Bool(true));
        match field(document, "type").and_then(Value::as_str).unwrap_or_default() {
            "ptp" => Self::Ptp,
            "bridge" if set("isGateway") || set("isDefaultGateway") => Self::GatewayBridge,
            "bridge" | "macvlan" | "ipvlan" | "vlan" | "host-device" => Self::Joiner,
            _ => Self::Other,
        }
    }

    fn needs_gateway(self) -> bool {
        matches!(self, Self::Ptp | Self::GatewayBridge)
    }

    /// Those that make the gateway themselves, and those that ignore routes or are not known.
    fn wants_way_out(self) -> bool {
        !matches!(self, Self::Joiner)
    }
}

/// `ipam.gateway` of a network without ranges: an address, or one of each family in a list.
fn gateways(ipam: &Map<String, Value>) -> Result<Vec<String>, Error> {
    let Some(value) = field(ipam, "gateway").filter(|value| *value != "") else { return Ok(Vec::new()) };
    let wrong = || {
        let remedy =
            "name an address without prefix length, or a list of one IPv4 and one IPv6 address, or leave it out";
        Error::of_key("ipam.gateway", Some(value), remedy)
    };
    let listed = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let addresses = listed.iter().map(|value| value.as_str()?.parse::<IpAddr>().ok());
    let addresses: Vec<IpAddr> = addresses.collect::<Option<_>>().ok_or_else(wrong)?;
    let of = |family| addresses.iter().filter(|address| Family::of(address) == family).count();
    if Family::BOTH.into_iter().any(|family| of(family) > 1) {
        return Err(wrong());
    }
    Ok(addresses.iter().map(IpAddr::to_string).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::environment::Verb;

    fn answer(document: &Value, ipam: &Value) -> Result<Answer, (u32, String)> {
        let mut netconf = json!({ "cniVersion": "1.1.0", "name": "net", "ipam": ipam });
        netconf.as_object_mut().unwrap().extend(document.as_object().unwrap().clone());
        let netconf = Netconf::parse(Verb::Add, netconf.to_string().as_bytes()).unwrap();
        let local = netconf.ipam.contains_key("subnet");
        Answer::of(&netconf, local).map_err(|error| (error.failure.code, error.failure.msg))
    }

    fn given(gateway: Option<&str>) -> Given {
        let address = GivenAddress { address: "10.0.2.48/24".into(), gateway: gateway.map(Into::into) };
        Given { addresses: vec![address] }
    }

    /// Address, gateway and routes as they would be printed.
    fn said(answer: Answer, given: &Given) -> Result<(String, Option<String>, Value), String> {
        let ips = answer.ips(given).map_err(|error| error.failure.msg)?;
        let routes = answer.routes(&ips).into_iter().map(|route| Value::Object(route.object)).collect();
        let [ip] = ips.try_into().unwrap();
        Ok((ip.address, ip.gateway, routes))
    }

    #[test]
    fn a_default_route_follows_the_caller() {
        let table = [
            (json!({}), true),
            (json!({ "type": "ptp" }), true),
            (json!({ "type": "cilium-cni" }), true),
            (json!({ "type": "bridge", "isGateway": true }), true),
            (json!({ "type": "bridge", "isDefaultGateway": true }), true),
            (json!({ "type": "bridge", "isGateway": false }), false),
            (json!({ "type": "bridge" }), false),
            (json!({ "type": "macvlan" }), false),
            (json!({ "type": "ipvlan" }), false),
            (json!({ "type": "vlan" }), false),
            (json!({ "type": "host-device" }), false),
        ];
        let given = given(Some("10.0.2.1"));
        for (document, way_out) in table {
            let routes = if way_out { json!([{ "dst": "0.0.0.0/0" }]) } else { json!([]) };
            let expected = ("10.0.2.48/24".to_owned(), Some("10.0.2.1".to_owned()), routes);
            assert_eq!(said(answer(&document, &json!({})).unwrap(), &given), Ok(expected), "{document}");
            let local = answer(&document, &json!({ "subnet": "10.0.2.0/24" })).unwrap();
            assert_eq!(said(local, &given).unwrap().2, json!([]), "a local network, {document}");
            let listed = answer(&document, &json!({ "routes": [{ "dst": "10.0.0.0/8" }] })).unwrap();
            assert_eq!(said(listed, &given).unwrap().2, json!([{ "dst": "10.0.0.0/8" }]), "{document}");
        }
    }

    #[test]
    fn styles_differ_in_length_gateway_and_routes() {
        let given = given(Some("10.0.2.1"));
        let host = answer(&json!({}), &json!({ "addressStyle": "host" })).unwrap();
        assert_eq!(said(host, &given), Ok(("10.0.2.48/32".into(), None, json!([]))));
        let link = json!({ "dst": "10.0.2.1/32", "gw": "0.0.0.0", "scope": 253 });
        for (routes, other) in [
            (Value::Null, json!({ "dst": "0.0.0.0/0", "gw": "10.0.2.1" })),
            (json!([{ "dst": "10.0.0.0/8" }]), json!({ "dst": "10.0.0.0/8" })),
        ] {
            let ipam = json!({ "addressStyle": "onlink", "routes": routes });
            let expected = ("10.0.2.48/32".to_owned(), Some("10.0.2.1".to_owned()), json!([link, other]));
            assert_eq!(said(answer(&json!({ "type": "macvlan" }), &ipam).unwrap(), &given), Ok(expected));
        }
    }

    #[test]
    fn a_configured_gateway_is_for_addresses_without_one() {
        let both = json!({ "gateway": ["10.0.2.254", "fd00::1"] });
        for ipam in [json!({ "gateway": "10.0.2.254" }), both] {
            let gateway_of = |given| said(answer(&json!({}), &ipam).unwrap(), &given).unwrap().1;
            assert_eq!(gateway_of(given(None)), Some("10.0.2.254".into()));
            assert_eq!(gateway_of(given(Some("10.0.2.1"))), Some("10.0.2.1".into()));
        }
        assert_eq!(said(answer(&json!({}), &json!({ "gateway": "fd00::1" })).unwrap(), &given(None)).unwrap().1, None);
        for bad in [json!(7), json!("10.0.2.1/24"), json!(["10.0.2.1", "10.0.2.2"]), json!([""])] {
            let refused = answer(&json!({}), &json!({ "gateway": bad })).unwrap_err();
            assert_eq!(refused, (code::BAD_CONFIG, format!("ipam.gateway is {bad}")));
        }
    }

    #[test]
    fn who_needs_a_gateway_is_not_answered_without_one() {
        let onlink = json!({ "addressStyle": "onlink" });
        let table = [
            (json!({ "type": "ptp" }), json!({}), "ptp"),
            (json!({ "type": "bridge", "isGateway": true }), json!({}), "a bridge that is the gateway"),
            (json!({ "type": "macvlan" }), onlink, "ipam.addressStyle \"onlink\""),
        ];
        for (document, ipam, who) in table {
            let refused = said(answer(&document, &ipam).unwrap(), &given(None)).unwrap_err();
            assert_eq!(refused, format!("address 10.0.2.48/24 has no gateway, and {who} needs one"));
        }
    }

    #[test]
    fn styles_that_cannot_work_are_refused() {
        let host = json!({ "addressStyle": "host" });
        let onlink = json!({ "addressStyle": "onlink" });
        let gateway_bridge = json!({ "type": "bridge", "isGateway": true });
        for (document, ipam) in [
            (json!({ "type": "ptp" }), &host),
            (json!({ "type": "ptp" }), &onlink),
            (gateway_bridge.clone(), &host),
            (json!({ "cniVersion": "1.0.0" }), &onlink),
            (json!({}), &json!({ "addressStyle": "host", "subnet": "10.0.0.0/8" })),
            (json!({}), &json!({ "addressStyle": "link" })),
            (json!({}), &json!({ "addressStyle": 7 })),
        ] {
            let (code, message) = answer(&document, ipam).unwrap_err();
            assert!(code == code::BAD_CONFIG && message.contains("ipam.addressStyle"), "{message}");
        }
        assert!(answer(&gateway_bridge, &onlink).is_ok());
        assert!(answer(&json!({ "cniVersion": "0.3.1" }), &host).is_ok());
    }

    #[test]
    fn an_answer_that_cannot_be_used_is_an_error() {
        let of = |address: &str, gateway: Option<&str>| Given {
            addresses: vec![GivenAddress { address: address.into(), gateway: gateway.map(Into::into) }],
        };
        let none = Given { addresses: vec![] };
        for bad in [none, of("10.0.2.48", None), of("10.0.2.48/24", Some("10.0.2.1/24"))] {
            let error = answer(&json!({}), &json!({})).unwrap().ips(&bad).unwrap_err();
            assert_eq!(error.failure.code, code::INTERNAL);
        }
    }
}
