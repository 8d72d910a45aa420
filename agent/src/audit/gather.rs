//! Collects the evidence: from the agent's socket, from the network namespaces, from the API server.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cadastre_messages::report::Report;
use cadastre_messages::{Call, Netns, Reply};
use cadastre_runtime::{PodSeen, Settings};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

use super::{Evidence, Space};
use crate::command::{AskError, ask_in_time, garbled};
use crate::record::NetnsRecord;
use crate::survey;

/// An API server that does not answer in this time is taken for one that is away.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where to look.
#[derive(Clone, Debug)]
pub struct Sources {
    pub socket: PathBuf,
    /// The folder of the network namespaces.
    pub namespaces: PathBuf,
    /// The settings file, for how the API server is reached.
    pub config: PathBuf,
}

/// One look at everything, and what could not be read, each with the reason.
pub fn gather(sources: &Sources) -> anyhow::Result<(Evidence, BTreeSet<String>)> {
    let report = report(&sources.socket)?;
    let (held, blocks) = Evidence::of_report(&report);
    let spaces = survey::spaces(&sources.namespaces)?.into_iter().map(|(netns, addresses)| {
        let NetnsRecord { path, device, inode, seen: _ } = netns;
        Space { netns: Netns { path, device, inode }, addresses }
    });
    let spaces = spaces.collect();
    let mut unread: BTreeSet<String> = unknown(&report).into_iter().collect();
    let pods = match pods(&sources.config, &report.node) {
        Ok(pods) => Some(pods),
        Err(error) => {
            unread.insert(format!("the API server's Pods: {}", cadastre_runtime::with_causes(error.as_ref())));
            None
        }
    };
    Ok((Evidence { held, blocks, spaces, pods }, unread))
}

/// Why the agent does not know what is held. One whose journal cannot be written knows all the same; one that could not read it
/// has no pools.
fn unknown(Report { journal, pools, .. }: &Report) -> Option<String> {
    (!journal.ok && pools.is_empty()).then(|| format!("what the agent holds: {}", journal.message))
}

fn report(socket: &Path) -> Result<Report, AskError> {
    match ask_in_time(socket, Call::Report)? {
        Reply::Report(report) => Ok(*report),
        other => Err(garbled(socket, &format!("{other:?}"))),
    }
}

/// Pods of this node that have a network of their own.
fn pods(config: &Path, node: &str) -> anyhow::Result<Vec<PodSeen>> {
    let settings = Settings::load(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let list = async {
        let client = cadastre_runtime::client(&settings, cadastre_api::AGENT_MANAGER).await?;
        let of_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        anyhow::Ok(Api::<Pod>::all(client).list(&of_node).await?)
    };
    // The timer has to be made where the runtime is.
    let listed = runtime.block_on(async { tokio::time::timeout(PATIENCE, list).await });
    Ok(listed??.items.iter().filter_map(PodSeen::of).collect())
}

#[cfg(test)]
mod tests {
    use cadastre_messages::report::{Part, Pool};

    use super::*;

    #[test]
    fn an_agent_that_could_not_read_its_journal_says_nothing_by_holding_nothing() {
        let said = |ok, pools| {
            let journal = Part { ok, message: "damaged".into() };
            unknown(&Report { journal, pools, ..Report::default() })
        };
        assert_eq!(said(false, vec![]).as_deref(), Some("what the agent holds: damaged"));
        assert_eq!(said(false, vec![Pool::default()]), None, "the disk is full");
        assert_eq!(said(true, vec![]), None, "nothing is assigned yet");
    }
}
