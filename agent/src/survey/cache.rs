//! libcni's cache of results: a file for each attachment that the runtime made and has not deleted.
//!
//! ```text
//! <cache>/results/<network>-<container ID>-<interface>   {"kind": "cniCacheV1", "containerId", "ifName", "networkName",
//!                                                          "netns", "cniArgs": [[k, v]], "config": base64, "result": {…}}
//! ```
//! The format is libcni's (`libcni/api.go`, `cachedInfo`); `netns` came with its 1.3. Multus keeps one of its own.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cadastre_messages::{Attachment, DEFAULT_SOCKET};
use serde_json::Value;

use super::namespaces::Space;
use super::{Places, SurveyError};
use crate::record::{NetnsRecord, PodName};

/// Below libcni's folder: the runtime's, and that of Multus.
const FOLDERS: [&str; 2] = ["results", "multus/results"];

/// One attachment of ours.
#[derive(Debug)]
pub struct Entry {
    pub attachment: Attachment,
    /// Of its namespace, if the runtime wrote it down.
    pub path: Option<String>,
    pub pod: Option<PodName>,
    pub addresses: Vec<IpAddr>,
    pub of_ranges: bool,
}

/// All that name our socket.
pub fn read(places: &Places) -> Result<Vec<Entry>, SurveyError> {
    let mut entries = Vec::new();
    for folder in FOLDERS.map(|folder| places.cache.join(folder)) {
        let unreadable = |source| SurveyError::Unreadable { path: folder.clone(), source };
        let files = match fs::read_dir(&folder) {
            Ok(files) => files,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(error)),
        };
        for file in files {
            let path = file.map_err(unreadable)?.path();
            match fs::read(&path) {
                Ok(text) => entries.extend(parse(&text, &places.socket)),
                Err(error) if error.kind() == ErrorKind::NotFound => {} // Its DEL came meanwhile.
                Err(source) => return Err(SurveyError::Unreadable { path, source }),
            }
        }
    }
    Ok(entries)
}

/// Whether the runtime keeps one.
pub fn exists(places: &Places) -> bool {
    FOLDERS.iter().any(|folder| places.cache.join(folder).is_dir())
}

/// `None` for what is not ours, and for what cannot be read: the addresses in its namespace speak for it then.
fn parse(text: &[u8], socket: &Path) -> Option<Entry> {
    let cached: Value = serde_json::from_slice(text).ok()?;
    let text = |key: &str| cached.get(key).and_then(Value::as_str).map(str::to_owned);
    let config: Value = serde_json::from_slice(&STANDARD.decode(cached.get("config")?.as_str()?).ok()?).ok()?;
    let ipam = ipam_of(&config, socket)?;
    let attachment =
        Attachment { network: text("networkName")?, container_id: text("containerId")?, interface: text("ifName")? };
    let result = cached.get("result")?;
    let listed = result.get("ips").and_then(Value::as_array).into_iter().flatten().filter_map(|ip| ip.get("address"));
    let named = ["ip4", "ip6"].into_iter().filter_map(|key| result.get(key)?.get("ip"));
    let address = |value: &Value| value.as_str()?.split('/').next()?.parse().ok();
    let addresses: Vec<IpAddr> = listed.chain(named).filter_map(address).collect();
    let of_ranges = ["subnet", "ranges"].iter().any(|key| ipam.get(key).is_some_and(|value| !value.is_null()))
        || cached.get("capabilityArgs").and_then(|args| args.get("ipRanges")).is_some();
    (!addresses.is_empty()).then(|| Entry {
        attachment,
        path: text("netns").filter(|path| !path.is_empty()),
        pod: pod_of(&cached),
        addresses,
        of_ranges,
    })
}

/// The section `ipam` of a plugin, or of one of a list of plugins, that asks this agent.
fn ipam_of<'a>(config: &'a Value, socket: &Path) -> Option<&'a Value> {
    let list = config.get("plugins").and_then(Value::as_array);
    let plugins = list.map_or_else(|| vec![config], |list| list.iter().collect());
    plugins.into_iter().filter_map(|plugin| plugin.get("ipam")).find(|ipam| {
        let named = ipam.get("socket").and_then(Value::as_str).unwrap_or(DEFAULT_SOCKET);
        ipam.get("type").and_then(Value::as_str) == Some("cadastre") && Path::new(named) == socket
    })
}

fn pod_of(cached: &Value) -> Option<PodName> {
    let args = cached.get("cniArgs").and_then(Value::as_array)?;
    let value = |key: &str| {
        let pair = args.iter().find(|pair| pair.get(0).and_then(Value::as_str) == Some(key))?;
        pair.get(1).and_then(Value::as_str).filter(|value| !value.is_empty()).map(str::to_owned)
    };
    Some(PodName { namespace: value("K8S_POD_NAMESPACE")?, name: value("K8S_POD_NAME")?, uid: value("K8S_POD_UID") })
}

impl Entry {
    /// Its namespace, if it lives. One that cannot be looked up by path is found by its addresses.
    pub fn netns(&self, spaces: &[Space]) -> Option<NetnsRecord> {
        let by_address =
            || spaces.iter().find(|space| self.addresses.iter().any(|address| space.addresses.contains(address)));
        let Some(path) = &self.path else { return by_address().map(|space| space.netns.clone()) };
        // The process IDs of the runtime may not be ours: nothing is known, so it lives until its DEL comes.
        if path.starts_with("/proc/") {
            return Some(NetnsRecord { path: path.clone(), ..NetnsRecord::default() });
        }
        let found = fs::metadata(PathBuf::from(path)).ok()?;
        Some(NetnsRecord { path: path.clone(), device: found.dev(), inode: found.ino(), seen: true })
    }
}
