//! What a set of keys and values comes to, kept up to date change by change: a sum of hashes that does not depend on the order,
//! in 256 buckets by key. Two sides that hold the same have the same digest, and where they do not, the buckets that differ
//! say where to look. Holds hashes only, never a key or a value.
//!
//! The hash of an entry is XXH3-128 over the key's length, the key and the value; a digest is the sum of its entries' hashes
//! modulo 2^128. That makes an accident invisible with a chance of about 2^-128; it is no protection against somebody who
//! constructs a collision, and none is needed: who can write to either etcd has easier ways.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::BuildHasherDefault,
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::revision::Op;

/// Buckets of a ledger.
pub const BUCKETS: usize = 256;

/// A digest of any number of entries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(u128);

/// The hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name(u128);

/// The entries of one side by their hashes: 48 bytes or so for each.
#[derive(Debug, Clone)]
pub struct Ledger {
    entries: HashMap<u128, u128, BuildHasherDefault<Already>>,
    buckets: Box<[u128; BUCKETS]>,
    root: u128,
}

/// The hasher of keys that are hashes already.
#[derive(Debug, Clone, Default)]
struct Already(u64);

// === impl Digest ===

impl Digest {
    /// The digest of the same entries and this one, which is not among them.
    pub fn with(self, key: &[u8], value: &[u8]) -> Self {
        Self(self.0.wrapping_add(hash(key, value)))
    }

    pub(crate) const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or_else(|| format!("a digest has 32 hexadecimal digits, unlike {text:?}"))
    }
}

// === impl Name ===

impl Name {
    /// That of this key.
    pub fn of(key: &[u8]) -> Self {
        Self(xxh3_128(key))
    }
}

// === impl Already ===

impl std::hash::Hasher for Already {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Never taken for u128; right for anything else as well.
        self.0 = bytes.iter().fold(self.0, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

// === impl Ledger ===

impl Default for Ledger {
    fn default() -> Self {
        Self { entries: HashMap::default(), buckets: Box::new([0; BUCKETS]), root: 0 }
    }
}

impl Ledger {
    /// The key has this value from now on.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let (name, entry) = (xxh3_128(key), hash(key, value));
        let before = self.entries.insert(name, entry).unwrap_or(0);
        self.shift(name, entry.wrapping_sub(before));
    }

    /// The key is gone.
    pub fn delete(&mut self, key: &[u8]) {
        self.delete_name(Name::of(key));
    }

    /// The key of this name is gone.
    pub fn delete_name(&mut self, Name(name): Name) {
        if let Some(before) = self.entries.remove(&name) {
            self.shift(name, before.wrapping_neg());
        }
    }

    /// Either.
    pub fn apply(&mut self, key: &[u8], op: &Op) {
        match op {
            Op::Put { value, .. } => self.put(key, value),
            Op::Delete => self.delete(key),
        }
    }

    /// The digest of everything.
    pub const fn digest(&self) -> Digest {
        Digest(self.root)
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The buckets in which two ledgers differ.
    pub fn differing_buckets(&self, other: &Self) -> Vec<usize> {
        (0..BUCKETS).filter(|at| self.buckets.get(*at) != other.buckets.get(*at)).collect()
    }

    /// The names of the keys that two ledgers hold differently, those that one of them does not hold included.
    pub fn differing(&self, other: &Self) -> HashSet<Name> {
        let differ = self.differing_buckets(other);
        if differ.is_empty() {
            return HashSet::new();
        }
        let within = |(name, _): &(&u128, &u128)| differ.binary_search(&bucket_of(**name)).is_ok();
        let unlike = |one: &Self, other: &Self| -> Vec<Name> {
            let unlike = |(name, entry): &(&u128, &u128)| other.entries.get(*name) != Some(*entry);
            one.entries.iter().filter(within).filter(unlike).map(|(name, _)| Name(*name)).collect()
        };
        unlike(self, other).into_iter().chain(unlike(other, self)).collect()
    }

    /// The names of all keys.
    pub fn names(&self) -> impl Iterator<Item = Name> {
        self.entries.keys().map(|name| Name(*name))
    }

    /// Whether there is a key of this name.
    pub fn has(&self, Name(name): Name) -> bool {
        self.entries.contains_key(&name)
    }

    /// Whether the key has this value here; `None` for a value means that it is not here.
    pub fn holds(&self, key: &[u8], value: Option<&[u8]>) -> bool {
        self.entries.get(&xxh3_128(key)).copied() == value.map(|value| hash(key, value))
    }

    fn shift(&mut self, name: u128, by: u128) {
        self.root = self.root.wrapping_add(by);
        // The top byte: the table of entries is spread by the lowest.
        if let Some(bucket) = self.buckets.get_mut(bucket_of(name)) {
            *bucket = bucket.wrapping_add(by);
        }
    }
}

/// The bucket of a key.
pub fn bucket(key: &[u8]) -> usize {
    bucket_of(xxh3_128(key))
}

const fn bucket_of(name: u128) -> usize {
    (name >> 120) as usize
}

/// The length keeps `ab` + `c` apart from `a` + `bc`.
fn hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.digest128()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn ledger_of(entries: &BTreeMap<Vec<u8>, Vec<u8>>) -> Ledger {
        let mut ledger = Ledger::default();
        for (key, value) in entries {
            ledger.put(key, value);
        }
        ledger
    }

    #[test]
    fn a_boundary_between_key_and_value_counts() {
        let (mut one, mut other) = (Ledger::default(), Ledger::default());
        one.put(b"ab", b"c");
        other.put(b"a", b"bc");
        assert_ne!(one.digest(), other.digest());
        assert!(one.holds(b"ab", Some(b"c")) && !one.holds(b"ab", Some(b"d")) && one.holds(b"a", None));
    }

    #[test]
    fn a_digest_reads_back_and_refuses_what_is_none() {
        let mut ledger = Ledger::default();
        ledger.put(b"k", b"v");
        let text = ledger.digest().to_string();
        assert_eq!(text.parse::<Digest>().unwrap(), ledger.digest());
        for bad in ["", "0", "g0000000000000000000000000000000", "+0000000000000000000000000000000"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_counts_is_what_is_there_and_not_how_it_came_there(
            steps in prop::collection::vec((0_u8..12, prop::option::of(0_u8..4)), 0..80),
        ) {
            let (mut ledger, mut model) = (Ledger::default(), BTreeMap::new());
            for (key, value) in steps {
                match value {
                    Some(value) => { ledger.put(&[key], &[value]); model.insert(vec![key], vec![value]); }
                    None => { ledger.delete(&[key]); model.remove(&vec![key]); }
                }
                let fresh = ledger_of(&model);
                prop_assert_eq!(ledger.digest(), fresh.digest());
                prop_assert_eq!(ledger.keys(), model.len() as u64);
                prop_assert!(ledger.differing_buckets(&fresh).is_empty());
            }
        }

        #[test]
        fn one_change_shows_in_the_digest_and_in_its_bucket(
            entries in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..4), prop::collection::vec(any::<u8>(), 0..3), 1..20),
            at: prop::sample::Index,
        ) {
            let one = ledger_of(&entries);
            let mut other = one.clone();
            let key = at.get(&entries.keys().collect::<Vec<_>>()).to_vec();
            other.put(&key, b"something else");
            prop_assert_ne!(one.digest(), other.digest());
            prop_assert_eq!(one.differing_buckets(&other), vec![bucket(&key)]);
            prop_assert_eq!(one.differing(&other), HashSet::from([Name::of(&key)]));
            other.delete(&key);
            prop_assert_eq!(other.differing(&one), HashSet::from([Name::of(&key)]));
            prop_assert!(one.has(Name::of(&key)) && !other.has(Name::of(&key)));
        }
    }
}
