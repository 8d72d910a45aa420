//! A node: process 1 with namespaces of its own, containerd and kubelet in it. It can die and boot like a machine: what is
//! on its disk stays, what is under `/run` does not, and it has another boot ID.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::cgroups::Cgroups;
use super::network::{self, Network};
use super::reaper::Reaper;
use super::{config, images};
use crate::flags::flag;
use crate::home::API;
use crate::{ControlPlane, NetNs, Output, Proc, Program, Scratch, access, eventually, repo, tool};

/// On an idle machine a node boots in half a second.
const BOOT_TIMEOUT: Duration = Duration::from_mins(1);
/// Joins the control groups whose files come before `--`, then becomes what comes after it.
const JOIN: &str = r#"while [ "$1" != -- ]; do echo $$ > "$1"; shift; done; shift; exec "$@""#;
/// As systemd keeps a kubelet: it ends when containerd answers that it is not ready yet.
const KEEP: &str = r#"until "$@"; do echo "$1 ended with $?"; sleep 1; done"#;
/// Where process 1 writes its number.
const PID_FILE: &str = "etc/pid";
/// Into every namespace of a process.
const ALL: [&str; 9] = ["-C", "-m", "-n", "-p", "-u", "-i", "-r", "-w", "--"];
/// Some may end by themselves meanwhile.
const SIGNAL_ALL: &str = r#"for process in /proc/[0-9]*; do
    read -r name 2>/dev/null < "$process/comm" && [ "$name" = "$0" ] && kill "-$1" "${process#/proc/}" 2>/dev/null && echo
done; true"#;
/// Plugins that runtime and networks call; the rest is for whoever tests it to put there.
const PLUGINS: [&str; 4] = ["loopback", "bridge", "ptp", "portmap"];

/// See the [module](self).
pub struct Node {
    name: &'static str,
    number: usize,
    // Processes are dropped before what they live in.
    alive: Option<Alive>,
    cgroups: Cgroups,
    netns: Arc<NetNs>,
    scratch: Scratch,
}

/// What ends with the node's life.
struct Alive {
    kubelet: Option<Proc>,
    containerd: Proc,
    init: Proc,
    /// The number of process 1, outside.
    pid: Pid,
    boot_id: String,
}

impl Node {
    /// One that has not booted yet.
    pub(super) fn new(
        name: &'static str,
        number: usize,
        cluster: &str,
        network: &Network,
        reaper: &Reaper,
    ) -> Result<Self> {
        let netns = network.nodes.get(number).map(Arc::clone).context("the network has no such node")?;
        let (cgroups, scratch) = (Cgroups::new(&format!("{cluster}-{name}"))?, Scratch::new()?);
        reaper.cgroup(&cgroups.name)?;
        reaper.folder(scratch.path())?;
        scratch.folder("etc")?;
        let node = Self { name, number, alive: None, cgroups, netns, scratch };
        let plugins = node.scratch.folder("disk/opt/cni/bin")?;
        for plugin in PLUGINS {
            fs::copy(tool(plugin)?, plugins.join(plugin)).with_context(|| format!("the plugin {plugin}"))?;
        }
        Ok(node)
    }

    pub fn name(&self) -> &str {
        self.name
    }

    /// A file of the node as one sees it from outside.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.alive()?.pid.as_raw_nonzero())))
    }

    /// What the kernel tells this node of its boot.
    pub fn boot_id(&self) -> Result<&str> {
        Ok(&self.alive()?.boot_id)
    }

    /// A program of the node's, in there.
    pub fn program(&self, path: impl Into<PathBuf>) -> Result<Program> {
        Ok(self.within(self.alive()?.pid, path))
    }

    /// What people begin a command line with to run it in the node.
    pub fn entrance(&self) -> String {
        let pid_file = self.scratch.path().join(PID_FILE);
        format!("nsenter -t \"$(cat {})\" {}", pid_file.display(), ALL.join(" "))
    }

    /// Runs a command in the node.
    pub async fn exec(&self, command: &[&str]) -> Result<Output> {
        let (program, args) = command.split_first().context("no command")?;
        self.program(program)?.args(args).run().await
    }

    /// Kills every process in it whose program has this name, which the kernel cuts after 15 bytes; how many there were.
    pub async fn kill_all(&self, name: &str) -> Result<usize> {
        self.signal_all("KILL", name).await
    }

    /// As [`Node::kill_all`], with another signal, such as `STOP`.
    pub async fn signal_all(&self, signal: &str, name: &str) -> Result<usize> {
        let name: String = name.chars().take(15).collect();
        Ok(self.exec(&["sh", "-c", SIGNAL_ALL, &name, signal]).await?.ok()?.lines().count())
    }

    /// What keeps pods running. Its `pid` is that of what entered the node; to kill it ends containerd, and no pod.
    pub fn containerd(&self) -> Result<&Proc> {
        Ok(&self.alive()?.containerd)
    }

    /// Its kubelet; see [`Node::containerd`] of its `pid`.
    pub fn kubelet(&self) -> Result<&Proc> {
        self.alive()?.kubelet.as_ref().with_context(|| format!("{} has not joined a cluster", self.name))
    }

    /// Gives containerd the images of an OCI archive.
    pub async fn import(&self, archive: &Path) -> Result<()> {
        let content = fs::read(archive).with_context(|| archive.display().to_string())?;
        let ctr = self.program("ctr")?.args(["--namespace", "k8s.io", "image", "import", "-"]);
        ctr.stdin(content).run().await?.ok()?;
        Ok(())
    }

    /// Power loss: every process ends, and what was mounted is gone. Returns when it is so.
    pub async fn kill(&mut self) -> Result<()> {
        let alive = self.alive.take().with_context(|| format!("{} is dead already", self.name))?;
        kill_process(alive.pid, Signal::KILL).with_context(|| format!("killing {}", self.name))?;
        // It ends after process 1, which ends after all others.
        alive.init.wait_exit(BOOT_TIMEOUT).await?;
        Ok(())
    }

    /// Boots it, with another boot ID than ever before; kubelet comes back if it was there.
    pub async fn boot(&mut self) -> Result<()> {
        if self.alive.is_some() {
            bail!("{} runs already", self.name);
        }
        config::write(&self.scratch).await?;
        self.cgroups.create()?;
        let pid_file = self.scratch.path().join(PID_FILE);
        if let Err(error) = fs::remove_file(&pid_file) {
            // There is none before the first boot.
            ensure!(error.kind() == ErrorKind::NotFound, "{}: {error}", pid_file.display());
        }
        let boot_id = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
        let init = self.init(&boot_id)?.start(self.scratch.path(), "init")?;
        let ready = async || {
            ensure!(init.is_running(), "it ended");
            Ok(fs::read_to_string(&pid_file)?)
        };
        let what = format!("{} to boot", self.name);
        let pid = eventually(BOOT_TIMEOUT, &what, ready).await.with_context(|| init.tail())?;
        let pid = Pid::from_raw(pid.trim().parse()?).context("process 1 has no number")?;
        let containerd = self.within(pid, "containerd").args(["--config", "/lab/etc/containerd.toml"]);
        let containerd = containerd.start(self.scratch.path(), "containerd")?;
        let known = self.scratch.path().join("etc/kubeconfig").exists();
        self.alive = Some(Alive { kubelet: None, containerd, init, pid, boot_id });
        self.containerd_serves().await?;
        if known { self.start_kubelet() } else { self.import_all().await }
    }

    /// Waits until containerd answers.
    pub async fn containerd_serves(&self) -> Result<()> {
        let serves = async || self.exec(&["ctr", "version"]).await?.ok();
        let what = format!("containerd of {}", self.name);
        eventually(BOOT_TIMEOUT, &what, serves)
            .await
            .with_context(|| self.containerd().map_or(String::new(), Proc::tail))?;
        Ok(())
    }

    /// Makes it a node of this cluster, now and at each boot.
    pub(super) fn join(&mut self, cp: &ControlPlane) -> Result<()> {
        self.scratch.write("etc/ca.crt", fs::read(&cp.files.ca)?)?;
        let token = cp.files.tokens.of_node(self.name);
        let kubeconfig = access::kubeconfig(&format!("https://{API}"), Path::new("/lab/etc/ca.crt"), token);
        self.scratch.write("etc/kubeconfig", kubeconfig.to_string())?;
        self.start_kubelet()
    }

    fn start_kubelet(&mut self) -> Result<()> {
        let pid = self.alive()?.pid;
        let flags = [
            flag("config", "/lab/etc/kubelet.yaml"),
            flag("kubeconfig", "/lab/etc/kubeconfig"),
            flag("hostname-override", self.name),
            flag("node-ip", network::addresses(self.number).join(",")),
            flag("root-dir", "/var/lib/kubelet"),
            flag("cert-dir", "/var/lib/kubelet/pki"),
        ];
        let kept = self.within(pid, "sh").args(["-c", KEEP, "keep", "/lab/bin/kubelet"]).args(flags);
        let kubelet = kept.start(self.scratch.path(), "kubelet")?;
        if let Some(alive) = &mut self.alive {
            alive.kubelet = Some(kubelet);
        }
        Ok(())
    }

    fn within(&self, pid: Pid, path: impl Into<PathBuf>) -> Program {
        let pid = pid.as_raw_nonzero().to_string();
        Program::new(path).under(self.joining().args(["nsenter", "-t", &pid]).args(ALL))
    }

    fn joining(&self) -> Program {
        Program::new("sh").args(["-ec", JOIN, "join"]).args(self.cgroups.doors()).arg("--")
    }

    fn init(&self, boot_id: &str) -> Result<Program> {
        let kubelet = tool("kubelet")?;
        let bin = kubelet.parent().context("kubelet lies in no folder")?;
        let namespaces = ["--cgroup", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"];
        let unshare = self.joining().arg("unshare").args(namespaces).args(["--propagation", "private", "--"]);
        let hierarchies = self.cgroups.hierarchies.iter().map(|one| format!("{}={}", one.name, one.options));
        let init = unshare.arg("bash").arg(repo().join("tests/lab/node-init.sh")).arg(self.name);
        Ok(init.arg(self.scratch.path()).arg(bin).arg(boot_id).args(hierarchies).netns(&self.netns))
    }

    async fn import_all(&self) -> Result<()> {
        for image in images::IMAGES {
            self.import(&images::archive(image)?).await?;
        }
        Ok(())
    }

    fn alive(&self) -> Result<&Alive> {
        self.alive.as_ref().with_context(|| format!("{} is not running", self.name))
    }
}
