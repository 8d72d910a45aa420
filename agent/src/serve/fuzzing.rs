//! What must hold whatever lines come through the socket, in whatever order with what else happens to the pools; called by
//! `tests/fuzz`.
//!
//! ```text
//! {"protocol":1, …}   a call, as a plugin sends it        !a3   the operator assigns the blocks of row 3
//! !t1500  !p          time passes                         !f    the next batch cannot be written
//! !l2  !r2            the 2nd allocation: its reply is lost, proofs say that nobody uses it
//! !d name             a tombstone                         !g2   the caller of the 2nd call goes away
//! !s  !j              the agent starts again, from a snapshot or from all that it wrote
//! ```

use std::time::Duration;

use cadastre_api::Mode;
use cadastre_messages::{Attachment, MAX_LINE, Reply};
use uuid::Uuid;

use super::connection::{parse, split};
use super::owner::Verb;
use crate::boot_time::BootTime;
use crate::desk::replaces;
use crate::explain::{Refusals, explain};
use crate::outlook::Outlook;
use crate::pools::{Answer, Assignment, Holder, Input, Live, Pools, Restoring, Rules, Step, Token};
use crate::record::{Assigned, BlockRecord, BlockState, HoldId, Record};

/// What the operator may say: the mode, then blocks with pool, grant and state.
type Row = (Mode, &'static [(&'static str, &'static str, u128, BlockState)]);

const ROWS: [Row; 11] = [
    (
        Mode::ClusterPool,
        &[("default", "10.0.2.0/29", 1, BlockState::Active), ("default", "fd00::/125", 2, BlockState::Active)],
    ),
    (
        Mode::ClusterPool,
        &[("default", "10.0.2.0/29", 1, BlockState::Retiring), ("default", "10.0.3.0/30", 3, BlockState::Active)],
    ),
    (Mode::ClusterPool, &[("default", "10.0.2.0/29", 4, BlockState::Active)]),
    (
        Mode::MultiPool,
        &[("default", "10.0.2.0/29", 1, BlockState::Active), ("blue", "10.0.4.0/29", 5, BlockState::Active)],
    ),
    (
        Mode::Kubernetes,
        &[
            ("default", "255.255.255.248/29", 6, BlockState::Active),
            ("default", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8/125", 7, BlockState::Active),
        ],
    ),
    (Mode::Kubernetes, &[("default", "0.0.0.0/0", 8, BlockState::Active), ("default", "::/0", 9, BlockState::Active)]),
    (
        Mode::ClusterPool,
        &[
            ("default", "0.0.0.0/32", 10, BlockState::Active),
            ("default", "255.255.255.255/32", 11, BlockState::Active),
            ("default", "::/128", 12, BlockState::Active),
        ],
    ),
    (
        Mode::ClusterPool,
        &[("blue", "10.0.2.0/29", 13, BlockState::Active), ("default", "fd00::/125", 2, BlockState::Active)],
    ),
    (Mode::ClusterPool, &[]),
    (Mode::Kubernetes, &[("default", "10.0.2.0/30", 14, BlockState::Active)]),
    (Mode::Kubernetes, &[("default", "10.0.2.0/28", 15, BlockState::Active)]),
];

struct World {
    pools: Pools<Live>,
    now: BootTime,
    /// What the journal holds.
    written: Vec<Record>,
    unwritten: Vec<Record>,
    disk_full: bool,
    given: Vec<Holder>,
    calls: u64,
}

/// One attachment: who, under which number, and its addresses.
type Held = (Attachment, HoldId, Vec<std::net::IpAddr>);

/// Lines from callers, and what happens between them.
pub fn lines(data: &[u8]) {
    let Some(mut world) = World::restored(Vec::new(), BootTime::from_millis(1_000)) else { return };
    for line in data.split(|byte| *byte == b'\n').filter(|line| line.len() < MAX_LINE) {
        match line {
            [b'!', what, rest @ ..] => world.event(*what, &String::from_utf8_lossy(rest)),
            line => world.call(line),
        }
    }
    world.restart_from_journal();
    world.restart_from_snapshot();
}

fn rules() -> Rules {
    Rules { node: "n1".into(), address_cooling: Duration::from_secs(30), add_wait: Duration::from_secs(10) }
}

impl World {
    /// What an agent makes of its own journal is never a contradiction.
    fn restored(written: Vec<Record>, now: BootTime) -> Option<Self> {
        let mut pools = Pools::<Restoring>::new(rules());
        for record in &written {
            let bytes = postcard::to_allocvec(record);
            let back = bytes.as_deref().map(postcard::from_bytes::<Record>);
            assert!(matches!(&back, Ok(Ok(back)) if back == record), "{record:?}");
            pools.restore(record.clone());
        }
        let pools = pools.live(now);
        assert!(pools.is_ok(), "{:?} from {written:#?}", pools.err());
        let (unwritten, given) = (Vec::new(), Vec::new());
        Some(Self { pools: pools.ok()?, now, written, unwritten, disk_full: false, given, calls: 0 })
    }

    /// On the proofs that it looks for.
    fn reclaim(&mut self, holder: Holder) {
        let netns = self.pools.holders(None).find(|view| view.holder == holder).map(|view| view.netns().clone());
        self.apply(Input::Reclaim(holder, netns.unwrap_or_default()));
    }

    fn event(&mut self, what: u8, rest: &str) {
        let number: u64 = rest.trim().parse().unwrap_or_default();
        let holder = usize::try_from(number).ok().and_then(|number| self.given.get(number)).cloned();
        match what {
            b'a' => self.apply(Input::Assigned(assignment(number))),
            b't' => self.now = self.now.plus(Duration::from_millis(number)),
            b'p' => self.apply(Input::Pass),
            b'f' => self.disk_full = true,
            b'l' => holder.into_iter().for_each(|holder| self.apply(Input::Undelivered(holder))),
            b'r' => holder.into_iter().for_each(|holder| self.reclaim(holder)),
            b'g' => self.apply(Input::PeerGone(Token(number))),
            b'd' => self.apply(Input::Tombstone { attachment: attachment(rest.trim()), at: self.now.hundredths() }),
            b's' => self.restart_from_snapshot(),
            b'j' => self.restart_from_journal(),
            _ => {}
        }
    }

    fn call(&mut self, line: &[u8]) {
        let call = match parse(line) {
            Ok(call) => call,
            Err(refused) => return assert!(refused.code() != 0 && !refused.to_string().is_empty()),
        };
        if let cadastre_messages::Call::Explain(about) = &call {
            let explanation = explain(&about.what, &self.pools, &Refusals::default(), &Outlook::default(), self.now);
            return answered(&Reply::Explanation(Box::new(explanation)), usize::MAX);
        }
        self.calls += 1;
        match Verb::of(call) {
            Some(verb) => self.apply(verb.input(Token(self.calls), Some(&self.pools))),
            None => assert!(self.pools.addresses().len() >= self.pools.held()),
        }
    }

    fn apply(&mut self, input: Input) {
        let mut step = self.pools.apply(self.now, [input]);
        assert_eq!(self.pools.check(), Ok(()));
        self.write(&mut step);
        assert_eq!(self.pools.check(), Ok(()));
        drop(self.pools.view());
        for (_, answer) in step.replies {
            let (_, reply) = split(&answer);
            answered(&reply, MAX_LINE);
            if let Answer::Given { holder, .. } = answer {
                self.given.push(holder);
            }
        }
    }

    /// As the desk does it.
    fn write(&mut self, step: &mut Step) {
        if std::mem::take(&mut self.disk_full) {
            for record in self.pools.undo(step, "the disk is full") {
                self.unwritten.retain(|old| !replaces(&record, old));
                self.unwritten.push(record);
            }
        } else if !step.records.is_empty() || !self.unwritten.is_empty() {
            self.written.append(&mut self.unwritten);
            self.written.append(&mut step.records);
        }
    }

    fn restart_from_journal(&mut self) {
        let Some(again) = Self::restored(self.written.clone(), self.now) else { return };
        if self.unwritten.is_empty() {
            assert_eq!(again.held(), self.held());
        }
        *self = again;
    }

    fn restart_from_snapshot(&mut self) {
        let Some(again) = Self::restored(self.pools.snapshot().collect(), self.now) else { return };
        assert_eq!(again.held(), self.held());
        *self = again;
    }

    fn held(&self) -> Vec<Held> {
        let mut held: Vec<Held> = self
            .pools
            .holders(None)
            .map(|view| ((*view.holder.attachment).clone(), view.holder.id, view.addresses().collect()))
            .collect();
        held.sort();
        held
    }
}

fn answered(reply: &Reply, most: usize) {
    let line = serde_json::to_string(reply);
    assert!(line.as_ref().is_ok_and(|line| !line.contains('\n') && line.len() < most), "{line:?}");
}

fn attachment(name: &str) -> Attachment {
    Attachment { network: "net".into(), container_id: name.into(), interface: "eth0".into() }
}

fn assignment(number: u64) -> Assignment {
    let row = usize::try_from(number).ok().and_then(|number| ROWS.get(number));
    let Some((mode, blocks)) = row else {
        return Assignment { absence: "no IPAMNode".into(), ..Assignment::default() };
    };
    let block = |&(pool, cidr, grant, state): &(&str, &str, u128, BlockState)| {
        Some(BlockRecord { pool: pool.to_owned(), cidr: cidr.parse().ok()?, grant: Uuid::from_u128(grant), state })
    };
    let assigned = Assigned { mode: *mode, node_uid: "uid".into(), generation: 1, note: String::new() };
    let blocks = blocks.iter().filter_map(block).collect();
    Assignment { assigned: Some(assigned), absence: String::new(), blocks }
}
