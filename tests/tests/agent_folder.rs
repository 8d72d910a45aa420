//! The agent's state folder taken away from under it: full, read-only, broken, removed, replaced. An ADD fails and says
//! why, a DEL succeeds and is remembered, STATUS is 50; and once the folder is well so is the agent, by itself.
//!
//! What must not touch this machine happens in a mount namespace that a process of the test's own keeps: it outlives the
//! agents in it, and not the test.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cadastre_messages::Failure;
use cadastre_tests::{DUAL_STACK, Lone, Proc, Program, Seed, Trace, holders, thread_of, until};
use serde_json::Value;
use tokio::sync::OnceCell;

/// What changes a file, or its place.
const WRITES: &str = "pwrite64,fallocate,ftruncate,rename";

async fn seed() -> Result<&'static Seed> {
    static SEED: OnceCell<Seed> = OnceCell::const_new();
    SEED.get_or_try_init(|| Seed::new(DUAL_STACK)).await
}

/// Who was told what, and has not given it up since.
type Told = BTreeMap<String, Vec<IpAddr>>;

fn as_held(told: &Told) -> BTreeMap<IpAddr, String> {
    holders(told.iter().map(|(id, addresses)| (id.as_str(), addresses.as_slice())))
}

/// A node with an agent, and two pods on it.
async fn with_two_pods(lone: &Lone) -> Result<(Proc, Told)> {
    let agent = lone.start().await?;
    let mut told = Told::new();
    for id in ["old", "pod"] {
        told.insert(id.to_owned(), lone.add(id).await?);
    }
    Ok((agent, told))
}

async fn two_pods() -> Result<(Lone, Proc, Told)> {
    let lone = Lone::new(seed().await?)?;
    let (agent, told) = with_two_pods(&lone).await?;
    Ok((lone, agent, told))
}

/// What a call is refused with, which names `why`.
async fn refused(lone: &Lone, verb: &str, id: &str, code: u32, why: &str) -> Result<()> {
    let error = lone.call(verb, id).await?.err().with_context(|| format!("{verb} of {id} succeeded"))?;
    let said = error["msg"].as_str().unwrap_or_default();
    ensure!(error["code"] == code && said.contains(why), "{verb}: {error}");
    ensure!(error["details"].as_str().is_some_and(|remedy| !remedy.is_empty()), "no remedy: {error}");
    Ok(())
}

/// No ADD can be served, and that is said; `pod` goes all the same.
async fn suffers(lone: &Lone, told: &mut Told, why: &str) -> Result<()> {
    refused(lone, "ADD", "new", 11, why).await?;
    refused(lone, "STATUS", "any", 50, why).await?;
    lone.del("pod").await?;
    told.remove("pod");
    lone.holds(&as_held(told)).await
}

async fn is_well(lone: &Lone) -> Result<bool> {
    let answer: Result<_, Value> = lone.call("STATUS", "any").await?;
    Ok(answer.is_ok())
}

/// Nobody restarts anything: a pass finds out. Then the next agent knows what this one said.
async fn recovers(lone: &Lone, agent: &Proc, told: &mut Told) -> Result<()> {
    until("STATUS to be well again", async || is_well(lone).await).await.with_context(|| agent.tail())?;
    remembers(lone, agent, told).await
}

/// What was told outlives this agent, somebody new gets what nobody has, and in the end nothing is held.
async fn remembers(lone: &Lone, agent: &Proc, told: &mut Told) -> Result<()> {
    told.insert("later".into(), lone.add("later").await?);
    let all: usize = told.values().map(Vec::len).sum();
    ensure!(as_held(told).len() == all, "an address was told twice: {told:?}");
    lone.restart(agent).await?;
    lone.holds(&as_held(told)).await.with_context(|| agent.tail())?;
    for (id, addresses) in told.iter() {
        ensure!(lone.add(id).await? == *addresses, "{id} was told {addresses:?}");
    }
    ensure!(lone.report()?.journal.ok, "{:?}", lone.report()?.journal);
    lone.end().await
}

/// A small file system at the state folder, in a mount namespace of its own.
struct Small {
    lone: Lone,
    keeper: Proc,
}

impl Small {
    /// The agent's folder has that many KiB.
    async fn new(kib: u32) -> Result<Self> {
        let lone = Lone::new(seed().await?)?;
        let script = r#"mount -t tmpfs -o "size=$1k,mode=700" cadastre "$0" && echo mounted && exec sleep infinity"#;
        let keeper = Program::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", script]);
        let keeper = keeper.arg(lone.state()).arg(kib.to_string()).start(lone.folder(), "keeper")?;
        keeper.wait_log(Duration::from_secs(20), "mounted").await?;
        let small = Self { lone, keeper };
        fs::copy(small.lone.journal(), small.folder().join("journal"))?;
        let lone = small.lone.agent_under(Program::new("nsenter").arg(enter(&small.keeper)));
        Ok(Self { lone, keeper: small.keeper })
    }

    /// The state folder as the agent sees it.
    fn folder(&self) -> PathBuf {
        let state = self.lone.state();
        let root = format!("/proc/{}/root", self.keeper.pid());
        Path::new(&root).join(state.strip_prefix("/").unwrap_or(&state))
    }

    async fn remount(&self, how: &str) -> Result<()> {
        let mount = Program::new("nsenter").arg(enter(&self.keeper)).args(["mount", "-o", &format!("remount,{how}")]);
        mount.arg(self.lone.state()).run().await?.ok().map(drop)
    }

    /// Uses up what is free.
    fn fill(&self) -> Result<()> {
        let mut filler = fs::File::create(self.folder().join("filler"))?;
        for bytes in [4_096, 512, 1] {
            while filler.write_all(&vec![0; bytes]).is_ok() {}
        }
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.folder().join("filler"))?)
    }
}

fn enter(keeper: &Proc) -> String {
    format!("--mount=/proc/{}/ns/mnt", keeper.pid())
}

/// ADDs, with large records first, until there is no room for the smallest. How that one failed.
fn use_up(lone: &Lone, told: &mut Told) -> Result<Failure> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let mut failure = None;
    for bytes in [2_000, 100, 1] {
        loop {
            let id = format!("c{}", NUMBER.fetch_add(1, Ordering::Relaxed));
            match lone.ask_add(&id, &format!("/{}", "x".repeat(bytes)))? {
                Ok(given) => drop(told.insert(id, given)),
                Err(refused) => {
                    failure = Some(refused);
                    break;
                }
            }
        }
    }
    failure.context("the disk never became full")
}

#[tokio::test]
async fn k3_on_a_full_disk_adds_fail_and_every_del_is_recorded() -> Result<()> {
    let small = Small::new(256).await?;
    let lone = &small.lone;
    let (agent, mut told) = with_two_pods(lone).await?;
    small.fill()?;
    let failure = use_up(lone, &mut told)?;
    let full = "No space left on device";
    ensure!(failure.code == 11 && failure.msg.contains(full) && failure.msg.contains("journal"), "{failure:?}");
    suffers(lone, &mut told, full).await?;
    // Another agent on the full disk, which has not even a lock yet.
    lone.restart(&agent).await?;
    lone.holds(&as_held(&told)).await?;
    use_up(lone, &mut told)?;
    // Everybody but "old" goes, and that is still known when this agent dies too.
    let goes: Vec<String> = told.keys().filter(|id| *id != "old").cloned().collect();
    for id in goes {
        lone.ask_del(&id)?;
        told.remove(&id);
    }
    agent.kill9();
    small.make_room()?;
    lone.restart(&agent).await?;
    lone.holds(&as_held(&told)).await.with_context(|| agent.tail())?;
    recovers(lone, &agent, &mut told).await
}

#[tokio::test]
async fn k3_an_agent_recovers_by_itself_once_the_disk_has_room() -> Result<()> {
    let small = Small::new(256).await?;
    let lone = &small.lone;
    let (agent, mut told) = with_two_pods(lone).await?;
    small.fill()?;
    use_up(lone, &mut told)?;
    suffers(lone, &mut told, "No space left on device").await?;
    // What was released is recorded, so that nothing but a pass finds out.
    use_up(lone, &mut told)?;
    refused(lone, "STATUS", "any", 50, "No space left on device").await?;
    small.make_room()?;
    recovers(lone, &agent, &mut told).await
}

#[tokio::test]
async fn a_disk_that_turns_read_only_or_breaks_is_told_and_mends() -> Result<()> {
    for (errno, said) in [("EROFS", "Read-only file system"), ("EIO", "Input/output error")] {
        let (lone, agent, mut told) = two_pods().await?;
        let trace = Trace::new(lone.folder());
        let strace = trace.fail(thread_of(&agent, "serve")?, WRITES, errno).await?;
        suffers(&lone, &mut told, said).await.with_context(|| agent.tail())?;
        strace.term();
        strace.wait_exit(Duration::from_secs(20)).await?;
        recovers(&lone, &agent, &mut told).await.with_context(|| errno.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_started_on_a_read_only_folder_serves_once_it_is_writable() -> Result<()> {
    let small = Small::new(1_024).await?;
    let lone = &small.lone;
    let (agent, mut told) = with_two_pods(lone).await?;
    agent.kill9();
    small.remount("ro").await?;
    agent.restart()?;
    refused(lone, "ADD", "new", 11, "").await?;
    refused(lone, "STATUS", "any", 50, "").await?;
    lone.del("pod").await?;
    told.remove("pod");
    small.remount("rw").await?;
    // If it ended, the kubelet starts it again.
    if !agent.is_running() {
        agent.restart()?;
    }
    recovers(lone, &agent, &mut told).await?;
    until("the tombstone to be replayed", async || Ok(lone.left().is_empty())).await
}

#[tokio::test]
async fn a_state_folder_that_is_removed_is_made_again() -> Result<()> {
    let (lone, agent, mut told) = two_pods().await?;
    fs::remove_dir_all(lone.state())?;
    told.insert("new".into(), lone.add("new").await?);
    lone.del("pod").await?;
    told.remove("pod");
    lone.restart(&agent).await?;
    lone.holds(&as_held(&told)).await.with_context(|| agent.tail())?;
    // Nobody calls: a pass sees it.
    fs::remove_dir_all(lone.state())?;
    until("the journal to be there again", async || Ok(lone.journal().exists())).await?;
    lone.restart(&agent).await?;
    lone.holds(&as_held(&told)).await.with_context(|| agent.tail())?;
    recovers(&lone, &agent, &mut told).await
}

#[tokio::test]
async fn everything_removed_socket_and_all_is_made_again() -> Result<()> {
    let (lone, agent, mut told) = two_pods().await?;
    fs::remove_dir_all(lone.state())?;
    fs::remove_dir_all(lone.socket().parent().context("a socket without a folder")?)?;
    // The plugin waits for the socket.
    told.insert("new".into(), lone.add("new").await.with_context(|| agent.tail())?);
    lone.del("pod").await?;
    told.remove("pod");
    recovers(&lone, &agent, &mut told).await
}

#[tokio::test]
async fn a_file_in_place_of_the_state_folder_is_told_and_mends() -> Result<()> {
    let (lone, agent, mut told) = two_pods().await?;
    fs::remove_dir_all(lone.state())?;
    fs::write(lone.state(), "in the way")?;
    suffers(&lone, &mut told, &lone.state().display().to_string()).await.with_context(|| agent.tail())?;
    fs::remove_file(lone.state())?;
    recovers(&lone, &agent, &mut told).await
}

#[tokio::test]
async fn status_says_so_before_anybody_asks_for_an_address() -> Result<()> {
    let (lone, agent, mut told) = two_pods().await?;
    fs::remove_dir_all(lone.state())?;
    fs::write(lone.state(), "in the way")?;
    until("STATUS 50", async || Ok(!is_well(&lone).await?)).await.with_context(|| agent.tail())?;
    fs::remove_file(lone.state())?;
    recovers(&lone, &agent, &mut told).await
}

#[tokio::test]
async fn k3_repeated_adds_leave_room_for_every_del() -> Result<()> {
    let small = Small::new(256).await?;
    let lone = &small.lone;
    let (agent, mut told) = with_two_pods(lone).await?;
    small.fill()?;
    use_up(lone, &mut told)?;
    // Each names another namespace, as runtimes do that make a sandbox anew.
    for number in 0..200 {
        if lone.ask_add("old", &format!("/{number}/{}", "x".repeat(500)))?.is_err() {
            break;
        }
    }
    for id in told.keys() {
        lone.ask_del(id)?;
    }
    agent.kill9();
    small.make_room()?;
    lone.restart(&agent).await?;
    lone.holds(&BTreeMap::new()).await.with_context(|| agent.tail())
}

/// What an agent must not trust: others could write there, and give addresses away.
#[derive(Clone, Copy, Debug)]
enum Open {
    Mode,
    Owner,
}

impl Open {
    fn set(self, folder: &Path, open: bool) -> Result<()> {
        let mode = fs::Permissions::from_mode(if open { 0o777 } else { 0o700 });
        match self {
            Self::Mode => fs::set_permissions(folder, mode)?,
            Self::Owner => chown(folder, Some(if open { 65_534 } else { 0 }), None)?,
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_state_folder_that_others_may_write_to_is_told_and_mends() -> Result<()> {
    for open in [Open::Mode, Open::Owner] {
        let (lone, agent, mut told) = two_pods().await?;
        open.set(&lone.state(), true)?;
        until("STATUS 50", async || Ok(!is_well(&lone).await?)).await.with_context(|| format!("{open:?}"))?;
        suffers(&lone, &mut told, &lone.state().display().to_string()).await?;
        open.set(&lone.state(), false)?;
        recovers(&lone, &agent, &mut told).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_started_on_a_folder_that_others_may_write_to_serves_once_it_is_closed() -> Result<()> {
    for open in [Open::Mode, Open::Owner] {
        let (lone, agent, mut told) = two_pods().await?;
        agent.kill9();
        open.set(&lone.state(), true)?;
        lone.restart(&agent).await?;
        refused(&lone, "ADD", "new", 11, &lone.state().display().to_string()).await?;
        refused(&lone, "STATUS", "any", 50, "").await?;
        lone.del("pod").await?;
        told.remove("pod");
        open.set(&lone.state(), false)?;
        recovers(&lone, &agent, &mut told).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_that_cannot_read_its_journal_serves_once_it_can() -> Result<()> {
    let (lone, agent, mut told) = two_pods().await?;
    agent.kill9();
    let aside = lone.folder().join("aside");
    fs::rename(lone.journal(), &aside)?;
    fs::create_dir(lone.journal())?;
    lone.restart(&agent).await?;
    refused(&lone, "ADD", "new", 11, &lone.journal().display().to_string()).await?;
    refused(&lone, "STATUS", "any", 50, "").await?;
    lone.del("pod").await?;
    told.remove("pod");
    fs::remove_dir(lone.journal())?;
    fs::rename(&aside, lone.journal())?;
    recovers(&lone, &agent, &mut told).await
}

#[tokio::test]
async fn a_del_that_could_not_be_recorded_is_remembered_after_a_kill() -> Result<()> {
    let (lone, agent, mut told) = two_pods().await?;
    // The tombstones' folder is well.
    let trace = Trace::new(lone.folder());
    let calls = "pwrite64,fallocate,ftruncate";
    let _strace = trace.fail(thread_of(&agent, "serve")?, calls, "EIO").await?;
    suffers(&lone, &mut told, "Input/output error").await.with_context(|| agent.tail())?;
    agent.kill9();
    lone.restart(&agent).await?;
    lone.holds(&as_held(&told)).await.with_context(|| agent.tail())?;
    remembers(&lone, &agent, &mut told).await
}

#[tokio::test]
async fn a_del_while_the_journal_cannot_be_read_is_remembered_after_a_kill() -> Result<()> {
    let (lone, agent, mut told) = two_pods().await?;
    agent.kill9();
    let aside = lone.folder().join("aside");
    fs::rename(lone.journal(), &aside)?;
    fs::create_dir(lone.journal())?;
    lone.restart(&agent).await?;
    lone.del("pod").await?;
    told.remove("pod");
    agent.kill9();
    fs::remove_dir(lone.journal())?;
    fs::rename(&aside, lone.journal())?;
    lone.restart(&agent).await?;
    lone.holds(&as_held(&told)).await.with_context(|| agent.tail())?;
    remembers(&lone, &agent, &mut told).await
}
