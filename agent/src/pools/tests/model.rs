//! Anything in any order, with failing writes and restarts in between, against a model that knows what callers were told
//! and nothing of how the pools work.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use cadastre_core::{Cidr, Family};
use proptest::prelude::*;

use super::fixtures::*;
use crate::boot_time::BootTime;
use crate::pools::{Answer, Holder, Input, Live, Pools};
use crate::record::Record;

/// What the operator may say.
const ASSIGNMENTS: [&[&str]; 8] = [
    &["10.0.2.0/29", "fd00::/125"],
    &["10.0.2.0/29"],
    &["10.0.2.0/29 retiring", "10.0.3.0/30", "fd00::/125"],
    &["10.0.3.0/30", "10.0.2.0/29", "fd00::8/126"],
    &["10.0.3.0/30", "fd00::/125 retiring", "fd00::8/126"],
    &["fd00::8/126"],
    &["10.0.9.0/31", "10.0.2.0/29"],
    &[],
];

/// What the configuration of a network with ranges may say, from one call to the next.
const RANGES: [&[&[&str]]; 3] = [
    &[&["10.1.2.0/29"], &["fd01::/126"]],
    &[&["10.1.2.0/29 10.1.2.3-10.1.2.5", "10.1.3.0/30"], &["fd01::/125"]],
    &[&["10.1.3.0/30", "10.1.2.0/29"]],
];

#[derive(Clone, Debug)]
enum Op {
    Add(usize),
    /// In a network with ranges.
    AddLocal(usize, usize),
    /// Of a particular address, by its number in the block.
    AddAsking(usize, u8),
    Del(usize),
    Check(usize),
    Assign(usize),
    Gone,
    Later(u64),
    Lost(usize),
    Tombstone(usize, bool),
    Reclaim(usize),
    /// The next batch cannot be written.
    DiskFull,
    Restart {
        from_snapshot: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..12_usize;
    prop_oneof![
        10 => who.clone().prop_map(Op::Add),
        4 => (who.clone(), 0..RANGES.len()).prop_map(|(who, ranges)| Op::AddLocal(who, ranges)),
        2 => (who.clone(), 0..9_u8).prop_map(|(who, number)| Op::AddAsking(who, number)),
        8 => who.clone().prop_map(Op::Del),
        2 => who.clone().prop_map(Op::Check),
        3 => (0..ASSIGNMENTS.len()).prop_map(Op::Assign),
        1 => Just(Op::Gone),
        4 => (0..20_000_u64).prop_map(Op::Later),
        1 => who.clone().prop_map(Op::Lost),
        1 => (who.clone(), any::<bool>()).prop_map(|(who, before)| Op::Tombstone(who, before)),
        1 => who.prop_map(Op::Reclaim),
        1 => Just(Op::DiskFull),
        1 => any::<bool>().prop_map(|from_snapshot| Op::Restart { from_snapshot }),
    ]
}

/// The pools, the journal they wrote, and what callers believe.
struct World {
    pools: Pools<Live>,
    journal: Vec<Record>,
    now: BootTime,
    disk_full: bool,
    unwritten: Vec<Record>,
    assignment: Option<&'static [&'static str]>,
    generation: i64,
    told: BTreeMap<usize, (Vec<IpAddr>, Holder, BootTime)>,
    /// Told more than once, or before a restart.
    confirmed: BTreeSet<usize>,
    waiting: BTreeSet<usize>,
    /// Of those, the ones that asked for an address by name.
    asking: BTreeSet<usize>,
    released: HashMap<IpAddr, BootTime>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            pools: restored([], BootTime::default()),
            journal: vec![],
            now: at(100),
            disk_full: false,
            unwritten: vec![],
            assignment: None,
            generation: 0,
            told: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            waiting: BTreeSet::new(),
            asking: BTreeSet::new(),
            released: HashMap::new(),
        };
        world.run(&Op::Assign(0));
        let known = world.pools.apply(world.now, [nothing_before()]);
        world.journal.extend(known.records);
        world
    }

    fn run(&mut self, op: &Op) {
        let name = |who: usize| who.to_string();
        let holder = |who: &usize| self.told.get(who).map(|(_, holder, _)| holder.clone());
        let input = match op {
            // One caller asks once.
            Op::Add(who) | Op::AddLocal(who, _) | Op::AddAsking(who, _) if self.waiting.contains(who) => return,
            Op::AddLocal(who, ranges) => local_add(&name(*who), RANGES[*ranges]),
            Op::AddAsking(who, number) => asking(&name(*who), &[&format!("10.0.2.{number}")]),
            Op::Add(who) => add(&name(*who)),
            Op::Del(who) => del(&name(*who)),
            Op::Check(who) => return self.check(*who),
            Op::Assign(which) => {
                self.generation += 1;
                self.assignment = Some(ASSIGNMENTS[*which]);
                assignment(ASSIGNMENTS[*which], self.generation)
            }
            Op::Gone => {
                self.assignment = None;
                gone()
            }
            Op::Later(millis) => {
                self.now = BootTime::from_millis(self.now.millis() + millis);
                Input::Pass
            }
            Op::Lost(who) => match holder(who) {
                Some(holder) => Input::Undelivered(holder),
                None => return,
            },
            Op::Tombstone(who, before) => {
                let acked = self.told.get(who).map_or(self.now, |(_, _, acked)| *acked);
                let at = if *before { acked.hundredths() - 1 } else { self.now.hundredths() };
                Input::Tombstone { attachment: attachment(&name(*who)), at }
            }
            Op::Reclaim(who) => match holder(who) {
                Some(holder) => Input::Reclaim(holder, netns(&name(*who))),
                None => return,
            },
            Op::DiskFull => return self.disk_full = true,
            Op::Restart { from_snapshot } => return self.restart(*from_snapshot),
        };
        self.apply(op, input);
    }

    fn apply(&mut self, op: &Op, input: Input) {
        let full = self.full_families();
        let mut step = step(&mut self.pools, self.now, [input]);
        if std::mem::take(&mut self.disk_full) && !step.records.is_empty() {
            self.unwritten.extend(self.pools.undo(&mut step, "disk full"));
            self.pools.check().unwrap();
        } else {
            self.journal.append(&mut self.unwritten);
            self.journal.append(&mut step.records);
        }
        self.released_by(op);
        if let Op::Add(who) | Op::AddLocal(who, _) | Op::AddAsking(who, _) = op {
            self.waiting.insert(*who);
            self.asking.remove(who);
            if matches!(op, Op::AddAsking(..)) {
                self.asking.insert(*who);
            }
        }
        for (to, answer) in &step.replies {
            let who = (0..12).find(|who| *to == token(&who.to_string())).unwrap();
            self.learn(who, op, answer, &full);
        }
        let held: BTreeSet<_> = self.told.values().flat_map(|(held, _, _)| held.clone()).collect();
        let count = self.told.values().map(|(held, _, _)| held.len()).sum::<usize>();
        assert_eq!(held.len(), count, "nobody holds another's address");
        assert_eq!(self.pools.held(), self.told.len(), "none is lost, none leaks");
        assert_eq!(self.pools.view().waiting, self.waiting.len());
    }

    /// What callers know to be released.
    fn released_by(&mut self, op: &Op) {
        let gone = match op {
            Op::Del(who) | Op::Reclaim(who) | Op::Tombstone(who, false) => Some(who),
            Op::Lost(who) if !self.confirmed.contains(who) => Some(who),
            _ => None,
        };
        if let Some((addresses, _, _)) = gone.and_then(|who| self.told.remove(who)) {
            self.released.extend(addresses.into_iter().map(|address| (address, self.now)));
        }
        if let Op::Del(who) = op {
            self.waiting.remove(who);
        }
    }

    fn learn(&mut self, who: usize, op: &Op, answer: &Answer, full: &BTreeSet<Family>) {
        match answer {
            Answer::Given { given, holder, new } => {
                self.waiting.remove(&who);
                let parse = |given: &cadastre_messages::GivenAddress| -> IpAddr {
                    given.address.split_once('/').unwrap().0.parse().unwrap()
                };
                let addresses: Vec<IpAddr> = given.addresses.iter().map(parse).collect();
                if let Some((before, _, _)) = self.told.get(&who) {
                    assert!(!new && *before == addresses, "the same again");
                    self.confirmed.insert(who);
                } else {
                    assert!(*new);
                    self.confirmed.remove(&who);
                    for address in &addresses {
                        self.may_be_given(*address, who, op);
                    }
                }
                self.told.insert(who, (addresses, holder.clone(), self.now));
            }
            Answer::Failed(failure) if !matches!(op, Op::Del(_)) => {
                self.waiting.remove(&who);
                if failure.code == 101 && matches!(op, Op::Add(_)) {
                    assert!(!full.is_empty(), "refused though each family had an address");
                }
            }
            Answer::Failed(_) | Answer::Done | Answer::Released { .. } | Answer::TakeOver => {}
        }
    }

    /// A new address lies in an active block, is neither reserved nor a router's, and has rested unless nothing else could.
    fn may_be_given(&mut self, address: IpAddr, who: usize, op: &Op) {
        if let Op::AddLocal(_, ranges) = op {
            return self.may_be_given_of(address, RANGES[*ranges]);
        }
        let active = self.active();
        if self.asking.contains(&who) {
            self.released.remove(&address); // Whoever asks by name need not wait until it has rested.
        }
        let block = active.iter().find(|block| block.contains_addr(address)).expect("of an active block");
        assert!(usable(block).any(|usable| usable == address), "{address} of {block} is not for pods");
        if let Some(since) = self.released.remove(&address).filter(|since| since.plus(REST) > self.now) {
            let rested = |other: &IpAddr| self.released.get(other).is_none_or(|since| since.plus(REST) <= self.now);
            let family = active.iter().filter(|block| block.family() == Family::of(address));
            let free =
                family.flat_map(usable).find(|other| *other != address && !self.is_held(*other) && rested(other));
            assert_eq!(free, None, "{address} rests since {since:?}, but this was free");
        }
    }

    /// The same in a network with ranges: the first of a set's ranges that has it is the one it is of.
    fn may_be_given_of(&mut self, address: IpAddr, sets: &[&[&str]]) {
        let all = |range: &&str| -> Vec<IpAddr> {
            let (subnet, ends) = range.split_once(' ').map_or((*range, None), |(subnet, ends)| (subnet, Some(ends)));
            let subnet: Cidr = subnet.parse().unwrap();
            let last = subnet.size() - u128::from(subnet.family() == Family::V4);
            let within = (2..last).filter_map(|number| subnet.nth(number));
            let ends = ends.and_then(|ends| ends.split_once('-'));
            let ends = ends.map(|(from, to)| (from.parse::<IpAddr>().unwrap(), to.parse::<IpAddr>().unwrap()));
            within.filter(|address| ends.is_none_or(|(from, to)| (from..=to).contains(address))).collect()
        };
        let sets: Vec<Vec<IpAddr>> = sets.iter().map(|set| set.iter().flat_map(all).collect()).collect();
        let set = sets.iter().find(|set| set.contains(&address)).expect("of the ranges, and no gateway");
        if let Some(since) = self.released.remove(&address).filter(|since| since.plus(REST) > self.now) {
            let rested = |other: &IpAddr| self.released.get(other).is_none_or(|since| since.plus(REST) <= self.now);
            let free = set.iter().find(|other| **other != address && !self.is_held(**other) && rested(other));
            assert_eq!(free, None, "{address} rests since {since:?}, but this was free");
        }
    }

    fn is_held(&self, address: IpAddr) -> bool {
        self.told.values().any(|(held, _, _)| held.contains(&address))
    }

    fn active(&self) -> Vec<Cidr> {
        let blocks = self.assignment.unwrap_or_default().iter().map(|text| block(text, 0));
        let promised = |cidr: &Cidr| {
            let blocks = self.pools.view().shares.into_iter().flat_map(|share| share.blocks);
            blocks.into_iter().any(|block| block.cidr == *cidr && block.state != crate::record::BlockState::Active)
        };
        blocks.map(|block| block.cidr).filter(|cidr| !promised(cidr)).collect()
    }

    /// Families in which every address for pods is held by somebody.
    fn full_families(&self) -> BTreeSet<Family> {
        let active = self.active();
        let has = |family: &Family| {
            active
                .iter()
                .filter(|block| block.family() == *family)
                .flat_map(usable)
                .any(|address| !self.is_held(address))
        };
        Family::ALL.into_iter().filter(|family| !has(family)).collect()
    }

    fn check(&mut self, who: usize) {
        let held = self.told.get(&who).map(|(held, _, _)| held.iter().map(ToString::to_string).collect::<Vec<_>>());
        let listed: Vec<&str> = held.iter().flatten().map(String::as_str).collect();
        let said = ask(&mut self.pools, self.now, &who.to_string(), check(&who.to_string(), &listed));
        assert_eq!(said, if held.is_some() { "ok" } else { "105" });
    }

    /// The process dies and another one reads what it wrote.
    fn restart(&mut self, from_snapshot: bool) {
        self.disk_full = false;
        self.run(&Op::Later(0));
        self.journal.append(&mut self.unwritten);
        if from_snapshot {
            self.journal = self.pools.snapshot().collect();
        }
        let before = std::mem::replace(&mut self.pools, restored(self.journal.clone(), self.now));
        self.waiting.clear();
        self.confirmed = self.told.keys().copied().collect();
        assert_eq!(self.pools.addresses(), before.addresses());
        let said = |pools: &Pools<Live>| {
            // Blocks are compared below; the cursor of a share goes with its last block, which a replay may see later.
            let hints = |record: &Record| matches!(record, Record::Blocks(_) | Record::Cursor { .. });
            let records = pools.snapshot().filter(|record| !hints(record));
            let mut said: Vec<String> = records.map(|record| format!("{record:?}")).collect();
            said.sort();
            said
        };
        assert_eq!(said(&self.pools), said(&before), "a replay leads to what was in memory");
        let (mut before, after) = (before.view(), self.pools.view());
        before.absence.clone_from(&after.absence); // Said anew by the next word of the operator.
        before.waiting = 0;
        for (before, after) in before.shares.iter_mut().zip(&after.shares) {
            before.yielded = after.yielded; // A counter of the process.
        }
        let used = |view: &crate::pools::View| -> Vec<_> {
            let used = view.networks.iter().filter(|network| network.counts.allocated + network.counts.cooling > 0);
            used.map(|network| (network.family, network.counts.allocated, network.counts.cooling)).collect()
        };
        assert_eq!(used(&before), used(&after));
        before.networks.clone_from(&after.networks); // Their ranges come with the next call.
        assert_eq!(before, after);
    }
}

/// The addresses of a block that pods may get.
fn usable(block: &Cidr) -> impl Iterator<Item = IpAddr> + use<> {
    let block = *block;
    let all = 0..block.size();
    let kept = move |index: &u128| block.size() < 8 || (*index > 1 && *index < block.size() - 1);
    all.filter(kept).filter_map(move |index| block.nth(index))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_callers_are_told_the_truth(ops in proptest::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
        }
    }
}
