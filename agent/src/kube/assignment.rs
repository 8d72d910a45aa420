//! From the operator's word to what the pools understand.

use cadastre_api::{AllocatedBlock, IPAMNode, condition_type};
use kube::Resource;

use crate::pools::Assignment;
use crate::record::{Assigned, BlockRecord, BlockState};

/// What an `IPAMNode` of this very Node assigns.
pub fn of_node(node: &IPAMNode) -> Assignment {
    let blocks: Vec<BlockRecord> = node.spec.ipam.allocated.iter().map(block).collect();
    let assigned = Assigned {
        mode: node.spec.mode,
        node_uid: node.spec.node_uid.clone(),
        generation: node.meta().generation.unwrap_or_default(),
        note: if blocks.is_empty() { operators_reason(node) } else { String::new() },
    };
    Assignment { assigned: Some(assigned), absence: String::new(), blocks }
}

/// There is none, or it is another Node's.
pub fn none(absence: String) -> Assignment {
    Assignment { assigned: None, absence, blocks: Vec::new() }
}

fn block(block: &AllocatedBlock) -> BlockRecord {
    let AllocatedBlock { pool, family: _, cidr, grant, retiring } = block;
    let state = if *retiring { BlockState::Retiring } else { BlockState::Active };
    BlockRecord { pool: pool.clone(), cidr: *cidr, grant: *grant, state }
}

/// Why the operator assigned nothing, if it says.
fn operators_reason(node: &IPAMNode) -> String {
    let conditions = node.status.iter().flat_map(|status| &status.conditions);
    let mut assigned = conditions.filter(|condition| condition.type_ == condition_type::ASSIGNED);
    assigned.find(|condition| condition.status != "True").map(|condition| condition.message.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(allocated: &str) -> IPAMNode {
        let text = format!(
            r#"{{"apiVersion":"cadastre.io/v1alpha1","kind":"IPAMNode","metadata":{{"name":"n1","generation":4}},
                "spec":{{"mode":"kubernetes","nodeUID":"u-1","ipam":{{"allocated":{allocated}}}}},
                "status":{{"conditions":[{{"type":"Assigned","status":"False","reason":"PoolExhausted",
                "message":"pool default has no free IPv4 block","lastTransitionTime":"2026-01-01T00:00:00Z"}}]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn blocks_keep_their_grant_and_whether_they_retire() {
        let node = node(
            r#"[{"pool":"default","family":"IPv4","cidr":"10.0.2.0/24","grant":"00000000-0000-0000-0000-000000000001"},
                {"pool":"default","family":"IPv6","cidr":"fd00::/120","grant":"00000000-0000-0000-0000-000000000002","retiring":true}]"#,
        );
        let Assignment { assigned, absence, blocks } = of_node(&node);
        let assigned = assigned.unwrap();
        assert_eq!((assigned.generation, assigned.node_uid.as_str(), assigned.note.as_str()), (4, "u-1", ""));
        assert_eq!(absence, "");
        let shown: Vec<_> =
            blocks.iter().map(|block| (block.cidr.to_string(), block.grant.as_u128(), block.state)).collect();
        assert_eq!(
            shown,
            [("10.0.2.0/24".to_owned(), 1, BlockState::Active), ("fd00::/120".to_owned(), 2, BlockState::Retiring)]
        );
    }

    #[test]
    fn without_blocks_the_operators_reason_is_passed_on() {
        assert_eq!(of_node(&node("[]")).assigned.unwrap().note, "pool default has no free IPv4 block");
    }
}
