//! What should not be, as a function of what was read.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use cadastre_api::{AllocatedBlock, BlockEntry, BlockState, IPAMNode, Mode};
use cadastre_core::{Cidr, CidrMap};
use cadastre_engine::{NodeSeen, World};
use cadastre_runtime::PodSeen;
use kube::ResourceExt as _;

use super::Finding;
use super::fix::Fix;

/// Everything that should not be, by kind.
pub fn compare(world: &World, pods: &[PodSeen]) -> Vec<Finding> {
    let look = Look::at(world);
    let mut findings = look.objects();
    findings.extend(look.overlaps());
    match world.config.as_ref().map(|config| config.spec.mode) {
        Some(Mode::Kubernetes) => findings.extend(look.mirrors()),
        Some(_) => {
            findings.extend(look.published());
            findings.extend(look.entries());
        }
        None => {}
    }
    findings.extend(look.reported());
    findings.extend(look.pods(pods));
    findings
}

fn finding(id: String, what: String, remedy: &str, fix: Option<Fix>) -> Finding {
    Finding { id, what, remedy: remedy.to_owned(), fix }
}

/// The operator does so by itself, within minutes.
const OPERATORS: &str = "the operator mends this by itself within some minutes: see whether it runs, and its log";

struct Look<'a> {
    world: &'a World,
    nodes: HashMap<&'a str, &'a NodeSeen>,
    /// Those that are for a Node as it is.
    served: BTreeMap<String, &'a IPAMNode>,
    entries: BTreeMap<Cidr, &'a BlockEntry>,
}

impl<'a> Look<'a> {
    fn at(world: &'a World) -> Self {
        let nodes: HashMap<&str, &NodeSeen> = world.nodes.iter().map(|node| (node.name.as_str(), node)).collect();
        let own = |node: &&IPAMNode| nodes.get(&*node.name_any()).is_some_and(|seen| seen.uid == node.spec.node_uid);
        let served = world.ipam_nodes.iter().filter(own).map(|node| (node.name_any(), node)).collect();
        let entries =
            world.pages.iter().flat_map(|page| &page.spec.entries).map(|entry| (entry.block, entry)).collect();
        Self { world, nodes, served, entries }
    }

    /// Every block of a node that is there.
    fn blocks(&self) -> impl Iterator<Item = (&str, &'a IPAMNode, &'a AllocatedBlock)> {
        self.served
            .iter()
            .flat_map(|(name, node)| node.spec.ipam.allocated.iter().map(move |block| (&**name, *node, block)))
    }

    /// `IPAMNode`s of Nodes that are not there.
    fn objects(&self) -> Vec<Finding> {
        let strays = self.world.ipam_nodes.iter().filter(|node| !self.served.contains_key(&node.name_any()));
        let found = strays.map(|node| {
            let name = node.name_any();
            let what = match self.nodes.get(name.as_str()) {
                Some(seen) => format!(
                    "IPAMNode {name} is for another Node of that name (UID {}), not for {}",
                    node.spec.node_uid, seen.uid
                ),
                None => format!("IPAMNode {name} is for a Node that is not there"),
            };
            let fix = node.uid().map(|uid| Fix::DeleteIpamNode { name: name.clone(), uid });
            finding(format!("leftover/{name}"), what, OPERATORS, fix)
        });
        found.collect()
    }

    /// One address in blocks of two nodes.
    fn overlaps(&self) -> Vec<Finding> {
        let mut known = CidrMap::default();
        let mut found = Vec::new();
        for (name, _, block) in self.blocks() {
            let others: Vec<(Cidr, &str)> = known
                .overlapping(&block.cidr)
                .map(|(cidr, other)| (cidr, *other))
                .filter(|(_, other)| *other != name)
                .collect();
            for (cidr, other) in others {
                let what = format!("{} of node {name} and {cidr} of node {other} overlap", block.cidr);
                let remedy =
                    "nobody allocates in a disputed block; drain one of the nodes, and it is given another block";
                found.push(finding(format!("overlap/{}", block.cidr), what, remedy, None));
            }
            known.insert(block.cidr, name);
        }
        found
    }

    /// What is published and not recorded.
    fn published(&self) -> Vec<Finding> {
        let unrecorded = self.blocks().filter(|(_, node, block)| {
            let same = |entry: &&&BlockEntry| entry.grant == block.grant && entry.uid == node.spec.node_uid;
            self.entries.get(&block.cidr).filter(same).is_none_or(|entry| entry.state == BlockState::Cooling)
        });
        let found = unrecorded.map(|(name, _, block)| {
            let what = match self.entries.get(&block.cidr) {
                None => format!("node {name} has {}, which the ledger does not record", block.cidr),
                Some(entry) => format!("node {name} has {}, and the ledger says: {entry}", block.cidr),
            };
            finding(format!("unrecorded/{}", block.cidr), what, OPERATORS, None)
        });
        found.collect()
    }

    /// What is recorded and nobody has.
    fn entries(&self) -> Vec<Finding> {
        self.entries
            .values()
            .filter(|entry| entry.state != BlockState::Cooling)
            .filter_map(|entry| self.entry(entry))
            .collect()
    }

    fn entry(&self, entry: &BlockEntry) -> Option<Finding> {
        let block = entry.block;
        if self.nodes.get(entry.node.as_str()).is_none_or(|seen| seen.uid != entry.uid) {
            let what = format!("{block} is recorded for node {} (UID {}), which is not there", entry.node, entry.uid);
            return Some(finding(format!("orphan/{block}"), what, OPERATORS, Some(Fix::Cool { entry: entry.clone() })));
        }
        let listed = self.served.get(&entry.node).is_some_and(|node| {
            node.spec.ipam.allocated.iter().any(|listed| listed.cidr == block && listed.grant == entry.grant)
        });
        let what = || format!("{block} is recorded for node {}, and its IPAMNode does not list it", entry.node);
        (!listed).then(|| finding(format!("unpublished/{block}"), what(), OPERATORS, None))
    }

    /// Mode kubernetes: what is published is what the Node says.
    fn mirrors(&self) -> Vec<Finding> {
        let foreign = self
            .blocks()
            .filter(|(name, _, block)| !block.retiring && !self.nodes[name].pod_cidrs.contains(&block.cidr));
        let found = foreign.map(|(name, _, block)| {
            let what = format!("node {name} has {}, which is none of its podCIDRs", block.cidr);
            finding(format!("unmirrored/{}", block.cidr), what, OPERATORS, None)
        });
        found.collect()
    }

    /// Agents that use what they were not given.
    fn reported(&self) -> Vec<Finding> {
        let held = self.served.iter().flat_map(|(name, node)| {
            let ipam = node.status.iter().filter_map(|status| status.ipam.as_ref());
            ipam.flat_map(|ipam| &ipam.held).map(move |held| (name, *node, held))
        });
        let unlisted = held.filter(|(_, node, held)| {
            !node.spec.ipam.allocated.iter().any(|block| block.cidr == held.cidr && block.grant == held.grant)
        });
        let found = unlisted.map(|(name, _, held)| {
            let what =
                format!("the agent of node {name} has addresses in {}, which its IPAMNode does not list", held.cidr);
            let remedy =
                "it allocates nothing new there; delete those pods (cadastre-agent status --all-addresses on the node)";
            finding(format!("clinging/{}", held.cidr), what, remedy, None)
        });
        found.collect()
    }

    /// Addresses of Pods: one for one Pod, and in a block of its node.
    fn pods(&self, pods: &[PodSeen]) -> Vec<Finding> {
        let mut holders = BTreeMap::<IpAddr, &PodSeen>::new();
        let mut found = Vec::new();
        let mut managed = CidrMap::default();
        self.blocks().for_each(|(name, _, block)| managed.insert(block.cidr, name));
        for (pod, address) in pods.iter().flat_map(|pod| pod.addresses.iter().map(move |address| (pod, *address))) {
            let owner = managed.overlapping(&Cidr::host(address)).next().map(|(cidr, node)| (cidr, *node));
            // Pods of other networks are none of our business.
            let Some((cidr, node)) = owner else { continue };
            if let Some(other) = holders.insert(address, pod) {
                let what = format!("Pods {} and {} both have {address}", other.name, pod.name);
                let remedy = "delete one of them; cadastre-agent explain on its node says who holds it";
                found.push(finding(format!("duplicate/{address}"), what, remedy, None));
            }
            if node != pod.node {
                let what =
                    format!("Pod {} on node {} has {address} of {cidr}, which is node {node}'s", pod.name, pod.node);
                found.push(finding(format!("astray/{address}"), what, "delete the pod", None));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use cadastre_api::{HeldBlock, IPAMConfig, IPAMConfigSpec, IPAMLedger, IPAMLedgerSpec, IPAMNodeSpec, NodeIpam};
    use cadastre_core::Family;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

    const BLOCKS: [(&str, &str); 2] = [("a", "10.0.1.0/24"), ("b", "10.0.2.0/24")];

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn grant(block: &str) -> Uuid {
        // Another one for each block.
        let number = block.bytes().fold(7_u128, |sum, byte| sum * 31 + u128::from(byte));
        uuid::Builder::from_u128(number).into_uuid()
    }

    fn seen(name: &str) -> NodeSeen {
        NodeSeen { name: name.into(), uid: format!("uid-{name}"), ..NodeSeen::default() }
    }

    fn ipam_node(name: &str, block: &str) -> IPAMNode {
        let allocated = AllocatedBlock {
            pool: "default".into(),
            family: Family::V4,
            cidr: cidr(block),
            grant: grant(block),
            retiring: false,
        };
        let ipam = NodeIpam { allocated: vec![allocated], pod_cidrs: vec![] };
        let mut node = IPAMNode::new(
            name,
            IPAMNodeSpec { mode: Mode::ClusterPool, node_uid: format!("uid-{name}"), addresses: vec![], ipam },
        );
        node.metadata.uid = Some(format!("object-{name}"));
        node
    }

    fn entry(name: &str, block: &str) -> BlockEntry {
        BlockEntry {
            block: cidr(block),
            state: BlockState::Held,
            node: name.into(),
            since: Time(Timestamp::UNIX_EPOCH),
            uid: format!("uid-{name}"),
            grant: grant(block),
            machine: String::new(),
        }
    }

    /// Two nodes, as they should be.
    fn well(mode: Mode) -> World {
        let spec = IPAMLedgerSpec {
            pool: "default".into(),
            family: Family::V4,
            range: cidr("10.0.0.0/18"),
            mask_size: 24,
            held: 2,
            cooling: 0,
            free: 62,
            entries: BLOCKS.map(|(name, block)| entry(name, block)).into(),
        };
        World {
            config: Some(IPAMConfig::new("cluster", IPAMConfigSpec { mode })),
            pages: vec![IPAMLedger::new("page", spec)],
            nodes: BLOCKS.map(|(name, block)| NodeSeen { pod_cidrs: vec![cidr(block)], ..seen(name) }).into(),
            ipam_nodes: BLOCKS.map(|(name, block)| ipam_node(name, block)).into(),
            ..World::default()
        }
    }

    fn ids(world: &World) -> Vec<String> {
        compare(world, &[]).into_iter().map(|finding| finding.id).collect()
    }

    fn pod(name: &str, node: &str, address: &str) -> PodSeen {
        PodSeen { name: name.into(), node: node.into(), addresses: vec![address.parse().unwrap()] }
    }

    #[test]
    fn what_is_as_it_should_be_is_not_found() {
        let pods = [pod("x/a", "a", "10.0.1.7"), pod("x/b", "b", "10.0.2.7"), pod("x/other", "a", "192.168.0.7")];
        assert_eq!(compare(&well(Mode::ClusterPool), &pods), []);
        assert_eq!(compare(&well(Mode::Kubernetes), &pods), []);
    }

    #[test]
    fn objects_of_nodes_that_are_not_there_can_be_deleted() {
        let mut world = well(Mode::ClusterPool);
        world.nodes.remove(0);
        let found = compare(&world, &[]);
        let fix = Some(Fix::DeleteIpamNode { name: "a".into(), uid: "object-a".into() });
        assert_eq!((&found[0].id[..], &found[0].fix), ("leftover/a", &fix));
        assert_eq!(
            (&found[1].id[..], &found[1].fix),
            ("orphan/10.0.1.0/24", &Some(Fix::Cool { entry: entry("a", "10.0.1.0/24") }))
        );
        assert_eq!(found.len(), 2);
        world.nodes.push(NodeSeen { uid: "uid-new".into(), ..seen("a") });
        assert_eq!(ids(&world), ["leftover/a", "orphan/10.0.1.0/24"], "another Node of the same name");
    }

    #[test]
    fn ledger_and_objects_say_the_same() {
        let mut world = well(Mode::ClusterPool);
        world.pages[0].spec.entries.remove(0);
        assert_eq!(ids(&world), ["unrecorded/10.0.1.0/24"]);
        world.ipam_nodes[1].spec.ipam.allocated.clear();
        assert_eq!(ids(&world), ["unrecorded/10.0.1.0/24", "unpublished/10.0.2.0/24"]);
        let mut other = well(Mode::ClusterPool);
        other.pages[0].spec.entries[0].grant = Uuid::nil();
        assert_eq!(ids(&other), ["unrecorded/10.0.1.0/24", "unpublished/10.0.1.0/24"], "another grant");
        let mut cooling = well(Mode::ClusterPool);
        cooling.pages[0].spec.entries[0].state = BlockState::Cooling;
        assert_eq!(ids(&cooling), ["unrecorded/10.0.1.0/24"]);
    }

    #[test]
    fn two_nodes_share_no_address() {
        let mut world = well(Mode::ClusterPool);
        world.ipam_nodes[1] = ipam_node("b", "10.0.1.128/25");
        assert!(ids(&world).contains(&"overlap/10.0.1.128/25".to_owned()), "{:?}", ids(&world));
        let mut mirrored = well(Mode::Kubernetes);
        mirrored.ipam_nodes[1] = ipam_node("b", "10.0.3.0/24");
        assert_eq!(ids(&mirrored), ["unmirrored/10.0.3.0/24"]);
    }

    #[test]
    fn what_an_agent_clings_to_is_found() {
        let mut world = well(Mode::ClusterPool);
        let held = vec![HeldBlock { cidr: cidr("10.0.1.0/24"), grant: Uuid::nil() }];
        world.ipam_nodes[0].status.get_or_insert_default().ipam.get_or_insert_default().held = held;
        assert_eq!(ids(&world), ["clinging/10.0.1.0/24"]);
    }

    #[test]
    fn pods_have_addresses_of_their_node_and_of_nobody_else() {
        let world = well(Mode::ClusterPool);
        let pods = [pod("x/a", "a", "10.0.1.7"), pod("x/b", "a", "10.0.1.7"), pod("x/c", "a", "10.0.2.9")];
        let found = compare(&world, &pods);
        let found: Vec<_> = found.iter().map(|finding| finding.id.as_str()).collect();
        assert_eq!(found, ["duplicate/10.0.1.7", "astray/10.0.2.9"]);
    }
}
