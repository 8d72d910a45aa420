//! The agent's pod with and without a health endpoint.

use cadastre_runtime::Settings;
use serde_json::json;

use crate::helm::objects;
use crate::settings_file;

#[test]
fn app_armor_is_left_out_only_for_a_health_endpoint_of_ipv6() {
    let kubernetes = json!({ "ipam": { "mode": "kubernetes" }, "k8s": { "requireIPv6PodCIDR": true } });
    let off = json!({ "ipv6": { "enabled": true }, "healthEndpoint": { "enabled": false } });
    let custom = json!({ "ipv6": { "enabled": true }, "cni": { "customConf": true } });
    let ipv4 = json!({ "k8s": { "requireIPv6PodCIDR": true } });
    let cases = [
        (json!({}), false),
        (json!({ "ipam": { "mode": "kubernetes" }, "k8s": null }), false),
        (json!({ "ipv6": { "enabled": true } }), true),
        (kubernetes, true),
        (off, false),
        (custom, false),
        (ipv4, false),
    ];
    for (values, expected) in cases {
        let settings = Settings::from_yaml(&settings_file(&values)).unwrap();
        assert_eq!(settings.health.is_some() && settings.families.len() == 2, expected, "{values}");
        let pod = objects(&values, "agent.yaml")[0]["spec"]["template"]["spec"].clone();
        let unconfined = pod["securityContext"]["appArmorProfile"] == json!({ "type": "Unconfined" });
        assert_eq!(unconfined, expected, "{values}");
    }
    let own = json!({ "ipv6": { "enabled": true }, "agent": { "podSecurityContext": { "appArmorProfile": { "type": "RuntimeDefault" } } } });
    let pod = objects(&own, "agent.yaml")[0]["spec"]["template"]["spec"].clone();
    assert_eq!(pod["securityContext"]["appArmorProfile"]["type"], "RuntimeDefault");
}
