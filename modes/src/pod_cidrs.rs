//! Every Node's podCIDRs, and who of Nodes that overlap is served.
//!
//! A Node is kept waiting by what is really served, or about to be, and by nothing else. Of a chain `A – B – C` in which
//! A is the senior one, B waits for A; so B has nothing that could be in the way of C, and C is served:
//!
//! ```text
//! A  served           10.0.0.0/16  ────────────────┐
//! B  waits for A      10.0.0.0/8   ──────────────────────────────┐
//! C  served           10.9.0.0/24                        ────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use cadastre_core::{Cidr, CidrMap};

use crate::plan::Shortage;

/// Who of several Nodes with overlapping CIDRs keeps them: one that was served already, then the older, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seniority {
    unserved: bool,
    created: i64,
    name: String,
}

/// Every Node's podCIDRs, found by overlap in time that does not grow with the number of Nodes.
#[derive(Clone, Debug, Default)]
pub struct PodCidrIndex {
    nodes: BTreeMap<String, (Seniority, Vec<Cidr>)>,
    holders: CidrMap<String>,
}

impl PodCidrIndex {
    /// Records the CIDRs that a Node has or wants, in place of what was recorded. Returns the other Nodes that the change
    /// concerns.
    pub fn set(&mut self, name: &str, created: i64, served: bool, cidrs: &[Cidr]) -> BTreeSet<String> {
        let seniority = Seniority { unserved: !served, created, name: name.to_owned() };
        if self.nodes.get(name).is_some_and(|(old, had)| *old == seniority && had == cidrs) {
            return BTreeSet::new();
        }
        let mut concerned = self.remove(name);
        for cidr in cidrs {
            concerned.extend(self.holders(cidr));
            self.holders.insert(*cidr, name.to_owned());
        }
        self.nodes.insert(name.to_owned(), (seniority, cidrs.to_vec()));
        concerned.remove(name);
        concerned
    }

    /// Forgets a Node. Returns the Nodes that overlapped it.
    pub fn remove(&mut self, name: &str) -> BTreeSet<String> {
        let Some((_, cidrs)) = self.nodes.remove(name) else { return BTreeSet::new() };
        let mut concerned = BTreeSet::new();
        for cidr in cidrs {
            self.holders.remove(&cidr, &name.to_owned());
            concerned.extend(self.holders(&cidr));
        }
        concerned
    }

    /// Nodes whose CIDRs overlap this one.
    #[must_use]
    pub fn holders(&self, cidr: &Cidr) -> BTreeSet<String> {
        self.holders.overlapping(cidr).map(|(_, holder)| holder.clone()).collect()
    }

    /// Of the Nodes named, those that must wait, each with the Node that has what overlaps.
    pub(crate) fn overlaps<'a>(&'a self, names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, Shortage> {
        let (mut settled, mut waiting) = (BTreeSet::new(), BTreeMap::new());
        for name in names {
            if !settled.contains(name) {
                let group = self.group(name);
                settled.extend(group.iter().map(|seniority| seniority.name.as_str()));
                self.settle(&group, &mut waiting);
            }
        }
        waiting
    }

    /// Every Node that overlaps this one, or one that does, and so on; the senior ones first.
    fn group(&self, name: &str) -> BTreeSet<&Seniority> {
        let (mut group, mut open) = (BTreeSet::new(), vec![name]);
        while let Some((seniority, cidrs)) = open.pop().and_then(|name| self.nodes.get(name)) {
            if group.insert(seniority) {
                open.extend(
                    cidrs.iter().flat_map(|cidr| self.holders.overlapping(cidr)).map(|(_, other)| other.as_str()),
                );
            }
        }
        group
    }

    /// From the senior to the junior: who overlaps nobody that has or gets its CIDRs gets its own.
    fn settle<'a>(&'a self, group: &BTreeSet<&'a Seniority>, waiting: &mut BTreeMap<&'a str, Shortage>) {
        let mut having = BTreeSet::new();
        for Seniority { unserved, name, .. } in group {
            let overlap = self.first_overlap(name, &having);
            if overlap.is_none() || !unserved {
                // One that was served keeps what its pods use, even if it is the junior of two that were.
                having.insert(name.as_str());
            }
            waiting.extend(overlap.map(|shortage| (name.as_str(), shortage)));
        }
    }

    fn first_overlap(&self, name: &str, having: &BTreeSet<&str>) -> Option<Shortage> {
        let (_, cidrs) = self.nodes.get(name)?;
        cidrs.iter().find_map(|cidr| {
            let (other_cidr, other) =
                self.holders.overlapping(cidr).find(|(_, other)| having.contains(other.as_str()))?;
            Some(Shortage::Overlaps { cidr: *cidr, other_cidr, other: other.clone() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, age, whether it was served, podCIDRs.
    type Row<'a> = (&'a str, i64, bool, &'a [&'a str]);

    fn index<'a>(rows: impl IntoIterator<Item = &'a Row<'a>>) -> PodCidrIndex {
        let mut index = PodCidrIndex::default();
        for (name, created, served, cidrs) in rows {
            let cidrs: Vec<Cidr> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
            index.set(name, *created, *served, &cidrs);
        }
        index
    }

    /// Who waits for whom, as `waiting<having`, with all Nodes asked at once.
    fn waiting(index: &PodCidrIndex) -> String {
        let waiting = index.overlaps(index.nodes.keys().map(String::as_str));
        let texts = waiting.into_iter().map(|(name, shortage)| {
            let Shortage::Overlaps { other, .. } = shortage else { panic!("{shortage:?}") };
            format!("{name}<{other}")
        });
        texts.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn of_two_overlapping_nodes_the_served_then_the_older_one_is_served() {
        let (wide, narrow) = (["10.0.0.0/16"], ["10.0.7.0/24"]);
        let table = [
            ((5, false), (6, false), "narrow<wide"),
            ((6, false), (5, false), "wide<narrow"),
            ((6, true), (5, false), "narrow<wide"),
            ((5, false), (5, false), "wide<narrow"),
            ((6, true), (5, true), "wide<narrow"),
        ];
        for ((wide_created, wide_served), (narrow_created, narrow_served), expected) in table {
            let wide: Row = ("wide", wide_created, wide_served, &wide);
            assert_eq!(waiting(&index([&wide, &("narrow", narrow_created, narrow_served, &narrow)])), expected);
        }
    }

    #[test]
    fn a_node_that_only_waits_keeps_nobody_waiting() {
        let chain: [Row; 4] = [
            ("a", 1, false, &["10.0.0.0/24", "fd00:0::/64"]),
            ("b", 2, false, &["10.0.0.0/24", "fd00:1::/64"]),
            ("c", 3, false, &["10.0.1.0/24", "fd00:1::/64"]),
            ("d", 4, false, &["10.0.0.0/16", "fd00:2::/64"]),
        ];
        assert_eq!(waiting(&index(&chain)), "b<a d<a");
        assert_eq!(waiting(&index(chain.iter().rev())), "b<a d<a", "whatever the order in which they were seen");
        let whole = index(&chain);
        for (name, ..) in &chain {
            let alone = whole.overlaps([*name].into_iter()).contains_key(name);
            assert_eq!(alone, matches!(*name, "b" | "d"), "{name}, asked for alone");
        }
        // The middle of the chain was served: both its neighbours wait.
        let mut middle = chain;
        middle[1].2 = true;
        assert_eq!(waiting(&index(&middle)), "a<b c<b d<b");
    }

    #[test]
    fn the_junior_of_two_that_were_served_keeps_others_waiting_all_the_same() {
        let rows: [Row; 3] =
            [("a", 1, true, &["10.0.0.0/24"]), ("b", 2, true, &["10.0.0.0/23"]), ("c", 3, false, &["10.0.1.0/24"])];
        assert_eq!(waiting(&index(&rows)), "b<a c<b");
    }

    #[test]
    fn whoever_is_served_first_stays_so_and_nobody_waits_in_vain() {
        // Every overlap of these, in every order of arrival: served at once if nothing overlaps, as the engine does.
        let cidrs = ["10.0.0.0/22", "10.0.0.0/23", "10.0.1.0/24", "10.0.2.0/23", "10.0.3.0/24", "10.0.0.0/24"];
        let parsed: Vec<Cidr> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        for start in 0..cidrs.len() {
            let (mut index, mut served) = (PodCidrIndex::default(), BTreeSet::new());
            for step in 0..cidrs.len() {
                let at = (start + step * 5) % cidrs.len();
                index.set(cidrs[at], 0, false, &[parsed[at]]);
                if !index.overlaps([cidrs[at]].into_iter()).contains_key(cidrs[at]) {
                    index.set(cidrs[at], 0, true, &[parsed[at]]);
                    served.insert(parsed[at]);
                }
            }
            let mut pairs = served.iter().flat_map(|one| served.iter().map(move |two| (one, two)));
            assert!(pairs.all(|(one, two)| one == two || !one.overlaps(two)), "{served:?}");
            let waits: BTreeSet<_> = index.overlaps(cidrs.into_iter()).into_keys().collect();
            let overlaps = |cidr: &Cidr| served.iter().any(|other| other != cidr && other.overlaps(cidr));
            for (name, cidr) in cidrs.iter().zip(&parsed) {
                assert_eq!(waits.contains(name), overlaps(cidr), "{name}");
                assert_eq!(waits.contains(name), !served.contains(cidr), "{name}");
            }
        }
    }

    #[test]
    fn a_change_names_the_nodes_it_concerns() {
        let mut index = index(&[("a", 1, false, &["10.0.0.0/24"][..])]);
        let cidrs = ["10.0.0.0/24".parse().unwrap()];
        assert_eq!(index.set("b", 2, false, &cidrs), BTreeSet::from(["a".to_owned()]));
        assert_eq!(waiting(&index), "b<a");
        assert_eq!(index.remove("a"), BTreeSet::from(["b".to_owned()]));
        assert_eq!(waiting(&index), "");
    }
}
