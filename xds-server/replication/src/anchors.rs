//! Keys by which a source is known again after it compacted what its last change would tell: when they were made and put last, as a
//! comparison found them and as the change log goes on from there. Samples, keeps them in a file beside the log, and judges what a
//! source has of them now; asks nobody else and changes nothing at the source.
//!
//! A cluster ID and a revision prove nothing: one that was rebuilt with its former flags has the same, once enough was written to it.
//! What no other etcd has is a key that was made, or put last, at the very revision that is known of it. A key that is gone says
//! nothing by itself (it may have been deleted), and neither does one that was put since. So a source is
//!
//! | what it has of them | then |
//! |---|---|
//! | one that was made or put last at a revision at which it was not | another one |
//! | more that are as they were than are gone | the same |
//! | anything else | nobody can tell |
//!
//! More than half of them: the first writes of an etcd that is set up again by the same hand may well have the revisions of before.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::Path,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    client::{Cluster, EtcdError, Member},
    questions::{all, get},
    revision::{Op, Revision},
    spool::{Entry, Reader, SpoolError},
    witness::Witness,
};

/// Keys in a sample, half of them at least once there are as many; and keys of the log that are asked about.
const KEYS: usize = 64;

/// The file beside the log.
pub(crate) const FILE: &str = "anchors.json";

/// Keys of a source, spread evenly over all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Of so many keys that come, one is taken.
    every: u64,
    seen: u64,
    keys: Vec<Sampled>,
}

/// A key as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sampled {
    /// Its name, in base64.
    key: String,
    created: Revision,
    put: Revision,
}

/// A sample, as of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    through: Revision,
    keys: Vec<Sampled>,
    /// CRC-32C of the whole with this field 0.
    crc32: u32,
}

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Anchor {
    /// When it was made, where that is known.
    created: Option<Revision>,
    /// When it was put last ...
    put: Revision,
    /// ... of what happened up to here.
    through: Revision,
}

/// What is known of some keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Anchors(BTreeMap<Vec<u8>, Anchor>);

/// What one key says of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// It is the one.
    Same,
    /// It is another one.
    Other,
    /// It may have been deleted.
    Gone,
    /// It was put since.
    Moved,
}

/// Whether a source is the one that was followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// It is; and a put of it, to know it by from now on.
    Same(Witness),
    /// It is not, and why.
    Other(String),
    /// Nothing tells.
    Silent,
}

// === impl Sample ===

impl Default for Sample {
    fn default() -> Self {
        Self { every: 1, seen: 0, keys: Vec::new() }
    }
}

impl Sample {
    /// The next key of the source, with the revisions at which it was made and put last.
    pub(crate) fn offer(&mut self, key: &[u8], created: Revision, put: Revision) {
        if self.seen.is_multiple_of(self.every) {
            self.keys.push(Sampled { key: STANDARD.encode(key), created, put });
        }
        self.seen += 1;
        if self.keys.len() > KEYS {
            let mut places = 0_usize..;
            self.keys.retain(|_| places.next().is_some_and(|place| place.is_multiple_of(2)));
            self.every *= 2;
        }
    }

    /// Keeps it beside the log in `directory`, as of `through`.
    pub(crate) fn store(self, directory: &Path, through: Revision) -> io::Result<()> {
        let (path, part) = (directory.join(FILE), directory.join("anchors.part"));
        fs::write(&part, Stored { through, keys: self.keys, crc32: 0 }.encode())?;
        fs::File::open(&part)?.sync_all()?;
        fs::rename(part, path)
    }
}

// === impl Stored ===

impl Stored {
    fn encode(self) -> Vec<u8> {
        // A structure of numbers and text always has a JSON form.
        let bytes = |stored: &Self| serde_json::to_vec(stored).unwrap_or_default();
        let crc32 = crc32c::crc32c(&bytes(&self));
        bytes(&Self { crc32, ..self })
    }

    /// The sample in `directory`; none where there is none, or where it was damaged.
    fn read(directory: &Path) -> Option<Self> {
        let bytes = fs::read(directory.join(FILE)).ok()?;
        let stored: Self = serde_json::from_slice(&bytes).ok()?;
        (Self { crc32: 0, ..stored.clone() }.encode() == bytes).then_some(stored)
    }
}

// === impl Anchors ===

impl Anchors {
    /// What the sample in `directory` and the log there say, which `reader` reads from `begins` on. Blocks on the disk.
    pub(crate) fn gather(directory: &Path, begins: Revision, mut reader: Reader) -> Result<Self, SpoolError> {
        let mut known = Gathering::new(Stored::read(directory), begins);
        while let Some(entry) = reader.read()? {
            known.take(entry);
        }
        Ok(known.end())
    }

    /// What the source says of them.
    pub(crate) async fn ask(self, cluster: &Arc<Cluster>, member: &Member) -> Result<Word, EtcdError> {
        let asked = self.0.keys().cloned().map(|key| {
            let (cluster, member) = (Arc::clone(cluster), member.clone());
            async move { get(&cluster, &member, key, Revision(0)).await }
        });
        let found = all(cluster, asked.collect::<Vec<_>>().into_iter()).await?;
        let (mut same, mut gone, mut latest) = (0, 0, None::<Witness>);
        for ((key, anchor), kv) in self.0.iter().zip(found) {
            let has = kv.as_ref().map(|kv| (Revision(kv.create_revision()), Revision(kv.mod_revision())));
            match (anchor.judge(has), has) {
                (Says::Other, Some((created, put))) => {
                    return Ok(Word::Other(format!(
                        "it says that {} was made at revision {created} and put last at {put}, and as of {} it had been put last at {}: \
                         it was rebuilt or restored",
                        key.escape_ascii(),
                        anchor.through,
                        anchor.put,
                    )));
                }
                (Says::Same, Some((_, put))) => {
                    same += 1;
                    let value = kv.as_ref().map_or(&b""[..], |kv| kv.value());
                    let witness = Witness::new(put, key.clone(), value);
                    latest = latest.filter(|latest| latest.revision() >= put).or(Some(witness));
                }
                (Says::Gone, _) => gone += 1,
                _ => {}
            }
        }
        Ok(latest.filter(|_| same > gone).map_or(Word::Silent, Word::Same))
    }
}

// === impl Anchor ===

impl Anchor {
    /// What it says of a source that has the key as made and put last then, or not at all.
    fn judge(&self, has: Option<(Revision, Revision)>) -> Says {
        let Some((created, put)) = has else { return Says::Gone };
        let known = self.put..=self.through;
        match self.created {
            _ if put < self.put || (put > self.put && known.contains(&put)) => Says::Other,
            // Made anew where it was there all the time.
            _ if created > self.put && known.contains(&created) => Says::Other,
            Some(before) if created == before => Says::Same,
            Some(_) if created <= self.through => Says::Other,
            None if put == self.put => Says::Same,
            _ if created > self.through => Says::Gone,
            _ => Says::Moved,
        }
    }
}

/// Anchors while the log is read.
struct Gathering {
    /// What is known of each key, and up to where; `None` while that goes on.
    keys: HashMap<Vec<u8>, (Option<Revision>, Revision, Option<Revision>)>,
    /// Everything up to here is in the sample.
    sampled: Revision,
    /// The last revision read.
    last: Revision,
}

// === impl Gathering ===

impl Gathering {
    fn new(stored: Option<Stored>, begins: Revision) -> Self {
        let (sampled, keys) =
            stored.map_or((Revision(0), Vec::new()), |stored| (stored.through, stored.keys));
        // A log that begins later does not say what came in between.
        let through = (begins > sampled).then_some(sampled);
        let known = |sampled: Sampled| {
            let key = STANDARD.decode(&sampled.key).ok()?;
            Some((key, (Some(sampled.created), sampled.put, through)))
        };
        Self { keys: keys.into_iter().filter_map(known).collect(), sampled, last: begins }
    }

    fn take(&mut self, entry: Entry) {
        let at = entry.revision();
        match entry {
            Entry::Revision(source) => {
                for change in source.changes {
                    let known = self.keys.get(&change.key);
                    // What the sample has of it is later.
                    if known.is_some_and(|(created, ..)| created.is_some()) && at <= self.sampled {
                        continue;
                    }
                    match change.op {
                        Op::Delete => drop(self.keys.remove(&change.key)),
                        Op::Put { .. } => {
                            let created =
                                known.filter(|(.., through)| through.is_none()).and_then(|known| known.0);
                            self.keys.insert(change.key, (created, at, None));
                        }
                    }
                }
            }
            Entry::Gap { .. } => {
                // The sample says what became of its own keys in the gap, if it is later; of the log's others nobody does.
                for (created, _, through) in self.keys.values_mut() {
                    match created {
                        None => _ = through.get_or_insert(self.last),
                        Some(_) if at > self.sampled => {
                            _ = through.get_or_insert(self.last.max(self.sampled))
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        self.last = at;
        if self.keys.len() > 16 * KEYS {
            self.forget();
        }
    }

    /// Keeps the sample, and the latest of the others.
    fn forget(&mut self) {
        let of_log = self.keys.values().filter(|(created, ..)| created.is_none());
        let mut puts: Vec<Revision> = of_log.map(|(_, put, _)| *put).collect();
        puts.sort_unstable();
        let oldest = puts.iter().rev().nth(KEYS).copied().unwrap_or_default();
        self.keys.retain(|_, (created, put, _)| created.is_some() || *put > oldest);
    }

    fn end(mut self) -> Anchors {
        self.forget();
        let (last, sampled) = (self.last, self.last.max(self.sampled));
        let known =
            |(key, (created, put, through)): (Vec<u8>, (Option<Revision>, Revision, Option<Revision>))| {
                let last = if created.is_some() { sampled } else { last };
                (key, Anchor { created, put, through: through.unwrap_or(last).max(put) })
            };
        Anchors(self.keys.into_iter().map(known).collect())
    }
}

#[cfg(test)]
mod tests;
