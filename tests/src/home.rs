//! A network namespace that a control plane has to itself, with nodes around it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;

use crate::forward::Forward;
use crate::{NetNs, Program};

/// Where nodes reach the API server. It is the same in every cluster: no two of them see each other.
pub(crate) const API: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 66, 0, 1)), 443);
/// Addresses of Services; the first is the API server's.
pub(crate) const SERVICES: &str = "10.66.96.0/24";
pub(crate) const API_SERVICE: &str = "10.66.96.1/32";

/// The namespace, and the way into it.
#[derive(Debug)]
pub(crate) struct Home {
    netns: Arc<NetNs>,
    forward: Forward,
}

impl Home {
    pub fn new(netns: Arc<NetNs>) -> Result<Self> {
        Ok(Self { forward: Forward::start(&netns, API)?, netns })
    }

    /// The port on loopback that leads to the API server.
    pub fn port(&self) -> u16 {
        self.forward.port()
    }

    /// The program, at home in there.
    pub fn program(home: Option<&Self>, program: Program) -> Program {
        match home {
            Some(home) => program.netns(&home.netns),
            None => program,
        }
    }
}
