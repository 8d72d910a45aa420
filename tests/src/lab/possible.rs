//! Whether this machine can have a cluster.

use std::process::Command;

use anyhow::{Result, bail};

use super::Lab;
use super::cgroups::Hierarchy;

/// What Debian's packages containerd, runc, iproute2 and util-linux bring.
const PROGRAMS: [&str; 7] = ["containerd", "ctr", "runc", "ip", "nsenter", "unshare", "setpriv"];

impl Lab {
    /// Whether tests can have one here; where there is none it is said why. CI insists on one, by `CADASTRE_CLUSTER=required`.
    pub fn for_tests() -> Result<bool> {
        let Err(reason) = Self::possible() else { return Ok(true) };
        if std::env::var_os("CADASTRE_CLUSTER").is_some_and(|word| word == "required") {
            bail!("CADASTRE_CLUSTER=required, and no cluster on this machine: {reason}");
        }
        eprintln!("skipped: no cluster on this machine: {reason}");
        Ok(false)
    }

    /// Why there can be none here, if so.
    pub fn possible() -> std::result::Result<(), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root: nodes are namespaces".to_owned());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let missing = |name: &&&str| !std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
        let missing: Vec<&str> = PROGRAMS.iter().filter(missing).copied().collect();
        if !missing.is_empty() {
            return Err(format!("not installed: {}; `make prereqs-cluster` does", missing.join(", ")));
        }
        let hierarchies = Hierarchy::all().map_err(|error| format!("control groups: {error:#}"))?;
        if !hierarchies.iter().any(|hierarchy| hierarchy.options.split(',').any(|option| option == "memory")) {
            return Err(
                "control groups: `memory` is no hierarchy of version 1, which the nodes' kubelets use".to_owned()
            );
        }
        kernel()
    }
}

/// Tries what a node is made of.
fn kernel() -> std::result::Result<(), String> {
    let try_all =
        "ip link add bridge0 type bridge && ip link add end0 type veth peer name end1 && mount -t tmpfs none /mnt";
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--fork", "sh", "-c", try_all]);
    let output = unshare.output().map_err(|error| format!("unshare: {error}"))?;
    if !output.status.success() {
        return Err(format!("namespaces: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(())
}
