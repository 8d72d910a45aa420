//! The documentation is true: every command of README.md and docs/usage is run here, in the order of its page, and prints what the
//! page shows; values and network configurations are accepted. A command that nobody runs is a failure.

mod flannel;
mod fragments;
mod page;
mod session;
mod shape;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use cadastre_tests::Lab;

use crate::page::Page;
use crate::session::Session;

/// On one cluster, which has nothing at first, and again before the last one. Some show what an agent says after a while: they come
/// when it has passed.
const IN_ORDER: [&str; 19] = [
    "docs/usage/install.md",
    "docs/usage/cluster-pool.md",
    "docs/usage/changing-modes.md",
    "docs/usage/plan.md",
    "docs/usage/audit.md",
    "docs/usage/monitoring.md",
    "docs/usage/metrics.md",
    "docs/usage/permissions.md",
    "docs/usage/values.md",
    "docs/usage/failures.md",
    "docs/usage/cni.md",
    "docs/usage/node-network.md",
    "docs/usage/health.md",
    "docs/usage/restoring-a-backup.md",
    "docs/usage/status.md",
    "docs/usage/new-nodes.md",
    "docs/usage/upgrade.md",
    "docs/usage/uninstall.md",
    "README.md",
];

#[tokio::test]
async fn the_commands_do_what_the_pages_say() -> Result<()> {
    if !Lab::for_tests()? {
        return Ok(());
    }
    let lab = Lab::start().await?;
    let session = Session::new(&lab)?;
    session.file("backup.db", std::fs::read(lab.cp.snapshot("backup").await?)?)?;
    session.follow(&IN_ORDER).await
}

#[test]
fn each_page_is_run_and_what_is_left_alone_has_a_reason() -> Result<()> {
    let run: BTreeSet<&str> = IN_ORDER.into_iter().chain(flannel::PAGES).collect();
    let pages = Page::all()?;
    let mut left_alone = Vec::new();
    for page in &pages {
        ensure!(run.contains(page.name.as_str()), "nobody runs {}", page.name);
        for (item, block) in page.blocks().filter(|(_, block)| block.is_commands()) {
            left_alone.extend(block.not_run.iter().map(|reason| format!("{}:{}: {reason}", page.name, item.line)));
        }
    }
    assert_eq!(pages.len(), run.len(), "{run:?}");
    assert!(left_alone.len() <= 2, "so few that one knows them: {left_alone:#?}");
    Ok(())
}
