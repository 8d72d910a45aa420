//! What must hold whatever others leave in folders that the agent reads: libcni's cache, and tombstones; called by
//! `tests/fuzz`.

use std::time::Duration;

use cadastre_messages::DEFAULT_SOCKET;
use uuid::Uuid;

use super::{Attached, Places, Stray, Survey, cache};
use crate::boot_time::BootTime;
use crate::pools::{Assignment, Input, Live, Pools, Restoring, Rules};
use crate::record::{Assigned, BlockRecord, BlockState, Blocks, NetnsRecord, Record};
use crate::tombstones::{Tombstone, Tombstones};

/// A folder that holds `results` and `tombstones`, and text that lists addresses in namespaces.
pub fn folder(folder: &std::path::Path, strays: &str) {
    let now = BootTime::from_millis(1_000_000);
    let places = Places { cache: folder.to_owned(), namespaces: folder.join("none"), socket: DEFAULT_SOCKET.into() };
    let entries = cache::read(&places);
    assert!(entries.is_ok(), "{entries:?}");
    let Some(mut pools) = restored(entries.unwrap_or_default(), strays, now) else { return };
    let Ok(mut tombstones) = Tombstones::open(folder, "boot") else { return };
    let found = tombstones.scan();
    for Tombstone { attachment, at, .. } in found.clone() {
        pools.apply(now, [Input::Tombstone { attachment, at }]);
        assert_eq!(pools.check(), Ok(()));
    }
    pools.apply(now, [Input::Assigned(assignment(["10.0.2.0/28", "fd00::/120"]))]);
    assert_eq!(pools.check(), Ok(()));
    tombstones.remove(&found);
    assert_eq!((tombstones.scan(), tombstones.count()), (Vec::new(), 0));
    let mut again = Pools::<Restoring>::new(rules());
    pools.snapshot().for_each(|record| again.restore(record));
    assert_eq!(again.live(now).map(|pools| pools.held()), Ok(pools.held()));
}

/// What lives is never a contradiction, whatever the runtime says and the journal said.
fn restored(entries: Vec<cache::Entry>, strays: &str, now: BootTime) -> Option<Pools<Live>> {
    let netns = |path: &str| NetnsRecord { path: path.to_owned(), device: 1, inode: 2, seen: true };
    let attached = entries.into_iter().map(|entry| {
        assert!(!entry.addresses.is_empty());
        let netns = entry.netns(&[]).unwrap_or_else(|| netns("/nonexistent"));
        let cache::Entry { attachment, pod, addresses, of_ranges, path: _, written: _ } = entry;
        Attached { attachment, netns, pod, addresses, of_ranges }
    });
    let strays = strays.split_whitespace().filter_map(|text| text.parse().ok());
    let strays = strays.map(|address| Stray { address, netns: netns("/n") }).collect();
    let survey = Survey { attached: attached.collect(), strays };
    let mut pools = Pools::<Restoring>::new(rules());
    let Assignment { assigned, blocks, .. } = assignment(["10.0.2.0/29", "fd00::/125"]);
    pools.restore(Record::Blocks(Blocks { assigned, blocks }));
    pools.take_in(survey, |_| false, now);
    let pools = pools.live(now);
    assert!(pools.is_ok(), "{:?}", pools.err());
    pools.ok()
}

fn rules() -> Rules {
    Rules { node: "n".into(), address_cooling: Duration::from_secs(30), add_wait: Duration::ZERO }
}

fn assignment(cidrs: [&str; 2]) -> Assignment {
    let block = |cidr: cadastre_core::Cidr| BlockRecord {
        pool: cadastre_api::DEFAULT_POOL.to_owned(),
        cidr,
        grant: Uuid::from_u128(cidr.prefix_len().into()),
        state: BlockState::Active,
    };
    let assigned =
        Assigned { mode: cadastre_api::Mode::ClusterPool, node_uid: "u".into(), generation: 1, note: String::new() };
    let blocks = cidrs.iter().filter_map(|cidr| cidr.parse().ok()).map(block).collect();
    Assignment { assigned: Some(assigned), absence: String::new(), blocks }
}
