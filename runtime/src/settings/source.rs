//! From file and environment to one tree of values, the environment last.
//!
//! The environment knows no case, and Cilium's keys (`clusterPoolIPv4PodCIDRList`) follow no rule by which case could
//! be put back. So names are looked up among the known keys, without regard to case and underscores:
//! `CADASTRE__IPAM__OPERATOR__CLUSTER_POOL_IPV4_MASK_SIZE=25` is `ipam.operator.clusterPoolIPv4MaskSize`.

use std::collections::BTreeMap;
use std::path::Path;

use config::{Config, ConfigError, File, FileFormat};
use serde_json::{Map, Value};

use super::problem::{Problem, SettingsError};
use super::shape::{self, Shape};

/// Begins the name of every environment variable that is a setting; `__` also stands between the keys.
const PREFIX: &str = "CADASTRE__";

/// What was read, before anything is known to be right.
#[derive(Debug)]
pub struct Tree {
    /// The values, as an object.
    pub values: Value,
    /// By key, the environment variable that it came from.
    pub variables: BTreeMap<String, String>,
    /// Environment variables that name no key.
    pub problems: Vec<Problem>,
}

/// The environment variables that are settings. Empty ones count as unset.
pub fn environment() -> Vec<(String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let all = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    all.filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty()).collect()
}

/// Reads the file, then `environment` over it.
pub fn load(path: &Path, environment: Vec<(String, String)>) -> Result<Tree, SettingsError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
    read(&text, &format!("settings file {}", path.display()), environment)
}

/// Reads `text`, then `environment` over it.
pub fn parse(text: &str, environment: Vec<(String, String)>) -> Result<Tree, SettingsError> {
    read(text, "the settings", environment)
}

fn read(text: &str, origin: &str, environment: Vec<(String, String)>) -> Result<Tree, SettingsError> {
    let mut overrides = Overrides::default();
    for (name, value) in environment {
        overrides.add(&Shape::settings(), name, &value);
    }
    let layered = Config::builder()
        .add_source(File::from_str(text, FileFormat::Yaml))
        // JSON is YAML: the same way in for both layers.
        .add_source(File::from_str(&Value::Object(overrides.values).to_string(), FileFormat::Yaml))
        .build()
        .and_then(Config::try_deserialize::<Value>);
    let values = layered.map_err(|error| SettingsError::Syntax { origin: origin.to_owned(), what: explain(&error) })?;
    Ok(Tree { values, variables: overrides.variables, problems: overrides.problems })
}

/// Without the made-up file name that `config` gives to a text.
fn explain(error: &ConfigError) -> String {
    match error {
        ConfigError::FileParse { cause, .. } => cause.to_string(),
        other => other.to_string(),
    }
}

/// What the environment says, as a tree of its own.
#[derive(Default)]
struct Overrides {
    values: Map<String, Value>,
    variables: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Overrides {
    fn add(&mut self, shape: &Shape, name: String, text: &str) {
        let segments = name.trim_start_matches(PREFIX).split("__").collect::<Vec<_>>();
        match shape.resolve(&segments) {
            Ok((path, schema)) => {
                self.variables.insert(path.join("."), name);
                insert(&mut self.values, &path, typed(schema, text));
            }
            Err(what) => {
                let key = segments.join(".").to_lowercase();
                self.problems.push(Problem { key, variable: Some(name), what });
            }
        }
    }
}

fn insert(values: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => _ = values.insert(key.clone(), value),
        [key, rest @ ..] => {
            let block = values.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(block) = block {
                insert(block, rest, value);
            }
        }
    }
}

/// The text as the type that its key wants, or as text, which then is refused with what would be right.
fn typed(schema: &Value, text: &str) -> Value {
    let wants = |kind| shape::types(schema).any(|wanted| wanted == kind);
    let json = if ["[", "{"].iter().any(|bracket| text.trim_start().starts_with(bracket)) {
        wants("array") || wants("object")
    } else {
        wants("boolean") || wants("integer") || wants("number")
    };
    if json && let Ok(value) = serde_json::from_str(text) {
        return value;
    }
    if wants("array") && !wants("string") {
        return text.split([',', ' ']).filter(|part| !part.is_empty()).collect();
    }
    Value::from(text)
}
