//! What is committed is what the types give. `UPDATE=1 cargo test -p cadastre-runtime --test generated`, which
//! `make generate` runs, writes it anew.

// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::path::Path;

fn compare(file: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/cadastre").join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    let line = committed.lines().zip(generated.lines()).position(|(a, b)| a != b);
    assert!(
        committed == generated,
        "{} is not what the types give (first difference in line {}): run `make generate`",
        path.display(),
        line.map_or_else(|| "beyond the shorter end".to_owned(), |line| (line + 1).to_string()),
    );
}

#[test]
fn custom_resource_definitions() {
    compare("files/crds.yaml", &cadastre_runtime::crds_yaml().unwrap());
}

#[test]
fn values_schema() {
    compare("values.schema.json", &cadastre_runtime::values_schema().unwrap());
}
