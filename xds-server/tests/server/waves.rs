//! Changes that go to a few proxies first, and what becomes of the one that is refused.

use serde_json::json;
use zonebreak_drill::lab::{Http, Lab, Plane, until};

use super::{LIMIT, admin_says, health, on_file, proxy::Proxy, told};

fn topology(order: &str, pay: &str, endpoints: usize) -> String {
    let endpoint = |n: usize| format!("    p{n}: {{address: 10.0.2.{n}, port: 80, zone: az-a}}\n");
    let endpoints: String = (0..endpoints).map(endpoint).collect();
    format!(
        "zones: {{az-a: {{}}, az-b: {{}}}}
services:
  order-svc: {order}
  pay-svc: {pay}
endpoints:
  order-svc:
    a1: {{address: 10.0.0.1, port: 80, zone: az-a}}
  pay-svc:
{endpoints}"
    )
}

async fn connected(plane: &Plane, id: &str) -> Proxy {
    let mut proxy = Proxy::connect(plane.xds(), id, "az-a").await;
    proxy.until("its endpoints", |proxy| proxy.endpoints.len() == 2).await;
    proxy
}

async fn metric(plane: &Plane, name: &str) -> String {
    let metrics = health(plane).get("/metrics").await.unwrap().1;
    let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.rsplit(' ').next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_first_proxy_refuses_nobody_else_gets_and_the_rest_of_the_change_goes_on() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, &topology("{}", "{}", 1)).await;
    let mut first = connected(&plane, "first").await;
    first.refuse_clusters = Some("Error adding/updating cluster(s) order-svc: not to my taste".to_owned());
    let first = first.run();
    let others = [connected(&plane, "second").await, connected(&plane, "third").await].map(Proxy::run);

    plane.write_topology(&topology("{probe: {tcp: true}}", "{probe: {tcp: true}}", 2)).unwrap();
    let quarantine = admin_says(&plane, "/quarantine", |rows| rows[0]["name"] == "order-svc").await;
    assert_eq!(quarantine.as_array().unwrap().len(), 1, "{quarantine}");
    assert_eq!(
        (&quarantine[0]["type"], &quarantine[0]["node"]),
        (&json!("CDS"), &json!("first")),
        "{quarantine}"
    );
    admin_says(&plane, "/proxies", |all| {
        let of = |id: &str| {
            all.as_array().unwrap().iter().find(|proxy| proxy["id"] == id).unwrap()["state"].clone()
        };
        of("second") == "synced" && of("third") == "synced"
    })
    .await;
    assert_eq!(
        metric(&plane, "zonebreak_xds_nacks_total{type=\"cds\"}").await.parse::<u32>().unwrap(),
        1,
        "nobody else was given it"
    );
    assert_eq!(metric(&plane, "zonebreak_quarantined_resources").await, "1");
    assert_eq!(metric(&plane, "zonebreak_waves_total{outcome=\"halted\"}").await, "1");
    let status = admin_says(&plane, "/status", |_| true).await;
    assert_eq!(status["services"][1]["endpoints"], json!({"az-a": 2}), "the rest is served");
    let (_, out, _) = told(&plane.cli(&["proxies"]).await.unwrap());
    assert!(out.contains("QUARANTINE") && out.contains("not to my taste"), "{out}");
    let (_, out, _) = told(&plane.cli(&["topology", "why", "order-svc", "--proxy", "second"]).await.unwrap());
    assert!(out.contains("in quarantine: CDS") && out.contains("refused by first"), "{out}");
    let (_, body) = health(&plane).get("/readyz?verbose").await.unwrap();
    assert!(body.contains("[~]rollout degraded: 1 in quarantine") && body.contains("order-svc"), "{body}");

    // Another content is tried anew; whoever was first is gone.
    first.abort();
    admin_says(&plane, "/proxies", |all| all.as_array().unwrap().len() == 2).await;
    plane.write_topology(&topology("{probe: {tcp: true, interval: 7s}}", "{probe: {tcp: true}}", 2)).unwrap();
    admin_says(&plane, "/quarantine", |rows| *rows == json!([])).await;
    until("the change everywhere", LIMIT, async || {
        let passed = metric(&plane, "zonebreak_waves_total{outcome=\"passed\"}").await;
        if passed == "1" { Ok(()) } else { Err(passed) }
    })
    .await
    .unwrap();
    admin_says(&plane, "/status", |status| {
        status["proxies"]["synced"] == 2 && status["changes"][0]["acked"] == 2
    })
    .await;
    others.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_proxy_that_does_not_answer_holds_up_nobody_for_long() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, &topology("{}", "{}", 1)).await;
    // Connected and never read from again.
    let mut deaf = Proxy::connect(plane.xds(), "deaf", "az-a").await;
    deaf.until("its endpoints", |proxy| proxy.endpoints.len() == 2).await;
    let other = connected(&plane, "other").await.run();
    plane.write_topology(&topology("{probe: {tcp: true}}", "{}", 1)).unwrap();
    admin_says(&plane, "/status", |status| status["changes"][0]["acked"] == 1).await;
    assert_eq!(metric(&plane, "zonebreak_waves_total{outcome=\"late\"}").await, "1");
    // Endpoints are nobody's to refuse, and go to all at once.
    plane.write_topology(&topology("{probe: {tcp: true}}", "{}", 2)).unwrap();
    admin_says(&plane, "/status", |status| status["changes"][0]["cause"] == "endpoints/pay-svc/p1").await;
    let waves = Http::new(plane.health_url()).unwrap().get("/metrics").await.unwrap().1;
    let total: u32 = waves
        .lines()
        .filter(|line| line.starts_with("zonebreak_waves_total"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap())
        .sum();
    assert_eq!(total, 1, "{waves}");
    drop(deaf);
    other.abort();
}
