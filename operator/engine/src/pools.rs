//! What pools are made of: the CIDRs that the config admits, less what is fenced (services, nodes' addresses) and what
//! people reserved.

use std::collections::BTreeSet;

use cadastre_api::{AdmittedCidr, DEFAULT_POOL, IPPool, Mode};
use cadastre_core::{AddrRange, Cidr, Family};
use cadastre_modes::Occupancy;

use crate::config::Offers;
use crate::engine::{Engine, Stage};
use crate::ledger::Ledger;
use crate::settings::ConfiguredPool;

impl Engine {
    /// The pool and the CIDR that a block was cut from, with the block size.
    pub(crate) fn find_block(&self, block: &Cidr) -> Option<(String, Cidr, u8)> {
        let found = match &self.stage {
            Stage::Starting => None,
            Stage::Recovering { occupancy, .. } => occupancy.find(block),
            Stage::Live { occupancy } => occupancy.find(block),
        };
        found.map(|(pool, cidr, mask)| (pool.to_owned(), cidr, mask))
    }

    /// Whether a CIDR of any pool overlaps `cidr`.
    pub(crate) fn is_pooled(&self, cidr: &Cidr) -> bool {
        match &self.stage {
            Stage::Starting => false,
            Stage::Recovering { occupancy, .. } => occupancy.overlaps(cidr),
            Stage::Live { occupancy } => occupancy.overlaps(cidr),
        }
    }

    /// Makes the pools have exactly the admitted CIDRs.
    pub(crate) fn admit_cidrs(&mut self, admitted: &[AdmittedCidr]) {
        let withheld: Vec<_> =
            self.reserved.iter().copied().chain(self.fences.iter().map(|fence| (*fence).into())).collect();
        let grew = match &mut self.stage {
            Stage::Starting => false,
            Stage::Recovering { occupancy, .. } => admit_into(occupancy, &self.ledger, &withheld, admitted),
            Stage::Live { occupancy } => admit_into(occupancy, &self.ledger, &withheld, admitted),
        };
        self.fenced = None;
        if grew {
            self.space_grew = true;
            self.keep_claimed();
        }
    }

    /// Fences ranges: never assigned from now on.
    pub(crate) fn fence(&mut self, ranges: impl IntoIterator<Item = Cidr>) {
        for cidr in ranges {
            if self.fences.insert(cidr) {
                self.fenced = None;
                self.withhold(cidr.into());
            }
        }
    }

    /// Reserves ranges that a pool says nobody may have. What is taken off a pool's list counts after the next start.
    pub(crate) fn reserve(&mut self, ranges: &[AddrRange]) {
        for range in ranges {
            if self.reserved.insert(*range) {
                self.withhold(*range);
            }
        }
    }

    fn withhold(&mut self, range: AddrRange) {
        match &mut self.stage {
            Stage::Starting => {}
            Stage::Recovering { occupancy, .. } => occupancy.reserve(range),
            Stage::Live { occupancy } => occupancy.reserve(range),
        }
    }

    /// What people's pools offer, in the order in which they were made.
    pub(crate) fn offers(&self) -> Offers {
        if self.mode() == Some(Mode::Kubernetes) {
            return Offers::default();
        }
        let mut objects: Vec<_> =
            self.pools.iter().filter_map(|(name, rec)| Some((name, rec.object.as_ref()?))).collect();
        objects.retain(|(name, _)| *name != DEFAULT_POOL);
        objects.sort_by_key(|(name, pool)| (pool.metadata.creation_timestamp.as_ref().map(|time| time.0), *name));
        let pools = objects.into_iter().flat_map(|(name, pool)| families_of(name, pool)).collect();
        let recorded = self.config.iter().filter_map(|config| config.status.as_ref()).flat_map(|status| &status.cidrs);
        let unseen = recorded.map(|cidr| &cidr.pool).filter(|pool| !self.pools.contains_key(*pool));
        Offers { pools, unseen: unseen.filter(|pool| *pool != DEFAULT_POOL).cloned().collect::<BTreeSet<_>>() }
    }
}

fn families_of(name: &str, pool: &IPPool) -> impl Iterator<Item = ConfiguredPool> {
    let of = |family| match family {
        Family::V4 => pool.spec.ipv4.as_ref(),
        Family::V6 => pool.spec.ipv6.as_ref(),
    };
    let offered = move |family| {
        let spec = of(family)?;
        let (cidrs, mask_size) = (spec.cidrs.clone(), spec.mask_size);
        Some(ConfiguredPool { pool: name.to_owned(), family, cidrs, mask_size })
    };
    Family::ALL.into_iter().filter_map(offered)
}

/// Makes the pools have exactly the admitted CIDRs. Returns whether one was added.
fn admit_into<P>(
    occupancy: &mut Occupancy<P>,
    ledger: &Ledger,
    withheld: &[AddrRange],
    admitted: &[AdmittedCidr],
) -> bool {
    for (pool, cidr) in occupancy.cidrs() {
        if !admitted.iter().any(|new| new.pool == pool && new.cidr == cidr) {
            occupancy.expel(&pool, &cidr);
        }
    }
    let present = occupancy.cidrs();
    let mut grew = false;
    for new in admitted.iter().filter(|new| !present.iter().any(|(pool, cidr)| *pool == new.pool && *cidr == new.cidr))
    {
        grew |= occupancy.admit(&new.pool, new.cidr, new.mask_size);
    }
    if grew {
        ledger.claim_all(occupancy);
        for range in withheld {
            occupancy.reserve(*range);
        }
    }
    grew
}
