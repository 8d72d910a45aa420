//! `cadastre-agent explain POD|ADDRESS`: who has an address, since when, where it came from and what would free it; or why a
//! pod has none.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use cadastre_messages::explain::{Explain, Explanation, Finding, HeldFinding};
use cadastre_messages::{Attachment, Call, Failure, Reply};

use super::{ask_in_time, duration, garbled};

/// Asks and prints. Returns whether anything is known.
pub fn explain(socket: &Path, what: &str, json: bool) -> anyhow::Result<bool> {
    let reply = ask_in_time(socket, Call::Explain(Explain { what: what.to_owned() }))?;
    let explanation = match reply {
        Reply::Explanation(explanation) => *explanation,
        Reply::Error(Failure { msg, details, .. }) => anyhow::bail!("{msg} {details}"),
        other => return Err(garbled(socket, &format!("{other:?}")).into()),
    };
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &explanation)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", render(&explanation))?;
    }
    Ok(!explanation.findings.is_empty())
}

fn render(explanation: &Explanation) -> String {
    let Explanation { what, findings, note } = explanation;
    let mut text: String = findings.iter().map(one).collect();
    if !note.is_empty() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{what}: {note}");
    }
    text
}

fn one(finding: &Finding) -> String {
    match finding {
        Finding::Held(held) => one_held(held),
        Finding::Cooling { address, from, seconds, left } => {
            let (since, left) = (duration(*seconds), duration(*left));
            format!(
                "{address} rests since {since}, and for {left} more nobody gets it unless nothing else is free\n  from         {from}\n"
            )
        }
        Finding::Router { address, from } => format!("{address} is a gateway\n  from         {from}\n"),
        Finding::Reserved { address, from } => {
            format!(
                "{address} is kept back, as the first or last of its block, or outside of what a range gives: nobody gets it\n  from         {from}\n"
            )
        }
        Finding::Free { address, from } => format!("{address} is free\n  from         {from}\n"),
        Finding::Closed { address, from } => {
            format!("{address} is held by nobody, and nobody gets it\n  from         {from}\n")
        }
        Finding::Waiting { attachment, owner, left, reason } => {
            let (who, left) = (name(attachment), duration(*left));
            format!(
                "{owner} waits for an address, for {left} more\n  attachment   {who}\n  because      {}\n",
                said(reason)
            )
        }
        Finding::Refused { attachment, owner, seconds, reason } => {
            let (who, since) = (name(attachment), duration(*seconds));
            format!("{owner} was given no address {since} ago\n  attachment   {who}\n  because      {}\n", said(reason))
        }
    }
}

fn one_held(held: &HeldFinding) -> String {
    let HeldFinding { address, from, owner, pod_uid, attachment, since, told, netns, netns_state, freed_by } = held;
    let uid = pod_uid.as_ref().map(|uid| format!(" (pod UID {uid})")).unwrap_or_default();
    let told = told.map(|told| format!("; last told {} ago", duration(told))).unwrap_or_default();
    let netns =
        if netns.is_empty() { "not known".to_owned() } else { format!("{netns}, which {}", lives(netns_state)) };
    format!(
        "{address} is held by {owner}{uid}\n  attachment   {}\n  since        {} ago{told}\n  from         {from}\n  namespace    {netns}\n  freed by     {freed_by}\n",
        name(attachment),
        duration(*since),
    )
}

fn lives(state: &str) -> &'static str {
    match state {
        "lives" => "lives",
        "gone" => "is gone",
        _ => "the agent cannot see",
    }
}

fn name(attachment: &Attachment) -> String {
    let Attachment { network, container_id, interface } = attachment;
    format!("{network}/{container_id}/{interface}")
}

fn said(failure: &Failure) -> String {
    let Failure { code, msg, details } = failure;
    if details.is_empty() { format!("{msg} (code {code})") } else { format!("{msg}: {details} (code {code})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_address_says_who_since_when_where_from_and_what_frees_it() {
        let attachment = Attachment { network: "pods".into(), container_id: "c1".into(), interface: "eth0".into() };
        let held = HeldFinding {
            address: "10.0.2.48".into(),
            from: "block 10.0.2.0/24 of pool default".into(),
            owner: "default/nginx".into(),
            pod_uid: Some("u-1".into()),
            attachment: attachment.clone(),
            since: 7_380,
            told: Some(60),
            netns: "/run/netns/cni-1".into(),
            netns_state: "lives".into(),
            freed_by: "the DEL of pods/c1/eth0".into(),
        };
        let reason = Failure { code: 101, msg: "pool default is exhausted".into(), details: "run fewer pods".into() };
        let refused = Finding::Refused { attachment, owner: "default/x".into(), seconds: 4, reason };
        let findings = vec![Finding::Held(Box::new(held)), refused];
        assert_eq!(
            render(&Explanation { what: "x".into(), findings, note: String::new() }),
            "\
10.0.2.48 is held by default/nginx (pod UID u-1)
  attachment   pods/c1/eth0
  since        2 h 3 min ago; last told 1 min ago
  from         block 10.0.2.0/24 of pool default
  namespace    /run/netns/cni-1, which lives
  freed by     the DEL of pods/c1/eth0
default/x was given no address 4 s ago
  attachment   pods/c1/eth0
  because      pool default is exhausted: run fewer pods (code 101)
"
        );
        let nothing = Explanation { what: "y".into(), findings: vec![], note: "no ADD came".into() };
        assert_eq!(render(&nothing), "y: no ADD came\n");
    }
}
