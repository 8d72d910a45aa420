//! Values filed under CIDRs of any size, found by overlap: who else has a part of this one?
//!
//! Costs one lookup for each prefix length that is in use, which is one or two in practice, and a range scan.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Cidr, Family};

/// Sets of values by CIDR. CIDRs may contain each other.
#[derive(Clone, Debug)]
pub struct CidrMap<T> {
    filed: BTreeMap<Cidr, BTreeSet<T>>,
    /// How many CIDRs of each prefix length there are, so that only those are looked up.
    lengths: BTreeMap<(Family, u8), usize>,
}

impl<T> Default for CidrMap<T> {
    fn default() -> Self {
        Self { filed: BTreeMap::new(), lengths: BTreeMap::new() }
    }
}

impl<T: Ord> CidrMap<T> {
    /// Files `value` under `cidr`.
    pub fn insert(&mut self, cidr: Cidr, value: T) {
        let values = self.filed.entry(cidr).or_default();
        if values.is_empty() {
            *self.lengths.entry((cidr.family(), cidr.prefix_len())).or_default() += 1;
        }
        values.insert(value);
    }

    /// Takes out `value` under exactly `cidr`.
    pub fn remove(&mut self, cidr: &Cidr, value: &T) {
        let Some(values) = self.filed.get_mut(cidr) else { return };
        values.remove(value);
        if !values.is_empty() {
            return;
        }
        self.filed.remove(cidr);
        let length = (cidr.family(), cidr.prefix_len());
        if let Some(count) = self.lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length);
            }
        }
    }

    /// Everything filed under a CIDR that contains `cidr` or lies in it, itself included, from the largest.
    pub fn overlapping<'a>(&'a self, cidr: &Cidr) -> impl Iterator<Item = (Cidr, &'a T)> + use<'a, T> {
        let cidr = *cidr;
        let shorter = self.lengths.range((cidr.family(), 0)..(cidr.family(), cidr.prefix_len()));
        let outer = shorter.filter_map(move |(&(_, length), _)| self.filed.get_key_value(&cidr.supernet(length)?));
        let inner = self.filed.range(cidr..).take_while(move |(other, _)| cidr.contains(other));
        outer.chain(inner).flat_map(|(other, values)| values.iter().map(|value| (*other, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn overlaps_are_found_whichever_contains_the_other() {
        let mut map = CidrMap::default();
        for (at, value) in [("10.0.0.0/16", 1), ("10.0.7.0/24", 2), ("10.0.7.0/24", 3), ("10.1.0.0/24", 4), ("::/0", 5)]
        {
            map.insert(cidr(at), value);
        }
        let found = |at: &str| map.overlapping(&cidr(at)).map(|(_, value)| *value).collect::<Vec<_>>();
        assert_eq!(found("10.0.7.0/24"), [1, 2, 3]);
        assert_eq!(found("10.0.7.9/32"), [1, 2, 3]);
        assert_eq!(found("10.0.8.0/24"), [1]);
        assert_eq!(found("10.0.0.0/8"), [1, 2, 3, 4]);
        assert_eq!(found("0.0.0.0/0"), [1, 2, 3, 4]);
        assert_eq!(found("fd00::/64"), [5]);
        assert!(found("11.0.0.0/24").is_empty());
    }

    #[test]
    fn what_is_taken_out_is_not_found_and_the_rest_is() {
        let mut map = CidrMap::default();
        map.insert(cidr("10.0.0.0/16"), 1);
        map.insert(cidr("10.0.0.0/16"), 2);
        map.remove(&cidr("10.0.0.0/16"), &1);
        map.remove(&cidr("10.0.0.0/24"), &2);
        assert_eq!(map.overlapping(&cidr("10.0.0.0/24")).count(), 1);
        map.remove(&cidr("10.0.0.0/16"), &2);
        assert_eq!(map.overlapping(&cidr("10.0.0.0/24")).count(), 0);
        assert!(map.lengths.is_empty());
    }
}
