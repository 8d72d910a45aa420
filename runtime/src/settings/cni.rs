//! What the agent sets up on its node beside addresses: the plugin, a CNI configuration, routes to other nodes.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::findings::Findings;
use super::raw::{RawCni, RawSettings};

/// What every packet of IPv6 fits into, and thus the least MTU that carries both families (RFC 8200, section 5).
const LEAST_MTU: u16 = 1280;

/// Where socket, journal and tombstones are, as the chart mounts them, by both names that nodes have for it.
const STATE: [&str; 2] = ["/run/cadastre", "/var/run/cadastre"];

/// `cni`, `autoDirectNodeRoutes` and `MTU`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniSettings {
    /// Folder that the plugin is installed in; `None` if nothing is installed.
    pub bin_path: Option<PathBuf>,
    /// The configuration that is installed beside it; `None` if somebody else writes one.
    pub conflist: Option<Conflist>,
    /// Whether there are routes to the blocks of other nodes.
    pub routes: bool,
}

/// The CNI configuration that the agent writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflist {
    /// Folder it is written to.
    pub conf_path: PathBuf,
    /// What makes pods' interfaces.
    pub interface_plugin: InterfacePlugin,
    /// Whether configurations of others are renamed.
    pub exclusive: bool,
    /// MTU of pods' interfaces, in bytes; `None` to follow the node's.
    pub mtu: Option<u32>,
}

/// The reference plugins that need nothing on the node but themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfacePlugin {
    /// Each pod has a link of its own to the node.
    Ptp,
    /// All pods of a node share a bridge.
    Bridge,
}

impl InterfacePlugin {
    /// The file name of the plugin, which is also the word in the settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ptp => "ptp",
            Self::Bridge => "bridge",
        }
    }
}

/// `None` only with a problem among the findings.
pub fn settings(raw: &RawSettings, findings: &mut Findings) -> Option<CniSettings> {
    let RawCni { install, custom_conf, exclusive, conf_path, bin_path, interface_plugin } = &raw.cni;
    let conf_path = folder("cni.confPath", conf_path.as_deref(), "/etc/cni/net.d", findings);
    let bin_path = folder("cni.binPath", bin_path.as_deref(), "/opt/cni/bin", findings);
    let interface_plugin = plugin(interface_plugin.as_deref(), findings);
    let mtu = mtu(raw.mtu, findings);
    let exclusive = exclusive.unwrap_or(false);
    let conflist = Conflist { conf_path: conf_path?, interface_plugin: interface_plugin?, exclusive, mtu };
    let bin_path = bin_path?;
    let installs = install.unwrap_or(true);
    let writes = installs && !custom_conf.unwrap_or(false);
    if !writes {
        let why = if installs { "cni.customConf is true" } else { "cni.install is false" };
        let plugin = ("cni.interfacePlugin", raw.cni.interface_plugin.is_some());
        let written = [plugin, ("cni.exclusive", exclusive), ("MTU", conflist.mtu.is_some())];
        for (key, _) in written.into_iter().filter(|(_, written)| *written) {
            findings.warn(format!("{key} has no effect: {why}, so no CNI configuration is written"));
        }
    }
    Some(CniSettings {
        bin_path: installs.then_some(bin_path),
        conflist: writes.then_some(conflist),
        routes: raw.auto_direct_node_routes.unwrap_or(writes),
    })
}

fn folder(key: &str, written: Option<&str>, default: &str, findings: &mut Findings) -> Option<PathBuf> {
    let text = written.unwrap_or(default);
    let path = Path::new(text);
    if !path.is_absolute() || path == Path::new("/") {
        findings.problem(key, format!("{text:?} is no folder on the node; write its whole path, such as {default}"));
        return None;
    }
    // kubelet mounts no such path.
    if path.components().any(|part| part == Component::ParentDir) {
        findings.problem(key, format!("{text:?} goes back by \"..\"; write the path without, such as {default}"));
        return None;
    }
    if let Some(state) = STATE.iter().find(|state| path.starts_with(state)) {
        let what = format!("{text:?} is the agent's own: its socket and its journal are in {state}");
        findings.problem(key, format!("{what}; write the folder that the runtime reads, such as {default}"));
        return None;
    }
    Some(path.to_owned())
}

fn plugin(written: Option<&str>, findings: &mut Findings) -> Option<InterfacePlugin> {
    match written {
        None | Some("ptp") => Some(InterfacePlugin::Ptp),
        Some("bridge") => Some(InterfacePlugin::Bridge),
        Some(other) => {
            findings.problem(
                "cni.interfacePlugin",
                format!("{other:?} is not built in; one of ptp, bridge is, and with cni.customConf the configuration is yours"),
            );
            None
        }
    }
}

/// 0 is Cilium's default and means not written, as does what a problem is found with.
fn mtu(written: Option<i64>, findings: &mut Findings) -> Option<u32> {
    let written = written.filter(|mtu| *mtu != 0)?;
    let mtu = u16::try_from(written).ok().filter(|mtu| *mtu >= LEAST_MTU);
    if mtu.is_none() {
        let most = u16::MAX;
        findings.problem("MTU", format!("{written} is no MTU; write a number from {LEAST_MTU} to {most}"));
    }
    mtu.map(u32::from)
}

impl fmt::Display for CniSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bin_path, conflist, routes } = self;
        match (bin_path, conflist) {
            (None, _) => writeln!(f, "CNI:              nothing is installed")?,
            (Some(bin), None) => writeln!(f, "CNI:              plugin in {}", bin.display())?,
            (Some(bin), Some(Conflist { conf_path, interface_plugin, exclusive, mtu })) => {
                let (bin, conf) = (bin.display(), conf_path.display());
                let mtu = mtu.map_or_else(|| "the node's MTU".to_owned(), |mtu| format!("MTU {mtu}"));
                let alone = if *exclusive { ", others renamed" } else { "" };
                let name = interface_plugin.name();
                writeln!(f, "CNI:              plugin in {bin}, configuration in {conf}: {name}, {mtu}{alone}")?;
            }
        }
        writeln!(f, "routes to nodes:  {}", if *routes { "yes" } else { "no" })
    }
}
