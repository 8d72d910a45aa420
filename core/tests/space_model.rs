//! `Space` against a model too simple to be wrong: random operations, after each of which both must say the same.
//!
//! ```text
//! universe   a CIDR of any length at either end of the address space or between, in 256 cells at most
//! model      for each cell what is taken there and whether it is reserved; everything else is counted from that
//! ```
//! The cells are single addresses or 2^120 of them: the arithmetic is the same and has to be right for both.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use cadastre_core::{AddrRange, Cidr, CidrListError, Counts, Family, GiveBackError, Space, TakeError, addr_from_bits};
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
struct Universe {
    cidr: Cidr,
    /// The prefix length of a cell.
    cell: u8,
    unit: u8,
}

impl Universe {
    fn cells(&self) -> usize {
        1 << (self.cell - self.cidr.prefix_len())
    }

    /// The cells of `cidr`, which lies inside.
    fn span(&self, cidr: &Cidr) -> std::ops::RangeInclusive<usize> {
        let cell = |bits: u128| {
            let shift = u32::from(self.cidr.family().bits() - self.cell);
            usize::try_from((bits - self.cidr.first()).checked_shr(shift).unwrap_or(0)).unwrap()
        };
        cell(cidr.first())..=cell(cidr.last())
    }

    /// Some CIDR inside: `depth` bits longer, the one at `index`.
    fn pick(&self, (depth, index): (u8, u8)) -> Cidr {
        let mask = self.cidr.prefix_len() + depth % (self.cell - self.cidr.prefix_len() + 1);
        self.cidr.nth_block(mask, u128::from(index) % self.cidr.blocks(mask)).unwrap()
    }

    fn pick_range(&self, (a, b): (u8, u8)) -> (std::ops::RangeInclusive<usize>, AddrRange) {
        let (a, b) = (usize::from(a.min(b)) % self.cells(), usize::from(a.max(b)) % self.cells());
        let (a, b) = (a.min(b), a.max(b));
        let cell = |at: usize| self.cidr.nth_block(self.cell, at as u128).unwrap();
        let last = addr_from_bits(self.cidr.family(), cell(b).last()).unwrap();
        (a..=b, AddrRange::new(cell(a).network(), last).unwrap())
    }
}

fn universe() -> impl Strategy<Value = Universe> {
    let addr = prop_oneof![Just(0), Just(u128::MAX), any::<u128>()];
    let family = prop::sample::select(Family::ALL.to_vec());
    // The longest prefixes and the shortest one are where the arithmetic ends.
    let shorter = prop_oneof![Just(0_u8), Just(1), Just(u8::MAX), any::<u8>()];
    (family, addr, shorter, 0..=8_u8, any::<u8>()).prop_map(|(family, bits, shorter, depth, unit)| {
        let prefix = if shorter == u8::MAX { 0 } else { family.bits() - shorter % (family.bits() + 1) };
        let cell = family.bits().min(prefix + depth);
        let addr = addr_from_bits(family, bits & family.max()).unwrap();
        Universe { cidr: Cidr::block_of(addr, prefix).unwrap(), cell, unit: prefix + unit % (cell - prefix + 1) }
    })
}

#[derive(Debug, Clone)]
enum Op {
    TakeNext,
    Take((u8, u8)),
    TakeUnit(u8),
    Claim((u8, u8)),
    GiveBack((u8, u8)),
    GiveBackTaken(u8),
    Reserve((u8, u8)),
    Unreserve((u8, u8)),
    AddCidr((u8, u8)),
    RemoveCidr(u8),
    SetCursor(Option<(u8, u8)>),
}

fn op() -> impl Strategy<Value = Op> {
    let any2 = any::<(u8, u8)>;
    prop_oneof![
        6 => Just(Op::TakeNext),
        1 => any2().prop_map(Op::Take),
        2 => any::<u8>().prop_map(Op::TakeUnit),
        2 => any2().prop_map(Op::Claim),
        1 => any2().prop_map(Op::GiveBack),
        5 => any::<u8>().prop_map(Op::GiveBackTaken),
        2 => any2().prop_map(Op::Reserve),
        1 => any2().prop_map(Op::Unreserve),
        2 => any2().prop_map(Op::AddCidr),
        1 => any::<u8>().prop_map(Op::RemoveCidr),
        1 => any::<Option<(u8, u8)>>().prop_map(Op::SetCursor),
    ]
}

/// What was done, without the words of the errors.
#[derive(Debug, PartialEq)]
enum Done {
    Yes,
    Gave(Option<Cidr>),
    Misaligned,
    Outside,
    Taken,
    Reserved,
    NotTaken,
    NotExact,
    Overlaps,
    TooSmall,
    Unknown,
    InUse,
}

struct Model {
    universe: Universe,
    cidrs: Vec<Cidr>,
    /// For each cell what was taken there.
    taken: Vec<Option<Cidr>>,
    reserved: Vec<bool>,
    cursor: Option<Cidr>,
}

impl Model {
    fn new(universe: Universe) -> Self {
        let cells = universe.cells();
        Self { universe, cidrs: Vec::new(), taken: vec![None; cells], reserved: vec![false; cells], cursor: None }
    }

    fn any_taken(&self, cidr: &Cidr) -> bool {
        self.universe.span(cidr).any(|cell| self.taken[cell].is_some())
    }

    fn any_reserved(&self, cidr: &Cidr) -> bool {
        self.universe.span(cidr).any(|cell| self.reserved[cell])
    }

    fn inside(&self, cidr: &Cidr) -> bool {
        self.cidrs.iter().any(|outer| outer.contains(cidr))
    }

    fn is_free(&self, cidr: &Cidr) -> bool {
        self.inside(cidr) && !self.any_taken(cidr) && !self.any_reserved(cidr)
    }

    fn units(&self, cidr: Cidr) -> impl Iterator<Item = Cidr> {
        let unit = self.universe.unit;
        (0..cidr.blocks(unit)).map(move |index| cidr.nth_block(unit, index).unwrap())
    }

    /// All units in the order of the list, those behind the cursor first.
    fn next(&self, cursor: Option<Cidr>) -> Option<Cidr> {
        let all: Vec<Cidr> = self.cidrs.iter().flat_map(|cidr| self.units(*cidr)).collect();
        let inside = cursor.filter(|cursor| all.iter().any(|unit| unit.contains(cursor) || cursor.contains(unit)));
        // A cursor larger than a CIDR of the list counts only if its last address is in one.
        let behind =
            inside.and_then(|cursor| all.iter().position(|u| u.overlaps(&cursor) && u.last() >= cursor.last()));
        let start = behind.map_or(0, |at| at + 1);
        all[start..].iter().chain(&all[..start]).find(|unit| self.is_free(unit)).copied()
    }

    fn counts(&self, cidr: Cidr) -> Counts {
        let mut counts = Counts::default();
        for unit in self.units(cidr) {
            counts.total += 1;
            match (self.any_taken(&unit), self.any_reserved(&unit)) {
                (true, _) => counts.taken += 1,
                (false, true) => counts.reserved += 1,
                (false, false) => counts.free += 1,
            }
        }
        counts
    }

    fn put(&mut self, cidr: Cidr) -> Done {
        for cell in self.universe.span(&cidr) {
            self.taken[cell] = Some(cidr);
        }
        Done::Yes
    }

    fn all_taken(&self) -> Vec<Cidr> {
        let mut all: Vec<Cidr> = self.taken.iter().copied().flatten().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn take(&mut self, cidr: Cidr) -> Done {
        match cidr {
            _ if cidr.prefix_len() != self.universe.unit => Done::Misaligned,
            _ if !self.inside(&cidr) => Done::Outside,
            _ if self.any_taken(&cidr) => Done::Taken,
            _ if self.any_reserved(&cidr) => Done::Reserved,
            _ => self.put(cidr),
        }
    }

    fn give_back(&mut self, cidr: Cidr) -> Done {
        if !self.any_taken(&cidr) {
            return Done::NotTaken;
        }
        let span = self.universe.span(&cidr);
        if span.clone().any(|cell| self.taken[cell] != Some(cidr)) {
            return Done::NotExact;
        }
        self.taken[span].fill(None);
        Done::Yes
    }

    fn add_cidr(&mut self, cidr: Cidr) -> Done {
        if self.cidrs.iter().any(|other| other.overlaps(&cidr)) {
            return Done::Overlaps;
        }
        if cidr.prefix_len() > self.universe.unit {
            return Done::TooSmall;
        }
        self.cidrs.push(cidr);
        Done::Yes
    }

    fn remove_cidr(&mut self, cidr: Cidr) -> Done {
        let Some(at) = self.cidrs.iter().position(|other| *other == cidr) else { return Done::Unknown };
        if self.any_taken(&cidr) {
            return Done::InUse;
        }
        self.cidrs.remove(at);
        Done::Yes
    }
}

fn took(result: Result<(), TakeError>) -> Done {
    match result {
        Ok(()) => Done::Yes,
        Err(TakeError::Misaligned { .. }) => Done::Misaligned,
        Err(TakeError::Outside { .. }) => Done::Outside,
        Err(TakeError::Taken { asked, by }) if asked.overlaps(&by) => Done::Taken,
        Err(TakeError::Reserved { asked, range }) if range.overlaps(&asked) => Done::Reserved,
        Err(error) => panic!("{error}"),
    }
}

fn gave_back(result: Result<(), GiveBackError>) -> Done {
    match result {
        Ok(()) => Done::Yes,
        Err(GiveBackError::NotTaken { .. }) => Done::NotTaken,
        Err(GiveBackError::NotExact { asked, taken }) if asked.overlaps(&taken) => Done::NotExact,
        Err(error) => panic!("{error}"),
    }
}

fn listed(result: Result<(), CidrListError>) -> Done {
    match result {
        Ok(()) => Done::Yes,
        Err(CidrListError::Overlaps { .. }) => Done::Overlaps,
        Err(CidrListError::TooSmall { .. }) => Done::TooSmall,
        Err(CidrListError::Unknown { .. }) => Done::Unknown,
        Err(CidrListError::InUse { .. }) => Done::InUse,
        Err(error) => panic!("{error}"),
    }
}

/// Some CIDR of `from`, or the whole universe if there is none.
fn some_of(from: &[Cidr], at: u8, universe: &Universe) -> Cidr {
    if from.is_empty() { universe.cidr } else { from[usize::from(at) % from.len()] }
}

/// Does the same to both, and returns what each says.
fn apply(op: &Op, model: &mut Model, space: &mut Space) -> (Done, Done) {
    let universe = model.universe;
    match *op {
        Op::TakeNext => {
            let next = model.next(model.cursor);
            if let Some(unit) = next {
                model.put(unit);
                model.cursor = next;
            }
            (Done::Gave(next), Done::Gave(space.take_next()))
        }
        Op::Take(at) => (model.take(universe.pick(at)), took(space.take(&universe.pick(at)))),
        Op::TakeUnit(at) => {
            let unit = universe.pick((universe.unit - universe.cidr.prefix_len(), at));
            (model.take(unit), took(space.take(&unit)))
        }
        Op::Claim(at) => {
            let cidr = universe.pick(at);
            let expected = if model.any_taken(&cidr) { Done::Taken } else { model.put(cidr) };
            (expected, took(space.claim(&cidr)))
        }
        Op::GiveBack(at) => (model.give_back(universe.pick(at)), gave_back(space.give_back(&universe.pick(at)))),
        Op::GiveBackTaken(at) => {
            let cidr = some_of(&model.all_taken(), at, &universe);
            (model.give_back(cidr), gave_back(space.give_back(&cidr)))
        }
        Op::Reserve(at) | Op::Unreserve(at) => {
            let (cells, range) = universe.pick_range(at);
            let reserve = matches!(op, Op::Reserve(_));
            model.reserved[cells].fill(reserve);
            let result = if reserve { space.reserve(range) } else { space.unreserve(range) };
            result.unwrap();
            (Done::Yes, Done::Yes)
        }
        Op::AddCidr(at) => (model.add_cidr(universe.pick(at)), listed(space.add_cidr(universe.pick(at)))),
        Op::RemoveCidr(at) => {
            let cidr = some_of(&model.cidrs, at, &universe);
            (model.remove_cidr(cidr), listed(space.remove_cidr(&cidr)))
        }
        Op::SetCursor(at) => {
            model.cursor = at.map(|at| universe.pick(at));
            space.set_cursor(model.cursor);
            (Done::Yes, Done::Yes)
        }
    }
}

/// Everything that can be asked, asked of both.
fn compare(model: &Model, space: &Space, probe: Cidr) -> Result<(), TestCaseError> {
    prop_assert_eq!(space.cidrs().collect::<Vec<_>>(), model.cidrs.clone());
    let mut sum = Counts::default();
    for cidr in &model.cidrs {
        let counts = model.counts(*cidr);
        prop_assert_eq!(space.counts_of(cidr), Some(counts));
        sum.total += counts.total;
        sum.taken += counts.taken;
        sum.reserved += counts.reserved;
        sum.free += counts.free;
        let alone =
            Model { cidrs: vec![*cidr], taken: model.taken.clone(), reserved: model.reserved.clone(), ..*model };
        prop_assert_eq!(space.peek_in(cidr, model.cursor), alone.next(model.cursor));
    }
    prop_assert_eq!(space.counts(), sum);
    let mut taken: Vec<Cidr> = space.taken().collect();
    taken.sort_unstable();
    prop_assert_eq!(taken, model.all_taken());
    prop_assert_eq!(space.peek_after(model.cursor), model.next(model.cursor));
    prop_assert_eq!(space.is_free(&probe), model.is_free(&probe));
    prop_assert_eq!(space.overlapping(&probe).is_some(), model.any_taken(&probe));
    let reserved: Vec<bool> = (0..model.reserved.len() as u128)
        .map(|at| model.universe.cidr.nth_block(model.universe.cell, at).unwrap())
        .map(|cell| space.reserved().any(|range| range.overlaps(&cell)))
        .collect();
    prop_assert_eq!(reserved, model.reserved.clone());
    Ok(())
}

proptest! {
    #[test]
    fn says_what_the_model_says(
        universe in universe(),
        start in any::<(u8, u8)>(),
        steps in prop::collection::vec((op(), any::<(u8, u8)>()), 1..60),
    ) {
        let mut model = Model::new(universe);
        let mut space = Space::new(universe.cidr.family(), universe.unit);
        // Most often a list that is not empty, so that something can be taken.
        let first = Op::AddCidr((start.0 % (universe.unit - universe.cidr.prefix_len() + 1), start.1));
        for (op, probe) in std::iter::once((first, start)).chain(steps) {
            let (expected, done) = apply(&op, &mut model, &mut space);
            prop_assert_eq!(expected, done, "{:?}", op);
            compare(&model, &space, universe.pick(probe))?;
            prop_assert_eq!(space.cursor(), model.cursor);
        }
    }
}
