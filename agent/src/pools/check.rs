//! What must hold after every step, whatever happened. Tests call it each time; the agent, once, of what it restored.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use cadastre_core::Family;

use super::Pools;
use super::book::Book;
use super::local::{Network, Used, network_of};
use super::share::Share;
use crate::record::{BlockState, HeldAddress};

/// Who holds which address of one space of addresses.
type Holders<'a> = HashMap<IpAddr, &'a HeldAddress>;

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("{address} is held twice")]
    HeldTwice { address: IpAddr },
    #[error("{address} is held and cooling, or cooling twice")]
    HeldAndCooling { address: IpAddr },
    #[error("{address} is a router's and held or cooling")]
    RouterHeld { address: IpAddr },
    #[error("{address} is held in no block of this node")]
    OutsideBlocks { address: IpAddr },
    #[error("{attachment} holds two addresses of one family, or none, or IPv6 before IPv4")]
    Families { attachment: String },
    #[error("{pool} {family}: cooling addresses are not in order")]
    CoolingOrder { pool: String, family: Family },
    #[error("{pool} {family}: {counted} addresses are counted, {listed} are listed")]
    Counts { pool: String, family: Family, counted: u128, listed: u128 },
}

impl<Phase> Pools<Phase> {
    /// Compares everything with everything.
    pub fn check(&self) -> Result<(), Violation> {
        // Networks with ranges of their own are apart from each other, as in host-local.
        let mut holders: BTreeMap<Option<&str>, Holders<'_>> = BTreeMap::new();
        holders.insert(None, HashMap::with_capacity(self.book.held.len()));
        for (attachment, hold) in &self.book.held {
            let addresses = &hold.held.addresses;
            // A network with ranges gives one of each set, and sets may be of one family, as host-local's were.
            let of_ranges = addresses.iter().any(|held| network_of(&held.pool).is_some())
                || self.book.networks.contains_key(&attachment.network);
            let one_each =
                of_ranges || addresses.is_sorted_by(|one, next| Family::of(one.address) < Family::of(next.address));
            if addresses.is_empty() || !one_each {
                let attachment = format!("{attachment:?}");
                return Err(Violation::Families { attachment });
            }
            for held in &hold.held.addresses {
                let network = network_of(&held.pool);
                if holders.entry(network).or_default().insert(held.address, held).is_some() {
                    return Err(Violation::HeldTwice { address: held.address });
                }
                if network.is_none() {
                    self.book.find_block(held).ok_or(Violation::OutsideBlocks { address: held.address })?;
                }
            }
        }
        let nobody = Holders::new();
        let of_blocks = holders.get(&None).unwrap_or(&nobody);
        self.book.shares.iter().try_for_each(|share| share.check(of_blocks))?;
        self.book
            .networks
            .iter()
            .try_for_each(|(name, network)| network.check(holders.get(&Some(name.as_str())).unwrap_or(&nobody)))
    }
}

impl Book {
    fn find_block(&self, held: &HeldAddress) -> Option<()> {
        self.shares.iter().filter(|share| share.pool == held.pool).find_map(|share| share.block_of(held)).map(drop)
    }
}

impl Share {
    fn check(&self, holders: &Holders<'_>) -> Result<(), Violation> {
        let cooling: Vec<_> = self.cooling().collect();
        if !cooling.is_sorted_by_key(|cooling| cooling.since) {
            return Err(Violation::CoolingOrder { pool: self.pool.clone(), family: self.family });
        }
        let mut resting = HashSet::new();
        for cooling in &cooling {
            if holders.contains_key(&cooling.address) || !resting.insert(cooling.address) {
                return Err(Violation::HeldAndCooling { address: cooling.address });
            }
        }
        let busy = |router: &IpAddr| holders.contains_key(router) || resting.contains(router);
        if let Some(address) = self.routers().find(busy) {
            return Err(Violation::RouterHeld { address });
        }
        let of_share: Vec<&&HeldAddress> = holders.values().filter(|held| self.block_of(held).is_some()).collect();
        let used: u64 = self.blocks.iter().map(|block| block.used).sum();
        self.agree(used.into(), of_share.len() as u128)?;
        let gives = |address: IpAddr| {
            self.blocks.iter().any(|block| block.state == BlockState::Active && block.cidr.contains_addr(address))
        };
        let taken = of_share.iter().filter(|held| gives(held.address)).count()
            + resting.iter().filter(|address| gives(**address)).count()
            + self.routers().count();
        let counts = self.counts();
        self.agree(counts.capacity - counts.free, taken as u128)
    }

    fn agree(&self, counted: u128, listed: u128) -> Result<(), Violation> {
        let (pool, family) = (self.pool.clone(), self.family);
        if counted == listed { Ok(()) } else { Err(Violation::Counts { pool, family, counted, listed }) }
    }
}

impl Network {
    fn check(&self, holders: &Holders<'_>) -> Result<(), Violation> {
        let resting: Vec<IpAddr> = self.cooling().map(|cooling| cooling.address).collect();
        if let Some(address) = resting.iter().find(|address| holders.contains_key(address)) {
            return Err(Violation::HeldAndCooling { address: *address });
        }
        for family in Family::ALL {
            let of_family = |address: &&IpAddr| Family::of(**address) == family;
            let listed = (holders.keys().filter(of_family).count() + resting.iter().filter(of_family).count()) as u128;
            let Used { held, taken, yielded: _ } = self.used(family);
            let cooling = resting.iter().filter(of_family).count() as u128;
            for (counted, listed) in [(taken, listed), (u128::from(held) + cooling, listed)] {
                if counted != listed {
                    return Err(Violation::Counts { pool: self.pool.clone(), family, counted, listed });
                }
            }
        }
        Ok(())
    }
}
