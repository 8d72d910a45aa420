//! Each node's health endpoint: attached like a pod by the real interface plugins, probed from the other node, taken again by the
//! next agent, and given back with everything else.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cadastre_tests::{Attachment, ControlPlane, DUAL_STACK, Fabric, NAMESPACE, NetNs, Pair, Program, until};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use kube::api::DeleteParams;

const STOP: Duration = Duration::from_secs(20);

/// Rounds follow each other, and so do passes of reconciliation.
const FAST: [(&str, &str); 2] = [("CADASTRE_HEALTH_SECONDS", "0.6"), ("CADASTRE_RECONCILE_SECONDS", "0.5")];

async fn start(env: &[(&str, &str)]) -> Result<Pair> {
    Pair::start(&[&FAST, env].concat()).await
}

async fn all_reached(two: &Pair) -> Result<()> {
    for number in 0..2 {
        two.says(number, "Cluster health:  2/2 reachable   (").await?;
    }
    Ok(())
}

/// Status and message of the condition.
async fn condition(two: &Pair, number: usize) -> Result<(String, String)> {
    let condition = two.condition(number, "NodesReachable").await?;
    Ok((condition.status, condition.message))
}

async fn everybody_is_reached(env: &[(&str, &str)]) -> Result<()> {
    let two = start(env).await?;
    all_reached(&two).await?;
    let report = two.report(0).await?;
    let rows = report["addresses"].as_array().context("no addresses")?;
    let owners: Vec<_> = rows.iter().filter(|row| row["attachment"].is_object()).map(|row| &row["owner"]).collect();
    assert_eq!(owners, ["health", "health"], "one of each family");
    let nodes = report["clusterHealth"]["nodes"].as_array().context("no nodes")?;
    assert!(nodes.len() == 2 && nodes.iter().all(|node| node["microseconds"].as_u64() > Some(0)), "{report}");
    Ok(())
}

#[tokio::test]
async fn one_that_is_cut_off_is_named_until_it_is_back() -> Result<()> {
    let two = start(&[]).await?;
    all_reached(&two).await?;
    let own = two.held(1).await?;
    let nodes = two.cp.ipam_nodes().await?;
    let published = nodes["n2"].status.clone().and_then(|status| status.health_endpoint).context("no endpoint")?;
    assert_eq!((published.addresses.clone(), published.port), (own.keys().copied().collect(), 4240));
    let reached = async || Ok(condition(&two, 0).await.is_ok_and(|(status, _)| status == "True"));
    until("the condition", reached).await?;
    let metrics = two.agents[0].http_in(two.hosts[0].netns(), "/metrics").await?;
    for line in ["nodes_probed 2\n", "nodes_reachable 2\n", "endpoint_failed 0\n"] {
        assert!(metrics.contains(&format!("\ncadastre_agent_health_{line}")), "{metrics}");
    }
    // Longer than it takes reconciliation to free what nobody uses.
    let passes = |metrics: &str| -> Option<u64> {
        let line = metrics.lines().find_map(|line| line.strip_prefix("cadastre_agent_reconciliations_total "))?;
        line.parse().ok()
    };
    let before = passes(&metrics);
    let reconciled = async || {
        let now = passes(&two.agents[0].http_in(two.hosts[0].netns(), "/metrics").await?);
        Ok(now > before.map(|before| before + 3))
    };
    until("some passes of reconciliation", reconciled).await?;
    assert_eq!(two.held(1).await?, own);
    // With the API server's word that there is no such pod: the one that it names is the agent's.
    let audit = Program::ours("cadastre-agent")?.env("KUBECONFIG", two.cp.kubeconfig_admin()?).arg("audit");
    let audit = audit.arg("--config").arg(two.cp.settings_file("audit").await?);
    let audit = audit.arg("--netns-dir").arg(two.hosts[0].conf()).arg("--socket").arg(two.cp.agent_socket("n1"));
    let audit = audit.run().await?;
    assert!(audit.stdout.starts_with("0 findings: 2 addresses held, 0 namespaces, 1 pods"), "{audit:?}");

    two.fabric.cut(&two.hosts[1], true)?;
    two.says(0, "Cluster health:  1/2 reachable   (").await?;
    let said = two.command(0, &["status"]).await?;
    assert!(
        said.success() && said.stdout.contains(&format!("\n  n2  {}: ", own.keys().next().context("none")?)),
        "{said:?}"
    );
    two.says(1, "\n  n1  ").await?;
    let named = async || {
        let (status, message) = condition(&two, 0).await?;
        Ok(status == "False" && message.starts_with(&format!("no answer from n2 ({}", published.addresses[0])))
    };
    until("the condition to name it", named).await?;
    two.fabric.cut(&two.hosts[1], false)?;
    all_reached(&two).await?;
    until("the condition to be well", reached).await?;
    assert_eq!(two.held(1).await?, own, "nobody attached it anew");
    Ok(())
}

#[tokio::test]
async fn bridges_are_probed_as_well() -> Result<()> {
    everybody_is_reached(&[("CADASTRE__CNI__INTERFACEPLUGIN", "bridge")]).await
}

#[tokio::test]
async fn both_families_answer_anybody_at_the_port_that_is_set() -> Result<()> {
    let two = start(&[("CADASTRE__HEALTHENDPOINT__PORT", "4444")]).await?;
    all_reached(&two).await?;
    let own = two.held(0).await?;
    assert_eq!(own.len(), 2, "one of each family: {own:?}");
    let nodes = two.cp.ipam_nodes().await?;
    let published = nodes["n1"].status.clone().and_then(|status| status.health_endpoint).context("no endpoint")?;
    assert_eq!((published.addresses, published.port), (own.keys().copied().collect(), 4444));
    for address in own.keys() {
        let from = two.hosts[1].netns();
        let netcat = from.run(&["busybox", "nc", &address.to_string(), "4444"]).await?;
        assert_eq!(netcat.stdout, "cadastre-health n1\n", "{netcat:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_agent_takes_its_address_again() -> Result<()> {
    let two = start(&[]).await?;
    all_reached(&two).await?;
    let own = two.held(0).await?;
    for _ in 0..5 {
        two.agents[0].kill9();
        two.agents[0].restart()?;
        all_reached(&two).await?;
        assert_eq!(two.held(0).await?, own, "{}", two.agents[0].tail());
    }
    let links = two.hosts[0].netns().run(&["ip", "-o", "link", "show", "type", "veth"]).await?.ok()?;
    assert_eq!(links.lines().filter(|line| line.contains(": veth")).count(), 1, "{links}");
    Ok(())
}

#[tokio::test]
async fn what_goes_wrong_is_said_and_harms_no_pod() -> Result<()> {
    let two = start(&[]).await?;
    all_reached(&two).await?;
    let host = &two.hosts[0];
    // Somebody removes its interface: it is attached anew, with the same address.
    let own = two.held(0).await?;
    let links = host.netns().run(&["ip", "-o", "link", "show", "type", "veth"]).await?.ok()?;
    let veth = links.lines().filter_map(|line| line.split([' ', '@']).find(|word| word.starts_with("veth")));
    for veth in veth {
        host.netns().ip(&["link", "del", veth])?;
    }
    let anew = async || Ok(two.agents[0].log().contains("does not reach its own health endpoint"));
    until("it is attached anew", anew).await.with_context(|| two.agents[0].tail())?;
    all_reached(&two).await?;
    assert_eq!(two.held(0).await?, own);

    // An agent whose image lacks what the plugin is linked to.
    let ptp = host.bin().join("ptp");
    fs::rename(&ptp, host.bin().join("ptp.real"))?;
    fs::write(&ptp, "#!/no/such/linker\n")?;
    fs::set_permissions(&ptp, Permissions::from_mode(0o755))?;
    two.agents[0].kill9();
    two.agents[0].restart()?;
    two.says(0, "Cluster health:  Failed    the health endpoint cannot be attached: ").await?;
    let status = two.command(0, &["status"]).await?;
    assert!(!status.success() && status.stdout.contains("is linked to libraries of the node"), "{status:?}");
    let failed = async || {
        Ok(condition(&two, 0).await.is_ok_and(|(status, message)| status == "False" && message.contains("linked")))
    };
    until("the condition", failed).await?;
    // Others do not probe what is not there.
    two.says(1, "Cluster health:  1/1 reachable").await?;
    fs::rename(host.bin().join("ptp.real"), &ptp)?;
    let pod = NetNs::new("pod")?;
    let cni = two.cni(0)?;
    cni.add(&Attachment::new(&pod)).await.with_context(|| two.agents[0].tail())?;
    all_reached(&two).await?;
    cni.del(&Attachment::new(&pod)).await?;
    Ok(())
}

#[tokio::test]
async fn it_is_given_back_when_it_is_turned_off_and_when_all_is() -> Result<()> {
    let two = start(&[]).await?;
    all_reached(&two).await?;
    two.agents[1].term();
    two.agents[1].wait_exit(STOP).await?;
    let off = [&FAST[..], &[("CADASTRE__HEALTHENDPOINT__ENABLED", "false")]].concat();
    let second = two.cp.agent_program_on(&two.hosts[1], &off).await?.start(two.cp.folder(), "agent-2-off")?;
    let freed = async || Ok(two.held(1).await.is_ok_and(|own| own.is_empty()));
    until("the address is given back", freed).await.with_context(|| second.tail())?;
    two.says(0, "Cluster health:  1/1 reachable").await?;
    assert!(condition(&two, 1).await.is_err() && two.report(1).await?["clusterHealth"].is_null());

    let daemon_sets = Api::<DaemonSet>::namespaced(two.cp.admin().await?, NAMESPACE);
    daemon_sets.delete("cadastre-agent", &DeleteParams::background()).await?;
    two.agents[0].term();
    two.agents[0].wait_exit(STOP).await?;
    let host = &two.hosts[0];
    // The plugin stays if somebody holds an address.
    assert_eq!(host.there(&host.bin())?, ["bridge", "portmap", "ptp"], "{}", two.agents[0].tail());
    two.agents[0].restart()?;
    let restarted = async || Ok(two.report(0).await.is_ok());
    until("the agent answers", restarted).await?;
    ensure!(!two.agents[0].log().contains("still there"), "{}", two.agents[0].tail());
    Ok(())
}

/// As in a container.
#[tokio::test]
async fn a_read_only_proc_sys_is_no_obstacle() -> Result<()> {
    let cp = ControlPlane::start().await?;
    cp.install_chart(DUAL_STACK).await?.ok()?;
    let fabric = Fabric::new()?;
    let host = fabric.host(&cp, 1)?;
    let _operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    cp.create_nodes([host.node()]).await?;
    let sysctls = host.folder().join("sysctls");
    fs::create_dir(&sysctls)?;
    let script = r#"mount --bind /proc/sys/net "$0" && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys \
        && exec "$@""#;
    let mounts =
        Program::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(&sysctls);
    let agent = cp.agent_program_on(&host, &FAST).await?.arg("--sysctl-dir").arg(&sysctls).under(mounts);
    let agent = agent.start(cp.folder(), "agent")?;
    let status = async || cp.ask_agent(host.name(), &["status"]).await;
    let said = async || Ok(status().await?.stdout.contains("Cluster health:  1/1 reachable"));
    until("its own endpoint is reached", said).await.with_context(|| agent.tail())?;
    let read_only = fs::read_to_string(format!("/proc/{}/mounts", agent.pid()))?;
    assert!(read_only.lines().any(|line| line.contains(" /proc/sys proc ro")), "the agent's stays: {read_only}");
    Ok(())
}
