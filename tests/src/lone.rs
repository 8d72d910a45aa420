//! A node without a cluster: an agent that serves from its journal, and its plugin, in a folder of their own. A hundred
//! of them cost less than one control plane, so that a test can afford one for each way to die.
//!
//! ```text
//! Seed   journal of an agent that a real operator gave blocks, taken once
//!   └──▶ Lone   <scratch>/state/{journal, …}   <scratch>/socket/{cadastre.sock, tombstones/}
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use cadastre_messages::report::Report;
use cadastre_messages::{Add, Attachment, Call, Del, Failure, Netns, Reply, Request};
use serde_json::{Value, json};

use crate::{ControlPlane, Proc, Program, Scratch, node, until};

/// Name of the node, in the journal's head too.
const NODE: &str = "n0";

/// Name of the network that everybody attaches to.
const NETWORK: &str = "pods";

/// A namespace that lives as long as anybody looks.
const NETNS: &str = "/proc/self/ns/net";

/// No reply takes longer, or the agent hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Credentials for an API server that nobody runs.
const NO_CLUSTER: &str = "apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: 'https://127.0.0.1:1'}}]
users: [{name: none, user: {token: none}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
";

/// What makes an agent serve without an API server: a journal that knows its blocks, and its settings.
#[derive(Debug)]
pub struct Seed {
    journal: Vec<u8>,
    settings: String,
}

impl Seed {
    /// Lets an operator assign blocks to a node under these chart values, and keeps what its agent wrote.
    pub async fn new(values: &str) -> Result<Self> {
        let cp = ControlPlane::start().await?;
        cp.install_chart(values).await?.ok()?;
        cp.create_nodes([node(NODE).ready(false)]).await?;
        let _operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
        let agent = cp.start_agent(NODE, "agent").await?;
        agent.wait_log(PATIENCE, "assigned").await?;
        let served = async || Ok(report(&cp.agent_socket(NODE))?.pools.len() == 2);
        until("both families are assigned", served).await.with_context(|| agent.tail())?;
        agent.kill9();
        let journal = fs::read(cp.folder().join(NODE).join("state/journal"))?;
        let settings = fs::read_to_string(cp.settings_file("seed").await?)?;
        Ok(Self { journal, settings })
    }
}

/// One such node.
#[derive(Debug)]
pub struct Lone {
    scratch: Scratch,
    agent: Program,
    plugin: Program,
}

impl Lone {
    pub fn new(seed: &Seed) -> Result<Self> {
        let scratch = Scratch::new()?;
        for folder in ["state", "socket"] {
            scratch.folder(folder)?;
            private(&scratch.path().join(folder))?;
        }
        scratch.write("state/journal", &seed.journal)?;
        let settings = scratch.write("settings.yaml", &seed.settings)?;
        let kubeconfig = scratch.write("kubeconfig", NO_CLUSTER)?;
        let (agent, plugin) = (Program::ours("cadastre-agent")?, Program::ours("cadastre")?);
        let agent = agent.env("KUBECONFIG", kubeconfig).arg("run").arg("--config").arg(settings);
        let agent = agent.args(["--node-name", NODE, "--listen", "127.0.0.1:0"]);
        let agent = agent.arg("--state-dir").arg(scratch.path().join("state"));
        let agent = agent.arg("--socket").arg(scratch.path().join("socket/cadastre.sock"));
        Ok(Self { scratch, agent, plugin })
    }

    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    pub fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    pub fn journal(&self) -> PathBuf {
        self.state().join("journal")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder().join("socket/cadastre.sock")
    }

    pub fn tombstones(&self) -> PathBuf {
        self.folder().join("socket").join(cadastre_messages::TOMBSTONES)
    }

    /// What lies in the folder of tombstones.
    pub fn left(&self) -> Vec<PathBuf> {
        fs::read_dir(self.tombstones()).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }

    /// The agent, not started.
    pub fn agent(&self) -> Program {
        self.agent.clone()
    }

    /// Starts the agent and waits until it answers.
    pub async fn start(&self) -> Result<Proc> {
        let agent = self.agent().start(self.folder(), "agent")?;
        self.answers(&agent).await?;
        Ok(agent)
    }

    /// Starts a dead agent again and waits until it answers.
    pub async fn restart(&self, agent: &Proc) -> Result<()> {
        agent.restart()?;
        self.answers(agent).await
    }

    async fn answers(&self, agent: &Proc) -> Result<()> {
        let answers = async || Ok(self.report().is_ok());
        until("the agent answers", answers).await.with_context(|| agent.tail())
    }

    /// The plugin as a runtime calls it for this container, not started.
    pub fn plugin(&self, verb: &str, id: &str) -> Program {
        let ipam = json!({"type": "cadastre", "socket": self.socket()});
        let config = json!({"cniVersion": "1.1.0", "name": NETWORK, "type": "bridge", "ipam": ipam});
        let env = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", id),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", NETNS),
            ("CNI_ARGS", &format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={id}")),
            ("CNI_PATH", "/nonexistent"),
        ];
        let plugin = self.plugin.clone().stdin(config.to_string());
        env.into_iter().fold(plugin, |plugin, (key, value)| plugin.env(key, value))
    }

    /// The plugin as a copy that a test may replace.
    #[must_use]
    pub fn with_plugin(mut self, path: &Path) -> Self {
        self.plugin = Program::new(path);
        self
    }

    /// The agent started by another program, such as one that enters namespaces.
    #[must_use]
    pub fn agent_under(mut self, wrapper: Program) -> Self {
        self.agent = self.agent.under(wrapper);
        self
    }

    /// Runs the plugin: the addresses of an ADD, nothing of other verbs; or its error object.
    pub async fn call(&self, verb: &str, id: &str) -> Result<Result<Vec<IpAddr>, Value>> {
        let output = self.plugin(verb, id).run().await?;
        let said: Value = match output.stdout.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).with_context(|| format!("{output:?}"))?,
        };
        match (output.success(), &said) {
            (true, _) => addresses(&said).map(Ok),
            (false, Value::Object(_)) => Ok(Err(said)),
            (false, _) => bail!("{verb} of {id} failed without an error object: {output:?}"),
        }
    }

    /// An ADD that has to succeed.
    pub async fn add(&self, id: &str) -> Result<Vec<IpAddr>> {
        let given = self.call("ADD", id).await?.map_err(|error| anyhow!("ADD of {id}: {error}"))?;
        ensure!(given.len() == 2, "ADD of {id} was given {given:?}");
        Ok(given)
    }

    /// A DEL, which has to succeed.
    pub async fn del(&self, id: &str) -> Result<()> {
        self.call("DEL", id).await?.map(drop).map_err(|error| anyhow!("DEL of {id}: {error}"))
    }

    /// Asks the agent as the plugin does, in less time than a process takes to start.
    pub fn ask(&self, call: Call) -> Result<Reply> {
        ask(&self.socket(), call)
    }

    /// An ADD without the plugin. The path of the namespace makes its record as long as one likes.
    pub fn ask_add(&self, id: &str, netns: &str) -> Result<Result<Vec<IpAddr>, Failure>> {
        let netns = Netns { path: netns.to_owned(), device: 0, inode: 0 };
        match self.ask(Call::Add(Add::new(attachment(id), netns, None)))? {
            Reply::Given(given) => {
                let address = |text: &str| Ok(text.split('/').next().unwrap_or_default().parse()?);
                let all = given.addresses.iter().map(|given| address(&given.address)).collect::<Result<_>>();
                all.map(Ok)
            }
            Reply::Error(failure) => Ok(Err(failure)),
            other => bail!("ADD of {id} was answered {other:?}"),
        }
    }

    /// A DEL without the plugin.
    pub fn ask_del(&self, id: &str) -> Result<()> {
        let reply = self.ask(Call::Del(Del { attachment: attachment(id) }))?;
        ensure!(reply == Reply::Ok, "DEL of {id} was answered {reply:?}");
        Ok(())
    }

    pub fn report(&self) -> Result<Report> {
        report(&self.socket())
    }

    /// Which container holds each address. Fails if one is listed twice, or is counted and nobody's.
    pub fn held(&self) -> Result<BTreeMap<IpAddr, String>> {
        let report = self.report()?;
        let mut held = BTreeMap::new();
        for row in report.addresses.into_iter().filter(|row| row.state == "held") {
            let Some(attachment) = row.attachment else { continue };
            let other = held.insert(row.address.parse()?, attachment.container_id.clone());
            ensure!(other.is_none(), "{} is held twice: by {other:?} and {}", row.address, attachment.container_id);
        }
        let counted: u64 = report.pools.iter().map(|pool| pool.allocated).sum();
        // One router of each family.
        ensure!(counted == held.len() as u64 + 2, "{counted} addresses are counted as held, and these are: {held:?}");
        Ok(held)
    }

    /// Waits until these attachments hold exactly that, once passes have done what they do.
    pub async fn holds(&self, expected: &BTreeMap<IpAddr, String>) -> Result<()> {
        let so = async || {
            let held = self.held()?;
            ensure!(held == *expected, "held is {held:?}, not {expected:?}");
            Ok(true)
        };
        until("what is held to be what was said last", so).await
    }

    /// DEL of everybody, after which nothing is held.
    pub async fn end(&self) -> Result<()> {
        let all: std::collections::BTreeSet<String> = self.held()?.into_values().collect();
        all.iter().try_for_each(|id| self.ask_del(id))?;
        self.holds(&BTreeMap::new()).await.context("after the DEL of all")
    }
}

/// What `holds` compares with: who was told which addresses.
pub fn holders<'a>(told: impl IntoIterator<Item = (&'a str, &'a [IpAddr])>) -> BTreeMap<IpAddr, String> {
    let each = |(id, addresses): (&'a str, &'a [IpAddr])| addresses.iter().map(move |one| (*one, id.to_owned()));
    told.into_iter().flat_map(each).collect()
}

/// The addresses of a CNI result, without prefix length.
fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let text = |ip: &Value| ip["address"].as_str().and_then(|text| text.split('/').next()).map(str::to_owned);
    let all = result["ips"].as_array().into_iter().flatten();
    all.map(|ip| Ok(text(ip).context("no address")?.parse()?)).collect()
}

fn attachment(id: &str) -> Attachment {
    Attachment { network: NETWORK.to_owned(), container_id: id.to_owned(), interface: "eth0".to_owned() }
}

fn private(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?)
}

fn report(socket: &Path) -> Result<Report> {
    match ask(socket, Call::Report)? {
        Reply::Report(report) => Ok(*report),
        other => bail!("the report is {other:?}"),
    }
}

/// One call over the socket of an agent, and what it said.
pub fn ask(socket: &Path, call: Call) -> Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&Request::new(call))?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reply = String::new();
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_string(&mut reply)?;
    serde_json::from_str(&reply).with_context(|| format!("the reply {reply:?}"))
}
