//! The destination: reads the checkpoint, carries out fenced transactions, and says honestly how they went. Reconnects; never
//! repeats a transaction by itself.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use tokio::sync::Mutex;

use crate::{
    batch::Limits,
    client::{Cluster, EtcdError, Member},
    pipeline::{Attempt, Event, Found},
    revision::{Change, Op},
};

/// Until a transaction that was refused for want of space or of permission is tried again.
const BLOCKED_MS: u64 = 5_000;

/// The destination.
pub(crate) struct Destination {
    pub cluster: Arc<Cluster>,
    checkpoint_key: String,
    limits: Limits,
    member: Mutex<Option<Member>>,
}

/// How a transaction went.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Carried out, at this revision.
    Committed(i64),
    /// The fence did not hold; this stands there.
    Refused(Found),
    /// Certainly not carried out.
    Failed(EtcdError),
    /// Nobody knows.
    Unknown(EtcdError),
}

// === impl Answer ===

impl From<&Answer> for Event {
    fn from(answer: &Answer) -> Self {
        match answer {
            Answer::Committed(at) => Self::Committed(*at),
            Answer::Refused(found) => Self::Refused(found.clone()),
            Answer::Failed(_) => Self::Failed(BLOCKED_MS),
            Answer::Unknown(_) => Self::Unknown,
        }
    }
}

// === impl Destination ===

impl Destination {
    pub(crate) fn new(cluster: Arc<Cluster>, checkpoint_key: String, limits: Limits) -> Self {
        Self { cluster, checkpoint_key, limits, member: Mutex::new(None) }
    }

    /// A member that answered when it was last used.
    pub(crate) async fn member(&self) -> Result<Member, EtcdError> {
        let mut known = self.member.lock().await;
        if let Some(member) = known.as_ref() {
            return Ok(member.clone());
        }
        let member = self.cluster.connect().await?;
        tracing::info!(endpoint = member.endpoint, cluster = %member.cluster, "connected to the destination");
        *known = Some(member.clone());
        Ok(member)
    }

    /// The member in use does not answer any more.
    pub(crate) async fn lost(&self) {
        if self.member.lock().await.take().is_some() {
            self.cluster.lost();
        }
    }

    /// The checkpoint, and the revision of the destination at which it was read.
    pub(crate) async fn read(&self) -> Result<(Found, i64), EtcdError> {
        let member = self.member().await?;
        let read = self.cluster.ask(member.kv().get(self.checkpoint_key.as_str(), None)).await;
        let answer = match read {
            Ok(answer) => answer,
            Err(error) => {
                self.lost().await;
                return Err(error);
            }
        };
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let found = answer.kvs().first().map(|kv| (kv.value().to_vec(), kv.mod_revision()));
        Ok((found, revision))
    }

    /// Carries out an attempt of the pipeline: changes and checkpoint, or nothing.
    pub(crate) async fn commit(&self, attempt: &Attempt) -> Answer {
        let checkpoint = TxnOp::put(self.checkpoint_key.as_str(), &attempt.checkpoint[..], None);
        self.transact(attempt.fence, &attempt.changes, Some(checkpoint)).await
    }

    /// Writes while the destination is marked as torn: guarded by the fence, which stays as it is, so that several of these
    /// may be on their way at once.
    pub(crate) async fn write(&self, fence: i64, changes: &[Change]) -> Answer {
        self.transact(fence, changes, None).await
    }

    /// More than etcd allows in one list goes in groups, as [`Limits::group`] says; all of it or nothing, as one revision.
    async fn transact(&self, fence: i64, changes: &[Change], checkpoint: Option<TxnOp>) -> Answer {
        let operations: Vec<TxnOp> = if changes.len() > self.limits.operations {
            let group = |changes: &[Change]| {
                TxnOp::txn(Txn::new().and_then(changes.iter().map(operation).collect::<Vec<_>>()))
            };
            changes.chunks(self.limits.group()).map(group).chain(checkpoint).collect()
        } else {
            changes.iter().map(operation).chain(checkpoint).collect()
        };
        self.fenced(fence, operations, || largest(changes)).await.0
    }

    /// Carries out any operations if the fence holds; what etcd said beside, when it did. `blame` names the largest of them.
    pub(crate) async fn fenced(
        &self,
        fence: i64,
        operations: Vec<TxnOp>,
        blame: impl FnOnce() -> String,
    ) -> (Answer, Option<TxnResponse>) {
        let member = match self.member().await {
            Ok(member) => member,
            Err(error) => return (Answer::Failed(error), None),
        };
        let key = self.checkpoint_key.as_str();
        let transaction = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, fence)])
            .and_then(operations)
            .or_else([TxnOp::get(key, None)]);
        let answer = match self.cluster.ask(member.kv().txn(transaction)).await {
            Ok(answer) if answer.succeeded() => {
                let at = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
                return (Answer::Committed(at), Some(answer));
            }
            Ok(answer) => {
                let found = answer.op_responses().into_iter().find_map(|response| match response {
                    TxnOpResponse::Get(get) => {
                        get.kvs().first().map(|kv| (kv.value().to_vec(), kv.mod_revision()))
                    }
                    _ => None,
                });
                Answer::Refused(found)
            }
            Err(error @ EtcdError::Unreachable { .. }) => {
                self.lost().await;
                Answer::Unknown(error)
            }
            Err(EtcdError::TooLarge { side, .. }) => {
                Answer::Failed(EtcdError::TooLarge { side, what: blame() })
            }
            Err(error) => Answer::Failed(error),
        };
        (answer, None)
    }
}

/// Names the change that is to blame for the size of a transaction.
fn largest(changes: &[Change]) -> String {
    match changes.iter().max_by_key(|change| change.key.len() + change.op.size()) {
        Some(change) => format!("{} ({} bytes)", change.key.escape_ascii(), change.op.size()),
        None => "the checkpoint".to_owned(),
    }
}

fn operation(change: &Change) -> TxnOp {
    match &change.op {
        Op::Put { value, lease: 0 } => TxnOp::put(change.key.as_slice(), value.as_slice(), None),
        Op::Put { value, lease } => {
            let options = PutOptions::new().with_lease(*lease);
            TxnOp::put(change.key.as_slice(), value.as_slice(), Some(options))
        }
        Op::Delete => TxnOp::delete(change.key.as_slice(), None),
    }
}

#[cfg(test)]
mod tests {
    use etcd_client::GetOptions;
    use zonebreak_drill::lab::{Etcd, Lab};

    use super::*;
    use crate::options::ClusterOptions;

    fn puts(keys: usize) -> Arc<[Change]> {
        let put = |at| Change {
            key: format!("/app/{at:05}").into_bytes(),
            op: Op::Put { value: b"v".to_vec(), lease: 0 },
        };
        (0..keys).map(put).collect()
    }

    #[tokio::test]
    async fn as_many_operations_as_fit_in_groups_are_one_revision_of_an_etcd_with_its_usual_limit() {
        let lab = Lab::new().unwrap();
        let etcd = Etcd::start(&lab).await.unwrap();
        let cluster = Arc::new(Cluster::new("destination", ClusterOptions::plain([etcd.url()])));
        let (limits, key) = (Limits::default(), "/zonebreak/v1/replication/test");
        let destination = Destination::new(cluster, key.to_owned(), limits);
        let attempt = |fence, changes| Attempt { fence, checkpoint: b"c".as_slice().into(), changes };
        let Answer::Committed(at) = destination.commit(&attempt(0, puts(limits.grouped()))).await else {
            panic!("it was not carried out")
        };
        let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
        let all = client.get("/app/", Some(GetOptions::new().with_prefix())).await.unwrap();
        assert_eq!(all.count(), i64::try_from(limits.grouped()).unwrap());
        assert!(all.kvs().iter().all(|kv| kv.mod_revision() == at));
        // With a fence that does not hold none of the groups is carried out, and what stands there is told.
        let refused = destination.commit(&attempt(0, puts(limits.operations + 1))).await;
        assert!(matches!(&refused, Answer::Refused(Some((bytes, found))) if bytes == b"c" && *found == at));
        let again = client.get("/app/00000", None).await.unwrap();
        assert_eq!(again.kvs().first().map(etcd_client::KeyValue::mod_revision), Some(at));
    }
}
