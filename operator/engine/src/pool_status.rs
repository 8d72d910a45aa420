//! Step 8: what `IPPool` objects say: the spec of the operator's own, and the status of all. Written when it changed, once a
//! second at most.

use std::collections::{BTreeMap, BTreeSet};

use cadastre_api::{
    BlockCounts, DEFAULT_POOL, IPPool, IPPoolSpec, IPPoolStatus, Mode, PoolCidrs, condition, condition_type, reason,
    set_condition,
};
use cadastre_core::{AddrRange, Cidr, Family};
use cadastre_modes::{PoolKey, Shortage};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::config::admit;
use crate::effect::Action;
use crate::engine::{Engine, Flight, Stage};
use crate::record::some_names;

/// What people's pools offer and cannot have, by pool.
type Declined = BTreeMap<String, Vec<String>>;

impl Engine {
    pub(crate) fn report_pools(&mut self) {
        self.count_fenced();
        let reports = self.pool_reports();
        let own = reports.iter().any(|report| report.pool == DEFAULT_POOL);
        if own {
            self.write_pool_spec(DEFAULT_POOL);
        }
        let declined = self.declined();
        let names: BTreeSet<_> = self.pools.keys().cloned().collect();
        for name in names {
            let of_pool = reports.iter().filter(|report| report.pool == name);
            let counts = of_pool.map(|report| (report.family, report.counts)).collect();
            self.write_pool_status(&name, &counts, &declined);
        }
    }

    fn declined(&self) -> Declined {
        let Some(config) = &self.config else { return Declined::new() };
        let known = config.status.as_ref().map(|status| status.cidrs.as_slice()).unwrap_or_default();
        admit(&self.settings, &self.offers(), config.spec.mode, known).declined
    }

    /// Blocks that fences touch. They move seldom, and there may be thousands.
    fn count_fenced(&mut self) {
        let (Stage::Live { occupancy }, None) = (&self.stage, &self.fenced) else { return };
        let ranges: Vec<_> = self.fences.iter().map(|fence| AddrRange::from(*fence)).collect();
        let touched = |key: &PoolKey| (key.clone(), occupancy.touched(key, &ranges));
        self.fenced = Some(occupancy.pools().map(touched).collect());
    }

    /// The pool's object says what was admitted. In cluster-pool mode its spec is the operator's.
    fn write_pool_spec(&mut self, name: &str) {
        let spec = IPPoolSpec {
            ipv4: self.admitted(name, Family::V4),
            ipv6: self.admitted(name, Family::V6),
            reserved: self.settings.reserved.clone(),
        };
        let rec = self.pools.entry(name.to_owned()).or_default();
        if rec.busy || rec.not_before > self.now || rec.object.as_ref().is_some_and(|pool| pool.spec == spec) {
            return;
        }
        rec.busy = true;
        let action = match &rec.object {
            None => Action::CreatePool(Box::new(IPPool::new(name, spec))),
            Some(pool) => Action::PatchPool(Box::new(IPPool { spec, ..pool.clone() })),
        };
        self.emit(Flight::Pool(name.to_owned()), action);
    }

    fn admitted(&self, pool: &str, family: Family) -> Option<PoolCidrs> {
        let status = self.config.as_ref()?.status.as_ref()?;
        let of_pool: Vec<_> =
            status.cidrs.iter().filter(|cidr| cidr.pool == pool && cidr.cidr.family() == family).collect();
        let mask_size = of_pool.first()?.mask_size;
        let cidrs: Vec<Cidr> = of_pool.into_iter().map(|cidr| cidr.cidr).collect();
        Some(PoolCidrs { cidrs, mask_size })
    }

    fn write_pool_status(&mut self, name: &str, counts: &BTreeMap<Family, BlockCounts>, declined: &Declined) {
        let waiting = self.exhausted(name);
        let Some(rec) = self.pools.get(name).filter(|rec| rec.not_before <= self.now) else { return };
        let Some(object) = &rec.object else { return };
        let generation = object.metadata.generation.unwrap_or(0);
        let mut status = IPPoolStatus {
            ipv4: counts.get(&Family::V4).copied(),
            ipv6: counts.get(&Family::V6).copied(),
            waiting_nodes: i64::try_from(waiting.len()).unwrap_or(i64::MAX),
            conditions: rec.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default(),
        };
        let mut say = |set: Option<(&str, Said)>| {
            if let Some((kind, (holds, reason, message))) = set {
                let set = condition(kind, holds, reason, &message, generation, self.now);
                set_condition(&mut status.conditions, set);
            }
        };
        say(self.admission_of(name, declined).map(|said| (condition_type::ADMITTED, said)));
        say((!counts.is_empty()).then(|| (condition_type::EXHAUSTED, exhaustion(counts, &waiting))));
        say(self.fencing_of(name, rec.status.as_ref()).map(|said| (condition_type::FENCED, said)));
        if rec.status.as_ref() == Some(&status) {
            return;
        }
        if let Some(rec) = self.pools.get_mut(name) {
            rec.status = Some(status.clone());
        }
        self.emit(
            Flight::PoolStatus(name.to_owned()),
            Action::SetPoolStatus { name: name.to_owned(), status: Box::new(status) },
        );
    }

    /// Whether a person's pool can be had. The operator's own says nothing of that.
    fn admission_of(&self, name: &str, declined: &Declined) -> Option<Said> {
        if name == DEFAULT_POOL {
            return None;
        }
        if self.mode() == Some(Mode::Kubernetes) {
            let why = "mode kubernetes mirrors podCIDRs and cuts no blocks from pools: remove this pool, or leave it for another mode";
            return Some((false, reason::MODE_WITHOUT_POOLS, why.to_owned()));
        }
        Some(match declined.get(name) {
            Some(why) => (false, reason::OVERLAPS, why.join("; ")),
            None => (
                true,
                reason::ADMITTED,
                "its CIDRs are recorded; this mode gives blocks of pool default only".to_owned(),
            ),
        })
    }

    /// How many blocks overlap what others have. Said only of a pool in which some do, or did.
    fn fencing_of(&self, name: &str, before: Option<&IPPoolStatus>) -> Option<Said> {
        let fenced = |family| self.fenced.as_ref()?.get(&(name.to_owned(), family)).copied().filter(|count| *count > 0);
        let counted: Vec<_> =
            Family::ALL.iter().filter_map(|family| Some(format!("{} {family}", fenced(*family)?))).collect();
        if counted.is_empty() {
            let was = |set: &Condition| set.type_ == condition_type::FENCED;
            let said = before.is_some_and(|status| status.conditions.iter().any(was));
            return said.then(|| (false, reason::NOTHING_FENCED, "no block overlaps what others have".to_owned()));
        }
        let status = self.config.as_ref()?.status.as_ref()?;
        let of_pool: Vec<_> = status.cidrs.iter().filter(|cidr| cidr.pool == name).collect();
        let overlapping = self.fences.iter().filter(|fence| of_pool.iter().any(|cidr| cidr.cidr.overlaps(fence)));
        let names: Vec<_> = overlapping.map(ToString::to_string).collect();
        let message = format!(
            "{} blocks are never assigned, since services or nodes have addresses in them: {}",
            counted.join(" and "),
            some_names(names.iter().map(String::as_str))
        );
        Some((true, reason::BLOCKS_FENCED, message))
    }

    /// Nodes that wait for a block of this pool.
    fn exhausted(&self, name: &str) -> Vec<String> {
        let waits = |node: &String| match self.nodes.get(node).and_then(|rec| rec.shortage.as_ref()) {
            Some(Shortage::Exhausted { pool, .. }) => pool == name,
            _ => false,
        };
        self.stuck.iter().map(|(_, node)| node).filter(|node| waits(node)).cloned().collect()
    }
}

/// Whether a condition holds, with its reason and message.
type Said = (bool, &'static str, String);

fn exhaustion(counts: &BTreeMap<Family, BlockCounts>, waiting: &[String]) -> Said {
    let empty: Vec<_> =
        counts.iter().filter(|(_, counts)| counts.free == 0).map(|(family, _)| family.to_string()).collect();
    if empty.is_empty() {
        return (false, reason::BLOCKS_FREE, "blocks are free".to_owned());
    }
    let names = some_names(waiting.iter().map(String::as_str));
    let who = if names.is_empty() { String::new() } else { format!("; waiting: {names}") };
    let withheld: i64 = counts.values().map(|counts| counts.reserved).sum();
    let held_back = if withheld > 0 { format!(" ({withheld} are reserved or fenced)") } else { String::new() };
    let message = format!(
        "no free {} block{held_back}: append a CIDR to the pool, or remove nodes{who}",
        empty.join(" and no free ")
    );
    (true, reason::POOL_EXHAUSTED, message)
}
