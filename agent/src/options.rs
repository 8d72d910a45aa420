//! The command line of `cadastre-agent run`, and what the agent's parts are made of by it and the settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use cadastre_messages::DEFAULT_SOCKET;
use cadastre_runtime::{DaemonSetName, Settings};
use clap::Args;

use crate::desk::Opener;
use crate::health;
use crate::lock::Lock;
use crate::node::{CONFLIST, Host};
use crate::pools::Rules;
use crate::survey::Places;

/// One value for each flag.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Settings file: the content of the chart's `ConfigMap`.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Name of this node's Node object.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: String,
    /// Folder of the journal. It needs to outlive the agent, and not a reboot.
    #[arg(long, value_name = "DIR", default_value = "/run/cadastre")]
    pub state_dir: PathBuf,
    /// Socket that the plugin calls.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Where metrics and health are served; port 0 lets the kernel choose.
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:9962", value_parser = cadastre_runtime::listen_addr)]
    pub listen: SocketAddr,
    /// libcni's folder: its cache of results says who has which address if the journal cannot.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni")]
    pub cni_cache: PathBuf,
    /// Folder of the network namespaces, looked into likewise.
    #[arg(long, value_name = "DIR", default_value = "/run/netns")]
    pub netns_dir: PathBuf,
    /// The plugin that is installed on the node.
    #[arg(long, value_name = "FILE", default_value = "/cadastre")]
    pub plugin: PathBuf,
    /// `/proc/sys/net` of the node, where it can be written.
    #[arg(long, value_name = "DIR", default_value = "/proc/sys/net")]
    pub sysctl_dir: PathBuf,
    /// The `DaemonSet` that this agent is of: if it is gone when the agent stops, what was installed is taken back.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub daemon_set: Option<DaemonSetName>,
    /// UID of the agent's own Pod: if that was deleted by force, what was installed stays.
    #[arg(long, value_name = "UID")]
    pub pod_uid: Option<String>,
    /// Seconds between two searches for addresses of pods that are gone.
    #[arg(long = "reconcile-seconds", value_name = "SECONDS", default_value = "30", value_parser = seconds, hide = true, env = "CADASTRE_RECONCILE_SECONDS")]
    pub reconcile_every: Duration,
    /// Seconds between two rounds of probes of other nodes.
    #[arg(long = "health-seconds", value_name = "SECONDS", default_value = "30", value_parser = seconds, hide = true, env = "CADASTRE_HEALTH_SECONDS")]
    pub health_every: Duration,
}

impl Options {
    /// What to tend on the node.
    pub(crate) fn host(&self, settings: &Settings) -> Host {
        Host {
            name: self.node_name.clone(),
            settings: settings.cni.clone(),
            plugin: self.plugin.clone(),
            socket: self.socket.clone(),
            sysctls: self.sysctl_dir.clone(),
        }
    }

    /// What the health endpoint is made of.
    pub(crate) fn health(&self, settings: &Settings) -> health::Host {
        let conflist = settings.cni.conflist.as_ref().map(|conflist| conflist.conf_path.join(CONFLIST));
        health::Host {
            node: self.node_name.clone(),
            settings: settings.health,
            bin: settings.cni.bin_path.clone().unwrap_or_default(),
            conflist: conflist.unwrap_or_default(),
            every: self.health_every,
        }
    }

    /// Where the state is, or what of it can be found.
    pub(crate) fn opener(&self, settings: &Settings, boot: String) -> Opener {
        let rules = Rules {
            node: self.node_name.clone(),
            address_cooling: settings.agent.address_cooling,
            add_wait: settings.agent.add_wait,
        };
        let places =
            Places { cache: self.cni_cache.clone(), namespaces: self.netns_dir.clone(), socket: self.socket.clone() };
        Opener { folder: self.state_dir.clone(), boot, rules, places }
    }

    /// Who takes locks, for people.
    pub(crate) fn me(&self) -> String {
        format!("the agent of node {}, process {}", self.node_name, std::process::id())
    }

    /// That of the state.
    pub(crate) fn lock(&self, me: &str) -> anyhow::Result<Lock> {
        let folder = &self.state_dir;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Lock::take(&folder.join("agent.lock"), me)?)
    }
}

/// A tenth of a second at least.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(seconds.max(0.1)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_a_least() {
        let least = Duration::from_millis(100);
        for (text, time) in
            [("30", Duration::from_secs(30)), ("0.6", Duration::from_millis(600)), ("0", least), ("-1", least)]
        {
            assert_eq!(seconds(text), Ok(time), "{text}");
        }
        for text in ["", "30s", "inf", "1e30"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
