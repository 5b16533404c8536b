//! `serve --topology`: the same without an etcd, from a file that is watched.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zonebreak_drill::{
    lab::{Backends, Envoy, Lab, Load, LoadOptions, Plane, PlaneOptions, Port, until},
    world::{Protocol, SERVICE, SOON, proxy_options},
};

use crate::support::{cli, no_failure, ran, turn};

/// The topology of the backends, in YAML, one line a fact, so that the line of an error is known. `mode` is on line 4 and the
/// weight of the first endpoint on line 7.
fn topology(backends: &Backends, port: u16, mode: &str, weight: &str) -> String {
    let mut text = format!(
        "zones: {{az-a: {{region: r}}, az-b: {{region: r}}}}\n\
         services:\n  {SERVICE}:\n    mode: {mode}\n    port: {port}\nendpoints: {{{SERVICE}: {{\n"
    );
    for (n, backend) in
        backends.zones().iter().flat_map(|zone| zone.backends().iter().map(move |b| (zone, b))).enumerate()
    {
        let (zone, backend) = backend;
        let weight = if n == 0 { weight } else { "1" };
        text.push_str(&format!(
            "  {}: {{zone: {}, address: {}, port: {}, weight: {weight}}},\n",
            backend.id(),
            zone.name(),
            backend.address().ip(),
            backend.address().port()
        ));
    }
    text.push_str("}}\n");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn topology_file_without_etcd() {
    let _turn = turn().await;
    let lab = Lab::new().unwrap();
    let backends = Backends::start(&["az-a", "az-b"], 2).await.unwrap();
    let port = Port::reserve().unwrap();
    let listener = port.address();
    let text = |mode: &str, weight: &str| topology(&backends, listener.port(), mode, weight);
    let options = PlaneOptions { topology: Some(text("strong", "1")), ..Default::default() };
    let plane = Plane::start(&lab, options).await.unwrap();
    let proxy = proxy_options(&lab, &plane, "envoy", "az-a", Protocol::Delta).unwrap();
    let mut envoy = Envoy::start(&lab, proxy).await.unwrap();
    envoy.live(SOON).await.unwrap();
    envoy.listener(&format!("zonebreak_{}", listener.port()), SOON).await.unwrap();

    let load = Load::start(LoadOptions::new(listener, SERVICE, 200.0)).unwrap();
    let until_share = async |wanted: std::ops::RangeInclusive<f64>| {
        until(&format!("{wanted:?} % at home"), SOON, async || {
            let recent = load.recent(Duration::from_secs(1));
            let share = recent.share_percent("az-a");
            let enough = recent.total.requests > 150 && recent.total.failed == 0;
            if enough && wanted.contains(&share) {
                Ok(())
            } else {
                Err(format!("{share:.0} % of {recent:?}"))
            }
        })
        .await
        .unwrap();
    };
    until_share(100.0..=100.0).await;
    let began = Instant::now();

    // A change of the file is a change of the shares.
    plane.write_topology(&text("eventual", "1")).unwrap();
    until_share(70.0..=90.0).await;

    // A bad entry is refused alone, with its place; the good one beside it is taken.
    plane.write_topology(&text("strong", "0")).unwrap();
    until_share(100.0..=100.0).await;
    let problems: Value = plane.admin().json("/problems").await.unwrap();
    assert_eq!(problems.as_array().map(Vec::len), Some(1), "{problems}");
    assert_eq!((&problems[0]["line"], &problems[0]["kept"]), (&json!(7), &json!(true)), "{problems}");
    assert!(problems[0]["column"].as_u64().is_some_and(|column| column > 0), "{problems}");
    assert!(problems[0]["key"].as_str().is_some_and(|key| key.contains("az-a-0")), "{problems}");
    let refused = &backends.zone("az-a").backends()[0];
    let reached = refused.requests();
    ran(&load, Instant::now(), 200).await;
    assert!(refused.requests() > reached, "the last good value of the bad entry is not in force");

    // No YAML at all, then no file at all: everything stays.
    plane.write_topology("services: [").unwrap();
    until("the problem told", SOON, async || {
        let status = cli(&plane, &["status"]).await;
        if status.out.contains("zonebreak.topology.yaml") { Ok(()) } else { Err(status.out) }
    })
    .await
    .unwrap();
    std::fs::remove_file(plane.topology_file()).unwrap();
    ran(&load, Instant::now(), 400).await;
    until_share(100.0..=100.0).await;

    plane.write_topology(&text("eventual", "1")).unwrap();
    until_share(70.0..=90.0).await;
    until("no problem left", SOON, async || {
        let problems: Value = plane.admin().json("/problems").await.map_err(|e| e.to_string())?;
        if problems == json!([]) { Ok(()) } else { Err(problems.to_string()) }
    })
    .await
    .unwrap();
    no_failure(&load, began, "five changes of the file");
    assert!(backends.leaked_headers().is_empty());
}
