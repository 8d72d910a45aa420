//! A node as runtimes leave it: what lives is found, what does not is not, and what cannot be read is an error.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cadastre_messages::DEFAULT_SOCKET;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// Writes what libcni writes for an attachment that `result` was given.
pub fn cached(cache: &Path, id: &str, netns: Option<&Path>, ipam: &Value, addresses: &[&str]) {
    let config = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge", "ipam": ipam}]});
    let ips: Vec<Value> = addresses.iter().map(|address| json!({ "address": address })).collect();
    let mut file = json!({
        "kind": "cniCacheV1",
        "containerId": id,
        "ifName": "eth0",
        "networkName": "net",
        "config": STANDARD.encode(config.to_string()),
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", id], ["K8S_POD_UID", format!("uid-{id}")]],
        "result": {"cniVersion": "1.0.0", "interfaces": [], "ips": ips},
    });
    if let Some(netns) = netns {
        file["netns"] = netns.display().to_string().into();
    }
    fs::create_dir_all(cache.join("results")).unwrap();
    fs::write(cache.join("results").join(format!("net-{id}-eth0")), file.to_string()).unwrap();
}

struct Node {
    folder: TempDir,
    places: Places,
}

impl Node {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let beside = |name: &str| folder.path().join(name);
        let places = Places { cache: beside("cni"), namespaces: beside("netns"), socket: DEFAULT_SOCKET.into() };
        Self { folder, places }
    }

    /// A file that stands for a namespace which runs nothing.
    fn netns(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, "").unwrap();
        path
    }

    fn found(&self) -> Vec<String> {
        let survey = survey(&self.places).unwrap();
        let mut found: Vec<String> = survey.attached.iter().map(shown).collect();
        found.sort();
        found
    }
}

fn shown(attached: &Attached) -> String {
    let Attached { attachment, netns, pod, addresses, of_ranges } = attached;
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let pod = pod.as_ref().map(ToString::to_string).unwrap_or_default();
    format!("{} {pod} {} seen={} ranges={of_ranges}", attachment.container_id, addresses.join(" "), netns.seen)
}

#[test]
fn attachments_of_ours_that_live_are_found() {
    let node = Node::new();
    let cache = &node.places.cache;
    let (here, gone) = (node.netns("here"), node.folder.path().join("gone"));
    let ours = json!({"type": "cadastre"});
    cached(cache, "lives", Some(&here), &ours, &["10.0.2.9/24", "fd00::9/120"]);
    cached(cache, "gone", Some(&gone), &ours, &["10.0.2.10/24"]);
    cached(cache, "unknown", None, &ours, &["10.0.2.11/24"]);
    cached(cache, "process", Some(Path::new("/proc/1/ns/net")), &ours, &["10.0.2.12/24"]);
    cached(cache, "ranges", Some(&here), &json!({"type": "cadastre", "subnet": "10.9.0.0/24"}), &["10.9.0.9/24"]);
    cached(cache, "other", Some(&here), &json!({"type": "host-local"}), &["10.9.0.10/24"]);
    cached(cache, "others", Some(&here), &json!({"type": "cadastre", "socket": "/run/other.sock"}), &["10.9.0.11/24"]);
    cached(cache, "unmounted", Some(Path::new("/nowhere/netns/x")), &ours, &["10.0.2.13/24"]);
    cached(cache, "blank", Some(&gone), &json!({"type": "cadastre", "Ranges": [], "subnet": ""}), &["10.9.0.12/24"]);
    fs::write(cache.join("results/garbage"), "{").unwrap();
    fs::create_dir(cache.join("results/folder")).unwrap();
    std::os::unix::fs::symlink("garbage", cache.join("results/link")).unwrap();
    assert_eq!(
        node.found(),
        [
            "lives default/lives 10.0.2.9 fd00::9 seen=true ranges=false",
            "process default/process 10.0.2.12 seen=false ranges=false",
            "ranges default/ranges 10.9.0.9 seen=true ranges=true",
            "unknown default/unknown 10.0.2.11 seen=false ranges=false",
            "unmounted default/unmounted 10.0.2.13 seen=false ranges=false",
        ]
    );
}

#[test]
fn an_empty_node_has_nothing_and_one_that_cannot_be_read_is_an_error() {
    let node = Node::new();
    assert_eq!(survey(&node.places).unwrap(), Survey::default());
    fs::create_dir(&node.places.namespaces).unwrap();
    fs::write(node.places.namespaces.join("no-namespace"), "").unwrap();
    assert_eq!(survey(&node.places).unwrap(), Survey::default());
    fs::create_dir(&node.places.cache).unwrap();
    fs::write(node.places.cache.join("results"), "a file").unwrap();
    let error = survey(&node.places).unwrap_err().to_string();
    assert!(error.contains("cni/results: Not a directory"), "{error}");
}
