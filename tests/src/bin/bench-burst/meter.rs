//! CPU time of IPAM on a node, by the kernel's own count in control groups: one for every call of an IPAM plugin, and the
//! agent's, which kubelet made.

use anyhow::{Context as _, Result};
use cadastre_tests::{Node, Program, tool};

use crate::subject::Subject;

/// Prints where the hierarchy is, after making the group in it.
const GROUP: &str = r#"for hierarchy in /sys/fs/cgroup/*; do
    [ ! -e "$hierarchy/cpuacct.usage" ] || { mkdir -p "$hierarchy/ipam" && echo "$hierarchy" && exit; }
done; echo "no hierarchy has cpuacct" >&2; exit 1"#;
/// Where the agent's process is counted, if one runs.
const OF_AGENT: &str = r#"for process in /proc/[0-9]*; do
    read -r name 2>/dev/null < "$process/comm" && [ "$name" = cadastre-agent ] || continue
    sed -n 's/^[0-9]*:\(.*,\)*cpuacct\(,.*\)*://p' "$process/cgroup"
done"#;
/// 23 bits of the container's ID: that two of some hundred get one address is not to be expected.
const FLOOR: &str = r#"#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
number=$((0x${CNI_CONTAINERID%"${CNI_CONTAINERID#??????}"}))
address=10.$((128 + (number >> 17))).$((number >> 9 & 255)).$((number >> 1 & 255))
echo "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"$address/9\",\"gateway\":\"10.255.255.254\"}],\"routes\":[{\"dst\":\"0.0.0.0/0\"}]}"
"#;

/// See the [module](self).
pub struct Meter {
    hierarchy: String,
}

impl Meter {
    /// Puts a plugin for each subject on the node, which has the real one counted.
    pub async fn install(node: &Node) -> Result<Self> {
        let hierarchy = node.exec(&["sh", "-c", GROUP]).await?.ok()?.trim().to_owned();
        put(node, "floor", FLOOR.as_bytes()).await?;
        put(node, "host-local", &std::fs::read(tool("host-local")?)?).await?;
        for subject in Subject::ALL {
            let real = match subject {
                Subject::Floor => "floor",
                Subject::Ours => "cadastre",
                Subject::HostLocal => "host-local",
            };
            let joins = format!("echo $$ > {hierarchy}/ipam/cgroup.procs");
            let counted = format!("#!/bin/sh\n{joins}\nexec /opt/cni/bin/{real} \"$@\"\n");
            put(node, &subject.network(), counted.as_bytes()).await?;
        }
        Ok(Self { hierarchy })
    }

    /// ms of plugins so far.
    pub async fn plugins(&self, node: &Node) -> Result<f64> {
        self.usage(node, "/ipam").await
    }

    /// ms of the agent so far; 0 if there is none.
    pub async fn agent(&self, node: &Node) -> Result<f64> {
        let groups = node.exec(&["sh", "-c", OF_AGENT]).await?.ok()?;
        match groups.trim() {
            "" => Ok(0.0),
            group => self.usage(node, group).await,
        }
    }

    async fn usage(&self, node: &Node, group: &str) -> Result<f64> {
        let path = format!("{}{group}/cpuacct.usage", self.hierarchy);
        let nanoseconds = node.exec(&["cat", &path]).await?.ok()?;
        let nanoseconds: f64 = nanoseconds.trim().parse().with_context(|| format!("{path}: {nanoseconds}"))?;
        Ok(nanoseconds / 1e6)
    }
}

/// By a process of its own: a file that this one writes to could not be executed while another thread forks.
async fn put(node: &Node, name: &str, content: &[u8]) -> Result<()> {
    let script = r#"cat > "$0.partial" && chmod 755 "$0.partial" && mv "$0.partial" "$0""#;
    let put: Program = node.program("sh")?.args(["-c", script]).arg(format!("/opt/cni/bin/{name}"));
    put.stdin(content).run().await?.ok()?;
    Ok(())
}
