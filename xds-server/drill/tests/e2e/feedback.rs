//! What proxies tell the control plane, and what it tells them when it has to start without its store.

use std::time::Instant;

use serde_json::{Value, json};
use zonebreak_drill::{
    lab::{Fault, Http, until},
    world::{Protocol, SERVICE, SOON, World, WorldOptions},
};

use crate::support::{cli, ran, turn};

const RATE: f64 = 100.0;

/// The matrix' cell for the one proxy, which is in az-a, and endpoints in `target`.
fn cell<'a>(load: &'a Value, target: &str) -> Option<&'a Value> {
    let rows = load.as_array()?;
    rows.iter().find(|row| row["client_zone"] == "az-a" && row["target_zone"] == target)
}

/// The breaker only watches, so that the traffic goes on and there is something to report.
#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_fails_shows_in_its_cell_of_the_matrix_and_nowhere_else() {
    let _turn = turn().await;
    let policy = json!({
        "mode": "eventual", "weights": {"az-a": 1, "az-b": 1, "az-c": 1}, "breaker": {"enforcement": "shadow"}
    });
    let config = Some("load_reports: {interval: 1s}\n".to_owned());
    let world = World::start(WorldOptions { policy, config, ..Default::default() }).await.unwrap();
    let load = world.load(RATE).unwrap();
    ran(&load, Instant::now(), RATE as usize).await;
    world.backends.zone("az-b").set_fault(Fault::HARD);
    let seen = until("the failures reported", SOON, async || {
        let seen: Value = world.plane.admin().json("/load").await.map_err(|error| error.to_string())?;
        match cell(&seen, "az-b") {
            Some(cell) if cell["error_lower"].as_f64() > Some(0.3) => Ok(seen),
            _ => Err(seen.to_string()),
        }
    })
    .await
    .unwrap();
    for well in ["az-a", "az-c"] {
        let cell = cell(&seen, well).unwrap();
        assert_eq!(cell["errors"], 0, "{seen}");
        assert!(cell["requests"].as_u64() > Some(10) && cell["error_upper"].as_f64() < Some(0.3), "{seen}");
    }
    assert!(
        seen.as_array().unwrap().iter().all(|row| row["service"] == SERVICE),
        "the control plane's own cluster is no service: {seen}"
    );
    let told = cli(&world.plane, &["status", "-o", "wide"]).await;
    assert!(told.out.contains("PLAUSIBLE") && told.out.contains("az-b"), "{told:?}");
    let metrics = Http::new(world.plane.health_url()).unwrap().get("/metrics").await.unwrap().1;
    let errors = "zonebreak_zone_requests_total{client_zone=\"az-a\",outcome=\"error\",target_zone=\"az-b\"}";
    assert!(metrics.contains(errors) && metrics.contains("zonebreak_load_report_streams 1"), "{metrics}");
}

/// Both are killed, the server alone comes back, and a proxy that never saw either gets all that there was.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_proxy_gets_everything_from_a_server_that_started_without_etcd() {
    let _turn = turn().await;
    let config = Some("state: {dir: state}\n".to_owned());
    let mut world = World::start(WorldOptions { config, ..Default::default() }).await.unwrap();
    let file = world.lab.path().join("state/topology.state");
    let endpoints = world.registrations.len() as u64;
    until("the state on disk", SOON, async || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let kept = text.matches(&format!("\"endpoints/{SERVICE}/")).count() as u64;
        if kept == endpoints { Ok(()) } else { Err(format!("{kept} of {endpoints} endpoints")) }
    })
    .await
    .unwrap();
    world.plane.kill();
    world.etcd.kill();
    world.plane.restart().await.unwrap();
    let status: Value = world.plane.admin().json("/status").await.unwrap();
    assert!(status["source"]["saved_at"].is_string() && status["source"]["connected"] == false, "{status}");
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let name = format!("late-{protocol:?}").to_lowercase();
        let late = world.another_envoy(&name, "az-b", protocol).await.unwrap();
        let known = late.stat(&format!("cluster.{SERVICE}.membership_total")).await.unwrap();
        assert_eq!(known, Some(endpoints), "{name}");
    }
    world.etcd.restart().await.unwrap();
    until("etcd heard again", 2 * SOON, async || {
        let status: Value = world.plane.admin().json("/status").await.map_err(|error| error.to_string())?;
        if status["source"]["saved_at"].is_null() { Ok(()) } else { Err(status["source"].to_string()) }
    })
    .await
    .unwrap();
}
