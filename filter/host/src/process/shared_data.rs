//! The data that the VMs of one `vm_id` share (`shared_data.cc` of proxy-wasm-cpp-host), with what is odd about it kept:
//! writing a key that is not there succeeds whatever stamp comes with it, so of two first writers the last one wins, and
//! neither is told.

use std::collections::BTreeMap;

/// Values by `vm_id` and key, each with the stamp of its last writing.
#[derive(Debug, Default)]
pub struct SharedData {
    values: BTreeMap<(String, String), (Vec<u8>, u32)>,
    stamp: u32,
}

// === impl SharedData ===

impl SharedData {
    /// A copy of the value and its stamp.
    pub fn get(&self, vm_id: &str, key: &str) -> Option<(Vec<u8>, u32)> {
        self.values.get(&(vm_id.to_owned(), key.to_owned())).cloned()
    }

    /// Writes a value. False, and nothing written, when there is one that carries another stamp than the one given; a stamp
    /// of 0 stands for any.
    pub fn set(&mut self, vm_id: &str, key: &str, value: Vec<u8>, stamp: u32) -> bool {
        self.stamp = self.stamp.wrapping_add(1).max(1);
        let next = (value, self.stamp);
        let key = (vm_id.to_owned(), key.to_owned());
        match self.values.get_mut(&key) {
            Some((_, known)) if stamp != 0 && stamp != *known => false,
            Some(slot) => {
                *slot = next;
                true
            }
            None => {
                self.values.insert(key, next);
                true
            }
        }
    }

    /// The keys of a `vm_id`, sorted.
    pub fn keys(&self, vm_id: &str) -> impl Iterator<Item = &str> {
        self.values.keys().filter(move |(id, _)| id == vm_id).map(|(_, key)| key.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_stamp_is_refused_and_changes_nothing() {
        let mut data = SharedData::default();
        assert!(data.set("vm", "key", vec![1], 0));
        let (_, stamp) = data.get("vm", "key").unwrap();
        assert!(data.set("vm", "key", vec![2], stamp));
        assert!(!data.set("vm", "key", vec![3], stamp));
        assert_eq!(data.get("vm", "key").unwrap().0, [2]);
        assert!(data.set("vm", "key", vec![4], 0), "0 is no stamp");
    }

    #[test]
    fn of_two_first_writers_the_last_wins_and_neither_is_told() {
        let mut data = SharedData::default();
        assert_eq!(data.get("vm", "key"), None);
        assert!(data.set("vm", "key", vec![1], 17));
        assert!(data.set("vm", "key", vec![2], 0));
        assert_eq!(data.get("vm", "key").unwrap().0, [2]);
    }

    #[test]
    fn another_vm_id_is_another_world() {
        let mut data = SharedData::default();
        data.set("vm", "key", vec![1], 0);
        assert_eq!(data.get("other", "key"), None);
        assert_eq!(data.keys("vm").collect::<Vec<_>>(), ["key"]);
        assert_eq!(data.keys("other").count(), 0);
    }
}
