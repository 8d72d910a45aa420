//! Our chart on a control plane, through the real Helm.

use std::time::Duration;

use anyhow::Result;

use crate::{ControlPlane, Output, Program, eventually, repo};

/// Where the chart is installed.
pub const NAMESPACE: &str = "kube-system";
/// The name of the release.
pub const RELEASE: &str = "cadastre";

impl ControlPlane {
    /// `helm upgrade --install` of `charts/cadastre` with this values file. Nothing is waited for: no kubelet runs here,
    /// so no pod ever does. What Helm refuses is in the output.
    ///
    /// # Errors
    /// If Helm cannot be run, or what it installed is not served within 30 s.
    pub async fn install_chart(&self, values: &str) -> Result<Output> {
        // Tests on real nodes hold the chart against the schemas of the API server; to fetch those is a third of the work.
        let output = self.upgrade_chart(values, &["--disable-openapi-validation"]).await?;
        if output.success() {
            // The API server serves a new kind a moment after it has accepted its definition.
            eventually(Duration::from_secs(30), "Cadastre's kinds are served", async || self.ipam_nodes().await)
                .await?;
        }
        Ok(output)
    }

    /// As [`ControlPlane::install_chart`], with more flags, such as `--dry-run=server`.
    pub async fn upgrade_chart(&self, values: &str, flags: &[&str]) -> Result<Output> {
        let chart = repo().join("charts/cadastre");
        let helm = self.helm_program()?.args(["upgrade", "--install", RELEASE]).arg(chart);
        helm.args(["--namespace", NAMESPACE, "--values", "-"]).args(flags).stdin(values).run().await
    }

    /// Takes away what the API server protects Cadastre's objects with, as somebody may who knows what he does; and waits
    /// until it is gone.
    pub async fn remove_protection(&self) -> Result<()> {
        let bindings =
            ["delete", "validatingadmissionpolicybindings", "-l", "app.kubernetes.io/name=cadastre-admission"];
        self.kubectl(&bindings).await?.ok()?;
        eventually(Duration::from_secs(30), "deletions are accepted", async || {
            for kind in ["ipamconfigs", "ipamledgers", "ippools"] {
                self.kubectl(&["delete", kind, "--all", "--dry-run=server"]).await?.ok()?;
            }
            anyhow::Ok(())
        })
        .await
    }

    /// Runs `helm` as administrator.
    pub async fn helm(&self, args: &[&str]) -> Result<Output> {
        self.helm_program()?.args(args).run().await
    }

    /// `helm` as administrator, for options that [`ControlPlane::helm`] has not.
    pub fn helm_program(&self) -> Result<Program> {
        let program = Program::tool("helm")?.env("KUBECONFIG", self.kubeconfig_admin()?);
        let folders = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"];
        Ok(folders.iter().fold(program, |program, name| program.env(name, self.folder().join("helm"))))
    }
}
