//! Keys, tags and conflicts in an etcd: their names, and reading and writing many of them at once. Decides nothing.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};

use super::{
    hlc::Hlc,
    log,
    merge::{Guard, Plan},
    tag::{self, Entry, Tag, Version},
};
use crate::{
    checkpoint::ClusterId,
    client::{Cluster, EtcdError, Member},
    options::ReplicationOptions,
    questions::{all, get},
    revision::{Op, Revision},
};

/// Keys that are looked at together: about what fits into one transaction, each with its tag.
pub(super) const AT_ONCE: usize = 60;

/// What a tag takes, about.
const TAG: usize = 192;

/// What one operation or comparison costs beside its key and value.
const OVERHEAD: usize = 32;

/// The names of one stream. A key is known by what follows the prefix, which is the same on both sides.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// The prefix at the destination.
    pub here: Vec<u8>,
    /// The prefix at the source.
    pub there: Vec<u8>,
    /// The tags, at either side.
    pub tags: Vec<u8>,
    /// Open conflicts, at the destination.
    pub open: Vec<u8>,
    /// The log of conflicts.
    pub closed: Vec<u8>,
}

/// Two writes, told from every other two.
pub(super) type Ranks = [(Hlc, u64); 2];

/// A conflict to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Note {
    /// Nobody won; of which two writes.
    Open(Ranks, Vec<u8>),
    /// Somebody did; with its place in the log.
    Closed(Hlc, Vec<u8>),
}

/// A plan for one key.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub rest: Vec<u8>,
    pub plan: Plan,
    pub note: Option<Note>,
}

// === impl Names ===

impl Names {
    pub(crate) fn new(options: &ReplicationOptions) -> Self {
        Self {
            here: options.rules.destination_prefix().to_vec(),
            there: options.rules.source_prefix().to_vec(),
            tags: tag::root(&options.stream).into_bytes(),
            open: log::open(&options.stream).into_bytes(),
            closed: log::closed(&options.stream).into_bytes(),
        }
    }
}

/// A name under a prefix.
pub(super) fn under(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    [prefix, rest].concat()
}

/// Reads a tag. One that is none counts as not speaking of its key, whatever that is: what is there is then told anew.
pub(super) fn decode(value: &[u8], exists: bool, rest: &[u8]) -> Tag {
    Tag::decode(value).unwrap_or_else(|why| {
        tracing::warn!(key = %rest.escape_ascii(), why, "a tag is damaged; its key is taken for one that was written here");
        Tag { version: Version::following(None, ClusterId(0), Hlc::default()), deleted: exists }
    })
}

/// Keys and their tags. The tag is read first: what a key is found to be after that, and not to have been written since its tag,
/// is what the tag speaks of.
pub(super) async fn read(
    cluster: &Arc<Cluster>,
    member: &Member,
    (prefix, tags): (&[u8], &[u8]),
    rests: &[Vec<u8>],
) -> Result<Vec<Entry>, EtcdError> {
    let each = |rest: &Vec<u8>| {
        let (cluster, member, rest) = (Arc::clone(cluster), member.clone(), rest.clone());
        let (key, tag) = (under(prefix, &rest), under(tags, &rest));
        async move {
            let tag = get(&cluster, &member, tag, Revision(0)).await?;
            let data = get(&cluster, &member, key, Revision(0)).await?;
            let tag = tag.map(|tag| (decode(tag.value(), data.is_some(), &rest), tag.mod_revision()));
            let data = data.map(|data| {
                let at = data.mod_revision();
                (data.into_key_value().1, at)
            });
            Ok(Entry { data, tag })
        }
    };
    all(cluster, rests.iter().map(each)).await
}

/// Values of keys, each as of a revision of its own. `None` for one that was not there.
pub(super) async fn values(
    cluster: &Arc<Cluster>,
    member: &Member,
    prefix: &[u8],
    asked: &[(Vec<u8>, Revision)],
) -> Result<Vec<Option<Vec<u8>>>, EtcdError> {
    let each = |(rest, at): &(Vec<u8>, Revision)| {
        let (cluster, member, key, at) = (Arc::clone(cluster), member.clone(), under(prefix, rest), *at);
        async move { Ok(get(&cluster, &member, key, at).await?.map(|kv| kv.into_key_value().1)) }
    };
    all(cluster, asked.iter().map(each)).await
}

/// Which of these names are there under a prefix.
pub(super) async fn exist(
    cluster: &Arc<Cluster>,
    member: &Member,
    prefix: &[u8],
    rests: &[Vec<u8>],
) -> Result<Vec<bool>, EtcdError> {
    let asked: Vec<_> = rests.iter().map(|rest| (rest.clone(), Revision(0))).collect();
    let values = values(cluster, member, prefix, &asked).await?;
    Ok(values.iter().map(Option::is_some).collect())
}

// === impl Write ===

impl Write {
    /// A transaction in the transaction: this key is written if it still is what was read, whatever becomes of the others.
    pub(super) fn operation(&self, names: &Names) -> TxnOp {
        let (key, tag) = (under(&names.here, &self.rest), under(&names.tags, &self.rest));
        let guard = match self.plan.guard {
            Guard::Written(at) => Compare::mod_revision(key.clone(), CompareOp::Equal, at),
            Guard::Present => Compare::version(key.clone(), CompareOp::Greater, 0),
            Guard::Absent => Compare::version(key.clone(), CompareOp::Equal, 0),
        };
        let tagged = Compare::mod_revision(tag.clone(), CompareOp::Equal, self.plan.tagged);
        let (mut guards, mut writes) = (vec![guard, tagged], Vec::new());
        match &self.plan.data {
            Some(Op::Put { value, .. }) => writes.push(TxnOp::put(key, value.as_slice(), None)),
            Some(Op::Delete) => writes.push(TxnOp::delete(key, None)),
            None => {}
        }
        writes.extend(self.plan.tag.as_ref().map(|becomes| TxnOp::put(tag, becomes.encode(), None)));
        let open = under(&names.open, &self.rest);
        match &self.note {
            Some(Note::Open(_, note)) => writes.push(TxnOp::put(open, note.as_slice(), None)),
            Some(Note::Closed(at, note)) => {
                let entry = under(&names.closed, log::id(*at).as_bytes());
                // Another has that place: whoever looks again gets a later one.
                guards.push(Compare::version(entry.clone(), CompareOp::Equal, 0));
                writes.push(TxnOp::put(entry, note.as_slice(), None));
                writes.extend(self.plan.settles.then(|| TxnOp::delete(open, None)));
            }
            None => writes.extend(self.plan.settles.then(|| TxnOp::delete(open, None))),
        }
        TxnOp::txn(Txn::new().when(guards).and_then(writes))
    }

    /// Operations and bytes that it takes of a transaction, at most.
    pub(super) fn cost(&self) -> (usize, usize) {
        let Plan { data, tag, settles, .. } = &self.plan;
        let note = match &self.note {
            Some(Note::Open(_, note) | Note::Closed(_, note)) => note.len(),
            None => 0,
        };
        let writes = [data.is_some(), tag.is_some(), self.note.is_some(), *settles];
        let writes = writes.into_iter().filter(|write| *write).count();
        let bytes = data.as_ref().map_or(0, Op::size) + note + if tag.is_some() { TAG } else { 0 };
        (1 + writes, bytes + (2 + writes) * (self.rest.len() + OVERHEAD))
    }
}

#[cfg(test)]
mod tests {
    use zonebreak_drill::lab::{Etcd, Lab};

    use super::*;
    use crate::{overlap::merge::Winner, verify};

    /// Two replicators, or one and a person, whose clocks say the same.
    #[tokio::test]
    async fn no_entry_of_the_log_is_written_over_by_another_of_the_same_time() {
        let lab = Lab::new().unwrap();
        let etcd = Etcd::start(&lab).await.unwrap();
        let of = || crate::ClusterOptions::plain([etcd.url()]);
        let options = ReplicationOptions::new("test", "/app/", of(), of(), lab.path().join("spool"));
        let (names, at) = (Names::new(&options), Hlc::new(7, 0));
        let context = verify::context(options).unwrap();
        let version = Version::following(None, ClusterId(1), at);
        let write = |rest: &str| Write {
            rest: rest.as_bytes().to_vec(),
            plan: Plan {
                guard: Guard::Absent,
                tagged: 0,
                data: None,
                tag: Some(Tag { version: version.clone(), deleted: true }),
                conflict: Some((Winner::Here, version.clone())),
                settles: false,
            },
            note: Some(Note::Closed(at, rest.as_bytes().to_vec())),
        };
        let writes = [write("first"), write("second")].map(|write| write.operation(&names));
        for write in writes {
            let (answer, _) = context.destination.fenced(0, vec![write], String::new).await;
            assert!(matches!(answer, crate::destination::Answer::Committed(_)));
        }
        let member = context.destination.member().await.unwrap();
        let key = under(&names.closed, log::id(at).as_bytes());
        let kept = get(&context.destination.cluster, &member, key, Revision(0)).await.unwrap().unwrap();
        assert_eq!((kept.value(), kept.version()), (b"first".as_slice(), 1));
        let rests = [b"first".to_vec(), b"second".to_vec()];
        let there = exist(&context.destination.cluster, &member, &names.tags, &rests).await;
        assert_eq!(there.unwrap(), [true, false], "it is looked at again, and takes a later place");
    }
}
