//! What must hold whatever the journal's file contains; called by `tests/fuzz`.
//!
//! ```text
//! first byte   0  the rest is the file              1  a sound header, then the rest as the payloads of sound frames
//!              2  a sound journal, changed          3  a sound journal of records that may contradict each other
//! ```

use std::fs;
use std::path::Path;
use std::time::Duration;

use cadastre_messages::{Add, Attachment, Netns};

use super::{Found, Header, Journal, JournalError, MAGIC, NAME, VERSION, frame};
use crate::boot_time::BootTime;
use crate::pools::{Assignment, Input, Live, Pools, Restoring, Rules, Token};
use crate::record::{
    Assigned, BlockRecord, BlockState, Blocks, Gave, Held, HeldAddress, HoldId, NetnsRecord, PodName, Record,
};

const BOOT: &str = "b";
const NODE: &str = "n";

/// Reads the file in a folder that nobody else uses.
pub fn file(folder: &Path, data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind {
        0 => drop(opened(folder, rest)),
        1 => drop(opened(folder, &framed(rest))),
        2 => changed(folder, rest),
        _ => {
            let records = Script(rest).records();
            let read = opened(folder, &sound(&records));
            assert_eq!(read, Some(records), "what was written is read");
        }
    }
}

/// What is read of a file, if it is no damage: the same when it is read again, also after something was added.
fn opened(folder: &Path, bytes: &[u8]) -> Option<Vec<Record>> {
    let path = folder.join(NAME);
    fs::write(&path, bytes).ok()?;
    let mut records = Vec::new();
    let opened = Journal::open(folder, BOOT, NODE, &mut |record| records.push(record));
    let Ok((mut journal, found)) = opened else { return None };
    match found {
        Found::Records { count, cut, .. } => {
            assert_eq!(count, records.len() as u64);
            assert!(cut < bytes.len() as u64);
        }
        Found::Nothing | Found::Void => assert!(records.is_empty()),
    }
    let pools = restored(&records);
    let added = Record::TookOver { network: "added".into() };
    let appended = match journal.append(std::slice::from_ref(&added), 0) {
        Err(JournalError::Lost { .. }) => journal.rewrite(records.iter().cloned().chain([added.clone()]), 0),
        appended => appended,
    };
    assert!(appended.is_ok(), "{appended:?}");
    let mut again = Vec::new();
    let reopened = Journal::open(folder, BOOT, NODE, &mut |record| again.push(record));
    assert!(matches!(reopened, Ok((_, Found::Records { cut: 0, version: VERSION, .. }))), "{reopened:?}");
    assert_eq!(again.pop(), Some(added));
    assert_eq!(again, records);
    pools.into_iter().for_each(serves);
    Some(records)
}

fn restored(records: &[Record]) -> Option<Pools<Live>> {
    let rules = Rules { node: NODE.into(), address_cooling: Duration::from_secs(30), add_wait: Duration::ZERO };
    let mut pools = Pools::<Restoring>::new(rules);
    records.iter().cloned().for_each(|record| pools.restore(record));
    pools.live(BootTime::from_millis(100_000)).ok()
}

/// What was accepted leads back to the same when it is written anew, and is worked with. Whether invariants hold from then on
/// is not asked: two blocks of one grant, which no agent ever wrote, are not told from sound ones at the start.
fn serves(mut pools: Pools<Live>) {
    let held = pools.held();
    let snapshot: Vec<Record> = pools.snapshot().collect();
    let again = restored(&snapshot).map(|pools| pools.held());
    assert_eq!(again, Some(held), "{snapshot:#?}");
    for input in [Input::Pass, Input::Assigned(assignment()), add("x"), add("c1"), del("c1"), del("x")] {
        pools.apply(BootTime::from_millis(100_000), [input]);
    }
    drop(pools.view());
    drop(pools.addresses());
}

fn attachment(name: &str) -> Attachment {
    Attachment { network: "net".into(), container_id: name.into(), interface: "eth0".into() }
}

fn add(name: &str) -> Input {
    let netns = Netns { path: String::new(), device: 0, inode: 0 };
    Input::Add { token: Token(1), add: Box::new(Add::new(attachment(name), netns, None)), seen: false }
}

fn del(name: &str) -> Input {
    Input::Del { token: Token(2), attachment: attachment(name) }
}

fn assignment() -> Assignment {
    let blocks = [0, 1, 2].into_iter().filter_map(|place| block(place, 0)).collect();
    Assignment { assigned: Some(assigned()), absence: String::new(), blocks }
}

fn assigned() -> Assigned {
    Assigned { mode: cadastre_api::Mode::ClusterPool, node_uid: "u".into(), generation: 1, note: String::new() }
}

/// A journal as an agent writes it: a frame for each record.
fn sound(records: &[Record]) -> Vec<u8> {
    let mut bytes = head();
    for record in records {
        drop(frame::push(&mut bytes, std::iter::once(record)));
    }
    bytes
}

fn head() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let header = Header { version: VERSION, boot: BOOT.to_owned(), node: NODE.to_owned() };
    drop(frame::push(&mut bytes, std::iter::once(&header)));
    bytes
}

/// Payloads with their lengths before them, in one byte.
fn framed(mut rest: &[u8]) -> Vec<u8> {
    let mut bytes = head();
    while let Some((length, more)) = rest.split_first() {
        let (payload, behind) = more.split_at(usize::from(*length).min(more.len()));
        // A tuple of bytes is written without a length.
        drop(frame::push(&mut bytes, payload.iter()));
        rest = behind;
    }
    bytes
}

/// Places in two bytes, what to do there, and a value.
fn changed(folder: &Path, changes: &[u8]) {
    let records = Script(&[64, 0, 0, 65, 4, 0, 2, 4, 9, 65, 1, 1, 3, 1, 50, 7, 0, 0, 6, 1, 0, 5, 0, 2]).records();
    let whole = sound(&records);
    let mut bytes = whole.clone();
    let (changes, _) = changes.as_chunks::<4>();
    for [high, low, what, value] in changes {
        let place = usize::from(u16::from_be_bytes([*high, *low])) % (bytes.len() + 1);
        match what % 4 {
            0 => bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= value),
            1 => bytes.truncate(place),
            2 => bytes.insert(place, *value),
            _ => drop((place < bytes.len()).then(|| bytes.remove(place))),
        }
    }
    let read = opened(folder, &bytes);
    // A checksum tells any one byte that was changed, not every change that somebody computes. A frame that is too short
    // at the end is a torn one, whichever byte is missing.
    if changes.len() == 1
        && let Some(read) = read
    {
        let torn = bytes.len() < whole.len();
        assert!(read.is_empty() || read == records || torn && records.starts_with(&read), "{read:?}");
    }
}

/// Records by numbers: three bytes for each, what, which and where.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn records(&self) -> Vec<Record> {
        self.0.as_chunks::<3>().0.iter().filter_map(|[what, which, place]| record(*what, *which, *place)).collect()
    }
}

const POOLS: [&str; 4] = ["default", "local/net", "blue", "local/"];

const ADDRESSES: [&str; 12] = [
    "10.0.2.2",
    "10.0.2.3",
    "10.0.2.0",
    "10.0.2.1",
    "10.0.2.7",
    "fd00::2",
    "fd00::1",
    "255.255.255.255",
    "0.0.0.0",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "::",
    "10.0.3.1",
];

const CIDRS: [&str; 8] =
    ["10.0.2.0/29", "fd00::/125", "10.0.3.0/30", "0.0.0.0/0", "::/0", "255.255.255.255/32", "10.0.2.0/30", "::/128"];

fn of<T: Copy>(table: &[T], number: u8) -> Option<T> {
    table.get(usize::from(number) % table.len()).copied()
}

fn pool(which: u8) -> Option<String> {
    of(&POOLS, which >> 4).map(ToOwned::to_owned)
}

fn address(place: u8) -> Option<std::net::IpAddr> {
    of(&ADDRESSES, place)?.parse().ok()
}

fn block(place: u8, which: u8) -> Option<BlockRecord> {
    let states = [BlockState::Active, BlockState::Retiring, BlockState::Promised, BlockState::Gone];
    let (cidr, state) = (of(&CIDRS, place)?.parse().ok()?, of(&states, which)?);
    Some(BlockRecord { pool: pool(which)?, cidr, grant: grant(place), state })
}

/// Never zero: that is of addresses which were found before their block was known, as `survey::fuzzing` has them.
fn grant(place: u8) -> uuid::Uuid {
    uuid::Uuid::from_u128((1 + place / 64).into())
}

fn record(what: u8, which: u8, place: u8) -> Option<Record> {
    let (id, at) = (HoldId((which % 16).into()), BootTime::from_millis(u64::from(place) * 1_000));
    Some(match what % 8 {
        0 => {
            let blocks = (0..=what / 64).filter_map(|more| block(place.wrapping_add(more), which)).collect();
            Record::Blocks(Blocks { assigned: (which < 128).then(assigned), blocks })
        }
        1 => Record::Gave(Box::new(gave(what, which, place))),
        2 => {
            let netns = NetnsRecord { path: "/n".into(), device: 1, inode: u64::from(place), seen: true };
            Record::Acked { id, at, netns: (what > 127).then_some(netns) }
        }
        3 => Record::Released { id, at },
        4 => {
            Record::Cooling { pool: pool(which)?, address: address(place)?, since: BootTime::from_millis(which.into()) }
        }
        5 => Record::Cursor { pool: pool(which)?, cursor: of(&CIDRS, place)?.parse().ok()? },
        6 => Record::LastOfSet { network: "net".into(), set: which.into(), address: address(place)? },
        _ => Record::TookOver { network: "net".into() },
    })
}

fn gave(what: u8, which: u8, place: u8) -> Gave {
    let count = what / 64;
    let held = |more: u8| {
        let place = place.wrapping_add(more.wrapping_mul(5));
        Some(HeldAddress { pool: pool(which)?, address: address(place)?, grant: grant(place) })
    };
    let pod = PodName { namespace: "default".into(), name: "p".into(), uid: None };
    let held = Held {
        addresses: (0..count).filter_map(held).collect(),
        netns: NetnsRecord::default(),
        pod: (what > 127).then_some(pod),
        since: BootTime::from_millis(what.into()),
        acked: BootTime::from_millis(what.into()),
    };
    let name = format!("c{}", which % 4);
    Gave { id: HoldId((which % 16).into()), attachment: attachment(&name), held }
}
