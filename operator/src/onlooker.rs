//! What the commands begin with that look at the cluster and change nothing: a values file, a quiet log, a client.

use std::path::Path;

use cadastre_runtime::{ClientError, LogSettings, LoggingError, Settings, SettingsError};
use kube::Client;

use crate::run::COMPONENT;
use crate::watch::WatchError;

/// Why the cluster cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
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
}

/// Reads a values.yaml, or the content of the chart's `ConfigMap`, and connects as it says. Only warnings are logged.
pub async fn connect(file: &Path) -> Result<(Settings, Client), LookError> {
    let settings = Settings::load_values(file)?;
    cadastre_runtime::init_logging(&LogSettings { level: tracing::Level::WARN, ..settings.log })?;
    let client = cadastre_runtime::client(&settings, COMPONENT).await?;
    Ok((settings, client))
}
