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
use k8s_openapi::jiff::Timestamp;

use crate::node_view::Selector;
use crate::observe::{self, Patience};
use crate::onlooker::{LookError, connect};
use crate::outcome::Failure;
use crate::requests::{RequestError, Requests};
use crate::run::COMPONENT;
use crate::settings::engine_settings;

pub use outlook::Outlook;

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Look(#[from] LookError),
    #[error("whether Node {name} is there cannot be read: {why}")]
    Node { name: String, why: String },
}

/// Reads the cluster and lets the engine act on a copy of it.
pub async fn plan(file: &Path) -> Result<Outlook, PlanError> {
    let (settings, client) = connect(file).await?;
    let selector = Selector::from(&settings.operator.node_selector);
    let (world, _) = observe::world(&client, selector.clone(), &Patience::None).await.map_err(LookError::from)?;
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
