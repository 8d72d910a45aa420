//! One call of a plugin: a process, timed from just before it is spawned until it has ended and all it said is read.
//!
//! Everything that a runtime would have at hand is there before the clock starts: pipes, environment, and the configuration
//! in the pipe already.

use std::io::{Read as _, Write as _, pipe};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// What is called, and how; the same for every call of a cell but for verb and container.
#[derive(Clone, Debug)]
pub struct Plugin {
    pub program: PathBuf,
    /// The network configuration as an interface plugin passes it on. It fits into a pipe.
    pub netconf: Vec<u8>,
    pub netns: PathBuf,
    pub owner: Owner,
    /// Whether it answers as a plugin does.
    pub speaks: bool,
}

/// The Pod of every call on a node: the agent knows it from its watch, as it knows one that kubelet starts.
#[derive(Clone, Debug)]
pub struct Owner {
    pub name: String,
    pub uid: String,
}

/// The namespace of these Pods.
pub const NAMESPACE: &str = "default";

/// Whom a call is about, as containerd names them.
#[derive(Clone, Debug)]
pub struct Container {
    pub id: String,
    pub args: String,
}

impl Container {
    /// Never twice the same in a run: the next sandbox of the Pod.
    pub fn new(number: u64, Owner { name, uid }: &Owner) -> Self {
        let id = format!("{number:016x}{:048x}", 0xcada_57fe_u32);
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={uid}"
        );
        Self { id, args }
    }
}

impl Plugin {
    pub fn call(&self, verb: &str, container: &Container) -> Result<Duration> {
        let (input, mut netconf) = pipe()?;
        netconf.write_all(&self.netconf)?;
        drop(netconf);
        let ((mut answer, stdout), (mut complaint, stderr)) = (pipe()?, pipe()?);
        let mut command = Command::new(&self.program);
        command.env_clear().envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", &container.id),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            ("CNI_ARGS", &container.args),
        ]);
        command.env("CNI_NETNS", &self.netns).stdin(input).stdout(stdout).stderr(stderr);
        let mut text = Vec::with_capacity(4096);

        let start = Instant::now();
        let mut child = command.spawn().with_context(|| self.program.display().to_string())?;
        drop(command); // It has our copies of the child's ends of the pipes: without this there is no end of file.
        answer.read_to_end(&mut text)?;
        let ended = child.wait()?;
        let took = start.elapsed();

        if !ended.success() || (self.speaks && verb == "ADD") != gives_an_address(&text) {
            let mut said = String::from_utf8_lossy(&text).into_owned();
            complaint.read_to_string(&mut said)?;
            bail!("{verb} by {}: {ended}: {said}", self.program.display());
        }
        Ok(took)
    }
}

fn gives_an_address(answer: &[u8]) -> bool {
    let result: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    result["ips"][0]["address"].is_string()
}
