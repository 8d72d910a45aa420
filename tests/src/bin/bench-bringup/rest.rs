//! Memory with many large Nodes, and CPU when nothing happens.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use cadastre_tests::Proc;

use crate::load::{self, Arrivals};
use crate::meter;
use crate::subject::{Stage, Subject, end};

/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(10);
/// Until a burst is over for the operator too.
const SETTLE: Duration = Duration::from_secs(5);
/// How long nothing happens.
const QUIET: Duration = Duration::from_secs(10);

/// Anonymous memory in MB, CPU in ms.
#[derive(Clone, Debug)]
pub struct Rest {
    pub nodes: u32,
    /// After their creation.
    pub grown: f64,
    /// After a start with all of them present, and the most that was seen while it read them.
    pub started: f64,
    pub most: f64,
    /// In 10 s in which nothing happened.
    pub quiet_cpu: f64,
}

pub async fn measure(nodes: u32) -> Result<Rest> {
    let (cp, operator) = Stage::elected().await?;
    let mut arrivals = Arrivals::watch(cp.admin().await?, Subject::Ours.shows_in());
    let present = load::names(nodes).iter().map(|name| load::large(name)).collect();
    load::prepare(&cp, &mut arrivals, present).await?;
    tokio::time::sleep(SETTLE).await;
    let grown = meter::anonymous_mb(&operator)?;

    end(&operator).await?;
    operator.restart()?;
    let late = load::prepare(&cp, &mut arrivals, vec![load::large("late")]);
    let most = peak(&operator, late).await?;
    tokio::time::sleep(SETTLE).await;
    let started = meter::anonymous_mb(&operator)?;
    let quiet_cpu = quiet(&operator).await?;
    Ok(Rest { nodes, grown, started, most, quiet_cpu })
}

/// The most memory that was seen while `work` was under way.
async fn peak(operator: &Proc, work: impl Future<Output = Result<()>>) -> Result<f64> {
    let (mut most, mut looks) = (0.0_f64, tokio::time::interval(LOOK));
    let mut work = pin!(work);
    loop {
        tokio::select! {
            ended = &mut work => return ended.map(|()| most),
            _ = looks.tick() => most = most.max(meter::anonymous_mb(operator)?),
        }
    }
}

async fn quiet(operator: &Proc) -> Result<f64> {
    let before = meter::cpu_ms(operator)?;
    tokio::time::sleep(QUIET).await;
    Ok(meter::cpu_ms(operator)? - before)
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, grown, started, most, quiet_cpu } = self;
        write!(f, "{nodes} Nodes of 10 KB: {grown:.1} MB after their creation, {started:.1} MB after a restart, ")?;
        write!(f, "{most:.1} MB at most while it starts; {quiet_cpu} ms of CPU in 10 s of quiet")
    }
}
