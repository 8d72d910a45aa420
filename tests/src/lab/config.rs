//! What containerd and kubelet of a node are configured with.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::images;
use crate::{Program, Scratch};

/// Shows containers the node's boot ID. runc mounts nothing below `/proc` by itself, but calls hooks when `/proc` is there.
const BOOT_ID: &str = r#"root=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/')/rootfs
mount --bind /run/lab/boot_id "$root/proc/sys/kernel/random/boot_id""#;

/// Writes their files into `etc` of the node's folder.
pub(super) async fn write(scratch: &Scratch) -> Result<()> {
    let containerd = include_str!("../../lab/containerd.toml").replace("VERSION", images::version());
    scratch.write("etc/containerd.toml", containerd)?;
    scratch.write("etc/kubelet.yaml", include_str!("../../lab/kubelet.yaml"))?;
    let spec = Program::new("ctr").args(["oci", "spec"]).run().await?.ok()?;
    let mut spec: Value = serde_json::from_str(&spec).context("what `ctr oci spec` says")?;
    spec["hooks"] = json!({"createContainer": [{"path": "/bin/sh", "args": ["sh", "-ec", BOOT_ID], "env": ["PATH=/usr/bin:/bin"]}]});
    scratch.write("etc/spec.json", spec.to_string())?;
    Ok(())
}
