//! Mode kubernetes: what is mirrored of `Node.spec.podCIDRs`, and who is looked at again when others come and go.

use cadastre_api::AllocatedBlock;
use cadastre_core::Cidr;
use cadastre_modes::{FenceChange, PlannedBlock, Planner, Shortage};

use crate::engine::Engine;

impl Engine {
    pub(crate) fn evaluate_mirror(&mut self, name: &str) {
        let (Some(rec), Some(Planner::Kubernetes(mode))) = (self.nodes.get(name), &self.planner) else { return };
        let served = self.has_blocks(name);
        // One that cannot be served keeps nobody waiting.
        let contends = served || mode.own_shortage(&rec.seen.pod_cidrs, &self.mirror_fences).is_none();
        let cidrs: Vec<_> = mode.enabled(&rec.seen.pod_cidrs).filter(|_| contends).copied().collect();
        let concerned = self.index.set(name, rec.seen.created, served, &cidrs);
        let created = rec.seen.created;
        self.to_plan.insert((created, name.to_owned()));
        for other in concerned {
            if let Some(other_rec) = self.nodes.get(&other) {
                self.to_plan.insert((other_rec.seen.created, other));
            }
        }
    }

    pub(crate) fn mirror(&mut self, name: &str, blocks: &[PlannedBlock]) {
        let published = self.published.get(name).map(|node| node.spec.clone());
        let mut mirrored = Vec::new();
        for block in blocks {
            let rec = self.nodes.get(name);
            let known = published.iter().filter(|spec| rec.is_some_and(|rec| rec.seen.uid == spec.node_uid));
            let known = known.flat_map(|spec| &spec.ipam.allocated).chain(rec.iter().flat_map(|rec| &rec.mirrored));
            let grant = known.filter(|old| old.cidr == block.cidr).map(|old| old.grant).next();
            let grant = grant.unwrap_or_else(|| self.grant());
            let PlannedBlock { pool, family, cidr } = block.clone();
            mirrored.push(AllocatedBlock { pool, family, cidr, grant, retiring: false });
        }
        mirrored.extend(self.disabled(name));
        let in_use = self.config.as_ref().and_then(|config| config.status.as_ref()).is_some_and(|status| status.in_use);
        if let Some(rec) = self.nodes.get_mut(name) {
            rec.mirrored = mirrored;
            // From here on it counts as served: a write under way must not lose its block to an older Node.
            let cidrs: Vec<_> = rec.mirrored.iter().map(|block| block.cidr).collect();
            self.index.set(name, rec.seen.created, true, &cidrs);
            self.config_due |= !in_use;
        }
    }

    /// Published blocks of a family that was disabled since: pods may be using them, so they stay, and nothing new is
    /// allocated in them.
    fn disabled(&self, name: &str) -> Vec<AllocatedBlock> {
        let enabled = self.planner.as_ref().map(|planner| planner.enabled().to_vec()).unwrap_or_default();
        let blocks = self.published_of(name).into_iter().flat_map(|node| &node.spec.ipam.allocated);
        let disabled = blocks.filter(|block| !enabled.contains(&block.family)).cloned();
        disabled.map(|block| AllocatedBlock { retiring: true, ..block }).collect()
    }

    pub(crate) fn see_services(&mut self, cidrs: Vec<Cidr>) {
        self.fence(cidrs.iter().copied());
        let change = self.mirror_fences.set_services(cidrs);
        self.refence(&change);
    }

    /// Looks again at the nodes that a fence concerns which rose or fell.
    pub(crate) fn refence(&mut self, change: &FenceChange) {
        for cidr in &change.rose {
            self.dirty.extend(self.index.holders(cidr));
        }
        if !change.fell.is_empty() {
            let fenced = |name: &&String| {
                self.nodes.get(*name).is_some_and(|rec| matches!(rec.shortage, Some(Shortage::Fenced { .. })))
            };
            let fenced: Vec<_> = self.stuck.iter().map(|(_, name)| name).filter(fenced).cloned().collect();
            self.dirty.extend(fenced);
        }
    }
}
