//! Alerts by promtool; the dashboard's queries, and what alerts are made of, by a Prometheus that scraped a real operator
//! and agent.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cadastre_tests::{DUAL_STACK, NODE, Proc, Program, Served, eventually, repo, served};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);

/// What is there only when something lasts: ten minutes of a pool that fills.
const LATER: &str = "cadastre_operator_time_until_full_seconds";

fn chart(file: &str) -> Result<String> {
    Ok(std::fs::read_to_string(repo().join("charts/cadastre/files").join(file))?)
}

#[tokio::test]
async fn alerts_fire_when_they_should_and_only_then() -> Result<()> {
    let promtool = Program::new("promtool");
    promtool
        .clone()
        .args(["check", "rules"])
        .arg(repo().join("charts/cadastre/files/alerts.yaml"))
        .run()
        .await?
        .ok()?;
    let cases = repo().join("tests/alerts/firing.yaml");
    promtool.args(["test", "rules"]).arg(&cases).run().await?.ok()?;
    let (rules, cases) = (chart("alerts.yaml")?, std::fs::read_to_string(cases)?);
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        let name = format!("alertname: {alert}");
        let of = |line: &&str| line.ends_with(&name) || line.contains(&format!("{name},"));
        let (silent, firing): (Vec<_>, Vec<_>) =
            cases.lines().filter(of).partition(|line| line.contains("exp_alerts: []"));
        assert!(!silent.is_empty() && !firing.is_empty(), "{alert}: {silent:?} {firing:?}");
    }
    Ok(())
}

/// A Prometheus with the chart's alerts, and its address.
fn prometheus(served: &Served) -> Result<(Proc, String)> {
    let target = |process: &Proc, job: &str| -> Result<Value> {
        let (address, node) = (process.listens()?, NODE);
        Ok(json!({"job_name": job, "static_configs": [{"targets": [address], "labels": {"node": node}}]}))
    };
    let config = json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [repo().join("charts/cadastre/files/alerts.yaml").canonicalize()?],
        "scrape_configs": [target(&served.operator, "cadastre-operator")?, target(&served.agent, "cadastre-agent")?],
    });
    let folder = served.cp.folder();
    std::fs::write(folder.join("prometheus.yml"), config.to_string())?;
    // Free now; nobody else is asked for it in the moment until it listens.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let program = Program::new("prometheus")
        .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
        .arg(format!("--web.listen-address={address}"));
    Ok((program.start(folder, "prometheus")?, address))
}

/// The series that a query finds, one a line.
async fn query(address: &str, expression: &str) -> Result<Vec<String>> {
    let promtool = Program::new("promtool").args(["query", "instant", &format!("http://{address}"), expression]);
    // Of none it prints an empty line.
    Ok(promtool.run().await?.ok()?.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Every query of the dashboard, with its panel's title.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap_or_default();
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (title.to_owned(), target["expr"].as_str().unwrap_or_default().to_owned()))
    });
    targets.map(|(title, query)| (title, query.replace("$__rate_interval", "1m"))).collect()
}

/// Our names in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = |word: &&str| word.starts_with("cadastre_operator_") || word.starts_with("cadastre_agent_");
    words.filter(ours).collect()
}

#[tokio::test]
async fn the_dashboard_shows_what_operator_and_agent_serve() -> Result<()> {
    let served = served(DUAL_STACK).await?;
    // One that fails and one that is undone, so that there is something to show.
    served.plugin.add("stays").await?;
    served.plugin.del("stays").await?;
    ensure!(served.plugin.call("CHECK", "unknown").await?.is_err(), "nobody holds anything");
    let (prometheus, address) = prometheus(&served)?;
    let up = async || -> Result<()> {
        let up = query(&address, "up == 1").await?;
        ensure!(up.len() == 2, "{up:?}");
        Ok(())
    };
    eventually(SOON, "both are scraped", up).await.with_context(|| prometheus.tail())?;

    let dashboard: Value = serde_json::from_str(&chart("dashboard.json")?)?;
    let queries = queries(&dashboard);
    assert!(queries.len() > 30, "{queries:?}");
    for (title, expression) in &queries {
        let found = async || {
            let series = query(&address, expression).await?;
            ensure!(series.is_empty() == expression.contains(LATER), "{} series", series.len());
            Ok(())
        };
        eventually(SOON, &format!("series of {title:?}: {expression}"), found).await?;
    }
    let alerts = chart("alerts.yaml")?;
    for name in names(&alerts).into_iter().filter(|name| *name != LATER) {
        assert!(!query(&address, name).await?.is_empty(), "an alert is made of {name}, which nobody serves");
    }
    let loaded = query(&address, "ALERTS").await?;
    assert!(loaded.is_empty(), "all is well, and alerts are: {loaded:?}");
    Ok(())
}
