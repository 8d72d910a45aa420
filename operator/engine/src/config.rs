//! What `IPAMConfig/cluster` records against what was configured: pure functions, used by the engine, by operators
//! that stand by, and by `check-config --live`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cadastre_api::{
    AdmittedCidr, IPAMConfig, IPAMConfigStatus, Mode, condition, condition_type, reason, set_condition,
};
use cadastre_core::Cidr;
use k8s_openapi::jiff::Timestamp;

use crate::effect::{Note, Regarding};
use crate::settings::{ConfiguredPool, EngineSettings};

/// What kind of setting contradicts what is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefusalKind {
    /// `ipam.mode`.
    Mode,
    /// The CIDRs or block sizes of a pool.
    Pool,
}

/// A setting that contradicts what is in use: the recorded one goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind.
    pub kind: RefusalKind,
    /// What was configured, what is recorded, and the remedy.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What of `settings` the cluster refuses, given what it records.
#[must_use]
pub fn refusals(settings: &EngineSettings, config: Option<&IPAMConfig>) -> Vec<Refusal> {
    let Some(config) = config else { return Vec::new() };
    let status = config.status.clone().unwrap_or_default();
    if config.spec.mode != settings.mode {
        return if status.in_use { vec![mode_refusal(settings.mode, config.spec.mode)] } else { Vec::new() };
    }
    admit(settings, &Offers::default(), config.spec.mode, &status.cidrs).refusals
}

fn mode_refusal(configured: Mode, recorded: Mode) -> Refusal {
    let message = format!(
        "ipam.mode is {configured:?}, but this cluster was installed with {recorded:?} and blocks are in use: \
         {recorded:?} goes on. Set ipam.mode back to {recorded:?}, or remove every node before changing it",
        configured = configured.label(),
        recorded = recorded.label(),
    );
    Refusal { kind: RefusalKind::Mode, message }
}

/// `IPPool`s that are not from the Helm values: what people made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offers {
    /// Each family of each, in the order in which they were made.
    pub pools: Vec<ConfiguredPool>,
    /// Pools that are recorded and were not seen yet: another operator saw them first.
    pub unseen: BTreeSet<String>,
}

/// What pools have from now on, and what not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Admission {
    /// In the order in which they are tried.
    pub cidrs: Vec<AdmittedCidr>,
    /// What was configured and is refused.
    pub refusals: Vec<Refusal>,
    /// What people's pools offer and is refused, by pool.
    pub declined: BTreeMap<String, Vec<String>>,
}

/// A CIDR in use stays, with its block size, whatever settings and pools say; appending is always allowed. The settings
/// come before people's pools, and what is recorded before what is new: whichever operator records first decides.
#[must_use]
pub(crate) fn admit(settings: &EngineSettings, offers: &Offers, recorded: Mode, known: &[AdmittedCidr]) -> Admission {
    if recorded != settings.mode {
        return Admission { cidrs: known.to_vec(), ..Admission::default() };
    }
    let mut admission = Admission::default();
    let is_offered = |old: &&AdmittedCidr| {
        offers.unseen.contains(&old.pool) || offers.pools.iter().any(|pool| has(pool, old) && !old.in_use)
    };
    let used: Vec<_> = known.iter().filter(|cidr| cidr.in_use).collect();
    for (pool, cidr) in each_cidr(&settings.pools) {
        match judge(pool, cidr, &used) {
            Ok(new) => admission.cidrs.push(new),
            Err(message) => {
                admission.cidrs.extend(used.iter().filter(|old| is_of(old, pool, cidr)).map(|old| (*old).clone()));
                admission.refusals.push(Refusal { kind: RefusalKind::Pool, message });
            }
        }
    }
    for old in used.iter().filter(|old| !admission.cidrs.iter().any(|new| new.cidr == old.cidr)).collect::<Vec<_>>() {
        if settings.pools.iter().any(|pool| pool.pool == old.pool) {
            admission.refusals.push(Refusal { kind: RefusalKind::Pool, message: removal_message(old) });
        }
        admission.cidrs.push((*old).clone());
    }
    for old in known.iter().filter(is_offered) {
        if !admission.cidrs.iter().any(|new| new.cidr.overlaps(&old.cidr)) {
            admission.cidrs.push(old.clone());
        }
    }
    for (pool, cidr) in each_cidr(&offers.pools) {
        let all: Vec<_> = admission.cidrs.iter().collect();
        match judge(pool, cidr, &all) {
            Ok(new) if admission.cidrs.iter().any(|old| old.cidr == new.cidr) => {}
            Ok(new) => admission.cidrs.push(new),
            Err(message) => admission.declined.entry(pool.pool.clone()).or_default().push(message),
        }
    }
    admission
}

fn each_cidr(pools: &[ConfiguredPool]) -> impl Iterator<Item = (&ConfiguredPool, &Cidr)> {
    pools.iter().flat_map(|pool| pool.cidrs.iter().map(move |cidr| (pool, cidr)))
}

fn is_of(old: &AdmittedCidr, pool: &ConfiguredPool, cidr: &Cidr) -> bool {
    old.cidr == *cidr && old.pool == pool.pool
}

fn has(pool: &ConfiguredPool, old: &AdmittedCidr) -> bool {
    pool.pool == old.pool && pool.cidrs.contains(&old.cidr) && pool.mask_size == old.mask_size
}

/// Whether a pool can have this CIDR beside those that are `taken`, and as what; or why not.
fn judge(pool: &ConfiguredPool, cidr: &Cidr, taken: &[&AdmittedCidr]) -> Result<AdmittedCidr, String> {
    if let Some(old) = taken.iter().find(|old| is_of(old, pool, cidr)) {
        return if old.mask_size == pool.mask_size {
            Ok((*old).clone())
        } else {
            Err(mask_message(old, pool.mask_size))
        };
    }
    if let Some(old) = taken.iter().find(|old| old.cidr.overlaps(cidr)) {
        return Err(overlap_message(pool, cidr, old));
    }
    let other_size = |old: &&&AdmittedCidr| {
        old.pool == pool.pool && old.cidr.family() == pool.family && old.mask_size != pool.mask_size
    };
    if let Some(old) = taken.iter().find(other_size) {
        return Err(format!(
            "CIDR {cidr} of pool {} is to be cut into /{} blocks, but the pool's blocks in use are /{mask}: set the block size back to {mask}",
            pool.pool,
            pool.mask_size,
            mask = old.mask_size,
        ));
    }
    Ok(AdmittedCidr { cidr: *cidr, pool: pool.pool.clone(), mask_size: pool.mask_size, in_use: false })
}

fn overlap_message(pool: &ConfiguredPool, cidr: &Cidr, old: &AdmittedCidr) -> String {
    if old.in_use {
        return format!(
            "CIDR {cidr} of pool {} overlaps {} of pool {}, which is in use: {} goes on. Append a CIDR that overlaps nothing instead",
            pool.pool, old.cidr, old.pool, old.cidr
        );
    }
    format!(
        "CIDR {cidr} of pool {} overlaps {} of pool {}, which was recorded first: give one of the two another CIDR",
        pool.pool, old.cidr, old.pool
    )
}

fn removal_message(old: &AdmittedCidr) -> String {
    format!(
        "CIDR {} of pool {} is in use and cannot be removed or replaced: it goes on. Put it back into the list, or remove the nodes that hold its blocks",
        old.cidr, old.pool
    )
}

fn mask_message(old: &AdmittedCidr, configured: u8) -> String {
    format!(
        "CIDR {} of pool {} is to be cut into /{configured} blocks, but its blocks in use are /{}: set the block size back to {}",
        old.cidr, old.pool, old.mask_size, old.mask_size
    )
}

/// What the ledger, or the mirrored podCIDRs, say is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// Anything at all.
    pub any: bool,
    /// Admitted CIDRs with a block that is held, cooling, or about to be taken.
    pub cidrs: BTreeSet<Cidr>,
    /// A commit or a published block waits for the flags.
    pub waiting: bool,
}

/// The status as it should be: admitted CIDRs from the settings, and in use what is used. Flags are only ever set here;
/// clearing goes through [`cleared`].
pub(crate) fn wanted_status(
    settings: &EngineSettings,
    offers: &Offers,
    config: &IPAMConfig,
    used: &Use,
) -> IPAMConfigStatus {
    let known = config.status.clone().unwrap_or_default();
    let mut cidrs = admit(settings, offers, config.spec.mode, &known.cidrs).cidrs;
    for cidr in &mut cidrs {
        cidr.in_use |= used.cidrs.contains(&cidr.cidr);
    }
    let in_use = known.in_use || used.any || cidrs.iter().any(|cidr| cidr.in_use);
    let was_marked = |cidr: &Cidr| known.cidrs.iter().any(|old| old.cidr == *cidr && old.in_use);
    let marks_anew = in_use != known.in_use || cidrs.iter().any(|cidr| cidr.in_use && !was_marked(&cidr.cidr));
    // Somebody who is about to clear the flags must see that a block is coming.
    let draining = known.draining && !marks_anew && !used.waiting;
    IPAMConfigStatus { in_use, draining, cidrs, conditions: known.conditions }
}

/// The status after everything unused was cleared, the end of a drain.
pub(crate) fn cleared(settings: &EngineSettings, offers: &Offers, config: &IPAMConfig, used: &Use) -> IPAMConfigStatus {
    let mut known = config.status.clone().unwrap_or_default();
    for cidr in &mut known.cidrs {
        cidr.in_use = used.cidrs.contains(&cidr.cidr);
    }
    known.cidrs = admit(settings, offers, config.spec.mode, &known.cidrs).cidrs;
    IPAMConfigStatus { in_use: used.any, draining: false, ..known }
}

/// Whether blocks of `cidr` may be committed and published.
pub(crate) fn is_marked(status: &IPAMConfigStatus, cidr: &Cidr) -> bool {
    status.in_use && !status.draining && status.cidrs.iter().any(|known| known.cidr == *cidr && known.in_use)
}

/// The config with conditions that say what is refused, or no longer is; and the Events that go with it. `None` if it
/// says so already. Said once by each operator that starts, leading or not, so that two with different settings do not
/// overwrite each other without end.
#[must_use]
pub fn announce(
    settings: &EngineSettings,
    config: &IPAMConfig,
    holders: &dyn Fn(&Cidr) -> String,
    now: Timestamp,
) -> Option<(IPAMConfig, Vec<Note>)> {
    let mut config = config.clone();
    let (generation, uid) = (config.metadata.generation.unwrap_or(0), config.metadata.uid.clone().unwrap_or_default());
    let refusals = refusals(settings, Some(&config));
    let (mut status, mut changed, mut notes) = (config.status.clone().unwrap_or_default(), false, Vec::new());
    let kinds = [
        (RefusalKind::Mode, condition_type::MODE_CHANGE_REFUSED, reason::MODE_DIFFERS, reason::MODE_AGREES),
        (RefusalKind::Pool, condition_type::POOL_CHANGE_REFUSED, reason::POOLS_DIFFER, reason::POOLS_AGREE),
    ];
    for (kind, condition_type, refused, agrees) in kinds {
        let messages: Vec<_> =
            refusals.iter().filter(|refusal| refusal.kind == kind).map(ToString::to_string).collect();
        let existing = status.conditions.iter().find(|existing| existing.type_ == condition_type);
        let set = if messages.is_empty() {
            let Some(_stale) = existing.filter(|existing| existing.status == "True") else { continue };
            condition(condition_type, false, agrees, "the settings agree with what is recorded", generation, now)
        } else {
            let message = messages.join("; ") + &held_by(&status, kind, settings, holders);
            notes.push(Note {
                regarding: Regarding::Config { uid: uid.clone() },
                warning: true,
                reason: refused,
                message: message.clone(),
            });
            condition(condition_type, true, refused, &message, generation, now)
        };
        changed |= set_condition(&mut status.conditions, set);
    }
    config.status = Some(status);
    changed.then_some((config, notes))
}

/// For a pool refusal: who holds blocks of the CIDRs that the settings no longer have.
fn held_by(
    status: &IPAMConfigStatus,
    kind: RefusalKind,
    settings: &EngineSettings,
    holders: &dyn Fn(&Cidr) -> String,
) -> String {
    if kind == RefusalKind::Mode {
        return String::new();
    }
    let kept = |old: &&AdmittedCidr| {
        let same = |pool: &ConfiguredPool| pool.cidrs.contains(&old.cidr) && pool.mask_size == old.mask_size;
        old.in_use && !settings.pools.iter().any(same)
    };
    let named = status
        .cidrs
        .iter()
        .filter(kept)
        .map(|old| (old.cidr, holders(&old.cidr)))
        .filter(|(_, names)| !names.is_empty());
    named.fold(String::new(), |all, (cidr, names)| all + "; " + &cidr.to_string() + " is held by " + &names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cadastre_api::{CONFIG_NAME, IPAMConfigSpec};
    use cadastre_core::Family;

    fn settings(mode: Mode, cidrs: &[&str], mask_size: u8) -> EngineSettings {
        let cidrs: Vec<Cidr> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        EngineSettings {
            mode,
            families: vec![Family::V4],
            required: vec![],
            pools: vec![ConfiguredPool { pool: "default".into(), family: Family::V4, cidrs, mask_size }],
            reserved: vec![],
            block_cooling: std::time::Duration::from_mins(5),
            remove_taints: true,
            set_network_status: true,
            recover: false,
        }
    }

    fn recorded(mode: Mode, in_use: bool, cidrs: &[(&str, u8, bool)]) -> IPAMConfig {
        let cidr = |(cidr, mask_size, in_use): &(&str, u8, bool)| AdmittedCidr {
            cidr: cidr.parse().unwrap(),
            pool: "default".into(),
            mask_size: *mask_size,
            in_use: *in_use,
        };
        let mut config = IPAMConfig::new(CONFIG_NAME, IPAMConfigSpec { mode });
        let cidrs = cidrs.iter().map(cidr).collect();
        config.status = Some(IPAMConfigStatus { in_use, cidrs, ..IPAMConfigStatus::default() });
        config
    }

    #[test]
    fn a_mode_is_refused_only_while_blocks_are_in_use() {
        let settings = settings(Mode::Kubernetes, &[], 24);
        let refused = |in_use| refusals(&settings, Some(&recorded(Mode::ClusterPool, in_use, &[])));
        assert_eq!(refused(false), []);
        assert_eq!(refused(true)[0].kind, RefusalKind::Mode);
        assert!(refused(true)[0].message.contains("Set ipam.mode back to \"cluster-pool\""), "{}", refused(true)[0]);
        assert_eq!(refusals(&settings, None), []);
    }

    #[test]
    fn what_is_in_use_stays_and_the_rest_follows_the_settings() {
        let known = recorded(Mode::ClusterPool, true, &[("10.0.0.0/16", 24, true), ("10.1.0.0/16", 24, false)]);
        let admitted = |cidrs: &[&str], mask| {
            let settings = settings(Mode::ClusterPool, cidrs, mask);
            let known = &known.status.as_ref().unwrap().cidrs;
            let Admission { cidrs, refusals, .. } = admit(&settings, &Offers::default(), Mode::ClusterPool, known);
            let cidrs: Vec<_> = cidrs.iter().map(|cidr| format!("{}:{}", cidr.cidr, cidr.mask_size)).collect();
            (cidrs.join(" "), refusals.len())
        };
        let table: [(&[&str], u8, &str, usize); 6] = [
            (&["10.0.0.0/16", "10.1.0.0/16"], 24, "10.0.0.0/16:24 10.1.0.0/16:24", 0),
            (&["10.0.0.0/16", "10.2.0.0/16"], 24, "10.0.0.0/16:24 10.2.0.0/16:24", 0),
            (&["10.2.0.0/16"], 24, "10.2.0.0/16:24 10.0.0.0/16:24", 1),
            (&["10.0.0.0/16"], 25, "10.0.0.0/16:24", 1),
            (&["10.0.0.0/8"], 24, "10.0.0.0/16:24", 2),
            (&["10.0.0.0/16", "10.2.0.0/16"], 25, "10.0.0.0/16:24", 2),
        ];
        for (cidrs, mask, expected, refused) in table {
            assert_eq!(admitted(cidrs, mask), (expected.to_owned(), refused), "{cidrs:?} /{mask}");
        }
    }

    #[test]
    fn of_pools_that_overlap_the_one_recorded_first_has_the_cidr() {
        let settings = settings(Mode::ClusterPool, &["10.0.0.0/16"], 24);
        let pool = |name: &str, cidr: &str| ConfiguredPool {
            pool: name.into(),
            family: Family::V4,
            cidrs: vec![cidr.parse().unwrap()],
            mask_size: 24,
        };
        let (a, b) = (pool("a", "10.8.0.0/16"), pool("b", "10.8.128.0/17"));
        let wanted = |offers: &[&ConfiguredPool], unseen: &[&str], known: &[AdmittedCidr]| {
            let offers = Offers {
                pools: offers.iter().map(|pool| (*pool).clone()).collect(),
                unseen: unseen.iter().map(|name| (*name).to_owned()).collect(),
            };
            let admission = admit(&settings, &offers, Mode::ClusterPool, known);
            let names = admission.cidrs.iter().map(|cidr| cidr.pool.clone()).collect::<Vec<_>>().join(" ");
            (names, admission.declined.into_keys().collect::<Vec<_>>().join(" "), admission.cidrs)
        };
        let (names, declined, _) = wanted(&[&a, &b], &[], &[]);
        assert_eq!((names.as_str(), declined.as_str()), ("default a", "b"), "the older one");
        let (.., by_another) = wanted(&[&b], &[], &[]);
        for (offers, unseen) in [(&[&a, &b][..], &[][..]), (&[&a][..], &["b"][..])] {
            let (names, declined, _) = wanted(offers, unseen, &by_another);
            assert_eq!((names.as_str(), declined.as_str()), ("default b", "a"), "recorded first by another operator");
        }
        let (names, ..) = wanted(&[&a], &[], &by_another);
        assert_eq!(names, "default a", "b is gone");
        let inside = pool("c", "10.0.7.0/24");
        assert_eq!(wanted(&[&inside], &[], &[]).1, "c", "the settings' own come first");
    }

    #[test]
    fn marking_stops_a_drain_and_clearing_keeps_what_is_used() {
        let settings = settings(Mode::ClusterPool, &["10.0.0.0/16", "10.1.0.0/16"], 24);
        let mut config = recorded(Mode::ClusterPool, true, &[("10.0.0.0/16", 24, true), ("10.1.0.0/16", 24, true)]);
        config.status.as_mut().unwrap().draining = true;
        assert!(wanted_status(&settings, &Offers::default(), &config, &Use::default()).draining);
        let one = Use { any: true, cidrs: ["10.1.0.0/16".parse().unwrap()].into(), waiting: true };
        assert!(!wanted_status(&settings, &Offers::default(), &config, &one).draining);
        let after = cleared(&settings, &Offers::default(), &config, &one);
        assert_eq!(after.cidrs.iter().map(|cidr| cidr.in_use).collect::<Vec<_>>(), [false, true]);
        assert!(after.in_use && !after.draining);
        assert!(!cleared(&settings, &Offers::default(), &config, &Use::default()).in_use);
    }

    #[test]
    fn a_refusal_is_announced_once_and_taken_back_once() {
        let wrong = settings(Mode::ClusterPool, &["10.9.0.0/16"], 24);
        let right = settings(Mode::ClusterPool, &["10.0.0.0/16"], 24);
        let config = recorded(Mode::ClusterPool, true, &[("10.0.0.0/16", 24, true)]);
        let holders = |_: &Cidr| "node-a".to_owned();
        let now = Timestamp::UNIX_EPOCH;
        let (said, notes) = announce(&wrong, &config, &holders, now).unwrap();
        let set = &said.status.as_ref().unwrap().conditions[0];
        assert_eq!((set.type_.as_str(), set.status.as_str(), notes.len()), ("PoolChangeRefused", "True", 1));
        assert!(set.message.ends_with("10.0.0.0/16 is held by node-a"), "{}", set.message);
        assert!(announce(&wrong, &said, &holders, now).is_none());
        let (healed, notes) = announce(&right, &said, &holders, now).unwrap();
        assert_eq!((healed.status.unwrap().conditions[0].status.as_str(), notes.len()), ("False", 0));
        assert!(announce(&right, &config, &holders, now).is_none());
    }
}
