//! What the CNI plugin, the status command and the agent say to each other over the agent's unix socket.
//!
//! ```text
//! plugin ── one JSON line: Request ──▶ agent
//! plugin ◀── one JSON line: Reply ──── agent        (then the connection is closed)
//! plugin ── agent away, verb DEL ──▶ <socket folder>/tombstones/<unique>.json: Tombstone
//! ```
//!
//! Serde and nothing else: the plugin links this crate, and everything it links delays every pod. Addresses are
//! strings here, because the plugin only passes them on; the agent parses what it reads.

pub mod asked;
pub mod explain;
mod local;
pub mod report;

use serde::{Deserialize, Serialize};

pub use local::{LastReserved, Local, Range, Reservation, TakeOver};

/// Version of this protocol. A peer that reads another one answers [`Reply::Error`] and does nothing.
pub const PROTOCOL: u32 = 1;

/// Longest line either side accepts, in bytes: a GC of 250 attachments takes about 30 KiB.
pub const MAX_LINE: usize = 64 * 1024;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/cadastre/cadastre.sock";

/// Folder beside the socket that holds what DEL left while the agent was away.
pub const TOMBSTONES: &str = "tombstones";

/// CNI error codes of the specification (1–99) and ours (100 and up).
pub mod code {
    /// The configuration's `cniVersion`, or the verb at that version, is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported; the message names key and value.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The environment is incomplete or malformed.
    pub const BAD_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// What was read is not what it should be (JSON, version).
    pub const DECODE: u32 = 6;
    /// The network configuration is invalid.
    pub const BAD_CONFIG: u32 = 7;
    /// Try again later: nothing is wrong that time does not mend.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: no ADD can be served.
    pub const NOT_AVAILABLE: u32 = 50;
    /// Internal error.
    pub const INTERNAL: u32 = 999;
    /// Nothing is free and nothing can grow.
    pub const EXHAUSTED: u32 = 101;
    /// The address asked for is held by another.
    pub const ADDRESS_TAKEN: u32 = 102;
    /// The address asked for lies in no block of this node.
    pub const ADDRESS_OUTSIDE: u32 = 103;
    /// The address asked for is reserved.
    pub const ADDRESS_RESERVED: u32 = 104;
    /// CHECK: the attachment does not hold what `prevResult` says.
    pub const CHECK_FAILED: u32 = 105;
}

/// One line from the plugin or the status command to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// What is asked.
    #[serde(flatten)]
    pub call: Call,
}

impl Request {
    /// A request of this protocol version.
    #[must_use]
    pub fn new(call: Call) -> Self {
        Self { protocol: PROTOCOL, call }
    }
}

/// The verbs. The first five are CNI's; `report` is what the status command asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub enum Call {
    /// Give the attachment an address of each family the node serves; the same again answers the same.
    Add(Add),
    /// Is this attachment still holding these addresses?
    Check(Check),
    /// Release what the attachment holds. Succeeds also when it holds nothing.
    Del(Del),
    /// Release every attachment of the network that is not listed.
    Gc(Gc),
    /// Could an ADD be served now?
    Status(Status),
    /// What another IPAM plugin reserved for this network before, which the agent asked for.
    TakeOver(TakeOver),
    /// An audit found this address in use, and nobody holds it.
    Hold(Hold),
    /// The agent's whole state, for people.
    Report,
    /// What is known of an address or a pod, for people.
    Explain(explain::Explain),
}

/// Who holds an address: one interface of one container in one network.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// `name` of the network configuration.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub interface: String,
}

/// The pod behind an attachment, as far as the runtime told it in `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`, which older runtimes do not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// The network namespace as the plugin saw it, on the host's own mounts, when ADD was called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netns {
    /// `CNI_NETNS`.
    pub path: String,
    /// Device of the file behind `path`; 0 with `inode` 0 if it could not be read.
    pub device: u64,
    /// Inode of the file behind `path`.
    pub inode: u64,
}

/// Arguments of [`Call::Add`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    /// Who asks.
    pub attachment: Attachment,
    /// Where the interface will live.
    pub netns: Netns,
    /// The pod, if the runtime named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// Addresses that the caller asks for, without prefix length. What is not asked for is chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<String>,
    /// The runtime passed the pod's annotations: what they ask for is in `asked`, and nobody need look them up.
    #[serde(default, skip_serializing_if = "is_false")]
    pub annotated: bool,
    /// The ranges of the network, if its configuration has any: it is a pool of its own then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Local>,
}

impl Add {
    /// An ADD that asks for no address in particular, in a network without ranges of its own.
    #[must_use]
    pub const fn new(attachment: Attachment, netns: Netns, pod: Option<Pod>) -> Self {
        Self { attachment, netns, pod, asked: Vec::new(), annotated: false, local: None }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Arguments of [`Call::Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The network that is asked about, if it has ranges of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Its ranges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Local>,
}

/// Arguments of [`Call::Check`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Whose addresses.
    pub attachment: Attachment,
    /// What `prevResult` lists, without prefix length.
    pub addresses: Vec<String>,
}

/// Arguments of [`Call::Del`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Del {
    /// Whose addresses.
    pub attachment: Attachment,
}

/// Arguments of [`Call::Hold`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The address, without prefix length.
    pub address: String,
    /// The namespace that has it: when that is gone, the address is free.
    pub netns: Netns,
}

/// Arguments of [`Call::Gc`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// Only attachments of this network are touched.
    pub network: String,
    /// What is still valid in it.
    pub valid: Vec<ValidAttachment>,
}

/// One entry of `cni.dev/valid-attachments`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ValidAttachment {
    /// `containerID` of the list.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `ifname` of the list.
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// One line from the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub enum Reply {
    /// Done, nothing to tell.
    Ok,
    /// What ADD gave.
    Given(Given),
    /// ADD of a network that is new to the agent: it wants a [`Call::TakeOver`] first, then the ADD again.
    TakeOver,
    /// It failed; the plugin prints this as a CNI error.
    Error(Failure),
    /// What [`Call::Report`] asked for.
    Report(Box<report::Report>),
    /// What [`Call::Explain`] asked for.
    Explanation(Box<explain::Explanation>),
}

/// The addresses of one attachment, IPv4 first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// At most one for each family, or one for each set of a network's ranges.
    pub addresses: Vec<GivenAddress>,
    /// The attachment had them before: a plugin that cannot use the answer must not give them back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub again: bool,
}

/// One address with what an interface plugin needs beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenAddress {
    /// `10.0.2.48/24`: the address with the prefix length of its block.
    pub address: String,
    /// The block's router, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// A CNI error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One of [`code`].
    pub code: u32,
    /// What is wrong, of which object, in a line.
    pub msg: String,
    /// The remedy, or what else helps.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// A DEL that found no agent: written by the plugin, replayed and removed by the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// [`PROTOCOL`] of the writer.
    pub protocol: u32,
    /// `/proc/sys/kernel/random/boot_id`: another boot's tombstone is void.
    pub boot_id: String,
    /// Time since boot, suspended time included (first field of `/proc/uptime`), in hundredths of a second.
    pub at: u64,
    /// What to release, unless it was acknowledged after `at`.
    pub attachment: Attachment,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_flat_line() {
        let attachment = Attachment { network: "net".into(), container_id: "c1".into(), interface: "eth0".into() };
        let line = serde_json::to_string(&Request::new(Call::Del(Del { attachment }))).unwrap();
        assert_eq!(
            line,
            r#"{"protocol":1,"verb":"del","attachment":{"network":"net","containerId":"c1","interface":"eth0"}}"#
        );
        let back: Request = serde_json::from_str(&line).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), line);
        let status: Request = serde_json::from_str(r#"{"protocol":1,"verb":"status"}"#).unwrap();
        assert_eq!(status.call, Call::Status(Status::default()));
    }

    #[test]
    fn replies_carry_their_kind() {
        let line = serde_json::to_string(&Reply::Error(Failure { code: 11, msg: "m".into(), details: String::new() }))
            .unwrap();
        assert_eq!(line, r#"{"reply":"error","code":11,"msg":"m"}"#);
        assert_eq!(serde_json::from_str::<Reply>(r#"{"reply":"ok"}"#).unwrap(), Reply::Ok);
    }
}
