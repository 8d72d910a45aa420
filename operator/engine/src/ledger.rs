//! Every page, found by node name, with what cools; and the occupancy kept equal to it.
//!
//! A block is taken in the occupancy exactly while a page has an entry for it or a change that takes it, a node claims it,
//! or nobody can read its page.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cadastre_api::{BlockEntry, BlockState, IPAMLedger};
use cadastre_core::{Cidr, Family};
use cadastre_modes::Occupancy;
use k8s_openapi::jiff::Timestamp;

use crate::claims::Claims;
use crate::page::{Change, Page, PageKey, Settled};

/// Index of a page. Pages are never removed.
pub(crate) type PageId = usize;

/// Where a block's entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub page: PageId,
    pub block: Cidr,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pages: Vec<Page>,
    by_key: BTreeMap<PageKey, PageId>,
    by_node: HashMap<String, BTreeSet<Place>>,
    /// Since when, where: the oldest first.
    cooling: BTreeSet<(Timestamp, Place)>,
    /// What the two indexes above say of each block.
    indexed: HashMap<Cidr, (String, Option<Timestamp>)>,
    /// Pages to look at.
    pub dirty: BTreeSet<PageId>,
}

impl Ledger {
    /// Records a page that was read at the start or found in a live list. `None`: the object is no page.
    pub fn load<P>(
        &mut self,
        object: IPAMLedger,
        occupancy: &mut Occupancy<P>,
        claims: &Claims,
    ) -> Option<(Settled, PageId)> {
        let id = self.page_id(PageKey::of_object(&object)?);
        let page = &self.pages[id];
        if page.flight.is_some() || page.reading || page.is_newer_than(&object) {
            // Its own outcome brings what this read would, or did.
            return Some((Settled::default(), id));
        }
        let settled = self.pages[id].read(Some(object));
        self.sync(id, &settled.touched, occupancy, claims);
        self.dirty.insert(id);
        Some((settled, id))
    }

    pub fn page_id(&mut self, key: PageKey) -> PageId {
        if let Some(&id) = self.by_key.get(&key) {
            return id;
        }
        self.pages.push(Page::new(key.clone()));
        self.by_key.insert(key, self.pages.len() - 1);
        self.pages.len() - 1
    }

    pub fn page(&self, id: PageId) -> &Page {
        &self.pages[id]
    }

    pub fn page_mut(&mut self, id: PageId) -> &mut Page {
        &mut self.pages[id]
    }

    pub fn ids(&self) -> std::ops::Range<PageId> {
        0..self.pages.len()
    }

    pub fn queue(&mut self, id: PageId, change: Change) {
        let page = &mut self.pages[id];
        if !page.queue.contains(&change) {
            page.queue.push(change);
        }
        self.dirty.insert(id);
    }

    pub fn entry(&self, place: &Place) -> Option<&BlockEntry> {
        self.pages[place.page].entries.get(&place.block)
    }

    /// Entries that name this node, of whatever UID.
    pub fn of_name(&self, node: &str) -> impl Iterator<Item = (Place, &BlockEntry)> {
        let places = self.by_node.get(node).into_iter().flatten();
        places.filter_map(|place| Some((*place, self.entry(place)?)))
    }

    /// Entries of this very node.
    pub fn of(&self, node: &str, uid: &str) -> impl Iterator<Item = (Place, &BlockEntry)> {
        self.of_name(node).filter(move |(_, entry)| entry.uid == uid)
    }

    pub fn node_names(&self) -> impl Iterator<Item = &String> {
        self.by_node.keys()
    }

    /// Blocks that cool, the oldest first.
    pub fn cooling(&self) -> impl Iterator<Item = (Timestamp, Place)> {
        self.cooling.iter().copied()
    }

    pub fn pool_of(&self, place: &Place) -> &str {
        &self.pages[place.page].key.pool
    }

    /// Blocks by state in one pool and family: held (or about to be), cooling.
    pub fn counts(&self, pool: &str, family: Family) -> (u128, u128) {
        let pages = self.pages.iter().filter(|page| page.key.pool == pool && page.key.range.family() == family);
        pages.flat_map(|page| page.entries.values()).fold((0, 0), |(held, cooling), entry| match entry.state {
            BlockState::Pending | BlockState::Held => (held + 1, cooling),
            BlockState::Cooling => (held, cooling + 1),
        })
    }

    /// Whether anything in `cidr` is taken or about to be.
    pub fn is_used(&self, cidr: &Cidr) -> bool {
        let mut pages = self.pages.iter().filter(|page| page.key.range.overlaps(cidr));
        pages.any(|page| page.is_busy() || !page.entries.is_empty())
    }

    /// Names of nodes that hold blocks in `cidr`, in order.
    pub fn holders(&self, cidr: &Cidr) -> BTreeSet<&str> {
        let pages = self.pages.iter().filter(|page| page.key.range.overlaps(cidr));
        pages.flat_map(|page| page.entries.values()).map(|entry| entry.node.as_str()).collect()
    }

    /// Entries of blocks that overlap `cidr`, there or about to be.
    pub fn overlapping<'a>(&'a self, cidr: &Cidr) -> impl Iterator<Item = &'a BlockEntry> + use<'a> {
        let cidr = *cidr;
        let pages = self.pages.iter().filter(move |page| page.key.range.overlaps(&cidr));
        let entries = pages.flat_map(|page| page.entries.values().chain(page.takings()));
        entries.filter(move |entry| entry.block.overlaps(&cidr))
    }

    /// Claims in the occupancy everything that pages say of a CIDR that was just admitted.
    pub fn claim_all<P>(&self, occupancy: &mut Occupancy<P>) {
        for page in &self.pages {
            for block in page.entries.keys() {
                occupancy.claim(&page.key.pool, block);
            }
        }
    }

    /// Makes index and occupancy say of these blocks what the page says, and `claims`. Returns the nodes that they name or
    /// named.
    pub fn sync<P>(
        &mut self,
        id: PageId,
        blocks: &[Cidr],
        occupancy: &mut Occupancy<P>,
        claims: &Claims,
    ) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for block in blocks {
            let place = Place { page: id, block: *block };
            self.index(place, &mut names);
            let page = &self.pages[id];
            let taken = page.entries.contains_key(block) || page.taking(block).is_some();
            if taken || page.unreadable || claims.any(block) {
                occupancy.claim(&page.key.pool, block);
            } else {
                occupancy.give_back(&page.key.pool, block);
            }
        }
        names
    }

    fn index(&mut self, place: Place, names: &mut BTreeSet<String>) {
        if let Some((node, since)) = self.indexed.remove(&place.block) {
            if let Some(places) = self.by_node.get_mut(&node) {
                places.remove(&place);
                if places.is_empty() {
                    self.by_node.remove(&node);
                }
            }
            if let Some(since) = since {
                self.cooling.remove(&(since, place));
            }
            names.insert(node);
        }
        let Some(entry) = self.pages[place.page].entries.get(&place.block) else { return };
        let since = (entry.state == BlockState::Cooling).then_some(entry.since.0);
        if let Some(since) = since {
            self.cooling.insert((since, place));
        }
        names.insert(entry.node.clone());
        self.by_node.entry(entry.node.clone()).or_default().insert(place);
        self.indexed.insert(place.block, (entry.node.clone(), since));
    }
}
