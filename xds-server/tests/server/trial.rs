//! What goes on while a change is on trial: what need not wait for it, and what operators are told meanwhile.

use serde_json::json;
use zonebreak_drill::lab::{Lab, Plane, PlaneOptions};

use super::{admin_says, proxy::Proxy, told};

/// A trial that lasts longer than anything here waits: the first proxy does not answer.
const TRIAL: &str = "waves: {timeout: 120s}\n";

/// Longer than endpoints wait for a change on trial.
const OLD: std::time::Duration = std::time::Duration::from_millis(1500);

struct Written<'a> {
    /// What is said of a service beside the two.
    policy: &'a str,
    drained: bool,
    endpoints: usize,
}

fn topology(Written { policy, drained, endpoints }: Written<'_>) -> String {
    let endpoint = |n: usize| format!("    p{n}: {{address: 10.0.2.{n}, port: 80, zone: az-a}}\n");
    let endpoints: String = (0..endpoints).map(endpoint).collect();
    let shift = "{keep_percent: 0, reason: test, actor: me, started_at: 2026-01-01T00:00:00Z, expires_at: 2126-01-01T00:00:00Z}";
    let shifts = if drained { format!("shifts:\n  az-a: {shift}\n") } else { String::new() };
    let new = if policy.is_empty() { "" } else { "    n1: {address: 10.0.3.1, port: 80, zone: az-a}\n" };
    let new = if new.is_empty() { String::new() } else { format!("  new-svc:\n{new}") };
    format!(
        "zones: {{az-a: {{}}, az-b: {{}}}}
services:
  pay-svc: {{}}
{policy}endpoints:
  pay-svc:
    b1: {{address: 10.0.1.1, port: 80, zone: az-b}}
{endpoints}{new}{shifts}"
    )
}

/// A server, a proxy that does not read what it is given, and one that does.
async fn fleet(lab: &Lab) -> (Plane, Proxy, Proxy) {
    let before = topology(Written { policy: "", drained: false, endpoints: 1 });
    let options = PlaneOptions {
        topology: Some(before),
        config: Some(TRIAL.to_owned()),
        filter: false,
        ..PlaneOptions::default()
    };
    let plane = Plane::start(lab, options).await.unwrap();
    let mut proxies = Vec::new();
    for id in ["deaf", "other"] {
        let mut proxy = Proxy::connect(plane.xds(), id, "az-a").await;
        proxy.until("its endpoints", |proxy| proxy.endpoints.len() == 1).await;
        proxies.push(proxy);
    }
    admin_says(&plane, "/status", |status| status["proxies"]["synced"] == 2).await;
    let other = proxies.pop().unwrap();
    (plane, proxies.pop().unwrap(), other)
}

/// Priority and number of the endpoints in az-a.
fn in_az_a(proxy: &Proxy) -> (u32, usize) {
    proxy.by_zone()["pay-svc"]["az-a"]
}

#[tokio::test(flavor = "multi_thread")]
async fn however_long_a_trial_takes_drains_and_endpoints_go_past_it() {
    let lab = Lab::new().unwrap();
    let (plane, deaf, mut other) = fleet(&lab).await;
    let policy = "  new-svc: {probe: {tcp: true}}\n";
    plane.write_topology(&topology(Written { policy, drained: false, endpoints: 1 })).unwrap();
    admin_says(&plane, "/status", |status| {
        status["changes"][0]["cause"].as_str().is_some_and(|cause| cause.contains("services/new-svc"))
    })
    .await;
    tokio::time::sleep(OLD).await;
    plane.write_topology(&topology(Written { policy, drained: true, endpoints: 1 })).unwrap();
    other.until("the drain", |proxy| in_az_a(proxy) == (1, 1)).await;
    plane.write_topology(&topology(Written { policy, drained: true, endpoints: 2 })).unwrap();
    other.until("the endpoint", |proxy| in_az_a(proxy) == (1, 2)).await;
    assert!(!other.clusters.contains("new-svc"), "nobody has tried it");

    // Who holds it up is said.
    let status = admin_says(&plane, "/status", |status| status["trial"]["wave"] == 1).await;
    assert_eq!(status["trial"]["waiting_for"], json!(["deaf"]), "{status}");
    let (_, out, _) = told(&plane.cli(&["status"]).await.unwrap());
    assert!(out.contains("wave 1, 1 proxy has it") && out.contains("waiting for deaf"), "{out}");

    // Nobody is told that it has what only the deaf one was given, nor that everything is in force.
    let status = admin_says(&plane, "/status", |status| status["zones"][0]["state"] == "drained").await;
    assert_eq!(status["services"].as_array().unwrap().len(), 1, "{status}");
    let (seen, applied) = (&status["source"]["revision"], &status["source"]["applied_revision"]);
    assert!(applied.as_i64() < seen.as_i64(), "{applied} of {seen}");
    let convergence = admin_says(&plane, &format!("/convergence?revision={seen}"), |_| true).await;
    assert_eq!(convergence["acked"], json!(0), "{convergence}");

    // Once it has said yes, it goes to all.
    let deaf = deaf.run();
    other.until("the new service", |proxy| proxy.clusters.contains("new-svc")).await;
    let other = other.run();
    admin_says(&plane, &format!("/convergence?revision={seen}"), |seen| seen["acked"] == 2).await;
    admin_says(&plane, "/status", |status| status["trial"].is_null()).await;
    [deaf, other].iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn written_together_a_drain_does_not_wait_for_a_policy_and_takes_none_along() {
    let lab = Lab::new().unwrap();
    let (plane, deaf, mut other) = fleet(&lab).await;
    let policy = "  new-svc: {probe: {tcp: true}}\n";
    plane.write_topology(&topology(Written { policy, drained: true, endpoints: 2 })).unwrap();
    other.until("the drain and the endpoint", |proxy| in_az_a(proxy) == (1, 2)).await;
    let status = admin_says(&plane, "/status", |status| {
        status["changes"][0]["cause"].as_str().is_some_and(|cause| cause.contains("services/new-svc"))
    })
    .await;
    assert_eq!(status["changes"][1]["cause"], "endpoints/pay-svc/p1, shifts/az-a", "{status}");
    // As many messages later as it takes for what is on its way to arrive.
    plane.write_topology(&topology(Written { policy, drained: true, endpoints: 3 })).unwrap();
    other.until("one more endpoint", |proxy| in_az_a(proxy) == (1, 3)).await;
    assert!(!other.clusters.contains("new-svc"), "nobody has tried it");
    let deaf = deaf.run();
    other.until("the new service", |proxy| proxy.clusters.contains("new-svc")).await;
    deaf.abort();
}
