//! What a control plane is started with.

use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::{ControlPlane, NetNs};

/// How often other ports are tried, should somebody have taken one of ours.
const ATTEMPTS: usize = 4;

/// What a control plane is started with; see [`ControlPlane::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) service_cidr: String,
    pub(crate) audit: bool,
    pub(crate) apiserver_flags: Vec<String>,
    pub(crate) manager_flags: Option<Vec<String>>,
    /// The namespace it is to live in, and the nodes that may join.
    pub(crate) among: Option<(Arc<NetNs>, Vec<String>)>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            service_cidr: "10.96.0.0/16".into(),
            audit: true,
            apiserver_flags: Vec::new(),
            manager_flags: None,
            among: None,
        }
    }
}

impl Builder {
    /// A further flag of the API server, `--like=this`.
    #[must_use]
    pub fn apiserver_flag(mut self, flag: &str) -> Self {
        self.apiserver_flags.push(flag.to_owned());
        self
    }

    /// Keeps no audit log: writing it is part of what a request costs. [`ControlPlane::audit`] is of no use then.
    #[must_use]
    pub fn without_audit(mut self) -> Self {
        self.audit = false;
        self
    }

    /// Services' addresses, default `10.96.0.0/16`; two CIDRs with a comma between them make it dual-stack.
    #[must_use]
    pub fn service_cidr(mut self, cidr: &str) -> Self {
        cidr.clone_into(&mut self.service_cidr);
        self
    }

    /// Runs kube-controller-manager too, with these flags.
    #[must_use]
    pub fn controller_manager(mut self, flags: &[&str]) -> Self {
        self.manager_flags = Some(flags.iter().map(|flag| (*flag).to_owned()).collect());
        self
    }

    /// In a network namespace of nodes by these names, with a scheduler.
    #[must_use]
    pub(crate) fn among(mut self, netns: Arc<NetNs>, nodes: Vec<String>) -> Self {
        self.among = Some((netns, nodes));
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&self) -> Result<ControlPlane> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let mut started = ControlPlane::launch(self)?;
            match started.wait_ready().await {
                Ok(()) => {
                    if let Some(flags) = &self.manager_flags {
                        started.start_manager(flags)?;
                    }
                    if self.among.is_some() {
                        started.start_scheduler()?;
                    }
                    return Ok(started);
                }
                Err(error) if started.lost_a_port() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }
}
