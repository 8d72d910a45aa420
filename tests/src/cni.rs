//! A container runtime's half of CNI: cnitool for whole chains of plugins, and single calls of one plugin.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::{NetNs, Output, Program, Scratch, paths};

/// One network on one node: its configuration, the node's namespace, and a CNI cache of its own.
#[derive(Debug)]
pub struct Cni {
    network: String,
    scratch: Scratch,
    host: PathBuf,
    program: Program,
}

impl Cni {
    /// A network from a conflist (`name`, `cniVersion`, `plugins`), attached from the namespace `host`, where bridges and
    /// the hosts' ends of veth pairs come to lie. Plugins are the reference ones and ours.
    pub fn new(host: &NetNs, conflist: &Value) -> Result<Self> {
        let network = conflist["name"].as_str().context("a conflist without a name")?.to_owned();
        let scratch = Scratch::new()?;
        let folder = scratch.folder("net.d")?;
        scratch.write("net.d/10-test.conflist", conflist.to_string())?;
        let program = Program::tool("cnitool")?
            .env("NETCONFPATH", folder)
            .env("CNI_PATH", plugin_path(paths::tools())?)
            .netns(host)
            .private_var_lib(&scratch.folder("var-lib")?);
        Ok(Self { network, scratch, host: host.path(), program })
    }

    /// The network that an agent installed on a node: its folders of configurations and of plugins.
    pub fn installed(host: &NetNs, network: &str, conf: &Path, bin: &Path) -> Result<Self> {
        let scratch = Scratch::new()?;
        let program = Program::tool("cnitool")?
            .env("NETCONFPATH", conf)
            .env("CNI_PATH", bin)
            .netns(host)
            .private_var_lib(&scratch.folder("var-lib")?);
        Ok(Self { network: network.to_owned(), scratch, host: host.path(), program })
    }

    /// Another configuration of the same network: what a person writes in place of the first.
    pub fn rewrite(&self, conflist: &Value) -> Result<()> {
        self.scratch.write("net.d/10-test.conflist", conflist.to_string()).map(drop)
    }

    /// The folder in which libcni keeps the results of this network's attachments.
    pub fn cache(&self) -> PathBuf {
        self.scratch.path().join("var-lib/cni")
    }

    /// The namespace from which this network attaches.
    pub fn host(&self) -> &Path {
        &self.host
    }

    /// ADD; the CNI result.
    pub async fn add(&self, attachment: &Attachment<'_>) -> Result<Value> {
        let output = self.call("add", attachment).await?.ok()?;
        serde_json::from_str(&output).with_context(|| format!("the result of ADD: {output}"))
    }

    /// DEL.
    pub async fn del(&self, attachment: &Attachment<'_>) -> Result<()> {
        self.call("del", attachment).await?.ok().map(drop)
    }

    /// CHECK against the cached result.
    pub async fn check(&self, attachment: &Attachment<'_>) -> Result<()> {
        self.call("check", attachment).await?.ok().map(drop)
    }

    /// `add`, `del`, `check`, `status` or `gc` (of everything), with all that cnitool said.
    pub async fn call(&self, command: &str, attachment: &Attachment<'_>) -> Result<Output> {
        let mut program = self.program.clone().args([command, &self.network]).arg(attachment.netns.path());
        program = program.env("CNI_IFNAME", attachment.interface);
        if !attachment.args.is_empty() {
            program = program.env("CNI_ARGS", &attachment.args);
        }
        if !attachment.capabilities.is_null() {
            program = program.env("CAP_ARGS", attachment.capabilities.to_string());
        }
        program.run().await
    }
}

/// What is attached to a network: the interface of a pod's namespace.
#[derive(Clone, Debug)]
pub struct Attachment<'a> {
    netns: &'a NetNs,
    interface: &'a str,
    args: String,
    capabilities: Value,
}

impl<'a> Attachment<'a> {
    /// `eth0` of a namespace, no pod named.
    pub fn new(netns: &'a NetNs) -> Self {
        Self { netns, interface: "eth0", args: String::new(), capabilities: Value::Null }
    }

    /// The arguments a kubelet's runtime sends for a pod.
    #[must_use]
    pub fn pod(mut self, namespace: &str, name: &str, uid: &str) -> Self {
        self.args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}");
        self
    }

    #[must_use]
    pub fn interface(mut self, name: &'a str) -> Self {
        self.interface = name;
        self
    }

    /// Capability arguments, such as `{"ips": ["10.0.0.5/24"]}`.
    #[must_use]
    pub fn capabilities(mut self, capabilities: Value) -> Self {
        self.capabilities = capabilities;
        self
    }
}

/// Calls one plugin as libcni does: `command` is `ADD`, `DEL`, …, `config` its standard input, `env` further variables
/// such as `CNI_CONTAINERID`. `Ok(Err)` is the plugin's own error object.
pub async fn call_plugin(
    plugin: &Program,
    command: &str,
    config: &Value,
    env: &[(&str, &str)],
) -> Result<Result<Value, Value>> {
    let plugin = plugin.clone().env("CNI_COMMAND", command).env("CNI_PATH", plugin_path(paths::tools())?);
    let plugin = env.iter().fold(plugin, |plugin, (key, value)| plugin.env(key, value));
    answer(command, &plugin.stdin(config.to_string()).run().await?)
}

/// What a plugin said: exactly one JSON value on standard output, or nothing.
fn answer(command: &str, output: &Output) -> Result<Result<Value, Value>> {
    let value = match output.stdout.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text).with_context(|| format!("the output of {command}: {text}"))?,
    };
    match (output.success(), &value) {
        (true, _) => Ok(Ok(value)),
        (false, Value::Object(_)) => Ok(Err(value)),
        (false, _) => bail!("{command} failed without an error object: {output:?}"),
    }
}

/// Reference plugins, and ours if it has been built.
fn plugin_path(reference: &Path) -> Result<OsString> {
    let ours = paths::binary("cadastre").ok().and_then(|path| Some(path.parent()?.to_owned()));
    Ok(env::join_paths([Some(reference.to_owned()), ours].into_iter().flatten())?)
}

/// The reference plugins in two releases, one of which is years older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// 1.9.1, see `tests/tools/cni-plugins`.
    New,
    /// 1.1.1, Debian's package.
    Old,
}

impl Release {
    pub const BOTH: [Self; 2] = [Self::New, Self::Old];

    /// The newest CNI version that it speaks.
    pub fn cni_version(self) -> &'static str {
        match self {
            Self::New => "1.1.0",
            Self::Old => "1.0.0",
        }
    }

    /// One of its plugins, in the namespace of a node, with ours at hand.
    pub fn plugin(self, name: &str, host: &NetNs) -> Result<Program> {
        let folder = match self {
            Self::New => paths::tools(),
            Self::Old => Path::new("/usr/lib/cni"),
        };
        Ok(Program::new(folder.join(name)).netns(host).env("CNI_PATH", plugin_path(folder)?))
    }
}

/// What a runtime keeps of one attachment, and says in every call: an interface of a pod, and the configuration, which
/// names the interface plugin in `type`. Calls go to that plugin alone, without libcni between.
#[derive(Clone, Debug)]
pub struct Interface {
    plugin: Program,
    config: Value,
    container_id: String,
    name: String,
}

impl Interface {
    pub fn new(release: Release, host: &NetNs, config: Value, pod: &NetNs, name: &str) -> Result<Self> {
        let kind = config["type"].as_str().context("a configuration without a type")?;
        let container_id = pod.name().to_owned();
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container_id}");
        let plugin = release.plugin(kind, host)?.env("CNI_NETNS", pod.path()).env("CNI_ARGS", args);
        let mut config = config;
        config["cniVersion"] = release.cni_version().into();
        Ok(Self { plugin, config, container_id, name: name.to_owned() })
    }

    /// Where configurations that name no socket look for the agent, this one is, by its folder.
    #[must_use]
    pub fn agent_at_default(mut self, folder: &Path) -> Self {
        self.plugin = self.plugin.agent_at_default(folder);
        self
    }

    /// One variable otherwise.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.plugin = self.plugin.env(key, value);
        self
    }

    /// The container ID.
    pub fn id(&self) -> &str {
        &self.container_id
    }

    /// The configuration, for what a runtime may do to it.
    pub fn config(&mut self) -> &mut Value {
        &mut self.config
    }

    /// One call; what ADD gives is kept as `prevResult` of what follows.
    pub async fn call(&mut self, command: &str) -> Result<Result<Value, Value>> {
        let plugin = self.plugin.clone().env("CNI_COMMAND", command);
        let plugin = plugin.env("CNI_CONTAINERID", &self.container_id).env("CNI_IFNAME", &self.name);
        let answer = answer(command, &plugin.stdin(self.config.to_string()).run().await?)?;
        if let ("ADD", Ok(result)) = (command, &answer) {
            self.config["prevResult"] = result.clone();
        }
        Ok(answer)
    }

    /// A call that has to succeed.
    pub async fn ok(&mut self, command: &str) -> Result<Value> {
        let who = format!("{command} of {} by {}", self.name, self.config["type"]);
        self.call(command).await?.map_err(|error| anyhow!("{who}: {error}"))
    }
}
