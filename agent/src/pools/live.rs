//! The verbs.
//!
//! ```text
//! ADD ── holds something? ── yes ──▶ the same again
//!           │ no
//!           ▼
//!        its addresses (`give`) ──▶ given
//!           │ none assigned, or the pool can grow     │ nothing can grow, or not what was asked for
//!           ▼                                         ▼
//!        parked ── assignment, release ──▶ again     code 101, 102, 103, 104
//!           └───── deadline, DEL ──▶ code 11
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use cadastre_api::DEFAULT_POOL;
use cadastre_messages::{Add, Attachment, Check, Status};

use super::book::Hold;
use super::give::{NotGiven, Wanted};
use super::input::{Answer, Assignment, Fresh, Holder, Input, Step, Token};
use super::refusal;
use super::{Live, Pools};
use crate::boot_time::BootTime;
use crate::record::{Gave, Held, HoldId, NetnsRecord, PodName, Record};
use crate::survey::Stray;

/// ADDs that may wait at once. Each holds a connection; with the calls that are served they stay below the 1024 files
/// that a process may have open by default.
pub const MAX_PARKED: usize = 640;

/// An ADD that waits.
#[derive(Debug)]
pub(super) struct Parked {
    pub token: Token,
    pub add: Box<Add>,
    pub seen: bool,
    pub deadline: BootTime,
}

impl Pools<Live> {
    /// Everything that happened, in order.
    pub fn apply(&mut self, now: BootTime, batch: impl IntoIterator<Item = Input>) -> Step {
        let mut step = Step::default();
        for input in batch {
            self.take_in(now, input, &mut step);
        }
        if std::mem::take(&mut self.phase.stirred) {
            self.serve_parked(now, &mut step);
            self.settle(&mut step);
        }
        self.give_up_parked(now, &mut step);
        step
    }

    fn take_in(&mut self, now: BootTime, input: Input, step: &mut Step) {
        match input {
            Input::Add { token, add, seen } => {
                let deadline = now.plus(self.rules.add_wait);
                self.add(now, Parked { token, add, seen, deadline }, step);
            }
            Input::Check { token, check } => step.replies.push((token, self.compare(&check))),
            Input::Del { token, attachment } => self.del(now, token, &attachment, step),
            Input::Gc { token, gone } => {
                for (holder, netns) in gone {
                    self.release_of(now, &holder, &netns, step);
                }
                step.replies.push((token, Answer::Done));
            }
            Input::Status { token, status } => step.replies.push((token, self.status(&status))),
            Input::TakeOver { token, take_over, seen } => self.take_over(now, token, *take_over, &seen, step),
            Input::Hold { token, hold, seen } => {
                let answer = self.hold(hold, seen, now, step).map_or_else(Answer::Failed, |()| Answer::Done);
                step.replies.push((token, answer));
            }
            Input::Assigned(assignment) => self.assign(now, assignment, step),
            Input::PeerGone(token) => self.phase.parked.retain(|parked| parked.token != token),
            Input::Undelivered(holder) => {
                let told = self.book.held.get(&holder.attachment).is_some_and(|hold| hold.confirmed);
                step.undelivered += u64::from(!told && self.release_holder(now, &holder, step));
            }
            Input::Tombstone { attachment, at } => {
                let hold = self.book.held.get(&attachment);
                let before = hold.is_some_and(|hold| at >= hold.held.acked.hundredths());
                step.by_tombstone += u64::from(before && self.release(now, &attachment, step).is_some());
            }
            Input::Pass => {
                self.book.end_cooling(now, self.rules.address_cooling);
                self.try_again(now, step);
                self.settle(step);
            }
            Input::Reclaim(holder, netns) => {
                step.by_proof += u64::from(self.release_of(now, &holder, &netns, step));
            }
        }
    }

    /// When `apply` has something to do without being told.
    #[must_use]
    pub fn next_deadline(&self) -> Option<BootTime> {
        self.phase.parked.front().map(|parked| parked.deadline)
    }

    fn add(&mut self, now: BootTime, parked: Parked, step: &mut Step) {
        match self.try_add(now, &parked, step) {
            Ok(answer) => step.replies.push((parked.token, answer)),
            Err(NotGiven::Ever(failure)) => step.replies.push((parked.token, Answer::Failed(failure))),
            Err(NotGiven::Yet(failure)) if parked.deadline <= now || self.phase.parked.len() >= MAX_PARKED => {
                step.replies.push((parked.token, Answer::Failed(failure)));
            }
            Err(NotGiven::Yet(_)) => self.phase.parked.push_back(parked),
            Err(NotGiven::Unknown) => step.replies.push((parked.token, Answer::TakeOver)),
        }
    }

    fn try_add(&mut self, now: BootTime, parked: &Parked, step: &mut Step) -> Result<Answer, NotGiven> {
        let Parked { token: _, add, seen, deadline: _ } = parked;
        let wanted = Wanted::of(add).map_err(NotGiven::Ever)?;
        if let Some(answer) = self.again(now, add, *seen, &wanted, step) {
            return Ok(answer);
        }
        let taken = self.book.choose(&self.rules, &add.attachment.network, &wanted, now)?;
        let id = self.book.next_id();
        let Add { attachment, netns, pod, asked: _, annotated: _, local: _ } = (**add).clone();
        let addresses = taken.iter().map(|taken| taken.held.clone()).collect();
        let held =
            Held { addresses, netns: netns_record(netns, *seen), pod: pod.map(PodName::from), since: now, acked: now };
        let given = self.book.given(&held, wanted.ranges.as_ref(), false);
        let gave = Gave { id, attachment: attachment.clone(), held: held.clone() };
        let holder = Holder { attachment: Arc::new(attachment), id };
        self.book.held.insert(Arc::clone(&holder.attachment), Arc::new(Hold { id, confirmed: false, held }));
        step.records.push(Record::Gave(Box::new(gave)));
        step.fresh.push(Fresh { holder: holder.clone(), taken });
        Ok(Answer::Given { given, holder, new: true })
    }

    /// The attachment holds addresses already: it is told so again, and a DEL of before does not count any more.
    fn again(&mut self, now: BootTime, add: &Add, seen: bool, wanted: &Wanted, step: &mut Step) -> Option<Answer> {
        let (attachment, _) = self.book.held.get_key_value(&add.attachment)?;
        let attachment = Arc::clone(attachment);
        let hold = Arc::make_mut(self.book.held.get_mut(&attachment)?);
        let netns = netns_record(add.netns.clone(), seen);
        let netns = (netns != hold.held.netns).then_some(netns);
        hold.confirmed = true;
        hold.held.acked = now;
        if let Some(netns) = &netns {
            hold.held.netns.clone_from(netns);
        }
        step.records.push(Record::Acked { id: hold.id, at: now, netns });
        let holder = Holder { attachment, id: hold.id };
        let given = self.book.given(&self.book.held.get(&holder.attachment)?.held, wanted.ranges.as_ref(), true);
        Some(Answer::Given { given, holder, new: false })
    }

    fn del(&mut self, now: BootTime, token: Token, attachment: &Attachment, step: &mut Step) {
        self.cancel_parked(attachment, step);
        let hold = self.release(now, attachment, step);
        if hold.is_none() {
            self.remember_ended(attachment);
        }
        let (addresses, pod) = hold.map_or_else(Default::default, |hold| {
            (hold.held.addresses.iter().map(|held| held.address).collect(), hold.held.pod.clone())
        });
        step.replies.push((token, Answer::Released { addresses, pod }));
    }

    fn cancel_parked(&mut self, attachment: &Attachment, step: &mut Step) {
        for parked in &self.phase.parked {
            if parked.add.attachment == *attachment {
                step.replies.push((parked.token, Answer::Failed(refusal::cancelled(attachment))));
            }
        }
        self.phase.parked.retain(|parked| parked.add.attachment != *attachment);
    }

    fn release(&mut self, now: BootTime, attachment: &Attachment, step: &mut Step) -> Option<Arc<Hold>> {
        let hold = self.book.release(attachment, now)?;
        step.records.push(Record::Released { id: hold.id, at: now });
        self.phase.stirred = true;
        Some(hold)
    }

    /// Releases exactly this allocation, not a later one of the same attachment.
    fn release_holder(&mut self, now: BootTime, holder: &Holder, step: &mut Step) -> bool {
        let same = self.book.held.get(&holder.attachment).is_some_and(|hold| hold.id == holder.id);
        same && self.release(now, &holder.attachment, step).is_some()
    }

    /// The same, if its namespace is still the one that was looked at: an ADD may have come again meanwhile.
    fn release_of(&mut self, now: BootTime, holder: &Holder, netns: &NetnsRecord, step: &mut Step) -> bool {
        let same = self.book.held.get(&holder.attachment).is_some_and(|hold| hold.held.netns == *netns);
        same && self.release_holder(now, holder, step)
    }

    /// CHECK: what we gave is listed, and what is listed of our blocks is what we gave.
    fn compare(&self, check: &Check) -> Answer {
        let Check { attachment, addresses } = check;
        let Some(hold) = self.book.held.get(attachment) else {
            return Answer::Failed(refusal::holds_nothing(attachment));
        };
        let listed = addresses.iter().filter_map(|address| address.parse().ok()).collect::<Vec<std::net::IpAddr>>();
        let ours = || hold.held.addresses.iter().map(|held| held.address);
        let missing = ours().find(|held| !listed.contains(held));
        let network = self.book.networks.get(&attachment.network);
        let in_blocks = |address: &&std::net::IpAddr| {
            let of_network = network.is_some_and(|network| network.holds(**address));
            of_network || self.book.shares.iter().any(|share| share.contains(**address))
        };
        let foreign = listed.iter().filter(in_blocks).find(|address| ours().all(|held| held != **address));
        match (missing, foreign) {
            (None, None) => Answer::Done,
            _ => Answer::Failed(refusal::differs(attachment, ours(), addresses)),
        }
    }

    fn status(&self, status: &Status) -> Answer {
        if let Status { network: Some(network), local: Some(local) } = status {
            let failed = self.book.status_of_ranges(network, local).err();
            return failed.map_or(Answer::Done, |failure| Answer::Failed(refusal::unavailable(failure)));
        }
        let mut places = self.book.assigned_shares(DEFAULT_POOL).peekable();
        if places.peek().is_none() {
            return Answer::Failed(refusal::unavailable(refusal::no_assignment(&self.rules.node, &self.book)));
        }
        let full = places.map(|place| &self.book.shares[place]).find(|share| !share.has_any());
        match full {
            Some(share) if !self.book.can_grow() => {
                Answer::Failed(refusal::unavailable(refusal::exhausted(&self.rules.node, share)))
            }
            _ => Answer::Done,
        }
    }

    fn assign(&mut self, now: BootTime, assignment: Assignment, step: &mut Step) {
        let Assignment { assigned, absence, blocks } = assignment.clone();
        self.hold_strays(&blocks, now, step);
        self.book.absence = absence;
        let mut before = self.book.blocks();
        let mut wanted = crate::record::Blocks { assigned, blocks: self.book.merged(&blocks) };
        before.blocks.sort_by(order);
        wanted.blocks.sort_by(order);
        if before == wanted {
            return;
        }
        self.phase.refused = wanted.blocks.iter().filter(|block| self.book.fits(block).is_err()).cloned().collect();
        self.phase.assignment = Some(assignment);
        step.problems = Some(self.book.set_blocks(&wanted));
        self.book.settle();
        step.records.push(Record::Blocks(self.book.blocks()));
        self.phase.stirred = true;
    }

    /// A block that could not be used may fit now that others gave something up.
    fn try_again(&mut self, now: BootTime, step: &mut Step) {
        if self.phase.refused.iter().any(|block| self.book.fits(block).is_ok())
            && let Some(assignment) = self.phase.assignment.take()
        {
            self.assign(now, assignment, step);
        }
    }

    /// Blocks that are wanted back or were forgotten by the operator may be empty now.
    fn settle(&mut self, step: &mut Step) {
        if self.book.settle() {
            step.records.push(Record::Blocks(self.book.blocks()));
        }
    }

    fn serve_parked(&mut self, now: BootTime, step: &mut Step) {
        for parked in std::mem::take(&mut self.phase.parked) {
            self.add(now, parked, step);
        }
    }

    fn give_up_parked(&mut self, now: BootTime, step: &mut Step) {
        while self.phase.parked.front().is_some_and(|parked| parked.deadline <= now) {
            let Some(parked) = self.phase.parked.pop_front() else { return };
            self.add(now, parked, step);
        }
    }

    /// The records could not be written: nothing of this step was given, and whoever waits for it is told why. What was
    /// released stays released, though its caller is told that it is not recorded. Returns the records that are still to be
    /// written, sooner or later.
    pub fn undo(&mut self, step: &mut Step, error: &str) -> Vec<Record> {
        let fresh: Vec<Fresh> = std::mem::take(&mut step.fresh);
        for Fresh { holder, taken } in fresh.iter().rev() {
            if self.book.held.get(&holder.attachment).is_some_and(|hold| hold.id == holder.id) {
                self.book.forget(&holder.attachment, taken);
            }
        }
        let undone = |id: HoldId| fresh.iter().any(|fresh| fresh.holder.id == id);
        let took_over = std::mem::take(&mut step.took_over);
        for network in took_over.iter().filter_map(|(_, network)| network.as_ref()) {
            self.book.network(network).taken_over = false;
        }
        for (to, answer) in &mut step.replies {
            if let Answer::Released { .. } = answer {
                // The plugin leaves a tombstone then, and that outlives us. Also of one that released nothing: an earlier one
                // may have, and is not recorded either.
                *answer = Answer::Failed(refusal::not_recorded(error));
            }
            let given = matches!(answer, Answer::Given { holder, .. } if undone(holder.id));
            if given || took_over.iter().any(|(token, _)| token == to) {
                *answer = Answer::Failed(refusal::not_written(error));
            }
        }
        let records = std::mem::take(&mut step.records).into_iter();
        let keep = |record: &Record| match record {
            // Told again with the next try.
            Record::TookOver { .. } | Record::LastOfSet { .. } => false,
            Record::Gave(gave) => !undone(gave.id),
            Record::Released { id, .. } | Record::Acked { id, .. } => !undone(*id),
            Record::Blocks(_) | Record::Cooling { .. } | Record::Cursor { .. } | Record::Stray { .. } => true,
        };
        records.filter(keep).collect()
    }

    /// All of it as records, for a journal to begin with.
    pub fn snapshot(&self) -> impl Iterator<Item = Record> + '_ {
        let stray = |stray: &Stray| Record::Stray { address: stray.address, netns: stray.netns.clone() };
        self.book.snapshot().chain(self.phase.strays.iter().map(stray))
    }

    /// Attachments that hold something.
    #[must_use]
    pub fn held(&self) -> usize {
        self.book.held.len()
    }
}

fn netns_record(netns: cadastre_messages::Netns, seen: bool) -> NetnsRecord {
    let cadastre_messages::Netns { path, device, inode } = netns;
    NetnsRecord { path, device, inode, seen }
}

fn order(one: &crate::record::BlockRecord, other: &crate::record::BlockRecord) -> std::cmp::Ordering {
    (&one.pool, one.cidr).cmp(&(&other.pool, other.cidr))
}

/// No ADD waits yet.
impl Live {
    pub(super) fn parked(&self) -> &VecDeque<Parked> {
        &self.parked
    }
}
