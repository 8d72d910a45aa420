//! One page of the ledger, and the changes that wait to be written into it.
//!
//! ```text
//! queue ──(no write under way)──▶ flight ──Done──▶ entries
//!   ▲                               │
//!   └────── re-read and fold ◀──Conflict, lost reply
//! ```
//!
//! A change says what it expects of its block, so it can be planned while a write is under way and tried again after
//! somebody else wrote: whatever no longer fits is void and its node is planned anew. Batches form by themselves.

use std::collections::BTreeMap;

use cadastre_api::{BlockEntry, BlockState, IPAMLedger, IPAMLedgerSpec, PAGE_BLOCKS};
use cadastre_core::Cidr;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use uuid::Uuid;

use crate::nodes::version;

/// Which page a block belongs to: a pure function of the block and the CIDR it was cut from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageKey {
    pub pool: String,
    pub range: Cidr,
    pub mask: u8,
}

impl PageKey {
    /// `None` if `block` is not a block of `mask` bits inside `cidr`.
    pub fn of(pool: &str, cidr: &Cidr, mask: u8, block: &Cidr) -> Option<Self> {
        if block.prefix_len() != mask || !cidr.contains(block) {
            return None;
        }
        let page_bits = u8::try_from(PAGE_BLOCKS.ilog2()).unwrap_or_default();
        let range = block.supernet(cidr.prefix_len().max(mask.saturating_sub(page_bits)))?;
        Some(Self { pool: pool.to_owned(), range, mask })
    }

    /// Of an object; `None` if it is no page: another name than its range has, or a range that no page has.
    pub fn of_object(object: &IPAMLedger) -> Option<Self> {
        let spec = &object.spec;
        let blocks = spec.mask_size.checked_sub(spec.range.prefix_len())?;
        let key = Self { pool: spec.pool.clone(), range: spec.range, mask: spec.mask_size };
        let fits = spec.mask_size <= spec.range.family().bits() && u32::from(blocks) <= PAGE_BLOCKS.ilog2();
        (fits && object.metadata.name.as_ref() == Some(&key.name())).then_some(key)
    }

    /// Name of the object: `default-10.0.0.0-18-24`, with IPv6 addresses as 32 hex digits, since a name has no colons.
    pub fn name(&self) -> String {
        let address = match self.range.network() {
            std::net::IpAddr::V4(address) => address.to_string(),
            std::net::IpAddr::V6(address) => format!("{:032x}", u128::from(address)),
        };
        format!("{}-{address}-{}-{}", self.pool, self.range.prefix_len(), self.mask)
    }
}

/// One conditional change of one block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// free → pending or held.
    Take(BlockEntry),
    /// pending → held.
    Promote { node: String, block: Cidr, grant: Uuid, at: Timestamp },
    /// pending or held → cooling: its Node is gone, or it was one too many.
    Cool { block: Cidr, grant: Uuid, at: Timestamp },
    /// cooling → cooling, from `at` on: somebody else who used it went.
    Rest { block: Cidr, grant: Uuid, at: Timestamp },
    /// cooling → free, unless it was made to cool on after `since`.
    Free { block: Cidr, grant: Uuid, since: Timestamp },
    /// cooling → pending or held, for the same machine registered again.
    Regrant { old: Uuid, entry: BlockEntry },
    /// cooling → held: its Node turned out to be there.
    Revive { block: Cidr, grant: Uuid, at: Timestamp },
}

/// How a change stands to what the page says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It can be written.
    Applies,
    /// The page says so already: a reply was lost, or another operator did the same.
    Done,
    /// Somebody else wrote what it does not expect.
    Void,
}

impl Change {
    pub fn block(&self) -> Cidr {
        match self {
            Self::Take(entry) | Self::Regrant { entry, .. } => entry.block,
            Self::Promote { block, .. }
            | Self::Cool { block, .. }
            | Self::Rest { block, .. }
            | Self::Free { block, .. }
            | Self::Revive { block, .. } => *block,
        }
    }

    fn fit(&self, now: Option<&BlockEntry>) -> Fit {
        use BlockState::{Cooling, Held, Pending};
        let is =
            |grant: Uuid, states: &[BlockState]| now.is_some_and(|e| e.grant == grant && states.contains(&e.state));
        let verdict = |done: bool, applies: bool| match (done, applies) {
            (true, _) => Fit::Done,
            (false, true) => Fit::Applies,
            (false, false) => Fit::Void,
        };
        match self {
            Self::Take(entry) => verdict(is(entry.grant, &[Pending, Held]), now.is_none()),
            Self::Promote { grant, .. } => verdict(is(*grant, &[Held]), is(*grant, &[Pending])),
            Self::Cool { grant, .. } => verdict(is(*grant, &[Cooling]), is(*grant, &[Pending, Held])),
            Self::Rest { grant, at, .. } => verdict(now.is_some_and(|e| e.since.0 >= *at), is(*grant, &[Cooling])),
            Self::Free { grant, since, .. } => {
                verdict(now.is_none(), is(*grant, &[Cooling]) && now.is_some_and(|e| e.since.0 <= *since))
            }
            Self::Regrant { old, entry } => verdict(is(entry.grant, &[Pending, Held]), is(*old, &[Cooling])),
            Self::Revive { grant, .. } => verdict(is(*grant, &[Held]), is(*grant, &[Cooling])),
        }
    }

    fn apply(&self, entries: &mut BTreeMap<Cidr, BlockEntry>) {
        let mut set = |block: &Cidr, state, at: &Timestamp| {
            if let Some(entry) = entries.get_mut(block) {
                entry.state = state;
                entry.since = Time(*at);
            }
        };
        match self {
            Self::Take(entry) | Self::Regrant { entry, .. } => drop(entries.insert(entry.block, entry.clone())),
            Self::Promote { block, at, .. } | Self::Revive { block, at, .. } => set(block, BlockState::Held, at),
            Self::Cool { block, at, .. } | Self::Rest { block, at, .. } => set(block, BlockState::Cooling, at),
            Self::Free { block, .. } => drop(entries.remove(block)),
        }
    }
}

/// Changes that came to an end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settled {
    /// What the page says now.
    pub done: Vec<Change>,
    /// What will never be.
    pub void: Vec<Change>,
    /// Every block whose entry appeared, changed or vanished.
    pub touched: Vec<Cidr>,
}

/// One page as last read or written, with what waits.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub key: PageKey,
    /// `None`: no such object.
    pub resource_version: Option<String>,
    pub entries: BTreeMap<Cidr, BlockEntry>,
    pub queue: Vec<Change>,
    /// The changes of the write under way.
    pub flight: Option<Vec<Change>>,
    /// A GET is under way or, after one that failed, to come: nothing is written before it.
    pub reading: bool,
    /// It is there and cannot be understood: nothing new is taken in it.
    pub unreadable: bool,
    /// Writes or reads in a row that failed. A read that succeeds ends them only if nothing is to be written.
    pub failures: u32,
    /// What came of the last one.
    pub trouble: Option<String>,
    /// Nothing is tried before.
    pub not_before: Option<Timestamp>,
    /// When the API server was asked that last said what is in it.
    pub known_at: Timestamp,
    asking_since: Timestamp,
    /// The engine's turn at which the request was sent that is under way.
    asking_at: u64,
    /// The turn at which the request was sent whose answer is known.
    pub asked_at: u64,
}

impl Page {
    pub fn new(key: PageKey) -> Self {
        Self {
            key,
            resource_version: None,
            entries: BTreeMap::new(),
            queue: Vec::new(),
            flight: None,
            reading: false,
            unreadable: false,
            failures: 0,
            trouble: None,
            not_before: None,
            known_at: Timestamp::UNIX_EPOCH,
            asking_since: Timestamp::UNIX_EPOCH,
            asking_at: 0,
            asked_at: 0,
        }
    }

    /// Every block there is in it.
    pub fn blocks(&self) -> Vec<Cidr> {
        let PageKey { range, mask, .. } = &self.key;
        (0..range.blocks(*mask)).filter_map(|index| range.nth_block(*mask, index)).collect()
    }

    /// The entries of changes that take a free block and wait or are under way.
    pub fn takings(&self) -> impl Iterator<Item = &BlockEntry> {
        let flying = self.flight.iter().flatten();
        self.queue.iter().chain(flying).filter_map(|change| match change {
            Change::Take(entry) => Some(entry),
            _ => None,
        })
    }

    /// Whether a block that cools is about to be free.
    pub fn is_freeing(&self, block: &Cidr) -> bool {
        let changes = self.queue.iter().chain(self.flight.iter().flatten());
        changes.into_iter().any(|change| matches!(change, Change::Free { block: freed, .. } if freed == block))
    }

    /// The entry of a change that takes `block` and waits or is under way.
    pub fn taking(&self, block: &Cidr) -> Option<&BlockEntry> {
        self.takings().find(|entry| entry.block == *block)
    }

    /// A request for it is sent.
    pub fn asks(&mut self, turn: u64, now: Timestamp) {
        (self.asking_at, self.asking_since) = (turn, now);
    }

    /// It was answered with what the page says.
    pub fn answered(&mut self) {
        (self.asked_at, self.known_at) = (self.asking_at, self.asking_since);
    }

    /// What is known was written after `object`.
    pub fn is_newer_than(&self, object: &IPAMLedger) -> bool {
        let known = self.resource_version.as_deref().map(|known| version(Some(known)));
        known.is_some_and(|known| version(object.metadata.resource_version.as_deref()) < known)
    }

    pub fn is_busy(&self) -> bool {
        self.flight.is_some() || self.reading || !self.queue.is_empty()
    }

    /// What to write now: the queue's changes that fit, applied; the others settle. `None` if nothing is left to write.
    pub fn next_write(&mut self) -> (Settled, Option<IPAMLedger>) {
        let (mut settled, mut flying, mut next) = (Settled::default(), Vec::new(), self.entries.clone());
        for change in std::mem::take(&mut self.queue) {
            match change.fit(next.get(&change.block())) {
                Fit::Applies => {
                    change.apply(&mut next);
                    flying.push(change);
                }
                Fit::Done => settled.done.push(change),
                Fit::Void => settled.void.push(change),
            }
        }
        if flying.is_empty() {
            return (settled, None);
        }
        self.flight = Some(flying);
        (settled, Some(self.object(next)))
    }

    /// The write succeeded.
    pub fn written(&mut self, page: IPAMLedger) -> Settled {
        let done = self.flight.take().unwrap_or_default();
        let touched = self.replace(page);
        (self.failures, self.trouble) = (0, None);
        Settled { done, void: Vec::new(), touched }
    }

    /// Nobody knows what the page says: its changes wait for a read.
    pub fn lost(&mut self) {
        if let Some(changes) = self.flight.take() {
            self.queue.splice(0..0, changes);
        }
        self.reading = true;
    }

    /// What a read found. Entries that vanished with the whole object are queued to be recorded again.
    pub fn read(&mut self, page: Option<IPAMLedger>) -> Settled {
        self.reading = false;
        if self.queue.is_empty() {
            (self.failures, self.trouble) = (0, None);
        }
        let touched = if let Some(page) = page {
            self.replace(page)
        } else {
            self.resource_version = None;
            let lost = std::mem::take(&mut self.entries);
            let touched = lost.keys().copied().collect();
            self.queue.splice(0..0, lost.into_values().map(Change::Take));
            touched
        };
        Settled { touched, ..Settled::default() }
    }

    fn replace(&mut self, page: IPAMLedger) -> Vec<Cidr> {
        self.resource_version = page.metadata.resource_version;
        let new: BTreeMap<_, _> = page.spec.entries.into_iter().map(|entry| (entry.block, entry)).collect();
        let old = std::mem::replace(&mut self.entries, new);
        let gone = old.keys().filter(|block| !self.entries.contains_key(*block)).copied();
        let changed =
            self.entries.iter().filter(|(block, entry)| old.get(*block) != Some(entry)).map(|(block, _)| *block);
        gone.chain(changed).collect()
    }

    fn object(&self, entries: BTreeMap<Cidr, BlockEntry>) -> IPAMLedger {
        let cooling = entries.values().filter(|entry| entry.state == BlockState::Cooling).count();
        let blocks = 1_u32.checked_shl((self.key.mask - self.key.range.prefix_len()).into()).unwrap_or(u32::MAX);
        let count = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX);
        let spec = IPAMLedgerSpec {
            pool: self.key.pool.clone(),
            family: self.key.range.family(),
            range: self.key.range,
            mask_size: self.key.mask,
            held: count(entries.len() - cooling),
            cooling: count(cooling),
            free: blocks.saturating_sub(count(entries.len())),
            entries: entries.into_values().collect(),
        };
        let mut page = IPAMLedger::new(&self.key.name(), spec);
        page.metadata.resource_version.clone_from(&self.resource_version);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::SignedDuration;

    fn entry(block: &str, grant: u128, state: BlockState) -> BlockEntry {
        BlockEntry {
            block: block.parse().unwrap(),
            node: "n".into(),
            uid: "u".into(),
            machine: String::new(),
            grant: Uuid::from_u128(grant),
            state,
            since: Time(Timestamp::UNIX_EPOCH),
        }
    }

    fn page() -> Page {
        let key = PageKey::of("default", &"10.0.0.0/8".parse().unwrap(), 24, &"10.3.7.0/24".parse().unwrap());
        Page::new(key.unwrap())
    }

    #[test]
    fn a_page_is_an_aligned_range_of_64_blocks_or_the_whole_cidr() {
        let name = |cidr: &str, mask, block: &str| {
            PageKey::of("p", &cidr.parse().unwrap(), mask, &block.parse().unwrap()).map(|key| key.name())
        };
        assert_eq!(name("10.0.0.0/8", 24, "10.3.7.0/24").unwrap(), "p-10.3.0.0-18-24");
        assert_eq!(name("10.3.4.0/22", 24, "10.3.7.0/24").unwrap(), "p-10.3.4.0-22-24");
        assert_eq!(name("10.0.0.0/30", 32, "10.0.0.3/32").unwrap(), "p-10.0.0.0-30-32");
        assert_eq!(name("fd00::/104", 120, "fd00::1:200/120").unwrap(), "p-fd000000000000000000000000010000-114-120");
        assert_eq!(name("10.0.0.0/8", 24, "10.3.7.0/25"), None);
        assert_eq!(name("10.0.0.0/8", 24, "11.3.7.0/24"), None);
    }

    #[test]
    fn an_object_is_a_page_only_under_its_name_and_of_a_range_that_a_page_has() {
        let is_page = |range: &str, mask, name: &str| {
            let mut object = page().object(BTreeMap::new());
            (object.spec.range, object.spec.mask_size) = (range.parse().unwrap(), mask);
            object.metadata.name = Some(name.to_owned());
            PageKey::of_object(&object).is_some()
        };
        assert!(is_page("10.3.0.0/18", 24, "default-10.3.0.0-18-24"));
        assert!(is_page("10.0.0.0/30", 32, "default-10.0.0.0-30-32"));
        assert!(!is_page("10.3.0.0/18", 24, "copy"));
        assert!(!is_page("10.3.0.0/18", 25, "default-10.3.0.0-18-25"), "128 blocks");
        assert!(!is_page("10.3.0.0/18", 8, "default-10.3.0.0-18-8"), "blocks larger than the range");
        assert!(!is_page("10.0.0.0/30", 33, "default-10.0.0.0-30-33"), "longer than an address");
    }

    #[test]
    fn a_lost_reply_is_recognised_and_a_lost_race_is_void() {
        let mut page = page();
        let (mine, other) = (entry("10.3.7.0/24", 1, BlockState::Held), entry("10.3.8.0/24", 2, BlockState::Held));
        page.queue = vec![Change::Take(mine.clone()), Change::Take(other.clone())];
        let (_, written) = page.next_write();
        let mut written = written.unwrap();
        page.lost();
        assert!(page.reading && page.flight.is_none());
        // The write had happened, and somebody else then gave the second block to another.
        written.spec.entries[1].grant = Uuid::from_u128(3);
        let read = page.read(Some(written));
        assert_eq!(read.touched, [mine.block, other.block]);
        let (settled, write) = page.next_write();
        assert!(write.is_none());
        assert_eq!(settled.done, [Change::Take(mine)]);
        assert_eq!(settled.void, [Change::Take(other)]);
    }

    #[test]
    fn a_page_that_was_deleted_is_recorded_again() {
        let mut page = page();
        let held = entry("10.3.7.0/24", 1, BlockState::Held);
        page.queue = vec![Change::Take(held.clone())];
        let written = page.next_write().1.unwrap();
        page.written(written);
        page.lost();
        page.read(None);
        let rewritten = page.next_write().1.unwrap();
        assert_eq!(rewritten.metadata.resource_version, None);
        assert_eq!(rewritten.spec.entries, [held]);
    }

    #[test]
    fn every_change_fits_only_the_state_it_expects() {
        use BlockState::{Cooling, Held, Pending};
        use Fit::{Applies as A, Done as D, Void as V};
        let (block, grant, at) = ("10.3.7.0/24".parse().unwrap(), Uuid::from_u128(1), Timestamp::UNIX_EPOCH);
        let new = entry("10.3.7.0/24", 9, Held);
        let states = [None, Some((1, Pending)), Some((1, Held)), Some((1, Cooling)), Some((2, Held)), Some((9, Held))];
        let table = [
            (Change::Take(new.clone()), [A, V, V, V, V, D]),
            (Change::Promote { node: "n".into(), block, grant, at }, [V, A, D, V, V, V]),
            (Change::Cool { block, grant, at }, [V, A, A, D, V, V]),
            (Change::Rest { block, grant, at: at + SignedDuration::from_secs(1) }, [V, V, V, A, V, V]),
            (Change::Free { block, grant, since: at }, [D, V, V, A, V, V]),
            (Change::Free { block, grant, since: at - SignedDuration::from_secs(1) }, [D, V, V, V, V, V]),
            (Change::Regrant { old: grant, entry: new }, [V, V, V, A, V, D]),
            (Change::Revive { block, grant, at }, [V, V, D, A, V, V]),
        ];
        for (change, fits) in table {
            for (state, fit) in states.iter().zip(fits) {
                let now = state.map(|(grant, state)| entry("10.3.7.0/24", grant, state));
                assert_eq!(change.fit(now.as_ref()), fit, "{change:?} on {state:?}");
            }
        }
    }
}
