//! The chart as Helm renders it: every setting reaches the processes unchanged, every key is explained, wrong values are
//! refused. What needs a cluster (`lookup`, upgrades) is tested where there is one.

// A panic is how a test fails.
#![allow(clippy::unwrap_used, clippy::panic)]

mod documents;
mod health;
mod helm;
mod monitoring;

use std::fmt::Write as _;
use std::path::PathBuf;

use cadastre_runtime::{ModeSettings, RawSettings, Settings};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::helm::{chart, helm, objects, render, repo, yaml};

/// The settings file that the processes get.
fn settings_file(values: &Value) -> String {
    objects(values, "config.yaml")[0]["data"]["config.yaml"].as_str().unwrap().to_owned()
}

/// Each key of a block with its full path and schema, blocks left out.
fn keys(schema: &Value, path: &str) -> Vec<(String, Value)> {
    let Some(known) = schema["properties"].as_object() else { return vec![(path.to_owned(), schema.clone())] };
    known.iter().flat_map(|(key, schema)| keys(schema, format!("{path}.{key}").trim_start_matches('.'))).collect()
}

fn settings_keys() -> Vec<(String, Value)> {
    let schema = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    keys(&schema.into_generator().into_root_schema_for::<RawSettings>().to_value(), "")
}

/// Some value that the schema allows.
fn sample(schema: &Value) -> Value {
    let offered = schema["examples"].get(0).or_else(|| schema["enum"].get(0));
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match (offered, kind) {
        (Some(value), _) => value.clone(),
        (None, Some("boolean")) => true.into(),
        (None, Some("integer" | "number")) => schema["minimum"].as_i64().unwrap_or(1).max(1).into(),
        (None, Some("string")) => "text".into(),
        (None, Some("array")) => json!(["text"]),
        (None, _) => json!({ "key": "value" }),
    }
}

fn insert(values: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => _ = values.insert(path.to_owned(), value),
        Some((block, rest)) => {
            let block = values.entry(block).or_insert_with(|| json!({}));
            insert(block.as_object_mut().unwrap(), rest, value);
        }
    }
}

#[test]
fn every_setting_reaches_the_settings_file_unchanged() {
    let mut values = Map::new();
    for (path, schema) in settings_keys() {
        insert(&mut values, &path, sample(&schema));
    }
    let values = Value::Object(values);
    assert_eq!(yaml(&settings_file(&values)), values);
}

#[test]
fn what_is_not_written_is_not_in_the_settings_file() {
    assert_eq!(settings_file(&json!({})).trim(), "{}");
    assert_eq!(settings_file(&json!({ "ipam": null, "operator": { "replicas": 3 } })).trim(), "{}");
}

#[test]
fn the_values_files_of_the_three_modes_give_their_settings() {
    let list = ["10.0.0.0/8"];
    let files = [
        json!({ "ipam": { "mode": "kubernetes" }, "k8s": { "requireIPv4PodCIDR": true, "requireIPv6PodCIDR": true } }),
        json!({ "ipam": { "mode": "cluster-pool", "clusterPoolIPv4": "10.200.0.0/16", "clusterPoolIPv4MaskSize": 24 } }),
        json!({
            "ipam": { "mode": "cluster-pool", "operator": {
                "clusterPoolIPv4PodCIDRList": list, "clusterPoolIPv4MaskSize": 24,
                "clusterPoolIPv6PodCIDRList": ["fd00::/104"], "clusterPoolIPv6MaskSize": 120,
            } },
            "ipv6": { "enabled": true },
        }),
    ];
    for values in files {
        let rendered = Settings::from_yaml(&settings_file(&values)).unwrap();
        assert_eq!(rendered, Settings::from_yaml(&values.to_string()).unwrap());
    }
}

#[test]
fn every_key_is_in_values_yaml_with_an_explanation() {
    let schema: Value = serde_json::from_str(&chart("values.schema.json")).unwrap();
    let text = chart("values.yaml");
    let values = yaml(&text);
    let clouds = ["eni.", "azure.", "ipam.nodeSpec."];
    let mut missing = String::new();
    for (path, _) in keys(&schema, "") {
        let pointer = format!("/{}", path.replace('.', "/"));
        if values.pointer(&pointer).is_none() && !clouds.iter().any(|cloud| path.starts_with(cloud)) {
            writeln!(missing, "{path}").unwrap();
        }
    }
    assert_eq!(missing, "", "keys of the schema that values.yaml lacks");
    let explained: Vec<_> = documents::explained(&text).into_iter().map(|key| key.path).collect();
    let is_explained = |path: &str| explained.iter().any(|of| path == of || path.starts_with(&format!("{of}.")));
    let silent: Vec<_> =
        keys(&schema, "").into_iter().map(|(path, _)| path).filter(|path| !is_explained(path)).collect();
    assert_eq!(silent, [""; 0], "keys without a comment `# -- …` above them");
}

#[test]
fn the_settings_that_say_null_are_the_defaults_of_the_processes() {
    let values = yaml(&chart("values.yaml"));
    for (path, _) in settings_keys() {
        let value = values.pointer(&format!("/{}", path.replace('.', "/"))).unwrap_or(&Value::Null);
        assert!(value.is_null(), "{path} is {value} in values.yaml; its default belongs into the settings");
    }
}

#[test]
fn the_guard_knows_the_same_defaults() {
    let guard = chart("templates/_guard.tpl");
    let defaults = Settings::from_yaml("ipv6: {enabled: true}").unwrap();
    let ModeSettings::ClusterPool(defaults) = defaults.mode else { panic!("{:?}", defaults.mode) };
    for pool in defaults.pools {
        let (family, mask) = (pool.family, pool.mask_size);
        let cidrs = format!("older.clusterPool{family} \"{}\")", pool.cidrs[0]);
        assert!(guard.contains(&cidrs), "{cidrs}");
        let mask = format!("older.clusterPool{family}MaskSize {mask})");
        assert!(guard.contains(&mask), "{mask}");
    }
    assert!(guard.contains("mode | default \"cluster-pool\""));
}

#[test]
fn helm_refuses_wrong_values_with_their_path() {
    let cases = [
        (json!({ "ipam": { "mod": "x" } }), "at '/ipam': additional properties 'mod' not allowed"),
        (json!({ "ipam": { "mode": "eni" } }), "at '/ipam/mode': value must be one of 'kubernetes', 'cluster-pool'"),
        (
            json!({ "ipam": { "operator": { "clusterPoolIPv4MaskSize": 33 } } }),
            "at '/ipam/operator/clusterPoolIPv4MaskSize': maximum: got 33, want 32",
        ),
        (json!({ "ipam": { "clusterPoolIPv4": "ten" } }), "at '/ipam/clusterPoolIPv4': 'ten' does not match pattern"),
        (
            json!({ "ipam": { "operator": { "clusterPoolIPv6PodCIDRList": ["fd00::/104", "x"] } } }),
            "at '/ipam/operator/clusterPoolIPv6PodCIDRList/1': 'x' does not match pattern",
        ),
        (json!({ "operator": { "cooling": 300 } }), "at '/operator/cooling': got number, want null or string"),
        (json!({ "operator": { "cooling": "5 m" } }), "at '/operator/cooling': '5 m' does not match pattern"),
        (json!({ "operator": { "replica": 3 } }), "at '/operator': additional properties 'replica' not allowed"),
        (
            json!({ "agent": { "image": { "name": "x" } } }),
            "at '/agent/image': additional properties 'name' not allowed",
        ),
        (json!({ "agent": null }), "missing property 'agent'"),
        (json!({ "crds": { "keep": "yes" } }), "at '/crds/keep': got string, want null or boolean"),
    ];
    for (values, expected) in cases {
        let output = render(&values, &[]);
        let shown = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && shown.contains(expected), "{values}: {shown}");
    }
}

#[test]
fn values_that_platform_engineers_set_are_accepted() {
    let values = json!({
        "global": { "anything": 1 },
        "operator": {
            "image": { "tag": 1.2, "digest": format!("sha256:{}", "0".repeat(64)) },
            "tolerations": [], "affinity": { "nodeAffinity": {} }, "extraEnv": [{ "name": "CADASTRE_LOG", "value": "debug" }],
        },
        "imagePullSecrets": [{ "name": "pull" }],
    });
    let deployment = &objects(&values, "operator.yaml")[0];
    let pod = &deployment["spec"]["template"]["spec"];
    let image = format!("localhost/cadastre/operator@sha256:{}", "0".repeat(64));
    assert_eq!(pod["containers"][0]["image"], image);
    assert_eq!(pod["containers"][0]["env"][1]["value"], "debug");
    assert_eq!(pod["imagePullSecrets"][0]["name"], "pull");
    assert!(pod.get("tolerations").is_none());
}

#[test]
fn a_changed_setting_rolls_both_workloads() {
    let checksum = |values: &Value, template| {
        objects(values, template)[0]["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone()
    };
    for template in ["operator.yaml", "agent.yaml"] {
        let before = checksum(&json!({ "operator": { "replicas": 3 } }), template);
        assert_eq!(before, checksum(&json!({}), template));
        assert_ne!(before, checksum(&json!({ "operator": { "cooling": "6m" } }), template));
    }
}

#[test]
fn an_old_operator_stays_until_a_new_one_is_ready() {
    let rollout = |values| objects(&values, "operator.yaml")[0]["spec"]["strategy"]["rollingUpdate"].clone();
    assert_eq!(rollout(json!({})), json!({ "maxUnavailable": 1, "maxSurge": 1 }));
    assert_eq!(rollout(json!({ "operator": { "replicas": 1 } })), json!({ "maxUnavailable": 0, "maxSurge": 1 }));
    let recreate = json!({ "operator": { "updateStrategy": { "type": "Recreate" } } });
    assert_eq!(objects(&recreate, "operator.yaml")[0]["spec"]["strategy"], json!({ "type": "Recreate" }));
}

/// Volumes, capabilities and rules are for what the agent does, and no more.
#[test]
fn the_agent_may_do_on_its_node_what_the_values_ask_for() {
    let of = |values: Value| {
        let pod = objects(&values, "agent.yaml")[0]["spec"]["template"]["spec"].clone();
        let names = |list: &Value| -> Vec<String> {
            let names = list.as_array().unwrap().iter().filter_map(|entry| entry["name"].as_str());
            names.filter(|name| name.starts_with("cni-") || name.starts_with("proc")).map(str::to_owned).collect()
        };
        let container = &pod["containers"][0];
        assert_eq!(names(&pod["volumes"]), names(&container["volumeMounts"]));
        let asks = objects(&values, "agent-rbac.yaml")
            .iter()
            .any(|object| object["kind"] == "Role" && object["metadata"]["name"] == "cadastre-agent");
        assert_eq!(asks, container["args"].to_string().contains("--daemon-set="));
        let add = container["securityContext"]["capabilities"]["add"].clone();
        (names(&pod["volumes"]), add, asks)
    };
    let volumes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let everything = volumes(&["cni-cache", "cni-bin", "cni-conf", "proc-sys-net"]);
    let all = json!(["SYS_ADMIN", "DAC_OVERRIDE", "NET_ADMIN"]);
    assert_eq!(of(json!({})), (everything.clone(), all.clone(), true));
    assert_eq!(of(json!({ "autoDirectNodeRoutes": false })), (everything, all.clone(), true));
    let plugin = volumes(&["cni-cache", "cni-bin", "proc-sys-net"]);
    assert_eq!(of(json!({ "cni": { "customConf": true } })), (plugin, all, true));
    let nothing = (volumes(&["cni-cache"]), json!(["SYS_ADMIN"]), false);
    assert_eq!(of(json!({ "cni": { "install": false } })), nothing);
    let routes = (volumes(&["cni-cache", "proc-sys-net"]), json!(["SYS_ADMIN", "NET_ADMIN"]), true);
    assert_eq!(of(json!({ "cni": { "install": false }, "autoDirectNodeRoutes": true })), routes);
    let own = json!({ "agent": { "securityContext": { "privileged": true, "capabilities": null } } });
    assert_eq!(of(own).1, json!(["DAC_OVERRIDE", "NET_ADMIN"]));
}

#[test]
fn the_folders_are_mounted_where_the_settings_say() {
    for values in [json!({}), json!({ "cni": { "confPath": "/c/net.d", "binPath": "/c/bin" } })] {
        let settings = Settings::from_yaml(&settings_file(&values)).unwrap().cni;
        let (conf, bin) = (settings.conflist.unwrap().conf_path, settings.bin_path.unwrap());
        let pod = objects(&values, "agent.yaml")[0]["spec"]["template"]["spec"].clone();
        let mounted = |name: &str| {
            let of =
                |list: &Value| list.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap().clone();
            let (mount, volume) = (of(&pod["containers"][0]["volumeMounts"]), of(&pod["volumes"]));
            assert_eq!(mount["mountPath"], volume["hostPath"]["path"]);
            PathBuf::from(mount["mountPath"].as_str().unwrap())
        };
        assert_eq!((mounted("cni-conf"), mounted("cni-bin")), (conf, bin));
    }
}

#[test]
fn probes_go_to_where_the_server_listens() {
    let container = |values| objects(&values, "agent.yaml")[0]["spec"]["template"]["spec"]["containers"][0].clone();
    let everywhere = container(json!({}));
    assert_eq!(everywhere["args"][3], "--listen=[::]:9962");
    assert_eq!(everywhere["readinessProbe"]["httpGet"], json!({ "path": "/readyz", "port": "metrics" }));
    let local = container(json!({ "agent": { "prometheus": { "host": "127.0.0.1", "port": 1 } } }));
    assert_eq!(local["args"][3], "--listen=127.0.0.1:1");
    assert_eq!(local["ports"][0]["containerPort"], 1);
    assert_eq!(
        local["livenessProbe"]["httpGet"],
        json!({ "path": "/healthz", "port": "metrics", "host": "127.0.0.1" })
    );
}

#[test]
fn definitions_are_kept_unless_told_otherwise() {
    let kept = objects(&json!({}), "crds.yaml");
    assert_eq!(kept.len(), 4);
    for definition in &kept {
        assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    for definition in objects(&json!({ "crds": { "keep": false } }), "crds.yaml") {
        assert!(definition["metadata"].get("annotations").is_none());
    }
    let none = render(&json!({ "crds": { "install": false } }), &[]);
    assert!(!String::from_utf8(none.stdout).unwrap().contains("CustomResourceDefinition"));
}

#[test]
fn helm_finds_nothing_to_complain_of_and_the_versions_agree() {
    let lint = helm().arg("lint").arg("--strict").arg(repo().join("charts/cadastre")).output().unwrap();
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
    let chart = yaml(&chart("Chart.yaml"));
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&env!("CARGO_PKG_VERSION").into(), &env!("CARGO_PKG_VERSION").into())
    );
}
