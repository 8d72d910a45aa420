//! Environment and configuration become one request to the agent, or an error; nothing is sent before all of it is valid.

use std::net::IpAddr;
use std::path::PathBuf;

use cadastre_messages::{Add, Attachment, Call, Check, Del, Gc, Status, ValidAttachment, code};
use serde_json::Value;

use crate::answer::Answer;
use crate::environment::{Environment, Verb};
use crate::error::Error;
use crate::netconf::Netconf;
use crate::version::Version;
use crate::{address, args, asked, host_local, netns, ranges};

/// What to ask whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub version: Version,
    pub socket: PathBuf,
    /// `None` if there is nothing to do, as for a GC that lists nothing.
    pub errand: Option<Errand>,
}

/// What to ask, with what is needed to make something of the reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Errand {
    Add(Addition),
    Other(Call),
}

/// An ADD.
#[derive(Clone, Debug, PartialEq)]
pub struct Addition {
    pub add: Add,
    /// How to say what was given.
    pub answer: Answer,
    /// Where host-local may have kept what it reserved for this network.
    pub host_local: PathBuf,
}

pub fn parse(environment: &Environment, stdin: &[u8]) -> Result<Order, Error> {
    let netconf = Netconf::parse(environment.verb, stdin)?;
    let version = netconf.version;
    let errand = errand(environment, &netconf).map_err(|error| error.at(version))?;
    Ok(Order { version, socket: netconf.socket, errand })
}

fn errand(environment: &Environment, netconf: &Netconf) -> Result<Option<Errand>, Error> {
    let attachment = Attachment {
        network: netconf.name.clone(),
        container_id: environment.container_id.clone(),
        interface: environment.interface.clone(),
    };
    let call = match environment.verb {
        Verb::Add => return addition(environment, netconf, attachment).map(|addition| Some(Errand::Add(addition))),
        Verb::Check => Some(Call::Check(Check { attachment, addresses: previous(netconf)? })),
        Verb::Del => Some(Call::Del(Del { attachment })),
        Verb::Gc => valid(netconf)?.map(|valid| Call::Gc(Gc { network: attachment.network, valid })),
        Verb::Status => Some(Call::Status(status(netconf)?)),
        Verb::Version => None,
    };
    Ok(call.map(Errand::Other))
}

fn addition(environment: &Environment, netconf: &Netconf, attachment: Attachment) -> Result<Addition, Error> {
    netconf.asks_for_nothing_static()?;
    let local = ranges::of(netconf)?;
    let asked = asked::of(environment, netconf)?;
    let answer = Answer::of(netconf, local.is_some())?;
    let host_local = host_local::folder(&netconf.ipam, &netconf.name)?;
    let add = Add {
        attachment,
        netns: netns::at(&environment.netns),
        pod: args::pod(&environment.args),
        asked: asked.addresses,
        annotated: asked.annotated,
        local,
    };
    Ok(Addition { add, answer, host_local })
}

/// A network with ranges of its own has a state of its own.
fn status(netconf: &Netconf) -> Result<Status, Error> {
    let local = ranges::of(netconf)?;
    Ok(Status { network: local.is_some().then(|| netconf.name.clone()), local })
}

/// The addresses of `prevResult`, whichever version wrote it.
fn previous(netconf: &Netconf) -> Result<Vec<String>, Error> {
    let invalid = |what: &str| {
        let remedy = "CHECK needs \"prevResult\", the result of ADD, in the configuration: the runtime has to pass it";
        Error::new(code::BAD_CONFIG, format!("network {:?}: {what}", netconf.name), remedy)
    };
    let Some(Value::Object(result)) = netconf.document.get("prevResult") else {
        return Err(invalid("prevResult is missing"));
    };
    let listed = result.get("ips").and_then(Value::as_array).into_iter().flatten().map(|ip| ip.get("address"));
    let named = ["ip4", "ip6"].into_iter().filter_map(|key| result.get(key)).map(|ip| ip.get("ip"));
    let address = |value: Option<&Value>| {
        let address: Option<IpAddr> = value.and_then(Value::as_str).and_then(address::in_cidr);
        address.map(|address| address.to_string()).ok_or_else(|| invalid("prevResult holds an address that is none"))
    };
    listed.chain(named).map(address).collect()
}

/// What GC says is still valid. `None`, because a runtime that lists nothing has not said that nothing is valid.
fn valid(netconf: &Netconf) -> Result<Option<Vec<ValidAttachment>>, Error> {
    // libcni writes the list a second time under the draft's key.
    let key = |key| netconf.document.get(key).filter(|value| !value.is_null()).map(|value| (key, value));
    let Some((key, list)) = key("cni.dev/valid-attachments").or_else(|| key("cni.dev/attachments")) else {
        return Ok(None);
    };
    let wrong = || {
        let message = format!("{key:?} of network {:?} is not a list of attachments", netconf.name);
        Error::new(code::BAD_CONFIG, message, "each entry has to be {\"containerID\": \"…\", \"ifname\": \"…\"}")
    };
    let entry = |value: &Value| {
        let text =
            |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        Some(ValidAttachment { container_id: text("containerID")?, interface: text("ifname")? })
    };
    let list = list.as_array().ok_or_else(wrong)?;
    list.iter().map(|value| entry(value).ok_or_else(wrong)).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use cadastre_messages::{Local, Netns, Pod, Range};
    use serde_json::json;

    use super::*;

    fn environment(verb: Verb) -> Environment {
        Environment {
            verb,
            container_id: "c1".into(),
            interface: "eth0".into(),
            netns: "/nonexistent".into(),
            args: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=nginx".into(),
        }
    }

    /// The call, if there is one.
    fn call(verb: Verb, patch: &Value) -> Result<Option<Call>, (Version, u32)> {
        let mut netconf = json!({ "cniVersion": "1.1.0", "name": "net", "ipam": { "type": "cadastre" } });
        for (key, value) in patch.as_object().unwrap() {
            netconf[key] = value.clone();
        }
        let order = parse(&environment(verb), netconf.to_string().as_bytes());
        let call = |errand| match errand {
            Errand::Add(addition) => Call::Add(addition.add),
            Errand::Other(call) => call,
        };
        order.map(|order| order.errand.map(call)).map_err(|error| (error.version, error.failure.code))
    }

    fn attachment() -> Attachment {
        Attachment { network: "net".into(), container_id: "c1".into(), interface: "eth0".into() }
    }

    #[test]
    fn add_names_attachment_namespace_and_pod() {
        let pod = Pod { namespace: "default".into(), name: "nginx".into(), uid: None };
        let netns = Netns { path: "/nonexistent".into(), device: 0, inode: 0 };
        let add = Add::new(attachment(), netns, Some(pod));
        assert_eq!(call(Verb::Add, &json!({})), Ok(Some(Call::Add(add))));
    }

    #[test]
    fn a_network_with_ranges_says_so_in_add_and_status() {
        let ranges = json!({ "ipam": { "subnet": "10.1.0.0/16" }, "args": { "cni": { "ips": ["10.1.0.7"] } } });
        let range = Range { subnet: "10.1.0.0/16".into(), ..Range::default() };
        let local = Some(Local { sets: vec![vec![range]] });
        let Ok(Some(Call::Add(add))) = call(Verb::Add, &ranges) else { panic!("no ADD") };
        assert_eq!((&add.local, &add.asked[..]), (&local, &["10.1.0.7".to_owned()][..]));
        let status = Status { network: Some("net".into()), local };
        assert_eq!(call(Verb::Status, &ranges), Ok(Some(Call::Status(status))));
        assert_eq!(call(Verb::Status, &json!({})), Ok(Some(Call::Status(Status::default()))));
    }

    #[test]
    fn an_error_says_the_callers_version() {
        let old = json!({ "cniVersion": "0.3.1", "ipam": { "routes": 7 } });
        assert_eq!(call(Verb::Add, &old), Err((Version::V0_3_1, code::BAD_CONFIG)));
        assert_eq!(
            call(Verb::Check, &json!({ "cniVersion": "0.3.1" })),
            Err((Version::V0_3_1, code::INCOMPATIBLE_VERSION))
        );
        assert_eq!(
            call(Verb::Add, &json!({ "cniVersion": "7.0.0" })),
            Err((Version::NEWEST, code::INCOMPATIBLE_VERSION))
        );
    }

    #[test]
    fn check_reads_every_shape_of_result() {
        let table = [
            (json!({ "ips": [{ "version": "4", "address": "10.0.0.5/24" }] }), vec!["10.0.0.5"]),
            (
                json!({ "ips": [{ "address": "10.0.0.5/24" }, { "address": "FD00:0::5/64" }] }),
                vec!["10.0.0.5", "fd00::5"],
            ),
            (json!({ "ip4": { "ip": "10.0.0.5/24" }, "ip6": { "ip": "fd00::5/64" } }), vec!["10.0.0.5", "fd00::5"]),
            (json!({}), vec![]),
        ];
        for (result, addresses) in table {
            let addresses = addresses.into_iter().map(str::to_owned).collect();
            let expected = Check { attachment: attachment(), addresses };
            assert_eq!(call(Verb::Check, &json!({ "prevResult": result })), Ok(Some(Call::Check(expected))));
        }
        for bad in [json!(null), json!(7), json!({ "ips": [{}] }), json!({ "ips": [{ "address": "x" }] })] {
            assert_eq!(
                call(Verb::Check, &json!({ "prevResult": bad })),
                Err((Version::V1_1_0, code::BAD_CONFIG)),
                "{bad}"
            );
        }
    }

    #[test]
    fn gc_tells_an_absent_list_from_an_empty_one() {
        let (key, draft) = ("cni.dev/valid-attachments", "cni.dev/attachments");
        let gc = |ids: &[&str]| {
            let valid = |id: &&str| ValidAttachment { container_id: (*id).into(), interface: "eth0".into() };
            Ok(Some(Call::Gc(Gc { network: "net".into(), valid: ids.iter().map(valid).collect() })))
        };
        let list = |id: &str| json!([{ "containerID": id, "ifname": "eth0" }]);
        assert_eq!(call(Verb::Gc, &json!({})), Ok(None));
        assert_eq!(call(Verb::Gc, &json!({ key: null, draft: null })), Ok(None));
        assert_eq!(call(Verb::Gc, &json!({ key: [] })), gc(&[]));
        assert_eq!(call(Verb::Gc, &json!({ draft: list("d") })), gc(&["d"]));
        assert_eq!(call(Verb::Gc, &json!({ key: list("v"), draft: list("d") })), gc(&["v"]));
        for bad in [
            json!({}),
            json!("x"),
            json!([{}]),
            json!([{ "containerID": "c" }]),
            json!([{ "containerID": "", "ifname": "eth0" }]),
        ] {
            assert_eq!(call(Verb::Gc, &json!({ key: bad })), Err((Version::V1_1_0, code::BAD_CONFIG)), "{bad}");
        }
    }
}
