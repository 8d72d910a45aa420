//! The outcome for people, who see it by `helm test --logs`.

use std::fmt;

use super::Trial;
use super::reach::Failed;

/// Ways that are named; more are counted.
const NAMED: usize = 20;

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, without, reached, audit } = self;
        for (node, why) in without {
            writeln!(f, "{node}: {why}")?;
        }
        for Failed { from, to, address, why } in reached.failed.iter().take(NAMED) {
            writeln!(f, "{from} does not reach the pod of {to} at {address}: {why}")?;
        }
        if reached.failed.len() > NAMED {
            writeln!(f, "and {} more", reached.failed.len() - NAMED)?;
        }
        if !reached.failed.is_empty() {
            writeln!(
                f,
                "remedy: `cadastre-agent status` on these nodes, lines Routes and CNI; a firewall between nodes"
            )?;
        }
        let through = reached.ways - reached.failed.len();
        match nodes {
            None => writeln!(f, "nothing makes pods of the test: see whether kube-controller-manager runs")?,
            Some(0) => writeln!(f, "no node takes a pod of the test: see agent.nodeSelector and agent.affinity")?,
            Some(nodes) => {
                let with = nodes.saturating_sub(without.len());
                writeln!(f, "{with} of {nodes} nodes have a pod; {through} of {} connections", reached.ways)?;
            }
        }
        match audit {
            Ok(audit) => {
                write!(f, "{audit}")?;
                audit.trouble.iter().try_for_each(|trouble| writeln!(f, "not everything was compared: {trouble}"))
            }
            Err(why) => writeln!(f, "no audit: {why}"),
        }
    }
}
