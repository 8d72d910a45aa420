//! The harness itself: what it starts is real, and it is gone afterwards, however the test ends.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cadastre_tests::{Attachment, Cni, ControlPlane, NetNs, Program, Scratch, eventually, node, pod, tool};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

fn is_alive(pid: u32) -> bool {
    // A zombie is dead: whoever adopted it has not looked yet.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_control_plane_serves_and_is_gone_when_dropped() -> Result<()> {
    let cp = ControlPlane::start().await?;
    let created =
        cp.create_nodes((0..50).map(|n| node(&format!("n{n}")).pod_cidrs([format!("10.0.{n}.0/24")]))).await?;
    assert_eq!(created.len(), 50);
    assert_eq!(created[7].spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()), Some("10.0.7.0/24"));

    let writes_of = |user: &'static str| cp.count(move |e| e.resource == "nodes" && e.is_write() && e.user == user);
    assert_eq!((writes_of("admin").await?, writes_of("nobody").await?), (50, 0));
    assert_eq!(cp.kubectl(&["get", "node", "n7", "-o", "name"]).await?.ok()?.trim(), "node/n7");
    let version = cp.kubectl(&["version"]).await?.ok()?;
    assert_eq!(version.matches("v1.36.3").count(), 2, "{version}");
    assert!(cp.kubectl(&["get", "node", "missing"]).await?.refused()?.contains("NotFound"));

    let (folder, pids) = (cp.folder().to_owned(), [cp.apiserver().pid(), cp.etcd().pid()]);
    drop(cp);
    assert!(!folder.exists() && !pids.into_iter().any(is_alive));
    Ok(())
}

#[tokio::test]
async fn data_and_clients_outlive_the_processes() -> Result<()> {
    let cp = ControlPlane::start().await?;
    let nodes = Api::<Node>::all(cp.admin().await?);
    cp.create_nodes([node("kept")]).await?;

    cp.stop_apiserver();
    assert!(nodes.get("kept").await.is_err());
    cp.restart_apiserver().await?;
    assert_eq!(nodes.get("kept").await?.name_any(), "kept");

    cp.kill_etcd();
    assert!(!cp.etcd().is_running());
    cp.start_etcd().await?;
    assert_eq!(nodes.get("kept").await?.name_any(), "kept");
    Ok(())
}

#[tokio::test]
async fn service_accounts_have_their_own_rights_only() -> Result<()> {
    let cp = ControlPlane::start().await?;
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "reader"}}))?;
    cp.create_in("default", &account).await?;
    cp.kubectl(&["create", "clusterrole", "read-nodes", "--verb=get,list", "--resource=nodes"]).await?.ok()?;
    let role = ["--clusterrole=read-nodes", "--serviceaccount=default:reader"];
    cp.kubectl(&["create", "clusterrolebinding", "read-nodes", role[0], role[1]]).await?.ok()?;

    let reader = cp.service_account_client("default", "reader").await?;
    let list = || async { Api::<Node>::all(reader.clone()).list(&ListParams::default()).await };
    eventually(SOON, "the reader to be let in", list).await?;
    assert!(Api::<Pod>::all(reader.clone()).list(&ListParams::default()).await.is_err());

    let kubeconfig = cp.service_account_kubeconfig_on("default", "reader", "node-1").await?;
    let kubectl = Program::tool("kubectl")?.env("KUBECONFIG", kubeconfig);
    let who = kubectl.args(["auth", "whoami", "-o", "json"]).run().await?.ok()?;
    let who: serde_json::Value = serde_json::from_str(&who)?;
    assert_eq!(who["status"]["userInfo"]["username"], "system:serviceaccount:default:reader");
    assert_eq!(who["status"]["userInfo"]["extra"]["authentication.kubernetes.io/node-name"], json!(["node-1"]));
    Ok(())
}

#[tokio::test]
async fn the_controller_manager_gives_nodes_their_cidrs() -> Result<()> {
    let flags = ["--allocate-node-cidrs=true", "--cluster-cidr=10.244.0.0/16", "--controllers=node-ipam-controller"];
    let cp = ControlPlane::builder().controller_manager(&flags).start().await?;
    cp.create_nodes([node("n1")]).await?;
    let nodes = Api::<Node>::all(cp.admin().await?);
    let cidr =
        eventually(SOON, "a podCIDR of n1", async || nodes.get("n1").await.ok().and_then(|node| node.spec?.pod_cidr));
    assert_eq!(cidr.await?, "10.244.0.0/24");
    Ok(())
}

#[tokio::test]
async fn dual_stack_services_and_pods_are_accepted() -> Result<()> {
    let cp = ControlPlane::builder().service_cidr("10.96.0.0/16,fd00:10:96::/112").start().await?;
    cp.create_nodes([node("n1").pod_cidrs(["10.0.0.0/24", "fd00::/64"])]).await?;
    let created: Pod = cp.create_in("default", &pod("default", "web").on_node("n1").build()).await?;
    assert_eq!(created.spec.and_then(|spec| spec.node_name).as_deref(), Some("n1"));
    Ok(())
}

#[tokio::test]
async fn a_killed_test_takes_its_control_plane_with_it() -> Result<()> {
    let scratch = Scratch::new()?;
    let holder = Program::new(env!("CARGO_BIN_EXE_control-plane")).start(scratch.path(), "holder")?;
    holder.wait_log(Duration::from_mins(1), "Ctrl-C").await?;
    let log = holder.log();
    let pids: Vec<u32> = log.split([' ', ';']).filter_map(|word| word.parse().ok()).collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| is_alive(*pid)), "{log}");

    holder.kill9();
    eventually(SOON, "its processes to be gone", async || !pids.iter().any(|pid| is_alive(*pid))).await?;
    // The next test that starts would remove its folder.
    let kubeconfig = log.lines().find_map(|line| line.strip_prefix("export KUBECONFIG=")).context("no KUBECONFIG")?;
    fs::remove_dir_all(Path::new(kubeconfig).parent().context("no folder")?)?;
    Ok(())
}

#[tokio::test]
async fn a_process_is_frozen_continued_killed_and_restarted() -> Result<()> {
    let scratch = Scratch::new()?;
    let program = Program::new("sh").args(["-c", "echo hello; trap 'exit 3' TERM; while :; do sleep 0.05; done"]);
    let process = program.start(scratch.path(), "loop")?;
    process.wait_log(SOON, "hello").await?;
    process.stop();
    process.term();
    assert!(process.is_running());
    process.cont();
    assert_eq!(process.wait_exit(SOON).await?.code(), Some(3));

    process.restart()?;
    eventually(SOON, "a second hello", async || process.log().matches("hello").count() == 2).await?;
    process.kill9();
    assert!(!process.is_running());
    Ok(())
}

#[tokio::test]
async fn what_did_not_come_is_named() {
    let error = eventually(Duration::from_millis(20), "the sun", async || Err::<(), _>("it rains")).await.unwrap_err();
    assert_eq!(error.to_string(), "waited 20ms for the sun; last: it rains");
}

#[tokio::test]
async fn pods_ping_each_other_through_bridge_and_host_local() -> Result<()> {
    let (host, scratch) = (NetNs::new("host")?, Scratch::new()?);
    let ipam = json!({
        "type": "host-local",
        "dataDir": scratch.path(),
        "ranges": [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd07::/64"}]],
    });
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam});
    let cni = Cni::new(&host, &json!({"cniVersion": "1.1.0", "name": "test", "plugins": [bridge]}))?;
    let (a, b) = (NetNs::new("a")?, NetNs::new("b")?);
    let first = cni.add(&Attachment::new(&a).pod("default", "a", "uid-a")).await?;
    assert_eq!(first["ips"][0]["address"], "10.7.0.2/24");
    cni.add(&Attachment::new(&b)).await?;
    cni.check(&Attachment::new(&b)).await?;
    // An IPv6 address answers only once duplicate address detection is done with it.
    for address in ["10.7.0.3", "fd07::3"] {
        eventually(SOON, address, async || a.pings(address).await.unwrap_or_default()).await?;
    }
    assert!(cni.cache().join("results").read_dir()?.count() == 2);
    assert!(!Path::new("/sys/class/net/cni0").exists());

    cni.del(&Attachment::new(&a)).await?;
    assert!(!a.run(&["ip", "link", "show", "eth0"]).await?.success());
    cni.call("gc", &Attachment::new(&b)).await?.ok()?;
    assert_eq!(scratch.path().join("test").read_dir()?.filter(is_address).count(), 0);
    let refused = cni.check(&Attachment::new(&a)).await;
    assert!(refused.is_err());

    let paths = [a.path(), host.path()];
    drop((a, b, host));
    assert!(!paths.iter().any(|path| path.exists()));
    Ok(())
}

/// Whether a file of host-local's folder stands for an address.
fn is_address(entry: &std::io::Result<fs::DirEntry>) -> bool {
    entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().parse::<std::net::IpAddr>().is_ok())
}

#[tokio::test]
async fn a_plugin_answers_a_single_call() -> Result<()> {
    let plugin = Program::new(tool("host-local")?);
    let answer = cadastre_tests::call_plugin(&plugin, "VERSION", &json!({"cniVersion": "1.0.0"}), &[]).await?;
    assert!(answer.is_ok_and(|versions| versions["supportedVersions"].as_array().is_some_and(|v| v.len() > 5)));
    let refused = cadastre_tests::call_plugin(&plugin, "ADD", &json!({"cniVersion": "1.0.0"}), &[]).await?;
    assert_eq!(refused.unwrap_err()["code"], 4);
    Ok(())
}
