//! Restarts, full disks and lost folders, seen by callers.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::journal::Refuses;
use crate::pools::fixtures::*;

const BOOT: &str = "boot-1";

fn open(folder: &Path, now: BootTime) -> Desk {
    opener(folder, BOOT).open(now).unwrap().desk
}

fn ask(desk: &mut Desk, now: BootTime, name: &str, input: Input) -> String {
    let step = desk.handle(now, [input]);
    desk.pools.check().unwrap();
    told(&step, name)
}

#[test]
fn a_restart_gives_the_same_addresses_to_the_same_attachments() {
    let folder = TempDir::new().unwrap();
    let mut desk = open(folder.path(), at(0));
    ask(&mut desk, at(1), "", assigned(&["10.0.2.0/24", "fd00::/120"]));
    let given: Vec<String> = (0..50).map(|n| ask(&mut desk, at(2), &n.to_string(), add(&n.to_string()))).collect();
    ask(&mut desk, at(3), "7", del("7"));
    drop(desk);

    let mut desk = open(folder.path(), at(4));
    for (n, given) in given.iter().enumerate().filter(|(n, _)| *n != 7) {
        assert_eq!(ask(&mut desk, at(5), &n.to_string(), add(&n.to_string())), *given);
    }
    assert_eq!(
        ask(&mut desk, at(5), "x", add("x")),
        "10.0.2.52/24 via 10.0.2.1, fd00::34/120 via fd00::1",
        "next fit goes on"
    );
    assert_eq!(opener(folder.path(), "boot-2").open(at(1)).unwrap().found, Found::Void);
}

#[test]
fn on_a_full_disk_add_fails_del_succeeds_and_all_is_well_when_it_has_room_again() {
    let folder = TempDir::new().unwrap();
    let mut desk = open(folder.path(), at(0));
    ask(&mut desk, at(1), "", assigned(&["10.0.0.0/16"]));
    desk.journal().limit().set(Refuses::Beyond(80_000));
    let mut held = 0;
    let refused = loop {
        let step = desk.handle(at(2), [add(&held.to_string())]);
        if told(&step, &held.to_string()) == "11" {
            break why(&step, &held.to_string());
        }
        held += 1;
    };
    assert!(
        refused.starts_with("the address could not be recorded, so none was given: cannot allocate room in "),
        "{refused}"
    );
    assert!(desk.trouble().is_some());
    assert_eq!(desk.pools.held(), held);
    for n in 0..held {
        assert_eq!(ask(&mut desk, at(3), &n.to_string(), del(&n.to_string())), "ok");
        assert_eq!(open_copy(folder.path(), at(3)).pools.held(), held - n - 1, "recorded though the disk is full");
    }
    desk.journal().limit().set(Refuses::Nothing);
    desk.tend();
    assert_eq!(desk.trouble(), None, "it tries by itself");
    assert_eq!(ask(&mut desk, at(60), "x", add("x")).split('/').count(), 2);
    assert_eq!(desk.trouble(), None);
    assert_eq!(open_copy(folder.path(), at(60)).pools.held(), 1);
}

#[test]
fn a_release_that_cannot_be_recorded_is_remembered_and_recorded_later() {
    let folder = TempDir::new().unwrap();
    let mut desk = open(folder.path(), at(0));
    ask(&mut desk, at(1), "", assigned(&["10.0.2.0/30"]));
    ask(&mut desk, at(1), "a", add("a"));
    desk.journal().limit().set(Refuses::EvenAllocated(0));
    assert_eq!(ask(&mut desk, at(2), "a", del("a")), "11", "its plugin leaves a tombstone");
    assert_eq!(ask(&mut desk, at(2), "b", add("b")), "11");
    assert_eq!(open_copy(folder.path(), at(2)).pools.held(), 1, "not recorded yet");
    desk.journal().limit().set(Refuses::Nothing);
    desk.handle(at(3), [Input::Pass]);
    assert_eq!(open_copy(folder.path(), at(3)).pools.held(), 0);
    assert_eq!(ask(&mut desk, at(3), "a", add("a")), "10.0.2.1/30", "the ADD that failed cost nothing");
}

#[test]
fn a_removed_folder_is_made_anew_with_everything_in_it() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state");
    let mut desk = open(&state, at(0));
    ask(&mut desk, at(1), "", assigned(&["10.0.2.0/29"]));
    ask(&mut desk, at(1), "a", add("a"));
    fs::remove_dir_all(&state).unwrap();
    ask(&mut desk, at(2), "b", add("b"));
    assert_eq!(open_copy(&state, at(2)).pools.held(), 2);
    fs::remove_dir_all(&state).unwrap();
    desk.tend();
    assert_eq!(open_copy(&state, at(2)).pools.held(), 2);
}

#[test]
fn the_journal_stays_small_however_long_the_agent_runs() {
    let folder = TempDir::new().unwrap();
    let mut desk = open(folder.path(), at(0));
    ask(&mut desk, at(1), "", assigned(&["10.0.0.0/16"]));
    for n in 0..100 {
        ask(&mut desk, at(1), &n.to_string(), add(&n.to_string()));
    }
    for round in 0..3_000 {
        ask(&mut desk, at(2 + round), "x", add("x"));
        ask(&mut desk, at(2 + round), "x", del("x"));
        assert!(desk.journal().len() < 300 * 1024);
    }
    assert!(desk.journal().compactions() >= 1);
    desk.handle(at(3_002), [Input::Pass]);
    let again = open_copy(folder.path(), at(3_002));
    assert_eq!(again.pools.addresses(), desk.pools.addresses());
}

/// What an agent would find that started now.
fn open_copy(folder: &Path, now: BootTime) -> Desk {
    let copy = TempDir::new().unwrap();
    fs::copy(folder.join("journal"), copy.path().join("journal")).unwrap();
    open(copy.path(), now)
}

#[test]
fn an_older_agents_journal_is_written_anew_at_the_start() {
    let folder = TempDir::new().unwrap();
    let mut desk = open(folder.path(), at(0));
    ask(&mut desk, at(1), "", assigned(&["10.0.2.0/24", "fd00::/120"]));
    let given = ask(&mut desk, at(2), "a", add("a"));
    // Magic, then length, its checksum, that of the payload, and the payload, which begins with the version.
    let path = desk.journal().path();
    let mut bytes = fs::read(&path).unwrap();
    let end = 20 + bytes[8] as usize;
    bytes[20] = 1;
    let sum = crc32fast::hash(&bytes[20..end]).to_le_bytes();
    bytes[16..20].copy_from_slice(&sum);
    fs::write(&path, bytes).unwrap();
    for was in [1, 2] {
        let Opened { mut desk, found, .. } = opener(folder.path(), BOOT).open(at(4)).unwrap();
        assert!(matches!(found, Found::Records { version, .. } if version == was), "{found:?}");
        assert_eq!(ask(&mut desk, at(5), "a", add("a")), given);
    }
}
