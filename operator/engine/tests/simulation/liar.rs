//! What a stolen token can say: an agent's status names blocks that its node never had.

use cadastre_api::{AllocatedBlock, IPAMNodeSpec};
use cadastre_core::{Cidr, Family};

use crate::world::{Simulation, settings};

fn two_served() -> Simulation {
    let mut simulation = Simulation::new(17, 1, settings(&[Family::V4], "10.0.0.0/20", "fd00::/112"));
    for name in ["n0", "n1"] {
        simulation.add_node(name, "");
    }
    simulation.settle_for(2);
    simulation
}

fn spec(simulation: &Simulation, name: &str) -> IPAMNodeSpec {
    simulation.store.ipam_nodes[name].spec.clone()
}

/// The agent of `n1` says that it holds this, until the operator has done what it does about it.
fn lie(simulation: &mut Simulation, cidr: Cidr) {
    let block = spec(simulation, "n1").ipam.allocated[0].clone();
    simulation.report_held("n1", &AllocatedBlock { cidr, grant: uuid::Uuid::from_u128(1), ..block });
    simulation.settle_for(1);
}

#[test]
fn more_than_a_block_or_what_no_pool_has_is_not_believed() {
    for cidr in ["10.0.0.0/8", "10.0.0.0/20", "10.0.0.0/23", "0.0.0.0/0", "192.0.2.1/32", "172.16.0.0/12"] {
        let mut simulation = two_served();
        let before = [spec(&simulation, "n0"), spec(&simulation, "n1")];
        lie(&mut simulation, cidr.parse().unwrap());
        assert_eq!([spec(&simulation, "n0"), spec(&simulation, "n1")], before, "{cidr}");
        simulation.add_node("n2", "");
        simulation.settle_for(2);
        assert_eq!(spec(&simulation, "n2").ipam.allocated.len(), 1, "{cidr} keeps a new node waiting");
    }
}

#[test]
fn a_block_of_another_node_leads_to_that_node_only() {
    let mut simulation = two_served();
    let block = spec(&simulation, "n0").ipam.allocated[0].cidr;
    simulation.touched.insert(block, ["n0".to_owned(), "n1".to_owned()].into());
    lie(&mut simulation, block);
    let [holder, liar] = [spec(&simulation, "n0").ipam, spec(&simulation, "n1").ipam];
    assert!(liar.allocated.iter().any(|kept| kept.cidr == block && kept.retiring), "contested: {liar:?}");
    assert!(!liar.pod_cidrs.contains(&block), "{liar:?}");
    assert!(holder.pod_cidrs.contains(&block), "{holder:?}");
}
