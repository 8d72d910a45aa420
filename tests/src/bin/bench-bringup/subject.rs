//! Who gives nodes their blocks, each on a control plane of its own.

use std::time::Duration;

use anyhow::{Context as _, Result};
use cadastre_tests::{ControlPlane, Proc};

/// Values: a block of 256 addresses for each node, as kube-controller-manager is told to give.
const VALUES: &str = r#"
ipam:
  mode: cluster-pool
  operator: {clusterPoolIPv4PodCIDRList: ["10.0.0.0/8"], clusterPoolIPv4MaskSize: 24}
"#;

/// Beside those of the harness, which include `--leader-elect=false`.
const MANAGER_FLAGS: [&str; 6] = [
    "--controllers=nodeipam",
    "--allocate-node-cidrs=true",
    "--cluster-cidr=10.0.0.0/8",
    "--node-cidr-mask-size=24",
    "--kube-api-qps=1000",
    "--kube-api-burst=2000",
];

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Nobody: the client that creates a Node creates its `IPAMNode` too. What the API server can do at best.
    Floor,
    ControllerManager,
    Ours,
}

/// A fresh control plane with the subject on it.
pub struct Stage {
    pub cp: ControlPlane,
    operator: Option<Proc>,
}

impl Subject {
    pub const ALL: [Self; 3] = [Self::Floor, Self::ControllerManager, Self::Ours];

    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::ControllerManager => "kube-controller-manager",
            Self::Ours => "ours",
        }
    }

    /// Where an allocation shows.
    pub fn shows_in(self) -> &'static str {
        match self {
            Self::ControllerManager => "/api/v1/nodes",
            Self::Floor | Self::Ours => "/apis/cadastre.io/v1alpha1/ipamnodes",
        }
    }

    /// Without audit log, so that what is measured is not how it is written.
    pub async fn stage(self) -> Result<Stage> {
        let builder = ControlPlane::builder().without_audit();
        if self == Self::ControllerManager {
            return Ok(Stage { cp: builder.controller_manager(&MANAGER_FLAGS).start().await?, operator: None });
        }
        let cp = builder.start().await?;
        cp.install_chart(VALUES).await?.ok()?;
        let operator = match self {
            Self::Ours => Some(cp.start_operator("operator", &["--leader-elect=false"]).await?),
            _ => None,
        };
        Ok(Stage { cp, operator })
    }
}

impl Stage {
    /// With an operator of ours that holds the Lease; its process, to be restarted.
    pub async fn elected() -> Result<(ControlPlane, Proc)> {
        let cp = ControlPlane::builder().without_audit().start().await?;
        cp.install_chart(VALUES).await?.ok()?;
        let operator = cp.start_operator("operator", &[]).await?;
        Ok((cp, operator))
    }

    /// The subject's process, if it has one.
    pub fn process(&self) -> Option<&Proc> {
        self.operator.as_ref().or_else(|| self.cp.controller_manager())
    }
}

/// Asks a process to end, and waits for it.
pub async fn end(operator: &Proc) -> Result<()> {
    operator.term();
    operator.wait_exit(Duration::from_secs(20)).await.context("after SIGTERM").map(drop)
}
