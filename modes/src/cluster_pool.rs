//! cluster-pool: one block of each family for a node, from the pool `default`.

use cadastre_core::Family;

use crate::occupancy::{Occupancy, Sealed};
use crate::plan::{Decision, NodeView, Plan, PlannedBlock, Shortage, Verdict};

/// The mode's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPool {
    /// The pool blocks are cut from.
    pub pool: String,
    /// The families a node gets, all or none.
    pub families: Vec<Family>,
}

impl ClusterPool {
    /// One block of each family that the node lacks, all or nothing: what was taken of one family is given back if
    /// another has none.
    pub fn plan(&self, nodes: &[NodeView], occupancy: &mut Occupancy<Sealed>) -> Plan {
        let decisions = nodes
            .iter()
            .map(|node| Decision {
                node: node.name.clone(),
                uid: node.uid.clone(),
                verdict: self.verdict(node, occupancy),
            })
            .collect();
        Plan { decisions }
    }

    fn verdict(&self, node: &NodeView, occupancy: &mut Occupancy<Sealed>) -> Verdict {
        let (mut blocks, mut again) = (Vec::<PlannedBlock>::new(), Vec::new());
        for &family in self.families.iter().filter(|family| !node.holds.iter().any(|held| held.family == **family)) {
            if let Some(own) = node.own_cooling.iter().find(|own| own.family == family) {
                again.push(own.clone());
                continue;
            }
            let Some(cidr) = occupancy.take_next(&self.pool, family) else {
                for taken in &blocks {
                    occupancy.give_back(&taken.pool, &taken.cidr);
                }
                return Verdict::Wait(Shortage::Exhausted { pool: self.pool.clone(), family });
            };
            blocks.push(PlannedBlock { pool: self.pool.clone(), family, cidr });
        }
        Verdict::Assign { blocks, again }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(pools: &[(&str, u8)]) -> Occupancy<Sealed> {
        let mut occupancy = Occupancy::default();
        for (cidr, mask) in pools {
            assert!(occupancy.admit("default", cidr.parse().unwrap(), *mask));
        }
        occupancy.seal()
    }

    fn mode(families: &[Family]) -> ClusterPool {
        ClusterPool { pool: "default".into(), families: families.to_vec() }
    }

    fn node(name: &str) -> NodeView {
        let (pod_cidrs, holds, own_cooling) = (vec![], vec![], vec![]);
        NodeView { name: name.into(), uid: format!("{name}-uid"), created: 0, pod_cidrs, holds, own_cooling }
    }

    fn block(cidr: &str) -> PlannedBlock {
        let cidr: cadastre_core::Cidr = cidr.parse().unwrap();
        PlannedBlock { pool: "default".into(), family: cidr.family(), cidr }
    }

    fn verdicts(plan: Plan) -> Vec<Verdict> {
        plan.decisions.into_iter().map(|decision| decision.verdict).collect()
    }

    #[test]
    fn each_node_gets_the_next_block_of_each_family() {
        let mut occupancy = sealed(&[("10.0.0.0/8", 24), ("fd00::/104", 120)]);
        let plan = mode(&Family::ALL).plan(&[node("a"), node("b")], &mut occupancy);
        let assign = |v4: &str, v6: &str| Verdict::Assign { blocks: vec![block(v4), block(v6)], again: vec![] };
        assert_eq!(verdicts(plan), [assign("10.0.0.0/24", "fd00::/120"), assign("10.0.1.0/24", "fd00::100/120")]);
    }

    #[test]
    fn an_exhausted_family_costs_the_other_nothing_however_often_it_is_tried() {
        let mut occupancy = sealed(&[("10.0.0.0/22", 24), ("fd00::/120", 120)]);
        let mode = mode(&Family::ALL);
        mode.plan(&[node("a")], &mut occupancy);
        for _ in 0..1000 {
            let plan = mode.plan(&[node("b")], &mut occupancy);
            let shortage = Shortage::Exhausted { pool: "default".into(), family: Family::V6 };
            assert_eq!(verdicts(plan), [Verdict::Wait(shortage)]);
        }
        assert_eq!(occupancy.counts("default", Family::V4).unwrap().free, 3);
    }

    #[test]
    fn what_a_node_holds_is_not_given_twice_and_its_own_cooling_block_comes_back() {
        let mut occupancy = sealed(&[("10.0.0.0/22", 24), ("fd00::/104", 120)]);
        assert!(occupancy.claim("default", &"10.0.0.0/24".parse().unwrap()));
        assert!(occupancy.claim("default", &"fd00::/120".parse().unwrap()));
        let holder =
            NodeView { holds: vec![block("10.0.0.0/24")], own_cooling: vec![block("fd00::/120")], ..node("a") };
        let plan = mode(&Family::ALL).plan(&[holder], &mut occupancy);
        assert_eq!(verdicts(plan), [Verdict::Assign { blocks: vec![], again: vec![block("fd00::/120")] }]);
    }
}
