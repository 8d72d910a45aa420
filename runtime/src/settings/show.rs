//! Settings as `check-config` prints them.

use std::fmt;

use super::duration::show;
use super::{LogFormat, ModeSettings, Settings};

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, families, operator, agent, cni, health, api_server, log, warnings } = self;
        let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
        writeln!(f, "mode:             {}", mode.mode())?;
        writeln!(f, "families:         {}", list(families.iter().map(ToString::to_string).collect()))?;
        match mode {
            ModeSettings::Kubernetes(kubernetes) => {
                let required = kubernetes.required.iter().map(ToString::to_string).collect();
                writeln!(f, "required podCIDR: {}", list(required))?;
            }
            ModeSettings::ClusterPool(cluster_pool) => {
                for pool in &cluster_pool.pools {
                    let cidrs = list(pool.cidrs.iter().map(ToString::to_string).collect());
                    writeln!(f, "pool {}:        {cidrs} in blocks of /{}", pool.family, pool.mask_size)?;
                }
                if !cluster_pool.reserved.is_empty() {
                    let reserved = cluster_pool.reserved.iter().map(ToString::to_string).collect();
                    writeln!(f, "never assigned:   {}", list(reserved))?;
                }
            }
        }
        if !operator.node_selector.is_empty() {
            let labels = operator.node_selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
            writeln!(f, "nodes with:       {}", list(labels))?;
        }
        writeln!(f, "block cooling:    {}", show(operator.block_cooling))?;
        let opens =
            [(operator.remove_node_taints, "untaints"), (operator.set_node_network_status, "sets NetworkUnavailable")];
        let opens = opens.iter().filter(|(does, _)| *does).map(|(_, what)| (*what).to_owned()).collect();
        writeln!(f, "on serving nodes: {}", list(opens))?;
        writeln!(f, "address cooling:  {}", show(agent.address_cooling))?;
        writeln!(f, "add wait:         {}", show(agent.add_wait))?;
        write!(f, "{cni}")?;
        let health = health.map_or_else(|| "none".to_owned(), |health| format!("port {}", health.port));
        writeln!(f, "health endpoint:  {health}")?;
        if let Some(api_server) = api_server {
            writeln!(f, "API server:       {}", api_server.url())?;
        }
        let format = match log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        writeln!(f, "log:              {} as {format}", log.level.as_str().to_lowercase())?;
        warnings.iter().try_for_each(|warning| writeln!(f, "warning:          {warning}"))
    }
}
