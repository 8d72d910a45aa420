//! A node with two pods, as far as interface plugins see one.

use anyhow::{Context as _, Result};
use cadastre_core::Cidr;

use crate::NetNs;

/// The namespace of a node with two pods, and a cable whose ends stand for two network cards of the node.
#[derive(Debug)]
pub struct Machine {
    pub host: NetNs,
    pub pods: [NetNs; 2],
}

/// The ends of the cable.
pub const CARDS: [&str; 2] = ["card0", "card1"];

impl Machine {
    pub fn new() -> Result<Self> {
        let machine = Self { host: NetNs::new("node")?, pods: [NetNs::new("a")?, NetNs::new("b")?] };
        let [first, second] = CARDS;
        machine.ip(&["link", "add", "name", first, "type", "veth", "peer", "name", second])?;
        for card in CARDS {
            machine.ip(&["link", "set", card, "up"])?;
        }
        Ok(machine)
    }

    /// `ip` in the node's namespace.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        self.host.ip(args)
    }

    /// The way back to pods whose addresses are in no subnet of the bridge `cni0`, which is for the node's owner to make.
    pub fn routes_back(&self, blocks: &[Cidr]) -> Result<()> {
        let v4 = blocks.first().context("no blocks")?.to_string();
        self.ip(&["route", "add", &v4, "dev", "cni0"])
    }

    /// Whether the kernel makes devices of this kind.
    pub fn makes(&self, kind: &[&str]) -> bool {
        let add = [&["link", "add", "link", CARDS[0], "name", "probe", "type"], kind].concat();
        self.ip(&add).and_then(|()| self.ip(&["link", "del", "probe"])).is_ok()
    }
}
