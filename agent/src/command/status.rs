//! `cadastre-agent status`: asks the agent on this node and prints its state for people or programs.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use cadastre_messages::report::{Address, Assignment, Part, Pool, Reconciled, Report, Tombstones};
use cadastre_messages::{Call, Reply};

use super::reachability::reachability;
use super::{AskError, ask_in_time, duration, failed, garbled, paint};

/// How the pools of networks that bring their own ranges are called.
const OF_A_NETWORK: &str = "local/";

/// Asks and prints. Returns whether all parts are well.
pub fn status(socket: &Path, all_addresses: bool, json: bool) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    let report = match ask(socket) {
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
    let Report { kubernetes, ipam, journal, cni, routes, cluster_health, .. } = &report;
    // Nodes that do not answer are no failure of this one.
    let endpoint = cluster_health.as_ref().is_none_or(|health| health.trouble.is_none());
    Ok(endpoint && [kubernetes, ipam, journal].into_iter().chain(cni).chain(routes).all(|part| part.ok))
}

fn ask(socket: &Path) -> Result<Report, AskError> {
    match ask_in_time(socket, Call::Report)? {
        Reply::Report(report) => Ok(*report),
        other => Err(garbled(socket, &format!("{other:?}"))),
    }
}

fn line(name: &str, what: &str) -> String {
    format!("{:<13}{what}", format!("{name}:"))
}

/// The report in lines.
fn render(report: &Report, all_addresses: bool, paint: bool) -> String {
    let Report { kubernetes, ipam, mode, journal, cni, routes, cluster_health, pools, addresses, .. } = report;
    let of_blocks: Vec<&Pool> = pools.iter().filter(|pool| !pool.pool.starts_with(OF_A_NETWORK)).collect();
    let mut lines = vec![line("Kubernetes", &part(kubernetes, paint))];
    let named = names_pools(pools);
    let pools_line = of_blocks.iter().map(|pool| one_pool(pool, named)).collect::<Vec<_>>().join(", ");
    lines.push(match (of_blocks.is_empty(), ipam.ok) {
        (false, true) => line("IPAM", &format!("{pools_line}   mode {mode}")),
        (false, false) => line("IPAM", &format!("{pools_line}   mode {mode}   {}", failed(&ipam.message, paint))),
        (true, true) => line("IPAM", &format!("no addresses   mode {mode}")),
        (true, false) => line("IPAM", &failed(&ipam.message, paint)),
    });
    if !journal.ok {
        lines.push(line("Journal", &failed(&journal.message, paint)));
    }
    lines.extend(cni.as_ref().map(|cni| line("CNI", &part(cni, paint))));
    lines.extend(routes.as_ref().map(|routes| line("Routes", &part(routes, paint))));
    lines.extend(cluster_health.iter().flat_map(|health| reachability(health, paint)));
    let mut text = lines.join("\n") + "\n";
    if all_addresses {
        text.push_str(&all(addresses, named));
    }
    text + &details(report)
}

fn all(addresses: &[Address], named: bool) -> String {
    let mut text = "Allocated addresses:\n".to_owned();
    let held: Vec<&Address> = addresses.iter().filter(|row| row.state == "held").collect();
    let width = held.iter().map(|row| row.address.len()).max().unwrap_or_default();
    for row in held {
        let pool = if named { format!(", pool {}", row.pool) } else { String::new() };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {:<width$}   ({}{pool})", row.address, row.owner);
    }
    text
}

/// What people want to know next: how full, how old, what was cleaned up.
fn details(report: &Report) -> String {
    let Report { pools, heard, assignment, reconciled, tombstones, waiting, .. } = report;
    let mut text = String::new();
    if !pools.is_empty() {
        text.push_str("Pools:\n");
        let head = ["POOL", "FAMILY", "ALLOCATED", "COOLING", "RESERVED", "FREE"].map(str::to_owned);
        let rows: Vec<[String; 6]> = std::iter::once(head).chain(pools.iter().map(row)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
        for row in &rows {
            let cells: Vec<String> =
                (0..6).map(|column| format!("{:<width$}", row[column], width = width(column))).collect();
            let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
        }
        for closed in pools.iter().flat_map(|pool| &pool.closed) {
            let _ = writeln!(text, "  block {closed}");
        }
    }
    let heard = heard.map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", duration(seconds)));
    let lines = [
        line("API server", &format!("heard {heard}")),
        line("Operator", &operator(assignment.as_ref())),
        line("Reconciled", &reconciliation(reconciled.as_ref())),
        line("Tombstones", &buried(tombstones)),
        line("Waiting", &format!("{waiting} ADDs")),
    ];
    text + &lines.join("\n") + "\n"
}

fn row(pool: &Pool) -> [String; 6] {
    let Pool { pool, family, blocks: _, closed: _, allocated, cooling, reserved, free, capacity: _ } = pool;
    [pool.clone(), family.clone(), allocated.to_string(), cooling.to_string(), reserved.clone(), free.clone()]
}

fn operator(assignment: Option<&Assignment>) -> String {
    let Some(Assignment { generation, seconds, problems }) = assignment else {
        return "assigned nothing".to_owned();
    };
    let when =
        seconds.map_or_else(|| "before this agent started".to_owned(), |seconds| format!("{} ago", duration(seconds)));
    let problems = problems.iter().fold(String::new(), |text, problem| text + "; " + problem);
    format!("last word (generation {generation}) {when}{problems}")
}

fn reconciliation(pass: Option<&Reconciled>) -> String {
    let Some(Reconciled { seconds, suspects, freed }) = pass else { return "not yet".to_owned() };
    format!("{} ago: {freed} freed, {suspects} suspected", duration(*seconds))
}

fn buried(tombstones: &Tombstones) -> String {
    let Tombstones { waiting, replayed } = tombstones;
    format!("{replayed} carried out, {waiting} to be")
}

fn part(part: &Part, paint: bool) -> String {
    if part.ok { format!("Ok    {}", part.message) } else { failed(&part.message, paint) }
}

/// Only where there is more than one.
fn names_pools(pools: &[Pool]) -> bool {
    pools.iter().any(|pool| pool.pool != pools[0].pool)
}

fn one_pool(pool: &Pool, named: bool) -> String {
    let Pool { pool, family, blocks, allocated, capacity, .. } = pool;
    let of_pool = if named { format!(" of pool {pool}") } else { String::new() };
    format!("{family}: {allocated}/{capacity} allocated from {}{of_pool}", blocks.join(" and "))
}

#[cfg(test)]
mod tests {
    use cadastre_messages::report::ClusterHealth;

    use super::*;

    fn address(address: &str, owner: &str, state: &str) -> Address {
        Address {
            address: address.into(),
            family: "IPv4".into(),
            pool: "default".into(),
            owner: owner.into(),
            state: state.into(),
            attachment: None,
            netns: None,
        }
    }

    fn pool(family: &str, block: &str) -> Pool {
        Pool {
            pool: "default".into(),
            family: family.into(),
            blocks: vec![block.into()],
            closed: vec![],
            allocated: 3,
            cooling: 1,
            reserved: "2".into(),
            free: "250".into(),
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
            cni: Some(well("/opt/cni/bin/cadastre installed")),
            routes: Some(well("2 to 2 nodes")),
            cluster_health: None,
            heard: Some(2),
            assignment: Some(Assignment { generation: 3, seconds: Some(240), problems: vec![] }),
            reconciled: Some(Reconciled { seconds: 12, suspects: 1, freed: 0 }),
            tombstones: Tombstones { waiting: 0, replayed: 2 },
            waiting: 4,
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
CNI:         Ok    /opt/cni/bin/cadastre installed
Routes:      Ok    2 to 2 nodes
Allocated addresses:
  10.0.2.1     (router)
  10.0.2.48    (default/nginx)
  10.0.2.163   (default/tshoot-665b9b9b9b)
";
        let details = "\
Pools:
  POOL     FAMILY  ALLOCATED  COOLING  RESERVED  FREE
  default  IPv4    3          1        2         250
API server:  heard 2 s ago
Operator:    last word (generation 3) 4 min ago
Reconciled:  12 s ago: 0 freed, 1 suspected
Tombstones:  2 carried out, 0 to be
Waiting:     4 ADDs
";
        assert_eq!(render(&report(), true, false), format!("{expected}{details}"));
        let first: Vec<&str> = expected.lines().take(4).collect();
        assert_eq!(render(&report(), false, false), first.join("\n") + "\n" + details);
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
        broken.cni = Some(Part { ok: false, message: "no ptp: install it".into() });
        broken.routes = None;
        broken.pools[0].closed.push("10.0.3.0/24: the operator wants it back; 2 held".into());
        let said = render(&broken, false, false);
        assert!(said.contains("\n  block 10.0.3.0/24: the operator wants it back; 2 held\n"), "{said}");
        assert!(said.starts_with(
            "\
Kubernetes:  Failed    unreachable: look
IPAM:        IPv4: 3/254 allocated from 10.0.2.0/24   mode cluster-pool   Failed    two modes: set it back
Journal:     Failed    damaged: drain
CNI:         Failed    no ptp: install it
Pools:
"
        ));
        broken.pools.clear();
        assert!(
            render(&broken, false, true).contains("IPAM:        \x1b[1;31mFailed\x1b[0m    two modes: set it back\n")
        );
    }

    #[test]
    fn the_health_of_the_cluster_has_its_lines() {
        let health = ClusterHealth { trouble: Some("ptp says: full".into()), ..ClusterHealth::default() };
        let told = Report { cluster_health: Some(health), ..report() };
        assert!(render(&told, false, false).contains("nodes\nCluster health:  Failed    ptp says: full\nPools:"));
    }
}
