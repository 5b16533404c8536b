//! Many single keys read at once. Never in one transaction: an etcd before 3.4.20 and 3.5.5 dies of a transaction of reads whose
//! client goes away (etcd issue 14110), as ours do when they are stopped. Holds at most [`AT_ONCE`] questions open.

use std::future::Future;

use etcd_client::{GetOptions, KeyValue};
use tokio::task::JoinSet;

use crate::{
    client::{Cluster, EtcdError, Member},
    revision::Revision,
};

/// Questions of one group that wait for an answer at once.
const AT_ONCE: usize = 128;

/// A key as of a revision; the latest, for 0.
pub(crate) async fn get(
    cluster: &Cluster,
    member: &Member,
    key: Vec<u8>,
    at: Revision,
) -> Result<Option<KeyValue>, EtcdError> {
    let options = GetOptions::new().with_revision(at.0);
    let found = cluster.ask(async { member.kv().get(key, Some(options)).await }).await?;
    Ok({ found }.take_kvs().pop())
}

/// Answers in the order of the questions, which are asked together.
pub(crate) async fn all<T: Send + 'static>(
    cluster: &Cluster,
    asked: impl Iterator<Item = impl Future<Output = Result<T, EtcdError>> + Send + 'static>,
) -> Result<Vec<T>, EtcdError> {
    let (mut asking, mut answers, mut places) = (JoinSet::new(), Vec::new(), asked.enumerate());
    loop {
        while asking.len() < AT_ONCE
            && let Some((place, asked)) = places.next()
        {
            asking.spawn(async move { (place, asked.await) });
        }
        let Some(done) = asking.join_next().await else { break };
        let (place, answer) =
            done.map_err(|died| cluster.unreachable(format!("a question broke off: {died}")))?;
        answers.push((place, answer?));
    }
    answers.sort_unstable_by_key(|(place, _)| *place);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}
