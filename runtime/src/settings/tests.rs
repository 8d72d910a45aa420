//! Settings from text to meaning: what is accepted, what is refused, and in which words.

use super::*;

/// The settings file, and each problem as it is shown.
type Refused = (&'static str, &'static [&'static str]);

const MODES_AND_FAMILIES: &[Refused] = &[
    (
        "ipam: {mode: eni}",
        &["ipam.mode: \"eni\" is known but not built in this release; this release runs kubernetes and cluster-pool"],
    ),
    (
        "ipam: {mode: azure}",
        &["ipam.mode: \"azure\" is known but not built in this release; this release runs kubernetes and cluster-pool"],
    ),
    (
        "ipam: {mode: multi-pool}",
        &[
            "ipam.mode: \"multi-pool\" is known but not built in this release; this release runs kubernetes and cluster-pool",
        ],
    ),
    (
        "ipam: {mode: clusterpool}",
        &["ipam.mode: \"clusterpool\" is not a mode; one of kubernetes, cluster-pool, multi-pool, eni, azure is"],
    ),
    ("ipam: {mode: 1}", &["ipam.mode: read 1; one of \"kubernetes\", \"cluster-pool\" would be right"]),
    (
        "ipam: {mode: clusterpool, operator: {clusterPoolIPv4PodCIDRList: [10.0.0.1/8]}}",
        &[
            "ipam.mode: \"clusterpool\" is not a mode; one of kubernetes, cluster-pool, multi-pool, eni, azure is",
            "ipam.operator.clusterPoolIPv4PodCIDRList[0]: \"10.0.0.1/8\" has host bits set; did you mean 10.0.0.0/8?",
        ],
    ),
    (
        "ipv4: {enabled: false}",
        &["ipv4.enabled: false, and IPv6 is not enabled either; set ipv4.enabled or ipv6.enabled to true"],
    ),
    (
        "{ipam: {mode: kubernetes}, ipv6: {enabled: false}, k8s: {requireIPv6PodCIDR: true}}",
        &["ipv6.enabled: false, but k8s.requireIPv6PodCIDR is true; remove one of the two"],
    ),
    ("ipv6: {enabled: \"yes\"}", &["ipv6.enabled: read \"yes\"; true or false would be right"]),
];

const KEYS: &[Refused] = &[
    (
        "ipam: {operator: {clusterPoolIPv4MaskSiz: 24}}",
        &[
            "ipam.operator.clusterPoolIPv4MaskSiz: there is no such key (read 24); did you mean ipam.operator.clusterPoolIPv4MaskSize?",
        ],
    ),
    (
        "ipam: {clusterPoolIPv4PodCIDRList: [10.0.0.0/8]}",
        &[
            "ipam.clusterPoolIPv4PodCIDRList: there is no such key (read [\"10.0.0.0/8\"]); did you mean ipam.operator.clusterPoolIPv4PodCIDRList?",
        ],
    ),
    ("IPAM: {mode: kubernetes}", &["IPAM: there is no such key (read {\"mode\":\"kubernetes\"}); did you mean ipam?"]),
    (
        "k8s: {nonsense: 1}",
        &["k8s.nonsense: there is no such key (read 1); the keys here are requireIPv4PodCIDR, requireIPv6PodCIDR"],
    ),
    ("ipv4: true", &["ipv4: read true; a block of keys: enabled would be right"]),
    (
        "ipam: {clusterPoolIPv4: 10.0.0.0/8, operator: {clusterPoolIPv4PodCIDRList: [10.0.0.0/8]}}",
        &[
            "ipam.clusterPoolIPv4: written beside ipam.operator.clusterPoolIPv4PodCIDRList, which is the same setting; remove this one",
        ],
    ),
    (
        "ipam: {clusterPoolIPv4MaskSize: 25, operator: {clusterPoolIPv4MaskSize: 24}}",
        &[
            "ipam.clusterPoolIPv4MaskSize: written beside ipam.operator.clusterPoolIPv4MaskSize, which is the same setting; remove this one",
        ],
    ),
];

const CIDRS: &[Refused] = &[
    (
        "ipam: {clusterPoolIPv4: 10.0.0.0}",
        &["ipam.clusterPoolIPv4: \"10.0.0.0\" has no prefix length; did you mean 10.0.0.0/32?"],
    ),
    (
        "ipam: {operator: {clusterPoolIPv4PodCIDRList: [10.0.0.1/8]}}",
        &["ipam.operator.clusterPoolIPv4PodCIDRList[0]: \"10.0.0.1/8\" has host bits set; did you mean 10.0.0.0/8?"],
    ),
    (
        "ipam: {operator: {clusterPoolIPv4PodCIDRList: [10.0.0.0/8, ten/8]}}",
        &[
            "ipam.operator.clusterPoolIPv4PodCIDRList[1]: \"ten/8\" is not a CIDR: \"ten\" is not an IP address; write it as 10.0.0.0/24 or fd00::/64",
        ],
    ),
    (
        "ipam: {clusterPoolIPv4: 10.0.0.0/33}",
        &[
            "ipam.clusterPoolIPv4: \"10.0.0.0/33\" is not a CIDR: the prefix length of an IPv4 CIDR is a number from 0 to 32",
        ],
    ),
    (
        "ipam: {operator: {clusterPoolIPv4PodCIDRList: ['fd00::/104']}}",
        &[
            "ipam.operator.clusterPoolIPv4PodCIDRList[0]: fd00::/104 is IPv6, and IPv4 CIDRs are expected here; move it to ipam.operator.clusterPoolIPv6PodCIDRList",
        ],
    ),
    (
        "{ipv6: {enabled: true}, ipam: {clusterPoolIPv6: 10.0.0.0/8}}",
        &[
            "ipam.clusterPoolIPv6: 10.0.0.0/8 is IPv4, and IPv6 CIDRs are expected here; move it to ipam.operator.clusterPoolIPv4PodCIDRList",
        ],
    ),
    (
        "ipam: {operator: {clusterPoolIPv4PodCIDRList: [10.0.0.0/8, 172.16.0.0/12, 10.1.0.0/16]}}",
        &[
            "ipam.operator.clusterPoolIPv4PodCIDRList[2]: 10.1.0.0/16 overlaps 10.0.0.0/8 (ipam.operator.clusterPoolIPv4PodCIDRList[0]); CIDRs of a pool must be disjoint: remove one",
        ],
    ),
    (
        "ipam: {operator: {clusterPoolIPv4PodCIDRList: []}}",
        &[
            "ipam.operator.clusterPoolIPv4PodCIDRList: there is no CIDR in it; write one such as 10.0.0.0/8, or remove the key",
        ],
    ),
    (
        "{ipv6: {enabled: true}, ipam: {clusterPoolIPv6: ' '}}",
        &["ipam.clusterPoolIPv6: there is no CIDR in it; write one such as fd00::/104, or remove the key"],
    ),
    (
        "ipam: {clusterPoolIPv4: 8}",
        &["ipam.clusterPoolIPv4: read 8; a list of text such as [\"10.0.0.0/8\",\"172.16.0.0/12\"] would be right"],
    ),
    (
        "ipam: {operator: {clusterPoolIPv4PodCIDRList: [10]}}",
        &["ipam.operator.clusterPoolIPv4PodCIDRList[0]: read 10; text would be right"],
    ),
    (
        "ipam: {clusterPoolIPv4: 0.0.0.0/0}",
        &[
            "ipam.clusterPoolIPv4: 0.0.0.0/0 overlaps 0.0.0.0/8 (this network), where no pod can have an address; choose another CIDR",
        ],
    ),
    (
        "ipam: {clusterPoolIPv4: 127.128.0.0/16}",
        &[
            "ipam.clusterPoolIPv4: 127.128.0.0/16 overlaps 127.0.0.0/8 (loopback), where no pod can have an address; choose another CIDR",
        ],
    ),
    (
        "ipam: {clusterPoolIPv4: 224.0.0.0/8}",
        &[
            "ipam.clusterPoolIPv4: 224.0.0.0/8 overlaps 224.0.0.0/4 (multicast), where no pod can have an address; choose another CIDR",
        ],
    ),
    (
        "{ipv6: {enabled: true}, ipam: {clusterPoolIPv6: 'fe80::/64'}}",
        &[
            "ipam.clusterPoolIPv6: fe80::/64 overlaps fe80::/10 (link-local), where no pod can have an address; choose another CIDR",
        ],
    ),
];

const MASKS: &[Refused] = &[
    (
        "ipam: {operator: {clusterPoolIPv4MaskSize: 33}}",
        &[
            "ipam.operator.clusterPoolIPv4MaskSize: 33 is not a prefix length of IPv4 blocks; write a number from 8 to 29",
        ],
    ),
    (
        "ipam: {operator: {clusterPoolIPv4MaskSize: 0}}",
        &[
            "ipam.operator.clusterPoolIPv4MaskSize: 0 is not a prefix length of IPv4 blocks; write a number from 8 to 29",
        ],
    ),
    (
        "ipam: {operator: {clusterPoolIPv4MaskSize: -1}}",
        &[
            "ipam.operator.clusterPoolIPv4MaskSize: -1 is not a prefix length of IPv4 blocks; write a number from 8 to 29",
        ],
    ),
    (
        "ipam: {operator: {clusterPoolIPv4MaskSize: 7}}",
        &[
            "ipam.operator.clusterPoolIPv4MaskSize: 7 means blocks larger than 10.0.0.0/8 (ipam.operator.clusterPoolIPv4PodCIDRList); write a number from 8 to 29",
        ],
    ),
    (
        "ipam: {operator: {clusterPoolIPv4PodCIDRList: [10.0.0.0/16, 10.9.0.0/28]}}",
        &[
            "ipam.operator.clusterPoolIPv4MaskSize: 24 means blocks larger than 10.9.0.0/28 (ipam.operator.clusterPoolIPv4PodCIDRList[1]); write a number from 28 to 29",
        ],
    ),
    (
        "ipam: {operator: {clusterPoolIPv4MaskSize: twentyfour}}",
        &["ipam.operator.clusterPoolIPv4MaskSize: read \"twentyfour\"; a whole number from 1 to 32 would be right"],
    ),
    (
        "ipam: {clusterPoolIPv4MaskSize: '24'}",
        &["ipam.clusterPoolIPv4MaskSize: read \"24\"; a whole number from 1 to 32 would be right"],
    ),
    (
        "{ipv6: {enabled: true}, ipam: {operator: {clusterPoolIPv6MaskSize: 129}}}",
        &[
            "ipam.operator.clusterPoolIPv6MaskSize: 129 is not a prefix length of IPv6 blocks; write a number from 104 to 125",
        ],
    ),
    (
        "ipam: {clusterPoolIPv4MaskSize: 30}",
        &[
            "ipam.clusterPoolIPv4MaskSize: 30 means blocks of fewer than 8 addresses, which have no gateway, and ptp attaches no pod without one; write a number from 8 to 29, or write a CNI configuration of your own (cni.customConf)",
        ],
    ),
    (
        "{ipv6: {enabled: true}, cni: {interfacePlugin: bridge}, ipam: {operator: {clusterPoolIPv6MaskSize: 126}}}",
        &[
            "ipam.operator.clusterPoolIPv6MaskSize: 126 means blocks of fewer than 8 addresses, which have no gateway, and bridge attaches no pod without one; write a number from 104 to 125, or write a CNI configuration of your own (cni.customConf)",
        ],
    ),
    (
        "ipam: {clusterPoolIPv4: 10.0.0.0/31, clusterPoolIPv4MaskSize: 32}",
        &[
            "ipam.clusterPoolIPv4MaskSize: 32 means blocks of fewer than 8 addresses, which have no gateway, and ptp attaches no pod without one; choose CIDRs of /29 or larger, or write a CNI configuration of your own (cni.customConf)",
        ],
    ),
    (
        "{cni: {customConf: true}, ipam: {clusterPoolIPv4MaskSize: 33}}",
        &["ipam.clusterPoolIPv4MaskSize: 33 is not a prefix length of IPv4 blocks; write a number from 8 to 32"],
    ),
];

const TUNING: &[Refused] = &[
    (
        "operator: {cooling: 1m}",
        &[
            "operator.cooling: 1m is too short, since others may still talk to the addresses of a deleted node; write 2m or more",
        ],
    ),
    ("operator: {cooling: 300}", &["operator.cooling: read 300; text such as \"30s\" or \"5m\" would be right"]),
    ("operator: {cooling: '300'}", &["operator.cooling: \"300\" has no unit; write 300s if seconds are meant"]),
    ("agent: {addWait: 1m}", &["agent.addWait: 1m is longer than the plugin waits for the agent; write 25s or less"]),
    (
        "agent: {addressCooling: soon}",
        &["agent.addressCooling: \"soon\" is not a duration; write one like 300ms, 30s, 5m or 1h30m"],
    ),
    (
        "ipam: {operator: {clusterPoolReserved: [10.0.0.9, 192.168.0.0/24, 10.0.0.9-10.0.0.1, 10.0.0.x]}}",
        &[
            "ipam.operator.clusterPoolReserved[1]: 192.168.0.0/24 lies in no CIDR of the pool (10.0.0.0/8): correct or remove it",
            "ipam.operator.clusterPoolReserved[2]: 10.0.0.9-10.0.0.1 ends before it begins; did you mean 10.0.0.1-10.0.0.9?",
            "ipam.operator.clusterPoolReserved[3]: \"10.0.0.x\" is not a range: \"10.0.0.x\" is not an IP address; write 10.0.0.5, 10.0.0.0/28 or 10.0.0.5-10.0.0.9",
        ],
    ),
    (
        "ipam: {operator: {nodeSelector: {example.com/pods: true}}}",
        &["ipam.operator.nodeSelector.example.com/pods: read true; text would be right"],
    ),
    (
        "ipam: {operator: {nodeSelector: {example.com/: 'yes'}}}",
        &[
            "ipam.operator.nodeSelector: \"example.com/\" is not the key of a label; write one like example.com/role or role",
        ],
    ),
    ("logLevel: verbose", &["logLevel: \"verbose\" is no level; one of error, warn, info, debug, trace is"]),
    ("logFormat: yaml", &["logFormat: \"yaml\" is no format; one of text, json is"]),
    (
        "k8sServiceHost: 10.0.0.1",
        &["k8sServicePort: not written, but k8sServiceHost is; write the API server's port, such as 6443"],
    ),
    (
        "{k8sServiceHost: 10.0.0.1, k8sServicePort: 65536}",
        &["k8sServicePort: 65536 is not a port; write a number from 1 to 65535"],
    ),
    (
        "{k8sServiceHost: 10.0.0.1, k8sServicePort: https}",
        &["k8sServicePort: https is not a port; write a number from 1 to 65535"],
    ),
    (
        "{k8sServiceHost: 'https://10.0.0.1', k8sServicePort: 6443}",
        &["k8sServiceHost: \"https://10.0.0.1\" is not a host; write a name or an address, without scheme and port"],
    ),
    (
        "{k8sServiceHost: auto, k8sServicePort: 6443}",
        &["k8sServiceHost: \"auto\" is not a host; write a name or an address, without scheme and port"],
    ),
];

#[test]
fn bad_settings_are_refused_in_these_words() {
    let tables = [MODES_AND_FAMILIES, KEYS, CIDRS, MASKS, TUNING];
    for (text, expected) in tables.into_iter().flatten() {
        let error = Settings::from_yaml(text).expect_err(text);
        let shown = error.problems().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown, *expected, "{text}");
    }
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_their_keys() {
    let text = "
ipam: {mode: kubernets, operatr: {}, clusterPoolIPv4MaskSize: many}
logLevel: loud
operator: {cooling: 1s}
";
    assert_eq!(
        Settings::from_yaml(text).unwrap_err().to_string(),
        "the settings have 5 problems:
  ipam.clusterPoolIPv4MaskSize: read \"many\"; a whole number from 1 to 32 would be right
  ipam.mode: \"kubernets\" is not a mode; one of kubernetes, cluster-pool, multi-pool, eni, azure is
  ipam.operatr: there is no such key (read {}); did you mean ipam.operator?
  logLevel: \"loud\" is no level; one of error, warn, info, debug, trace is
  operator.cooling: 1s is too short, since others may still talk to the addresses of a deleted node; write 2m or more"
    );
}

#[test]
fn what_is_no_mapping_is_refused_with_its_place() {
    let error = |text| Settings::from_yaml(text).unwrap_err().to_string();
    assert_eq!(
        error("- a\n- b"),
        "the settings cannot be read: invalid type: sequence, expected a map; write YAML with keys and values, such as `ipam: {mode: cluster-pool}`"
    );
    let broken = error("ipam: {mode: kubernetes");
    assert!(broken.starts_with("the settings cannot be read: ") && broken.contains("line 2 column 1"), "{broken}");
}

fn pool(family: Family, cidrs: &[&str], mask_size: u8) -> PoolFamily {
    PoolFamily { family, cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(), mask_size }
}

fn cluster_pool(pools: Vec<PoolFamily>) -> ModeSettings {
    ModeSettings::ClusterPool(ClusterPoolSettings { pools, reserved: vec![] })
}

#[test]
fn nothing_written_is_cilium_s_cluster_pool() {
    for text in ["", "{}", "# nothing", "{ipam: null, eni: null}", "ipam: {mode: null, operator: null}"] {
        let settings = Settings::from_yaml(text).expect(text);
        assert_eq!(
            settings,
            Settings {
                mode: cluster_pool(vec![pool(Family::V4, &["10.0.0.0/8"], 24)]),
                families: vec![Family::V4],
                operator: OperatorSettings {
                    block_cooling: Duration::from_mins(5),
                    remove_node_taints: true,
                    set_node_network_status: true,
                    node_selector: BTreeMap::new(),
                },
                agent: AgentSettings { address_cooling: Duration::from_secs(30), add_wait: Duration::from_secs(10) },
                cni: CniSettings {
                    bin_path: Some("/opt/cni/bin".into()),
                    conflist: Some(Conflist {
                        conf_path: "/etc/cni/net.d".into(),
                        interface_plugin: InterfacePlugin::Ptp,
                        exclusive: false,
                        mtu: None,
                    }),
                    routes: true,
                },
                health: Some(super::HealthSettings { port: 4240 }),
                api_server: None,
                log: LogSettings { level: tracing::Level::INFO, format: LogFormat::Text },
                warnings: vec![],
            }
        );
    }
}

#[test]
fn kubernetes_mode_serves_the_families_whose_pod_cidr_is_required() {
    let text = "
ipam: {mode: \"kubernetes\"}
k8s: {requireIPv4PodCIDR: true, requireIPv6PodCIDR: true}";
    let settings = Settings::from_yaml(text).unwrap();
    assert_eq!(settings.mode, ModeSettings::Kubernetes(KubernetesSettings { required: Family::ALL.to_vec() }));
    assert_eq!((settings.families, settings.warnings), (Family::ALL.to_vec(), vec![]));

    let settings = Settings::from_yaml("{ipam: {mode: kubernetes}, ipv6: {enabled: true}}").unwrap();
    assert_eq!(settings.mode, ModeSettings::Kubernetes(KubernetesSettings { required: vec![] }));
    assert_eq!(settings.families, Family::ALL);

    let v6_only = "{ipam: {mode: kubernetes}, ipv4: {enabled: false}, k8s: {requireIPv6PodCIDR: true}}";
    assert_eq!(Settings::from_yaml(v6_only).unwrap().families, [Family::V6]);
}

#[test]
fn the_older_spelling_works_with_a_warning() {
    let text = "ipam: {mode: \"cluster-pool\", clusterPoolIPv4: \"10.200.0.0/16\", clusterPoolIPv4MaskSize: 24}";
    let settings = Settings::from_yaml(text).unwrap();
    assert_eq!(settings.mode, cluster_pool(vec![pool(Family::V4, &["10.200.0.0/16"], 24)]));
    assert_eq!(
        settings.warnings,
        [
            "ipam.clusterPoolIPv4 is the older spelling of ipam.operator.clusterPoolIPv4PodCIDRList: it works, but rename it",
            "ipam.clusterPoolIPv4MaskSize is the older spelling of ipam.operator.clusterPoolIPv4MaskSize: it works, but rename it",
        ]
    );
}

#[test]
fn cluster_pool_mode_serves_both_families() {
    let text = "
ipam:
  mode: cluster-pool
  operator: {clusterPoolIPv4PodCIDRList: [\"10.0.0.0/8\"], clusterPoolIPv4MaskSize: 24, clusterPoolIPv6PodCIDRList: [\"fd00::/104\"], clusterPoolIPv6MaskSize: 120}
ipv6: {enabled: true}";
    let settings = Settings::from_yaml(text).unwrap();
    let (v4, v6) = (pool(Family::V4, &["10.0.0.0/8"], 24), pool(Family::V6, &["fd00::/104"], 120));
    assert_eq!(settings.mode, cluster_pool(vec![v4, v6]));
    assert_eq!((settings.families, settings.warnings), (Family::ALL.to_vec(), vec![]));
}

#[test]
fn blocks_may_be_as_small_as_who_attaches_pods_can_use() {
    for cni in ["cni: {customConf: true}", "cni: {install: false}"] {
        let text = format!("{{{cni}, ipam: {{clusterPoolIPv4: 10.0.0.0/16, clusterPoolIPv4MaskSize: 32}}}}");
        let expected = cluster_pool(vec![pool(Family::V4, &["10.0.0.0/16"], 32)]);
        assert_eq!(Settings::from_yaml(&text).expect(&text).mode, expected);
    }
    let of_nodes = "ipam: {mode: kubernetes, clusterPoolIPv4MaskSize: 32}";
    assert!(Settings::from_yaml(of_nodes).is_ok(), "Node.spec.podCIDRs are not ours to refuse");
}

#[test]
fn cidrs_are_read_in_every_way_that_people_write_them() {
    let expected = cluster_pool(vec![pool(Family::V4, &["10.0.0.0/16", "10.2.0.0/16"], 29)]);
    for list in [
        "[10.0.0.0/16, 10.2.0.0/16]",
        "'10.0.0.0/16, 10.2.0.0/16'",
        "10.0.0.0/16 10.2.0.0/16",
        "['10.0.0.0/16,10.2.0.0/16']",
    ] {
        let text = format!("ipam: {{operator: {{clusterPoolIPv4MaskSize: 29, clusterPoolIPv4PodCIDRList: {list}}}}}");
        assert_eq!(Settings::from_yaml(&text).expect(list).mode, expected, "{list}");
    }
}

#[test]
fn keys_without_effect_are_named_and_not_refused() {
    let text = "
ipam:
  mode: kubernetes
  ciliumNodeUpdateRate: 15s
  multiPoolPreAllocation: ''
  operator: {clusterPoolIPv4PodCIDRList: [not a CIDR], externalAPILimitQPS: 4, autoCreateCiliumPodIPPools: {}}
  nodeSpec: {ipamPreAllocate: 8, ipamStaticIPTags: []}
eni: {enabled: false, awsEnablePrefixDelegation: true, eniTags: {team: net}}
azure: {resourceGroup: rg}
";
    assert_eq!(
        Settings::from_yaml(text).unwrap().warnings,
        [
            "azure.resourceGroup has no effect in mode kubernetes: it is a setting of mode azure",
            "eni.awsEnablePrefixDelegation has no effect in mode kubernetes: it is a setting of mode eni",
            "eni.eniTags.team has no effect in mode kubernetes: it is a setting of mode eni",
            "ipam.ciliumNodeUpdateRate has no effect: it is a setting of Cilium that Cadastre does not need",
            "ipam.nodeSpec.ipamPreAllocate has no effect in mode kubernetes: it is a setting of mode eni and azure",
            "ipam.operator.clusterPoolIPv4PodCIDRList has no effect in mode kubernetes: it is a setting of mode cluster-pool",
            "ipam.operator.externalAPILimitQPS has no effect in mode kubernetes: it is a setting of mode eni and azure",
        ]
    );
    let disabled = Settings::from_yaml("ipam: {clusterPoolIPv6: 'fd00::/104'}").unwrap();
    assert_eq!(disabled.warnings, ["ipam.clusterPoolIPv6 has no effect: IPv6 is not enabled (ipv6.enabled)"]);
    let required = Settings::from_yaml("k8s: {requireIPv6PodCIDR: true}").unwrap();
    assert_eq!(
        required.warnings,
        ["k8s.requireIPv6PodCIDR has no effect in mode cluster-pool: it is a setting of mode kubernetes"]
    );
    assert_eq!(required.families, [Family::V4]);
}

fn with_environment(text: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    validate::settings(source::parse(text, variables)?, &Shape::settings())
}

#[test]
fn the_environment_goes_over_the_file() {
    let settings = with_environment(
        "ipam: {operator: {clusterPoolIPv4MaskSize: 26}}",
        &[
            ("CADASTRE__IPV6__ENABLED", "true"),
            ("CADASTRE__IPAM__OPERATOR__CLUSTER_POOL_IPV4_POD_CIDR_LIST", "10.0.0.0/16,10.2.0.0/16"),
            ("CADASTRE__IPAM__OPERATOR__CLUSTERPOOLIPV6PODCIDRLIST", r#"["fd00::/64"]"#),
            ("CADASTRE__K8SSERVICEHOST", "fd00::1"),
            ("CADASTRE__K8S_SERVICE_PORT", "6443"),
        ],
    )
    .unwrap();
    let v4 = pool(Family::V4, &["10.0.0.0/16", "10.2.0.0/16"], 26);
    assert_eq!(settings.mode, cluster_pool(vec![v4, pool(Family::V6, &["fd00::/64"], 120)]));
    assert_eq!(settings.api_server.unwrap().url(), "https://[fd00::1]:6443");
}

#[test]
fn problems_of_the_environment_name_the_variable() {
    let error = with_environment(
        "ipam: {mode: cluster-pool}",
        &[
            ("CADASTRE__IPAM__MODE", "eni"),
            ("CADASTRE__IPAM__OPERATOR__CLUSTERPOOLIPV4MASKSIZE", "big"),
            ("CADASTRE__OPERATOR__COOLIN", "5m"),
        ],
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the settings have 3 problems:
  ipam.mode (environment variable CADASTRE__IPAM__MODE): \"eni\" is known but not built in this release; this release runs kubernetes and cluster-pool
  ipam.operator.clusterPoolIPv4MaskSize (environment variable CADASTRE__IPAM__OPERATOR__CLUSTERPOOLIPV4MASKSIZE): read \"big\"; a whole number from 1 to 32 would be right
  operator.coolin (environment variable CADASTRE__OPERATOR__COOLIN): there is no such key; did you mean operator.cooling?"
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = Settings::load(Path::new("/nowhere/config.yaml")).unwrap_err().to_string();
    assert_eq!(
        error,
        "settings file /nowhere/config.yaml cannot be read: name the file that the chart's ConfigMap holds with --config"
    );
}

#[test]
fn shown_for_check_config() {
    let text =
        "{ipv6: {enabled: true}, ipam: {clusterPoolIPv4: 10.1.0.0/16}, k8sServiceHost: api, k8sServicePort: '6443'}";
    assert_eq!(
        Settings::from_yaml(text).unwrap().to_string(),
        "\
mode:             cluster-pool
families:         IPv4, IPv6
pool IPv4:        10.1.0.0/16 in blocks of /24
pool IPv6:        fd00::/104 in blocks of /120
block cooling:    5m
on serving nodes: untaints, sets NetworkUnavailable
address cooling:  30s
add wait:         10s
CNI:              plugin in /opt/cni/bin, configuration in /etc/cni/net.d: ptp, the node's MTU
routes to nodes:  yes
health endpoint:  port 4240
API server:       https://api:6443
log:              info as text
warning:          ipam.clusterPoolIPv4 is the older spelling of ipam.operator.clusterPoolIPv4PodCIDRList: it works, but rename it
"
    );
}

#[test]
fn a_node_selector_keeps_its_labels_as_written() {
    let text = "ipam: {operator: {nodeSelector: {example.com/Pods.of: \"true\", Role: worker}}}";
    let settings = Settings::from_yaml(text).unwrap();
    let labels = [("example.com/Pods.of", "true"), ("Role", "worker")];
    let labels: BTreeMap<_, _> = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    assert_eq!(settings.operator.node_selector, labels);
    assert!(settings.to_string().contains("nodes with:       Role=worker, example.com/Pods.of=true\n"), "{settings}");
    assert_eq!(settings.warnings, [] as [String; 0]);
}

#[test]
fn a_whole_values_file_is_taken_where_one_is_checked() {
    let chart = include_str!("../../../charts/cadastre/values.yaml");
    let of_values = |text: &str| validate::settings(source::parse(text, Vec::new())?, &Shape::values());
    assert_eq!(of_values(chart).unwrap(), Settings::from_yaml("{}").unwrap());
    let own = "operator: {replicas: 3, cooling: 7m}\nagent: {image: {tag: x}}\n";
    assert_eq!(of_values(own).unwrap().operator.block_cooling, Duration::from_mins(7));
    assert_eq!(Settings::from_yaml(own).unwrap_err().problems().len(), 2);
    let wrong = of_values("operator: {replica: 3, cooling: 7}").unwrap_err();
    let wrong: Vec<_> = wrong.problems().iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(wrong, ["operator.cooling", "operator.replica"]);
}

#[test]
fn what_is_installed_follows_from_few_words() {
    let cni = |text: &str| {
        let settings = Settings::from_yaml(text).expect(text);
        let CniSettings { bin_path, conflist, routes } = settings.cni;
        (bin_path.is_some(), conflist.is_some(), routes, settings.warnings.len())
    };
    assert_eq!(cni("{}"), (true, true, true, 0));
    assert_eq!(cni("cni: {install: false}"), (false, false, false, 0));
    assert_eq!(cni("cni: {customConf: true}"), (true, false, false, 0));
    assert_eq!(cni("{cni: {install: false}, autoDirectNodeRoutes: true}"), (false, false, true, 0));
    assert_eq!(cni("autoDirectNodeRoutes: false"), (true, true, false, 0));
    assert_eq!(
        cni("{cni: {customConf: true, exclusive: true, interfacePlugin: bridge}, MTU: 1400}"),
        (true, false, false, 3)
    );
    let written =
        Settings::from_yaml("{cni: {interfacePlugin: bridge, exclusive: true, confPath: /c}, MTU: 1400}").unwrap();
    let expected = "plugin in /opt/cni/bin, configuration in /c: bridge, MTU 1400, others renamed";
    assert!(written.to_string().contains(expected), "{written}");
    let problems = Settings::from_yaml("{cni: {interfacePlugin: macvlan, binPath: bin}, MTU: 1000}").unwrap_err();
    let problems: Vec<_> = problems.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "MTU: 1000 is no MTU; write a number from 1280 to 65535",
            "cni.binPath: \"bin\" is no folder on the node; write its whole path, such as /opt/cni/bin",
            "cni.interfacePlugin: \"macvlan\" is not built in; one of ptp, bridge is, and with cni.customConf the configuration is yours",
        ]
    );
}

#[test]
fn what_is_installed_goes_where_a_runtime_looks() {
    let refused = |conf: &str, bin: &str| {
        let error = Settings::from_yaml(&format!("cni: {{confPath: {conf}, binPath: {bin}}}")).unwrap_err();
        error.problems().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        refused("/etc/cni/../net.d", "/run//./cadastre/bin"),
        [
            "cni.binPath: \"/run//./cadastre/bin\" is the agent's own: its socket and its journal are in /run/cadastre; write the folder that the runtime reads, such as /opt/cni/bin",
            "cni.confPath: \"/etc/cni/../net.d\" goes back by \"..\"; write the path without, such as /etc/cni/net.d",
        ]
    );
    assert_eq!(refused("/run/cadastre", "/var/run/cadastre/").len(), 2);
    assert_eq!(refused("/run/cadastre/..", "/..").len(), 2);
    for folder in ["/run/cadastre-net", "/run/cni", "/etc/..cni", "/var/lib/run/cadastre"] {
        assert!(Settings::from_yaml(&format!("cni: {{confPath: {folder}, binPath: {folder}}}")).is_ok(), "{folder}");
    }
}

#[test]
fn the_health_endpoint_is_there_with_a_configuration_of_ours() {
    let port = |text: &str| Settings::from_yaml(text).unwrap().health.map(|health| health.port);
    for text in ["{}", "{healthEndpoint: {enabled: true}}", "{autoDirectNodeRoutes: false}"] {
        assert_eq!(port(text), Some(4240), "{text}");
    }
    assert_eq!(port("{healthEndpoint: {port: 4000}}"), Some(4000));
    for text in ["{cni: {install: false}}", "{cni: {customConf: true}}", "{healthEndpoint: {enabled: false}}"] {
        assert_eq!(port(text), None, "{text}");
    }
    let problem = |text: &str| Settings::from_yaml(text).unwrap_err().to_string();
    let said = problem("{cni: {customConf: true}, healthEndpoint: {enabled: true, port: 70000}}");
    assert_eq!(
        said,
        "the settings have 2 problems:
  healthEndpoint.enabled: true, but cni.customConf is true, and agents attach it by the configuration that they write themselves; remove one of the two
  healthEndpoint.port: 70000 is not a port; write a number from 1 to 65535"
    );
    assert!(problem("{cni: {install: false}, healthEndpoint: {enabled: true}}").contains("cni.install is false"));
}
