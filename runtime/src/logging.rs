//! Logs on stderr: text for people, JSON for collectors.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::{LogFormat, LogSettings};

/// Asked in this order for a filter such as `info,kube=debug`; the settings' level applies without.
const FILTER_VARIABLES: [&str; 2] = ["CADASTRE_LOG", "RUST_LOG"];

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The environment holds a filter that cannot be read.
    #[error("{variable}={text:?} is not a log filter; write it like info,cadastre_operator=debug")]
    Filter {
        /// The environment variable.
        variable: &'static str,
        /// What it says.
        text: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging is set up already.
    #[error("logging was set up twice")]
    Twice,
}

/// Logs to stderr from now on, with colour only on a terminal.
pub fn init_logging(settings: &LogSettings) -> Result<(), LoggingError> {
    let filter = filter(settings, |variable| std::env::var(variable).unwrap_or_default())?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let installed = match settings.format {
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    installed.map_err(|_| LoggingError::Twice)
}

/// `environment` gives the text of a variable, empty if it is not set.
fn filter(settings: &LogSettings, environment: impl Fn(&str) -> String) -> Result<EnvFilter, LoggingError> {
    for variable in FILTER_VARIABLES {
        let text = environment(variable);
        if !text.is_empty() {
            return EnvFilter::try_new(&text).map_err(|source| LoggingError::Filter { variable, text, source });
        }
    }
    let filter = EnvFilter::default().add_directive(settings.level.into());
    // It repeats as an ERROR each failed request that its caller reports anyway.
    match "kube_client::client::builder=off".parse() {
        Ok(quiet) => Ok(filter.add_directive(quiet)),
        Err(_) => Ok(filter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBUG: LogSettings = LogSettings { level: tracing::Level::DEBUG, format: LogFormat::Text };

    fn with(variables: &[(&str, &str)]) -> Result<String, String> {
        let environment = |name: &str| {
            let set = variables.iter().find(|(variable, _)| *variable == name);
            set.map(|(_, text)| (*text).to_owned()).unwrap_or_default()
        };
        filter(&DEBUG, environment).map(|filter| filter.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_goes_over_the_settings() {
        assert_eq!(with(&[]).unwrap(), "kube_client::client::builder=off,debug");
        assert_eq!(with(&[("RUST_LOG", "warn")]).unwrap(), "warn");
        assert_eq!(with(&[("RUST_LOG", "warn"), ("CADASTRE_LOG", "kube=trace")]).unwrap(), "kube=trace");
        assert_eq!(
            with(&[("CADASTRE_LOG", "kube=loud")]).unwrap_err(),
            "CADASTRE_LOG=\"kube=loud\" is not a log filter; write it like info,cadastre_operator=debug"
        );
    }
}
