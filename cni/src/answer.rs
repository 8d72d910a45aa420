//! How ADD is to be answered: interface plugins differ in what they make of an address.
//!
//! ```text
//! ipam.addressStyle   address               gateway   routes, unless the configuration lists its own
//! subnet (default)    10.0.2.48/24          yes       a default route, if the caller is one of those that want it
//! host                10.0.2.48/32          no        none
//! onlink              10.0.2.48/32          yes       to the gateway on the link (always), then a default route by it
//!        in IPv6      fd00::30/128          no        the same; a bridge that is the gateway gets it as by `subnet`
//! ```
//!
//! In IPv6 a route to what is on the link is one without gateway, and callers put the address's own gateway into those.
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
    gateways: Vec<IpAddr>,
    routes: Option<Vec<Route>>,
    pub dns: Map<String, Value>,
}

/// One address as it will be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    pub family: Family,
    pub address: String,
    pub gateway: Option<String>,
    /// Where routes lead, also if it is not said beside the address.
    router: Option<String>,
    /// The router is in no subnet of the interface.
    on_link: bool,
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
    /// The same, and makes a default route; ours beside it is one too many.
    DefaultGatewayBridge,
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
        let style = self.style_of(family);
        let router = match &given.gateway {
            Some(gateway) => Some(gateway.clone()),
            None => self.configured_gateway(family, style, &given.address)?,
        };
        if router.is_none() && (self.caller.needs_gateway() || style == Style::Onlink) {
            return Err(self.without_gateway(&given.address));
        }
        let alone = format!("{address}/{}", family.bits());
        let whole = given.address.clone();
        Ok(match style {
            Style::Subnet => Ip { family, address: whole, gateway: router.clone(), router, on_link: false },
            Style::Host => Ip { family, address: alone, gateway: None, router: None, on_link: false },
            Style::Onlink => {
                let gateway = router.clone().filter(|_| family.no_gateway().is_some());
                Ip { family, address: alone, gateway, router, on_link: true }
            }
        })
    }

    fn style_of(&self, family: Family) -> Style {
        // It invents a gateway for an address without one, which IPv6 needs to have none.
        let invents = self.caller.is_gateway_bridge() && family.no_gateway().is_none();
        if self.style == Style::Onlink && invents { Style::Subnet } else { self.style }
    }

    /// `ipam.gateway` of this family, if that is what the address can use.
    fn configured_gateway(&self, family: Family, style: Style, address: &str) -> Result<Option<String>, Error> {
        let Some(gateway) = self.gateways.iter().find(|gateway| Family::of(gateway) == family) else { return Ok(None) };
        if style == Style::Subnet && !address::is_neighbour(address, gateway) {
            let message = format!("gateway {gateway} of ipam.gateway is no other address of the subnet of {address}");
            let remedy = "use larger blocks, which have a gateway of their own, or ipam.addressStyle \"onlink\" unless the interface plugin is ptp";
            return Err(Error::new(code::BAD_CONFIG, message, remedy));
        }
        Ok(Some(gateway.to_string()))
    }

    fn without_gateway(&self, address: &str) -> Error {
        let who = match self.caller {
            Caller::Ptp => "ptp",
            Caller::GatewayBridge | Caller::DefaultGatewayBridge => "a bridge that is the gateway",
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
        let first = |family| ips.iter().filter(move |ip| ip.family == family).find_map(Ip::hop);
        let hops: Vec<(&Ip, &str)> = Family::BOTH.into_iter().filter_map(first).collect();
        let on_link = hops.iter().filter(|(ip, _)| ip.on_link).map(|(ip, router)| Route::on_link(ip.family, router));
        let out = || match self.style {
            Style::Onlink => hops.iter().map(|(ip, router)| Route::default_via(ip.family, router)).collect(),
            Style::Subnet if self.caller.wants_way_out() && !self.local => {
                hops.iter().map(|(ip, _)| Route::default(ip.family)).collect()
            }
            Style::Subnet | Style::Host => Vec::new(),
        };
        on_link.chain(self.routes.unwrap_or_else(out)).collect()
    }
}

impl Ip {
    fn hop(&self) -> Option<(&Self, &str)> {
        self.router.as_deref().map(|router| (self, router))
    }
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
            (Self::Host, Caller::GatewayBridge | Caller::DefaultGatewayBridge) => {
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
            "bridge" if set("isDefaultGateway") => Self::DefaultGatewayBridge,
            "bridge" if set("isGateway") => Self::GatewayBridge,
            "bridge" | "macvlan" | "ipvlan" | "vlan" | "host-device" => Self::Joiner,
            _ => Self::Other,
        }
    }

    fn needs_gateway(self) -> bool {
        self == Self::Ptp || self.is_gateway_bridge()
    }

    fn is_gateway_bridge(self) -> bool {
        matches!(self, Self::GatewayBridge | Self::DefaultGatewayBridge)
    }

    /// Those that make the gateway themselves, and those that ignore routes or are not known.
    fn wants_way_out(self) -> bool {
        !matches!(self, Self::Joiner | Self::DefaultGatewayBridge)
    }
}

/// `ipam.gateway` of a network without ranges: an address, or one of each family in a list.
fn gateways(ipam: &Map<String, Value>) -> Result<Vec<IpAddr>, Error> {
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
    Ok(addresses)
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
        Given { addresses: vec![address], again: false }
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
            (json!({ "type": "bridge", "isGateway": true, "isDefaultGateway": true }), false),
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
    fn a_link_of_ipv6_is_a_route_without_gateway() {
        let address = GivenAddress { address: "fd00::30/120".into(), gateway: Some("fd00::1".into()) };
        let given = Given { addresses: vec![address], again: false };
        let said = |document: Value| said(answer(&document, &json!({ "addressStyle": "onlink" })).unwrap(), &given);
        let out = json!({ "dst": "::/0", "gw": "fd00::1" });
        let routes = json!([{ "dst": "fd00::1/128", "scope": 253 }, out]);
        assert_eq!(said(json!({ "type": "macvlan" })), Ok(("fd00::30/128".into(), None, routes)));
        let bridge = json!({ "type": "bridge", "isGateway": true });
        assert_eq!(said(bridge), Ok(("fd00::30/120".into(), Some("fd00::1".into()), json!([out]))));
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
        let apart = |ipam: &Value| said(answer(&json!({ "type": "macvlan" }), ipam).unwrap(), &given(None));
        for gateway in ["10.0.3.1", "10.0.2.48"] {
            let message =
                format!("gateway {gateway} of ipam.gateway is no other address of the subnet of 10.0.2.48/24");
            assert_eq!(apart(&json!({ "gateway": gateway })), Err(message));
        }
        assert!(apart(&json!({ "gateway": "10.0.3.1", "addressStyle": "onlink" })).is_ok());
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
            again: false,
            addresses: vec![GivenAddress { address: address.into(), gateway: gateway.map(Into::into) }],
        };
        let none = Given { addresses: vec![], again: false };
        for bad in [none, of("10.0.2.48", None), of("10.0.2.48/24", Some("10.0.2.1/24"))] {
            let error = answer(&json!({}), &json!({})).unwrap().ips(&bad).unwrap_err();
            assert_eq!(error.failure.code, code::INTERNAL);
        }
    }
}
