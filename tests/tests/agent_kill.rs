//! `kill -9` of the agent and of the plugin at each step of what they do: before each system call that touches a file, a
//! socket or a descriptor, which is after the one before it. Found by enumeration: a call that nobody disturbs says which
//! steps there are, and then each of them is somebody's last, on a node of its own. Afterwards the runtime does what
//! runtimes do, the same call again with the same IDs, and then
//!
//! - whoever was told an address holds it, and nobody else does;
//! - nothing is held by somebody whose last word from us was another, after a pass;
//! - an address that was just given up is not the next one given.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use cadastre_messages::{Call, Status};
use cadastre_tests::{DUAL_STACK, Lone, Output, Proc, Seed, Step, Trace, holders, thread_of, until};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::OnceCell;

/// Nodes at once: most of the time each of them waits for a process to start.
const AT_ONCE: usize = 6;

/// Calls that bring about steps that belong to no call, such as the end of a connection.
const MORE_CALLS: usize = 20;

async fn seed() -> Result<&'static Seed> {
    static SEED: OnceCell<Seed> = OnceCell::const_new();
    SEED.get_or_try_init(|| Seed::new(DUAL_STACK)).await
}

/// Who was told what, and has not given it up since.
type Told = BTreeMap<&'static str, Vec<IpAddr>>;

fn as_held(told: &Told) -> BTreeMap<IpAddr, String> {
    holders(told.iter().map(|(id, addresses)| (*id, addresses.as_slice())))
}

/// Tries each step, some at a time; `die` says whether it was the last one of somebody.
async fn each(what: &str, steps: Vec<Step>, die: impl AsyncFn(Step) -> Result<bool>) -> Result<()> {
    let die = &die;
    let tried = stream::iter(steps.clone()).map(|step| async move {
        let died = die(step.clone()).await.with_context(|| format!("{what}, killed before {step}"))?;
        anyhow::Ok((step, died))
    });
    let tried: Vec<_> = tried.buffer_unordered(AT_ONCE).try_collect().await?;
    let absent: Vec<_> = tried.iter().filter(|(_, died)| !died).map(|(step, _)| step.to_string()).collect();
    let mut kinds = BTreeMap::<&str, usize>::new();
    for step in &steps {
        *kinds.entry(&step.call).or_default() += 1;
    }
    println!("{what}: killed at {} steps: {kinds:?}; not reached again: {absent:?}", steps.len() - absent.len());
    // How often a thread looks for events depends on what comes together.
    ensure!(
        absent.len() * 5 <= steps.len(),
        "{what}: of {} steps, these were not reached again: {absent:?}",
        steps.len()
    );
    Ok(())
}

/// What a run must contain, or it has become too poor for this test.
fn must_have(steps: &[Step], kinds: &[&str]) -> Result<()> {
    let missed: Vec<_> = kinds.iter().filter(|kind| steps.iter().all(|step| step.call != **kind)).collect();
    ensure!(missed.is_empty(), "no step is one of {missed:?}: {steps:?}");
    Ok(())
}

/// What an agent is busy with when it dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Busy {
    Add,
    AddAgain,
    Del,
    /// An ADD after which the journal is written anew.
    Compaction,
    /// What a DEL left, read when the next ADD comes.
    Replay,
}

impl Busy {
    fn before(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Compaction => &["old"],
            Self::AddAgain | Self::Del | Self::Replay => &["old", "pod"],
        }
    }

    async fn act(self, lone: &Lone, told: &mut Told) -> Result<()> {
        match self {
            Self::Add | Self::AddAgain | Self::Compaction => add(lone, told, "pod").await,
            Self::Del => del(lone, told, "pod").await,
            Self::Replay => {
                told.remove("pod");
                bury(lone, "pod").await?;
                add(lone, told, "next").await
            }
        }
    }
}

/// An ADD; who was told something before is told the same.
async fn add(lone: &Lone, told: &mut Told, id: &'static str) -> Result<()> {
    let given = lone.add(id).await?;
    let before = told.insert(id, given.clone());
    ensure!(before.as_ref().is_none_or(|before| *before == given), "{id} was told {before:?}, then {given:?}");
    Ok(())
}

async fn del(lone: &Lone, told: &mut Told, id: &'static str) -> Result<()> {
    told.remove(id);
    lone.del(id).await
}

/// A DEL that finds no agent: at the next socket nobody listens, and its tombstones are the same folder's.
async fn bury(lone: &Lone, id: &str) -> Result<()> {
    let plugin = lone.plugin("DEL", id);
    let elsewhere = plugin.input().replace("cadastre.sock", "absent.sock");
    plugin.stdin(elsewhere).run().await?.ok().map(drop)
}

/// Lets the journal grow until the next record makes it worth writing anew.
fn grow(lone: &Lone) -> Result<()> {
    const ENOUGH: u64 = 256 * 1024;
    let netns = |number: usize| format!("/run/{number}/{}", "x".repeat(4_000));
    for number in 0.. {
        let left = ENOUGH - fs::metadata(lone.journal())?.len();
        if left < 150 {
            break;
        }
        // What is left is filled as exactly as one can.
        let path = if left > 5_000 { netns(number) } else { format!("/{number}") };
        lone.ask_add("old", &path)?.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    }
    Ok(())
}

/// A node on which the agent is about to do that.
async fn about_to(busy: Busy) -> Result<(Lone, Proc, Told)> {
    let lone = Lone::new(seed().await?)?;
    let agent = lone.start().await?;
    let mut told = Told::new();
    for id in busy.before() {
        add(&lone, &mut told, id).await?;
    }
    if busy == Busy::Compaction {
        grow(&lone)?;
    }
    Ok((lone, agent, told))
}

/// The steps of the thread that serves, while nobody disturbs it.
async fn steps_of(busy: Busy) -> Result<Vec<Step>> {
    let (lone, agent, mut told) = about_to(busy).await?;
    let trace = Trace::new(lone.folder());
    let strace = trace.attach(thread_of(&agent, "serve")?, None).await?;
    busy.act(&lone, &mut told).await?;
    // Once this is answered, the connection before it has ended on the agent's side too.
    lone.ask(Call::Status(Status::default()))?;
    strace.term();
    strace.wait_exit(Duration::from_secs(20)).await?;
    Ok(trace.steps().into_iter().map(|(step, _)| step).collect())
}

async fn kill_the_agent(busy: Busy, kinds: &[&str]) -> Result<()> {
    let steps = steps_of(busy).await?;
    must_have(&steps, kinds)?;
    let what = format!("agent, {busy:?}");
    each(&what, steps, async |step| agent_dies(busy, &step).await).await
}

async fn agent_dies(busy: Busy, step: &Step) -> Result<bool> {
    let (lone, agent, mut told) = about_to(busy).await?;
    let trace = Trace::new(lone.folder());
    let strace = trace.attach(thread_of(&agent, "serve")?, Some(step)).await?;
    let ever: BTreeSet<IpAddr> = told.values().flatten().copied().collect();
    let over = Cell::new(false);
    let acting = async {
        let done = busy.act(&lone, &mut told).await;
        over.set(true);
        done
    };
    let dying = async {
        let mut calls = 0;
        while agent.is_running() && calls < MORE_CALLS {
            if over.get() {
                calls += 1;
                // Nobody answers if this brings about its death.
                drop(lone.ask(Call::Status(Status::default())));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let died = !agent.is_running();
        if died {
            lone.restart(&agent).await?;
        } else {
            strace.kill9();
        }
        anyhow::Ok(died)
    };
    let (done, died) = tokio::join!(acting, dying);
    let checked = async {
        let died = died?;
        done?;
        settled(&lone, &mut told, &ever).await?;
        anyhow::Ok(died)
    };
    checked.await.with_context(|| format!("{}\nits trace:\n{}", agent.tail(), trace.text()))
}

/// Each has what it was told, also when the runtime says it all once more, and somebody new has what nobody had.
async fn settled(lone: &Lone, told: &mut Told, ever: &BTreeSet<IpAddr>) -> Result<()> {
    lone.holds(&as_held(told)).await.context("before anybody repeats it")?;
    for id in ["old", "pod", "next"] {
        if told.contains_key(id) { add(lone, told, id).await? } else { del(lone, told, id).await? }
    }
    lone.holds(&as_held(told)).await?;
    let ever: BTreeSet<_> = ever.iter().chain(told.values().flatten()).copied().collect();
    add(lone, told, "other").await?;
    let again: Vec<_> = told["other"].iter().filter(|address| ever.contains(address)).collect();
    ensure!(again.is_empty(), "{again:?} is held, or was a moment ago");
    ensure!(lone.report()?.journal.ok, "{:?}", lone.report()?.journal);
    lone.end().await
}

#[tokio::test]
async fn k1_an_agent_killed_at_each_step_of_an_add_gives_it_one_address_and_keeps_it() -> Result<()> {
    kill_the_agent(Busy::Add, &["accept4", "pwrite64", "sendto", "close"]).await
}

#[tokio::test]
async fn an_agent_killed_at_each_step_of_a_repeated_add_says_the_same() -> Result<()> {
    kill_the_agent(Busy::AddAgain, &["accept4", "pwrite64", "sendto", "close"]).await
}

#[tokio::test]
async fn k2_an_agent_killed_at_each_step_of_a_del_frees_the_address_and_gives_others_first() -> Result<()> {
    kill_the_agent(Busy::Del, &["accept4", "pwrite64", "sendto", "close"]).await
}

#[tokio::test]
async fn an_agent_killed_at_each_step_of_writing_its_journal_anew_knows_all_that_it_said() -> Result<()> {
    kill_the_agent(Busy::Compaction, &["pwrite64", "openat", "fallocate", "rename", "sendto"]).await
}

#[tokio::test]
async fn an_agent_killed_at_each_step_of_a_replay_frees_what_the_tombstone_says() -> Result<()> {
    kill_the_agent(Busy::Replay, &["getdents64", "openat", "read", "pwrite64", "unlink", "sendto"]).await
}

/// A node whose agent died half-way through a write, and a DEL came since.
async fn about_to_start() -> Result<(Lone, Told, BTreeSet<IpAddr>)> {
    let (lone, agent, mut told) = about_to(Busy::Del).await?;
    let ever = told.values().flatten().copied().collect();
    agent.kill9();
    fs::File::options().append(true).open(lone.journal())?.write_all(b"torn")?;
    del(&lone, &mut told, "pod").await?;
    ensure!(lone.left().len() == 1, "a tombstone: {:?}", lone.left());
    Ok((lone, told, ever))
}

/// Starts the agent watched, and asks it to end once it answers. Returns whether it was killed before that was over.
async fn a_life(lone: &Lone, trace: &Trace, kill: Option<&Step>) -> Result<bool> {
    let strace = trace.wrap(&lone.agent(), false, kill).start(lone.folder(), "agent")?;
    until("an answer or the end", async || Ok(!strace.is_running() || lone.report().is_ok())).await?;
    strace.term();
    strace.wait_exit(Duration::from_secs(20)).await?;
    Ok(trace.text().contains("+++ killed by SIGKILL"))
}

#[tokio::test]
async fn an_agent_killed_at_each_step_of_its_start_and_its_end_starts_again() -> Result<()> {
    let (lone, ..) = about_to_start().await?;
    let trace = Trace::new(lone.folder());
    a_life(&lone, &trace, None).await?;
    let ours = lone.folder().display().to_string();
    let steps = trace.steps().into_iter().filter(|(_, line)| line.contains(&ours));
    let steps: Vec<Step> = steps.map(|(step, _)| step).filter(|step| step.call != "execve").collect();
    must_have(&steps, &["openat", "read", "ftruncate", "unlink", "rename", "bind"])?;
    let dies = async |step: Step| {
        let (lone, mut told, ever) = about_to_start().await?;
        let trace = Trace::new(lone.folder());
        let died = a_life(&lone, &trace, Some(&step)).await?;
        let agent = lone.start().await?;
        let settled = settled(&lone, &mut told, &ever).await;
        settled.with_context(|| format!("{}\nits trace:\n{}", agent.tail(), trace.text()))?;
        Ok(died)
    };
    each("agent, start and end", steps, dies).await
}

/// What the plugin is busy with when it dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Calling {
    Add,
    Del,
    /// With no agent there, so that it leaves a tombstone.
    Bury,
}

impl Calling {
    fn verb(self) -> &'static str {
        if self == Self::Add { "ADD" } else { "DEL" }
    }

    async fn about_to(self) -> Result<(Lone, Proc, Told)> {
        let busy = if self == Self::Add { Busy::Add } else { Busy::Del };
        let (lone, agent, told) = about_to(busy).await?;
        if self == Self::Bury {
            agent.kill9();
        }
        Ok((lone, agent, told))
    }
}

async fn kill_the_plugin(call: Calling, kinds: &[&str]) -> Result<()> {
    let (lone, _agent, _) = call.about_to().await?;
    let trace = Trace::new(lone.folder());
    trace.wrap(&lone.plugin(call.verb(), "pod"), true, None).run().await?.ok()?;
    let mut steps: Vec<Step> = trace.steps().into_iter().map(|(step, _)| step).collect();
    let begin = steps.iter().rposition(|step| step.call == "execve").context("no execve")?;
    let steps = steps.split_off(begin + 1);
    must_have(&steps, kinds)?;
    let what = format!("plugin, {call:?}");
    each(&what, steps, async |step| plugin_dies(call, &step).await).await
}

async fn plugin_dies(call: Calling, step: &Step) -> Result<bool> {
    let (lone, agent, mut told) = call.about_to().await?;
    let trace = Trace::new(lone.folder());
    let output = trace.wrap(&lone.plugin(call.verb(), "pod"), true, Some(step)).run().await?;
    let died = !output.success();
    let ever = told.values().flatten().copied().collect();
    let checked = async {
        match call {
            Calling::Add => after_add(&lone, &mut told, &output, &trace, step).await?,
            Calling::Del => del(&lone, &mut told, "pod").await?,
            Calling::Bury => {
                del(&lone, &mut told, "pod").await?;
                lone.restart(&agent).await?;
                lone.holds(&as_held(&told)).await?;
                forgets_halves(&lone).await?;
            }
        }
        settled(&lone, &mut told, &ever).await
    };
    checked.await.with_context(|| format!("{}\nits trace:\n{}", agent.tail(), trace.text()))?;
    Ok(died)
}

/// What was not read is undone although nobody calls DEL. Then the runtime tries again, or gives up with a DEL.
async fn after_add(lone: &Lone, told: &mut Told, output: &Output, trace: &Trace, step: &Step) -> Result<()> {
    let heard = trace.text().contains(r#""{\"reply\":\"given\""#);
    if !heard {
        lone.holds(&as_held(told)).await.context("nobody read the reply")?;
    }
    if output.stdout.contains("ips") {
        let holder = |held: BTreeMap<IpAddr, String>| held.into_iter().filter(|(_, id)| id == "pod");
        told.insert("pod", holder(lone.held()?).map(|(address, _)| address).collect());
        ensure!(told["pod"].iter().all(|address| output.stdout.contains(&address.to_string())), "{output:?}");
    }
    if step.nth.is_multiple_of(2) { add(lone, told, "pod").await } else { del(lone, told, "pod").await }
}

/// A tombstone that was never finished goes once it is old.
async fn forgets_halves(lone: &Lone) -> Result<()> {
    let long_ago = SystemTime::now() - Duration::from_mins(2);
    for half in lone.left() {
        // The agent may be faster with what is whole.
        drop(fs::File::options().append(true).open(half).and_then(|file| file.set_modified(long_ago)));
    }
    until("nothing to be left beside the socket", async || Ok(lone.left().is_empty())).await
}

#[tokio::test]
async fn k1_a_plugin_killed_at_each_step_of_an_add_leaves_nothing_that_nobody_was_told() -> Result<()> {
    kill_the_plugin(Calling::Add, &["connect", "sendto", "recvfrom", "write", "exit_group"]).await
}

#[tokio::test]
async fn a_plugin_killed_at_each_step_of_a_del_is_finished_by_the_next_one() -> Result<()> {
    kill_the_plugin(Calling::Del, &["connect", "sendto", "recvfrom", "exit_group"]).await
}

#[tokio::test]
async fn a_plugin_killed_at_each_step_of_a_tombstone_is_finished_by_the_next_one() -> Result<()> {
    kill_the_plugin(Calling::Bury, &["connect", "openat", "write", "close", "rename", "exit_group"]).await
}
