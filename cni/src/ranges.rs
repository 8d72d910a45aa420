//! Networks that name their addresses themselves, in the reference plugin host-local's keys.
//!
//! ```text
//! runtimeConfig.ipRanges   [set, …]     what the runtime asks for comes first
//! ipam.subnet, …           one range    the older form, one more set
//! ipam.ranges              [set, …]     a set is a list of ranges, of which any will do
//! ```
//!
//! Here a key has to be of the right shape. Whether the ranges make sense together is the agent's to say; only what the
//! caller's version cannot take is counted here, since by then an address would be held.

use std::net::IpAddr;

use cadastre_messages::{Local, Range, code};
use serde_json::{Map, Value};

use crate::address::{self, Family};
use crate::error::Error;
use crate::netconf::{Netconf, field};
use crate::version::{Shape, Version};

const SET: &str = "write a list of ranges, such as [{\"subnet\": \"10.1.0.0/16\"}]";
const SETS: &str = "write a list of lists of ranges, such as [[{\"subnet\": \"10.1.0.0/16\"}]]";

/// The network's own ranges, if it has any.
pub fn of(netconf: &Netconf) -> Result<Option<Local>, Error> {
    let mut sets = match netconf.section("runtimeConfig") {
        Some(runtime) => listed("runtimeConfig.ipRanges", field(runtime, "ipRanges"))?,
        None => Vec::new(),
    };
    sets.extend(single(&netconf.ipam)?.map(|range| vec![range]));
    sets.extend(listed("ipam.ranges", field(&netconf.ipam, "ranges"))?);
    if sets.is_empty() {
        return bounds_of_nothing(&netconf.ipam).map(|()| None);
    }
    fits(netconf.version, &sets)?;
    Ok(Some(Local { sets }))
}

/// Without a subnet the keys beside it say nothing, and host-local takes them so too where there are other ranges.
fn single(ipam: &Map<String, Value>) -> Result<Option<Range>, Error> {
    match field(ipam, "subnet") {
        None => Ok(None),
        Some(Value::String(subnet)) if subnet.is_empty() => Ok(None),
        Some(_) => range("ipam", ipam).map(Some),
    }
}

fn bounds_of_nothing(ipam: &Map<String, Value>) -> Result<(), Error> {
    let set = |key: &&str| field(ipam, key).is_some_and(|value| value != "");
    let Some(key) = ["rangeStart", "rangeEnd"].into_iter().find(set) else { return Ok(()) };
    let message = format!("ipam.{key} is set, and ipam.subnet is not");
    Err(Error::new(code::BAD_CONFIG, message, "add the subnet that it bounds, or remove it"))
}

fn listed(path: &str, value: Option<&Value>) -> Result<Vec<Vec<Range>>, Error> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let sets = value.as_array().ok_or_else(|| Error::of_key(path, Some(value), SETS))?;
    sets.iter().enumerate().map(|(at, value)| set(&format!("{path}[{at}]"), value)).collect()
}

fn set(path: &str, value: &Value) -> Result<Vec<Range>, Error> {
    let ranges = value.as_array().filter(|ranges| !ranges.is_empty());
    let ranges = ranges.ok_or_else(|| Error::of_key(path, Some(value), SET))?;
    let range = |(at, value): (usize, &Value)| {
        let path = format!("{path}[{at}]");
        let fields = value.as_object().ok_or_else(|| Error::of_key(&path, Some(value), SET))?;
        range(&path, fields)
    };
    ranges.iter().enumerate().map(range).collect()
}

fn range(path: &str, fields: &Map<String, Value>) -> Result<Range, Error> {
    let subnet = field(fields, "subnet").and_then(Value::as_str).filter(|subnet| address::in_cidr(subnet).is_some());
    let subnet = subnet.ok_or_else(|| {
        let remedy = "name a subnet as a CIDR, such as \"10.1.0.0/16\" or \"fd00:1::/64\"";
        Error::of_key(&format!("{path}.subnet"), field(fields, "subnet"), remedy)
    })?;
    let address = |key: &str| match field(fields, key) {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text.parse::<IpAddr>().is_ok() => Ok(Some(text.clone())),
        other => {
            let remedy = "name an address of the subnet without prefix length, or leave it out";
            Err(Error::of_key(&format!("{path}.{key}"), other, remedy))
        }
    };
    Ok(Range {
        subnet: subnet.to_owned(),
        range_start: address("rangeStart")?,
        range_end: address("rangeEnd")?,
        gateway: address("gateway")?,
    })
}

/// C11: each set gives an address of its family.
fn fits(version: Version, sets: &[Vec<Range>]) -> Result<(), Error> {
    let family = |set: &Vec<Range>| set.first().and_then(|range| address::in_cidr(&range.subnet));
    let families = || sets.iter().filter_map(family).map(|address| Family::of(&address));
    let crowded = Family::BOTH.into_iter().any(|family| families().filter(|other| *other == family).count() > 1);
    match version.shape() {
        Shape::ByFamily if crowded => Err(version.no_room_for_two()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::environment::Verb;

    fn of(version: &str, runtime: &Value, ipam: &Value) -> Result<Option<Local>, (u32, String)> {
        let mut netconf = json!({ "cniVersion": version, "name": "net", "ipam": ipam });
        netconf["runtimeConfig"] = runtime.clone();
        let netconf = Netconf::parse(Verb::Add, netconf.to_string().as_bytes()).unwrap();
        super::of(&netconf).map_err(|error| (error.failure.code, error.failure.msg))
    }

    fn sets(runtime: &Value, ipam: &Value) -> Value {
        serde_json::to_value(of("1.1.0", runtime, ipam).unwrap().unwrap().sets).unwrap()
    }

    fn subnet(subnet: &str) -> Value {
        json!([{ "subnet": subnet }])
    }

    #[test]
    fn nothing_that_names_a_range_is_no_local_network() {
        for ipam in [json!({}), json!({ "subnet": null, "ranges": [] }), json!({ "subnet": "", "gateway": "10.0.0.1" })]
        {
            assert_eq!(of("1.1.0", &json!({ "ipRanges": null }), &ipam), Ok(None), "{ipam}");
        }
    }

    #[test]
    fn the_runtimes_sets_come_first_then_the_single_one() {
        let ipam = json!({ "ranges": [subnet("10.2.0.0/16"), subnet("10.3.0.0/16")], "subnet": "10.1.0.0/16" });
        let runtime = json!({ "ipRanges": [subnet("fd00::/64")] });
        let all = ["fd00::/64", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"].map(subnet);
        assert_eq!(sets(&runtime, &ipam), json!(all));
    }

    #[test]
    fn every_key_of_a_range_is_read() {
        let whole = json!({ "subnet": "10.1.0.0/16", "rangeStart": "10.1.2.0", "rangeEnd": "10.1.2.9", "gateway": "10.1.0.254" });
        let expected = json!([[whole]]);
        assert_eq!(sets(&json!({}), &whole), expected);
        assert_eq!(sets(&json!({}), &json!({ "ranges": [[whole]] })), expected);
        let blank = json!({ "subnet": "10.1.0.0/16", "rangestart": "10.1.2.0", "rangeEnd": "", "gateway": null });
        assert_eq!(
            sets(&json!({}), &json!({ "ranges": [[blank]] })),
            json!([[{ "subnet": "10.1.0.0/16", "rangeStart": "10.1.2.0" }]])
        );
    }

    #[test]
    fn a_wrong_key_is_named_by_its_path() {
        let table = [
            (json!({ "subnet": 7 }), "ipam.subnet is 7"),
            (json!({ "subnet": "10.0.0.0" }), "ipam.subnet is \"10.0.0.0\""),
            (json!({ "subnet": "10.0.0.0/8", "rangeStart": "x" }), "ipam.rangeStart is \"x\""),
            (json!({ "rangeStart": "10.0.0.1" }), "ipam.rangeStart is set, and ipam.subnet is not"),
            (json!({ "ranges": {} }), "ipam.ranges is {}"),
            (json!({ "ranges": [{ "subnet": "10.0.0.0/8" }] }), "ipam.ranges[0] is {\"subnet\":\"10.0.0.0/8\"}"),
            (json!({ "ranges": [subnet("10.0.0.0/8"), []] }), "ipam.ranges[1] is []"),
            (json!({ "ranges": [["10.0.0.0/8"]] }), "ipam.ranges[0][0] is \"10.0.0.0/8\""),
            (json!({ "ranges": [[{}]] }), "ipam.ranges[0][0].subnet is missing"),
            (
                json!({ "ranges": [[{ "subnet": "10.0.0.0/8" }, { "subnet": "10.0.0.0/8", "gateway": "10.0.0.1/8" }]] }),
                "ipam.ranges[0][1].gateway is \"10.0.0.1/8\"",
            ),
        ];
        for (ipam, message) in table {
            assert_eq!(of("1.1.0", &json!({}), &ipam), Err((code::BAD_CONFIG, message.into())));
        }
        let runtime = json!({ "ipRanges": [[{ "subnet": 1 }]] });
        let message = "runtimeConfig.ipRanges[0][0].subnet is 1";
        assert_eq!(of("1.1.0", &runtime, &json!({})), Err((code::BAD_CONFIG, message.into())));
    }

    #[test]
    fn c11_c12_old_versions_take_one_set_of_each_family() {
        for version in Version::ALL {
            let old = version.shape() == Shape::ByFamily;
            let of = |sets: &[&str]| {
                let sets: Vec<Value> = sets.iter().copied().map(subnet).collect();
                of(version.text(), &json!({}), &json!({ "ranges": sets })).map_err(|(code, _)| code)
            };
            assert!(of(&["10.0.0.0/8", "fd00::/64"]).is_ok());
            assert_eq!(of(&["10.0.0.0/9", "10.128.0.0/9"]).err(), old.then_some(code::INCOMPATIBLE_VERSION));
            assert_eq!(of(&["fd00::/64", "10.0.0.0/8", "fd01::/64"]).err(), old.then_some(code::INCOMPATIBLE_VERSION));
        }
    }
}
