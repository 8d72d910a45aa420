//! Tables of the documentation that follow from the chart: every value, every permission. `make generate` writes them.

use cadastre_runtime::check_table;
use serde_json::Value;

use crate::helm::{chart, render, repo, yaml};

fn is_in(document: &str, name: &str, table: &str) -> bool {
    check_table(&repo().join("docs/usage").join(document), name, table).unwrap()
}

/// A key of values.yaml with the comment above it.
pub struct Explained {
    pub path: String,
    meaning: String,
}

/// Every key whose comment begins with `-- `.
pub fn explained(text: &str) -> Vec<Explained> {
    let (mut explained, mut blocks, mut comment) = (Vec::new(), Vec::<(usize, String)>::new(), None::<String>);
    for line in text.lines() {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        if let Some(said) = body.strip_prefix('#').map(str::trim) {
            match (said.strip_prefix("-- "), &mut comment) {
                (Some(begin), _) => comment = Some(begin.to_owned()),
                (None, Some(comment)) => comment.extend([" ", said]),
                (None, None) => {}
            }
            continue;
        }
        let Some((key, _)) = body.split_once(':').filter(|_| !body.starts_with('-')) else { continue };
        while blocks.last().is_some_and(|(outer, _)| *outer >= indent) {
            blocks.pop();
        }
        blocks.push((indent, key.to_owned()));
        if let Some(meaning) = comment.take() {
            let path: Vec<&str> = blocks.iter().map(|(_, key)| key.as_str()).collect();
            explained.push(Explained { path: path.join("."), meaning });
        }
    }
    explained
}

#[test]
fn every_value_is_in_the_documentation() {
    let text = chart("values.yaml");
    let values = yaml(&text);
    let row = |Explained { path, meaning }: Explained| {
        let default = match values.pointer(&format!("/{}", path.replace('.', "/"))) {
            None => panic!("{path} is not in values.yaml"),
            Some(Value::Null) => String::new(),
            Some(value) => format!("`{value}`"),
        };
        format!("| `{path}` | {} | {} |\n", default.replace('|', "\\|"), meaning.replace('|', "\\|"))
    };
    let rows: String = explained(&text).into_iter().map(row).collect();
    let table = format!("| value | default | meaning |\n|---|---|---|\n{rows}");
    assert!(is_in("values.md", "values", &table), "docs/usage/values.md is old: run `make generate`");
}

/// A rule of a role: where it holds, and what the comment above it says.
struct Permission {
    account: String,
    place: &'static str,
    rule: Value,
    reason: String,
}

/// The rules of all roles, as Helm renders them with their comments.
fn permissions() -> Vec<Permission> {
    let mut all = Vec::new();
    for template in ["operator-rbac.yaml", "agent-rbac.yaml", "test-rbac.yaml"] {
        let output = render(&Value::Object(serde_json::Map::new()), &["--show-only", &format!("templates/{template}")]);
        let stream = String::from_utf8(output.stdout).unwrap();
        for text in stream.split("\n---\n") {
            let role = yaml(text);
            let place = match (role["kind"].as_str(), role["metadata"]["namespace"].as_str()) {
                (Some("ClusterRole"), _) => "everywhere",
                (Some("Role"), Some("default")) => "namespace `default`",
                (Some("Role"), _) => "the release's namespace",
                _ => continue,
            };
            let reasons = reasons(text.split_once("\nrules:\n").unwrap().1);
            let rules = role["rules"].as_array().unwrap();
            assert_eq!(rules.len(), reasons.len(), "every rule of {} has a comment, and one only", role["metadata"]);
            let account = template.trim_end_matches("-rbac.yaml");
            all.extend(rules.iter().zip(reasons).map(|(rule, reason)| Permission {
                account: account.to_owned(),
                place,
                rule: rule.clone(),
                reason,
            }));
        }
    }
    all
}

/// The comment above each rule.
fn reasons(rules: &str) -> Vec<String> {
    let (mut reasons, mut comment) = (Vec::new(), String::new());
    for line in rules.lines().map(str::trim) {
        if let Some(said) = line.strip_prefix('#') {
            comment.push_str(said);
        } else if line.starts_with("- ") && !comment.is_empty() {
            reasons.push(std::mem::take(&mut comment).trim().to_owned());
        }
    }
    reasons
}

#[test]
fn every_permission_is_in_the_documentation() {
    let list = |value: &Value| {
        value.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(", ")
    };
    let row = |Permission { account, place, rule, reason }: Permission| {
        let (what, group) = (list(&rule["resources"]), list(&rule["apiGroups"]));
        let group = if group.is_empty() { "core".to_owned() } else { group };
        format!("| {account} | `{what}` of {group} | {place} | {} | {reason} |\n", list(&rule["verbs"]))
    };
    let rows: String = permissions().into_iter().map(row).collect();
    let table = format!("| who | what | where | verbs | why |\n|---|---|---|---|---|\n{rows}");
    assert!(is_in("permissions.md", "permissions", &table), "docs/usage/permissions.md is old: run `make generate`");
}
