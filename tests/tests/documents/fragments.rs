//! Values, objects and network configurations that pages show: Helm, our programs and the plugin take them as they stand.

use anyhow::{Context as _, Result, ensure};
use cadastre_tests::{Program, Scratch, call_plugin, repo};
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::page::{Item, Language, Page};

/// What most files are.
const VALUES: &str = "values.yaml";

/// A Kubernetes object, and not values of the chart.
pub fn is_object(yaml: &str) -> bool {
    yaml.lines().any(|line| line.starts_with("apiVersion:"))
}

/// What a first line `# file: NAME` calls it; values.yaml if there is none.
pub fn name(yaml: &str) -> &str {
    yaml.lines().next().and_then(|line| line.strip_prefix("# file: ")).unwrap_or(VALUES)
}

#[tokio::test]
async fn values_and_configurations_are_accepted_as_they_stand() -> Result<()> {
    let pages = Page::all()?;
    let blocks = || pages.iter().flat_map(|page| page.blocks().map(move |(item, block)| (page, item, block)));
    let values = blocks().filter(|(.., block)| {
        block.language == Language::Yaml && !is_object(&block.text) && name(&block.text) == VALUES
    });
    let values =
        values.map(async |(page, item, block)| are_values(&block.text).await.with_context(|| place(page, item)));
    let configs = blocks().filter(|(.., block)| block.language == Language::Json);
    let configs =
        configs.map(async |(page, item, block)| is_config(&block.text).await.with_context(|| place(page, item)));
    let (values, configs) = tokio::try_join!(try_join_all(values), try_join_all(configs))?;
    assert!(values.len() >= 8 && configs.len() >= 8, "{} values, {} configurations", values.len(), configs.len());
    Ok(())
}

fn place(page: &Page, item: &Item) -> String {
    format!("{}:{}", page.name, item.line)
}

/// By the chart, with its schema, and by what reads the settings.
async fn are_values(text: &str) -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.write("values.yaml", text)?;
    let helm = Program::tool("helm")?.args(["template", "cadastre"]).arg(repo().join("charts/cadastre"));
    let helm = helm.args(["--api-versions", "monitoring.coreos.com/v1", "--values"]).arg(&file);
    helm.run().await?.ok()?;
    let check = Program::ours("cadastre-operator")?.args(["check-config", "--config"]).arg(&file);
    check.run().await?.ok().map(drop)
}

/// By the plugin: it has no objection but that there is no agent.
async fn is_config(text: &str) -> Result<()> {
    let scratch = Scratch::new()?;
    let config: Value = serde_json::from_str(text)?;
    let plugins = match config["plugins"].as_array() {
        Some(plugins) => plugins.clone(),
        None => vec![config.clone()],
    };
    let mut asked = 0;
    for mut plugin in plugins.into_iter().filter(|plugin| plugin["ipam"]["type"] == "cadastre") {
        for key in ["cniVersion", "name"] {
            plugin[key] = config[key].clone();
        }
        plugin["ipam"]["socket"] = json!(scratch.path().join("nobody.sock"));
        let env =
            [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/proc/self/ns/net"), ("CNI_ARGS", "")];
        let answer = call_plugin(&Program::ours("cadastre")?, "ADD", &plugin, &env).await?;
        let code = answer.as_ref().err().map(|error| error["code"].clone());
        ensure!(code == Some(json!(11)), "the plugin says {answer:?}");
        asked += 1;
    }
    ensure!(asked > 0, "nothing in it is ours: {text}");
    Ok(())
}
