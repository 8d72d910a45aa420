//! Which nodes' pods are reached, in the lines of `cadastre-agent status`.

use cadastre_messages::report::ClusterHealth;

use super::{duration, failed};

/// Counts, and the nodes that do not answer, as people know it of Cilium.
pub fn reachability(health: &ClusterHealth, paint: bool) -> Vec<String> {
    const NAME: &str = "Cluster health:  ";
    let ClusterHealth { trouble, reachable, probed, seconds, nodes } = health;
    let first = match (trouble, seconds) {
        (Some(trouble), _) => failed(trouble, paint),
        (None, None) => "not probed yet".to_owned(),
        (None, Some(seconds)) => format!("{reachable}/{probed} reachable   ({} ago)", duration(*seconds)),
    };
    let lost: Vec<_> = nodes.iter().filter(|node| node.reachable == Some(false)).collect();
    let width = lost.iter().map(|node| node.node.len()).max().unwrap_or_default();
    let lost = lost.iter().map(|node| {
        let why = node.reason.as_deref().unwrap_or("no answer");
        format!("  {:<width$}  {why}", node.node)
    });
    std::iter::once(format!("{NAME}{first}")).chain(lost).collect()
}

#[cfg(test)]
mod tests {
    use cadastre_messages::report::NodeHealth;

    use super::*;

    #[test]
    fn nodes_that_do_not_answer_are_named() {
        let node = |node: &str, reachable, reason: Option<&str>| NodeHealth {
            node: node.into(),
            addresses: vec![],
            reachable,
            microseconds: None,
            reason: reason.map(Into::into),
        };
        let mut health = ClusterHealth { reachable: 2, probed: 2, seconds: Some(12), ..ClusterHealth::default() };
        assert_eq!(reachability(&health, false), ["Cluster health:  2/2 reachable   (12 s ago)"]);
        health.nodes = vec![
            node("n1", Some(true), Some("10.0.1.5: no answer in 3 s")),
            node("worker-2", Some(false), Some("10.0.2.5: no answer in 3 s")),
            node("n3", Some(false), Some("fd00::305: No route to host (os error 113)")),
        ];
        (health.reachable, health.probed) = (1, 3);
        assert_eq!(
            reachability(&health, false),
            [
                "Cluster health:  1/3 reachable   (12 s ago)",
                "  worker-2  10.0.2.5: no answer in 3 s",
                "  n3        fd00::305: No route to host (os error 113)",
            ]
        );
        health.seconds = None;
        assert_eq!(reachability(&health, false)[0], "Cluster health:  not probed yet");
        health.trouble = Some("ptp says: full".into());
        assert_eq!(reachability(&health, false)[0], "Cluster health:  Failed    ptp says: full");
    }
}
