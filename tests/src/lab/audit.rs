//! An audit of a cluster at rest that trusts nobody: what is in the pods' network namespaces, what the API server says of the
//! Pods, what each agent says it holds, and what the ledger says is each node's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use cadastre_api::BlockState;
use cadastre_core::Cidr;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::Value;

use super::{Lab, Node};
use crate::{Program, held};

/// Each namespace's name, then the addresses in it. One that goes meanwhile has none.
const LOOK: &str = r#"cd /run/netns; for space in *; do
    [ ! -e "$space" ] || echo "$space $(ip -j -n "$space" address show scope global 2>/dev/null)"
done"#;

/// What four witnesses say, by node.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Node and namespace of each address that is in one.
    spaces: Vec<(String, String, IpAddr)>,
    /// Node and name of each Pod's address.
    pods: Vec<(String, String, IpAddr)>,
    /// Node and name of each address that an agent published as its health endpoint's, and that answered as this node.
    endpoints: Vec<(String, String, IpAddr)>,
    /// Node and owner of each address that is held.
    held: Vec<(String, String, IpAddr)>,
    /// Blocks that are held, with their node.
    blocks: Vec<(Cidr, String)>,
}

/// What is wrong, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// One address at two places, or one block at two nodes.
    pub duplicates: Vec<String>,
    /// Held for nobody, or left in a namespace without a Pod.
    pub leaks: Vec<String>,
    /// Addresses of Pods that are not held, not there, or of no block of their node.
    pub wrong: Vec<String>,
}

impl Lab {
    /// Looks at everything. What comes or goes meanwhile looks wrong.
    pub async fn look(&self) -> Result<Sight> {
        let mut sight = Sight::default();
        for node in &self.nodes {
            for (space, addresses) in node.spaces().await? {
                sight.spaces.extend(addresses.iter().map(|ip| (node.name().to_owned(), space.clone(), *ip)));
            }
            let (name, report) = (node.name(), node.report().await?);
            sight.held.extend(held_by(&report)?.into_iter().map(|(owner, ip)| (name.to_owned(), owner, ip)));
        }
        for (node, ip) in self.endpoints().await? {
            sight.endpoints.push((node, "health".to_owned(), ip));
        }
        for pod in Api::<Pod>::all(self.cp.admin().await?).list(&ListParams::default()).await? {
            sight.pods.extend(addresses_of(&pod)?);
        }
        let entries = self.cp.ledger().await?.into_iter().flat_map(|page| page.spec.entries);
        let held = entries.filter(|entry| entry.state == BlockState::Held);
        sight.blocks = held.map(|entry| (entry.block, entry.node)).collect();
        Ok(sight)
    }

    /// Each node with the addresses of its agent's endpoint that answer with the node's name.
    async fn endpoints(&self) -> Result<Vec<(String, IpAddr)>> {
        let mut answering = Vec::new();
        for (name, published) in self.cp.ipam_nodes().await? {
            let Some(node) = self.nodes.iter().find(|node| node.name() == name) else { continue };
            let Some(endpoint) = published.status.and_then(|status| status.health_endpoint) else { continue };
            for ip in endpoint.addresses {
                let (host, port) = (ip.to_string(), endpoint.port.to_string());
                let said = node.exec(&["busybox", "nc", "-w", "2", &host, &port]).await?.stdout;
                let from = said.split_whitespace().last();
                answering.extend((from == Some(name.as_str())).then_some((name.clone(), ip)));
            }
        }
        Ok(answering)
    }
}

impl Node {
    /// The network namespaces of its pods, with the addresses in each but the kernel's own.
    pub async fn spaces(&self) -> Result<BTreeMap<String, Vec<IpAddr>>> {
        let said = self.exec(&["sh", "-c", LOOK]).await?.ok()?;
        said.lines().map(|line| space(line).with_context(|| format!("{}: {line}", self.name()))).collect()
    }

    /// The addresses that pods hold, by its agent's word, with their container IDs. The agent's own endpoint has always the same.
    pub async fn attachments(&self) -> Result<BTreeMap<IpAddr, String>> {
        let mut held = held(&self.report().await?)?;
        held.retain(|_, id| id != "cadastre-health");
        Ok(held)
    }

    /// What its agent says of itself.
    pub async fn report(&self) -> Result<Value> {
        let status = Program::ours("cadastre-agent")?.args(["status", "-o", "json", "--socket"]);
        let output = status.arg(self.path("/run/cadastre/cadastre.sock")?).run().await?;
        serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))
    }
}

fn space(line: &str) -> Result<(String, Vec<IpAddr>)> {
    let (name, links) = line.split_once(' ').context("no name")?;
    // One without interfaces says nothing at all.
    let links: Value = if links.is_empty() { Value::Null } else { serde_json::from_str(links)? };
    let infos = links.as_array().into_iter().flatten().filter_map(|link| link["addr_info"].as_array()).flatten();
    // In place of those of other scopes it prints empty objects.
    let addresses = infos.filter_map(|info| info["local"].as_str());
    let addresses = addresses.map(|address| Ok(address.parse()?)).collect::<Result<_>>()?;
    Ok((name.to_owned(), addresses))
}

fn held_by(report: &Value) -> Result<Vec<(String, IpAddr)>> {
    // It refuses what is listed twice.
    let held = held(report)?;
    let rows = report["addresses"].as_array().context("no addresses")?;
    let owner = |ip: &IpAddr| rows.iter().find(|row| row["address"] == ip.to_string())?["owner"].as_str();
    Ok(held.into_keys().map(|ip| (owner(&ip).unwrap_or_default().to_owned(), ip)).collect())
}

/// Of a Pod with a network of its own that has not ended.
fn addresses_of(pod: &Pod) -> Result<Vec<(String, String, IpAddr)>> {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return Ok(Vec::new()) };
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if ended || spec.host_network == Some(true) {
        return Ok(Vec::new());
    }
    let node = spec.node_name.clone().unwrap_or_default();
    let addresses = status.pod_ips.iter().flatten();
    addresses.map(|ip| Ok((node.clone(), pod.name_any(), ip.ip.parse()?))).collect()
}

impl Sight {
    /// How many Pods have addresses.
    pub fn pods(&self) -> usize {
        self.pods.iter().map(|(_, pod, _)| pod).collect::<BTreeSet<_>>().len()
    }

    /// Compares what was said.
    pub fn verdict(&self) -> Verdict {
        let Self { spaces, pods, endpoints, held, blocks } = self;
        // An endpoint is a pod that no API server knows, in a namespace that has no name.
        let [spaces, pods] = &[spaces, pods].map(|said| [&said[..], endpoints].concat());
        let mut verdict = Verdict::default();
        for (what, said) in [("in two namespaces", spaces), ("of two Pods", pods), ("held twice", held)] {
            verdict.duplicates.extend(twice(said).map(|(one, other)| format!("{what}: {one:?}, {other:?}")));
        }
        let overlap = |(at, (block, node)): (usize, &(Cidr, String))| {
            let other = blocks[..at].iter().find(|(other, _)| other.overlaps(block))?;
            Some(format!("held by two nodes: {block} by {node}, {} by {}", other.0, other.1))
        };
        verdict.duplicates.extend(blocks.iter().enumerate().filter_map(overlap));
        let [in_spaces, of_pods, in_use] = [spaces, pods, held].map(places);
        let leaks = in_use.union(&in_spaces).filter(|place| !of_pods.contains(*place));
        verdict.leaks.extend(leaks.map(|place| {
            let who = held.iter().chain(spaces).find(|(node, _, ip)| place == &(node, ip));
            format!("of no Pod, held {}, in a namespace {}: {who:?}", in_use.contains(place), in_spaces.contains(place))
        }));
        for (node, pod, ip) in pods {
            let place = (node, ip);
            let block = blocks.iter().any(|(block, of)| of == node && block.contains_addr(*ip));
            if !(block && in_spaces.contains(&place) && in_use.contains(&place)) {
                let (there, held) = (in_spaces.contains(&place), in_use.contains(&place));
                verdict.wrong.push(format!("{ip} of {pod} on {node}: in a block {block}, there {there}, held {held}"));
            }
        }
        verdict
    }
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        *self == Self::default()
    }
}

type Said = Vec<(String, String, IpAddr)>;

fn places(said: &Said) -> BTreeSet<(&String, &IpAddr)> {
    said.iter().map(|(node, _, ip)| (node, ip)).collect()
}

/// Addresses that are said more than once, wherever.
fn twice(said: &Said) -> impl Iterator<Item = (&(String, String, IpAddr), &(String, String, IpAddr))> {
    let mut first = BTreeMap::new();
    said.iter().filter_map(move |one| match first.get(&one.2) {
        Some(other) => Some((*other, one)),
        None => first.insert(&one.2, one).and(None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rows: &[(&str, &str, &str)]) -> Said {
        rows.iter().map(|(node, who, ip)| ((*node).into(), (*who).into(), ip.parse().unwrap())).collect()
    }

    /// One pod on each of two nodes.
    fn well() -> Sight {
        let rows = |one, other| said(&[("a", one, "10.0.0.2"), ("b", other, "10.0.1.2")]);
        let block = |cidr: &str, node: &str| (cidr.parse().unwrap(), node.to_owned());
        let blocks = vec![block("10.0.0.0/24", "a"), block("10.0.1.0/24", "b")];
        let (mut held, endpoints) = (rows("x/p", "x/q"), said(&[("a", "health", "10.0.0.8")]));
        held.extend(endpoints.clone());
        Sight { spaces: rows("cni-1", "cni-2"), pods: rows("p", "q"), endpoints, held, blocks }
    }

    /// How many duplicates, leaks and other findings there are once this was spoiled.
    fn found(spoil: impl Fn(&mut Sight)) -> [usize; 3] {
        let mut sight = well();
        spoil(&mut sight);
        let Verdict { duplicates, leaks, wrong } = sight.verdict();
        [duplicates.len(), leaks.len(), wrong.len()]
    }

    #[test]
    fn each_witness_alone_can_show_what_is_wrong() {
        type Spoil = fn(&mut Sight);
        let cases: [(&str, Spoil, [usize; 3]); 10] = [
            ("nothing", |_| {}, [0, 0, 0]),
            ("an address in two namespaces", |s| s.spaces.extend(said(&[("b", "cni-3", "10.0.0.2")])), [1, 1, 0]),
            ("an address of two Pods", |s| s.pods.extend(said(&[("a", "r", "10.0.0.2")])), [1, 0, 0]),
            ("two nodes hold an address", |s| s.held.extend(said(&[("b", "x/r", "10.0.0.2")])), [1, 1, 0]),
            ("a block within another's", |s| s.blocks[1].0 = "10.0.0.0/16".parse().unwrap(), [1, 0, 0]),
            ("held for nobody", |s| s.held.extend(said(&[("a", "x/r", "10.0.0.9")])), [0, 1, 0]),
            ("a namespace that nobody removed", |s| s.spaces.extend(said(&[("a", "cni-3", "10.0.0.9")])), [0, 1, 0]),
            ("held by nobody", |s| s.held.retain(|(_, owner, _)| owner != "x/q"), [0, 0, 1]),
            ("an endpoint that does not answer", |s| s.endpoints.clear(), [0, 1, 0]),
            ("a block that is not the node's", |s| s.blocks.truncate(1), [0, 0, 1]),
        ];
        for (what, spoil, expected) in cases {
            assert_eq!(found(spoil), expected, "{what}");
        }
    }

    #[test]
    fn what_ip_says_is_read() {
        let line = r#"cni-1 [{},{"addr_info":[{"family":"inet","local":"10.0.0.2"},{"local":"fd00::2"},{}]}]"#;
        let ips = ["10.0.0.2", "fd00::2"].map(|ip| ip.parse().unwrap()).to_vec();
        assert_eq!(space(line).unwrap(), ("cni-1".into(), ips));
        assert_eq!(space("cni-2 ").unwrap(), ("cni-2".into(), Vec::new()));
    }
}
