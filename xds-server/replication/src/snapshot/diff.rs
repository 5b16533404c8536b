//! Two states in the order of their keys, and the steps from one to the other. Pure.
//!
//! Values are compared, and whether a key lives by a lease; not by which one. A key whose owner registered again since has the
//! same value under another lease, and is left alone.

use super::Item;
use crate::revision::Revision;

/// What has to happen to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The key.
    pub key: Vec<u8>,
    /// What it shall be; `None`: gone.
    pub wanted: Option<Item>,
    /// What it is; `None`: not there.
    pub there: Option<Item>,
}

/// What kind of step that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is not there.
    Add,
    /// It has another value, or lives by a lease and shall not, or the other way round.
    Change,
    /// It shall not be there.
    Delete,
}

// === impl Step ===

impl Step {
    /// What kind of step it is.
    pub const fn kind(&self) -> Kind {
        match (&self.wanted, &self.there) {
            (Some(_), None) => Kind::Add,
            (Some(_), Some(_)) => Kind::Change,
            (None, _) => Kind::Delete,
        }
    }

    /// The revision that must still be the key's last when the step is carried out; 0: it must not be there.
    pub fn fence(&self) -> Revision {
        self.there.as_ref().map_or(Revision(0), |there| there.modified)
    }

    /// The same step when `there` is what is there now; `None` when nothing is left to do.
    pub fn again(self, there: Option<Item>) -> Option<Self> {
        step(self.key, self.wanted, there)
    }

    /// Bytes of a request that carries it out.
    pub fn size(&self) -> usize {
        2 * self.key.len() + self.wanted.as_ref().map_or(0, |wanted| wanted.value.len()) + 64
    }
}

/// Looks at the two entries that come next on either side. Says what is to be done, and which of them are done with.
pub fn judge(wanted: Option<&Item>, there: Option<&Item>) -> (Option<Step>, bool, bool) {
    let order = match (wanted, there) {
        (None, None) => return (None, false, false),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (Some(wanted), Some(there)) => wanted.key.cmp(&there.key),
    };
    let (wanted, there) = (wanted.filter(|_| order.is_le()), there.filter(|_| order.is_ge()));
    let key = wanted.or(there).map(|item| item.key.clone()).unwrap_or_default();
    (step(key, wanted.cloned(), there.cloned()), wanted.is_some(), there.is_some())
}

fn step(key: Vec<u8>, wanted: Option<Item>, there: Option<Item>) -> Option<Step> {
    let equal = match (&wanted, &there) {
        (None, None) => true,
        (Some(wanted), Some(there)) => {
            wanted.value == there.value && (wanted.lease == 0) == (there.lease == 0)
        }
        _ => false,
    };
    (!equal).then_some(Step { key, wanted, there })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Side = BTreeMap<u8, (u8, i64)>;

    fn items(side: &Side, modified: i64) -> Vec<Item> {
        let item = |(key, (value, lease)): (&u8, &(u8, i64))| Item {
            key: vec![*key],
            value: vec![*value],
            modified: Revision(modified),
            lease: *lease,
        };
        side.iter().map(item).collect()
    }

    fn side() -> impl Strategy<Value = Side> {
        prop::collection::btree_map(0_u8..24, (0_u8..2, 0_i64..3), 0..20)
    }

    proptest! {
        #[test]
        fn the_steps_lead_from_one_state_to_the_other_and_there_are_none_too_many(a in side(), b in side()) {
            let (wanted, there) = (items(&a, 1), items(&b, 2));
            let (mut i, mut j, mut state, mut steps) = (0, 0, b.clone(), 0);
            while i < wanted.len() || j < there.len() {
                let (step, first, second) = judge(wanted.get(i), there.get(j));
                prop_assert!(first || second, "a walk goes on");
                i += usize::from(first);
                j += usize::from(second);
                let Some(step) = step else { continue };
                steps += 1;
                prop_assert_eq!(step.fence(), Revision(if b.contains_key(&step.key[0]) { 2 } else { 0 }));
                match &step.wanted {
                    Some(item) => state.insert(step.key[0], (item.value[0], item.lease)),
                    None => state.remove(&step.key[0]),
                };
                let (wanted, there) = (step.wanted.clone(), step.there.clone());
                prop_assert_eq!(step.clone().again(wanted), None, "what was done is not done again");
                prop_assert_eq!(step.clone().again(there), Some(step));
            }
            let shown = |side: &Side| -> BTreeMap<u8, (u8, bool)> {
                side.iter().map(|(key, (value, lease))| (*key, (*value, *lease == 0))).collect()
            };
            prop_assert_eq!(shown(&state), shown(&a));
            let (a, b) = (shown(&a), shown(&b));
            prop_assert_eq!(steps, (0_u8..24).filter(|key| a.get(key) != b.get(key)).count());
        }
    }
}
