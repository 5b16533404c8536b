//! `serve --topology FILE`: the embedded default, without etcd.

use serde_json::json;
use zonebreak_drill::lab::{Lab, until};

use super::{LIMIT, admin_says, health, on_file, proxy::Proxy, told};

const TOPOLOGY: &str = "\
zones:
  az-a: {region: eu, aliases: [euc1-az1]}
  az-b: {region: eu}
services:
  order-svc: {port: 8080}
endpoints:
  order-svc:
    a1: {address: 10.0.0.1, port: 80, zone: az-a}
    a2: {address: 10.0.0.2, port: 80, zone: euc1-az1}
    b1: {address: 10.0.1.1, port: 80, zone: az-b}
";

#[tokio::test(flavor = "multi_thread")]
async fn each_proxy_gets_the_view_of_its_zone_and_follows_the_file() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, TOPOLOGY).await;
    let [mut a, mut b] = [
        Proxy::connect(plane.xds(), "proxy-a", "euc1-az1").await,
        Proxy::connect(plane.xds(), "proxy-b", "az-b").await,
    ];
    a.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
    b.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
    assert_eq!(
        json!(a.by_zone()),
        json!({"order-svc": {"az-a": [0, 2], "az-b": [1, 1]}}),
        "an alias is its zone"
    );
    assert_eq!(json!(b.by_zone()), json!({"order-svc": {"az-a": [1, 2], "az-b": [0, 1]}}));

    plane
        .write_topology(&format!("{TOPOLOGY}    b2: {{address: 10.0.1.2, port: 80, zone: az-b}}\n"))
        .unwrap();
    b.until("the second endpoint", |proxy| proxy.by_zone()["order-svc"]["az-b"].1 == 2).await;
    a.until("the second endpoint", |proxy| proxy.by_zone()["order-svc"]["az-b"].1 == 2).await;
    let convergence = admin_says(&plane, "/convergence?revision=2", |seen| seen["acked"] == 2).await;
    assert_eq!((&convergence["proxies"], &convergence["pending"]), (&json!(2), &json!(0)), "{convergence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_without_an_etcd_is_told_how_to_write_it_into_the_file() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, TOPOLOGY).await;
    let (code, _, err) = told(
        &plane.cli(&["zone", "drain", "euc1-az1", "--for", "5m", "--reason", "switch 4"]).await.unwrap(),
    );
    assert_eq!(code, 2, "{err}");
    let (_, hint) = err.split_once("write there:\n").unwrap_or_else(|| panic!("{err}"));
    let shifts: String =
        hint.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap())).collect();
    plane.write_topology(&format!("{TOPOLOGY}{shifts}")).unwrap();
    let status =
        admin_says(&plane, "/status", |status| status["shifts"].as_array().unwrap().len() == 1).await;
    assert_eq!(
        (&status["zones"][0]["state"], &status["zones"][0]["reason"]),
        (&json!("drained"), &json!("switch 4"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_whose_zone_is_declared_later_moves_to_its_view() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, TOPOLOGY).await;
    let mut proxy = Proxy::connect(plane.xds(), "early", "az-c").await;
    proxy.until("nobody's view", |proxy| !proxy.endpoints.is_empty()).await;
    assert_eq!(json!(proxy.by_zone()), json!({"order-svc": {"az-a": [0, 2], "az-b": [0, 1]}}));
    plane
        .write_topology(&format!("{TOPOLOGY}    c1: {{address: 10.0.2.1, port: 80, zone: az-c}}\n"))
        .unwrap();
    proxy.until("its own view", |proxy| proxy.by_zone()["order-svc"].len() == 3).await;
    assert_eq!(
        json!(proxy.by_zone()),
        json!({"order-svc": {"az-a": [1, 2], "az-b": [1, 1], "az-c": [0, 1]}})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_what_is_served() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, TOPOLOGY).await;
    let mut proxy = Proxy::connect(plane.xds(), "proxy-a", "az-a").await;
    proxy.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
    let following = proxy.run();
    admin_says(&plane, "/status", |status| {
        status["proxies"] == json!({"connected": 1, "synced": 1, "stale": 0, "nacked": 0})
    })
    .await;

    let (code, out, err) = told(&plane.cli(&["status"]).await.unwrap());
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("1 of 1 in sync") && out.contains("az-a 2, az-b 1"), "{out}");
    let (code, out, _) = told(&plane.cli(&["zone", "ls"]).await.unwrap());
    assert_eq!(code, 0);
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1][..5], ["az-a", "eu", "-", "2/2", "serving"], "{out}");
    let (code, out, _) = told(&plane.cli(&["proxies"]).await.unwrap());
    assert_eq!(code, 0);
    let row: Vec<&str> = out.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..3], ["proxy-a", "az-a", "delta"], "{out}");
    assert_eq!(row[4..6], ["SYNCED", "SYNCED"], "{out}");
    let (code, out, _) = told(&plane.cli(&["proxies", "proxy-a", "-o", "json"]).await.unwrap());
    let proxies: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &proxies[0]["types"]["CDS"]["state"]), (0, &json!("synced")), "{out}");
    let (code, _, err) = told(&plane.cli(&["proxies", "nobody"]).await.unwrap());
    assert_eq!(code, 3, "{err}");

    let topology = admin_says(&plane, "/topology", |_| true).await;
    assert_eq!(topology["endpoints"]["order-svc"]["b1"]["zone"], "az-b");
    let (status, body) = plane.admin().get("/nothing").await.unwrap();
    assert!(status == 404 && body.contains("/convergence?revision=R"), "{status} {body}");
    assert_eq!(plane.admin().get("/convergence?revision=x").await.unwrap().0, 400);
    assert_eq!(plane.admin().post("/status").await.unwrap().0, 405, "read only");
    following.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_shown_with_the_proxys_words() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, TOPOLOGY).await;
    let mut proxy = Proxy::connect(plane.xds(), "stubborn", "az-a").await;
    proxy.refuse = Some("this cluster is not to my taste".to_owned());
    let following = proxy.run();
    let convergence = admin_says(&plane, "/convergence?revision=1", |seen| seen["nacked"] == 1).await;
    assert_eq!((&convergence["acked"], &convergence["pending"]), (&json!(0), &json!(0)), "{convergence}");
    let (code, out, _) = told(&plane.cli(&["proxies", "stubborn"]).await.unwrap());
    assert!(code == 0 && out.contains("NACKED") && out.contains("this cluster is not to my taste"), "{out}");
    let (_, metrics) = health(&plane).get("/metrics").await.unwrap();
    assert!(metrics.contains("zonebreak_xds_nacks_total{type=\"cds\"} 1"), "{metrics}");
    assert!(metrics.contains("zonebreak_proxies{state=\"nacked\"} 1"), "{metrics}");
    following.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_entry_is_refused_alone_and_named() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, TOPOLOGY).await;
    plane
        .write_topology(&TOPOLOGY.replace("order-svc: {port: 8080}", "order-svc: {port: 8080, mode: fast}"))
        .unwrap();
    let problems =
        admin_says(&plane, "/problems", |seen| seen.as_array().is_some_and(|seen| seen.len() == 1)).await;
    assert_eq!(
        (&problems[0]["key"], &problems[0]["line"]),
        (&json!("services/order-svc"), &json!(5)),
        "{problems}"
    );
    assert_eq!(problems[0]["kept"], true, "{problems}");
    let (status, body) = health(&plane).get("/readyz?verbose").await.unwrap();
    assert_eq!(status, 200, "a refused value does not take the server out");
    assert!(body.contains("[~]values degraded: 1 refused: services/order-svc"), "{body}");
    plane.write_topology(TOPOLOGY).unwrap();
    admin_says(&plane, "/problems", |seen| seen == &json!([])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_does_not_know_is_said_in_its_words_and_its_health_port_is_known() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, TOPOLOGY).await;
    let why = ["topology", "why", "nosvc", "--zone", "az-a"];
    let (code, _, err) = told(&plane.cli(&why).await.unwrap());
    assert_eq!(code, 3, "{err}");
    let words = "there is no service \"nosvc\"; `zonebreak status` lists them";
    assert!(err.contains(words) && !err.contains("{\"error\""), "{err}");
    let (code, _, err) = told(&plane.cli(&["status", "--server", &plane.health_url()]).await.unwrap());
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("health port") && err.contains("--server URL"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_in_the_file_ends_by_its_own_time() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, TOPOLOGY).await;
    let mut proxy = Proxy::connect(plane.xds(), "proxy-a", "az-a").await;
    proxy.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
    // Long beside what a busy machine takes until it is in force and seen to be.
    let (start, end) = (jiff::Timestamp::now(), jiff::Timestamp::now() + jiff::SignedDuration::from_secs(8));
    let shift =
        format!("{{keep_percent: 0, reason: test, actor: me, started_at: {start}, expires_at: {end}}}");
    plane.write_topology(&format!("{TOPOLOGY}shifts:\n  az-a: {shift}\n")).unwrap();
    proxy.until("az-a last", |proxy| proxy.by_zone()["order-svc"]["az-a"].0 == 1).await;
    let drained = admin_says(&plane, "/status", |status| status["zones"][0]["state"] == "drained").await;
    assert_eq!(drained["zones"][0]["reason"], "test");
    proxy.until("az-a first again", |proxy| proxy.by_zone()["order-svc"]["az-a"].0 == 0).await;
    assert!(jiff::Timestamp::now() >= end, "not before its time");
    let mut plane = plane;
    let log = plane.process().log();
    assert!(
        log.contains("\"action\":\"drain_started\"") && log.contains("\"action\":\"drain_expired\""),
        "{log}"
    );
    assert!(!log.contains("drain_restored"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_streams_and_the_process() {
    let lab = Lab::new().unwrap();
    let mut plane = on_file(&lab, TOPOLOGY).await;
    let mut proxy = Proxy::connect(plane.xds(), "proxy-a", "az-a").await;
    proxy.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
    let following = proxy.run();
    let status = plane.process().terminate(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", plane.process().log());
    tokio::time::timeout(LIMIT, following).await.expect("the stream ended with the server").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_their_documented_names() {
    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, TOPOLOGY).await;
    let mut proxy = Proxy::connect(plane.xds(), "proxy-a", "az-a").await;
    proxy.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
    admin_says(&plane, "/convergence?revision=1", |seen| seen["acked"] == 1).await;
    let (status, text) = health(&plane).get("/metrics").await.unwrap();
    assert_eq!(status, 200);
    for line in [
        "zonebreak_build_info{version=",
        "zonebreak_topology_revision 1",
        "zonebreak_topology_problems 0",
        "zonebreak_xds_streams{protocol=\"delta\",type=\"ads\"} 1",
        "zonebreak_xds_responses_total{type=\"cds\"} 1",
        "zonebreak_xds_responses_total{type=\"eds\"} 1",
        "zonebreak_xds_ack_seconds_count",
        "zonebreak_proxies{state=\"synced\"} 1",
        "zonebreak_zone_shift_ratio{zone=\"az-a\"} 0",
        "zonebreak_zone_endpoints{state=\"serving\",zone=\"az-a\"} 2",
        "zonebreak_config_reloads_total{outcome=\"taken\"} 0",
        "zonebreak_config_reload_timestamp_seconds ",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("zonebreak_etcd_connected"), "there is no etcd to be connected to");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_clients_find_health_and_the_services() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };

    let lab = Lab::new().unwrap();
    let plane = on_file(&lab, TOPOLOGY).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", plane.xds()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    for service in ["", "envoy.service.discovery.v3.AggregatedDiscoveryService"] {
        // Said by a task of its own, so a moment after the health port says it.
        until("gRPC health", super::LIMIT, async || {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
            if answer.status() == ServingStatus::Serving {
                Ok(())
            } else {
                Err(format!("{service:?}: {answer:?}"))
            }
        })
        .await
        .unwrap();
    }
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(list))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else { panic!("{answer:?}") };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"envoy.service.discovery.v3.AggregatedDiscoveryService"), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
}
