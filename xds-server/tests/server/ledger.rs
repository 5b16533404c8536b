//! What became of each change, and why a proxy has what it has.

use serde_json::json;
use zonebreak_drill::lab::Lab;

use super::{admin_says, on_file, proxy::Proxy, told};

const TOPOLOGY: &str = "\
zones: {az-a: {}, az-b: {}}
services: {order-svc: {mode: eventual}}
endpoints:
  order-svc:
    a1: {address: 10.0.0.1, port: 80, zone: az-a}
    b1: {address: 10.0.1.1, port: 80, zone: az-b}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_followed_from_its_cause_to_each_ack_and_refusal() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, TOPOLOGY).await;
    let mut all = Vec::new();
    for (id, zone) in [("one", "az-a"), ("two", "az-a"), ("three", "az-b")] {
        let mut proxy = Proxy::connect(plane.xds(), id, zone).await;
        proxy.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
        all.push(proxy);
    }
    let mut stubborn = Proxy::connect(plane.xds(), "stubborn", "az-b").await;
    stubborn.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
    stubborn.refuse = Some("order-svc: not to my taste".to_owned());
    let following: Vec<_> = all.into_iter().chain([stubborn]).map(Proxy::run).collect();
    plane
        .write_topology(&format!("{TOPOLOGY}    b2: {{address: 10.0.1.2, port: 80, zone: az-b}}\n"))
        .unwrap();
    let status = admin_says(&plane, "/status", |status| {
        let last = &status["changes"][0];
        last["acked"] == 3 && last["nacked"] == 1
    })
    .await;
    let last = &status["changes"][0];
    assert_eq!(last["cause"], "endpoints/order-svc/b2", "{last}");
    assert_eq!((&last["proxies"], &last["sent"], &last["gone"]), (&json!(4), &json!(4), &json!(0)), "{last}");
    assert!(last["p50_ms"].as_f64().unwrap() <= last["p99_ms"].as_f64().unwrap(), "{last}");
    let nack = &last["nacks"][0];
    assert_eq!(
        (&nack["node"], &nack["type"], &nack["resources"]),
        (&json!("stubborn"), &json!("EDS"), &json!(["order-svc"]))
    );
    let (_, out, _) = told(&plane.cli(&["status", "-o", "wide"]).await.unwrap());
    assert!(out.contains("stubborn refused EDS order-svc: order-svc: not to my taste"), "{out}");

    following[3].abort();
    admin_says(&plane, "/changes", |changes| changes[0]["gone"] == 1).await;
    following.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn why_names_what_made_a_weight_for_one_proxy() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, TOPOLOGY).await;
    let mut proxy = Proxy::connect(plane.xds(), "one", "az-b").await;
    proxy.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
    let following = proxy.run();
    admin_says(&plane, "/proxies", |proxies| proxies[0]["state"] == "synced").await;
    let (code, out, err) =
        told(&plane.cli(&["topology", "why", "order-svc", "--proxy", "one", "-o", "json"]).await.unwrap());
    assert_eq!(code, 0, "{err}");
    let why: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&why["zone"], &why["zones"][0]["zone"], &why["proxy"]["in_sync"]),
        (&json!("az-b"), &json!("az-b"), &json!(true)),
        "{out}"
    );
    assert_eq!(why["zones"][0]["share_percent"], 80.0, "{out}");
    for (args, says) in [
        (["order-svc", "--proxy", "two"], "no proxy with node.id"),
        (["no-svc", "--zone", "az-a"], "no service"),
    ] {
        let (code, _, err) = told(&plane.cli(&[&["topology", "why"][..], &args].concat()).await.unwrap());
        assert!(code == 3 && err.contains(says), "{code} {err}");
    }
    following.abort();
}
