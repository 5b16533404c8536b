//! The etcd source against a real etcd: what it sees, and what it keeps when etcd goes away, comes back, or forgets.

mod support;

use std::{sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use support::{Etcd, Link, endpoint, status, topology};
use tokio_util::sync::CancellationToken;
use zonebreak_topology::{EtcdError, EtcdOptions, watch_etcd};

#[tokio::test]
async fn puts_and_deletes_are_seen() {
    let etcd = Etcd::start().await;
    etcd.put("services/order-svc", r#"{"mode": "eventual"}"#).await;
    let mut source = watch_etcd(etcd.options(), None, CancellationToken::new());
    topology(&mut source, "the listing", |t| t.services.contains_key("order-svc")).await;
    status(&mut source, "the watch", |s| s.connected).await;

    let revision = etcd.put("endpoints/order-svc/a", &endpoint("az-a")).await;
    let seen = topology(&mut source, "the put", |t| t.endpoints.contains_key("order-svc")).await;
    assert_eq!(seen.revision, revision);
    status(&mut source, "its revision", |s| s.revision == revision).await;

    etcd.delete("endpoints/order-svc/a").await;
    topology(&mut source, "the delete", |t| t.endpoints.is_empty()).await;

    // A key next to the prefix and one of a neighbour are none of ours, and the revision moves on with what is.
    let client = &mut etcd.client().await;
    client.put("/zonebreak/v10/services/x", "{}", None).await.unwrap();
    etcd.put("replication/eu-to-us", "{}").await;
    etcd.put("services/last", "{}").await;
    let seen = topology(&mut source, "the last put", |t| t.services.contains_key("last")).await;
    assert_eq!((seen.services.len(), seen.problems.len()), (2, 0));
}

#[tokio::test]
async fn a_transaction_is_seen_whole_or_not_at_all() {
    let etcd = Etcd::start().await;
    let options = etcd.options();
    let mut source = watch_etcd(options.clone(), None, CancellationToken::new());
    status(&mut source, "the watch", |s| s.connected).await;
    let mut halves = source.topology.clone();
    let half = tokio::spawn(async move {
        while halves.changed().await.is_ok() {
            let seen = halves.borrow_and_update().clone().unwrap();
            let count = seen.services.len();
            assert!(count.is_multiple_of(100), "{count} of a hundred");
            if count == 300 {
                return;
            }
        }
    });
    let client = &mut etcd.client().await;
    for batch in 0..3 {
        let put = |n| TxnOp::put(options.key(&format!("services/s{batch}-{n}")), "{}", None);
        let ops: Vec<TxnOp> = (0..100).map(put).collect();
        client.txn(Txn::new().and_then(ops)).await.unwrap();
    }
    tokio::time::timeout(support::PATIENCE, half).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_last_good_state_survives_an_etcd_restart() {
    let mut etcd = Etcd::start().await;
    etcd.put("services/s", "{}").await;
    let mut source = watch_etcd(etcd.options(), None, CancellationToken::new());
    status(&mut source, "the watch", |s| s.connected).await;
    let before = topology(&mut source, "the listing", |t| t.services.len() == 1).await;

    etcd.kill();
    let lost = status(&mut source, "the loss", |s| !s.connected).await;
    assert!(lost.last_error.is_some());
    let kept = source.topology.borrow().clone().unwrap();
    assert!(Arc::ptr_eq(&before, &kept));

    etcd.restart().await;
    status(&mut source, "the watch again", |s| s.connected && s.last_error.is_none()).await;
    let same = source.topology.borrow().clone().unwrap();
    assert!(Arc::ptr_eq(&before, &same), "nothing changed, so nothing is published");
    etcd.put("services/t", "{}").await;
    topology(&mut source, "a put after it", |t| t.services.len() == 2).await;
}

#[tokio::test]
async fn an_etcd_that_lost_its_data_empties_nothing() {
    let mut etcd = Etcd::start().await;
    for n in 0..5 {
        etcd.put(&format!("services/s{n}"), "{}").await;
    }
    let mut source = watch_etcd(etcd.options(), None, CancellationToken::new());
    topology(&mut source, "the listing", |t| t.services.len() == 5).await;
    status(&mut source, "the watch", |s| s.connected).await;

    etcd.kill();
    etcd.forget();
    etcd.restart().await;
    let held = status(&mut source, "the hold", |s| s.connected && s.held.is_some()).await;
    assert!(held.held.unwrap().contains("5 keys that it no longer has"));
    assert_eq!(source.topology.borrow().as_ref().unwrap().services.len(), 5);

    etcd.put("services/s3", "{}").await;
    let held = status(&mut source, "one that came back", |s| {
        s.held.as_ref().is_some_and(|held| held.contains("4 keys"))
    });
    held.await;
    etcd.put("services/new", "{}").await;
    topology(&mut source, "old and new together", |t| t.services.len() == 6).await;
}

#[tokio::test]
async fn what_happened_before_a_compaction_while_disconnected_is_seen() {
    let etcd = Etcd::start().await;
    let link = Link::to(&etcd).await;
    etcd.put("services/stays", "{}").await;
    etcd.put("services/goes", "{}").await;
    let mut source = watch_etcd(link.options(), None, CancellationToken::new());
    topology(&mut source, "the listing", |t| t.services.len() == 2).await;
    status(&mut source, "the watch", |s| s.connected).await;

    link.cut();
    status(&mut source, "the cut", |s| !s.connected).await;
    etcd.delete("services/goes").await;
    let revision = etcd.put("services/comes", "{}").await;
    etcd.client().await.compact(revision, None).await.unwrap();
    link.mend();
    let seen = topology(&mut source, "what happened", |t| t.services.contains_key("comes")).await;
    let names: Vec<&str> = seen.services.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["comes", "stays"]);
}

#[tokio::test]
async fn a_bad_value_keeps_the_last_good_one_and_is_named() {
    let etcd = Etcd::start().await;
    etcd.put("services/s", r#"{"mode": "eventual"}"#).await;
    let mut source = watch_etcd(etcd.options(), None, CancellationToken::new());
    let good = topology(&mut source, "the listing", |t| t.services.len() == 1).await;

    let revision = etcd.put("services/s", "{\"mode\":\n \"fast\"}").await;
    let seen = topology(&mut source, "the problem", |t| !t.problems.is_empty()).await;
    assert_eq!(seen.services, good.services);
    let problem = &seen.problems["services/s"];
    assert_eq!((problem.revision, problem.line, problem.kept), (revision, Some(2), true));
    assert!(problem.message.contains("unknown variant `fast`"), "{problem}");

    etcd.put("services/s", r#"{"mode": "strong"}"#).await;
    topology(&mut source, "the mending", |t| t.problems.is_empty() && t.services != good.services).await;
}

#[tokio::test]
async fn an_endpoint_goes_when_its_lease_ends() {
    let etcd = Etcd::start().await;
    let mut source = watch_etcd(etcd.options(), None, CancellationToken::new());
    status(&mut source, "the watch", |s| s.connected).await;
    let mut client = etcd.client().await;
    // Lives for longer than a busy machine takes to put a key and to hear of it.
    let lease = client.lease_grant(5, None).await.unwrap().id();
    let key = etcd.options().key("endpoints/s/a");
    client.put(key, endpoint("az-a"), Some(PutOptions::new().with_lease(lease))).await.unwrap();
    topology(&mut source, "the endpoint", |t| t.endpoints.contains_key("s")).await;
    topology(&mut source, "its end", |t| t.endpoints.is_empty()).await;
}

#[tokio::test]
async fn a_listing_of_many_pages_is_read_whole() {
    let etcd = Etcd::start().await;
    let options = etcd.options();
    let mut client = etcd.client().await;
    for batch in 0..25 {
        let put = |n| TxnOp::put(options.key(&format!("endpoints/s{batch}/{n}")), endpoint("az-a"), None);
        client.txn(Txn::new().and_then((0..100).map(put).collect::<Vec<_>>())).await.unwrap();
    }
    let mut source = watch_etcd(options, None, CancellationToken::new());
    let seen = topology(&mut source, "the listing", |_| true).await;
    let count: usize = seen.endpoints.values().map(|map| map.len()).sum();
    assert_eq!(count, 2500, "in the very first topology");
}

#[tokio::test]
async fn listings_longer_than_a_grpc_message_are_read() {
    let etcd = Etcd::start().await;
    // Six megabytes: over the usual limit of four.
    let region = "x".repeat(1_200_000);
    for n in 0..5 {
        etcd.put(&format!("zones/az-{n}"), &format!(r#"{{"region": "{region}"}}"#)).await;
    }
    let mut source = watch_etcd(etcd.options(), None, CancellationToken::new());
    topology(&mut source, "all of it", |t| t.zones.len() == 5).await;
}

#[tokio::test]
async fn a_member_that_is_down_is_passed_over() {
    let etcd = Etcd::start().await;
    etcd.put("services/s", "{}").await;
    // Nothing listens on port 1.
    let options = EtcdOptions { endpoints: vec!["127.0.0.1:1".to_owned(), etcd.url()], ..etcd.options() };
    let mut source = watch_etcd(options.clone(), None, CancellationToken::new());
    topology(&mut source, "the listing", |t| t.services.len() == 1).await;
    options.topology().await.unwrap();
    let none = EtcdOptions { endpoints: vec!["127.0.0.1:1".to_owned()], ..options };
    assert!(matches!(none.topology().await, Err(EtcdError::Unreachable { .. })));
}

#[tokio::test]
async fn a_wrong_password_says_so() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    client.user_add("root", "secret", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let login = |password: &str| EtcdOptions {
        user: Some("root".to_owned()),
        password: Some(password.to_owned()),
        ..etcd.options()
    };
    let denied = login("wrong").topology().await.unwrap_err();
    assert!(matches!(denied, EtcdError::Denied(_)), "{denied:?}");
    assert!(matches!(etcd.options().topology().await.unwrap_err(), EtcdError::Denied(_)), "no user at all");
    let mut source = watch_etcd(login("secret"), None, CancellationToken::new());
    status(&mut source, "the watch", |s| s.connected).await;
}

#[tokio::test]
async fn a_cancelled_source_ends() {
    let etcd = Etcd::start().await;
    let cancel = CancellationToken::new();
    let mut source = watch_etcd(etcd.options(), None, cancel.clone());
    topology(&mut source, "the listing", |_| true).await;
    cancel.cancel();
    let ended = async { while source.topology.changed().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
}

/// The drains rely on it: a comparison over a range holds when every key in it holds, and when there is none.
#[tokio::test]
async fn comparisons_over_a_range_are_what_we_take_them_for() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let mut holds = async |revision: i64| {
        let all = Compare::mod_revision("/range/", CompareOp::Less, revision).with_prefix();
        client.txn(Txn::new().when([all])).await.unwrap().succeeded()
    };
    assert!(holds(1).await, "of nothing, everything is true");
    let options = EtcdOptions { prefix: "/range/".to_owned(), ..etcd.options() };
    let put = async |key: &str| {
        etcd.client().await.put(options.key(key), "", None).await.unwrap().header().unwrap().revision()
    };
    let (first, second) = (put("a").await, put("b").await);
    assert!(first < second);
    assert!(!holds(second).await);
    assert!(holds(second + 1).await);
}
