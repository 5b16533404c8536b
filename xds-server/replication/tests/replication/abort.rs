//! Promotions that do not come to their end: the source keeps its prefix, or gets it back.

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use jiff::Timestamp;
use zonebreak_replication::{
    EtcdError, ReplicationError, ReplicationOptions,
    checkpoint::{ClusterId, Role},
    region::{self, Ownership, Region, RegionError, own},
    verify,
};

use crate::support::{PREFIX, Pair, Running, put, until};

/// A write as our own writers do it: refused where a record names another etcd.
async fn write(client: &mut Client, key: &str) -> bool {
    let found = client.get(own::key(PREFIX), None).await.unwrap();
    let here = ClusterId(found.header().unwrap().cluster_id());
    let held = found.kvs().first();
    if held.is_some_and(|kv| Ownership::decode(kv.value()).unwrap().cluster != here) {
        return false;
    }
    let same = held.map_or(0, etcd_client::KeyValue::mod_revision);
    let same = Compare::mod_revision(own::key(PREFIX), CompareOp::Equal, same);
    client.txn(Txn::new().when([same]).and_then([TxnOp::put(key, "1", None)])).await.unwrap().succeeded()
}

fn region(error: ReplicationError) -> RegionError {
    let ReplicationError::Region(error) = error else { panic!("{error}") };
    *error
}

/// The source's record as whoever promotes leaves it that dies after the fence.
async fn fence(pair: &Pair, east: ClusterId, epoch: u64) {
    let record = Ownership::new(Region::new("east").unwrap(), east, epoch, "eve", Timestamp::now());
    let record = Ownership { pending: true, ..record };
    pair.from().await.put(own::key(PREFIX), record.encode(), None).await.unwrap();
}

async fn not_taken_back(pair: &Pair, options: &ReplicationOptions, why: &str) {
    let error = region(region::abort(options.clone(), "adam", true).await.unwrap_err());
    assert!(matches!(error, RegionError::Completed { epoch: 6, .. }), "{error}");
    assert!(error.to_string().contains(why), "{error}");
    assert!(!write(&mut pair.from().await, "/app/d").await, "two owners");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_takes_no_writes_is_found_out_before_the_source_is_fenced() {
    let mut pair = Pair::start().await;
    pair.destination.restart_with(&["--quota-backend-bytes", "12000000"]).await.unwrap();
    let (mut source, mut to) = (pair.from().await, pair.to().await);
    put(&mut source, "/app/a", "1").await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    pair.equal().await;
    replicator.stop().await;
    let value = "f".repeat(1_000_000);
    while to.put("/elsewhere", value.as_str(), None).await.is_ok() {}
    let error = region::promote(pair.options(), "eve", false, false).await.unwrap_err();
    assert!(matches!(error, ReplicationError::Etcd(EtcdError::NoSpace("destination"))), "{error}");
    assert!(error.to_string().contains("NOSPACE"), "{error}");
    assert!(write(&mut source, "/app/b").await, "nobody may write anywhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_did_not_come_to_its_end_is_taken_back() {
    let mut pair = Pair::start().await;
    let name = |name| Some(Region::new(name).unwrap());
    let mut options = pair.options();
    (options.source_region, options.destination_region) = (name("west"), name("east"));
    let mut source = pair.from().await;
    let replicator = Running::start(options.clone());
    replicator.streams().await;
    let aborted = region::abort(options.clone(), "adam", false).await.unwrap();
    assert!(aborted.already, "{aborted:?}");
    let east = ClusterId(pair.to().await.status().await.unwrap().header().unwrap().cluster_id());
    fence(&pair, east, 2).await;
    assert!(!write(&mut source, "/app/a").await);
    let status = verify::status(options.clone()).await.unwrap();
    let owners = [status.owner_at_source, status.owner_at_destination].map(Option::unwrap);
    let told = owners.map(|owner| (owner.region.to_string(), owner.epoch));
    assert_eq!(told, [("east".to_owned(), 2), ("west".to_owned(), 1)]);

    let aborted = region::abort(options.clone(), "adam", false).await.unwrap();
    assert_eq!((aborted.region.as_str(), aborted.epoch), ("west", 3));
    assert!(aborted.destination_told && !aborted.already);
    assert!(write(&mut source, "/app/a").await, "the source has it again");
    // The replicator goes on: it stood by for as long as a promotion might have gone on.
    pair.equal().await;
    let known = pair.checkpoint().await.unwrap();
    assert_eq!((known.role, known.epoch), (Role::Replica, 3), "who relied on the fence can take nothing");

    // The destination is gone after the fence: nobody but an operator knows whether something still runs there.
    fence(&pair, east, 4).await;
    pair.destination.kill();
    let error = region(region::abort(options.clone(), "adam", false).await.unwrap_err());
    assert!(matches!(&error, RegionError::DestinationSilent { actor, .. } if actor == "eve"), "{error}");
    assert!(!write(&mut source, "/app/b").await);
    let aborted = region::abort(options.clone(), "adam", true).await.unwrap();
    assert_eq!((aborted.epoch, aborted.destination_told), (5, false));
    assert!(write(&mut source, "/app/b").await);
    pair.destination.restart().await.unwrap();
    until("the replicator to go on", async || replicator.metrics.state().0 == "streaming").await;
    pair.equal().await;

    // And then it is promoted after all.
    let promoted = region::promote(options.clone(), "eve", false, false).await.unwrap();
    assert_eq!((promoted.region.as_str(), promoted.epoch), ("east", 6));
    let error = region(region::abort(options.clone(), "adam", true).await.unwrap_err());
    assert!(matches!(error, RegionError::Completed { epoch: 6, .. }), "{error}");
    assert!(!write(&mut source, "/app/c").await && write(&mut pair.to().await, "/app/c").await);
    replicator.gives_up().await;

    // Long after, with the owner cut off: what it took in would be lost.
    pair.destination.kill();
    not_taken_back(&pair, &options, "the source's record says so").await;

    // As whoever promotes leaves it that dies before its last word: the same command says it after all.
    pair.destination.restart().await.unwrap();
    fence(&pair, east, 6).await;
    let again = region::promote(options.clone(), "eve", false, false).await.unwrap();
    assert!(again.already && again.epoch == 6, "{again:?}");
    let owner = verify::status(options.clone()).await.unwrap().owner_at_source.unwrap();
    assert!(!owner.pending && owner.epoch == 6, "{owner:?}");
    // And if nobody says it, a replicator of the other direction has.
    fence(&pair, east, 6).await;
    let back = ReplicationOptions {
        source: options.destination.clone(),
        destination: options.source.clone(),
        source_region: name("east"),
        destination_region: name("west"),
        ..pair.options_with_spool("back")
    };
    let replicator = Running::start(back);
    replicator.streams().await;
    replicator.stop().await;
    pair.destination.kill();
    not_taken_back(&pair, &options, "has brought the source what came after").await;
}
