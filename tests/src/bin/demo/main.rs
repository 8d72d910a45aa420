//! `make demo`: Cadastre at work on this machine, from values.yaml to pods that ping each other, and a mode change that is
//! refused. On two nodes with kubelet and containerd where there can be such, else on a control plane alone. Every sentence with a
//! tick has been checked; the first one that does not hold ends the demo with an error.

mod alone;
mod machine;
mod nodes;
mod refusals;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use cadastre_tests::{ControlPlane, Lab, NAMESPACE, RELEASE, eventually, repo};
use tokio::signal::unix::{SignalKind, signal};

use crate::show::Show;

/// Nothing that is waited for takes a tenth of it on an idle machine.
pub const SOON: Duration = Duration::from_secs(30);

/// In either demo.
pub const VALUES: &str = r#"ipam:
  mode: cluster-pool
  operator:
    clusterPoolIPv4PodCIDRList: ["10.0.0.0/8"]
    clusterPoolIPv4MaskSize: 24
    clusterPoolIPv6PodCIDRList: ["fd00::/104"]
    clusterPoolIPv6MaskSize: 120
ipv6:
  enabled: true
"#;

#[tokio::main]
async fn main() -> ExitCode {
    // Interrupted, the demo is dropped where it stands, and with it all that it started.
    let done = tokio::select! {
        done = demo() => done,
        stopped = told_to_stop() => stopped,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn told_to_stop() -> Result<()> {
    let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    tokio::select! {
        done = tokio::signal::ctrl_c() => done?,
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    bail!("interrupted; what it had started is gone")
}

async fn demo() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "it makes network namespaces: run it as root");
    let mut show = Show::new()?;
    match Lab::possible().and_then(|()| Lab::images().map_err(|error| error.to_string())) {
        Ok(()) => {
            show.output("On two nodes with kubelet and containerd, in namespaces of this machine.");
            nodes::demo(&mut show).await?;
        }
        Err(reason) => {
            show.output(&format!("On a control plane without kubelets, as this machine can have no nodes: {reason}"));
            alone::demo(&mut show).await?;
        }
    }
    show.output(&format!("\nAll of it in {:.0} s.", show.seconds()));
    Ok(())
}

/// The chart, without detours, so that it is short to print.
pub fn chart() -> Result<PathBuf> {
    Ok(repo().join("charts/cadastre").canonicalize()?)
}

/// Shows the values, then installs or upgrades with them; the file.
pub async fn install(show: &Show, cp: &ControlPlane, values: &str, flags: &[&str]) -> Result<PathBuf> {
    let file = cp.folder().join("values.yaml");
    std::fs::write(&file, values)?;
    show.command(&format!("cat {}", file.display()));
    show.output(values);
    let helm = cp.helm_program()?.args(["upgrade", "--install", RELEASE]).arg(chart()?);
    let helm = helm.args(["--namespace", NAMESPACE, "--values"]).arg(&file).args(flags);
    show.command(&helm.to_string());
    show.output(helm.run().await?.ok()?.lines().next().unwrap_or_default());
    eventually(SOON, "Cadastre's kinds are served", async || cp.ipam_nodes().await).await?;
    Ok(file)
}
