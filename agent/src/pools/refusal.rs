//! What callers are told when they get nothing: which object, what is wrong with it, and the remedy.

use std::net::IpAddr;

use cadastre_messages::{Attachment, Failure, code};

use super::book::Book;
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

/// The journal cannot be read.
#[must_use]
pub fn broken(why: &str) -> Failure {
    failure(code::TRY_AGAIN, format!("no address is given: {why}"), "")
}
