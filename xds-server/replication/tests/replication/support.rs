//! Two real etcds, replicators between them in this process, and what the tests ask of both sides.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use etcd_client::{Client, DeleteOptions, GetOptions, Txn, TxnOp};
use prometheus::Registry;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use zonebreak_drill::lab::{Etcd, Lab};
use zonebreak_replication::{
    ClusterOptions, Metrics, RESERVED, ReplicationError, ReplicationOptions,
    checkpoint::{Checkpoint, ClusterId},
    revision::Revision,
    spool::Spool,
    verify::{self, Proof},
};

/// For anything that a test waits for. Far longer than it takes, so that a busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The prefix that is replicated.
pub const PREFIX: &str = "/app/";

/// Keys and values.
pub type State = BTreeMap<String, String>;

/// Two etcds.
pub struct Pair {
    pub lab: Lab,
    pub source: Etcd,
    pub destination: Etcd,
}

/// A replicator that runs.
pub struct Running {
    task: JoinHandle<Result<(), ReplicationError>>,
    cancel: CancellationToken,
    pub metrics: Metrics,
}

// === impl Pair ===

impl Pair {
    pub async fn start() -> Self {
        let lab = Lab::new().unwrap();
        let (source, destination) =
            tokio::join!(Etcd::start_named(&lab, "source"), Etcd::start_named(&lab, "destination"));
        Self { source: source.unwrap(), destination: destination.unwrap(), lab }
    }

    /// The same with a source that may be killed at any moment. Before 3.5.3 an etcd that is killed may come back without a write
    /// that it acknowledged since its last commit, and give its revision to another one (etcd issue 13766): here each is
    /// committed by itself. That history changes is not what these tests are about.
    pub async fn start_that_forgets_nothing() -> Self {
        let mut pair = Self::start().await;
        pair.source.restart_with(&["--backend-batch-limit", "1"]).await.unwrap();
        pair
    }

    /// Options with which nothing has to be waited for.
    pub fn options(&self) -> ReplicationOptions {
        self.options_with_spool("spool")
    }

    pub fn options_with_spool(&self, spool: &str) -> ReplicationOptions {
        let (source, destination) = (self.source.url(), self.destination.url());
        ReplicationOptions {
            heartbeat: Duration::from_millis(500),
            scrub: Duration::ZERO,
            ..ReplicationOptions::new(
                "test",
                PREFIX,
                ClusterOptions::plain([source]),
                ClusterOptions::plain([destination]),
                self.spool(spool),
            )
        }
    }

    pub fn spool(&self, name: &str) -> PathBuf {
        self.lab.path().join(name)
    }

    pub async fn from(&self) -> Client {
        Client::connect([self.source.url()], None).await.unwrap()
    }

    pub async fn to(&self) -> Client {
        Client::connect([self.destination.url()], None).await.unwrap()
    }

    /// The checkpoint, once there is one.
    pub async fn checkpoint(&self) -> Option<Checkpoint> {
        let found = self.to().await.get(format!("{RESERVED}test"), None).await.unwrap();
        found.kvs().first().map(|kv| Checkpoint::decode(kv.value()).unwrap())
    }

    /// Waits until this revision is safe in the spool.
    pub async fn spooled(&self, spool: &str, cluster: ClusterId, revision: i64) {
        let directory = self.spool(spool);
        until("the revision to be safe in the spool", async || {
            Spool::check(&directory, cluster).is_ok_and(|tail| tail >= Some(Revision(revision)))
        })
        .await;
    }

    /// Waits until the destination holds what the source holds.
    pub async fn equal(&self) -> State {
        self.equal_in(PREFIX, PREFIX).await
    }

    pub async fn equal_in(&self, from: &str, to: &str) -> State {
        let wanted = list(&mut self.from().await, from).await;
        let wanted: State =
            wanted.into_iter().map(|(key, value)| (key.replacen(from, to, 1), value)).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = list(&mut self.to().await, to).await;
            if found == wanted {
                return found;
            }
            if Instant::now() > deadline {
                let odd: Vec<_> = wanted
                    .keys()
                    .chain(found.keys())
                    .filter(|key| wanted.get(*key) != found.get(*key))
                    .take(5)
                    .collect();
                panic!(
                    "{} keys at the source, {} at the destination; {odd:?} differ",
                    wanted.len(),
                    found.len()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The proof, which must hold.
    pub async fn prove(&self, options: ReplicationOptions) -> Proof {
        let proof = verify::verify(options, 10).await.unwrap();
        assert_eq!(proof.differences, 0, "{proof:#?}");
        assert_eq!(Some(proof.source_digest), proof.checkpoint_digest);
        assert_eq!(proof.source_digest, proof.destination_digest);
        proof
    }
}

// === impl Running ===

impl Running {
    pub fn start(options: ReplicationOptions) -> Self {
        let (cancel, metrics) = (CancellationToken::new(), Metrics::new(&Registry::new()).unwrap());
        let running = zonebreak_replication::run(options, metrics.clone(), cancel.clone());
        let task = tokio::spawn(async move {
            let ended = running.await;
            // For the test that did not expect it to end.
            if let Err(error) = &ended {
                eprintln!("the replicator failed to {error}");
            }
            ended
        });
        Self { task, cancel, metrics }
    }

    /// Stops it; everything that it held is free afterwards.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Ends it where it is, as a kill does.
    pub async fn kill(self) {
        self.task.abort();
        let _killed = self.task.await;
        self.cancel.cancel();
    }

    /// Waits for it to give up, and why.
    pub async fn gives_up(self) -> ReplicationError {
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("it goes on");
        ended.unwrap().unwrap_err()
    }

    pub async fn streams(&self) {
        until("the replicator to follow the source", async || self.metrics.state().0 == "streaming").await;
    }
}

pub async fn put(client: &mut Client, key: &str, value: &str) -> i64 {
    client.put(key, value, None).await.unwrap().header().unwrap().revision()
}

/// Puts many keys quickly: as many transactions of 100.
pub async fn fill(client: &mut Client, prefix: &str, keys: std::ops::Range<usize>) {
    for chunk in keys.collect::<Vec<_>>().chunks(100) {
        let puts: Vec<_> = chunk
            .iter()
            .map(|key| TxnOp::put(format!("{prefix}{key:06}"), format!("value {key}"), None))
            .collect();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
}

pub async fn delete_prefix(client: &mut Client, prefix: &str) -> i64 {
    client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await.unwrap().deleted()
}

pub async fn list(client: &mut Client, prefix: &str) -> State {
    try_list(client, prefix).await.unwrap()
}

/// The same of an etcd that may not answer.
pub async fn try_list(client: &mut Client, prefix: &str) -> Result<State, etcd_client::Error> {
    let mut kv = client.kv_client().max_decoding_message_size(256 << 20);
    let found = kv.get(prefix, Some(GetOptions::new().with_prefix())).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(found.kvs().iter().map(|kv| (text(kv.key()), text(kv.value()))).collect())
}

pub async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain for {what}");
}
