//! The pools of mode cluster-pool: which of two spellings was used, and whether blocks can be cut from what it says.

use cadastre_core::{AddrRange, Cidr, Family};

use super::PoolFamily;
use super::cni::InterfacePlugin;
use super::findings::Findings;
use super::raw::{CidrList, RawSettings};

/// As many CIDRs as an `IPPool` takes for each family.
const MAX_CIDRS: usize = 64;

/// Ranges from which no pod can have an address (IANA's special-purpose registries, RFC 6890).
const UNUSABLE: [(&str, &str); 8] = [
    ("0.0.0.0/8", "this network"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("::/127", "unspecified and loopback"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

/// A setting with its spelling of today and older ones that still work.
struct Spelled<'a, T> {
    current: (&'static str, Option<&'a T>),
    older: (&'static str, Option<&'a T>),
}

impl<'a, T> Spelled<'a, T> {
    /// What was written with the key it was written to, `None` if nothing was.
    fn written(self, findings: &mut Findings) -> (&'static str, Option<&'a T>) {
        let Self { current, older } = self;
        if older.1.is_none() {
            return current;
        }
        if current.1.is_some() {
            findings
                .problem(older.0, format!("written beside {}, which is the same setting; remove this one", current.0));
            return current;
        }
        findings.warn(format!("{} is the older spelling of {}: it works, but rename it", older.0, current.0));
        older
    }
}

/// All that is written for one family, and its defaults.
struct Keys<'a> {
    cidrs: Spelled<'a, CidrList>,
    mask: Spelled<'a, i64>,
    default_cidr: &'static str,
    default_mask: i64,
    /// Where CIDRs of the other family belong.
    other: &'static str,
}

const V4_CIDRS: &str = "ipam.operator.clusterPoolIPv4PodCIDRList";
const V6_CIDRS: &str = "ipam.operator.clusterPoolIPv6PodCIDRList";

impl<'a> Keys<'a> {
    fn of(family: Family, raw: &'a RawSettings) -> Self {
        let (older, current) = (&raw.ipam, &raw.ipam.operator);
        match family {
            Family::V4 => Self {
                cidrs: Spelled {
                    current: (V4_CIDRS, current.cluster_pool_ipv4_pod_cidr_list.as_ref()),
                    older: ("ipam.clusterPoolIPv4", older.cluster_pool_ipv4.as_ref()),
                },
                mask: Spelled {
                    current: ("ipam.operator.clusterPoolIPv4MaskSize", current.cluster_pool_ipv4_mask_size.as_ref()),
                    older: ("ipam.clusterPoolIPv4MaskSize", older.cluster_pool_ipv4_mask_size.as_ref()),
                },
                default_cidr: "10.0.0.0/8",
                default_mask: 24,
                other: V6_CIDRS,
            },
            Family::V6 => Self {
                cidrs: Spelled {
                    current: (V6_CIDRS, current.cluster_pool_ipv6_pod_cidr_list.as_ref()),
                    older: ("ipam.clusterPoolIPv6", older.cluster_pool_ipv6.as_ref()),
                },
                mask: Spelled {
                    current: ("ipam.operator.clusterPoolIPv6MaskSize", current.cluster_pool_ipv6_mask_size.as_ref()),
                    older: ("ipam.clusterPoolIPv6MaskSize", older.cluster_pool_ipv6_mask_size.as_ref()),
                },
                default_cidr: "fd00::/104",
                default_mask: 120,
                other: V4_CIDRS,
            },
        }
    }
}

/// The pool of one family, whose pods `plugin` attaches if that is ours to say; `None` only with a problem among the findings.
pub fn family(
    family: Family,
    raw: &RawSettings,
    plugin: Option<InterfacePlugin>,
    findings: &mut Findings,
) -> Option<PoolFamily> {
    let Keys { cidrs, mask, default_cidr, default_mask, other } = Keys::of(family, raw);
    let default = CidrList::Text(default_cidr.to_owned());
    let (key, list) = cidrs.written(findings);
    let cidrs = read(family, key, list.unwrap_or(&default), other, findings);
    disjoint(&cidrs, findings);
    let (mask_key, mask) = mask.written(findings);
    let mask_size = mask_size(family, mask_key, *mask.unwrap_or(&default_mask), &cidrs, plugin, findings);
    let cidrs = cidrs.into_iter().map(|(_, cidr)| cidr).collect();
    Some(PoolFamily { family, cidrs, mask_size: mask_size? })
}

/// Each readable CIDR with the key it stands at.
fn read(family: Family, key: &str, list: &CidrList, other: &str, findings: &mut Findings) -> Vec<(String, Cidr)> {
    let entries = list.entries();
    let example = if family == Family::V4 { "10.0.0.0/8" } else { "fd00::/104" };
    if entries.is_empty() {
        findings.problem(key, format!("there is no CIDR in it; write one such as {example}, or remove the key"));
    }
    if entries.len() > MAX_CIDRS {
        let what =
            format!("{} CIDRs are more than the {MAX_CIDRS} that a pool can have; join neighbours", entries.len());
        findings.problem(key, what);
    }
    let mut cidrs = Vec::new();
    for (index, text) in entries {
        let key = format!("{key}{index}");
        let Some(cidr) = findings.ok(&key, text.parse::<Cidr>().map_err(|error| error.to_string())) else { continue };
        match unsuitable(family, &cidr, other) {
            Some(what) => findings.problem(&key, what),
            None => cidrs.push((key, cidr)),
        }
    }
    cidrs
}

/// Why no blocks can be cut from a CIDR.
fn unsuitable(family: Family, cidr: &Cidr, other: &str) -> Option<String> {
    if cidr.family() != family {
        let wrong = cidr.family();
        return Some(format!("{cidr} is {wrong}, and {family} CIDRs are expected here; move it to {other}"));
    }
    let overlapped = UNUSABLE.into_iter().find(|(range, _)| range.parse().is_ok_and(|range| cidr.overlaps(&range)));
    let (range, name) = overlapped?;
    Some(format!("{cidr} overlaps {range} ({name}), where no pod can have an address; choose another CIDR"))
}

fn disjoint(cidrs: &[(String, Cidr)], findings: &mut Findings) {
    for (i, (key, cidr)) in cidrs.iter().enumerate() {
        if let Some((other_key, other)) = cidrs[..i].iter().find(|(_, other)| other.overlaps(cidr)) {
            findings.problem(
                key,
                format!("{cidr} overlaps {other} ({other_key}); CIDRs of a pool must be disjoint: remove one"),
            );
        }
    }
}

/// As many reservations as an `IPPool` takes.
const MAX_RESERVED: usize = 256;

/// What is never to be assigned; each must lie in the pools, at least in part, else it is a slip of the pen.
pub fn reserved(list: Option<&CidrList>, pools: &[PoolFamily], findings: &mut Findings) -> Vec<AddrRange> {
    let key = "ipam.operator.clusterPoolReserved";
    let entries = list.map(CidrList::entries).unwrap_or_default();
    if entries.len() > MAX_RESERVED {
        let what = format!("{} reservations are more than {MAX_RESERVED}; join neighbours", entries.len());
        findings.problem(key, what);
    }
    let mut reserved = Vec::new();
    for (index, text) in entries {
        let key = format!("{key}{index}");
        let parsed = text.parse::<AddrRange>().map_err(|error| error.to_string());
        let Some(range) = findings.ok(&key, parsed) else { continue };
        let cidrs: Vec<_> = pools.iter().flat_map(|pool| &pool.cidrs).collect();
        if cidrs.iter().any(|cidr| range.overlaps(cidr)) {
            reserved.push(range);
        } else {
            let cidrs = cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            findings.problem(&key, format!("{range} lies in no CIDR of the pool ({cidrs}): correct or remove it"));
        }
    }
    reserved
}

/// Blocks must exist in the family, fit into every CIDR, and have the router without which our interface plugins attach nobody.
fn mask_size(
    family: Family,
    key: &str,
    mask: i64,
    cidrs: &[(String, Cidr)],
    plugin: Option<InterfacePlugin>,
    findings: &mut Findings,
) -> Option<u8> {
    let longest = if plugin.is_some() { family.longest_with_router() } else { family.bits() };
    let shortest = cidrs.iter().map(|(_, cidr)| cidr.prefix_len()).max().unwrap_or(1).max(1);
    let right = if shortest <= longest {
        format!("write a number from {shortest} to {longest}")
    } else {
        format!("choose CIDRs of /{longest} or larger")
    };
    let Some(mask) = u8::try_from(mask).ok().filter(|mask| (1..=family.bits()).contains(mask)) else {
        findings.problem(key, format!("{mask} is not a prefix length of {family} blocks; {right}"));
        return None;
    };
    if let Some((cidr_key, cidr)) = cidrs.iter().find(|(_, cidr)| cidr.prefix_len() > mask) {
        findings.problem(key, format!("{mask} means blocks larger than {cidr} ({cidr_key}); {right}"));
    } else if let Some(plugin) = plugin.filter(|_| mask > longest) {
        let (least, name) = (1_u8 << (family.bits() - longest), plugin.name());
        let what = format!(
            "{mask} means blocks of fewer than {least} addresses, which have no gateway, and {name} attaches no pod without one"
        );
        findings.problem(key, format!("{what}; {right}, or write a CNI configuration of your own (cni.customConf)"));
    }
    Some(mask)
}
