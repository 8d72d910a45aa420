//! Files of the chart that follow from our types. `make generate` writes them anew; a test compares them.

use cadastre_api::crds;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// Why a file cannot be generated: always a mistake of ours in the types.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A type does not serialize to JSON.
    #[error("a generated object is no JSON")]
    Json(#[from] serde_json::Error),
    /// JSON does not serialize to YAML.
    #[error("a generated object is no YAML")]
    Yaml(#[from] serde_saphyr::ser_error::Error),
}

/// The CRDs as one YAML stream, each document begun by `---`.
pub fn crds_yaml() -> Result<String, GenerateError> {
    let mut stream = String::new();
    for crd in crds() {
        // Through JSON values, so that keys are sorted and absent fields stay absent.
        stream.push_str("---\n");
        stream.push_str(&serde_saphyr::to_string(&serde_json::to_value(&crd)?)?);
    }
    Ok(stream)
}

/// The chart's `values.schema.json`.
pub fn values_schema() -> Result<String, GenerateError> {
    Ok(format!("{:#}\n", schema_of::<crate::RawSettings>()))
}

/// The schema of a type, without references, as Helm's validator and people read it most easily.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}
