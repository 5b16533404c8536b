//! Snapshots on real files: what is written is read, and what was cut or flipped never is.

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn items() -> impl Strategy<Value = Vec<Item>> {
    let value = (prop::collection::vec(any::<u8>(), 0..60), 1_i64..100, 0_i64..3);
    prop::collection::btree_map(prop::collection::vec(any::<u8>(), 0..8), value, 0..30).prop_map(|all| {
        let item = |(key, (value, modified, lease)): (Vec<u8>, (Vec<u8>, i64, i64))| Item {
            key: [b"/app/".as_slice(), &key].concat(),
            value,
            modified: Revision(modified),
            lease,
        };
        all.into_iter().map(item).collect()
    })
}

fn write(path: &Path, items: &[Item]) -> (Header, Footer) {
    let header = Header::new(ClusterId(7), Revision(100), 1_234, "/app/");
    let mut writer = Writer::new(File::create(path).unwrap(), &header).unwrap();
    for item in items {
        writer.push(item).unwrap();
    }
    let (footer, _) = writer.finish(&BTreeMap::from([(1, 30), (2, 60)])).unwrap();
    (header, footer)
}

fn entry(key: &str) -> Item {
    Item { key: key.into(), value: b"v".to_vec(), modified: Revision(1), lease: 0 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_is_read_back(items in items()) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a");
        let written = write(&path, &items);
        prop_assert_eq!(verify(&path).unwrap(), written);
        let mut reader = Reader::open(&path).unwrap();
        let read: Vec<Item> = std::iter::from_fn(|| reader.read().unwrap()).collect();
        prop_assert_eq!(read, items);
        prop_assert_eq!(reader.leases(), &BTreeMap::from([(1, 30), (2, 60)]));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_always_said(items in items(), at: prop::sample::Index, bit in 0_u8..8, cut: bool) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a");
        write(&path, &items);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        fs::write(&path, &bytes).unwrap();
        let error = check_bytes(&path).err().map(|error| error.to_string()).unwrap_or_default();
        prop_assert!(error.contains("Nothing of it was used"), "{}", error);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), magic: bool) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a");
        let start = if magic { MAGIC.as_slice() } else { &[] };
        fs::write(&path, [start, &bytes].concat()).unwrap();
        prop_assert!(verify(&path).is_err());
    }
}

#[test]
fn entries_out_of_order_or_under_another_prefix_are_refused() {
    let directory = TempDir::new().unwrap();
    for (keys, says) in
        [(["/app/b", "/app/a"], "not in order"), (["/app/a", "/other"], "not under its prefix")]
    {
        let path = directory.path().join("a");
        write(&path, &keys.map(entry));
        let error = verify(&path).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("of 2 keys"), "{error}");
    }
}

#[test]
fn a_file_of_something_else_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("db");
    fs::write(&path, vec![0; 4096]).unwrap();
    let error = verify(&path).unwrap_err().to_string();
    assert!(error.contains("it is no snapshot of this program") && error.contains("snapshot ls"), "{error}");
}
