//! Which addresses an ADD gets: of the node's blocks, or of the ranges of its network; chosen, or asked for by name.
//!
//! ```text
//! network without ranges   one of each family that the operator assigns      blocks ──▶ Share
//! network with ranges      one of each set                                   ranges ──▶ Network
//! ```
//! All of them or none: what was taken before one could not be had is put back.

use std::net::IpAddr;

use cadastre_api::DEFAULT_POOL;
use cadastre_core::Family;
use cadastre_messages::{Add, Failure};

use super::Rules;
use super::book::Book;
use super::local::{Network, NotThis};
use super::ranges::Ranges;
use super::refusal;
use super::share::Taken;
use crate::boot_time::BootTime;

/// Why an ADD is not given addresses.
pub(super) enum NotGiven {
    /// Time may mend it.
    Yet(Failure),
    Ever(Failure),
    /// What host-local reserved in this network has to be known first.
    Unknown,
}

/// What an ADD wants, read once.
pub(super) struct Wanted {
    pub asked: Vec<IpAddr>,
    pub ranges: Option<Ranges>,
}

impl Wanted {
    pub fn of(add: &Add) -> Result<Self, Failure> {
        let mut asked: Vec<IpAddr> = Vec::with_capacity(add.asked.len());
        for text in &add.asked {
            let address = text.parse().map_err(|_| refusal::not_an_address(text))?;
            if !asked.contains(&address) {
                asked.push(address);
            }
        }
        let ranges = add.local.as_ref().map(Ranges::parse).transpose()?;
        Ok(Self { asked, ranges })
    }
}

impl Book {
    pub(super) fn choose(
        &mut self,
        rules: &Rules,
        network: &str,
        wanted: &Wanted,
        now: BootTime,
    ) -> Result<Vec<Taken>, NotGiven> {
        match &wanted.ranges {
            Some(ranges) => self.of_ranges(rules, network, ranges, &wanted.asked, now),
            None => self.of_blocks(rules, &wanted.asked, now),
        }
    }

    fn of_blocks(&mut self, rules: &Rules, asked: &[IpAddr], now: BootTime) -> Result<Vec<Taken>, NotGiven> {
        let places: Vec<usize> = self.assigned_shares(DEFAULT_POOL).collect();
        if places.is_empty() {
            return Err(NotGiven::Yet(refusal::no_assignment(&rules.node, self)));
        }
        let of_family = |family: Family| move |address: &&IpAddr| Family::of(**address) == family;
        for family in Family::ALL {
            let mut wanted = asked.iter().filter(of_family(family));
            if let (Some(one), Some(other)) = (wanted.next(), wanted.next()) {
                return Err(NotGiven::Ever(refusal::two_of_a_family(*one, *other)));
            }
        }
        let served = |address: &IpAddr| places.iter().any(|&place| self.shares[place].family == Family::of(*address));
        if let Some(address) = asked.iter().find(|address| !served(address)) {
            return Err(NotGiven::Ever(refusal::not_this(self, DEFAULT_POOL, *address, &NotThis::Outside)));
        }
        let mut all = Vec::with_capacity(places.len());
        for place in places {
            let share = &mut self.shares[place];
            let this = asked.iter().find(of_family(share.family)).copied();
            let taken = match this {
                Some(address) => share.take_this(address).map_err(|not| Refused::This(address, not)),
                None => share.take(now, rules.address_cooling).ok_or(Refused::Full(place)),
            };
            match taken {
                Ok(taken) => all.push(taken),
                Err(refused) => {
                    self.put_back(&all);
                    return Err(self.refuse_blocks(rules, refused));
                }
            }
        }
        Ok(all)
    }

    fn refuse_blocks(&self, rules: &Rules, refused: Refused) -> NotGiven {
        match refused {
            Refused::This(address, not) => NotGiven::Ever(refusal::not_this(self, DEFAULT_POOL, address, &not)),
            Refused::Full(place) => {
                let failure = refusal::exhausted(&rules.node, &self.shares[place]);
                if self.can_grow() { NotGiven::Yet(failure) } else { NotGiven::Ever(failure) }
            }
        }
    }

    fn of_ranges(
        &mut self,
        rules: &Rules,
        name: &str,
        ranges: &Ranges,
        asked: &[IpAddr],
        now: BootTime,
    ) -> Result<Vec<Taken>, NotGiven> {
        if let Some(failure) = self.overlap(name, ranges) {
            return Err(NotGiven::Ever(failure));
        }
        let network = self.network(name);
        if !network.taken_over {
            return Err(NotGiven::Unknown);
        }
        network.ranges = Some(ranges.clone());
        let taken = each_set(network, ranges, asked, now, rules);
        taken.map_err(|(all, refused)| {
            self.put_back(&all);
            let network = self.network(name);
            NotGiven::Ever(match refused {
                Refused::Full(place) => refusal::ranges_exhausted(name, network, &ranges.sets[place]),
                Refused::This(address, not) => {
                    let pool = network.pool.clone();
                    refusal::not_this(self, &pool, address, &not)
                }
            })
        })
    }

    /// Ranges may have nothing in common with the blocks that the operator assigned.
    pub(super) fn overlap(&self, network: &str, ranges: &Ranges) -> Option<Failure> {
        let blocks = || self.shares.iter().flat_map(|share| share.blocks.iter().map(move |block| (share, block)));
        ranges.all().find_map(|range| {
            let touches = |cidr: &cadastre_core::Cidr| range.overlaps(cidr.family(), cidr.first(), cidr.last());
            let (share, block) = blocks().find(|(_, block)| touches(&block.cidr))?;
            Some(refusal::overlaps(network, &range.text(), &share.pool, &block.cidr))
        })
    }

    pub(super) fn put_back(&mut self, all: &[Taken]) {
        for taken in all.iter().rev() {
            match self.network_of(&taken.held.pool) {
                Some(network) => network.put_back(taken),
                None => self.share_of(&taken.held.pool, taken.held.address).put_back(taken),
            }
        }
    }
}

/// Which choice could not be made.
enum Refused {
    /// The share or the set at this place has nothing.
    Full(usize),
    This(IpAddr, NotThis),
}

/// One address of each set, those that are asked for from the set that has them. With an error, what was taken before it.
fn each_set(
    network: &mut Network,
    ranges: &Ranges,
    asked: &[IpAddr],
    now: BootTime,
    rules: &Rules,
) -> Result<Vec<Taken>, (Vec<Taken>, Refused)> {
    let mut asked = asked.to_vec();
    let mut all = Vec::with_capacity(ranges.sets.len());
    for (place, set) in ranges.sets.iter().enumerate() {
        let wanted = asked.iter().position(|address| set.ranges.iter().any(|range| range.contains(*address)));
        let taken = match wanted.map(|at| asked.remove(at)) {
            Some(address) => network.take_this(place, set, address).map_err(|not| Refused::This(address, not)),
            None => network.take(place, set, now, rules.address_cooling).ok_or(Refused::Full(place)),
        };
        match taken {
            Ok(taken) => all.push(taken),
            Err(refused) => return Err((all, refused)),
        }
    }
    // Of no set, or a second one of a set that gives one.
    match asked.first() {
        None => Ok(all),
        Some(address) => Err((all, Refused::This(*address, NotThis::Outside))),
    }
}
