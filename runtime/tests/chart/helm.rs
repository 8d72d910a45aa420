//! The chart's files, and what the real Helm makes of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

pub fn repo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

pub fn chart(file: &str) -> String {
    std::fs::read_to_string(repo().join("charts/cadastre").join(file)).unwrap()
}

/// Helm among the tools: the Makefile says by environment where they are; under plain `cargo test` we ask it.
pub fn helm() -> Command {
    static HELM: OnceLock<PathBuf> = OnceLock::new();
    let helm = HELM.get_or_init(|| {
        let asked = || {
            let output = Command::new("make").arg("-s").arg("-C").arg(repo()).arg("tools-path").output().unwrap();
            PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
        };
        let helm = std::env::var_os("CADASTRE_TOOLS").map_or_else(asked, PathBuf::from).join("helm");
        assert!(helm.exists(), "{} does not exist: run `make tools`", helm.display());
        helm
    });
    Command::new(helm)
}

/// What Helm makes of the chart with these values.
pub fn render(values: &Value, arguments: &[&str]) -> Output {
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    std::fs::write(file.path(), values.to_string()).unwrap();
    let mut helm = helm();
    helm.args(["template", "cadastre", "--namespace", "kube-system", "--values"]).arg(file.path()).args(arguments);
    helm.arg(repo().join("charts/cadastre")).output().unwrap()
}

/// Every object of one template.
pub fn objects(values: &Value, template: &str) -> Vec<Value> {
    let output = render(values, &["--show-only", &format!("templates/{template}")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stream = String::from_utf8(output.stdout).unwrap();
    stream.split("\n---\n").filter_map(|text| yaml(text).as_object().cloned().map(Value::Object)).collect()
}

pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// Every object of this kind in the whole chart.
pub fn of_kind(values: &Value, kind: &str) -> Vec<Value> {
    let output = render(values, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stream = String::from_utf8(output.stdout).unwrap();
    // Only of that kind, as reading the custom resource definitions takes a while.
    let wanted = stream.split("\n---\n").filter(|text| text.lines().any(|line| line == format!("kind: {kind}")));
    wanted.map(yaml).collect()
}
