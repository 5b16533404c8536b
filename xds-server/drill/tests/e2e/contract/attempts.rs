//! Attempts as the two roles see them on a real Envoy: each once, with its zone, and only those that say something about it.

use std::time::Duration;

use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use zonebreak_drill::{
    embedded::EmbeddedOptions,
    lab::{Fault, until},
    world::{SERVICE, SOON},
};

use super::bench::{Bench, client, zones};
use crate::support::turn;

pub const COUNT: usize = 40;

/// Everything at home, and a breaker that stays out of the way: it counts and does nothing else.
pub fn at_home(retries: u32) -> EmbeddedOptions {
    let breaker = json!({"enforcement": "disabled"});
    let policy = json!({"mode": "strong", "breaker": breaker, "retry": {"attempts": retries}});
    EmbeddedOptions { policy, ..EmbeddedOptions::default() }
}

/// Counts as the filter shows them: zone, result, number.
pub fn counts<const N: usize>(
    of: [(&str, &str, usize); N],
) -> std::collections::BTreeMap<(String, String), u64> {
    of.map(|(zone, result, count)| ((zone.to_owned(), result.to_owned()), count as u64)).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_leaves_the_zone() {
    let _turn = turn().await;
    let bench = Bench::start(at_home(1)).await;
    bench.backends.zone("az-a").set_fault(Fault::HARD);
    let answers = bench.ask(COUNT).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert!(!zones(&answers).contains_key("az-a"), "{answers:?}");
    let reached = bench.reached();
    let elsewhere = reached["az-b"] + reached["az-c"];
    assert_eq!((reached["az-a"], elsewhere), (COUNT as u64, COUNT as u64), "once at home, once elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_role_sees_both_attempts_each_with_its_zone() {
    let _turn = turn().await;
    let bench = Bench::start(at_home(1)).await;
    bench.backends.zone("az-a").set_fault(Fault::HARD);
    bench.backends.zone("az-c").set_fault(Fault::Refuse);
    let answers = bench.ask(COUNT).await;
    // Both of a request fail when the second one meets az-c.
    let well = zones(&answers).get("az-b").copied().unwrap_or_default();
    let wanted = counts([("az-a", "fail", COUNT), ("az-b", "ok", well), ("az-c", "fail", COUNT - well)]);
    assert!(well > 0 && well < COUNT, "{answers:?}");
    bench.counted(&wanted).await;
    let refused = format!("wasmcustom.zonebreak_connect_failures_total;service={SERVICE};zone=az-c");
    assert_eq!(bench.stat(&refused).await, (COUNT - well) as u64, "known by why they failed");
    until("each request counted once", SOON, async || {
        let found = (bench.requests("answered").await, bench.requests("failed").await);
        if found == (well as u64, (COUNT - well) as u64) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_the_sum_over_the_workers() {
    let _turn = turn().await;
    let weights = json!({"az-a": 1, "az-b": 1, "az-c": 1});
    let policy = json!({"mode": "eventual", "weights": weights});
    let bench = Bench::start(EmbeddedOptions { policy, concurrency: 2, ..EmbeddedOptions::default() }).await;
    let mut sent = 0;
    let mut busy = Vec::new();
    // The kernel deals connections to the workers; a few dozen until both have had some.
    while sent < 64 * 10 && (sent < 16 * 10 || busy.len() < 2) {
        assert!(bench.ask(10).await.iter().all(|answer| answer.status == 200));
        sent += 10;
        let stats =
            bench.proxy.envoy.stats("^listener\\..*\\.worker_[0-9]+\\.downstream_cx_total$").await.unwrap();
        let port = format!("_{}.", bench.proxy.port.number());
        busy = stats.into_iter().filter(|(name, count)| name.contains(&port) && *count > 0).collect();
    }
    assert_eq!(busy.len(), 2, "one worker got everything: {busy:?}");
    let reached = bench.reached();
    assert_eq!(reached.values().sum::<u64>(), sent);
    let wanted = reached.iter().map(|(zone, count)| ((zone.clone(), "ok".to_owned()), *count)).collect();
    bench.counted(&wanted).await;
    until("each request counted once", SOON, async || match bench.requests("answered").await {
        answered if answered == sent => Ok(()),
        answered => Err(format!("{answered} of {sent}")),
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_is_not_counted() {
    let _turn = turn().await;
    let bench = Bench::start(at_home(1)).await;
    bench.backends.set_fault(Fault::Delay(Duration::from_secs(30)));
    let mut clients = Vec::new();
    for _ in 0..COUNT {
        let mut client = TcpStream::connect(bench.proxy.port.address()).await.unwrap();
        client.write_all(format!("GET / HTTP/1.1\r\nhost: {SERVICE}\r\n\r\n").as_bytes()).await.unwrap();
        clients.push(client);
    }
    until("all requests at a backend", SOON, async || match bench.reached().values().sum::<u64>() {
        reached if reached == COUNT as u64 => Ok(()),
        reached => Err(reached.to_string()),
    })
    .await
    .unwrap();
    drop(clients);
    until("all clients gone", SOON, async || {
        match bench.downstream("downstream_cx_destroy_remote_active_rq").await {
            gone if gone == COUNT as u64 => Ok(()),
            gone => Err(gone.to_string()),
        }
    })
    .await
    .unwrap();
    // One that stays is, and it is the only one.
    bench.backends.set_fault(Fault::None);
    bench.ask(1).await;
    bench.counted(&counts([("az-a", "ok", 1)])).await;
    until("the one request counted", SOON, async || match bench.requests("answered").await {
        1 => Ok(()),
        other => Err(other.to_string()),
    })
    .await
    .unwrap();
    assert_eq!((bench.requests("failed").await, bench.requests("refused").await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_reset_midway_is_counted_once() {
    let _turn = turn().await;
    let bench = Bench::start(at_home(1)).await;
    bench.backends.set_fault(Fault::CutBody);
    let client = client();
    let cut = (0..COUNT).map(|_| bench.send(&client, &[]));
    let answers = futures::future::join_all(cut).await;
    assert!(answers.iter().all(Option::is_none), "no body came whole: {answers:?}");
    // No retry: the client has the beginning already.
    assert_eq!(bench.reached(), [("az-a".to_owned(), COUNT as u64)].into());
    // The client sees its end before the filter does.
    let wanted = counts([("az-a", "fail", COUNT)]);
    until("each cut body counted", SOON, async || match bench.attempts().await {
        found if found.values().sum::<u64>() >= COUNT as u64 => Ok(()),
        found => Err(format!("{found:?}")),
    })
    .await
    .unwrap();
    assert_eq!(bench.attempts().await, wanted);
}
