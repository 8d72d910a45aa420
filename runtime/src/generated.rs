//! Files of the chart that follow from our types. `make generate` writes them anew; a test compares them.

use cadastre_api::crds;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::RawSettings;
use crate::chart_values::ChartValues;

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
        let mut crd = serde_json::to_value(&crd)?;
        drop_unknown_formats(&mut crd);
        stream.push_str(&serde_saphyr::to_string(&crd)?);
    }
    Ok(stream)
}

/// The API server knows no formats of unsigned numbers, and warns whoever installs of each. Their bounds say the same.
fn drop_unknown_formats(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                fields.remove("format");
            }
            fields.values_mut().for_each(drop_unknown_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_unknown_formats),
        _ => {}
    }
}

/// The chart's `values.schema.json`: what the settings may hold, and what else the chart reads.
pub fn values_schema() -> Result<String, GenerateError> {
    let mut schema = schema_of_values();
    schema["title"] = "Values of the chart cadastre".into();
    schema["description"] = "Generated from the types of cadastre-runtime. Null means not written.".into();
    Ok(format!("{schema:#}\n"))
}

/// What a whole values.yaml may hold.
pub(crate) fn schema_of_values() -> Value {
    let mut schema = schema_of::<RawSettings>();
    merge(&mut schema, schema_of::<ChartValues>());
    schema
}

/// The schema of a type, without references, as Helm's validator and people read it most easily.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Adds the keys of `other` to those of `schema`, block by block.
fn merge(schema: &mut Value, mut other: Value) {
    if let Some(required) = other.get_mut("required") {
        schema["required"] = required.take();
    }
    let (Some(ours), Some(Value::Object(theirs))) = (schema.get_mut("properties"), other.get_mut("properties")) else {
        return;
    };
    for (key, theirs) in theirs {
        match ours.get_mut(key) {
            Some(ours) => merge(ours, theirs.take()),
            None => ours[key] = theirs.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_halves_of_a_block_are_known_and_nothing_else() {
        let schema: Value = serde_json::from_str(&values_schema().unwrap()).unwrap();
        let operator = &schema["properties"]["operator"];
        for key in ["cooling", "replicas", "image"] {
            assert!(operator["properties"][key].is_object(), "{key}");
        }
        for block in [&schema, operator, &operator["properties"]["image"], &schema["properties"]["ipam"]] {
            assert_eq!(block["additionalProperties"], false);
        }
    }

    /// Helm fills in the defaults before it looks at the schema: what the templates rely on is missing only if somebody
    /// removed a block with null.
    #[test]
    fn only_what_the_templates_rely_on_is_required() {
        let schema: Value = serde_json::from_str(&values_schema().unwrap()).unwrap();
        assert_eq!(schema["required"], json!(["operator", "agent", "crds"]));
        assert_eq!(schema["properties"]["operator"]["required"], json!(["image", "prometheus", "serviceAccount"]));
        assert!(schema["properties"]["ipam"].get("required").is_none());
    }

    #[test]
    fn helm_offers_the_modes_that_are_built() {
        let schema: Value = serde_json::from_str(&values_schema().unwrap()).unwrap();
        let modes = &schema["properties"]["ipam"]["properties"]["mode"]["enum"];
        assert_eq!(*modes, json!(["kubernetes", "cluster-pool", null]));
    }

    #[test]
    fn the_crds_are_one_document_each() {
        let yaml = crds_yaml().unwrap();
        assert_eq!(yaml.matches("---\n").count(), crds().len());
        assert_eq!(yaml.matches("\nmetadata:\n").count(), crds().len());
        assert!(!yaml.contains("format: uint"), "the API server warns of it");
    }
}
