//! A mode change is refused three times: by Helm, by the API server, and by the operator, which serves on all the same.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cadastre_tests::{ControlPlane, NAMESPACE, OPERATOR, Proc, Program, RELEASE, eventually, node};

use crate::show::Show;
use crate::{SOON, chart};

/// `EX_CONFIG`, with which `check-config --live` says that the cluster would refuse the settings.
const EX_CONFIG: i32 = 78;
/// What all of this is about.
const OTHER_MODE: &str = "ipam:\n  mode: kubernetes\nipv6:\n  enabled: true\n";

pub async fn helm(show: &Show, cp: &ControlPlane, values: &Path) -> Result<()> {
    let helm = cp.helm_program()?.args(["upgrade", RELEASE]).arg(chart()?).args(["--namespace", NAMESPACE]);
    let helm = helm.arg("--values").arg(values).args(["--set", "ipam.mode=kubernetes"]);
    let history = ["history", RELEASE, "--namespace", NAMESPACE, "-o", "json"];
    let before = cp.helm(&history).await?.ok()?;
    let said = show.run(&helm).await?.refused()?;
    ensure!(
        said.contains("cannot be changed to kubernetes while blocks are in use"),
        "helm refused for another reason"
    );
    let after = cp.helm(&history).await?.ok()?;
    ensure!(after == before, "the refused upgrade left a revision: {after}");
    show.so("refused while rendering: nothing reached the cluster");
    Ok(())
}

pub async fn api_server(show: &Show, cp: &ControlPlane) -> Result<()> {
    // Policies begin to count a moment after they were accepted: not shown, as it is over before anybody could type.
    let delete = ["delete", "ipamconfig", "cluster"];
    let guarded =
        async || anyhow::Ok(cp.kubectl(&["delete", "ipamconfig", "cluster", "--dry-run=server"]).await?.refused()?);
    eventually(SOON, "the API server to guard IPAMConfig/cluster", guarded).await?;

    let patch = r#"{"spec":{"mode":"kubernetes"}}"#;
    // As typed, with quotes; the program is given the text alone.
    show.command(&format!("kubectl patch ipamconfig cluster --type merge -p '{patch}'"));
    let said = cp.kubectl(&["patch", "ipamconfig", "cluster", "--type", "merge", "-p", patch]).await?.refused()?;
    show.output(&said);
    ensure!(
        said.contains("the mode cannot be changed while blocks are in use"),
        "the edit was refused for another reason"
    );
    let said = show.run(&cp.kubectl_program()?.args(delete)).await?.refused()?;
    ensure!(said.contains("cannot be deleted while blocks are in use"), "the deletion was refused for another reason");
    let mode = cp.kubectl(&["get", "ipamconfig", "cluster", "-o", "jsonpath={.spec.mode}"]).await?.ok()?;
    ensure!(mode == "cluster-pool", "the recorded mode is {mode:?} now");
    show.so("the API server refuses the edit and the deletion: cluster-pool is still what is recorded");
    Ok(())
}

/// Replaces the operator with one of the other mode; the new one.
pub async fn operator(show: &Show, cp: &ControlPlane, old: Proc) -> Result<Proc> {
    old.term();
    old.wait_exit(SOON).await?;
    let settings = cp.write_settings("mode-kubernetes", OTHER_MODE)?;
    show.command(&format!("cat {}", settings.display()));
    show.output(OTHER_MODE);

    let kubeconfig = cp.service_account_kubeconfig(NAMESPACE, OPERATOR).await?;
    let check = Program::ours("cadastre-operator")?.env("KUBECONFIG", kubeconfig).env("POD_NAMESPACE", NAMESPACE);
    let check = show.run(&check.arg("check-config").arg("--live").arg("--config").arg(&settings)).await?;
    ensure!(check.code == Some(EX_CONFIG), "check-config --live ended with {:?}, not {EX_CONFIG}", check.code);
    show.so(&format!("exit code {EX_CONFIG}"));

    let program = cp.operator_program(&settings, &[]).await?;
    show.command(&format!("{program} &"));
    let operator = program.start(cp.folder(), "operator-mode-kubernetes")?;
    operator.wait_log(SOON, "refused: ").await?;
    let log = operator.log();
    show.output(log.lines().find(|line| line.contains("refused: ")).unwrap_or_default());

    cp.create_nodes([node("node-3").ready(false)]).await?;
    show.so("node-3 joins the cluster");
    let served = async || Ok::<_, anyhow::Error>(cp.blocks().await?.contains_key("node-3"));
    eventually(SOON, "blocks of node-3", async || served().await.unwrap_or_default())
        .await
        .with_context(|| operator.tail())?;
    cp.check_disjoint().await?;
    show.run(&cp.kubectl_program()?.args(["get", "ipamnodes", "node-3"])).await?.ok()?;
    show.so("a new node is served all the same, in the recorded mode");
    not_ready(show, &operator).await?;
    Ok(operator)
}

/// Replaces the operator with one of the recorded mode: all is well again, without a hand.
pub async fn healed(show: &Show, cp: &ControlPlane, old: Proc) -> Result<Proc> {
    old.term();
    old.wait_exit(SOON).await?;
    let program = cp.operator_program(&cp.folder().join("settings.yaml"), &[]).await?;
    show.command(&format!("{program} &"));
    let operator = program.start(cp.folder(), "operator-healed")?;
    let address = listens_at(&operator).await?;
    let ready = async || {
        let answer = get(address, "/readyz")?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        Ok(())
    };
    eventually(SOON, "the operator to be ready", ready).await.with_context(|| operator.tail())?;
    show.so("the operator of the recorded mode is ready");
    Ok(operator)
}

async fn not_ready(show: &Show, operator: &Proc) -> Result<()> {
    let address = listens_at(operator).await?;
    show.command(&format!("curl -i http://{address}/readyz"));
    let answer = get(address, "/readyz")?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    show.output(head.lines().next().unwrap_or_default());
    show.output(body);
    ensure!(
        head.contains(" 503 ") && body.contains("mode: not ready"),
        "the operator of another mode is ready: {answer}"
    );
    show.so("the operator is not ready, so that a rollout stops at its first pod");
    Ok(())
}

/// Where a process of ours serves metrics and health, as its log says.
async fn listens_at(process: &Proc) -> Result<SocketAddr> {
    let said = async || {
        let log = process.log();
        let line = log.lines().find(|line| line.contains("serving metrics and health"))?.to_owned();
        line.split("listen=").nth(1)?.split_whitespace().next()?.parse().ok()
    };
    eventually(SOON, "the address of health checks in the log", said).await.with_context(|| process.tail())
}

fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
