//! Requests that Envoy takes no host for: there is no attempt, and no upstream locality tells of a zone. The filter remembers where it
//! sent them.

use serde_json::{Value, json};
use zonebreak_drill::{
    embedded::EmbeddedOptions,
    lab::until,
    world::{SERVICE, SOON},
};

use super::{
    attempts::{COUNT, at_home, counts},
    bench::{Bench, ZONES, client},
};
use crate::support::turn;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_overflows_is_charged_to_the_zone_that_was_chosen() {
    let _turn = turn().await;
    let key = format!("circuit_breakers.{SERVICE}.default.max_pending_requests");
    let runtime: Value = [(key, json!(0))].into_iter().collect();
    let bench = Bench::start(EmbeddedOptions { runtime, ..at_home(0) }).await;
    let answers = bench.ask(COUNT).await;
    assert!(answers.iter().all(|answer| answer.status == 503 && answer.zone.is_none()), "{answers:?}");
    let overflowed = bench.stat(&format!("cluster.{SERVICE}.upstream_rq_pending_overflow")).await;
    assert_eq!((overflowed, bench.reached().len()), (COUNT as u64, 0), "no backend saw any of them");
    charged_at_home(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_host_is_charged_to_the_zone_that_was_chosen() {
    let _turn = turn().await;
    let bench = Bench::start(all_down()).await;
    let answers = bench.ask(COUNT).await;
    assert!(answers.iter().all(|answer| answer.status == 503 && answer.zone.is_none()), "{answers:?}");
    let without = bench.stat(&format!("cluster.{SERVICE}.upstream_cx_none_healthy")).await;
    assert_eq!((without, bench.reached().len()), (COUNT as u64, 0), "no backend saw any of them");
    charged_at_home(&bench).await;
}

/// The same of a gRPC request, which Envoy answers with the status 200 and its own in `grpc-status`.
#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_request_without_a_host_is_charged_and_counted_as_failed() {
    let _turn = turn().await;
    let bench = Bench::start(all_down()).await;
    let client = client();
    for _ in 0..COUNT {
        let answer = bench.send(&client, &[("content-type", "application/grpc")]).await.unwrap();
        assert_eq!((answer.status, answer.zone), (200, None));
    }
    charged_at_home(&bench).await;
    until("all counted as failed", SOON, async || {
        let found = bench.requests("failed").await;
        if found == COUNT as u64 { Ok(()) } else { Err(format!("{found} failed")) }
    })
    .await
    .unwrap();
}

async fn charged_at_home(bench: &Bench) {
    bench.counted(&counts([(ZONES[0], "fail", COUNT)])).await;
}

/// All endpoints are down, and Envoy is told to send nothing to those that are.
fn all_down() -> EmbeddedOptions {
    let forced = json!({"state": "unhealthy", "reason": "all of it is down", "actor": "lab", "expires_at": "2100-01-01T00:00:00Z"});
    let runtime = json!({"upstream.healthy_panic_threshold": 0});
    EmbeddedOptions { runtime, forced, ..at_home(0) }
}
