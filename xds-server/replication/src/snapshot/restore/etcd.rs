//! The etcd that is restored: guards, the mark, fenced transactions, leases. Repeats what may be repeated.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, GetOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{
    Done, Job, MARK, Place,
    walk::{Walk, item},
};
use crate::{
    checkpoint::{Checkpoint, ClusterId, Role},
    client::{Cluster, EtcdError, Member, after_prefix},
    destination::Destination,
    listing::Listing,
    options::RESERVED,
    region::own::{self, Ownership, overlap},
    revision::Revision,
    snapshot::{
        SnapshotError,
        diff::Step,
        save::{blocking, count},
    },
    watch::now_ms,
};

/// Time to live of a lease of which nobody knows how long it was: long enough for its owner to come back.
const ORPHAN: i64 = 60;

/// Tries of one transaction while the etcd does not answer, and between them.
const TRIES: u32 = 20;
const WAIT: Duration = Duration::from_millis(500);

/// Other people's writes to the same keys during one transaction, before the next walk takes it up.
const ROUNDS: u32 = 5;

/// An etcd that is restored.
pub(super) struct Target {
    etcd: Destination,
    fence: i64,
    /// As of this revision nobody else owned what is restored.
    owned_at: i64,
    leases: Arc<BTreeMap<i64, i64>>,
    granted: Mutex<BTreeSet<i64>>,
}

/// What the mark says: which moment is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    cluster: Option<ClusterId>,
    revision: Revision,
    at_ms: u64,
    prefix: String,
    started_ms: u64,
    by: Uuid,
}

/// How a transaction went.
enum Went {
    Done,
    Changed(Vec<Step>),
}

// === impl Target ===

impl Target {
    /// Connects, and checks that the moment may go there.
    pub(super) async fn connect(job: &Job) -> Result<Self, SnapshotError> {
        job.etcd.validate("destination")?;
        let cluster = Arc::new(Cluster::new("destination", job.etcd.clone()));
        let etcd = Destination::new(cluster, MARK.to_owned(), job.limits);
        let (leases, granted) = (Arc::clone(&job.moment.leases), Mutex::default());
        let mut target = Self { etcd, fence: 0, owned_at: 0, leases, granted };
        let member = target.etcd.member().await?;
        target.owned_at = target.refuse_replica(&member, &job.moment.prefix).await?;
        match (job.place, job.moment.cluster) {
            (Place::InPlace, Some(wanted)) if wanted != member.cluster => {
                return Err(SnapshotError::Stranger { wanted, found: member.cluster });
            }
            (Place::Empty, _) => target.require_empty(&member, job).await?,
            _ => {}
        }
        Ok(target)
    }

    /// What a replicator writes to would be undone at once; what another region owns is not to be written here. Where both regions
    /// write, a restore is a write of its own region like any other, of which the other one hears. Hands out the revision at which
    /// that was so.
    async fn refuse_replica(&self, member: &Member, prefix: &str) -> Result<i64, SnapshotError> {
        let options = GetOptions::new().with_range(after_prefix(RESERVED.as_bytes()));
        let found = self.etcd.cluster.ask(member.kv().get(RESERVED, Some(options))).await?;
        let at = found.header().map_or(0, etcd_client::ResponseHeader::revision);
        let name = |key: &[u8]| {
            String::from_utf8_lossy(key.strip_prefix(RESERVED.as_bytes()).unwrap_or_default()).into_owned()
        };
        for kv in found.kvs() {
            let replica = Checkpoint::decode(kv.value()).is_ok_and(|checkpoint| {
                let follows = checkpoint.role == Role::Replica && checkpoint.overlap.is_none();
                follows && overlap(&checkpoint.prefixes.1, prefix)
            });
            if replica {
                return Err(SnapshotError::Replica { stream: name(kv.key()) });
            }
        }
        for kv in found.kvs() {
            if let Some(owned) = name(kv.key()).strip_prefix("own/")
                && let Ok(owner) = Ownership::decode(kv.value())
                && overlap(owned, prefix)
                && owner.cluster != member.cluster
            {
                let (prefix, region) = (owned.to_owned(), owner.region.to_string());
                return Err(SnapshotError::NotOwner { prefix, region });
            }
        }
        Ok(at)
    }

    /// That no record of an owner was written since we looked: a promotion fences a restore as it fences every writer.
    fn still_owned(&self) -> Compare {
        let records = own::root();
        let end = after_prefix(records.as_bytes());
        Compare::mod_revision(records, CompareOp::Less, self.owned_at.saturating_add(1)).with_range(end)
    }

    async fn require_empty(&self, member: &Member, job: &Job) -> Result<(), SnapshotError> {
        let wanted = Mark::of(job);
        if self.mark().await?.0.is_some_and(|mark| mark.is_same(&wanted)) {
            return Ok(());
        }
        let prefix = job.moment.prefix.as_str();
        let (mut keys, _) = count(&self.etcd.cluster, member, prefix).await?;
        if RESERVED.starts_with(prefix) {
            keys = keys.saturating_sub(count(&self.etcd.cluster, member, RESERVED).await?.0);
        }
        if keys > 0 {
            return Err(SnapshotError::NotEmpty { keys, prefix: prefix.to_owned() });
        }
        Ok(())
    }

    /// The mark, and its `mod_revision`.
    async fn mark(&self) -> Result<(Option<Mark>, i64), SnapshotError> {
        let (found, _) = self.etcd.read().await?;
        Ok(found.map_or((None, 0), |(bytes, at)| (serde_json::from_slice(&bytes).ok(), at)))
    }

    /// Writes the mark over whatever mark is there. Hands out whether there was one.
    pub(super) async fn claim(&mut self, job: &Job) -> Result<bool, SnapshotError> {
        let mark = Mark::of(job);
        let bytes = serde_json::to_vec(&mark).map_err(|error| SnapshotError::Internal(error.to_string()))?;
        let (found, seen) = self.mark().await?;
        let member = self.etcd.member().await?;
        let transaction = Txn::new()
            .when([Compare::mod_revision(MARK, CompareOp::Equal, seen), self.still_owned()])
            .and_then([TxnOp::put(MARK, bytes, None)]);
        let answer = self.etcd.cluster.ask(member.kv().txn(transaction)).await?;
        if !answer.succeeded() {
            return Err(SnapshotError::Conflict(
                "another restore, or a promotion, began at this moment".to_owned(),
            ));
        }
        self.fence = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        if let Some(found) = &found {
            tracing::warn!(revision = found.revision.0, by = %found.by, "taking over from a restore that did not end");
        }
        Ok(seen != 0)
    }

    /// Takes the mark away: everything is restored.
    pub(super) async fn release(&self) -> Result<(), SnapshotError> {
        let member = self.etcd.member().await?;
        let transaction = Txn::new()
            .when([Compare::mod_revision(MARK, CompareOp::Equal, self.fence)])
            .and_then([TxnOp::delete(MARK, None)]);
        if self.etcd.cluster.ask(member.kv().txn(transaction)).await?.succeeded() {
            return Ok(());
        }
        Err(taken_over())
    }

    /// Begins to read both sides.
    pub(super) async fn walk(&self, job: &Job) -> Result<Walk, SnapshotError> {
        // The latest revision: a member that is known was asked when it was connected to.
        let (_, head) = self.etcd.read().await?;
        let (member, head) = (self.etcd.member().await?, Revision(head));
        let moment = job.moment.clone();
        let state = blocking(move || moment.state()).await??;
        job.progress.begin(job.moment.about());
        let prefix = job.moment.prefix.as_str();
        let listing = Listing::start(&self.etcd.cluster, &member, prefix.as_bytes(), head);
        Ok(Walk::new(prefix, state, listing, head, Arc::clone(&job.progress)))
    }

    /// Carries out steps, all or none at a time, until there is nothing left of them to do.
    pub(super) async fn transact(&self, mut steps: Vec<Step>) -> Result<Done, SnapshotError> {
        let (mut done, mut tries, mut rounds) = (Done::default(), 0, 0);
        while !steps.is_empty() {
            match self.try_transact(&steps).await {
                Ok(Went::Done) => {
                    done.written += steps.len() as u64;
                    done.transactions += 1;
                    return Ok(done);
                }
                Ok(Went::Changed(left)) => {
                    // A transaction of ours whose answer was lost leaves nothing to do; what differs still is somebody else's.
                    let theirs = left.iter().filter(|now| {
                        steps.iter().any(|before| before.key == now.key && before.fence() != now.fence())
                    });
                    done.overwritten.extend(theirs.map(|step| step.key.clone()));
                    steps = left;
                    rounds += 1;
                    if rounds == ROUNDS {
                        return Ok(done);
                    }
                }
                Err(SnapshotError::Etcd(EtcdError::NoLease(_))) if tries < TRIES => {
                    self.granted.lock().await.clear();
                    tries += 1;
                }
                Err(error) if error.is_transient() && tries < TRIES => {
                    self.etcd.lost().await;
                    tries += 1;
                    tokio::time::sleep(WAIT).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    async fn try_transact(&self, steps: &[Step]) -> Result<Went, SnapshotError> {
        let member = self.etcd.member().await?;
        self.grant(&member, steps).await?;
        let mut compares =
            vec![Compare::mod_revision(MARK, CompareOp::Equal, self.fence), self.still_owned()];
        let since = GetOptions::new().with_prefix().with_keys_only();
        let since = since.with_min_mod_revision(self.owned_at.saturating_add(1));
        let (mut writes, mut reads) =
            (Vec::new(), vec![TxnOp::get(MARK, None), TxnOp::get(own::root(), Some(since))]);
        for step in steps {
            let key = step.key.as_slice();
            compares.push(Compare::mod_revision(key, CompareOp::Equal, step.fence().0));
            writes.push(match &step.wanted {
                None => TxnOp::delete(key, None),
                Some(wanted) => {
                    let lease = (wanted.lease != 0).then(|| PutOptions::new().with_lease(wanted.lease));
                    TxnOp::put(key, wanted.value.as_slice(), lease)
                }
            });
            reads.push(TxnOp::get(key, None));
        }
        let transaction = Txn::new().when(compares).and_then(writes).or_else(reads);
        let answer = self.etcd.cluster.ask(member.kv().txn(transaction)).await?;
        if answer.succeeded() {
            return Ok(Went::Done);
        }
        let mut found = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().next(),
            _ => None,
        });
        let mark = found.next().flatten().map_or(0, |kv| kv.mod_revision());
        if mark != self.fence {
            return Err(taken_over());
        }
        if found.next().flatten().is_some() {
            let why =
                "the owner of a prefix changed since the restore began; run it again where it belongs now";
            return Err(SnapshotError::Conflict(why.to_owned()));
        }
        let again =
            |(step, there): (&Step, Option<etcd_client::KeyValue>)| step.clone().again(there.map(item));
        Ok(Went::Changed(steps.iter().zip(found).filter_map(again).collect()))
    }

    /// Makes sure that the leases of these steps exist. Nobody renews them here: their owners do, or they end.
    async fn grant(&self, member: &Member, steps: &[Step]) -> Result<(), SnapshotError> {
        let mut granted = self.granted.lock().await;
        for lease in steps.iter().filter_map(|step| step.wanted.as_ref()).map(|wanted| wanted.lease) {
            if lease == 0 || granted.contains(&lease) {
                continue;
            }
            let ttl = self.leases.get(&lease).copied().unwrap_or(ORPHAN).max(1);
            let options = LeaseGrantOptions::new().with_id(lease);
            let mut client = member.client.clone();
            match self.etcd.cluster.ask(client.lease_grant(ttl, Some(options))).await {
                Err(EtcdError::Refused { why, .. }) if why.contains("lease already exists") => {}
                other => drop(other?),
            }
            granted.insert(lease);
        }
        Ok(())
    }
}

fn taken_over() -> SnapshotError {
    SnapshotError::Conflict("another restore of this etcd has begun since and goes on".to_owned())
}

// === impl Mark ===

impl Mark {
    fn of(job: &Job) -> Self {
        Self {
            cluster: job.moment.cluster,
            revision: job.moment.revision,
            at_ms: job.moment.at_ms,
            prefix: job.moment.prefix.clone(),
            started_ms: now_ms(),
            by: Uuid::now_v7(),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        let moment = |mark: &Self| (mark.cluster, mark.revision, mark.prefix.clone());
        moment(self) == moment(other)
    }
}

#[cfg(test)]
mod tests {
    use zonebreak_drill::lab::{Etcd, Lab};

    use super::*;
    use crate::{
        options::ClusterOptions,
        snapshot::{Item, moment::Moment, restore::Job},
    };

    fn job(url: &str) -> Job {
        let item = Item { key: b"/app/a".into(), value: b"old".into(), modified: Revision(1), lease: 0 };
        Job {
            etcd: ClusterOptions::plain([url]),
            moment: Moment::of_items("/app/", vec![item], BTreeMap::new()),
            place: Place::Anywhere,
            deletes: true,
            limits: crate::batch::Limits::default(),
            progress: Arc::default(),
        }
    }

    #[tokio::test]
    async fn an_etcd_whose_region_does_not_own_the_prefix_is_refused() {
        let lab = Lab::new().unwrap();
        let etcd = Etcd::start(&lab).await.unwrap();
        let job = job(&etcd.url());
        let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
        let of = |cluster| {
            let region = crate::region::own::Region::of_cluster(cluster);
            Ownership::new(region, cluster, 2, "somebody", jiff::Timestamp::UNIX_EPOCH).encode()
        };
        client.put(crate::region::own::key("/app/"), of(ClusterId(9)), None).await.unwrap();
        let error = Target::connect(&job).await.err().unwrap();
        assert!(matches!(error, SnapshotError::NotOwner { .. }), "{error}");
        assert!(error.to_string().contains("/app/") && error.to_string().contains("owner"), "{error}");
        let here = client.get("x", None).await.unwrap().header().unwrap().cluster_id();
        client.put(crate::region::own::key("/app/"), of(ClusterId(here)), None).await.unwrap();
        Target::connect(&job).await.unwrap();
    }

    #[tokio::test]
    async fn what_somebody_wrote_in_between_is_read_and_reported_before_it_is_written_over() {
        let lab = Lab::new().unwrap();
        let etcd = Etcd::start(&lab).await.unwrap();
        let job = job(&etcd.url());
        let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
        let mut target = Target::connect(&job).await.unwrap();
        assert!(!target.claim(&job).await.unwrap());
        let mut walk = target.walk(&job).await.unwrap();
        let step = walk.next().await.unwrap().unwrap();
        assert_eq!(step.fence(), Revision(0));
        client.put("/app/a", "theirs", None).await.unwrap();
        let done = target.transact(vec![step.clone()]).await.unwrap();
        assert_eq!((done.written, &done.overwritten[..]), (1, &[b"/app/a".to_vec()][..]));
        assert_eq!(client.get("/app/a", None).await.unwrap().kvs()[0].value(), b"old");
        // What is as it should be already, whoever made it so, is not written again.
        let done = target.transact(vec![step.clone()]).await.unwrap();
        assert_eq!((done.written, done.overwritten.len()), (0, 0));
        // Another restore begins: this one is over.
        let mut other = Target::connect(&job).await.unwrap();
        assert!(other.claim(&job).await.unwrap(), "it takes over");
        client.put("/app/a", "theirs", None).await.unwrap();
        let error = target.transact(vec![step]).await.unwrap_err();
        assert!(matches!(error, SnapshotError::Conflict(_)), "{error}");
        assert!(target.release().await.is_err());
        assert_eq!(client.get("/app/a", None).await.unwrap().kvs()[0].value(), b"theirs");
        other.release().await.unwrap();
        assert!(client.get(MARK, None).await.unwrap().kvs().is_empty());
        assert!(!crate::snapshot::is_state("/zonebreak/", MARK.as_bytes()), "the mark is in no snapshot");
    }

    /// A promotion fences a restore as it fences every writer: from its transaction on, nothing of the restore is carried out.
    #[tokio::test]
    async fn an_owner_that_changes_in_the_middle_ends_a_restore_before_its_next_write() {
        let lab = Lab::new().unwrap();
        let etcd = Etcd::start(&lab).await.unwrap();
        let job = job(&etcd.url());
        let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
        let mut target = Target::connect(&job).await.unwrap();
        target.claim(&job).await.unwrap();
        let step = target.walk(&job).await.unwrap().next().await.unwrap().unwrap();
        let other = crate::region::own::Region::of_cluster(ClusterId(9));
        let owner = Ownership::new(other, ClusterId(9), 2, "somebody", jiff::Timestamp::UNIX_EPOCH).encode();
        // Between its connection and its claim as well.
        let mut late = Target::connect(&job).await.unwrap();
        client.put(crate::region::own::key("/app/"), owner, None).await.unwrap();
        let error = target.transact(vec![step]).await.unwrap_err();
        assert!(matches!(&error, SnapshotError::Conflict(why) if why.contains("owner")), "{error}");
        assert!(client.get("/app/a", None).await.unwrap().kvs().is_empty(), "it was written after the fence");
        let error = late.claim(&job).await.unwrap_err();
        assert!(matches!(error, SnapshotError::Conflict(_)), "{error}");
    }
}
