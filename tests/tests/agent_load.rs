//! Agents that die at random, and plugins that are replaced, while pods come and go. A model that sees only the replies
//! says what must be so:
//!
//! - what was told to an attachment is its own until its DEL begins, after every restart;
//! - no address is told to two attachments while both have it;
//! - a DEL that succeeded frees, at once or by its tombstone;
//! - after the DEL of all, nothing is held.
//!
//! `make soak` runs both for longer: `CADASTRE_KILLS` and `CADASTRE_ADDS` say for how long, `CADASTRE_SEED` replays.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cadastre_tests::{DUAL_STACK, Lone, Proc, Program, Seed, binary, until};
use futures::future::try_join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::OnceCell;
use tokio::time::timeout;

const CALLERS: usize = 8;
/// Attachments of one caller, so that it seldom waits for itself.
const EACH: usize = 6;
/// More calls than that between two kills would make them rare.
const CALLS_A_LIFE: usize = 12;
/// A plugin killed before this has passed is killed at any step; most live for less.
const LONGEST_PLUGIN: u64 = 6_000;
/// An ADD waits for an agent for 3 s; a slow machine needs some of them for the start of the next.
const AWAY: Duration = Duration::from_secs(1);

async fn seed() -> Result<&'static Seed> {
    static SEED: OnceCell<Seed> = OnceCell::const_new();
    SEED.get_or_try_init(|| Seed::new(DUAL_STACK)).await
}

/// A number that the environment may say otherwise.
fn setting(name: &str, otherwise: u64) -> Result<u64> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(otherwise),
    }
}

/// What the replies say.
#[derive(Debug, Default)]
struct Model {
    /// With a number of its own for each time that it is told, so that the same again is not taken for what it was.
    told: RefCell<BTreeMap<IpAddr, (String, u64)>>,
    number: Cell<u64>,
    calls: Cell<usize>,
    /// Plugins that run, by what they do.
    adding: Cell<usize>,
    killed_plugins: Cell<usize>,
    over: Cell<bool>,
}

impl Model {
    /// This attachment was given these, and had nothing before.
    fn tell(&self, id: &str, addresses: &[IpAddr]) -> Result<()> {
        self.number.set(self.number.get() + 1);
        for address in addresses {
            let other = self.told.borrow_mut().insert(*address, (id.to_owned(), self.number.get()));
            if let Some((other, _)) = other {
                bail!("{address} was told to {id}, and {other} has it");
            }
        }
        Ok(())
    }

    /// From now on nothing is known of what this attachment has.
    fn forget(&self, id: &str) {
        self.told.borrow_mut().retain(|_, (holder, _)| holder != id);
    }

    fn of(&self, id: &str) -> Vec<IpAddr> {
        let told = self.told.borrow();
        told.iter().filter(|(_, (holder, _))| holder == id).map(|(address, _)| *address).collect()
    }

    fn held(&self) -> BTreeMap<IpAddr, String> {
        self.told.borrow().iter().map(|(address, (id, _))| (*address, id.clone())).collect()
    }

    /// What the agent says is held contains all that was told before and is not taken back since.
    fn check(&self, lone: &Lone) -> Result<()> {
        let before = self.told.borrow().clone();
        let held = lone.held()?;
        let now = self.told.borrow();
        for (address, told) in before.iter().filter(|(address, told)| now.get(address) == Some(told)) {
            ensure!(held.get(address) == Some(&told.0), "{address} was told to {told:?}: {held:?}");
        }
        Ok(())
    }
}

/// What a caller knows of one of its attachments.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Has {
    Nothing,
    /// What it was told.
    Told,
    /// Its plugin was killed, or failed.
    Unknown,
}

/// Somebody who attaches and detaches, one after the other.
struct Caller<'a> {
    lone: &'a Lone,
    model: &'a Model,
    random: StdRng,
    name: usize,
    has: [Has; EACH],
}

impl Caller<'_> {
    async fn work(mut self) -> Result<()> {
        while !self.model.over.get() {
            let which = self.random.random_range(0..EACH);
            let add = match self.has[which] {
                Has::Nothing => self.random.random_bool(0.9),
                Has::Told => self.random.random_bool(0.3),
                Has::Unknown => self.random.random_bool(0.5),
            };
            let id = format!("c{}-{which}", self.name);
            let done = if add { self.add(&id, self.has[which]).await } else { self.del(&id).await };
            self.has[which] = done.with_context(|| format!("seed {}", self.name))?;
            self.model.calls.set(self.model.calls.get() + 1);
        }
        for which in (0..EACH).filter(|which| self.has[*which] == Has::Unknown) {
            self.lone.del(&format!("c{}-{which}", self.name)).await?;
        }
        Ok(())
    }

    async fn add(&mut self, id: &str, before: Has) -> Result<Has> {
        self.model.adding.set(self.model.adding.get() + 1);
        let answer = self.call("ADD", id).await;
        self.model.adding.set(self.model.adding.get() - 1);
        let Some(answer) = answer? else { return Ok(if before == Has::Told { before } else { Has::Unknown }) };
        let given = answer.map_err(|error| anyhow::anyhow!("ADD of {id}: {error}"))?;
        let told = self.model.of(id);
        if before == Has::Told {
            ensure!(told == given, "{id} was told {told:?}, then {given:?}");
        } else {
            self.model.tell(id, &given)?;
        }
        Ok(Has::Told)
    }

    async fn del(&mut self, id: &str) -> Result<Has> {
        self.model.forget(id);
        match self.call("DEL", id).await? {
            Some(Ok(_)) => Ok(Has::Nothing),
            Some(Err(error)) => bail!("DEL of {id}: {error}"),
            None => Ok(Has::Unknown),
        }
    }

    /// Calls the plugin, unless it is killed: one in ten is, at any moment of its life.
    async fn call(&mut self, verb: &str, id: &str) -> Result<Option<Result<Vec<IpAddr>, serde_json::Value>>> {
        let call = self.lone.call(verb, id);
        if !self.random.random_bool(0.1) {
            return call.await.map(Some);
        }
        let life = Duration::from_micros(self.random.random_range(0..LONGEST_PLUGIN));
        if let Ok(answer) = tokio::time::timeout(life, call).await {
            return answer.map(Some);
        }
        self.model.killed_plugins.set(self.model.killed_plugins.get() + 1);
        Ok(None)
    }
}

/// Kills the agent again and again, and looks after each start whether it knows what was told.
async fn kill(lone: &Lone, agent: &Proc, model: &Model, random: &mut StdRng, kills: u64) -> Result<()> {
    for kill in 0..kills {
        let enough = model.calls.get() + random.random_range(0..CALLS_A_LIFE);
        until("calls", async || Ok(model.calls.get() >= enough)).await?;
        // Not always just after a call.
        tokio::time::sleep(Duration::from_micros(random.random_range(0..4_000))).await;
        agent.kill9();
        if random.random_bool(0.25) {
            let missed = async || Ok(!lone.left().is_empty() || model.adding.get() == CALLERS);
            // Whether or not there was one.
            let _missed = timeout(AWAY, until("a DEL without an agent", missed)).await;
        }
        lone.restart(agent).await?;
        model.check(lone).with_context(|| format!("after kill {kill}\n{}", agent.tail()))?;
    }
    model.over.set(true);
    Ok(())
}

#[tokio::test]
async fn agents_killed_at_random_keep_every_word_they_gave() -> Result<()> {
    let kills = setting("CADASTRE_KILLS", 100)?;
    let number = setting("CADASTRE_SEED", rand::random())?;
    println!("seed {number}");
    let lone = Lone::new(seed().await?)?;
    let agent = lone.start().await?;
    let model = Model::default();
    let mut random = StdRng::seed_from_u64(number);
    let caller = |name| {
        let random = StdRng::seed_from_u64(number.wrapping_add(1 + name as u64));
        Caller { lone: &lone, model: &model, random, name, has: [Has::Nothing; EACH] }.work()
    };
    let callers = try_join_all((0..CALLERS).map(caller));
    let killed = async { tokio::try_join!(callers, kill(&lone, &agent, &model, &mut random, kills)) };
    killed.await.with_context(|| format!("seed {number}\n{}", agent.tail()))?;

    let log = agent.log();
    ensure!(
        log.matches("restored from the journal").count() as u64 == kills + 1,
        "not every life began with a journal"
    );
    lone.holds(&model.held()).await.with_context(|| format!("seed {number}: at the end"))?;
    println!(
        "{kills} kills, {} calls, {} plugins killed, {} held at the end; torn batches cut off: {}",
        model.calls.get(),
        model.killed_plugins.get(),
        model.held().len(),
        log.matches("a torn batch").count()
    );
    lone.end().await?;
    until("no tombstone to be left", async || {
        Ok(lone.left().iter().all(|path| path.extension() != Some("json".as_ref())))
    })
    .await
}

/// Puts another file in the plugin's place, as its installer does; a process of its own, for a file that this one writes
/// to could not be executed while another thread forks.
async fn replace(target: &Path) -> Result<()> {
    let ours = binary("cadastre")?;
    let aside = target.with_extension("partial");
    let script = r#"cp "$0" "$1" && mv "$1" "$2""#;
    Program::new("sh").args(["-c", script]).arg(ours).arg(aside).arg(target).run().await?.ok().map(drop)
}

#[tokio::test]
async fn d11_a_plugin_replaced_again_and_again_fails_no_add() -> Result<()> {
    let adds = setting("CADASTRE_ADDS", 2_000)?;
    let lone = Lone::new(seed().await?)?;
    let installed = lone.folder().join("cadastre");
    replace(&installed).await?;
    let lone = lone.with_plugin(&installed);
    let _agent = lone.start().await?;
    let done = Cell::new(0);
    let caller = async |name: usize| {
        while done.get() < adds {
            done.set(done.get() + 1);
            let id = format!("c{name}");
            lone.add(&id).await.with_context(|| format!("ADD {}", done.get()))?;
            lone.ask_del(&id)?;
        }
        anyhow::Ok(())
    };
    let mut replaced = 0;
    let replacing = async {
        while done.get() < adds {
            replace(&installed).await?;
            replaced += 1;
            // A hundred times in 10,000.
            let next = (replaced * 100).min(adds);
            until("more ADDs", async || Ok(done.get() >= next)).await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(try_join_all((0..CALLERS).map(caller)), replacing)?;
    println!("{adds} ADDs, replaced {replaced} times");
    ensure!(replaced * 100 >= adds, "replaced {replaced} times");
    lone.end().await
}
