//! What processes use, by the kernel's word, and what was asked of the API server, by its own.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use cadastre_tests::{ControlPlane, Proc};

/// `USER_HZ`: 100 on every architecture that Linux has today.
const MS_A_TICK: f64 = 10.0;

/// CPU time of a process so far, ms. The kernel counts in steps of 10 ms.
pub fn cpu_ms(process: &Proc) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid()))?;
    // The name in parentheses may hold spaces; utime and stime are the 12th and 13th field after it.
    let fields: Vec<_> = stat.rsplit_once(')').context("no name in stat")?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).context("stat is too short")?.parse::<u32>().context("stat");
    Ok(f64::from(ticks(11)? + ticks(12)?) * MS_A_TICK)
}

/// Anonymous memory of a process, MB.
pub fn anonymous_mb(process: &Proc) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kb: u32 = line.trim_end_matches("kB").trim().parse().context("RssAnon")?;
    Ok(f64::from(kb) / 1024.0)
}

/// Requests that the API server answered, since it started or between two looks.
#[derive(Clone, Debug, Default)]
pub struct Requests(BTreeMap<Kind, f64>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    resource: String,
    verb: String,
    code: String,
}

/// Of these resources: the API server writes others by itself.
const RESOURCES: [&str; 6] = ["nodes", "ipamnodes", "ipamledgers", "ipamconfigs", "ippools", "events"];

impl Requests {
    /// Costs the API server a good part of a second: never while something is timed.
    pub async fn so_far(cp: &ControlPlane) -> Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = cp.admin().await?.request_text(request).await?;
        let mut counts = BTreeMap::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")) {
            let (labels, count) = line.rsplit_once("} ").context("a metric without value")?;
            let label = |name: &str| {
                let found = labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\""));
                found.unwrap_or_default().trim_end_matches('"').to_owned()
            };
            let kind = Kind { resource: label("resource"), verb: label("verb"), code: label("code") };
            *counts.entry(kind).or_default() += count.parse::<f64>()?;
        }
        Ok(Self(counts))
    }

    /// What was asked after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |kind: &Kind| earlier.0.get(kind).copied().unwrap_or_default();
        Self(self.0.iter().map(|(kind, count)| (kind.clone(), count - before(kind))).collect())
    }

    fn count(&self, wanted: impl Fn(&Kind) -> bool) -> f64 {
        self.0.iter().filter(|(kind, _)| wanted(kind)).fold(0.0, |sum, (_, count)| sum + count)
    }

    /// Writes to what an operator writes, also those that were refused.
    pub fn writes(&self) -> f64 {
        self.count(|kind| RESOURCES.contains(&kind.resource.as_str()) && kind.is_write())
    }

    pub fn writes_of(&self, resource: &str) -> f64 {
        self.count(|kind| kind.resource == resource && kind.is_write())
    }

    /// 409, and 422: a JSON patch whose test failed.
    pub fn conflicts(&self) -> f64 {
        let lost = |kind: &Kind| matches!(kind.code.as_str(), "409" | "422");
        self.count(|kind| RESOURCES.contains(&kind.resource.as_str()) && lost(kind))
    }

    pub fn lists(&self) -> f64 {
        self.count(|kind| RESOURCES.contains(&kind.resource.as_str()) && kind.verb == "LIST")
    }
}

impl Kind {
    fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE")
    }
}
