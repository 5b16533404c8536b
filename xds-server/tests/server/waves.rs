//! Changes that go to a few proxies first, and what becomes of the one that is refused.

use serde_json::json;
use zonebreak_drill::lab::{Http, Lab, Plane, PlaneOptions, until};

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

/// A server on this topology whose waves wait for every answer, however long a busy machine takes to give it.
async fn patient(lab: &Lab, topology: &str) -> Plane {
    with_waves(lab, topology, 120).await
}

/// The same with waves that wait for so many seconds.
async fn with_waves(lab: &Lab, topology: &str, seconds: u32) -> Plane {
    let options = PlaneOptions {
        topology: Some(topology.to_owned()),
        config: Some(format!("waves: {{timeout: {seconds}s}}\n")),
        filter: false,
        ..PlaneOptions::default()
    };
    Plane::start(lab, options).await.unwrap()
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

/// Waits until so many changes have gone through their waves.
async fn passed(plane: &Plane, wanted: u32) {
    until("the change everywhere", LIMIT, async || {
        let passed = metric(plane, "zonebreak_waves_total{outcome=\"passed\"}").await;
        if passed == wanted.to_string() { Ok(()) } else { Err(passed) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_first_two_proxies_refuse_nobody_else_gets_and_the_rest_of_the_change_goes_on() {
    let lab = Lab::new().unwrap();
    let plane = patient(&lab, &topology("{}", "{}", 1)).await;
    let refusing = async |id: &str| {
        let mut proxy = connected(&plane, id).await;
        let words = "Error adding/updating cluster(s) order-svc: not to my taste";
        proxy.refuse_clusters = Some(words.to_owned());
        proxy
    };
    let refusing = [refusing("first").await, refusing("second").await].map(Proxy::run);
    let others = [connected(&plane, "third").await, connected(&plane, "fourth").await].map(Proxy::run);

    plane.write_topology(&topology("{probe: {tcp: true}}", "{probe: {tcp: true}}", 2)).unwrap();
    let quarantine = admin_says(&plane, "/quarantine", |rows| rows[0]["name"] == "order-svc").await;
    assert_eq!(quarantine.as_array().unwrap().len(), 1, "{quarantine}");
    assert_eq!(
        (&quarantine[0]["type"], &quarantine[0]["node"]),
        (&json!("CDS"), &json!("first")),
        "{quarantine}"
    );
    // The rest goes through waves of its own.
    passed(&plane, 1).await;
    admin_says(&plane, "/proxies", |all| {
        let of = |id: &str| {
            all.as_array().unwrap().iter().find(|proxy| proxy["id"] == id).unwrap()["state"].clone()
        };
        of("third") == "synced" && of("fourth") == "synced"
    })
    .await;
    assert_eq!(
        metric(&plane, "zonebreak_xds_nacks_total{type=\"cds\"}").await.parse::<u32>().unwrap(),
        2,
        "nobody else was given it"
    );
    assert_eq!(metric(&plane, "zonebreak_quarantined_resources").await, "1");
    assert_eq!(metric(&plane, "zonebreak_waves_total{outcome=\"halted\"}").await, "1");
    admin_says(&plane, "/status", |status| status["services"][1]["endpoints"] == json!({"az-a": 2})).await;
    let (_, out, _) = told(&plane.cli(&["proxies"]).await.unwrap());
    assert!(out.contains("QUARANTINE") && out.contains("not to my taste"), "{out}");
    let (_, out, _) = told(&plane.cli(&["topology", "why", "order-svc", "--proxy", "third"]).await.unwrap());
    assert!(out.contains("in quarantine: CDS") && out.contains("refused by first"), "{out}");
    let (_, body) = health(&plane).get("/readyz?verbose").await.unwrap();
    assert!(body.contains("[~]rollout degraded: 1 in quarantine") && body.contains("order-svc"), "{body}");

    // Another content is tried anew; whoever was first is gone.
    refusing.iter().for_each(tokio::task::JoinHandle::abort);
    admin_says(&plane, "/proxies", |all| all.as_array().unwrap().len() == 2).await;
    plane.write_topology(&topology("{probe: {tcp: true, interval: 7s}}", "{probe: {tcp: true}}", 2)).unwrap();
    admin_says(&plane, "/quarantine", |rows| *rows == json!([])).await;
    passed(&plane, 2).await;
    admin_says(&plane, "/status", |status| {
        status["proxies"]["synced"] == 2 && status["changes"][0]["acked"] == 2
    })
    .await;
    others.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_not_given_it_does_not_acquit_what_another_refuses() {
    let lab = Lab::new().unwrap();
    let plane = patient(&lab, &topology("{}", "{}", 1)).await;
    let mut proxies = Vec::new();
    for id in ["first", "endpoints-only", "third", "fourth"] {
        let mut proxy = match id {
            "endpoints-only" => Proxy::connect_for(plane.xds(), id, "az-a", &["order-svc", "pay-svc"]).await,
            _ => Proxy::connect(plane.xds(), id, "az-a").await,
        };
        proxy.until("its endpoints", |proxy| proxy.endpoints.len() == 2).await;
        proxy.refuse_clusters = Some("order-svc is not to our taste".to_owned());
        proxies.push(proxy.run());
    }
    plane.write_topology(&topology("{probe: {tcp: true}}", "{}", 1)).unwrap();
    let rows = admin_says(&plane, "/quarantine", |rows| rows[0]["name"] == "order-svc").await;
    assert_eq!(rows[0]["node"], "first", "{rows}");
    admin_says(&plane, "/status", |status| status["proxies"]["synced"] == 4).await;
    let nacks = metric(&plane, "zonebreak_xds_nacks_total{type=\"cds\"}").await;
    assert_eq!(nacks, "2", "the other that takes clusters was asked, and nobody else was given it");
    proxies.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_names_nothing_withholds_all_that_changed_of_its_type() {
    let lab = Lab::new().unwrap();
    let plane = patient(&lab, &topology("{}", "{}", 1)).await;
    let refusing = async |id: &str| {
        let mut proxy = connected(&plane, id).await;
        proxy.refuse = Some("I shall not say which".to_owned());
        proxy
    };
    let refusing = [refusing("first").await, refusing("second").await].map(Proxy::run);
    // It would say so, if it were given either.
    let mut third = connected(&plane, "third").await;
    third.refuse_clusters = Some("order-svc, pay-svc".to_owned());
    let third = third.run();
    plane.write_topology(&topology("{probe: {tcp: true}}", "{probe: {tcp: true}}", 1)).unwrap();
    let rows = admin_says(&plane, "/quarantine", |rows| rows.as_array().unwrap().len() == 2).await;
    assert_eq!((&rows[0]["name"], &rows[1]["name"]), (&json!("order-svc"), &json!("pay-svc")), "{rows}");
    let third_has = |all: &serde_json::Value| {
        all.as_array().unwrap().iter().any(|proxy| proxy["id"] == "third" && proxy["state"] == "synced")
    };
    admin_says(&plane, "/proxies", third_has).await;
    refusing.iter().chain([&third]).for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_proxy_that_refuses_everything_is_passed_over_and_named() {
    let lab = Lab::new().unwrap();
    let plane = patient(&lab, &topology("{}", "{}", 1)).await;
    let mut rogue = connected(&plane, "rogue").await;
    rogue.refuse = Some("nothing suits me".to_owned());
    let rogue = rogue.run();
    let others = [connected(&plane, "second").await, connected(&plane, "third").await].map(Proxy::run);
    plane.write_topology(&topology("{probe: {tcp: true}}", "{}", 1)).unwrap();
    let named = |all: &serde_json::Value| {
        let why = |proxy: &serde_json::Value| proxy["passed_over"].as_str().unwrap_or_default().to_owned();
        all.as_array().unwrap().iter().any(|proxy| {
            proxy["id"] == "rogue" && why(proxy).contains("refused CDS order-svc, which others took")
        })
    };
    admin_says(&plane, "/proxies", named).await;
    admin_says(&plane, "/status", |status| status["changes"][0]["acked"] == 2).await;
    assert_eq!(metric(&plane, "zonebreak_quarantined_resources").await, "0");
    passed(&plane, 1).await;
    let (_, out, _) = told(&plane.cli(&["proxies"]).await.unwrap());
    assert!(out.contains("PASSED OVER") && out.contains("nothing suits me"), "{out}");

    // The next change asks others first, and needs no word of it.
    plane.write_topology(&topology("{probe: {tcp: true, interval: 7s}}", "{}", 1)).unwrap();
    passed(&plane, 2).await;
    others.iter().chain([&rogue]).for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_go_past_a_change_on_trial_and_do_not_take_it_along() {
    let lab = Lab::new().unwrap();
    let plane = patient(&lab, &topology("{}", "{}", 1)).await;
    // The first never answers, so what it was given stays on trial.
    let deaf = connected(&plane, "deaf").await;
    let mut other = connected(&plane, "other").await;
    let more = |endpoints| {
        let new = "\n  new-svc:\n    n1: {address: 10.0.3.1, port: 80, zone: az-a}\n";
        topology("{}", "{}\n  new-svc: {probe: {tcp: true}}", endpoints) + new.trim_start_matches('\n')
    };
    plane.write_topology(&more(1)).unwrap();
    admin_says(&plane, "/status", |status| {
        status["changes"][0]["cause"].as_str().is_some_and(|cause| cause.contains("new-svc"))
    })
    .await;
    plane.write_topology(&more(2)).unwrap();
    let endpoints = |proxy: &Proxy| proxy.by_zone().get("pay-svc").map_or(0, |zones| zones["az-a"].1);
    other.until("the endpoint", |proxy| endpoints(proxy) == 2).await;
    assert!(!other.clusters.contains("new-svc"), "nobody has tried it");
    // Once it has said yes, it goes to all.
    let deaf = deaf.run();
    other.until("the new service", |proxy| proxy.clusters.contains("new-svc")).await;
    deaf.abort();
}

/// A server with four proxies in one zone, the first `deaf` of which never read what they are given, and a policy that has been
/// given to the first of them.
async fn on_trial(lab: &Lab, deaf: usize) -> (Plane, Vec<Proxy>) {
    // In that time it must be seen to be waited for and go away, after which it is waited for until the time is over.
    let plane = with_waves(lab, &topology("{}", "{}", 1), 8).await;
    let mut proxies = Vec::new();
    for n in 0..4 {
        proxies.push(connected(&plane, &format!("proxy-{n}")).await);
    }
    admin_says(&plane, "/status", |status| status["proxies"]["synced"] == 4).await;
    proxies.splice(deaf.., []).for_each(|proxy| drop(proxy.run()));
    plane.write_topology(&topology("{probe: {tcp: true}}", "{}", 1)).unwrap();
    admin_says(&plane, "/status", |status| status["trial"]["waiting_for"] == json!(["proxy-0"])).await;
    (plane, proxies)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_two_proxies_go_away_over_is_given_to_nobody_else() {
    let lab = Lab::new().unwrap();
    let (plane, mut deaf) = on_trial(&lab, 3).await;
    let mut third = deaf.pop().unwrap();
    drop(deaf.remove(0));
    let trial = admin_says(&plane, "/status", |status| status["trial"]["gone"] == json!(["proxy-0"])).await;
    assert_eq!(trial["trial"]["wave"], 1, "{trial}");
    let (_, out, _) = told(&plane.cli(&["status"]).await.unwrap());
    assert!(out.contains("GONE AWAY: proxy-0"), "{out}");
    // Another is asked, and goes the same way.
    admin_says(&plane, "/status", |status| status["trial"]["waiting_for"] == json!(["proxy-1"])).await;
    drop(deaf);
    let rows = admin_says(&plane, "/quarantine", |rows| rows[0]["name"] == "order-svc").await;
    assert_eq!(rows[0]["node"], "proxy-0, proxy-1", "{rows}");
    assert_eq!(rows[0]["message"], "2 of 2 proxies went away after it was sent", "{rows}");
    let status = admin_says(&plane, "/status", |status| status["trial"].is_null()).await;
    assert_eq!((&status["proxies"]["synced"], &status["proxies"]["connected"]), (&json!(2), &json!(2)));
    // As many messages later as it takes for what is on its way to arrive.
    plane.write_topology(&topology("{probe: {tcp: true}}", "{}", 2)).unwrap();
    third.until("the endpoint", |proxy| proxy.by_zone()["pay-svc"]["az-a"].1 == 2).await;
    assert!(third.probed.is_empty(), "nobody else was given it");
    assert_eq!(metric(&plane, "zonebreak_waves_total{outcome=\"halted\"}").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_proxy_that_goes_away_is_late_and_stops_nothing() {
    let lab = Lab::new().unwrap();
    let (plane, deaf) = on_trial(&lab, 1).await;
    drop(deaf);
    admin_says(&plane, "/status", |status| status["changes"][0]["acked"] == 3).await;
    assert_eq!(metric(&plane, "zonebreak_quarantined_resources").await, "0");
    assert_eq!(metric(&plane, "zonebreak_waves_total{outcome=\"late\"}").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_let_nothing_out_of_quarantine_that_they_change() {
    let lab = Lab::new().unwrap();
    let plane = patient(&lab, &topology("{}", "{}", 1)).await;
    let mut proxies = Vec::new();
    for id in ["first", "second", "third"] {
        let mut proxy = Proxy::connect_for_routes(plane.xds(), id, "az-a", "zonebreak_8080").await;
        proxy.until("its routes", |proxy| proxy.routes.contains("pay-svc")).await;
        proxy.refuse = Some("not to my taste".to_owned());
        proxies.push(proxy);
    }
    // The third would say so, if it were given them.
    let proxies: Vec<_> = proxies.into_iter().map(Proxy::run).collect();
    plane.write_topology(&topology("{timeout: 7s}", "{}", 1)).unwrap();
    let rows = admin_says(&plane, "/quarantine", |rows| rows[0]["type"] == "RDS").await;
    let nacks = async || metric(&plane, "zonebreak_xds_nacks_total{type=\"rds\"}").await;
    assert_eq!(nacks().await, "2", "{rows}");
    // Endpoints of a service without a policy bring a virtual host, into the routes that were refused.
    let more = topology("{timeout: 7s}", "{}", 1)
        + "  plain-svc:\n    s1: {address: 10.0.4.1, port: 80, zone: az-a}\n";
    plane.write_topology(&more).unwrap();
    let change = rows[0]["change"].as_u64();
    let again = admin_says(&plane, "/quarantine", |rows| rows[0]["change"].as_u64() > change).await;
    assert_eq!((&again[0]["type"], &again[0]["name"]), (&json!("RDS"), &json!("zonebreak_8080")), "{again}");
    admin_says(&plane, "/status", |status| status["proxies"]["synced"] == 3).await;
    assert_eq!(nacks().await, "4", "two tried them, and nobody else was given them");
    proxies.iter().for_each(tokio::task::JoinHandle::abort);
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
