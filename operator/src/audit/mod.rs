//! `cadastre-operator audit`: an independent look at who holds which block. What the ledger records, what `IPAMNode`s say,
//! what agents report, which Nodes there are and which addresses Pods have is compared, without the engine.
//!
//! ```text
//! observe::world ─▶ ledger, IPAMNodes, Nodes ─┐
//! Pods, if they may be listed ────────────────┴─▶ compare ─▶ findings, twice ─▶ those that both looks show
//! ```
//! Without what cannot be read the rest is compared, and the outcome says so.

mod compare;
mod fix;
mod pods;
mod show;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use cadastre_engine::World;
use cadastre_runtime::{AuditVerdict, PodSeen};
use kube::Client;
use serde::Serialize;

use crate::node_view::Selector;
use crate::observe::{self, Patience};
use crate::onlooker::{LookError, connect};
use crate::requests::Requests;
use crate::run::COMPONENT;
use compare::compare;
use fix::Fix;

/// Between the two looks: longer than the operator takes from a commit to the last `IPAMNode` of its batch.
const PAUSE: Duration = Duration::from_secs(5);

/// Why nothing could be said, or mended.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Look(#[from] LookError),
    #[error("there is no finding {0} (any more): run audit without --fix")]
    NoSuch(String),
    #[error("{id} cannot be mended from here: {remedy}")]
    NoFix { id: String, remedy: String },
    #[error("{id}: {why}: run the audit again")]
    NotFixed { id: String, why: String },
}

/// Something that should not be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// `kind/object`: the same thing found again has the same.
    pub id: String,
    pub what: String,
    pub remedy: String,
    /// What `--fix` would do, if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
}

/// What was looked at, and found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub findings: Vec<Finding>,
    pub nodes: usize,
    /// Blocks of the ledger that are not free.
    pub blocks: usize,
    /// None if they could not be listed.
    pub pods: Option<usize>,
    /// What could not be read, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl Outcome {
    pub fn verdict(&self) -> AuditVerdict {
        AuditVerdict::of(!self.findings.is_empty(), self.trouble.is_some())
    }
}

/// One look at everything.
struct Sight {
    world: World,
    /// Or why they cannot be listed.
    pods: Result<Vec<PodSeen>, String>,
}

impl Sight {
    fn findings(&self) -> Vec<Finding> {
        compare(&self.world, self.pods.as_deref().unwrap_or_default())
    }

    fn unread(&self) -> BTreeSet<String> {
        let World { config, pages, ipam_nodes, .. } = &self.world;
        // Which of them has to say what the other says, the mode decides.
        let modeless = config.is_none() && !(pages.is_empty() && ipam_nodes.is_empty());
        let modeless = modeless.then(|| "the mode: there is no IPAMConfig".to_owned());
        let pods = self.pods.as_ref().err().map(|why| format!("Pods: {why}; an administrator may list them"));
        modeless.into_iter().chain(pods).collect()
    }
}

/// Looks twice, and mends the finding `id` if there is one to be mended.
pub async fn audit(file: &Path, id: Option<&str>) -> Result<Outcome, AuditError> {
    let (_, client) = connect(file).await?;
    let (mut outcome, world) = look_twice(&client).await?;
    if let Some(id) = id {
        let named = outcome.findings.iter().position(|finding| finding.id == id);
        let Finding { id, what: _, remedy, fix } =
            outcome.findings.remove(named.ok_or_else(|| AuditError::NoSuch(id.to_owned()))?);
        let fix = fix.ok_or(AuditError::NoFix { id: id.clone(), remedy })?;
        let requests = Requests::new(client, COMPONENT.to_owned(), Selector::default());
        fix.carry_out(&requests, &world).await.map_err(|why| AuditError::NotFixed { id, why })?;
    }
    Ok(outcome)
}

/// What only one look shows is a change under way.
pub async fn look_twice(client: &Client) -> Result<(Outcome, World), AuditError> {
    let mut sight = look(client).await?;
    let (mut findings, mut unread) = (sight.findings(), sight.unread());
    if !findings.is_empty() {
        tokio::time::sleep(PAUSE).await;
        sight = look(client).await?;
        let second = sight.findings();
        findings = second.into_iter().filter(|finding| findings.iter().any(|first| first.id == finding.id)).collect();
        // What the first look could not read is in no finding of both.
        unread.extend(sight.unread());
    }
    let Sight { world, pods } = sight;
    let outcome = Outcome {
        findings,
        nodes: world.nodes.len(),
        blocks: world.pages.iter().map(|page| page.spec.entries.len()).sum(),
        pods: pods.ok().map(|pods| pods.len()),
        trouble: (!unread.is_empty()).then(|| unread.into_iter().collect::<Vec<_>>().join("; ")),
    };
    Ok((outcome, world))
}

async fn look(client: &Client) -> Result<Sight, LookError> {
    let (world, _) = observe::world(client, Selector::default(), &Patience::None).await?;
    Ok(Sight { world, pods: pods::list(client).await })
}

#[cfg(test)]
mod tests {
    use cadastre_api::{IPAMConfig, IPAMConfigSpec, IPAMNode, IPAMNodeSpec, Mode, NodeIpam};

    use super::*;

    #[test]
    fn what_is_not_compared_is_said() {
        let unread = |world, pods: Result<Vec<PodSeen>, String>| {
            Sight { world, pods }.unread().into_iter().collect::<Vec<_>>().join("; ")
        };
        assert_eq!(unread(World::default(), Ok(vec![])), "", "nothing is installed yet");
        let no = Err("forbidden".to_owned());
        assert_eq!(unread(World::default(), no), "Pods: forbidden; an administrator may list them");
        let spec = IPAMNodeSpec {
            mode: Mode::Kubernetes,
            node_uid: String::new(),
            addresses: vec![],
            ipam: NodeIpam { allocated: vec![], pod_cidrs: vec![] },
        };
        let mut world = World { ipam_nodes: vec![IPAMNode::new("a", spec)], ..World::default() };
        assert_eq!(unread(world.clone(), Ok(vec![])), "the mode: there is no IPAMConfig");
        world.config = Some(IPAMConfig::new("cluster", IPAMConfigSpec { mode: Mode::Kubernetes }));
        assert_eq!(unread(world, Ok(vec![])), "");
    }
}
