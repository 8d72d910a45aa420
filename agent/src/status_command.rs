//! `cadastre-agent status`: asks the agent on this node and prints its state for people or programs.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cadastre_messages::report::{Address, Part, Pool, Report};
use cadastre_messages::{Call, Reply, Request};

/// An agent that does not answer in this time will not.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error(
        "no agent answers at {path} ({source}): see whether its pod runs on this node (`kubectl get pods -A -o wide`), or name its socket with --socket"
    )]
    NoAgent { path: String, source: io::Error },
    #[error("the agent at {path} gave no answer in 10 s: see its log, and whether the node is short of CPU")]
    Silent { path: String },
    #[error("the agent at {path} did not answer to its end: {source}")]
    Broken { path: String, source: io::Error },
    #[error("the agent at {path} said {said:?}: use the status command of its own release")]
    Garbled { path: String, said: String },
}

/// Asks and prints. Returns whether all parts are well.
pub fn status(socket: &Path, all_addresses: bool, json: bool) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    let report = match ask_in_time(socket) {
        Ok(report) => report,
        Err(error) if json => return Err(error.into()),
        Err(error) => {
            writeln!(out, "{}", line("Agent", &failed(&error.to_string(), paint())))?;
            return Ok(false);
        }
    };
    if json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", render(&report, all_addresses, paint()))?;
    }
    Ok(report.kubernetes.ok && report.ipam.ok && report.journal.ok)
}

/// One deadline for connecting, asking and reading: none of the three has one of its own that holds in every case. The
/// thread that still waits ends with the process.
fn ask_in_time(socket: &Path) -> Result<Report, StatusError> {
    let (answer, answered) = mpsc::channel();
    let path = socket.to_owned();
    // Nobody listens any more once the time is over.
    thread::spawn(move || drop(answer.send(ask(&path))));
    answered.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(StatusError::Silent { path: socket.display().to_string() }))
}

fn ask(socket: &Path) -> Result<Report, StatusError> {
    let path = || socket.display().to_string();
    let mut stream = UnixStream::connect(socket).map_err(|source| StatusError::NoAgent { path: path(), source })?;
    let broken = |source| StatusError::Broken { path: path(), source };
    let mut request = serde_json::to_vec(&Request::new(Call::Report)).map_err(|error| broken(error.into()))?;
    request.push(b'\n');
    stream.write_all(&request).map_err(broken)?;
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said).map_err(broken)?;
    match serde_json::from_str(&said) {
        Ok(Reply::Report(report)) => Ok(*report),
        _ => Err(StatusError::Garbled { path: path(), said: said.chars().take(200).collect() }),
    }
}

/// Whether failures are shown in colour.
fn paint() -> bool {
    io::stdout().is_terminal()
}

fn line(name: &str, what: &str) -> String {
    format!("{:<13}{what}", format!("{name}:"))
}

fn failed(message: &str, paint: bool) -> String {
    let word = if paint { "\x1b[1;31mFailed\x1b[0m" } else { "Failed" };
    format!("{word}    {message}")
}

/// The report in lines.
fn render(report: &Report, all_addresses: bool, paint: bool) -> String {
    let Report { node: _, kubernetes, ipam, mode, journal, pools, addresses } = report;
    let mut lines = vec![line("Kubernetes", &part(kubernetes, paint))];
    let pools_line = pools.iter().map(|pool| one_pool(pool, names_pools(pools))).collect::<Vec<_>>().join(", ");
    lines.push(match (pools.is_empty(), ipam.ok) {
        (false, true) => line("IPAM", &format!("{pools_line}   mode {mode}")),
        (false, false) => line("IPAM", &format!("{pools_line}   mode {mode}   {}", failed(&ipam.message, paint))),
        (true, true) => line("IPAM", &format!("no addresses   mode {mode}")),
        (true, false) => line("IPAM", &failed(&ipam.message, paint)),
    });
    if !journal.ok {
        lines.push(line("Journal", &failed(&journal.message, paint)));
    }
    let mut text = lines.join("\n") + "\n";
    if all_addresses {
        text.push_str("Allocated addresses:\n");
        let held: Vec<&Address> = addresses.iter().filter(|row| row.state == "held").collect();
        let width = held.iter().map(|row| row.address.len()).max().unwrap_or_default();
        for row in held {
            let pool = if names_pools(pools) { format!(", pool {}", row.pool) } else { String::new() };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {:<width$}   ({}{pool})", row.address, row.owner);
        }
    }
    text
}

fn part(part: &Part, paint: bool) -> String {
    if part.ok { format!("Ok    {}", part.message) } else { failed(&part.message, paint) }
}

/// Only where there is more than one.
fn names_pools(pools: &[Pool]) -> bool {
    pools.iter().any(|pool| pool.pool != pools[0].pool)
}

fn one_pool(pool: &Pool, named: bool) -> String {
    let Pool { pool, family, blocks, allocated, cooling: _, capacity } = pool;
    let of_pool = if named { format!(" of pool {pool}") } else { String::new() };
    format!("{family}: {allocated}/{capacity} allocated from {}{of_pool}", blocks.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(address: &str, owner: &str, state: &str) -> Address {
        Address {
            address: address.into(),
            family: "IPv4".into(),
            pool: "default".into(),
            owner: owner.into(),
            state: state.into(),
            attachment: None,
        }
    }

    fn pool(family: &str, block: &str) -> Pool {
        Pool {
            pool: "default".into(),
            family: family.into(),
            blocks: vec![block.into()],
            allocated: 3,
            cooling: 1,
            capacity: "254".into(),
        }
    }

    fn report() -> Report {
        let well = |message: &str| Part { ok: true, message: message.into() };
        Report {
            node: "n1".into(),
            kubernetes: well("1.36 (v1.36.3)"),
            ipam: well("mode cluster-pool"),
            mode: "cluster-pool".into(),
            journal: well("100 bytes"),
            pools: vec![pool("IPv4", "10.0.2.0/24")],
            addresses: vec![
                address("10.0.2.1", "router", "held"),
                address("10.0.2.48", "default/nginx", "held"),
                address("10.0.2.49", "", "cooling"),
                address("10.0.2.163", "default/tshoot-665b9b9b9b", "held"),
            ],
        }
    }

    #[test]
    fn it_looks_as_people_know_it() {
        let expected = "\
Kubernetes:  Ok    1.36 (v1.36.3)
IPAM:        IPv4: 3/254 allocated from 10.0.2.0/24   mode cluster-pool
Allocated addresses:
  10.0.2.1     (router)
  10.0.2.48    (default/nginx)
  10.0.2.163   (default/tshoot-665b9b9b9b)
";
        assert_eq!(render(&report(), true, false), expected);
        let first_two: Vec<&str> = expected.lines().take(2).collect();
        assert_eq!(render(&report(), false, false), first_two.join("\n") + "\n");
    }

    #[test]
    fn families_and_pools_are_added_where_there_are_more() {
        let mut dual = report();
        dual.pools.push(pool("IPv6", "fd00::200/120"));
        let line = |report: &Report| render(report, false, false).lines().nth(1).unwrap().to_owned();
        assert_eq!(
            line(&dual),
            "IPAM:        IPv4: 3/254 allocated from 10.0.2.0/24, IPv6: 3/254 allocated from fd00::200/120   mode cluster-pool"
        );
        dual.pools[1].pool = "other".into();
        dual.pools[1].blocks.push("fd00::300/120".into());
        assert!(
            line(&dual).ends_with(
                "IPv6: 3/254 allocated from fd00::200/120 and fd00::300/120 of pool other   mode cluster-pool"
            )
        );
        assert!(render(&dual, true, false).contains("  10.0.2.1     (router, pool default)\n"));
    }

    #[test]
    fn a_broken_part_is_said_in_its_line() {
        let mut broken = report();
        broken.kubernetes = Part { ok: false, message: "unreachable: look".into() };
        broken.ipam = Part { ok: false, message: "two modes: set it back".into() };
        broken.journal = Part { ok: false, message: "damaged: drain".into() };
        assert_eq!(
            render(&broken, false, false),
            "\
Kubernetes:  Failed    unreachable: look
IPAM:        IPv4: 3/254 allocated from 10.0.2.0/24   mode cluster-pool   Failed    two modes: set it back
Journal:     Failed    damaged: drain
"
        );
        broken.pools.clear();
        assert!(
            render(&broken, false, true).contains("IPAM:        \x1b[1;31mFailed\x1b[0m    two modes: set it back\n")
        );
        let nobody = ask(Path::new("/nowhere/cadastre.sock")).unwrap_err().to_string();
        assert!(nobody.starts_with("no agent answers at /nowhere/cadastre.sock (No such file"), "{nobody}");
    }
}
