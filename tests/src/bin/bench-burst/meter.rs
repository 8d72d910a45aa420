//! CPU time of IPAM on a node, by the kernel's own count: of each call of an IPAM plugin, by a program that stands before
//! it (tests/src/bin/metered-plugin.rs), and of the agent, by the control group that kubelet made.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cadastre_tests::{Node, Program, tool};

use crate::subject::Subject;

/// Prints the file that counts the agent's container, if one runs.
const OF_AGENT: &str = r#"for process in /proc/[0-9]*; do
    read -r name 2>/dev/null < "$process/comm" && [ "$name" = cadastre-agent ] || continue
    group=$(sed -n 's/^[0-9]*:\(.*,\)*cpuacct\(,.*\)*://p' "$process/cgroup")
    ls /sys/fs/cgroup/*"$group"/cpuacct.usage
done"#;
/// 23 bits of the container's ID: that two of some hundred get one address is not to be expected.
const FLOOR: &str = r#"#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
number=$((0x${CNI_CONTAINERID%"${CNI_CONTAINERID#??????}"}))
address=10.$((128 + (number >> 17))).$((number >> 9 & 255)).$((number >> 1 & 255))
echo "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"$address/9\",\"gateway\":\"10.255.255.254\"}],\"routes\":[{\"dst\":\"0.0.0.0/0\"}]}"
"#;

/// Puts a plugin for each subject on the node, which has the real one counted.
pub async fn install(node: &Node) -> Result<()> {
    let meter = fs::read(env::current_exe()?.with_file_name("metered-plugin")).context("metered-plugin")?;
    for subject in Subject::ALL {
        let real = match subject {
            Subject::Floor => FLOOR.as_bytes().to_vec(),
            Subject::Ours => fs::read(node.path("/opt/cni/bin/cadastre")?)?,
            Subject::HostLocal => fs::read(tool("host-local")?)?,
        };
        put(node, &format!("{}.real", subject.network()), &real).await?;
        put(node, &subject.network(), &meter).await?;
    }
    Ok(())
}

/// ms of this one's plugins so far.
pub fn plugins(node: &Node, subject: Subject) -> Result<f64> {
    let path: PathBuf = node.path(&format!("/opt/cni/bin/{}.usage", subject.network()))?;
    let calls = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        calls => calls.with_context(|| path.display().to_string())?,
    };
    let micros = calls.lines().map(str::parse::<f64>).sum::<Result<f64, _>>();
    Ok(micros.with_context(|| path.display().to_string())? / 1e3)
}

/// ms of the agent so far; 0 if there is none.
pub async fn agent(node: &Node) -> Result<f64> {
    let count = node.exec(&["sh", "-c", OF_AGENT]).await?.ok()?;
    match count.trim() {
        "" => Ok(0.0),
        path => {
            let nanoseconds = node.exec(&["cat", path]).await?.ok()?;
            let nanoseconds = nanoseconds.trim().parse::<f64>().with_context(|| format!("{path}: {nanoseconds}"))?;
            Ok(nanoseconds / 1e6)
        }
    }
}

/// By a process of its own: a file that this one writes to could not be executed while another thread forks.
async fn put(node: &Node, name: &str, content: &[u8]) -> Result<()> {
    let script = r#"cat > "$0.partial" && chmod 755 "$0.partial" && mv "$0.partial" "$0""#;
    let put: Program = node.program("sh")?.args(["-c", script]).arg(format!("/opt/cni/bin/{name}"));
    put.stdin(content).run().await?.ok()?;
    Ok(())
}
