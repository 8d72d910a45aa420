//! The metrics of a process with what people are told of each, so that the table in the documentation is the registry's.

use std::path::Path;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

/// A registry that can be read by people as well.
#[derive(Debug)]
pub struct Catalog {
    prefix: &'static str,
    registry: Registry,
    /// Lines of the table.
    rows: Vec<String>,
}

impl Catalog {
    /// Metrics whose names all begin with `prefix` (`cadastre_operator`, `cadastre_agent`), the build's version first.
    #[must_use]
    pub fn new(prefix: &'static str) -> Self {
        let mut catalog = Self { prefix, registry: Registry::with_prefix(prefix), rows: Vec::new() };
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        catalog.show("build", &["version"], "Version of this binary", version);
        catalog
    }

    /// Adds a metric with these labels. The registry ends `help` with a full stop.
    pub fn show(&mut self, name: &str, labels: &[&str], help: &str, metric: impl Metric) {
        self.list(name, labels, help, &metric);
        self.registry.register(name, help, metric);
    }

    /// As [`Catalog::show`], with the unit at the end of the name.
    pub fn show_in(&mut self, unit: Unit, name: &str, labels: &[&str], help: &str, metric: impl Metric) {
        self.list(&format!("{name}_{}", unit.as_str()), labels, help, &metric);
        self.registry.register_with_unit(name, help, unit, metric);
    }

    fn list(&mut self, name: &str, labels: &[&str], help: &str, metric: &impl Metric) {
        let kind = metric.metric_type();
        let kind = kind.as_str();
        let ending = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        self.rows.push(format!("| `{}_{name}{ending}` | {kind} | {labels} | {help} |", self.prefix));
    }

    /// All of them as a table in Markdown.
    fn table(&self) -> String {
        let head = ["| name | type | labels | meaning |", "|---|---|---|---|"].map(str::to_owned);
        [&head[..], &self.rows, &[String::new()]].concat().join("\n")
    }

    /// For a test: whether the document at `path` has this table, as [`check_table`] says.
    pub fn check_document(&self, path: &Path) -> std::io::Result<bool> {
        check_table(path, self.prefix, &self.table())
    }

    /// For the server.
    #[must_use]
    pub fn into_registry(self) -> Registry {
        self.registry
    }
}

/// For a test: whether the document at `path` has `table` between its lines `<!-- begin NAME -->` and `<!-- end NAME -->`.
/// With `UPDATE=1`, which `make generate` sets, it is written there.
pub fn check_table(path: &Path, name: &str, table: &str) -> std::io::Result<bool> {
    let document = std::fs::read_to_string(path)?;
    let Some(right) = with_table(&document, name, table) else { return Ok(false) };
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &right)?;
        return Ok(true);
    }
    Ok(document == right)
}

/// `document` with `table` between its lines `<!-- begin NAME -->` and `<!-- end NAME -->`; `None` if it has no such
/// lines.
fn with_table(document: &str, name: &str, table: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
    let (before, rest) = document.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{table}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[test]
    fn the_table_has_the_names_that_are_scraped() {
        let mut catalog = Catalog::new("cadastre_test");
        catalog.show("pods", &[], "Pods seen", Counter::<u64>::default());
        catalog.show_in(Unit::Seconds, "age", &["pool"], "Age", Gauge::<i64>::default());
        let table = catalog.table();
        let mut text = String::new();
        encode(&mut text, &catalog.into_registry()).unwrap();
        for name in ["cadastre_test_build_info", "cadastre_test_pods_total", "cadastre_test_age_seconds"] {
            assert!(
                table.contains(&format!("`{name}`")) && text.contains(&format!("\n{name}")),
                "{name}: {table}{text}"
            );
        }
    }

    #[test]
    fn a_table_is_put_between_its_lines() {
        let document = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n";
        assert_eq!(with_table(document, "x", "new\n").unwrap(), document.replace("old", "new"));
        assert_eq!(with_table(document, "y", "new\n"), None);
    }
}
