//! Who has what: attachments, the shares their addresses come from, and the assignment behind them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cadastre_api::Mode;
use cadastre_core::{Cidr, Family};
use cadastre_messages::{Attachment, Given, GivenAddress};
use uuid::Uuid;

use super::local::{self, Network};
use super::ranges::Ranges;
use super::share::{Block, Share, Taken};
use crate::boot_time::BootTime;
use crate::health;
use crate::record::{Assigned, BlockRecord, BlockState, Blocks, Gave, Held, HoldId, Record};

#[derive(Debug, Default)]
pub(super) struct Book {
    /// Ordered by pool, then family.
    pub shares: Vec<Share>,
    /// The networks that bring their own ranges, by name.
    pub networks: BTreeMap<String, Network>,
    /// Shared with whoever looks at all of them, so that looking copies nothing.
    pub held: HashMap<Arc<Attachment>, Arc<Hold>>,
    pub last_id: u64,
    pub assigned: Option<Assigned>,
    /// Why nothing is assigned.
    pub absence: String,
}

/// What one attachment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub id: HoldId,
    /// The attachment may have been told by more than one reply, so that a lost one undoes nothing.
    pub confirmed: bool,
    pub held: Held,
}

impl Hold {
    /// What it holds.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.held.addresses.iter().map(|held| held.address).collect()
    }

    /// What people call who holds it.
    pub fn owner(&self, attachment: &Attachment) -> String {
        match &self.held.pod {
            Some(pod) => pod.to_string(),
            None if attachment.container_id == health::CONTAINER_ID => health::OWNER.to_owned(),
            None => attachment.container_id.clone(),
        }
    }
}

impl Book {
    /// The share of a pool in the family of `address`, made if need be.
    pub fn share_of(&mut self, pool: &str, address: IpAddr) -> &mut Share {
        let family = Family::of(address);
        let place = self.shares.binary_search_by(|share| (share.pool.as_str(), share.family).cmp(&(pool, family)));
        let place = place.unwrap_or_else(|place| {
            self.shares.insert(place, Share::new(pool, family));
            place
        });
        &mut self.shares[place]
    }

    /// The shares of a pool that the operator assigns blocks of: the families that an ADD must be given.
    pub fn assigned_shares(&self, pool: &str) -> impl Iterator<Item = usize> + '_ {
        let wanted = |(_, share): &(usize, &Share)| share.is_assigned();
        let pool = pool.to_owned();
        let of_pool = move |(place, share): (usize, &Share)| (share.pool == pool).then_some(place);
        self.shares.iter().enumerate().filter(wanted).filter_map(of_pool)
    }

    /// The network of that name, made if need be.
    pub fn network(&mut self, name: &str) -> &mut Network {
        self.networks.entry(name.to_owned()).or_insert_with(|| Network::new(name))
    }

    /// The network whose pool this is, if it is one.
    pub fn network_of(&mut self, pool: &str) -> Option<&mut Network> {
        local::network_of(pool).map(|name| self.network(name))
    }

    /// A number for an allocation that no other has.
    pub fn next_id(&mut self) -> HoldId {
        self.last_id += 1;
        HoldId(self.last_id)
    }

    /// Frees what has rested long enough.
    pub fn end_cooling(&mut self, now: BootTime, rest: Duration) {
        self.shares.iter_mut().for_each(|share| share.end_cooling(now, rest));
        self.networks.values_mut().for_each(|network| network.end_cooling(now, rest));
    }

    /// Whether the mode answers demand with more addresses.
    pub fn can_grow(&self) -> bool {
        let grows = |mode| matches!(mode, Mode::MultiPool | Mode::Eni | Mode::Azure);
        self.assigned.as_ref().is_none_or(|assigned| grows(assigned.mode))
    }

    /// What people call the one that holds an address of a pool.
    pub fn owner_of(&self, pool: &str, address: IpAddr) -> Option<String> {
        let holds = |hold: &Hold| hold.held.addresses.iter().any(|held| held.pool == pool && held.address == address);
        self.held.iter().find(|(_, hold)| holds(hold)).map(|(attachment, hold)| hold.owner(attachment))
    }

    /// The attachment holds nothing any more; what it held rests.
    pub fn release(&mut self, attachment: &Attachment, now: BootTime) -> Option<Arc<Hold>> {
        let hold = self.held.remove(attachment)?;
        for held in &hold.held.addresses {
            match self.network_of(&held.pool) {
                Some(network) => network.release(held.address, now),
                None => self.share_of(&held.pool, held.address).release(held, now),
            }
        }
        Some(hold)
    }

    /// Undoes an allocation that nobody was told of.
    pub fn forget(&mut self, attachment: &Attachment, taken: &[Taken]) {
        let Some(hold) = self.held.remove(attachment) else { return };
        // Its blocks may have got other grants since.
        let as_held = taken.iter().zip(&hold.held.addresses);
        let taken = as_held.map(|(taken, held)| Taken { held: held.clone(), ..taken.clone() });
        self.put_back(&taken.collect::<Vec<_>>());
    }

    /// What the interface plugin needs to know of what is held. `ranges` are those of the call, if it has any.
    pub fn given(&self, held: &Held, ranges: Option<&Ranges>, again: bool) -> Given {
        let address = |held: &crate::record::HeldAddress| {
            if local::network_of(&held.pool).is_some() {
                let range = ranges.and_then(|ranges| ranges.of(held.address));
                let prefix = range.map_or(Family::of(held.address).bits(), |range| range.subnet.prefix_len());
                let gateway = range.and_then(|range| range.gateway).map(|gateway| gateway.to_string());
                return GivenAddress { address: format!("{}/{prefix}", held.address), gateway };
            }
            let mut shares = self.shares.iter().filter(|share| share.pool == held.pool);
            let block = shares.find_map(|share| share.block_of(held));
            let prefix = block.map_or(Family::of(held.address).bits(), |block| block.cidr.prefix_len());
            let gateway = block.and_then(|block| block.router).map(|router| router.to_string());
            GivenAddress { address: format!("{}/{prefix}", held.address), gateway }
        };
        Given { addresses: held.addresses.iter().map(address).collect(), again }
    }

    /// Makes `blocks` what the node may allocate from. Returns what cannot be used, and why.
    pub fn set_blocks(&mut self, blocks: &Blocks) -> Vec<String> {
        let Blocks { assigned, blocks } = blocks;
        let mut problems = Vec::new();
        let fits = |block: &&BlockRecord| self.fits(block).map_err(|why| problems.push(why)).is_ok();
        let blocks: Vec<BlockRecord> = blocks.iter().filter(fits).cloned().collect();
        problems.extend(self.replay_blocks(&Blocks { assigned: assigned.clone(), blocks }));
        problems
    }

    /// The same without a look at what they have in common with others.
    pub fn replay_blocks(&mut self, blocks: &Blocks) -> Vec<String> {
        let Blocks { assigned, blocks } = blocks;
        self.assigned.clone_from(assigned);
        self.follow_grants(blocks);
        self.follow_found(blocks);
        let mut problems = Vec::new();
        for block in blocks {
            self.share_of(&block.pool, block.cidr.network());
        }
        let held = &self.held;
        for share in &mut self.shares {
            let (pool, family) = (share.pool.clone(), share.family);
            let wanted: Vec<_> =
                blocks.iter().filter(|block| block.pool == pool && block.cidr.family() == family).collect();
            let held = held.values().flat_map(|hold| &hold.held.addresses);
            let held = held.filter(|held| held.pool == pool && Family::of(held.address) == family);
            problems.extend(share.set_blocks(&wanted, &held));
        }
        self.shares.retain(|share| !share.is_empty());
        problems
    }

    /// Addresses of one pool must not be given under the name of another while they are held.
    pub fn fits(&self, new: &BlockRecord) -> Result<(), String> {
        let known = |share: &Share| share.pool == new.pool && share.blocks.iter().any(|block| block.cidr == new.cidr);
        if self.shares.iter().any(known) {
            return Ok(());
        }
        if let Some((name, _)) = self.networks.iter().find(|(_, network)| network.uses(&new.cidr)) {
            let BlockRecord { pool, cidr, .. } = new;
            return Err(format!(
                "block {cidr} of pool {pool} is not used: network {name}, which has ranges of its own, uses addresses of it"
            ));
        }
        let others = self.shares.iter().filter(|share| share.pool != new.pool);
        let mut blocks = others.flat_map(|share| &share.blocks);
        // What was found before its block was known is of no pool yet.
        match blocks.find(|old| old.used > 0 && !old.grant.is_nil() && old.cidr.overlaps(&new.cidr)) {
            None => Ok(()),
            Some(old) => {
                let Block { cidr, used, .. } = old;
                Err(format!(
                    "block {} of pool {} is not used: {cidr} of another pool has {used} addresses in use",
                    new.cidr, new.pool
                ))
            }
        }
    }

    /// A block that came back under another grant takes its addresses along.
    fn follow_grants(&mut self, blocks: &[BlockRecord]) {
        let mut moved: Vec<(Cidr, Uuid, Uuid)> = Vec::new();
        for share in &self.shares {
            for old in &share.blocks {
                let new = blocks.iter().find(|new| new.pool == share.pool && new.cidr == old.cidr);
                moved.extend(new.filter(|new| new.grant != old.grant).map(|new| (old.cidr, old.grant, new.grant)));
            }
        }
        if moved.is_empty() {
            return;
        }
        for held in self.held.values_mut().flat_map(|hold| &mut Arc::make_mut(hold).held.addresses) {
            let follows = |(cidr, old, _): &&(Cidr, Uuid, Uuid)| *old == held.grant && cidr.contains_addr(held.address);
            if let Some((_, _, new)) = moved.iter().find(follows) {
                held.grant = *new;
            }
        }
    }

    /// The blocks after the operator said `wanted`: what it promised away stays promised, and what it does not speak of
    /// stays while something is in it.
    pub fn merged(&self, wanted: &[BlockRecord]) -> Vec<BlockRecord> {
        let mut merged = wanted.to_vec();
        for share in &self.shares {
            for old in &share.blocks {
                let new = merged.iter_mut().find(|new| new.pool == share.pool && new.cidr == old.cidr);
                match new {
                    Some(new) if old.state == BlockState::Promised && new.grant == old.grant => new.state = old.state,
                    Some(_) => {}
                    // It stood for that block, which was not known when an address of it was restored.
                    None if wanted.iter().any(|new| new.grant == old.grant && new.cidr.contains(&old.cidr)) => {}
                    None => merged.push(BlockRecord { state: BlockState::Gone, ..old.record(&share.pool) }),
                }
            }
        }
        merged
    }

    /// Promises and forgets blocks that are empty. Returns whether that changed any.
    pub fn settle(&mut self) -> bool {
        // All of them, not only up to the first that changes.
        let changed = self.shares.iter_mut().filter_map(|share| share.settle().then_some(())).count() > 0;
        self.shares.retain(|share| !share.is_empty());
        changed
    }

    /// The blocks as they are.
    pub fn blocks(&self) -> Blocks {
        let of_share = |share: &Share| share.blocks.iter().map(|block| block.record(&share.pool)).collect::<Vec<_>>();
        Blocks { assigned: self.assigned.clone(), blocks: self.shares.iter().flat_map(of_share).collect() }
    }

    /// All of it as records: what a journal that begins with them leads back to.
    pub fn snapshot(&self) -> impl Iterator<Item = Record> + '_ {
        let gave = self.held.iter().map(|(attachment, hold)| {
            let Hold { id, confirmed: _, held } = &**hold;
            Record::Gave(Box::new(Gave { id: *id, attachment: (**attachment).clone(), held: held.clone() }))
        });
        let cooling = self.shares.iter().flat_map(|share| {
            let record = |cooling: &super::share::Cooling| Record::Cooling {
                pool: share.pool.clone(),
                address: cooling.address,
                since: cooling.since,
            };
            share.cooling().map(record)
        });
        let cursor = |share: &Share| Some(Record::Cursor { pool: share.pool.clone(), cursor: share.cursor()? });
        std::iter::once(Record::Blocks(self.blocks()))
            .chain(gave)
            .chain(cooling)
            .chain(self.shares.iter().filter_map(cursor))
            .chain(self.networks.iter().flat_map(|(name, network)| of_network(name, network)))
    }
}

/// A network's part of a snapshot, without what attachments hold of it.
fn of_network<'a>(name: &'a str, network: &'a Network) -> impl Iterator<Item = Record> + 'a {
    let cooling = |cooling: &super::share::Cooling| Record::Cooling {
        pool: network.pool.clone(),
        address: cooling.address,
        since: cooling.since,
    };
    let last = |(set, address)| Record::LastOfSet { network: name.to_owned(), set: set as u64, address };
    let known = network.taken_over.then(|| Record::TookOver { network: name.to_owned() });
    network.cooling().map(cooling).chain(network.last().map(last)).chain(known)
}
