//! What others may see of the pools: counts for demand and metrics, addresses for people, holders for reconciliation.

use std::net::IpAddr;
use std::sync::Arc;

use cadastre_core::{Cidr, Family, addr_to_bits};
use cadastre_messages::{Attachment, Netns, report};
use uuid::Uuid;

use super::book::Hold;
use super::input::Holder;
use super::local::{Network, Used};
use super::ranges::Range;
use super::share::ShareCounts;
use super::{Live, Pools};
use crate::record::{Assigned, BlockState, NetnsRecord, PodName};

/// The pools at one moment, without the addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub assigned: Option<Assigned>,
    pub absence: String,
    /// Ordered by pool, then family.
    pub shares: Vec<ShareView>,
    /// Networks with ranges of their own, by name, then family. They are no business of the operator.
    pub networks: Vec<NetworkView>,
    pub waiting: usize,
}

/// One share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareView {
    pub pool: String,
    pub family: Family,
    pub counts: ShareCounts,
    pub blocks: Vec<BlockView>,
    /// Whether an ADD would find an address.
    pub has_any: bool,
    /// How often a cooling address was given early.
    pub yielded: u64,
}

/// One network with ranges of its own, in one family. Counts are addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkView {
    /// `local/` and the network's name.
    pub pool: String,
    pub family: Family,
    /// As the last call had them; none since the start of the agent if there was no call.
    pub ranges: Vec<String>,
    pub counts: ShareCounts,
    pub yielded: u64,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockView {
    pub cidr: Cidr,
    pub grant: Uuid,
    pub state: BlockState,
    /// Addresses that attachments hold.
    pub used: u64,
}

/// One attachment, as reconciliation sees it.
#[derive(Clone, Debug)]
pub struct HolderView {
    pub holder: Holder,
    hold: Arc<Hold>,
}

impl HolderView {
    #[must_use]
    pub fn netns(&self) -> &NetnsRecord {
        &self.hold.held.netns
    }

    #[must_use]
    pub fn pod(&self) -> Option<&PodName> {
        self.hold.held.pod.as_ref()
    }

    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.hold.held.addresses.iter().map(|held| held.address)
    }
}

impl View {
    /// Whether nothing but counts differs, which change with every pod.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.assigned, &self.absence, self.waiting) == (&other.assigned, &other.absence, other.waiting)
            && alike(&self.shares, &other.shares, ShareView::is_like)
            && alike(&self.networks, &other.networks, NetworkView::is_like)
    }
}

fn alike<T>(these: &[T], others: &[T], are_alike: fn(&T, &T) -> bool) -> bool {
    these.len() == others.len() && these.iter().zip(others).all(|(this, other)| are_alike(this, other))
}

impl ShareView {
    fn is_like(&self, other: &Self) -> bool {
        (&self.pool, self.family, self.has_any) == (&other.pool, other.family, other.has_any)
            && alike(&self.blocks, &other.blocks, BlockView::is_like)
    }
}

impl NetworkView {
    fn is_like(&self, other: &Self) -> bool {
        (&self.pool, self.family, &self.ranges) == (&other.pool, other.family, &other.ranges)
    }
}

impl BlockView {
    fn is_like(&self, other: &Self) -> bool {
        (self.cidr, self.grant, self.state) == (other.cidr, other.grant, other.state)
    }
}

impl Pools<Live> {
    #[must_use]
    pub fn view(&self) -> View {
        let share = |share: &super::share::Share| ShareView {
            pool: share.pool.clone(),
            family: share.family,
            counts: share.counts(),
            blocks: share
                .blocks
                .iter()
                .filter(|block| !block.grant.is_nil()) // Where an address was found, and no block is known yet.
                .map(|block| BlockView { cidr: block.cidr, grant: block.grant, state: block.state, used: block.used })
                .collect(),
            has_any: share.has_any(),
            yielded: share.yielded,
        };
        View {
            assigned: self.book.assigned.clone(),
            absence: self.book.absence.clone(),
            shares: self.book.shares.iter().map(share).collect(),
            networks: self.book.networks.values().flat_map(Network::view).collect(),
            waiting: self.phase.parked().len(),
        }
    }

    /// Every attachment of the network, or of all networks.
    pub fn holders<'a>(&'a self, network: Option<&'a str>) -> impl Iterator<Item = HolderView> + 'a {
        let of_network = move |attachment: &cadastre_messages::Attachment| {
            network.is_none_or(|network| attachment.network == network)
        };
        self.book.held.iter().filter(move |(attachment, _)| of_network(attachment)).map(|(attachment, hold)| {
            HolderView { holder: Holder { attachment: Arc::clone(attachment), id: hold.id }, hold: Arc::clone(hold) }
        })
    }

    /// Every address that is not free, by family, then by number.
    #[must_use]
    pub fn addresses(&self) -> Vec<report::Address> {
        let mut rows: Vec<(IpAddr, report::Address)> = Vec::new();
        let mut push =
            |address: IpAddr, pool: &str, owner: String, state: &str, hold: Option<(&Attachment, &Netns)>| {
                let family = Family::of(address).to_string();
                let (pool, state) = (pool.to_owned(), state.to_owned());
                let (attachment, netns) = hold.map(|(attachment, netns)| (attachment.clone(), netns.clone())).unzip();
                let netns = netns.filter(|netns: &Netns| netns.inode != 0);
                rows.push((
                    address,
                    report::Address { address: address.to_string(), family, pool, owner, state, attachment, netns },
                ));
            };
        for (attachment, hold) in &self.book.held {
            let owner = hold.owner(attachment);
            let netns = seen(&hold.held.netns);
            for held in &hold.held.addresses {
                push(held.address, &held.pool, owner.clone(), "held", Some((attachment, &netns)));
            }
        }
        for share in &self.book.shares {
            share.routers().for_each(|router| push(router, &share.pool, "router".to_owned(), "held", None));
            share.cooling().for_each(|rest| push(rest.address, &share.pool, String::new(), "cooling", None));
        }
        for network in self.book.networks.values() {
            network.cooling().for_each(|rest| push(rest.address, &network.pool, String::new(), "cooling", None));
        }
        rows.sort_unstable_by_key(|(address, _)| (Family::of(*address), addr_to_bits(*address)));
        rows.into_iter().map(|(_, row)| row).collect()
    }
}

/// As others are told of it: a path that the agent never saw means nothing here.
fn seen(netns: &NetnsRecord) -> Netns {
    let NetnsRecord { path, device, inode, seen } = netns.clone();
    Netns { path, device, inode: if seen { inode } else { 0 } }
}

impl Network {
    /// Each family in which it has, or had, something.
    fn view(&self) -> impl Iterator<Item = NetworkView> + '_ {
        Family::ALL.into_iter().filter_map(|family| {
            let of_family = |range: &&Range| range.family() == family;
            let ranges: Vec<&Range> =
                self.ranges.iter().flat_map(super::ranges::Ranges::all).filter(of_family).collect();
            let Used { held: allocated, taken, yielded } = self.used(family);
            let capacity = ranges.iter().fold(0_u128, |sum, range| sum.saturating_add(range.capacity()));
            let free = if ranges.is_empty() { 0 } else { capacity.saturating_sub(taken) };
            let cooling = u64::try_from(taken.saturating_sub(allocated.into())).unwrap_or(u64::MAX);
            let counts = ShareCounts { capacity, allocated, cooling, reserved: 0, free };
            let ranges: Vec<String> = ranges.into_iter().map(Range::text).collect();
            let pool = self.pool.clone();
            (taken > 0 || !ranges.is_empty()).then_some(NetworkView { pool, family, ranges, counts, yielded })
        })
    }
}
