//! Two operators without election, and 500 Nodes that wait for them: the race in which others give one block to two
//! nodes. Both start at the same moment; then once with one of them slower, and once with only its writes slower, so that
//! what it decides is old when it arrives.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use cadastre_tests::{AuditEvent, ControlPlane, DUAL_STACK, Fault, NodeBuilder, OPERATOR, Proxy, node, until};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;

const NODES: usize = 500;
/// Enough where one operator is slow: what matters is what the other does meanwhile.
const FEWER: usize = 250;
/// Then so many come, and half as many go, so often and at once, so that the two see different worlds.
const ROUNDS: usize = 5;
const MORE: usize = 20;

/// No write for this long means that there will be none: the operators look around each second.
const SETTLED: Duration = Duration::from_secs(3);
/// So often is looked for that.
const LOOKS: usize = 20;

#[tokio::test]
async fn two_operators_at_once_serve_five_hundred_nodes_once() -> Result<()> {
    race(NODES, None, None).await
}

#[tokio::test]
async fn of_two_operators_one_hears_and_says_everything_later() -> Result<()> {
    race(FEWER, Some(Fault::Slow(Duration::from_millis(50))), Some(Fault::Late(Duration::from_millis(50)))).await
}

#[tokio::test]
async fn of_two_operators_one_writes_what_it_decided_long_ago() -> Result<()> {
    race(FEWER, None, Some(Fault::Late(Duration::from_millis(700)))).await
}

/// The second operator's reads and writes go through a proxy with these faults.
async fn race(count: usize, reads: Option<Fault>, writes: Option<Fault>) -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(DUAL_STACK).await?.ok()?;
    let history = cp.history().await?;
    cp.create_nodes(nodes(0..count)).await?;
    let settings = cp.settings_file("settings").await?;
    let program = cp.operator_program(&settings, &["--leader-elect=false"]).await?;
    let proxy = cp.proxy("two").await?;
    slow_down(&proxy, reads, writes);
    let one = program.clone().start(cp.folder(), "one")?;
    let two = proxy.before(program).start(cp.folder(), "two")?;
    served(&cp, count).await?;
    for round in 0..ROUNDS {
        let from = count + round * MORE;
        cp.create_nodes(nodes(from..from + MORE)).await?;
        delete(&cp, round * MORE / 2..(round + 1) * MORE / 2).await?;
    }
    let (all, gone) = (count + ROUNDS * MORE, ROUNDS * MORE / 2);
    served(&cp, all - gone).await?;
    settled(&cp).await?;
    history.check(&cp).await?;
    cp.check_disjoint().await?;
    cp.check_ledger().await?;
    ensure!(history.served() <= all, "{} nodes were given blocks", history.served());
    ensure!(one.is_running() && two.is_running(), "{}\n{}", one.tail(), two.tail());
    let mut writes = BTreeMap::<_, usize>::new();
    for event in cp.audit().await?.into_iter().filter(|event| is_done(event) && event.resource == "ipamnodes") {
        *writes.entry((event.verb, event.subresource)).or_default() += 1;
    }
    let deletes: usize = writes.iter().filter(|((verb, _), _)| verb == "delete").map(|(_, count)| count).sum();
    // What one decided for a Node may arrive when the other has taken it all back, as the Node went: both are done again.
    let again = deletes.saturating_sub(gone);
    // A few, in case that one operator repeats what the other did.
    let most = all + gone + 2 * again + all / 50;
    let done = writes.values().sum::<usize>();
    ensure!(again <= gone && done <= most, "{writes:?} for {all} IPAMNodes, of which {gone} went");
    Ok(())
}

fn nodes(numbers: std::ops::Range<usize>) -> impl Iterator<Item = NodeBuilder> {
    numbers.map(|number| node(&format!("n{number}")).ready(false))
}

async fn delete(cp: &ControlPlane, numbers: std::ops::Range<usize>) -> Result<()> {
    let api = Api::<Node>::all(cp.admin().await?);
    for number in numbers {
        api.delete(&format!("n{number}"), &DeleteParams::default()).await?;
    }
    Ok(())
}

fn slow_down(proxy: &Proxy, reads: Option<Fault>, writes: Option<Fault>) {
    proxy.rule(move |asked| if asked.is_write() { writes } else { reads }.unwrap_or(Fault::Pass));
}

async fn served(cp: &ControlPlane, count: usize) -> Result<()> {
    let served = async || {
        let blocks = cp.blocks().await?;
        Ok(blocks.len() == count && blocks.values().all(|blocks| blocks.len() == 2))
    };
    until(&format!("{count} nodes with both families"), served).await
}

/// Waits until no operator writes any more; if that never comes, says what they write.
async fn settled(cp: &ControlPlane) -> Result<()> {
    let (mut before, mut last) = (0, Vec::new());
    for _ in 0..LOOKS {
        let mut writes = cp.audit().await?;
        writes.retain(|event| event.is_write() && event.user.ends_with(OPERATOR));
        let new = writes.split_off(before.min(writes.len()));
        if new.is_empty() {
            return Ok(());
        }
        before = writes.len() + new.len();
        last = new;
        tokio::time::sleep(SETTLED).await;
    }
    bail!("the operators go on writing: {last:?}")
}

/// An operator's write that changed something.
fn is_done(event: &AuditEvent) -> bool {
    event.is_write() && event.user.ends_with(OPERATOR) && event.code < 300
}
