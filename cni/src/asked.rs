//! Addresses that somebody asks for, wherever the asking may stand; all of it counts, as in host-local.
//!
//! ```text
//! CNI_ARGS         IP=10.0.2.7,fd00::7
//! args.cni         ips: [ … ]                                  of the network configuration
//! runtimeConfig    ips: [ … ]                                  the capability, as Multus passes it
//! runtimeConfig    io.kubernetes.cri.pod-annotations: { … }    of the pod, where the runtime passes them; for eth0 only
//! ```

use std::net::IpAddr;

use cadastre_messages::asked::{self, ANNOTATED_INTERFACE, ANNOTATIONS as OF_A_POD};
use cadastre_messages::code;
use serde_json::{Map, Value};

use crate::address::Family;
use crate::args;
use crate::environment::Environment;
use crate::error::Error;
use crate::netconf::{Netconf, field};

/// The capability by which containerd and CRI-O pass a pod's annotations.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

const REMEDY: &str = "name an address, such as \"10.0.2.7\" or \"fd00::7\", or leave it out";

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Each address once, without prefix length.
    pub addresses: Vec<String>,
    /// The runtime passed the pod's annotations, whatever they say.
    pub annotated: bool,
}

impl Asked {
    fn add(&mut self, address: IpAddr) {
        let address = address.to_string();
        if !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
    }

    fn add_list(&mut self, path: &str, section: Option<&Map<String, Value>>) -> Result<(), Error> {
        let Some(value) = section.and_then(|section| field(section, "ips")) else { return Ok(()) };
        let list = value.as_array().ok_or_else(|| Error::of_key(path, Some(value), "write a list of addresses"))?;
        for (at, value) in list.iter().enumerate() {
            let address = value.as_str().and_then(asked::address);
            self.add(address.ok_or_else(|| Error::of_key(&format!("{path}[{at}]"), Some(value), REMEDY))?);
        }
        Ok(())
    }

    /// The commas are the reference plugin static's.
    fn add_variable(&mut self, args: &str) -> Result<(), Error> {
        for text in args::value(args, "IP").into_iter().flat_map(|list| list.split(',')) {
            let address = asked::address(text).ok_or_else(|| {
                Error::new(code::BAD_ENVIRONMENT, format!("IP={text} in CNI_ARGS is not an address"), REMEDY)
            })?;
            self.add(address);
        }
        Ok(())
    }

    fn add_annotations(&mut self, interface: &str, runtime: Option<&Map<String, Value>>) -> Result<(), Error> {
        let Some(value) = runtime.and_then(|runtime| runtime.get(ANNOTATIONS)).filter(|value| !value.is_null()) else {
            return Ok(());
        };
        let path = format!("runtimeConfig[{ANNOTATIONS:?}]");
        let wrong = || {
            Error::of_key(&path, Some(value), "the container runtime has to pass the pod's annotations as an object")
        };
        let annotations = value.as_object().ok_or_else(wrong)?;
        self.annotated = true;
        for (key, family) in OF_A_POD.into_iter().zip(Family::BOTH).filter(|_| interface == ANNOTATED_INTERFACE) {
            let Some(value) =
                annotations.get(key).filter(|value| value.as_str().is_none_or(|text| !text.trim().is_empty()))
            else {
                continue;
            };
            let address = value.as_str().and_then(asked::address);
            let address = address.filter(|address| Family::of(address) == family);
            self.add(
                address.ok_or_else(|| Error::of_key(&format!("the pod's annotation {key}"), Some(value), REMEDY))?,
            );
        }
        Ok(())
    }
}

pub fn of(environment: &Environment, netconf: &Netconf) -> Result<Asked, Error> {
    let runtime = netconf.section("runtimeConfig");
    let mut asked = Asked::default();
    asked.add_variable(&environment.args)?;
    asked.add_list("args.cni.ips", netconf.section("args/cni"))?;
    asked.add_list("runtimeConfig.ips", runtime)?;
    asked.add_annotations(&environment.interface, runtime)?;
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::environment::Verb;

    fn of(interface: &str, args: &str, patch: &Value) -> Result<Asked, (u32, String)> {
        let environment = Environment {
            verb: Verb::Add,
            container_id: "c1".into(),
            interface: interface.into(),
            netns: "/nonexistent".into(),
            args: args.into(),
        };
        let mut netconf = json!({ "cniVersion": "1.1.0", "name": "net", "ipam": {} });
        netconf.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        let netconf = Netconf::parse(Verb::Add, netconf.to_string().as_bytes()).unwrap();
        super::of(&environment, &netconf).map_err(|error| (error.failure.code, error.failure.msg))
    }

    fn asked(addresses: &[&str], annotated: bool) -> Asked {
        Asked { addresses: addresses.iter().map(|address| (*address).to_owned()).collect(), annotated }
    }

    #[test]
    fn every_source_counts_and_each_address_once() {
        let netconf = json!({
            "args": { "cni": { "ips": ["10.0.2.8/24", "10.0.2.7"] } },
            "runtimeConfig": { "ips": ["FD00:0::7/64", "10.0.2.9"], ANNOTATIONS: { "cadastre.io/ipv4": "10.0.2.9" } },
        });
        let expected = asked(&["10.0.2.7", "fd00::8", "10.0.2.8", "fd00::7", "10.0.2.9"], true);
        assert_eq!(of("eth0", "IP=10.0.2.7/24,fd00::8", &netconf), Ok(expected));
        assert_eq!(
            of("eth0", "IP=", &json!({ "args": 1, "runtimeConfig": { "ips": [], "mac": 7 } })),
            Ok(asked(&[], false))
        );
    }

    #[test]
    fn annotations_count_for_the_first_interface() {
        let both = json!({ "cadastre.io/ipv6": "fd00::7", "cadastre.io/ipv4": " 10.0.2.7", "other": 7 });
        let runtime = |annotations: &Value| json!({ "runtimeConfig": { ANNOTATIONS: annotations } });
        assert_eq!(of("eth0", "", &runtime(&both)), Ok(asked(&["10.0.2.7", "fd00::7"], true)));
        assert_eq!(of("net1", "", &runtime(&both)), Ok(asked(&[], true)));
        for blank in ["", " "] {
            assert_eq!(of("eth0", "", &runtime(&json!({ "cadastre.io/ipv4": blank }))), Ok(asked(&[], true)));
        }
        assert_eq!(of("eth0", "", &runtime(&Value::Null)), Ok(asked(&[], false)));
    }

    #[test]
    fn what_is_no_address_is_named_by_its_place() {
        let annotation = |text: &str| json!({ "runtimeConfig": { ANNOTATIONS: { "cadastre.io/ipv4": text } } });
        let table = [
            ("IP=10.0.2.7,x", json!({}), code::BAD_ENVIRONMENT, "IP=x in CNI_ARGS is not an address"),
            ("IP=10.0.2.7/33", json!({}), code::BAD_ENVIRONMENT, "IP=10.0.2.7/33 in CNI_ARGS is not an address"),
            ("", json!({ "args": { "cni": { "ips": "10.0.2.7" } } }), code::BAD_CONFIG, "args.cni.ips is \"10.0.2.7\""),
            (
                "",
                json!({ "args": { "cni": { "ips": ["10.0.2.7", ""] } } }),
                code::BAD_CONFIG,
                "args.cni.ips[1] is \"\"",
            ),
            ("", json!({ "runtimeConfig": { "ips": [7] } }), code::BAD_CONFIG, "runtimeConfig.ips[0] is 7"),
            ("", annotation("fd00::7"), code::BAD_CONFIG, "the pod's annotation cadastre.io/ipv4 is \"fd00::7\""),
            ("", annotation("x"), code::BAD_CONFIG, "the pod's annotation cadastre.io/ipv4 is \"x\""),
        ];
        for (args, patch, code, message) in table {
            assert_eq!(of("eth0", args, &patch), Err((code, message.into())));
        }
        let list = json!({ "runtimeConfig": { ANNOTATIONS: [] } });
        assert_eq!(of("eth0", "", &list).unwrap_err().0, code::BAD_CONFIG);
    }
}
