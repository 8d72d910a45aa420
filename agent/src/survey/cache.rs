//! libcni's cache of results: a file for each attachment that the runtime made and has not deleted.
//!
//! ```text
//! <cache>/results/<network>-<container ID>-<interface>   {"kind": "cniCacheV1", "containerId", "ifName", "networkName",
//!                                                          "netns", "cniArgs": [[k, v]], "config": base64, "result": {…}}
//! ```
//! The format is libcni's (`libcni/api.go`, `cachedInfo`); `netns` came with its 1.3. Multus keeps one of its own.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cadastre_messages::{Attachment, DEFAULT_SOCKET};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde_json::Value;

use super::namespaces::Space;
use super::{Places, SurveyError};
use crate::record::{NetnsRecord, PodName};

const KIND: &str = "cniCacheV1";

/// A result holds its network's configuration, which has some 20 KiB at most.
const LARGEST: u64 = 1024 * 1024;

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
    pub written: SystemTime,
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
            match read_entry(&path) {
                Ok(Some((text, written))) => entries.extend(parse(&text, &places.socket, written)),
                Ok(None) => tracing::warn!(path = %path.display(), "this is no result of the runtime; it is left out"),
                Err(error) if error.kind() == ErrorKind::NotFound => {} // Its DEL came meanwhile.
                Err(source) => return Err(SurveyError::Unreadable { path, source }),
            }
        }
    }
    Ok(entries)
}

/// `None` for what is no file of a result's size.
fn read_entry(path: &Path) -> io::Result<Option<(Vec<u8>, SystemTime)>> {
    // Neither a link nor a pipe may lead us astray.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return Ok(None),
        file => file?,
    };
    let about = file.metadata()?;
    if !about.is_file() || about.len() > LARGEST {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text)?;
    Ok(Some((text, about.modified().unwrap_or(SystemTime::UNIX_EPOCH))))
}

/// Whether the runtime keeps one.
pub fn exists(places: &Places) -> bool {
    FOLDERS.iter().any(|folder| places.cache.join(folder).is_dir())
}

/// `None` for what is not ours, and for what cannot be read: the addresses in its namespace speak for it then.
fn parse(text: &[u8], socket: &Path, written: SystemTime) -> Option<Entry> {
    let cached: Value = serde_json::from_slice(text).ok()?;
    if cached.get("kind").and_then(Value::as_str) != Some(KIND) {
        return None;
    }
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
    let of_ranges = ["subnet", "ranges"].iter().any(|key| says_something(ipam, key))
        || cached.get("capabilityArgs").is_some_and(|args| says_something(args, "ipRanges"));
    let sandbox = || {
        let interfaces = result.get("interfaces").and_then(Value::as_array)?;
        let own = interfaces
            .iter()
            .filter(|interface| interface.get("name").and_then(Value::as_str) == Some(&attachment.interface));
        let mut sandboxes = own.filter_map(|interface| interface.get("sandbox").and_then(Value::as_str));
        sandboxes.find(|path| !path.is_empty()).map(str::to_owned)
    };
    let path = text("netns").filter(|path| !path.is_empty()).or_else(sandbox);
    (!addresses.is_empty()).then(|| Entry { attachment, path, pod: pod_of(&cached), addresses, of_ranges, written })
}

/// Whether a key, in whatever case the reference plugins would read it, has a value that is not blank.
fn says_something(section: &Value, key: &str) -> bool {
    let fields = section.as_object().into_iter().flatten();
    let mut values = fields.filter(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
    values.any(|value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
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
        let pair = args.iter().rfind(|pair| pair.get(0).and_then(Value::as_str) == Some(key))?;
        pair.get(1).and_then(Value::as_str).filter(|value| !value.is_empty()).map(str::to_owned)
    };
    Some(PodName { namespace: value("K8S_POD_NAMESPACE")?, name: value("K8S_POD_NAME")?, uid: value("K8S_POD_UID") })
}

impl Entry {
    /// Its namespace, unless that is certainly gone. With nothing known of it, it lives until its DEL comes.
    pub fn netns(&self, spaces: &[Space]) -> Option<NetnsRecord> {
        let by_address =
            || spaces.iter().find(|space| self.addresses.iter().any(|address| space.addresses.contains(address)));
        let Some(path) = &self.path else {
            return Some(by_address().map_or_else(NetnsRecord::default, |space| space.netns.clone()));
        };
        let unknown = || NetnsRecord { path: path.clone(), ..NetnsRecord::default() };
        // The process IDs of the runtime may not be ours.
        if path.starts_with("/proc/") {
            return Some(unknown());
        }
        match fs::metadata(path) {
            Ok(there) => Some(NetnsRecord { path: path.clone(), device: there.dev(), inode: there.ino(), seen: true }),
            // That a file is missing means something only where its folder is there: it may not be mounted.
            Err(error) if error.kind() == ErrorKind::NotFound && Path::new(path).parent().is_some_and(Path::is_dir) => {
                None
            }
            Err(_) => Some(unknown()),
        }
    }
}
