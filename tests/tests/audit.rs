//! The audits find what was spoiled on purpose, mend what they say they can, and find nothing where all is well.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use cadastre_core::{Cidr, Family};
use cadastre_tests::{
    AGENT, Attachment, Cni, ControlPlane, DUAL_STACK, NAMESPACE, NODE, NetNs, OPERATOR, Output, Proc, Program,
    addresses, installed, ipam, pod, report, status, until,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

/// The IDs of what was found by an audit that could read everything.
fn ids(audit: &Output) -> Result<Vec<String>> {
    let (ids, trouble) = said(audit)?;
    assert_eq!((audit.code, trouble), (Some(i32::from(!ids.is_empty())), String::new()), "{audit:?}");
    Ok(ids)
}

/// The IDs of what was found by one that could not, as this says of it.
fn ids_in_part(audit: &Output, trouble: &str) -> Result<Vec<String>> {
    let (ids, said) = said(audit)?;
    assert!(audit.code == Some(2) && said.contains(trouble) && audit.stderr.contains(&said), "{audit:?}");
    Ok(ids)
}

fn said(audit: &Output) -> Result<(Vec<String>, String)> {
    let said: Value = serde_json::from_str(&audit.stdout).with_context(|| format!("{audit:?}"))?;
    let findings = said["findings"].as_array().context("no findings")?;
    let ids = findings.iter().map(|finding| finding["id"].as_str().unwrap_or_default().to_owned());
    Ok((ids.collect(), said["trouble"].as_str().unwrap_or_default().to_owned()))
}

/// A node that is served, with pods in namespaces. Its agent finds no leaks by itself while the test runs.
struct Audited {
    cp: ControlPlane,
    _operator: Proc,
    _agent: Proc,
    cni: Cni,
    spaces: PathBuf,
    _host: NetNs,
}

impl Audited {
    async fn start() -> Result<Self> {
        let cp = installed(DUAL_STACK).await?;
        let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
        let settings = cp.settings_file("agent").await?;
        let agent = cp.agent_program(&settings, NODE).await?.env("CADASTRE_RECONCILE_SECONDS", "3600");
        let agent = agent.start(cp.folder(), "agent")?;
        let well = async || Ok(status(&cp, &[]).await?.success());
        until("the agent is well", well).await.with_context(|| agent.tail())?;
        let host = NetNs::new("host")?;
        let network = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": ipam(&cp.agent_socket(NODE))}]});
        let cni = Cni::new(&host, &network)?;
        let spaces = cp.folder().join("spaces");
        std::fs::create_dir_all(&spaces)?;
        Ok(Self { cp, _operator: operator, _agent: agent, cni, spaces, _host: host })
    }

    /// A namespace that the audit looks into.
    fn space(&self, name: &str) -> Result<NetNs> {
        let netns = NetNs::new(name)?;
        symlink(netns.path(), self.spaces.join(name))?;
        Ok(netns)
    }

    /// A Pod with addresses, as kubelet would run it.
    async fn run_pod(&self, name: &str) -> Result<(NetNs, Vec<String>)> {
        let netns = self.space(name)?;
        let made: Pod = self.cp.create_in("default", &pod("default", name).on_node(NODE).build()).await?;
        let uid = made.metadata.uid.context("a Pod without UID")?;
        let result = self.cni.add(&Attachment::new(&netns).pod("default", name, &uid)).await?;
        let ips: Vec<String> = addresses(&result)?.iter().map(ToString::to_string).collect();
        let listed: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
        let status = json!({"status": {"phase": "Running", "podIP": ips[0], "podIPs": listed}});
        let pods = Api::<Pod>::namespaced(self.cp.admin().await?, "default");
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok((netns, ips))
    }

    async fn audit(&self, flags: &[&str]) -> Result<Output> {
        let kubeconfig = self.cp.service_account_kubeconfig(NAMESPACE, AGENT).await?;
        self.audit_with(&kubeconfig, &self.cp.agent_socket(NODE), flags).await
    }

    async fn audit_with(&self, kubeconfig: &Path, socket: &Path, flags: &[&str]) -> Result<Output> {
        let program = Program::ours("cadastre-agent")?
            .env("KUBECONFIG", kubeconfig)
            .arg("audit")
            .arg("--config")
            .arg(self.cp.settings_file("audit").await?)
            .arg("--socket")
            .arg(socket)
            .arg("--netns-dir")
            .arg(&self.spaces);
        program.args(flags).run().await
    }

    async fn found(&self) -> Result<Vec<String>> {
        ids(&self.audit(&["-o", "json"]).await?)
    }

    async fn delete_pod(&self, name: &str) -> Result<()> {
        let pods = Api::<Pod>::namespaced(self.cp.admin().await?, "default");
        pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }
}

#[tokio::test]
async fn what_is_wrong_on_a_node_is_found_and_mended_one_by_one() -> Result<()> {
    let node = Audited::start().await?;
    let (_a, of_a) = node.run_pod("a").await?;
    let (b, of_b) = node.run_pod("b").await?;
    let (leaks, leaked) = node.run_pod("leaks").await?;
    assert_eq!(node.found().await?, [""; 0]);

    // In use, and held by nobody.
    let blocks = node.cp.blocks().await?.remove(NODE).context("no blocks")?;
    let block = blocks.iter().find(|block| block.family() == Family::V4).context("no IPv4")?;
    let unheld = last_but(block, 5)?;
    b.run(&["ip", "address", "add", &format!("{unheld}/32"), "dev", "lo"]).await?.ok()?;
    let id = format!("unheld/{unheld}");
    assert_eq!(node.found().await?, std::slice::from_ref(&id));
    let (nowhere, socket) = (node.cp.folder().join("nowhere"), node.cp.agent_socket(NODE));
    let partial = node.audit_with(&nowhere, &socket, &["-o", "json"]).await?;
    assert_eq!(ids_in_part(&partial, "the API server's Pods: ")?, std::slice::from_ref(&id));
    node.audit(&["--fix", &id]).await?.ok()?;
    assert_eq!(node.found().await?, [""; 0]);
    let partial = node.audit_with(&nowhere, &socket, &["-o", "json"]).await?;
    assert_eq!(ids_in_part(&partial, "the API server's Pods: ")?, [""; 0]);
    let nobody = node.audit_with(&nowhere, &nowhere, &[]).await?;
    assert!(nobody.code == Some(2) && nobody.stderr.contains("no agent answers"), "{nobody:?}");
    let held = report(&node.cp).await?["addresses"].as_array().context("no addresses")?.clone();
    assert!(held.iter().any(|row| row["address"] == unheld && row["state"] == "held"), "{held:?}");

    // Twice: that is for people.
    b.run(&["ip", "address", "add", &format!("{}/32", of_a[0]), "dev", "lo"]).await?.ok()?;
    let id = format!("duplicate/{}", of_a[0]);
    assert_eq!(node.found().await?, std::slice::from_ref(&id));
    let refused = node.audit(&["--fix", &id]).await?;
    assert!(!refused.success() && refused.stderr.contains("delete all but one"), "{refused:?}");
    b.run(&["ip", "address", "del", &format!("{}/32", of_a[0]), "dev", "lo"]).await?.ok()?;

    // Gone, with its namespace, and no DEL came.
    std::fs::remove_file(node.spaces.join("leaks"))?;
    drop(leaks);
    assert_eq!(node.found().await?, [""; 0], "its Pod is there: the next sandbox may come");
    node.delete_pod("leaks").await?;
    let mut expected: Vec<String> = leaked.iter().map(|address| format!("leaked/{address}")).collect();
    assert_eq!(node.found().await?, expected);
    node.audit(&["--fix", &expected.remove(0)]).await?.ok()?;
    assert_eq!(node.found().await?, [""; 0], "an attachment is released as a whole");

    // A Pod that says it has what is another's.
    let pods = Api::<Pod>::namespaced(node.cp.admin().await?, "default");
    let lie = json!({"status": {"podIP": of_a[0], "podIPs": [{"ip": of_a[0]}, {"ip": of_b[1]}]}});
    pods.patch_status("b", &PatchParams::default(), &Patch::Merge(&lie)).await?;
    assert_eq!(node.found().await?, [format!("pod/default/b/{}", of_a[0])]);
    Ok(())
}

/// An address near the end of a block, which nobody is given in a test.
fn last_but(block: &Cidr, count: u32) -> Result<String> {
    let text = block.to_string();
    let base: std::net::Ipv4Addr = text.split('/').next().context("no address")?.parse()?;
    Ok(std::net::Ipv4Addr::from_bits(base.to_bits() | (255 - count)).to_string())
}

async fn audit_cluster(cp: &ControlPlane, kubeconfig: PathBuf, flags: &[&str]) -> Result<Output> {
    let settings = cp.settings_file("audit").await?;
    let program = Program::ours("cadastre-operator")?.env("KUBECONFIG", kubeconfig);
    program.arg("audit").arg("--config").arg(settings).args(flags).run().await
}

#[tokio::test]
async fn what_is_wrong_in_a_cluster_is_found_and_mended_one_by_one() -> Result<()> {
    let cp = installed(DUAL_STACK).await?;
    let operator = cp.start_operator("operator", &["--leader-elect=false"]).await?;
    until("the node is served", async || Ok(cp.check_ledger().await.is_ok() && cp.blocks().await?.len() == 1)).await?;
    let admin = || cp.kubeconfig_admin();
    let found = async || ids(&audit_cluster(&cp, admin()?, &["-o", "json"]).await?);
    assert_eq!(found().await?, [""; 0]);
    let account = cp.service_account_kubeconfig(NAMESPACE, OPERATOR).await?;
    let least = audit_cluster(&cp, account.clone(), &[]).await?;
    assert!(least.code == Some(2) && least.stdout.contains("no pods, as they could not be listed"), "{least:?}");
    assert!(least.stderr.contains("an administrator may list them"), "{least:?}");
    let nothing = audit_cluster(&cp, cp.folder().join("nowhere"), &[]).await?;
    assert!(nothing.code == Some(2) && !nothing.stderr.is_empty(), "{nothing:?}");

    operator.kill9();
    let blocks = cp.blocks().await?.remove(NODE).ok_or_else(|| anyhow!("no blocks"))?;
    Api::<Node>::all(cp.admin().await?).delete(NODE, &DeleteParams::default()).await?;
    let mut expected = vec![format!("leftover/{NODE}")];
    expected.extend(blocks.iter().map(|block| format!("orphan/{block}")));
    assert_eq!(found().await?, expected);
    let partial = audit_cluster(&cp, account, &["-o", "json"]).await?;
    assert_eq!(ids_in_part(&partial, "an administrator may list them")?, expected);
    for id in &expected {
        audit_cluster(&cp, admin()?, &["--fix", id]).await?.ok()?;
        let again = audit_cluster(&cp, admin()?, &["--fix", id]).await?;
        assert!(!again.success() && again.stderr.contains("no finding"), "{again:?}");
    }
    assert_eq!(found().await?, [""; 0]);
    cp.check_ledger().await
}
