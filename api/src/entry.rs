//! An entry of the ledger: one block that is not free, written as one line of text.
//!
//! ```text
//! 10.0.3.0/24 held node-3 since=2026-11-21T18:00:00Z uid=5f6c… grant=8a0e… machine=ec2d…
//! ```
//!
//! A line, since every JSON value costs the API server time each time that it decodes, validates, copies and encodes the
//! page: a write of 64 entries took it 11 ms with an object for each, and takes 3.5 ms with a line (docs/decisions/0018).

use std::fmt;
use std::str::FromStr;

use cadastre_core::{Cidr, CidrError};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::schema::inline_schema;

/// One block that is not free.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BlockEntry {
    /// The block.
    pub block: Cidr,
    /// How far it is.
    pub state: BlockState,
    /// Name of the node.
    pub node: String,
    /// Since when it is in this state. Written in whole seconds.
    pub since: Time,
    /// UID of the Node object.
    pub uid: String,
    /// This assignment. Drawn at random, never used twice.
    pub grant: Uuid,
    /// What tells that the same machine registered again (`status.nodeInfo.systemUUID`, else machineID), without spaces;
    /// empty if unknown.
    pub machine: String,
}

/// Why a line is no entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry of the ledger {line:?}: {why}")]
pub struct EntryError {
    line: String,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error(transparent)]
    Block(#[from] CidrError),
    #[error("its state is none of pending, held and cooling")]
    State,
    #[error("its node is no name of a Node")]
    Node,
    #[error("it lacks {0}")]
    Lacks(&'static str),
    #[error("since= is no time such as 2026-11-21T18:00:00Z")]
    Since,
    #[error("grant= is no UUID")]
    Grant,
    #[error("there is more than an entry has")]
    More,
}

/// Life of a block that is not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockState {
    /// Committed, but the node's other family is not yet: not published.
    Pending,
    /// The node may use it.
    Held,
    /// Its Node is gone; not to be given to another yet.
    Cooling,
}

impl BlockState {
    const ALL: [Self; 3] = [Self::Pending, Self::Held, Self::Cooling];

    const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Cooling => "cooling",
        }
    }
}

impl fmt::Display for BlockEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { block, state, node, since, uid, grant, machine } = self;
        write!(f, "{block} {} {node} since={} uid={uid} grant={grant}", state.name(), since.0.strftime(SINCE))?;
        if machine.is_empty() { Ok(()) } else { write!(f, " machine={machine}") }
    }
}

/// As Kubernetes writes times.
const SINCE: &str = "%Y-%m-%dT%H:%M:%SZ";

impl FromStr for BlockEntry {
    type Err = EntryError;

    fn from_str(line: &str) -> Result<Self, EntryError> {
        read(line).map_err(|why| EntryError { line: line.to_owned(), why })
    }
}

fn read(line: &str) -> Result<BlockEntry, Why> {
    let mut words = line.split(' ');
    let block = words.next().unwrap_or_default().parse()?;
    let state = words.next().unwrap_or_default();
    let state = BlockState::ALL.into_iter().find(|known| known.name() == state).ok_or(Why::State)?;
    let node = words.next().filter(|node| !node.is_empty()).ok_or(Why::Lacks("a node"))?.to_owned();
    let is_of_names = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if !node.bytes().all(is_of_names) {
        return Err(Why::Node);
    }
    let mut field = |name| {
        let value = words.next().and_then(|word| word.strip_prefix(name));
        value.filter(|value| !value.is_empty())
    };
    let written = field("since=").ok_or(Why::Lacks("since="))?;
    let since: Timestamp = written.parse().map_err(|_| Why::Since)?;
    if since.strftime(SINCE).to_string() != written {
        return Err(Why::Since);
    }
    let uid = field("uid=").ok_or(Why::Lacks("uid="))?.to_owned();
    let grant = field("grant=").ok_or(Why::Lacks("grant="))?.parse().map_err(|_| Why::Grant)?;
    let machine = match words.next() {
        None => String::new(),
        Some(word) => word.strip_prefix("machine=").ok_or(Why::More)?.to_owned(),
    };
    if words.next().is_some() {
        return Err(Why::More);
    }
    Ok(BlockEntry { block, state, node, since: Time(since), uid, grant, machine })
}

impl From<BlockEntry> for String {
    fn from(entry: BlockEntry) -> Self {
        entry.to_string()
    }
}

impl TryFrom<String> for BlockEntry {
    type Error = EntryError;

    fn try_from(line: String) -> Result<Self, EntryError> {
        line.parse()
    }
}

inline_schema!(BlockEntry, "BlockEntry", {
    "type": "string",
    "description": "Block, state, node; since when, UID of the Node, the assignment, and the machine if known.",
    // A block of 43 characters, a name of 253, UID and machine of 64 each, and the rest of fixed length.
    "maxLength": 540,
    "pattern": concat!(
        "^[0-9a-f:.]+/[0-9]{1,3} (pending|held|cooling) [a-z0-9.-]+",
        " since=[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z uid=[^ ]+",
        " grant=[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}( machine=[^ ]+)?$",
    ),
});

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        "10.0.3.0/24 held node-3 since=2026-11-21T18:00:00Z uid=u-1 grant=00000000-0000-4000-8000-000000000007";

    #[test]
    fn reads_what_it_writes() {
        let entry: BlockEntry = LINE.parse().unwrap();
        assert_eq!(entry.to_string(), LINE);
        assert_eq!((&*entry.node, &*entry.uid, &*entry.machine), ("node-3", "u-1", ""));
        assert_eq!((entry.block, entry.state), ("10.0.3.0/24".parse().unwrap(), BlockState::Held));
        let known = BlockEntry { machine: "ec2d".into(), block: "fd00::/64".parse().unwrap(), ..entry };
        assert_eq!(serde_json::from_value::<BlockEntry>(serde_json::to_value(&known).unwrap()).unwrap(), known);
        for state in BlockState::ALL {
            let entry = BlockEntry { state, ..known.clone() };
            assert_eq!(entry.to_string().parse(), Ok(entry));
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_line() {
        let why = |line: &str| line.parse::<BlockEntry>().unwrap_err().to_string();
        assert!(why("").starts_with(r#"entry of the ledger "": "" has no prefix length"#));
        for (from, to, expected) in [
            (" held", " taken", "its state is none of pending, held and cooling"),
            (" held node-3", " held", "its node is no name of a Node"),
            ("since=", "at=", "it lacks since="),
            ("node-3", "", "it lacks a node"),
            ("2026", "yesterday", "since= is no time such as 2026-11-21T18:00:00Z"),
            ("2026", "-002026", "since= is no time such as 2026-11-21T18:00:00Z"),
            ("node-3", "../n?x=y", "its node is no name of a Node"),
            ("uid=u-1", "uid=", "it lacks uid="),
            ("=00000000", "=x", "grant= is no UUID"),
            ("grant=", "", "it lacks grant="),
        ] {
            assert!(why(&LINE.replacen(from, to, 1)).ends_with(expected), "{}", why(&LINE.replacen(from, to, 1)));
        }
        assert!(why(&format!("{LINE} machine=a b")).ends_with("there is more than an entry has"));
        assert!(why(&format!("{LINE} more=a")).ends_with("there is more than an entry has"));
    }
}
