//! What a running server takes from a changed configuration, and what it refuses.

use serde_json::json;
use zonebreak_drill::lab::{Lab, Plane, PlaneOptions, until};

use super::{LIMIT, admin_says, health};

const TOPOLOGY: &str =
    "zones: {az-a: {}}\nservices: {s: {}}\nendpoints: {s: {a: {address: 10.0.0.1, port: 80, zone: az-a}}}\n";
const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";
const EMPTY_MODULE_SHA256: &str = "93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476";
/// The same with an empty custom section.
const OTHER_MODULE: &[u8] = b"\0asm\x01\0\0\0\x00\x02\x01x";

async fn plane(lab: &Lab, config: &str) -> Plane {
    let (config, topology) = (Some(config.to_owned()), Some(TOPOLOGY.to_owned()));
    Plane::start(lab, PlaneOptions { config, topology, filter: false, ..PlaneOptions::default() })
        .await
        .unwrap()
}

async fn reload_ts(plane: &Plane) -> String {
    let summary: serde_json::Value = health(plane).json("/health").await.unwrap();
    summary["config_reload_ts"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_taken_and_a_bad_one_is_not() {
    let lab = Lab::new().unwrap();
    std::fs::write(lab.path().join("f.wasm"), EMPTY_MODULE).unwrap();
    let with = |sha: &str| format!("filter: {{file: f.wasm, sha256: {sha}}}\n");
    let plane = plane(&lab, "log: {level: info}\n").await;
    admin_says(&plane, "/status", |status| status["filter"].is_null()).await;
    let first = reload_ts(&plane).await;

    plane.write_config(&with(EMPTY_MODULE_SHA256)).unwrap();
    admin_says(&plane, "/status", |status| status["filter"]["sha256"] == EMPTY_MODULE_SHA256).await;
    let second = reload_ts(&plane).await;
    assert_ne!(first, second);

    plane.write_config(&with(&"0".repeat(64))).unwrap();
    let refused = "zonebreak_config_reloads_total{outcome=\"refused\"} 1";
    until("a refusal", LIMIT, async || {
        let (_, metrics) = health(&plane).get("/metrics").await.map_err(|error| error.to_string())?;
        if metrics.contains(refused) { Ok(()) } else { Err(metrics) }
    })
    .await
    .unwrap();
    admin_says(&plane, "/status", |status| status["filter"]["sha256"] == EMPTY_MODULE_SHA256).await;
    assert_eq!(reload_ts(&plane).await, second, "the old one stays, with its time");
    let mut plane = plane;
    let log = plane.process().log();
    assert!(log.contains(&"0".repeat(64)) && log.contains("\"action\":\"config_refused\""), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_module_in_the_same_place_is_noticed() {
    let lab = Lab::new().unwrap();
    std::fs::write(lab.path().join("f.wasm"), EMPTY_MODULE).unwrap();
    let plane = plane(&lab, "filter: {file: f.wasm}\n").await;
    admin_says(&plane, "/status", |status| status["filter"]["sha256"] == EMPTY_MODULE_SHA256).await;
    // A module that is still being copied is not taken.
    std::fs::write(lab.path().join("f.wasm"), &OTHER_MODULE[..10]).unwrap();
    until("a refusal", LIMIT, async || {
        let (_, metrics) = health(&plane).get("/metrics").await.map_err(|error| error.to_string())?;
        // More than one where it is looked at before all of that is written.
        let refused = metrics.lines().find_map(|line| line.split_once("outcome=\"refused\"} "));
        match refused.and_then(|(_, count)| count.parse::<u64>().ok()) {
            Some(1..) => Ok(()),
            _ => Err(metrics),
        }
    })
    .await
    .unwrap();
    admin_says(&plane, "/status", |status| status["filter"]["sha256"] == EMPTY_MODULE_SHA256).await;
    std::fs::write(lab.path().join("f.wasm"), OTHER_MODULE).unwrap();
    admin_says(&plane, "/status", |status| status["filter"]["sha256"] != EMPTY_MODULE_SHA256).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_everything_again_and_names_what_waits_for_a_restart() {
    let lab = Lab::new().unwrap();
    let mut plane = plane(&lab, "log: {level: info}\n").await;
    let first = reload_ts(&plane).await;
    plane.process().signal(libc_hangup()).unwrap();
    until("another reload_ts", LIMIT, async || {
        let now = reload_ts(&plane).await;
        if now == first { Err(now) } else { Ok(()) }
    })
    .await
    .unwrap();
    plane.write_config("log: {level: debug, format: json}\n").unwrap();
    until("a word on what waits", LIMIT, async || {
        let log = plane.process().log();
        if log.contains("log.format") { Ok(()) } else { Err(log) }
    })
    .await
    .unwrap();
}

/// SIGHUP, which is 1 wherever POSIX is (signal.h).
const fn libc_hangup() -> i32 {
    1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_topology_is_alive_and_not_ready() {
    let lab = Lab::new().unwrap();
    // Nothing listens on the discard port of loopback.
    let etcd = Some("http://127.0.0.1:9".to_owned());
    let options = PlaneOptions { etcd, filter: false, ..PlaneOptions::default() };
    let plane = Plane::spawn(&lab, options).await.unwrap();
    let http = health(&plane);
    assert_eq!(http.get("/livez").await.unwrap().0, 200);
    let (status, body) = http.get("/readyz").await.unwrap();
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("[-]topology failed: no topology was loaded yet"), "{body}");
    assert!(body.contains("[~]etcd degraded: no answer since"), "{body}");
    // Its health port opens before the port for proxies does.
    until("all the rest to be well", LIMIT, async || {
        match http.get("/readyz?exclude=topology").await.unwrap() {
            (200, _) => Ok(()),
            (_, body) => Err(body),
        }
    })
    .await
    .unwrap();
    let summary: serde_json::Value = serde_json::from_str(&http.get("/health").await.unwrap().1).unwrap();
    assert_eq!(summary["ready"], json!(false));
    let (_, metrics) = http.get("/metrics").await.unwrap();
    assert!(metrics.contains("zonebreak_etcd_connected 0"), "{metrics}");
    assert_eq!(plane.admin().get("/topology").await.unwrap().0, 503);
}
