//! `cadastre-operator check-config`: what the settings come to, and whether the cluster would take them.

use std::fmt::Write as _;
use std::path::Path;

use cadastre_api::{AdmittedCidr, IPAMConfig, IPAMNode};
use cadastre_engine::{Refusal, refusals};
use cadastre_runtime::{ClientError, Settings, SettingsError};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use crate::node_view::Selector;
use crate::requests::Requests;
use crate::run::COMPONENT;
use crate::settings::engine_settings;
use crate::standby::recorded;

/// Nodes that are named before the rest is counted.
const NAMED: usize = 5;

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("what the cluster records cannot be read: {0}")]
    Recorded(String),
    #[error("IPAMNodes cannot be read")]
    Nodes(#[source] kube::Error),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The settings, for people; the cluster, if asked, would take them.
    Good(String),
    /// Why the cluster would not take them.
    Refused(String),
}

/// Checks a settings file, and if `live` against what the cluster records.
pub async fn check(file: &Path, live: bool) -> Result<Verdict, CheckError> {
    let settings = Settings::load_values(file)?;
    if !live {
        return Ok(Verdict::Good(settings.to_string()));
    }
    let client = cadastre_runtime::client(&settings, COMPONENT).await?;
    let requests = Requests::new(client.clone(), COMPONENT.to_owned(), Selector::default());
    let config = recorded(&requests).await.map_err(CheckError::Recorded)?;
    let refusals = refusals(&engine_settings(&settings, false), config.as_ref());
    match (config, refusals.is_empty()) {
        (None, _) => {
            Ok(Verdict::Good(format!("{settings}recorded:         nothing yet: the first start records the mode\n")))
        }
        (Some(config), true) => {
            Ok(Verdict::Good(format!("{settings}recorded:         mode {}: agrees\n", config.spec.mode)))
        }
        (Some(config), false) => {
            let holders = holders(client).await.map_err(CheckError::Nodes)?;
            Ok(Verdict::Refused(explain(&settings, &config, &refusals, &holders)))
        }
    }
}

/// Names of the nodes with blocks.
async fn holders(client: Client) -> kube::Result<Vec<String>> {
    let nodes = Api::<IPAMNode>::all(client).list(&ListParams::default()).await?;
    Ok(nodes.into_iter().filter(|node| !node.spec.ipam.allocated.is_empty()).map(|node| node.name_any()).collect())
}

fn explain(settings: &Settings, config: &IPAMConfig, refusals: &[Refusal], holders: &[String]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<19}{value}");
    };
    line("recorded mode:", config.spec.mode.label());
    line("configured mode:", settings.mode.mode().label());
    let status = config.status.clone().unwrap_or_default();
    for AdmittedCidr { cidr, pool, mask_size, .. } in status.cidrs.iter().filter(|cidr| cidr.in_use) {
        line("in use:", &format!("{cidr} of pool {pool}, in blocks of /{mask_size}"));
    }
    if !holders.is_empty() {
        line("nodes with blocks:", &name_some(holders));
    }
    for refusal in refusals {
        line("refused:", &refusal.to_string());
    }
    text
}

fn name_some(names: &[String]) -> String {
    let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED);
    if more == 0 { format!("{}: {first}", names.len()) } else { format!("{}: {first} and {more} more", names.len()) }
}
