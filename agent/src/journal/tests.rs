//! What was written is read, and nothing else is: every cut, every flipped byte.

use std::fs;
use std::path::Path;

use cadastre_messages::Attachment;
use tempfile::TempDir;
use uuid::Uuid;

use super::disk::Refuses;
use super::*;
use crate::boot_time::BootTime;
use crate::record::*;

const BOOT: &str = "f00dcafe-0000-4000-8000-000000000001";

fn gave(id: u64) -> Record {
    let address = HeldAddress { pool: "default".into(), address: [10, 0, 2, 9].into(), grant: Uuid::from_u128(5) };
    let v6 = HeldAddress { address: "fd00::9".parse().unwrap(), ..address.clone() };
    let held = Held {
        addresses: vec![address, v6],
        netns: NetnsRecord { path: "/run/netns/a".into(), device: 4, inode: 4_026_532_000, seen: true },
        pod: Some(PodName { namespace: "default".into(), name: "nginx".into(), uid: Some("u-1".into()) }),
        since: BootTime::from_millis(1_234),
        acked: BootTime::from_millis(1_234),
    };
    let attachment = Attachment { network: "net".into(), container_id: format!("c{id}"), interface: "eth0".into() };
    Record::Gave(Box::new(Gave { id: HoldId(id), attachment, held }))
}

/// One of each variant.
fn records() -> Vec<Record> {
    let block = |state| BlockRecord {
        pool: "default".into(),
        cidr: "10.0.2.0/24".parse().unwrap(),
        grant: Uuid::from_u128(5),
        state,
    };
    let assigned = Assigned {
        mode: cadastre_api::Mode::ClusterPool,
        node_uid: "node-uid".into(),
        generation: 3,
        note: String::new(),
    };
    let netns = NetnsRecord { path: "/run/netns/b".into(), ..NetnsRecord::default() };
    vec![
        Record::Blocks(Blocks {
            assigned: Some(assigned),
            blocks: vec![block(BlockState::Active), block(BlockState::Gone)],
        }),
        gave(7),
        Record::Acked { id: HoldId(7), at: BootTime::from_millis(2_000), netns: Some(netns) },
        Record::Released { id: HoldId(7), at: BootTime::from_millis(3_000) },
        Record::Cooling {
            pool: "default".into(),
            address: "fd00::9".parse().unwrap(),
            since: BootTime::from_millis(1),
        },
        Record::Cursor { pool: "default".into(), cursor: "10.0.2.9/32".parse().unwrap() },
        Record::LastOfSet { network: "net".into(), set: 1, address: "fd01::9".parse().unwrap() },
        Record::TookOver { network: "net".into() },
        Record::Stray { address: [10, 0, 2, 77].into(), netns: NetnsRecord::default() },
    ]
}

fn open(folder: &Path, boot: &str) -> Result<(Journal, Found, Vec<Record>), JournalError> {
    let mut read = Vec::new();
    let (journal, found) = Journal::open(folder, boot, "n1", &mut |record| read.push(record))?;
    Ok((journal, found, read))
}

/// A journal of two batches; where the first ends, and its bytes.
fn two_batches(folder: &Path) -> (usize, Vec<u8>) {
    let (mut journal, found, _) = open(folder, BOOT).unwrap();
    assert_eq!(found, Found::Nothing);
    journal.append(&records()[..2], 0).unwrap();
    let first = usize::try_from(journal.len()).unwrap();
    journal.append(&records()[2..], 0).unwrap();
    let bytes = fs::read(journal.path()).unwrap();
    assert_eq!(bytes.len() as u64, journal.len());
    (first, bytes)
}

#[test]
fn what_was_written_is_read() {
    let folder = TempDir::new().unwrap();
    two_batches(folder.path());
    let (_, found, read) = open(folder.path(), BOOT).unwrap();
    assert_eq!(found, Found::Records { count: 9, cut: 0, version: VERSION });
    assert_eq!(read, records());
}

#[test]
fn a_torn_end_is_cut_wherever_it_tore() {
    let folder = TempDir::new().unwrap();
    let (first, bytes) = two_batches(folder.path());
    let path = folder.path().join(NAME);
    for end in first..bytes.len() {
        fs::write(&path, &bytes[..end]).unwrap();
        let (mut journal, found, read) = open(folder.path(), BOOT).unwrap();
        assert_eq!(found, Found::Records { count: 2, cut: (end - first) as u64, version: VERSION }, "{end}");
        assert_eq!(read, records()[..2]);
        journal.append(&records()[2..], 0).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes, "it goes on as if nothing had happened");
    }
}

#[test]
fn a_flipped_bit_anywhere_is_damage_and_the_file_stays() {
    let folder = TempDir::new().unwrap();
    let (_, bytes) = two_batches(folder.path());
    let path = folder.path().join(NAME);
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << (place % 8);
        fs::write(&path, &damaged).unwrap();
        let error = open(folder.path(), BOOT).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "byte {place}: {error}");
        assert_eq!(fs::read(&path).unwrap(), damaged);
    }
    fs::write(&path, b"").unwrap();
    assert!(matches!(open(folder.path(), BOOT), Err(JournalError::Damaged { .. })), "an empty file is no journal");
}

#[test]
fn another_boot_voids_it_and_another_node_or_version_is_refused() {
    let folder = TempDir::new().unwrap();
    two_batches(folder.path());
    let node = |node: &str| Journal::open(folder.path(), BOOT, node, &mut |_| ()).map(drop);
    let refused = node("n2").unwrap_err().to_string();
    assert!(refused.ends_with("is of node n1, not of n2: give each node a state folder of its own"), "{refused}");
    let (_, found, read) = open(folder.path(), "another-boot").unwrap();
    assert_eq!((found, read), (Found::Void, vec![]));
    let (_, found, _) = open(folder.path(), "another-boot").unwrap();
    assert_eq!(found, Found::Records { count: 0, cut: 0, version: VERSION });

    let mut newer = MAGIC.to_vec();
    let header = Header { version: VERSION + 1, boot: BOOT.into(), node: "n1".into() };
    frame::push(&mut newer, std::iter::once(&header)).unwrap();
    fs::write(folder.path().join(NAME), newer).unwrap();
    assert!(matches!(open(folder.path(), BOOT), Err(JournalError::Version { found: 3, .. })));
}

#[test]
fn what_every_version_wrote_is_still_read_and_written_anew_before_anything_is_added() {
    // Written by their own releases. If this fails, the format changed: raise VERSION and keep reading these.
    let goldens: [(u32, &[u8], usize); 2] =
        [(1, include_bytes!("version_1.journal"), 6), (2, include_bytes!("version_2.journal"), 9)];
    for (version, golden, count) in goldens {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join(NAME), golden).unwrap();
        let (mut journal, found, read) = open(folder.path(), BOOT).unwrap();
        assert_eq!(found, Found::Records { count: count as u64, cut: 0, version });
        assert_eq!(read, records()[..count]);
        let added = journal.append(&records()[6..], 0);
        assert_eq!(added.is_ok(), version == VERSION, "an older agent could not read it");
        if added.is_err() {
            assert!(!journal.is_in_place());
            journal.rewrite(read.into_iter(), 0).unwrap();
            journal.append(&records()[6..], 0).unwrap();
            let (_, found, read) = open(folder.path(), BOOT).unwrap();
            assert_eq!((found, read), (Found::Records { count: 9, cut: 0, version: VERSION }, records()));
        }
    }
}

#[test]
fn a_full_disk_leaves_nothing_half_written_and_room_for_releases() {
    let folder = TempDir::new().unwrap();
    let (mut journal, _, _) = open(folder.path(), BOOT).unwrap();
    let released = |id| Record::Released { id: HoldId(id), at: BootTime::from_millis(u64::MAX) };
    let limit = journal.limit().clone();
    limit.set(Refuses::Beyond(journal.len() + 100_000));
    let mut held = 0;
    while journal.append(&[gave(held)], RELEASE_ROOM * (held + 1)).is_ok() {
        held += 1;
    }
    assert!(held > 10, "{held}");
    let full = journal.len();
    assert_eq!(fs::metadata(journal.path()).unwrap().len(), full);
    for id in 0..held {
        journal.append(&[released(id)], 0).unwrap();
    }
    limit.set(Refuses::Nothing);
    journal.append(&[gave(held)], RELEASE_ROOM).unwrap();
    let (_, found, _) = open(folder.path(), BOOT).unwrap();
    assert_eq!(found, Found::Records { count: 2 * held + 1, cut: 0, version: VERSION });
}

#[test]
fn a_short_write_is_cut_back() {
    let folder = TempDir::new().unwrap();
    let (mut journal, _, _) = open(folder.path(), BOOT).unwrap();
    journal.append(&[gave(1)], 1_000_000).unwrap();
    // The file system took back what it had promised.
    journal.limit().set(Refuses::EvenAllocated(journal.len() + 20));
    assert!(journal.append(&[gave(2)], 0).is_err());
    assert_eq!(fs::metadata(journal.path()).unwrap().len(), journal.len());
    journal.limit().set(Refuses::Nothing);
    journal.append(&[gave(3)], 0).unwrap();
    assert_eq!(open(folder.path(), BOOT).unwrap().2, [gave(1), gave(3)]);
}

#[test]
fn a_journal_written_anew_says_the_same_in_less() {
    let folder = TempDir::new().unwrap();
    let (mut journal, _, _) = open(folder.path(), BOOT).unwrap();
    let mut appended = 0;
    while !journal.wants_compaction() {
        journal.append(&[gave(appended)], 0).unwrap();
        appended += 1;
    }
    assert!(journal.len() >= SMALLEST_COMPACTION);
    journal.rewrite((0..3_000).map(gave), 0).unwrap();
    assert!(!journal.wants_compaction(), "not before as much again was appended");
    assert_eq!(journal.compactions(), 1);
    journal.append(&[gave(9_999)], 0).unwrap();
    let (_, _, read) = open(folder.path(), BOOT).unwrap();
    assert_eq!(read.len(), 3_001);
    assert_eq!(read[3_000], gave(9_999));

    journal.limit().set(Refuses::Beyond(0));
    let before = journal.len();
    assert!(journal.rewrite(std::iter::empty(), 0).is_err());
    journal.limit().set(Refuses::Nothing);
    journal.append(&[gave(10_000)], 0).unwrap();
    assert!(journal.len() > before, "the old one goes on");
    assert!(!folder.path().join(NAME_ASIDE).exists());
    assert_eq!(open(folder.path(), BOOT).unwrap().2.len(), 3_002);
}

#[test]
fn a_removed_journal_is_noticed() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state");
    let (mut journal, _, _) = open(&state, BOOT).unwrap();
    fs::remove_dir_all(&state).unwrap();
    assert!(matches!(journal.append(&[gave(1)], 0), Err(JournalError::Lost { .. })));
    journal.rewrite(std::iter::once(gave(1)), 0).unwrap();
    journal.append(&[gave(2)], 0).unwrap();
    assert_eq!(open(&state, BOOT).unwrap().2, [gave(1), gave(2)]);
}

#[test]
fn the_largest_release_fits_into_the_room_that_is_kept_for_it() {
    let mut bytes = Vec::new();
    let largest = Record::Released { id: HoldId(u64::MAX), at: BootTime::from_millis(u64::MAX) };
    frame::push(&mut bytes, std::iter::once(&largest)).unwrap();
    assert_eq!(bytes.len() as u64, RELEASE_ROOM);
}

/// Prints nothing and changes nothing unless asked: how the files `version_*.journal` were made.
#[test]
fn write_golden() {
    if let Some(path) = std::env::var_os("CADASTRE_WRITE_GOLDEN") {
        let folder = TempDir::new().unwrap();
        fs::write(path, two_batches(folder.path()).1).unwrap();
    }
}
