//! What the agent says in `IPAMNode.status`, as a function of what it knows.

use cadastre_api::{
    DEFAULT_POOL, Health, HealthEndpoint, HeldBlock, IPAMNodeStatus, Mode, NodeIpamStatus, PoolDemand, condition,
    condition_type, count, set_condition,
};
use cadastre_core::Family;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use crate::health::{Said, State, Verdict};
use crate::node::NodeSetup;
use crate::outlook::Outlook;
use crate::pools::{BlockView, ShareView};
use crate::record::BlockState;

/// How soon a change should be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// What people look at.
    Usage,
    /// What the operator acts on, and whether pods are served.
    News,
}

/// The status as it should be, after `before`: a condition keeps the time of its last transition, and an agent that cannot
/// read its journal takes back nothing that was said of addresses.
pub fn desired(
    outlook: &Outlook,
    setup: &NodeSetup,
    health: Option<&Said>,
    configured: Mode,
    before: &IPAMNodeStatus,
    now: Timestamp,
) -> IPAMNodeStatus {
    let generation = outlook.view.assigned.as_ref().map(|assigned| assigned.generation);
    let verdict = outlook.verdict(configured, setup);
    let new = condition(
        condition_type::SERVING,
        verdict.serving,
        verdict.reason,
        &verdict.message,
        generation.unwrap_or_default(),
        now,
    );
    let mut conditions = before.conditions.clone();
    set_condition(&mut conditions, new);
    let endpoint = tell(health, &mut conditions, before, generation.unwrap_or_default(), now);
    if outlook.journal.unreadable {
        return IPAMNodeStatus { conditions, health_endpoint: endpoint, ..before.clone() };
    }
    let blocks = |wanted: fn(&BlockView) -> bool| {
        let blocks = outlook.view.shares.iter().flat_map(|share| &share.blocks).filter(move |block| wanted(block));
        blocks.map(|block| HeldBlock { cidr: block.cidr, grant: block.grant }).collect()
    };
    IPAMNodeStatus {
        ipam: Some(NodeIpamStatus {
            pools: outlook.view.shares.iter().map(|share| demand(share, outlook.view.waiting)).collect(),
            held: blocks(|block| block.state != BlockState::Promised),
            releasable: blocks(|block| block.state == BlockState::Promised),
            usage: outlook.usage(),
        }),
        health: Some(Health { ipv4: outlook.health(Family::V4), ipv6: outlook.health(Family::V6) }),
        health_endpoint: endpoint,
        observed_generation: generation,
        conditions,
    }
}

/// Puts the condition in its place, if there is something to say. Returns the endpoint. An agent that has just started leaves
/// both as they were.
fn tell(
    health: Option<&Said>,
    conditions: &mut Vec<Condition>,
    before: &IPAMNodeStatus,
    generation: i64,
    now: Timestamp,
) -> Option<HealthEndpoint> {
    let state = health.map_or(&State::Without, |said| &said.state);
    let verdict = health.and_then(|said| said.verdict.as_ref());
    if let Some(Verdict { reachable, reason, message }) = verdict {
        let kind = condition_type::NODES_REACHABLE;
        set_condition(conditions, condition(kind, *reachable, reason, message, generation, now));
    } else if *state == State::Without {
        conditions.retain(|condition| condition.type_ != condition_type::NODES_REACHABLE);
    }
    match state {
        State::Starting => before.health_endpoint.clone(),
        State::Attached(endpoint) => Some(endpoint.clone()),
        State::Without => None,
    }
}

fn demand(share: &ShareView, waiting: usize) -> PoolDemand {
    let waiting = if share.pool == DEFAULT_POOL { i64::try_from(waiting).unwrap_or(i64::MAX) } else { 0 };
    let in_use = i64::try_from(share.counts.allocated).unwrap_or(i64::MAX);
    PoolDemand {
        pool: share.pool.clone(),
        family: share.family,
        needed: in_use.saturating_add(waiting),
        in_use,
        cooling: i64::try_from(share.counts.cooling).unwrap_or(i64::MAX),
        waiting,
        capacity: count(share.counts.capacity),
    }
}

/// How soon `new` should replace `old`.
pub fn change(old: &IPAMNodeStatus, new: &IPAMNodeStatus) -> Change {
    if old == new {
        return Change::None;
    }
    let IPAMNodeStatus { ipam, health, health_endpoint, observed_generation, conditions } = new;
    let short = |ipam: &NodeIpamStatus| {
        let short = ipam.pools.iter().filter(|demand| demand.needed > demand.capacity);
        short.map(|demand| (demand.pool.clone(), demand.family)).collect::<Vec<_>>()
    };
    let acted_on = |ipam: &Option<NodeIpamStatus>| {
        let acted_on = |ipam: &NodeIpamStatus| (ipam.held.clone(), ipam.releasable.clone(), short(ipam));
        ipam.as_ref().map(acted_on)
    };
    // When the network between the nodes breaks, all of them have something to say of each other, to all of them: that can wait.
    let urgent = |conditions: &[Condition]| {
        let urgent = conditions.iter().filter(|condition| condition.type_ != condition_type::NODES_REACHABLE);
        urgent.cloned().collect::<Vec<_>>()
    };
    let same = (health, health_endpoint) == (&old.health, &old.health_endpoint)
        && (observed_generation, urgent(conditions)) == (&old.observed_generation, urgent(&old.conditions))
        && acted_on(ipam) == acted_on(&old.ipam);
    if same { Change::Usage } else { Change::News }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outlook::JournalOutlook;
    use crate::pools::fixtures::{add, assigned, at, live};

    fn outlook(pools: &crate::pools::Pools<crate::pools::Live>) -> Outlook {
        Outlook { view: pools.view(), ..Outlook::default() }
    }

    fn status(outlook: &Outlook, before: &IPAMNodeStatus) -> IPAMNodeStatus {
        told(outlook, None, before)
    }

    fn told(outlook: &Outlook, health: Option<&Said>, before: &IPAMNodeStatus) -> IPAMNodeStatus {
        let now = Timestamp::from_second(1_000).unwrap();
        desired(outlook, &NodeSetup::default(), health, Mode::ClusterPool, before, now)
    }

    #[test]
    fn the_endpoint_and_who_is_reached_stay_over_a_restart_and_go_with_the_endpoint() {
        let pools = live(&["10.0.2.0/24"]);
        let said = |state, reachable: Option<bool>| Said {
            state,
            verdict: reachable.map(|reachable| Verdict { reachable, reason: "R", message: "m".into() }),
        };
        let own = State::Attached(HealthEndpoint { addresses: vec!["10.0.2.9".parse().unwrap()], port: 4240 });
        let first = told(&outlook(&pools), Some(&said(own.clone(), None)), &IPAMNodeStatus::default());
        assert_eq!((first.health_endpoint.as_ref().unwrap().port, first.conditions.len()), (4240, 1));
        let reached = told(&outlook(&pools), Some(&said(own.clone(), Some(true))), &first);
        assert_eq!(reached.conditions[1].type_, "NodesReachable");
        assert_eq!(change(&first, &reached), Change::Usage);
        assert_eq!(change(&IPAMNodeStatus::default(), &first), Change::News);
        assert_eq!(told(&outlook(&pools), Some(&said(State::Starting, None)), &reached), reached);
        assert_eq!(told(&outlook(&pools), Some(&said(own, None)), &reached), reached, "until it was looked at again");
        let failed = told(&outlook(&pools), Some(&said(State::Without, Some(false))), &reached);
        assert_eq!((failed.health_endpoint.clone(), &*failed.conditions[1].status), (None, "False"));
        let off = told(&outlook(&pools), None, &reached);
        assert_eq!((off.health_endpoint, off.conditions.len()), (None, 1));
    }

    #[test]
    fn it_says_use_demand_health_and_what_is_held() {
        let mut pools = live(&["10.0.2.0/24", "fd00::/120"]);
        pools.apply(at(1), [add("a"), add("b")]);
        let said = status(&outlook(&pools), &IPAMNodeStatus::default());
        let ipam = said.ipam.unwrap();
        assert_eq!(ipam.usage, "3/254, 3/254");
        let demand = &ipam.pools[0];
        assert_eq!((demand.needed, demand.in_use, demand.waiting, demand.capacity), (3, 3, 0, 254));
        assert_eq!(
            ipam.held.iter().map(|held| held.cidr.to_string()).collect::<Vec<_>>(),
            ["10.0.2.0/24", "fd00::/120"]
        );
        assert_eq!(said.observed_generation, Some(1));
        assert_eq!(said.conditions[0].reason, "Serving");
        assert!(said.health.unwrap().ipv6.is_some());
    }

    #[test]
    fn the_condition_names_what_is_wrong_and_keeps_its_time() {
        let mut pools = live(&["10.0.2.0/31"]);
        let well = status(&outlook(&pools), &IPAMNodeStatus::default());
        let before = &well.conditions[0];
        let later = Timestamp::from_second(2_000).unwrap();
        let same = desired(&outlook(&pools), &NodeSetup::default(), None, Mode::ClusterPool, &well, later);
        assert_eq!(same.conditions[0].last_transition_time, before.last_transition_time);

        let differs = desired(&outlook(&pools), &NodeSetup::default(), None, Mode::MultiPool, &well, later);
        let said = &differs.conditions[0];
        assert_eq!((said.status.as_str(), said.reason.as_str()), ("True", "ModeDiffers"));
        assert_eq!(
            said.message,
            "configured mode multi-pool is not the recorded mode cluster-pool, which goes on: set ipam.mode back to cluster-pool"
        );
        assert_eq!(said.last_transition_time, before.last_transition_time);

        pools.apply(at(1), [add("a"), add("b")]);
        let full = desired(&outlook(&pools), &NodeSetup::default(), None, Mode::ClusterPool, &well, later);
        let said = &full.conditions[0];
        assert_eq!((said.status.as_str(), said.reason.as_str()), ("False", "PoolExhausted"));
        assert_eq!(said.last_transition_time.0, later);
        assert_eq!(change(&well, &full), Change::News);

        let unreadable = Outlook {
            journal: JournalOutlook { trouble: Some("damaged".into()), unreadable: true, ..JournalOutlook::default() },
            ..Outlook::default()
        };
        let said = desired(&unreadable, &NodeSetup::default(), None, Mode::ClusterPool, &well, later);
        assert_eq!((said.conditions[0].reason.as_str(), &said.ipam), ("JournalFailed", &well.ipam));

        let nothing = status(&outlook(&live(&[])), &IPAMNodeStatus::default());
        let said = &nothing.conditions[0];
        assert_eq!((said.reason.as_str(), said.message.as_str()), ("NoAssignment", "pool default has no free block"));
    }

    #[test]
    fn numbers_can_wait_and_news_cannot() {
        let mut pools = live(&["10.0.2.0/24"]);
        let before = status(&outlook(&pools), &IPAMNodeStatus::default());
        assert_eq!(change(&before, &before), Change::None);
        pools.apply(at(1), [add("a")]);
        let used = status(&outlook(&pools), &before);
        assert_eq!(change(&before, &used), Change::Usage);
        pools.apply(at(2), [assigned(&["10.0.2.0/24 retiring"])]);
        assert_eq!(change(&used, &status(&outlook(&pools), &used)), Change::News);
    }
}
