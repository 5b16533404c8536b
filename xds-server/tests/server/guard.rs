//! Changes that would take away too much, and starts without etcd.

use serde_json::json;
use zonebreak_drill::lab::{Etcd, Http, Lab, Plane, PlaneOptions};

use super::{admin_says, health, on_file, proxy::Proxy, told};

/// A service of four endpoints in two zones, without those of the given numbers.
fn topology(without: &[u32]) -> String {
    let line = |n: u32| {
        let zone = if n < 2 { "az-a" } else { "az-b" };
        format!("    e{n}: {{address: 10.0.0.{n}, port: 80, zone: {zone}}}\n")
    };
    let endpoints: String = (0..4).filter(|n| !without.contains(n)).map(line).collect();
    format!(
        "zones: {{az-a: {{}}, az-b: {{}}}}\nservices: {{order-svc: {{}}}}\nendpoints:\n  order-svc:\n{endpoints}"
    )
}

/// How many endpoints of the service a proxy holds.
fn held_by(proxy: &Proxy) -> usize {
    proxy.by_zone().get("order-svc").map_or(0, |zones| zones.values().map(|(_, number)| number).sum())
}

/// A server on a real etcd, which keeps its state, with the topology loaded.
async fn on_etcd(lab: &Lab, etcd: &Etcd) -> Plane {
    let dir = lab.path().join("state").display().to_string();
    let args = vec!["--state-dir".to_owned(), dir];
    let options = PlaneOptions { etcd: Some(etcd.url()), filter: false, args, ..PlaneOptions::default() };
    let plane = Plane::spawn(lab, options).await.unwrap();
    lab.write("topology.yaml", &topology(&[])).unwrap();
    let (code, _, err) = told(&plane.cli(&["topology", "apply", "topology.yaml"]).await.unwrap());
    assert_eq!(code, 0, "{err}");
    admin_says(&plane, "/status", |status| {
        status["services"][0]["endpoints"] == json!({"az-a": 2, "az-b": 2})
    })
    .await;
    plane
}

async fn delete(etcd: &Etcd, endpoint: u32) {
    let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
    client.delete(format!("/zonebreak/v1/endpoints/order-svc/e{endpoint}"), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_of_most_endpoints_is_held_until_an_operator_confirms_it() {
    let lab = Lab::new().unwrap();
    let etcd = Etcd::start(&lab).await.unwrap();
    let plane = on_etcd(&lab, &etcd).await;
    let mut proxy = Proxy::connect(plane.xds(), "one", "az-a").await;
    proxy.until("four endpoints", |proxy| held_by(proxy) == 4).await;
    lab.write(
        "fewer.yaml",
        &topology(&[1, 2, 3]).replace("{order-svc: {}}", "{order-svc: {mode: eventual}}"),
    )
    .unwrap();
    let (code, _, err) = told(&plane.cli(&["topology", "apply", "fewer.yaml", "--prune"]).await.unwrap());
    assert_eq!(code, 0, "{err}");
    let status = admin_says(&plane, "/status", |status| status["held"][0]["after"] == 1).await;
    assert_eq!(
        (&status["held"][0]["id"], &status["held"][0]["before"], &status["held"][0]["served"]),
        (&json!("endpoints/order-svc"), &json!(4), &json!(4)),
        "{status}"
    );
    assert_eq!(status["services"][0]["mode"], "eventual", "the rest of the same change is in force");
    let (ready, body) = health(&plane).get("/readyz?verbose").await.unwrap();
    assert!(ready == 200 && body.contains("[~]guard degraded: 1 held: endpoints/order-svc"), "{body}");
    let (_, metrics) = health(&plane).get("/metrics").await.unwrap();
    assert!(metrics.contains("zonebreak_topology_held 1"), "{metrics}");
    let (_, out, _) = told(&plane.cli(&["status"]).await.unwrap());
    assert!(out.contains("endpoints/order-svc") && out.contains("topology confirm ID"), "{out}");

    let following = proxy.run();
    let confirm =
        ["topology", "confirm", "order-svc", "--reason", "moved away", "--actor", "eve", "-o", "json"];
    let (code, out, err) = told(&plane.cli(&confirm).await.unwrap());
    assert_eq!(code, 0, "{err}");
    let written: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(written["convergence"]["acked"], 1, "{out}");
    let status = admin_says(&plane, "/status", |status| status["held"] == json!([])).await;
    assert_eq!(status["services"][0]["endpoints"], json!({"az-a": 1}));
    let (code, _, err) = told(&plane.cli(&confirm).await.unwrap());
    assert_eq!(code, 3, "it is not held any more: {err}");
    following.abort();
    let mut plane = plane;
    let log = plane.process().log();
    assert!(log.contains("\"action\":\"change_held\"") || log.contains("change_held"), "{log}");
    assert!(log.contains("change_confirmed") && log.contains("eve"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_of_the_policies_and_zones_is_held_and_each_is_confirmed_by_itself() {
    let lab = Lab::new().unwrap();
    let etcd = Etcd::start(&lab).await.unwrap();
    let plane = on_etcd(&lab, &etcd).await;
    let probed = topology(&[]).replace("order-svc: {}", "order-svc: {probe: {tcp: true}}");
    lab.write("probed.yaml", &probed).unwrap();
    let (code, _, err) = told(&plane.cli(&["topology", "apply", "probed.yaml"]).await.unwrap());
    assert_eq!(code, 0, "{err}");
    let mut proxy = Proxy::connect(plane.xds(), "one", "az-a").await;
    proxy.until("the policy", |proxy| proxy.probed.contains("order-svc") && held_by(proxy) == 4).await;
    let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
    for kind in ["services", "zones"] {
        let all = etcd_client::DeleteOptions::new().with_prefix();
        client.delete(format!("/zonebreak/v1/{kind}/"), Some(all)).await.unwrap();
    }
    let ids = |held: &serde_json::Value| -> Vec<String> {
        let ids = held.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    let held = admin_says(&plane, "/held", |held| ids(held) == ["services", "zones"]).await;
    assert_eq!(
        (&held[1]["before"], &held[1]["after"], &held[1]["served"]),
        (&json!(2), &json!(0), &json!(2))
    );
    let (_, out, _) = told(&plane.cli(&["status"]).await.unwrap());
    assert!(out.contains("would go from 1 policy to 0 within 10s"), "{out}");
    // What needs no policy goes on, and takes no default along.
    delete(&etcd, 3).await;
    proxy.until("one endpoint fewer", |proxy| held_by(proxy) == 3).await;
    assert!(proxy.probed.contains("order-svc"));
    let (_, out, _) = told(&plane.cli(&["topology", "why", "order-svc", "--zone", "az-a"]).await.unwrap());
    assert!(out.contains("held: the topology would go from 1 policy to 0"), "{out}");

    let following = tokio::spawn(async move {
        proxy.until("the defaults", |proxy| proxy.probed.is_empty()).await;
        proxy.run().await
    });
    let confirm = ["topology", "confirm", "services", "--reason", "defaults will do"];
    let (code, _, err) = told(&plane.cli(&confirm).await.unwrap());
    assert_eq!(code, 0, "{err}");
    admin_says(&plane, "/held", |held| ids(held) == ["zones"]).await;
    let (code, _, err) = told(&plane.cli(&["topology", "confirm"]).await.unwrap());
    assert_eq!(code, 0, "{err}");
    let status = admin_says(&plane, "/status", |status| status["held"] == json!([])).await;
    assert_eq!(status["services"][0]["endpoints"], json!({"az-a": 2, "az-b": 1}), "endpoints name zones");
    following.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_loss_is_over_when_it_is_undone() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, &topology(&[])).await;
    plane.write_topology(&topology(&[0, 1, 2])).unwrap();
    admin_says(&plane, "/held", |held| held[0]["served"] == 4).await;
    plane.write_topology(&topology(&[0])).unwrap();
    admin_says(&plane, "/held", |held| *held == json!([])).await;
    admin_says(&plane, "/status", |status| {
        status["services"][0]["endpoints"] == json!({"az-a": 1, "az-b": 2})
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_etcd_the_word_goes_to_the_server() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, &topology(&[])).await;
    plane.write_topology(&topology(&[0, 1, 2, 3])).unwrap();
    admin_says(&plane, "/held", |held| held[0]["after"] == 0).await;
    let (code, _, err) =
        told(&plane.cli(&["topology", "confirm", "--reason", "it is the end"]).await.unwrap());
    assert_eq!(code, 0, "{err}");
    admin_says(&plane, "/status", |status| {
        status["held"] == json!([]) && status["services"][0]["endpoints"] == json!({})
    })
    .await;
    let (code, _, err) = told(&plane.cli(&["topology", "confirm", "--reason", "again"]).await.unwrap());
    assert!(code == 0 && err.contains("nothing is held"), "{code} {err}");
    let (code, _, err) = told(&plane.cli(&["topology", "confirm", "--reason", " "]).await.unwrap());
    assert!(code == 2 && err.contains("--reason"), "{code} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_etcd_serves_the_last_good_state_and_goes_on_when_etcd_is_back() {
    let lab = Lab::new().unwrap();
    let mut etcd = Etcd::start(&lab).await.unwrap();
    let mut plane = on_etcd(&lab, &etcd).await;
    let file = lab.path().join("state/topology.state");
    let kept = |text: &str| text.contains("e3");
    zonebreak_drill::lab::until("the state on disk", super::LIMIT, async || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        if kept(&text) { Ok(()) } else { Err(text) }
    })
    .await
    .unwrap();
    plane.kill();
    etcd.kill();
    plane.restart().await.unwrap();
    let mut proxy = Proxy::connect(plane.xds(), "late", "az-b").await;
    proxy.until("everything", |proxy| held_by(proxy) == 4).await;
    let status = admin_says(&plane, "/status", |status| status["source"]["saved_at"].is_string()).await;
    assert_eq!(status["source"]["connected"], false, "{status}");
    let (_, body) = health(&plane).get("/readyz?verbose").await.unwrap();
    assert!(body.contains("served is the state on disk, saved at"), "{body}");
    let (_, out, _) = told(&plane.cli(&["status"]).await.unwrap());
    assert!(out.contains("served from disk"), "{out}");

    etcd.restart().await.unwrap();
    let status = admin_says(&plane, "/status", |status| status["source"]["connected"] == true).await;
    assert_eq!(status["source"]["saved_at"], json!(null));
    delete(&etcd, 3).await;
    proxy.until("news", |proxy| held_by(proxy) == 3).await;

    // Damaged, it is named and not used.
    plane.kill();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("az-a", "az-x")).unwrap();
    plane.restart().await.unwrap();
    let (_, body) = health(&plane).get("/readyz?verbose").await.unwrap();
    assert!(body.contains("[~]state degraded") && body.contains("damaged"), "{body}");
    let metrics = Http::new(plane.health_url()).unwrap().get("/metrics").await.unwrap().1;
    assert!(metrics.contains("zonebreak_state_saved_timestamp_seconds"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_quarantine_is_there_after_a_restart_and_nobody_is_given_it() {
    let lab = Lab::new().unwrap();
    let etcd = Etcd::start(&lab).await.unwrap();
    let mut plane = on_etcd(&lab, &etcd).await;
    let mut before = Vec::new();
    for id in ["one", "two"] {
        let mut proxy = Proxy::connect(plane.xds(), id, "az-a").await;
        proxy.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
        proxy.refuse_clusters = Some("order-svc: not to my taste".to_owned());
        before.push(proxy.run());
    }
    let bad = topology(&[]).replace("order-svc: {}", "order-svc: {probe: {tcp: true}}");
    lab.write("bad.yaml", &bad).unwrap();
    let (code, _, err) = told(&plane.cli(&["topology", "apply", "bad.yaml"]).await.unwrap());
    assert_eq!(code, 0, "{err}");
    let rows = admin_says(&plane, "/quarantine", |rows| rows[0]["name"] == "order-svc").await;
    let file = lab.path().join("state/quarantine.state");
    zonebreak_drill::lab::until("the quarantine on disk", super::LIMIT, async || {
        if file.exists() { Ok(()) } else { Err(rows.to_string()) }
    })
    .await
    .unwrap();
    plane.kill();
    before.iter().for_each(tokio::task::JoinHandle::abort);

    plane.restart().await.unwrap();
    let mut proxy = Proxy::connect(plane.xds(), "three", "az-a").await;
    proxy.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
    assert!(!proxy.probed.contains("order-svc"), "it is given the last good one");
    let after = admin_says(&plane, "/quarantine", |rows| rows[0]["name"] == "order-svc").await;
    assert_eq!(after, rows, "told as before");
    let following = proxy.run();

    // Mended, it is tried and released.
    lab.write("good.yaml", &topology(&[])).unwrap();
    let (code, _, err) = told(&plane.cli(&["topology", "apply", "good.yaml"]).await.unwrap());
    assert_eq!(code, 0, "{err}");
    admin_says(&plane, "/quarantine", |rows| *rows == json!([])).await;
    zonebreak_drill::lab::until("no quarantine on disk", super::LIMIT, async || {
        if file.exists() { Err("it is still there".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
    following.abort();
}
