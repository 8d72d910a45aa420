//! What callers are told when they get nothing: which object, what is wrong with it, and the remedy.

use std::net::IpAddr;

use cadastre_core::Cidr;
use cadastre_messages::{Attachment, Failure, code};

use super::book::Book;
use super::local::{Network, NotThis, Used, network_of};
use super::ranges::Set;
use super::share::Share;

fn failure(code: u32, msg: String, details: impl Into<String>) -> Failure {
    Failure { code, msg, details: details.into() }
}

/// The operator has assigned nothing.
pub(super) fn no_assignment(node: &str, book: &Book) -> Failure {
    let msg = match &book.assigned {
        Some(assigned) if assigned.note.is_empty() => format!("node {node} has no block assigned yet"),
        Some(assigned) => format!("node {node} has no block assigned: {}", assigned.note),
        None if book.absence.is_empty() => format!("node {node} has no address to give: it has no IPAMNode yet"),
        None => format!("node {node} has no address to give: {}", book.absence),
    };
    failure(
        code::TRY_AGAIN,
        msg,
        format!("see `kubectl describe ipamnode {node}` and the operator's log; the ADD may be repeated"),
    )
}

/// What an audit found is none of ours.
pub(super) fn of_no_block(address: &str) -> Failure {
    failure(code::ADDRESS_OUTSIDE, format!("{address} lies in no block of this node"), "run the audit again")
}

/// What an audit found is over.
pub(super) fn namespace_gone(path: &str) -> Failure {
    failure(code::TRY_AGAIN, format!("the namespace {path} is not there any more"), "run the audit again")
}

/// Every address is held.
pub(super) fn exhausted(node: &str, share: &Share) -> Failure {
    let counts = share.counts();
    let blocks: Vec<String> = share.blocks.iter().map(|block| block.cidr.to_string()).collect();
    let (pool, family) = (&share.pool, share.family);
    let msg = format!(
        "pool {pool} is exhausted on node {node}: {} of {} {family} addresses of {} are held, {} cooling",
        counts.allocated,
        counts.capacity,
        blocks.join(", "),
        counts.cooling
    );
    let details = "run fewer pods on this node (kubelet's maxPods), or give nodes larger blocks (a smaller mask size) in a new pool";
    failure(code::EXHAUSTED, msg, details)
}

/// The ranges of a network are full.
pub(super) fn ranges_exhausted(name: &str, network: &Network, set: &Set) -> Failure {
    let ranges: Vec<String> = set.ranges.iter().map(super::ranges::Range::text).collect();
    let Used { held, taken, yielded: _ } = network.used(set.family);
    let msg = format!(
        "network {name} is exhausted: no {} address of {} is free; {held} are held, {} cooling",
        set.family,
        ranges.join(", "),
        taken.saturating_sub(held.into())
    );
    failure(code::EXHAUSTED, msg, "run fewer pods in this network on this node, or append a range to ipam.ranges")
}

/// The ranges of a network touch what the operator assigned.
pub(super) fn overlaps(network: &str, range: &str, pool: &str, block: &Cidr) -> Failure {
    let msg =
        format!("the range {range} of network {network} overlaps block {block} of pool {pool}, which this node holds");
    failure(
        code::BAD_CONFIG,
        msg,
        "choose other ranges; or drain the node, and then remove the ranges to get addresses of the block",
    )
}

/// What is asked for is no address.
pub(super) fn not_an_address(text: &str) -> Failure {
    failure(code::BAD_CONFIG, format!("{text:?}, which was asked for, is not an address"), "write it as \"10.1.2.3\"")
}

/// An attachment has one address of a family.
pub(super) fn two_of_a_family(one: IpAddr, other: IpAddr) -> Failure {
    let msg = format!("{one} and {other} were asked for, and an attachment gets one address of each family");
    failure(code::BAD_CONFIG, msg, "ask for one of them")
}

/// An address that was asked for cannot be had.
pub(super) fn not_this(book: &Book, pool: &str, address: IpAddr, why: &NotThis) -> Failure {
    let of = network_of(pool).map_or_else(|| format!("pool {pool}"), |network| format!("network {network}"));
    match why {
        NotThis::Outside => {
            let msg = format!("{address}, which was asked for, is of none of the ranges that {of} has on this node");
            failure(code::ADDRESS_OUTSIDE, msg, "ask for one of those that `cadastre-agent status` shows, or for none")
        }
        NotThis::Reserved => {
            let msg = format!(
                "{address}, which was asked for, is reserved in {of}: it is the first, the last or the gateway"
            );
            failure(code::ADDRESS_RESERVED, msg, "ask for another address")
        }
        NotThis::Taken => {
            let owner = book.owner_of(pool, address).unwrap_or_else(|| "somebody who is not known".to_owned());
            let msg = format!("{address} of {of}, which was asked for, is held by {owner}");
            failure(code::ADDRESS_TAKEN, msg, "ask for another address, or delete that pod first")
        }
    }
}

/// A DEL came while the ADD waited.
pub(super) fn cancelled(attachment: &Attachment) -> Failure {
    let Attachment { network, container_id, interface } = attachment;
    let msg = format!("ADD of {network}/{container_id}/{interface} was cancelled by a DEL of the same attachment");
    failure(code::TRY_AGAIN, msg, "")
}

/// CHECK of an attachment that is not known.
pub(super) fn holds_nothing(attachment: &Attachment) -> Failure {
    let Attachment { network, container_id, interface } = attachment;
    let msg = format!("{network}/{container_id}/{interface} holds no address");
    failure(code::CHECK_FAILED, msg, "the pod has to be created anew")
}

/// CHECK of an attachment that holds something else.
pub(super) fn differs(attachment: &Attachment, held: impl Iterator<Item = IpAddr>, listed: &[String]) -> Failure {
    let Attachment { network, container_id, interface } = attachment;
    let held: Vec<String> = held.map(|held| held.to_string()).collect();
    let msg = format!(
        "{network}/{container_id}/{interface} holds {}, but prevResult says {}",
        held.join(", "),
        if listed.is_empty() { "nothing".to_owned() } else { listed.join(", ") }
    );
    failure(code::CHECK_FAILED, msg, "the pod has to be created anew")
}

/// The same, as STATUS says it.
pub(super) fn unavailable(why: Failure) -> Failure {
    Failure { code: code::NOT_AVAILABLE, ..why }
}

/// The journal cannot be written.
#[must_use]
pub fn not_written(why: &str) -> Failure {
    let details = "make room in, or repair, the agent's state folder; the ADD may be repeated";
    failure(code::TRY_AGAIN, format!("the address could not be recorded, so none was given: {why}"), details)
}

/// A DEL while the journal cannot be written.
pub(super) fn not_recorded(why: &str) -> Failure {
    let msg = format!("released, but it could not be recorded: {why}");
    failure(code::TRY_AGAIN, msg, "make room in, or repair, the agent's state folder")
}

/// The journal cannot be read.
#[must_use]
pub fn broken(why: &str) -> Failure {
    let details = "repair the agent's state folder: it is tried again every few seconds; the ADD may be repeated";
    failure(code::TRY_AGAIN, format!("no address is given: {why}"), details)
}
