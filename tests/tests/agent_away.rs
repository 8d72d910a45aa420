//! The agent that is not there yet, or not any more, on real processes: what waits for it, what is left for it, and what
//! comes too late. How the plugin takes an agent that is away in every other way is in `cni/tests`.

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cadastre_messages::{Add, Attachment, Call, Netns, Reply, Request};
use cadastre_tests::{ControlPlane, DUAL_STACK, Lone, Proc, Program, Seed, Step, Trace, holders, node, until};
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

const SOON: Duration = Duration::from_mins(1);
const NODE: &str = "n0";
/// Nodes at once.
const AT_ONCE: usize = 6;

async fn seed() -> Result<&'static Seed> {
    static SEED: OnceCell<Seed> = OnceCell::const_new();
    SEED.get_or_try_init(|| Seed::new(DUAL_STACK)).await
}

#[tokio::test]
async fn an_add_and_a_check_are_served_by_an_agent_that_comes_within_3_s() -> Result<()> {
    let lone = Lone::new(seed().await?)?;
    let agent = lone.start().await?;
    let old = lone.add("old").await?;
    agent.kill9();
    let listed: Vec<Value> = old.iter().map(|address| json!({"address": format!("{address}/24")})).collect();
    let check = lone.plugin("CHECK", "old");
    let mut config: Value = serde_json::from_str(&check.input())?;
    config["prevResult"] = json!({"cniVersion": "1.1.0", "ips": listed});
    let check = check.stdin(config.to_string());
    let comes = async { lone.restart(&agent).await };
    let (added, checked, came) = tokio::join!(lone.add("new"), check.run(), comes);
    came?;
    checked?.ok()?;
    let new = added?;
    lone.holds(&holders([("old", old.as_slice()), ("new", new.as_slice())])).await?;
    lone.end().await
}

/// The steps of an agent's start that touch its folder or its socket, in order.
async fn steps_of_a_start() -> Result<Vec<Step>> {
    let lone = Lone::new(seed().await?)?;
    let trace = Trace::new(lone.folder());
    let agent = trace.wrap(&lone.agent(), false, None).start(lone.folder(), "agent")?;
    until("the agent answers", async || Ok(lone.report().is_ok())).await?;
    agent.term();
    agent.wait_exit(SOON).await?;
    let ours = lone.folder().display().to_string();
    let text = trace.text();
    // What follows is the way to the end.
    let start = text.split("--- SIGTERM").next().unwrap_or_default();
    let steps = trace.steps().into_iter().filter(|(step, line)| line.contains(&ours) && step.call != "execve");
    Ok(steps.filter(|(_, line)| start.contains(line)).map(|(step, _)| step).collect())
}

#[tokio::test]
async fn a_tombstone_written_at_any_step_of_a_start_is_replayed() -> Result<()> {
    let steps = steps_of_a_start().await?;
    let stopped = |step: Step| async move {
        let lone = Lone::new(seed().await?)?;
        let agent = lone.start().await?;
        lone.add("pod").await?;
        let old = lone.add("old").await?;
        agent.kill9();
        let trace = Trace::new(lone.folder());
        let starting = trace.wrap_stopping(&lone.agent(), &step).start(lone.folder(), "starting")?;
        let listens = || trace.text().lines().any(|line| line.starts_with("listen("));
        until("the step", async || Ok(trace.text().contains("SIGSTOP"))).await?;
        let go_on = async {
            // Once it listens a DEL reaches its queue, and waits; before, a tombstone is left.
            let left = async || Ok(listens() || !lone.left().is_empty());
            until("a tombstone", left).await?;
            starting.cont();
            anyhow::Ok(())
        };
        let (deleted, went_on) = tokio::join!(lone.del("pod"), go_on);
        deleted?;
        went_on?;
        until("the agent answers", async || Ok(lone.report().is_ok())).await.with_context(|| starting.tail())?;
        lone.holds(&holders([("old", old.as_slice())])).await?;
        until("no tombstone to be left", async || Ok(lone.left().is_empty())).await?;
        lone.end().await.with_context(|| format!("stopped before {step}"))
    };
    println!("stopped at {} steps", steps.len());
    stream::iter(steps).map(stopped).buffer_unordered(AT_ONCE).try_collect().await
}

#[tokio::test]
async fn a_tombstone_older_than_a_repeated_add_frees_nothing() -> Result<()> {
    let lone = Lone::new(seed().await?)?;
    let agent = lone.start().await?;
    let told = lone.add("pod").await?;
    agent.kill9();
    lone.del("pod").await?;
    let tombstone = lone.left().pop().context("no tombstone")?;
    // The plugin is slow: its file comes into place long after it read the clock.
    let late = lone.folder().join("late.json");
    fs::rename(&tombstone, &late)?;
    lone.restart(&agent).await?;
    ensure!(lone.add("pod").await? == told, "the same again");
    fs::rename(&late, &tombstone)?;
    until("the tombstone to be read", async || Ok(lone.left().is_empty())).await?;
    lone.holds(&holders([("pod", told.as_slice())])).await?;
    // In a new agent too.
    lone.restart(&agent).await?;
    lone.holds(&holders([("pod", told.as_slice())])).await?;
    lone.end().await
}

/// An agent whose ADDs wait for long, as the operator is there, but not yet the Node that it would give blocks to.
struct New {
    cp: ControlPlane,
    agent: Proc,
    _operator: Proc,
}

impl New {
    async fn node(values: &str) -> Result<Self> {
        let cp = ControlPlane::start().await?;
        cp.install_chart(&format!("{values}agent: {{addWait: 25s}}\n")).await?.ok()?;
        let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
        let agent = cp.start_agent(NODE, "agent").await?;
        agent.wait_log(SOON, "nothing is assigned").await?;
        Ok(Self { cp, agent, _operator: operator })
    }

    /// Waits until so many ADDs wait.
    async fn waiting(&self, number: usize) -> Result<()> {
        let line = format!("cadastre_agent_waiting {number}\n");
        until(&format!("{number} ADDs to wait"), async || Ok(self.agent.http("/metrics").await?.contains(&line))).await
    }

    /// Blocks come.
    async fn register(&self) -> Result<()> {
        self.cp.create_nodes([node(NODE).ready(false)]).await.map(drop)
    }

    fn plugin(&self, verb: &str, id: &str) -> Result<Program> {
        let ipam = json!({"type": "cadastre", "socket": self.cp.agent_socket(NODE)});
        let config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "bridge", "ipam": ipam});
        let plugin = Program::ours("cadastre")?.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", id);
        let plugin = plugin.env("CNI_IFNAME", "eth0").env("CNI_NETNS", "/proc/self/ns/net");
        Ok(plugin.stdin(config.to_string()))
    }

    async fn ask(&self, call: Call) -> Result<Reply> {
        let mut stream = UnixStream::connect(self.cp.agent_socket(NODE)).await?;
        let mut line = serde_json::to_vec(&Request::new(call))?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut reply = Vec::new();
        while !reply.ends_with(b"\n") {
            ensure!(stream.read_buf(&mut reply).await? > 0, "{:?}", ErrorKind::UnexpectedEof);
        }
        Ok(serde_json::from_slice(&reply)?)
    }

    async fn held(&self) -> Result<usize> {
        match self.ask(Call::Report).await? {
            Reply::Report(report) => Ok(report.addresses.iter().filter(|row| row.attachment.is_some()).count()),
            other => anyhow::bail!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_plugin_killed_while_its_add_waits_leaves_nothing() -> Result<()> {
    let new = New::node(DUAL_STACK).await?;
    let run = |verb, id| anyhow::Ok(new.plugin(verb, id)?);
    let (given_up, deleted, lives) = (run("ADD", "given-up")?, run("ADD", "deleted")?, run("ADD", "lives")?);
    let waiting = async {
        // Dropped, and thereby killed, once all of them wait.
        let killed = async { tokio::join!(given_up.run(), deleted.run()) };
        tokio::select! {
            ended = killed => anyhow::bail!("an ADD did not wait: {ended:?}"),
            all = new.waiting(3) => all,
        }
    };
    let go_on = async {
        waiting.await?;
        new.plugin("DEL", "deleted")?.run().await?.ok()?;
        new.waiting(1).await?;
        new.register().await
    };
    let (answer, registered) = tokio::join!(lives.run(), go_on);
    registered?;
    answer?.ok()?;
    ensure!(new.held().await? == 2, "one pod has two addresses, and nobody else any");
    new.plugin("DEL", "lives")?.run().await?.ok()?;
    ensure!(new.held().await? == 0, "nothing is left");
    Ok(())
}

#[tokio::test]
async fn two_hundred_waiting_adds_are_served_at_once_when_blocks_come() -> Result<()> {
    const PODS: usize = 200;
    let new = New::node(DUAL_STACK).await?;
    let add = async |number: usize| {
        let attachment =
            Attachment { network: "pods".to_owned(), container_id: format!("c{number}"), interface: "eth0".to_owned() };
        let netns = Netns { path: "/proc/self/ns/net".to_owned(), device: 0, inode: 0 };
        let reply = new.ask(Call::Add(Add::new(attachment, netns, None))).await?;
        ensure!(matches!(&reply, Reply::Given(given) if given.addresses.len() == 2), "{reply:?}");
        anyhow::Ok(Instant::now())
    };
    let assigned = async {
        new.waiting(PODS).await?;
        new.register().await?;
        let seen = async || Ok(new.agent.log_contains("assigned generation"));
        until("the assignment", seen).await?;
        anyhow::Ok(Instant::now())
    };
    let (answered, assigned) = tokio::join!(try_join_all((0..PODS).map(add)), assigned);
    let (mut answered, seen) = (answered?, assigned?);
    answered.sort();
    let took = answered[PODS - 1] - answered[0];
    let after = answered[PODS - 1].saturating_duration_since(seen);
    println!("{PODS} ADDs: the last answered {took:?} after the first, {after:?} after the log said that blocks came");
    // On a machine of its own it is a fiftieth of that.
    ensure!(took < Duration::from_secs(2), "the last was answered {took:?} after the first");
    ensure!(new.held().await? == 2 * PODS, "each has two");
    Ok(())
}
