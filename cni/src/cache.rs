//! libcni's cache of results: where the runtime writes down what it attached, and in which namespace.
//!
//! ```text
//! /var/lib/cni/results/<network>-<container ID>-<interface>
//! {"kind": "cniCacheV1", "netns": "/var/run/netns/…", "cniArgs": [["K8S_POD_NAME", "…"], …], "result": {…}, …}
//! ```
//! `netns` came with libcni 1.3; before that the result's interface of that name says it, if the interface plugin did.

use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use cadastre_messages::{Attachment, Pod};
use serde_json::Value;

use crate::{args, regular};

const FOLDER: &str = "/var/lib/cni/results";
const KIND: &str = "cniCacheV1";

/// Of an entry, in bytes: it holds a network configuration, which has some 20 KiB at most.
const LARGEST: u64 = 1024 * 1024;

/// What is known of one attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub netns: Option<PathBuf>,
    pub pod: Option<Pod>,
}

/// Whether the runtime keeps one.
pub fn is_kept() -> bool {
    Path::new(FOLDER).is_dir()
}

/// The attachment's entry, if it has one. One that cannot be read says nothing.
pub fn entry(attachment: &Attachment) -> Option<Entry> {
    let Attachment { network, container_id, interface } = attachment;
    match read(&Path::new(FOLDER).join(format!("{network}-{container_id}-{interface}"))) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(_) => Some(Entry::default()),
        Ok(text) => {
            let entry = serde_json::from_slice(&text).ok().and_then(|entry| parse(&entry, interface));
            Some(entry.unwrap_or_default())
        }
    }
}

/// What is no file says nothing.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if let Some((file, _)) = regular::open(path)? {
        file.take(LARGEST).read_to_end(&mut text)?;
    }
    Ok(text)
}

pub fn parse(entry: &Value, interface: &str) -> Option<Entry> {
    if entry.get("kind").is_none_or(|kind| kind != KIND) {
        return None;
    }
    let path = |value: Option<&Value>| value?.as_str().filter(|path| !path.is_empty()).map(PathBuf::from);
    let interfaces = entry.pointer("/result/interfaces").and_then(Value::as_array).into_iter().flatten();
    let sandbox = || {
        let mut own = interfaces.filter(|entry| entry.get("name").is_some_and(|name| name == interface));
        own.find_map(|entry| path(entry.get("sandbox")))
    };
    let arguments = entry.get("cniArgs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let argument = |key: &str| {
        let pair = arguments.iter().rfind(|pair| pair.get(0).is_some_and(|name| name == key))?;
        pair.get(1)?.as_str().filter(|value| !value.is_empty())
    };
    Some(Entry { netns: path(entry.get("netns")).or_else(sandbox), pod: args::pod_of(argument) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn namespace_and_pod_are_found_whichever_release_wrote_them() {
        let args = json!([["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", "nginx"]]);
        let interfaces =
            json!([{ "name": "cni0" }, { "name": "veth1", "sandbox": "" }, { "name": "eth0", "sandbox": "/old" }]);
        let pod = Pod { namespace: "default".into(), name: "nginx".into(), uid: None };
        let table = [
            (json!({}), None, None),
            (json!({ "netns": "/new" }), Some("/new"), None),
            (json!({ "netns": "", "cniArgs": args }), None, Some(pod.clone())),
            (json!({ "cniArgs": args, "result": { "interfaces": interfaces } }), Some("/old"), Some(pod.clone())),
            (
                json!({ "netns": "/new", "cniArgs": [7, [], ["K8S_POD_NAME"]], "result": { "interfaces": interfaces } }),
                Some("/new"),
                None,
            ),
        ];
        for (mut entry, netns, pod) in table {
            entry["kind"] = json!(KIND);
            assert_eq!(parse(&entry, "eth0"), Some(Entry { netns: netns.map(PathBuf::from), pod }), "{entry}");
        }
    }

    #[test]
    fn what_is_no_entry_is_none() {
        for other in
            [json!({}), json!([]), json!({ "kind": "cniCacheV2", "netns": "/new" }), json!({ "cniVersion": "0.4.0" })]
        {
            assert_eq!(parse(&other, "eth0"), None, "{other}");
        }
    }
}
