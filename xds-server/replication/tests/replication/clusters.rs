//! Clusters of three on both sides: leaders are killed, members are stopped or lose their peers, and nothing is lost.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tokio::time::Instant;
use zonebreak_drill::lab::{Etcd, Lab};
use zonebreak_replication::{ClusterOptions, ReplicationOptions, verify};

use crate::support::{PATIENCE, PREFIX, Running, State, try_list, until};

struct Three {
    lab: Lab,
    source: Vec<Etcd>,
    destination: Vec<Etcd>,
}

fn urls(cluster: &[Etcd]) -> Vec<String> {
    cluster.iter().map(Etcd::url).collect()
}

async fn client(etcd: &Etcd) -> Client {
    let options = ConnectOptions::new().with_timeout(Duration::from_secs(2)).with_require_leader(true);
    Client::connect([etcd.url()], Some(options)).await.unwrap()
}

/// Which member leads.
async fn leader(cluster: &[Etcd]) -> usize {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        for (at, member) in cluster.iter().enumerate() {
            if let Ok(status) = client(member).await.status().await
                && status.header().is_some_and(|header| header.member_id() == status.leader())
            {
                return at;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody leads")
}

/// Puts through whichever member takes it, until one has.
async fn put(cluster: &[Etcd], key: &str, value: &str) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        for member in cluster {
            if client(member).await.put(key, value, None).await.is_ok() {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody takes {key}")
}

/// What the first member that answers holds.
async fn state(cluster: &[Etcd]) -> Option<State> {
    for member in cluster {
        // A cluster that has lost its leader for a moment says so.
        if let Ok(state) = try_list(&mut client(member).await, PREFIX).await {
            return Some(state);
        }
    }
    None
}

// === impl Three ===

impl Three {
    async fn start() -> Self {
        let lab = Lab::new().unwrap();
        let (source, destination) =
            tokio::join!(Etcd::start_cluster(&lab, "source", 3), Etcd::start_cluster(&lab, "destination", 3));
        let (mut source, mut destination) = (source.unwrap(), destination.unwrap());
        // The first is the one that a replicator goes to first, and it shall be a follower.
        for cluster in [&mut source, &mut destination] {
            if leader(cluster).await == 0 {
                cluster.rotate_left(1);
            }
        }
        Self { lab, source, destination }
    }

    fn options(&self) -> ReplicationOptions {
        let sides = [&self.source, &self.destination].map(|side| ClusterOptions::plain(urls(side)));
        let [source, destination] = sides;
        ReplicationOptions {
            heartbeat: Duration::from_millis(500),
            scrub: Duration::ZERO,
            ..ReplicationOptions::new("test", PREFIX, source, destination, self.lab.path().join("spool"))
        }
    }

    async fn equal(&self) {
        until("both sides to be equal", async || {
            let (source, destination) = tokio::join!(state(&self.source), state(&self.destination));
            source.is_some() && source == destination
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leaders_of_both_clusters_die_and_nothing_is_lost_or_doubled() {
    let mut three = Three::start().await;
    let replicator = Running::start(three.options());
    replicator.streams().await;
    for (round, side) in ["source", "destination", "source"].into_iter().enumerate() {
        for number in 0..20 {
            put(&three.source, &format!("/app/{round}/{number}"), "1").await;
        }
        let cluster = if side == "source" { &mut three.source } else { &mut three.destination };
        let leads = leader(cluster).await;
        cluster[leads].kill();
        for number in 20..40 {
            put(&three.source, &format!("/app/{round}/{number}"), "1").await;
        }
        three.equal().await;
        let cluster = if side == "source" { &mut three.source } else { &mut three.destination };
        cluster[leads].restart().await.unwrap();
    }
    until("all of it", async || state(&three.destination).await.is_some_and(|state| state.len() == 120))
        .await;
    let proof = verify::verify(three.options(), 9).await.unwrap();
    assert_eq!(proof.differences, 0, "{proof:#?}");
    assert_eq!((replicator.metrics.mismatches.get(), replicator.metrics.strangers.get()), (0, 0));
    replicator.stop().await;
}

/// A member that is stopped keeps its connections open, and one without its peers keeps answering that it lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hangs_or_has_lost_its_peers_is_left_for_another() {
    let mut three = Three::start().await;
    let replicator = Running::start(three.options());
    replicator.streams().await;
    put(&three.source, "/app/a", "1").await;
    three.equal().await;
    // Both members in use hang, and both clusters go on without them.
    for cluster in [&mut three.source, &mut three.destination] {
        cluster[0].process().signal(libc::SIGSTOP).unwrap();
    }
    let (from, to) = (&three.source[1..], &three.destination[1..]);
    put(from, "/app/b", "1").await;
    until("the change to come by other members", async || {
        state(to).await.is_some_and(|state| state.contains_key("/app/b"))
    })
    .await;
    for cluster in [&mut three.source, &mut three.destination] {
        cluster[0].process().signal(libc::SIGCONT).unwrap();
    }
    // The source's members but the first die: it is alive, answers, and knows nothing new.
    let source = replicator.metrics.connected.with_label_values(&["source"]);
    until("the source to be followed", async || source.get() == 1).await;
    three.source[1].kill();
    three.source[2].kill();
    until("the loss to be noticed", async || source.get() == 0).await;
    three.source[1].launch().unwrap();
    three.source[2].launch().unwrap();
    put(&three.source, "/app/c", "1").await;
    three.equal().await;
    until("the source to be followed again", async || source.get() == 1).await;
    assert_eq!(verify::verify(three.options(), 9).await.unwrap().differences, 0);
    replicator.stop().await;
}
