//! Known keys and their types, taken from the schema of `RawSettings`, and everything in a tree that differs from them.
//!
//! serde would stop at the first unknown key or wrong type; a person who migrates a values file wants them all.

use serde_json::{Map, Value};

use super::problem::Problem;
use super::raw::RawSettings;

/// Below this likeness (0 to 1), a known key is not offered in place of an unknown one.
const ALIKE: f64 = 0.6;

/// Longest excerpt of a value in a message, in characters.
const EXCERPT: usize = 60;

/// What may stand where.
#[derive(Debug)]
pub struct Shape(Value);

impl Shape {
    /// The shape of the settings.
    pub fn settings() -> Self {
        Self(crate::generated::schema_of::<RawSettings>())
    }

    /// The shape of a values.yaml: the settings, and what only the chart reads.
    pub fn values() -> Self {
        Self(crate::generated::schema_of_values())
    }

    /// The key that `segments` mean, in any case and with any underscores, with its schema. The error says what was
    /// unknown and what would be right.
    pub fn resolve(&self, segments: &[&str]) -> Result<(Vec<String>, &Value), String> {
        let mut schema = &self.0;
        let mut path = Vec::new();
        for segment in segments {
            let known = properties(schema).and_then(|known| known.iter().find(|(key, _)| plain(key) == plain(segment)));
            let Some((key, next)) = known else {
                return Err(format!("there is no such key; {}", self.remedy(schema, &path.join("."), segment)));
            };
            path.push(key.clone());
            schema = next;
        }
        Ok((path, schema))
    }

    /// Takes out of `values` what is unknown or of another type, and what is null, since that means not written.
    pub fn check(&self, values: &mut Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_value(&self.0, "", values, &mut problems);
        problems
    }

    /// Whether the value can stay.
    fn check_value(&self, schema: &Value, path: &str, value: &mut Value, problems: &mut Vec<Problem>) -> bool {
        if !fits(schema, value) {
            problems.push(Problem::new(path, format!("read {}; {} would be right", excerpt(value), right(schema))));
            return false;
        }
        match value {
            Value::Object(values) => self.check_keys(schema, path, values, problems),
            Value::Array(items) => {
                let before = problems.len();
                for (i, item) in items.iter_mut().enumerate() {
                    self.check_value(&schema["items"], &format!("{path}[{i}]"), item, problems);
                }
                return problems.len() == before;
            }
            _ => {}
        }
        true
    }

    fn check_keys(&self, schema: &Value, path: &str, values: &mut Map<String, Value>, problems: &mut Vec<Problem>) {
        let Some(known) = properties(schema) else {
            // Keys are the person's own, such as labels; what they may be set to is known all the same.
            values.retain(|key, value| {
                self.check_value(&schema["additionalProperties"], &join(path, key), value, problems)
            });
            return;
        };
        values.retain(|key, value| {
            let path = join(path, key);
            match known.get(key) {
                _ if value.is_null() && known.contains_key(key) => false,
                Some(schema) => self.check_value(schema, &path, value, problems),
                None => {
                    let block = path.strip_suffix(key.as_str()).unwrap_or("").trim_end_matches('.');
                    let remedy = self.remedy(schema, block, key);
                    problems
                        .push(Problem::new(path, format!("there is no such key (read {}); {remedy}", excerpt(value))));
                    false
                }
            }
        });
    }

    /// The likeliest key in place of the unknown `key` of `block`: one of the same name elsewhere, a similar one here,
    /// else all that are here.
    fn remedy(&self, schema: &Value, block: &str, key: &str) -> String {
        let everywhere = paths(&self.0, "");
        let last = |path: &str| plain(path.rsplit('.').next().unwrap_or(path));
        if let Some(elsewhere) = everywhere.iter().find(|path| last(path) == plain(key)) {
            return format!("did you mean {elsewhere}?");
        }
        let here = properties(schema).into_iter().flat_map(Map::keys);
        let likeness = |known: &&String| strsim::normalized_damerau_levenshtein(&plain(known), &plain(key));
        match here.clone().max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
            Some(best) if likeness(&best) >= ALIKE => format!("did you mean {}?", join(block, best)),
            Some(_) => format!("the keys here are {}", here.cloned().collect::<Vec<_>>().join(", ")),
            None => format!("{block} has no keys"),
        }
    }
}

/// The types that a schema allows.
pub fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let (one, many) = match &schema["type"] {
        Value::String(one) => (Some(one.as_str()), None),
        Value::Array(many) => (None, Some(many)),
        _ => (None, None),
    };
    one.into_iter().chain(many.into_iter().flatten().filter_map(Value::as_str))
}

/// The leaves of `values` with their full keys.
pub fn leaves(values: &Value) -> Vec<(String, &Value)> {
    let mut leaves = Vec::new();
    collect(values, String::new(), &mut leaves);
    leaves
}

fn collect<'a>(value: &'a Value, path: String, leaves: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(values) => values.iter().for_each(|(key, value)| collect(value, join(&path, key), leaves)),
        leaf => leaves.push((path, leaf)),
    }
}

fn paths(schema: &Value, path: &str) -> Vec<String> {
    let known = properties(schema).into_iter().flatten();
    known.flat_map(|(key, schema)| [vec![join(path, key)], paths(schema, &join(path, key))].concat()).collect()
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties")?.as_object()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn plain(key: &str) -> String {
    key.replace('_', "").to_lowercase()
}

/// A schema that names no type allows all.
fn fits(schema: &Value, value: &Value) -> bool {
    let is = |wanted| match wanted {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    types(schema).next().is_none() || types(schema).any(is)
}

fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= EXCERPT {
        return text;
    }
    format!("{}…", text.chars().take(EXCERPT).collect::<String>())
}

/// What would be right, in words.
fn right(schema: &Value) -> String {
    if let Some(allowed) = schema["enum"].as_array() {
        let allowed = allowed.iter().filter(|value| !value.is_null()).map(Value::to_string).collect::<Vec<_>>();
        return format!("one of {}", allowed.join(", "));
    }
    let kind = match types(schema).next() {
        Some("boolean") => return "true or false".to_owned(),
        Some("integer") => whole_number(schema),
        Some("number") => "a number".to_owned(),
        Some("array") => "a list of text".to_owned(),
        Some("object") => "a block of keys".to_owned(),
        _ => "text".to_owned(),
    };
    let examples = schema["examples"].as_array().into_iter().flatten().map(Value::to_string).collect::<Vec<_>>();
    match (examples.is_empty(), properties(schema)) {
        (false, _) => format!("{kind} such as {}", examples.join(" or ")),
        (true, Some(keys)) => format!("{kind}: {}", keys.keys().cloned().collect::<Vec<_>>().join(", ")),
        (true, None) => kind,
    }
}

fn whole_number(schema: &Value) -> String {
    match (schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
        (Some(min), Some(max)) => format!("a whole number from {min} to {max}"),
        (Some(min), None) => format!("a whole number from {min}"),
        _ => "a whole number".to_owned(),
    }
}
