//! `cadastre-operator plan`: what the operator would do now, and nothing done.
//!
//! ```text
//! settings ─▶ observe::world ─▶ rehearse (the engine, and a store in memory that takes its writes) ─▶ Outlook ─▶ show
//!                 reads only        reads of Nodes are live, nothing is written
//! ```

mod outlook;
mod rehearse;
mod show;

use std::path::Path;

use cadastre_engine::{Action, Answer, Outcome};
use cadastre_runtime::{ClientError, LogSettings, LoggingError, Settings, SettingsError};
use k8s_openapi::jiff::Timestamp;

use crate::node_view::Selector;
use crate::observe::{self, Patience};
use crate::outcome::Failure;
use crate::requests::{RequestError, Requests};
use crate::run::COMPONENT;
use crate::settings::engine_settings;
use crate::watch::WatchError;

pub use outlook::Outlook;

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Logging(#[from] LoggingError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(
        "the cluster cannot be read: see whether the API server runs and this account may list what the operator does"
    )]
    World(#[from] WatchError),
    #[error("whether Node {name} is there cannot be read: {why}")]
    Node { name: String, why: String },
}

/// Reads the cluster and lets the engine act on a copy of it.
pub async fn plan(file: &Path) -> Result<Outlook, PlanError> {
    let settings = Settings::load_values(file)?;
    cadastre_runtime::init_logging(&LogSettings { level: tracing::Level::WARN, ..settings.log })?;
    let client = cadastre_runtime::client(&settings, COMPONENT).await?;
    let selector = Selector::from(&settings.operator.node_selector);
    let (world, _) = observe::world(&client, selector.clone(), &Patience::None).await?;
    let requests = Requests::new(client, COMPONENT.to_owned(), selector);
    let engine = engine_settings(&settings, false);
    rehearse::rehearse(engine, world, Timestamp::now(), async |name| look(&requests, name).await).await
}

/// The live word on a Node.
async fn look(requests: &Requests, name: String) -> Result<Outcome, PlanError> {
    match requests.send(&Action::GetNode { name: name.clone() }).await {
        Ok(node @ Answer::Node(_)) => Ok(Outcome::Done(node)),
        Err(RequestError::Kube(error)) if Failure::of(&error, false) == Failure::NotFound => Ok(Outcome::NotFound),
        Ok(_) => Err(PlanError::Node { name, why: "the answer is no Node".to_owned() }),
        Err(error) => Err(PlanError::Node { name, why: cadastre_runtime::with_causes(&error) }),
    }
}
