//! `cadastre-agent audit`: says what is wrong with the addresses of this node, and mends one finding at a time if asked to.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::bail;
use cadastre_messages::{Call, Del, Failure, Hold, Reply};
use cadastre_runtime::AuditVerdict;
use serde::Serialize;

use super::{ask_in_time, garbled};
use crate::audit::gather::{Sources, gather};
use crate::audit::{Finding, Fix, audit};

/// Between the two looks: longer than an interface plugin takes to set an address after it was given one.
const PAUSE: Duration = Duration::from_secs(3);

/// What was looked at, and found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    findings: Vec<Finding>,
    held: usize,
    namespaces: usize,
    /// None if the API server could not be asked.
    pods: Option<usize>,
    /// What could not be read, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// Looks twice and prints what both looks show, and on standard error what could not be read.
pub fn run(sources: &Sources, json: bool) -> anyhow::Result<AuditVerdict> {
    let outcome = look_twice(sources)?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &outcome)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", render(&outcome))?;
    }
    if let Some(trouble) = &outcome.trouble {
        eprintln!("cadastre-agent: not everything was compared: {trouble}");
    }
    Ok(AuditVerdict::of(!outcome.findings.is_empty(), outcome.trouble.is_some()))
}

/// Looks twice, and mends the one finding that is named. Returns whether it is mended.
pub fn fix(sources: &Sources, id: &str) -> anyhow::Result<bool> {
    let findings = look_twice(sources)?.findings;
    let Some(finding) = findings.into_iter().find(|finding| finding.id == id) else {
        bail!("there is no finding {id} (any more): run audit without --fix");
    };
    let Finding { id, what, remedy, fix } = finding;
    let (call, done) = match fix {
        None => bail!("{id} cannot be mended from here: {what}; {remedy}"),
        Some(Fix::Release { attachment }) => (Call::Del(Del { attachment }), "released"),
        Some(Fix::Hold { address, netns }) => (Call::Hold(Hold { address, netns }), "held until its namespace is gone"),
    };
    carry_out(&sources.socket, call)?;
    println!("{id}: {done}");
    Ok(true)
}

fn carry_out(socket: &Path, call: Call) -> anyhow::Result<()> {
    match ask_in_time(socket, call)? {
        Reply::Ok => Ok(()),
        Reply::Error(Failure { msg, details, .. }) => bail!("{msg} {details}"),
        other => Err(garbled(socket, &format!("{other:?}")).into()),
    }
}

/// What only one look shows is a pod that comes or goes.
fn look_twice(sources: &Sources) -> anyhow::Result<Outcome> {
    let (mut evidence, mut unread) = gather(sources)?;
    let mut findings = audit(&evidence);
    if !findings.is_empty() {
        sleep(PAUSE);
        // What the first look could not read is in no finding of both.
        let (second, unread_then) = gather(sources)?;
        evidence = second;
        unread.extend(unread_then);
        findings = in_both(&findings, audit(&evidence));
    }
    Ok(Outcome {
        findings,
        held: evidence.held.iter().filter(|row| row.attachment.is_some()).count(),
        namespaces: evidence.spaces.len(),
        pods: evidence.pods.as_ref().map(Vec::len),
        trouble: all(unread),
    })
}

fn all(unread: BTreeSet<String>) -> Option<String> {
    if unread.is_empty() { None } else { Some(unread.into_iter().collect::<Vec<_>>().join("; ")) }
}

/// What both looks show, as the second has it: meanwhile the same thing may be told of with other words.
fn in_both(first: &[Finding], second: Vec<Finding>) -> Vec<Finding> {
    second.into_iter().filter(|finding| first.iter().any(|before| before.id == finding.id)).collect()
}

fn render(outcome: &Outcome) -> String {
    // Why there are no Pods is for standard error.
    let Outcome { findings, held, namespaces, pods, trouble: _ } = outcome;
    let mut text = String::new();
    // Writing to a string cannot fail.
    for Finding { id, what, remedy, fix } in findings {
        let _ = writeln!(text, "{id}\n  {what}\n  remedy: {remedy}");
        if fix.is_some() {
            let _ = writeln!(text, "  fix:    cadastre-agent audit --fix {id}");
        }
    }
    let pods =
        pods.map_or_else(|| "no pods, as the API server could not be asked".to_owned(), |pods| format!("{pods} pods"));
    let _ = writeln!(text, "{} findings: {held} addresses held, {namespaces} namespaces, {pods}", findings.len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_of_both_looks_is_told_as_the_second_has_it() {
        let finding =
            |id: &str, what: &str| Finding { id: id.into(), what: what.into(), remedy: "r".into(), fix: None };
        let first = [finding("unheld/10.0.0.2", "in /run/netns/a"), finding("unused/10.0.0.3", "gone since")];
        let second = vec![finding("leaked/10.0.0.3", "new"), finding("unheld/10.0.0.2", "in /run/netns/b")];
        assert_eq!(in_both(&first, second), [finding("unheld/10.0.0.2", "in /run/netns/b")]);
    }

    #[test]
    fn a_finding_says_what_is_wrong_and_how_it_is_mended() {
        let finding = |id: &str, fix| Finding { id: id.into(), what: "w".into(), remedy: "r".into(), fix };
        let attachment =
            cadastre_messages::Attachment { network: "n".into(), container_id: "c".into(), interface: "i".into() };
        let findings =
            vec![finding("duplicate/10.0.0.2", None), finding("leaked/10.0.0.3", Some(Fix::Release { attachment }))];
        let outcome = Outcome { findings, held: 3, namespaces: 4, pods: None, trouble: Some("no route".into()) };
        assert_eq!(
            render(&outcome),
            "\
duplicate/10.0.0.2
  w
  remedy: r
leaked/10.0.0.3
  w
  remedy: r
  fix:    cadastre-agent audit --fix leaked/10.0.0.3
2 findings: 3 addresses held, 4 namespaces, no pods, as the API server could not be asked
"
        );
    }
}
