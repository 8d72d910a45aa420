//! What makes a test of the pools four lines long.

use std::path::Path;
use std::time::Duration;

use cadastre_api::Mode;
use cadastre_messages::{Add, Attachment, Check, DEFAULT_SOCKET, Local, Netns, Pod, Range, Status, TakeOver};
use uuid::Uuid;

use crate::boot_time::BootTime;
use crate::desk::Opener;
use crate::pools::{Answer, Assignment, Input, Live, Pools, Restoring, Rules, Step, Token};
use crate::record::{Assigned, BlockRecord, BlockState, NetnsRecord, Record};
use crate::survey::Places;

pub const REST: Duration = Duration::from_secs(30);
pub const WAIT: Duration = Duration::from_secs(10);

pub fn rules() -> Rules {
    Rules { node: "n1".into(), address_cooling: REST, add_wait: WAIT }
}

/// Of a state folder; what lives on the node is looked for beside it.
pub fn opener(folder: &Path, boot: &str) -> Opener {
    let beside = |name: &str| folder.join(name);
    let places = Places { cache: beside("cni"), namespaces: beside("netns"), socket: DEFAULT_SOCKET.into() };
    Opener { folder: folder.to_owned(), boot: boot.to_owned(), rules: rules(), places }
}

pub fn at(seconds: u64) -> BootTime {
    BootTime::from_millis(seconds * 1_000)
}

pub fn attachment(name: &str) -> Attachment {
    Attachment { network: "net".into(), container_id: name.into(), interface: "eth0".into() }
}

pub fn add(name: &str) -> Input {
    let netns = Netns { path: format!("/run/netns/{name}"), device: 4, inode: 7 };
    let pod = Some(Pod { namespace: "default".into(), name: name.into(), uid: Some(format!("uid-{name}")) });
    Input::Add { token: token(name), add: Box::new(Add::new(attachment(name), netns, pod)), seen: true }
}

/// The namespace that `add` names.
pub fn netns(name: &str) -> NetnsRecord {
    NetnsRecord { path: format!("/run/netns/{name}"), device: 4, inode: 7, seen: true }
}

/// An ADD that asks for these addresses.
pub fn asking(name: &str, asked: &[&str]) -> Input {
    changed(add(name), |add| add.asked = asked.iter().map(ToString::to_string).collect())
}

/// An ADD in a network with ranges, each `10.1.2.0/29`, or `10.1.2.0/24 10.1.2.9-10.1.2.20`.
pub fn local_add(name: &str, sets: &[&[&str]]) -> Input {
    changed(add(name), |add| add.local = Some(local(sets)))
}

pub fn changed(input: Input, change: impl FnOnce(&mut Add)) -> Input {
    match input {
        Input::Add { token, mut add, seen } => {
            change(&mut add);
            Input::Add { token, add, seen }
        }
        other => other,
    }
}

pub fn local(sets: &[&[&str]]) -> Local {
    let range = |text: &&str| {
        let (subnet, ends) =
            text.split_once(' ').map_or((*text, None), |(subnet, ends)| (subnet, ends.split_once('-')));
        let (range_start, range_end) = ends.map(|(start, end)| (start.to_owned(), end.to_owned())).unzip();
        Range { subnet: subnet.to_owned(), range_start, range_end, gateway: None }
    };
    Local { sets: sets.iter().map(|set| set.iter().map(range).collect()).collect() }
}

pub fn take_over(take_over: TakeOver) -> Input {
    let seen = vec![true; take_over.reservations.len()];
    Input::TakeOver { token: token("t"), take_over: Box::new(take_over), seen }
}

/// Nothing was reserved by another plugin in `net`.
pub fn nothing_before() -> Input {
    take_over(TakeOver { network: "net".into(), reservations: vec![], last: vec![], done: true })
}

pub fn ask_status(local: Option<Local>) -> Input {
    let network = local.is_some().then(|| "net".to_owned());
    Input::Status { token: token("s"), status: Status { network, local } }
}

pub fn del(name: &str) -> Input {
    Input::Del { token: token(name), attachment: attachment(name) }
}

pub fn check(name: &str, addresses: &[&str]) -> Input {
    let addresses = addresses.iter().map(ToString::to_string).collect();
    Input::Check { token: token(name), check: Check { attachment: attachment(name), addresses } }
}

/// The same for the same name, so that a test finds its reply.
pub fn token(name: &str) -> Token {
    Token(name.bytes().fold(7, |token, byte| token * 131 + u64::from(byte)))
}

/// `10.0.2.0/29`, or `10.0.2.0/29 retiring`, under a grant that follows from the CIDR and `round`.
pub fn block(text: &str, round: u128) -> BlockRecord {
    let (cidr, retiring) = text.split_once(' ').map_or((text, false), |(cidr, _)| (cidr, true));
    let cidr: cadastre_core::Cidr = cidr.parse().unwrap();
    let state = if retiring { BlockState::Retiring } else { BlockState::Active };
    let grant = Uuid::from_u128(cidr.first() << 16 | u128::from(cidr.prefix_len()) << 8 | round);
    BlockRecord { pool: "default".into(), cidr, grant, state }
}

pub fn assigned(blocks: &[&str]) -> Input {
    assignment(blocks, 1)
}

pub fn assignment(blocks: &[&str], generation: i64) -> Input {
    let assigned = Assigned {
        mode: Mode::ClusterPool,
        node_uid: "node-uid".into(),
        generation,
        note: if blocks.is_empty() { "pool default has no free block".into() } else { String::new() },
    };
    let blocks = blocks.iter().map(|text| block(text, 0)).collect();
    Input::Assigned(Assignment { assigned: Some(assigned), absence: String::new(), blocks })
}

pub fn gone() -> Input {
    Input::Assigned(Assignment { assigned: None, absence: "it was deleted".into(), blocks: vec![] })
}

pub fn live(blocks: &[&str]) -> Pools<Live> {
    let mut pools = Pools::<Restoring>::new(rules()).live(at(0)).unwrap();
    pools.apply(at(0), [assigned(blocks)]);
    pools
}

pub fn restored(records: impl IntoIterator<Item = Record>, now: BootTime) -> Pools<Live> {
    let mut pools = Pools::<Restoring>::new(rules());
    records.into_iter().for_each(|record| pools.restore(record));
    pools.live(now).unwrap()
}

/// One batch, and the invariants after it.
pub fn step(pools: &mut Pools<Live>, now: BootTime, batch: impl IntoIterator<Item = Input>) -> Step {
    let step = pools.apply(now, batch);
    pools.check().unwrap();
    step
}

/// What `name` was told, as `10.0.2.2/29 via 10.0.2.1`, `ok`, a code, or `waits`.
pub fn told(step: &Step, name: &str) -> String {
    let said = step.replies.iter().rev().find(|(to, _)| *to == token(name)).map(|(_, answer)| answer);
    match said {
        None => "waits".into(),
        Some(Answer::TakeOver) => "take over".into(),
        Some(Answer::Done | Answer::Released { .. }) => "ok".into(),
        Some(Answer::Failed(failure)) => failure.code.to_string(),
        Some(Answer::Given { given, .. }) => {
            let one = |given: &cadastre_messages::GivenAddress| match &given.gateway {
                Some(gateway) => format!("{} via {gateway}", given.address),
                None => given.address.clone(),
            };
            given.addresses.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    }
}

/// One input, and what its caller was told.
pub fn ask(pools: &mut Pools<Live>, now: BootTime, name: &str, input: Input) -> String {
    told(&step(pools, now, [input]), name)
}

/// Why `name` failed.
pub fn why(step: &Step, name: &str) -> String {
    let failed = |(to, answer): &(Token, Answer)| match answer {
        Answer::Failed(failure) if *to == token(name) => Some(failure.msg.clone()),
        _ => None,
    };
    step.replies.iter().find_map(failed).unwrap_or_default()
}
