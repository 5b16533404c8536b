//! Streams of HTTP/2 on a real Envoy, which gRPC is made of: one that its client cancels, one that never ends, one whose outcome is in
//! the trailers.

use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::{Instant, sleep};
use zonebreak_drill::{
    embedded::EmbeddedOptions,
    lab::{Fault, until},
    world::{SERVICE, SOON, ZoneGauges, zone_gauges},
};

use super::{
    attempts::{COUNT, at_home, counts},
    bench::{Bench, ZONES},
    http2::{Answer, Client},
};
use crate::support::turn;

/// Envoy says it by another flag (DR) than that a connection was closed (DC).
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_its_client_resets_is_not_counted() {
    let _turn = turn().await;
    let bench = Bench::start(at_home(0)).await;
    let mut client = Client::connect(bench.proxy.port.address()).await;

    bench.backends.set_fault(Fault::Delay(Duration::from_secs(30)));
    let waiting: Vec<_> = (0..COUNT).map(|_| tokio::spawn(client.send(&[]))).collect();
    until("all requests at a backend", SOON, async || reached(&bench, COUNT)).await.unwrap();
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    reset(&bench, COUNT).await;

    bench.backends.set_fault(Fault::Endless);
    drop(begun(&mut client, COUNT).await);
    reset(&bench, 2 * COUNT).await;

    // One that stays is, and it is the only one.
    bench.backends.set_fault(Fault::None);
    assert_eq!(client.flood(1).await, [(200, 1)].into());
    bench.counted(&counts([("az-a", "ok", 1)])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_ends_counts_when_it_has_lasted_and_once() {
    let _turn = turn().await;
    let bench = Bench::start(at_home(0)).await;
    let mut client = Client::connect(bench.proxy.port.address()).await;
    bench.backends.set_fault(Fault::Endless);
    let begun = begun(&mut client, COUNT).await;
    bench.counted(&counts([("az-a", "ok", COUNT)])).await;
    // The zone restarts, and cuts them all.
    bench.backends.set_fault(Fault::Refuse);
    for answer in begun {
        assert!(answer.into_body().collect().await.is_err());
    }
    bench.backends.set_fault(Fault::None);
    until("an answer of the zone after its restart", SOON, async || {
        let answered = bench.ask(1).await;
        if answered[0].status == 200 { Ok(()) } else { Err(format!("{answered:?}")) }
    })
    .await
    .unwrap();
    until("that answer counted, and it alone", SOON, async || {
        let found = bench.attempts().await;
        if found[&("az-a".to_owned(), "ok".to_owned())] == COUNT as u64 + 1 {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await
    .unwrap();
}

/// A service of watches alone: nothing of it ever ends well, and still a zone that is well again comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_zone_whose_answers_never_end_comes_back() {
    let _turn = turn().await;
    let weights = json!({"az-a": 1, "az-b": 1, "az-c": 1});
    let breaker = json!({"open": "1s", "half_open_max_requests": 4});
    let policy = json!({"mode": "eventual", "weights": weights, "breaker": breaker});
    let bench = Bench::start(EmbeddedOptions { policy, ..EmbeddedOptions::default() }).await;
    let mut client = Client::connect(bench.proxy.port.address()).await;
    bench.backends.set_fault(Fault::Endless);
    bench.backends.zone("az-a").set_fault(Fault::HARD);
    let mut streams = Vec::new();
    watch(&bench, &mut client, &mut streams, |zone| zone.state == 1).await;
    bench.backends.zone("az-a").set_fault(Fault::Endless);
    watch(&bench, &mut client, &mut streams, |zone| zone.state == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_counts_by_the_status_in_its_trailers() {
    let _turn = turn().await;
    let bench = Bench::start(at_home(0)).await;
    let mut client = Client::connect(bench.proxy.port.address()).await;
    // NOT_FOUND is an answer, RESOURCE_EXHAUSTED says nothing of the zone, UNAVAILABLE is a failure of it.
    for (status, times) in [(5, COUNT), (8, COUNT), (14, COUNT / 2)] {
        bench.backends.set_fault(Fault::Grpc(status));
        for _ in 0..times {
            assert_eq!(client.call().await, Some(status.to_string()));
        }
    }
    bench.counted(&counts([("az-a", "ok", COUNT), ("az-a", "fail", COUNT / 2)])).await;
}

/// Envoy says of a retry that it denies what it says of a request that had no attempt at all (UO), and still names the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_the_budget_denies_is_charged_to_nobody() {
    const MANY: usize = 160;
    let _turn = turn().await;
    let bench = Bench::start(at_home(1)).await;
    let mut client = Client::connect(bench.proxy.port.address()).await;
    // All fail at once, and the retries take a while: so most are more than the budget allows.
    bench.backends.set_fault(Fault::Delay(Duration::from_secs(2)));
    bench.backends.zone("az-a").set_fault(Fault::HARD);
    let statuses = client.flood(MANY).await;
    let denied = bench.stat(&format!("cluster.{SERVICE}.upstream_rq_retry_overflow")).await;
    assert!(denied > 0, "{statuses:?}");
    assert_eq!(statuses.get(&503).copied().unwrap_or_default() as u64, denied, "{statuses:?}");
    assert_eq!(bench.reached()["az-a"], MANY as u64);
    until("each failure charged once", SOON, async || match fails(&bench).await {
        failed if failed == MANY as u64 => Ok(()),
        failed => Err(format!("{failed} of {MANY}")),
    })
    .await
    .unwrap();
}

/// Lost packets give no reason: there is only no connection when the time for it is out.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_takes_up_is_a_connect_failure() {
    let _turn = turn().await;
    let bench = Bench::start(at_home(0)).await;
    bench.backends.set_fault(Fault::Unreachable);
    let mut client = Client::connect(bench.proxy.port.address()).await;
    let timed_out = async || bench.stat(&format!("cluster.{SERVICE}.upstream_cx_connect_timeout")).await;
    until("the queues full", SOON, async || {
        client.flood(4).await;
        if timed_out().await > 0 { Ok(()) } else { Err("no connection timed out".to_owned()) }
    })
    .await
    .unwrap();
    let before = (fails(&bench).await, unconnected(&bench).await, timed_out().await);
    assert_eq!(client.flood(COUNT).await, [(503, COUNT)].into());
    let after = (fails(&bench).await, unconnected(&bench).await, timed_out().await);
    assert!(after.2 > before.2, "{before:?} {after:?}");
    assert_eq!((after.0 - before.0, after.1 - before.1), (COUNT as u64, COUNT as u64));
}

async fn fails(bench: &Bench) -> u64 {
    bench.stat(&format!("wasmcustom.zonebreak_attempts_total;service={SERVICE};zone=az-a;result=fail")).await
}

async fn unconnected(bench: &Bench) -> u64 {
    bench.stat(&format!("wasmcustom.zonebreak_connect_failures_total;service={SERVICE};zone=az-a")).await
}

/// So many streams whose answers have begun.
async fn begun(client: &mut Client, count: usize) -> Vec<Answer> {
    let streams: Vec<_> = (0..count).map(|_| client.send(&[])).collect();
    let answers = futures::future::join_all(streams).await;
    answers.into_iter().map(|answer| answer.unwrap()).collect()
}

/// Opens stream after stream, and holds them, until the gauges of the first zone are as wanted.
async fn watch(
    bench: &Bench,
    client: &mut Client,
    streams: &mut Vec<Answer>,
    wanted: impl Fn(ZoneGauges) -> bool,
) {
    let start = Instant::now();
    loop {
        let seen = zone_gauges(&bench.proxy.envoy, ZONES[0]).await.unwrap();
        if wanted(seen) {
            return;
        }
        assert!(start.elapsed() < 2 * SOON, "{seen:?} after {} streams", streams.len());
        streams.extend(begun(client, 6).await);
        sleep(Duration::from_millis(50)).await;
    }
}

fn reached(bench: &Bench, count: usize) -> Result<(), String> {
    match bench.reached().values().sum::<u64>() {
        reached if reached == count as u64 => Ok(()),
        reached => Err(reached.to_string()),
    }
}

async fn reset(bench: &Bench, count: usize) {
    until("all streams reset", SOON, async || match bench.downstream("downstream_rq_rx_reset").await {
        reset if reset == count as u64 => Ok(()),
        reset => Err(reset.to_string()),
    })
    .await
    .unwrap();
}
