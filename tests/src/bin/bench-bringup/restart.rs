//! From the start of an operator's process until a node that was created at that moment has its block.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use cadastre_tests::{ControlPlane, Proc};

use crate::burst::seconds;
use crate::load::{self, Arrivals};
use crate::meter::Requests;
use crate::subject::{Stage, Subject, end};

/// As Kubernetes' own components have it.
pub const LEASE: Duration = Duration::from_secs(15);
/// What is written once a second was written by then.
const SETTLE: Duration = Duration::from_millis(2500);

/// How the process before ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It gave its Lease back.
    Term,
    /// It did not, and its successor is another pod.
    Kill,
}

/// One restart.
#[derive(Clone, Debug)]
pub struct Restart {
    pub after: After,
    pub nodes: u32,
    pub seconds: f64,
    /// To `IPAMNode`s and ledger; one each is the new node's.
    pub writes: f64,
}

pub async fn measure(nodes: u32) -> Result<Vec<Restart>> {
    let (cp, operator) = Stage::elected().await?;
    let mut arrivals = Arrivals::watch(cp.admin().await?, Subject::Ours.shows_in());
    let present = load::names(nodes).iter().map(|name| load::small(name)).collect();
    load::prepare(&cp, &mut arrivals, present).await?;
    tokio::time::sleep(SETTLE).await;

    end(&operator).await?;
    let term = restart(&cp, &operator, &mut arrivals, After::Term, nodes).await?;
    operator.kill9();
    let kill = restart(&cp, &operator, &mut arrivals, After::Kill, nodes).await?;
    Ok(vec![term, kill])
}

async fn restart(
    cp: &ControlPlane,
    operator: &Proc,
    arrivals: &mut Arrivals,
    after: After,
    nodes: u32,
) -> Result<Restart> {
    let before = Requests::so_far(cp).await?;
    let name = format!("after-{after:?}").to_lowercase();
    let start = Instant::now();
    operator.restart()?;
    load::create_node(&cp.admin().await?, &load::small(&name)).await?;
    let seen = arrivals.wait(&[name]).await?;
    tokio::time::sleep(SETTLE).await;
    let requests = Requests::so_far(cp).await?.since(&before);
    let seconds = seen.first().map_or(0.0, |seen| seconds(*seen - start));
    let writes = requests.writes_of("ipamnodes") + requests.writes_of("ipamledgers");
    Ok(Restart { after, nodes, seconds, writes })
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { after, nodes, seconds, writes } = self;
        write!(f, "restart with {nodes} nodes after {after:?}: {seconds:.2} s, {writes} writes")
    }
}
