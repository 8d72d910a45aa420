//! Pods come and go, 20 at a time, on two real nodes while one fault after another is made. After each, the cluster comes to
//! rest, and what is in the pods' namespaces, what the API server, the agents and the ledger say has to be the same: no address
//! twice, none held for nobody, and no pod failed or without one.
//!
//! ```text
//! for each fault:  churn + fault ─▶ rest: 20 pods ready ─▶ audit (tests/src/lab/audit.rs, and the commands of users)
//! then:            no pods ─▶ audit ─▶ the table
//! ```
//!
//! `make soak` does it for longer: `CADASTRE_CHURN` says for how many seconds pods come and go. Where there can be no such
//! cluster, the test says why and passes.

mod away;
mod faults;
mod load;
mod table;

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cadastre_tests::{DUAL_STACK, Failures, Lab, eventually};

use crate::faults::Fault;
use crate::load::{Load, PODS};
use crate::table::Row;

/// Of churn, without what lies between: enough for every fault to hit pods at each step of theirs.
const SECONDS: u32 = 60;
/// Blocks so small that addresses are used again within seconds, and leaks that are looked for more often.
const SMALL: &str = r#"
ipam:
  mode: cluster-pool
  operator: {clusterPoolIPv4PodCIDRList: ["10.0.0.0/8"], clusterPoolIPv4MaskSize: 26, clusterPoolIPv6PodCIDRList: ["fd00::/104"], clusterPoolIPv6MaskSize: 122}
ipv6: {enabled: true}
agent: {extraEnv: [{name: CADASTRE_RECONCILE_SECONDS, value: "5"}]}
"#;
/// Two passes of reconciliation are 30 s apart, the operator looks at everything each minute.
const AUDIT_TIMEOUT: Duration = Duration::from_mins(2);

#[tokio::test]
async fn pods_that_come_and_go_under_faults_leave_no_address_behind() -> Result<()> {
    if !Lab::for_tests()? {
        return Ok(());
    }
    let (seconds, values) = match env::var("CADASTRE_CHURN") {
        Ok(text) => (text.parse().with_context(|| format!("CADASTRE_CHURN={text}"))?, DUAL_STACK),
        Err(_) => (SECONDS, SMALL),
    };
    let span = Duration::from_secs(1) * seconds / u32::try_from(Fault::ALL.len())?;
    let lab = Lab::start().await?;
    lab.upgrade_chart(values, &["--wait", "--timeout=100s"]).await?.ok()?;
    lab.nodes_ready().await?;
    let mut load = Load::new(&lab).await?;
    let mut rows = Vec::new();
    table::head();
    for (number, fault) in Fault::ALL.into_iter().enumerate() {
        let (mut times, mut rested) = (0, Duration::ZERO);
        let away = Box::pin(away::longest(&lab, async {
            times = load.churn(fault.inflict(&lab, span, values)).await?;
            rested = timed(load.rest()).await?;
            Ok(())
        }));
        let away = away.await.with_context(|| fault.name())?;
        let audited = timed(audit(&lab, PODS)).await.with_context(|| format!("audit after: {}", fault.name()))?;
        let failures = Failures::of_pods(&lab, &load::prefix(number)).await?;
        let row = Row { fault, times, tally: load.tally(number), failures, away, rested, audited };
        println!("{row}");
        rows.push(row);
    }
    load.end().await?;
    audit(&lab, 0).await.context("audit without pods")?;
    for row in &rows {
        row.check()?;
    }
    Ok(())
}

async fn timed(work: impl Future<Output = Result<()>>) -> Result<Duration> {
    let started = Instant::now();
    work.await?;
    Ok(started.elapsed())
}

/// Waits until all that is said is the same, and so many Pods have addresses; then the commands have to find nothing.
async fn audit(lab: &Lab, pods: usize) -> Result<()> {
    // The last try may be cut off.
    let mut said = String::new();
    let same = eventually(AUDIT_TIMEOUT, "everybody to say the same", async || {
        let sight = lab.look().await?;
        said = format!("{} Pods have addresses; {:#?}", sight.pods(), sight.verdict());
        ensure!(sight.verdict().is_good() && sight.pods() == pods, "as above");
        Ok(())
    });
    same.await.with_context(|| said.clone())?;
    // A pod of the release that is being replaced cannot be asked.
    lab.release_ready().await?;
    lab.audits_find_nothing().await
}
