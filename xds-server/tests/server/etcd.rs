//! `serve --etcd`, `register`, `topology` and `zone` against a real etcd.

use std::net::SocketAddr;

use serde_json::{Value, json};
use zonebreak_drill::lab::{Etcd, Lab, Plane, PlaneOptions, Registration, RegistrationOptions, until};

use super::{LIMIT, admin_says, health, proxy::Proxy, told};

const TOPOLOGY: &str = "\
zones:
  az-a: {region: eu}
  az-b: {region: eu}
services:
  order-svc: {port: 8080, mode: eventual}
endpoints:
  order-svc:
    a1: {address: 10.0.0.1, port: 80, zone: az-a}
    b1: {address: 10.0.1.1, port: 80, zone: az-b}
";

/// An etcd with the topology above, and a server on it.
struct World {
    plane: Plane,
    etcd: Etcd,
    lab: Lab,
}

// === impl World ===

impl World {
    async fn new() -> Self {
        let lab = Lab::new().unwrap();
        let etcd = Etcd::start(&lab).await.unwrap();
        let options = PlaneOptions { etcd: Some(etcd.url()), filter: false, ..PlaneOptions::default() };
        let plane = Plane::spawn(&lab, options).await.unwrap();
        let world = Self { plane, etcd, lab };
        world.lab.write("topology.yaml", TOPOLOGY).unwrap();
        let (code, _, err) = world.cli(&["topology", "apply", "topology.yaml"]).await;
        assert_eq!(code, 0, "{err}");
        admin_says(&world.plane, "/status", |status| {
            status["services"][0]["endpoints"] == json!({"az-a": 1, "az-b": 1})
        })
        .await;
        world
    }

    async fn cli(&self, args: &[&str]) -> (i32, String, String) {
        told(&self.plane.cli(args).await.unwrap())
    }

    /// A connected proxy in az-a that has everything and follows on.
    async fn follower(&self, id: &str) -> tokio::task::JoinHandle<Option<tonic::Status>> {
        let mut proxy = Proxy::connect(self.plane.xds(), id, "az-a").await;
        proxy.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
        proxy.run()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_zone_is_told_wherever_it_is_met() {
    let world = World::new().await;
    let typed = "services:\n  pay-svc: {mode: eventual, weights: {az-a: 80, az-x: 20}}\n";
    world.lab.write("typed.yaml", typed).unwrap();
    let warning = "warning: zone \"az-x\" named by policy pay-svc (weights) has no endpoints and is not declared; did you \
                   mean \"az-a\" or \"az-b\"?\n";
    for args in [
        &["topology", "apply", "typed.yaml", "--dry-run", "-o", "json"][..],
        &["topology", "apply", "typed.yaml", "-o", "json"],
        &["topology", "diff", "typed.yaml", "-o", "json"],
        &["zone", "ls", "-o", "json"],
    ] {
        let (code, out, err) = world.cli(args).await;
        assert!(code == 0 && err.starts_with(warning), "{args:?}: {code} {err}");
        assert!(serde_json::from_str::<Value>(&out).is_ok(), "{args:?}: {out}");
    }
    admin_says(&world.plane, "/status", |status| status["strangers"][0]["zone"] == "az-x").await;
    let (code, out, err) = world.cli(&["status", "-o", "json"]).await;
    assert_eq!((code, err.as_str()), (0, warning));
    assert_eq!(
        serde_json::from_str::<Value>(&out).unwrap()["strangers"][0]["named_by"],
        "policy pay-svc (weights)"
    );

    // A drain of it is refused.
    let (code, _, err) = world.cli(&["zone", "drain", "az-bb", "--for", "5m", "--reason", "r"]).await;
    assert!(code == 5 && err.contains("known are az-a, az-b; did you mean \"az-b\"?"), "{code} {err}");

    let options = RegistrationOptions {
        service: "order-svc".to_owned(),
        zone: "az-c".to_owned(),
        region: "eu".to_owned(),
        address: SocketAddr::from(([10, 0, 2, 1], 80)),
        etcd: world.etcd.url(),
        args: Vec::new(),
    };
    let registration = Registration::start(&world.lab, &options).unwrap();
    until("a word about its zone", LIMIT, async || {
        let log = registration.log();
        if log.contains("zone \"az-c\" named by endpoint order-svc/10.0.2.1:80 is not declared") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_done_when_every_proxy_has_it() {
    let world = World::new().await;
    let followers = [world.follower("one").await, world.follower("two").await];
    let drain = [
        "zone",
        "drain",
        "az-a",
        "--for",
        "5m",
        "--reason",
        "switch maintenance",
        "--actor",
        "eve",
        "-o",
        "json",
    ];
    let (code, out, err) = world.cli(&drain).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("2 of 2 proxies on revision"), "{err}");
    let written: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&written["drain"]["zone"], &written["convergence"]["acked"]),
        (&json!("az-a"), &json!(2)),
        "{out}"
    );

    for etcd in [&[][..], &["--server", "http://127.0.0.1:9"]] {
        let (code, out, err) = world.cli(&[&["zone", "ls", "-o", "json"], etcd].concat()).await;
        let listed: Value = serde_json::from_str(&out).unwrap();
        let (zone, shift) = (&listed["zones"][0], &listed["shifts"][0]);
        assert_eq!(
            (code, &zone["state"], &zone["actor"], &shift["zone"], &shift["service"]),
            (0, &json!("drained"), &json!("eve"), &json!("az-a"), &Value::Null),
            "{out}{err}"
        );
    }
    let (_, metrics) = health(&world.plane).get("/metrics").await.unwrap();
    assert!(metrics.contains("zonebreak_zone_shift_ratio{zone=\"az-a\"} 1"), "{metrics}");
    assert!(metrics.contains("zonebreak_etcd_connected 1"), "{metrics}");

    let (code, _, err) = world.cli(&["zone", "drain", "az-b", "--for", "5m", "--reason", "also"]).await;
    assert_eq!(code, 5, "one at a time: {err}");
    assert!(err.contains("switch maintenance") && err.contains("eve"), "{err}");
    let (code, _, err) = world.cli(&["zone", "extend", "az-a", "--by", "10m"]).await;
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = world.cli(&["zone", "restore", "az-a"]).await;
    assert_eq!(code, 0, "{err}");
    let (_, out, _) = world.cli(&["zone", "ls"]).await;
    assert!(!out.contains("drained"), "{out}");
    let (code, _, err) = world.cli(&["zone", "restore", "az-a"]).await;
    assert_eq!(code, 5, "there is nothing to restore: {err}");
    followers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn guards_say_why_not() {
    let world = World::new().await;
    for (args, code, says) in [
        (&["az-x", "--reason", "x"][..], 5, "az-a"),
        (&["az-a", "--reason", " "], 2, "reason"),
        (&["az-a", "--reason", "x", "--keep", "100"], 2, "100 %"),
        (&["az-a", "--reason", "x", "--service", "no-svc"], 5, "order-svc"),
    ] {
        let (found, out, err) = world.cli(&[&["zone", "drain", "--for", "5m"], args].concat()).await;
        assert_eq!((found, out.as_str()), (code, ""), "{args:?}: {err}");
        assert!(err.contains(says), "{args:?}: {err}");
    }
    let alone = TOPOLOGY.replace("    b1: {address: 10.0.1.1, port: 80, zone: az-b}\n", "");
    world.lab.write("alone.yaml", &alone).unwrap();
    let (code, _, err) = world.cli(&["topology", "apply", "alone.yaml", "--prune"]).await;
    assert_eq!(code, 0, "{err}");
    let (code, _, err) =
        world.cli(&["zone", "drain", "az-a", "--for", "5m", "--reason", "x", "--no-wait"]).await;
    assert_eq!(code, 5, "the last zone with capacity: {err}");
    assert!(err.contains("order-svc"), "{err}");
    let forced = ["zone", "drain", "az-a", "--for", "5m", "--reason", "x", "--no-wait", "--force"];
    let (code, _, err) = world.cli(&forced).await;
    assert_eq!(code, 0, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_confirms_is_said_to_be_written_and_no_more() {
    let world = World::new().await;
    let drain = ["zone", "drain", "az-a", "--for", "5m", "--reason", "x"];
    let nobody = ["--server", "http://127.0.0.1:9", "--timeout", "1s"];
    let (code, _, err) = world.cli(&[&drain[..], &nobody].concat()).await;
    assert_eq!(code, 4, "it is written: {err}");
    assert!(err.contains("written at revision") && err.contains("not confirmed"), "{err}");
    assert_eq!(err.matches("failed to reach the server").count(), 1, "{err}");
    let (code, _, err) = world.cli(&[&drain[..], &["--server", "ftp://a"]].concat()).await;
    assert_eq!(code, 2, "before anything is written: {err}");
    let (code, _, err) = world.cli(&["zone", "restore", "az-a"]).await;
    assert!(code == 0 && err.contains("no proxy is connected"), "{code} {err}");

    let mut stubborn = Proxy::connect(world.plane.xds(), "stubborn", "az-a").await;
    stubborn.until("its endpoints", |proxy| !proxy.endpoints.is_empty()).await;
    stubborn.refuse = Some("no".to_owned());
    let following = stubborn.run();
    // Everybody has answered, so the command does not wait for its time to be up.
    let (code, _, err) = world.cli(&[&drain[..], &["--timeout", "5m"]].concat()).await;
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("1 proxy rejected it") && err.contains("zonebreak proxies"), "{err}");
    following.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_comes_and_goes_with_its_process() {
    let world = World::new().await;
    let options = RegistrationOptions {
        service: "order-svc".to_owned(),
        zone: "az-b".to_owned(),
        region: "eu".to_owned(),
        address: SocketAddr::from(([10, 0, 1, 2], 8080)),
        etcd: world.etcd.url(),
        args: ["--ttl", "2s", "--weight", "3", "--label", "rack=7"].map(str::to_owned).to_vec(),
    };
    let mut registration = Registration::start(&world.lab, &options).unwrap();
    let path = "/topology";
    let seen = admin_says(&world.plane, path, |seen| {
        seen["endpoints"]["order-svc"].as_object().is_some_and(|all| all.len() == 3)
    });
    let topology = seen.await;
    let all = topology["endpoints"]["order-svc"].as_object().unwrap();
    let new = all.values().find(|endpoint| endpoint["address"] == "10.0.1.2").unwrap();
    assert_eq!(
        (&new["weight"], &new["labels"]["rack"], &new["zone"]),
        (&json!(3), &json!("7"), &json!("az-b"))
    );

    let status = registration.terminate(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", registration.process().log());
    admin_says(&world.plane, path, |seen| {
        seen["endpoints"]["order-svc"].as_object().is_some_and(|all| all.len() == 2)
    })
    .await;
    let log = registration.process().log();
    assert!(log.contains("registered") && log.contains("deregistered"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_diff_and_get_agree() {
    let world = World::new().await;
    let (code, out, err) = world.cli(&["topology", "diff", "topology.yaml"]).await;
    assert_eq!(code, 0, "nothing differs: {out}{err}");
    let changed = TOPOLOGY
        .replace("mode: eventual", "mode: strong")
        .replace("  az-b: {region: eu}\n", "  az-b: {region: us}\n  az-c: {}\n");
    world.lab.write("changed.yaml", &changed).unwrap();
    let (code, out, _) = world.cli(&["topology", "diff", "changed.yaml"]).await;
    assert_eq!(code, 3, "{out}");
    for key in ["zones/az-b", "zones/az-c", "services/order-svc"] {
        assert!(out.contains(key), "{out}");
    }
    let (code, out, err) = world.cli(&["topology", "apply", "changed.yaml", "--dry-run"]).await;
    assert!(code == 0 && out.contains("zones/az-c"), "{out}{err}");
    assert_eq!(world.cli(&["topology", "diff", "changed.yaml"]).await.0, 3, "a dry run writes nothing");
    assert_eq!(world.cli(&["topology", "apply", "changed.yaml"]).await.0, 0);
    assert_eq!(world.cli(&["topology", "diff", "changed.yaml"]).await.0, 0);

    let (code, got, err) = world.cli(&["topology", "get", "--endpoints"]).await;
    assert_eq!(code, 0, "{err}");
    world.lab.write("got.yaml", &got).unwrap();
    let (code, out, _) = world.cli(&["topology", "diff", "got.yaml"]).await;
    assert_eq!(code, 0, "what get prints is what is there: {out}");
    let (code, got, err) = world.cli(&["topology", "get", "--endpoints", "-o", "json"]).await;
    assert_eq!(code, 0, "{err}");
    serde_json::from_str::<Value>(&got).unwrap();
    world.lab.write("got.json", &got).unwrap();
    let (code, out, _) = world.cli(&["topology", "diff", "got.json"]).await;
    assert_eq!(code, 0, "and so it is in JSON: {out}");

    world.lab.write("bad.yaml", "zones:\n  az-a: {capacity: 0}\nservices:\n  s: {mode: fast}\n").unwrap();
    let (code, _, err) = world.cli(&["topology", "apply", "bad.yaml"]).await;
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("bad.yaml:2:") && err.contains("bad.yaml:4:"), "every error is listed: {err}");
    let (code, _, err) = world.cli(&["topology", "apply", "missing.yaml"]).await;
    assert!(code == 2 && err.contains("missing.yaml"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_state_outlives_etcd_and_a_server_that_lost_it_says_so() {
    let mut world = World::new().await;
    let follower = world.follower("one").await;
    world.etcd.kill();
    let status = admin_says(&world.plane, "/status", |status| status["source"]["connected"] == false).await;
    assert_eq!(status["services"][0]["endpoints"], json!({"az-a": 1, "az-b": 1}));
    let (ready, body) = health(&world.plane).get("/readyz?verbose").await.unwrap();
    assert_eq!(ready, 200, "proxies are served: {body}");
    assert!(body.contains("[~]etcd degraded"), "{body}");
    let mut newcomer = Proxy::connect(world.plane.xds(), "newcomer", "az-b").await;
    newcomer.until("the last good state", |proxy| !proxy.endpoints.is_empty()).await;

    world.etcd.restart().await.unwrap();
    admin_says(&world.plane, "/status", |status| status["source"]["connected"] == true).await;
    world
        .lab
        .write("more.yaml", &format!("{TOPOLOGY}    b2: {{address: 10.0.1.2, port: 80, zone: az-b}}\n"))
        .unwrap();
    let (code, _, err) = world.cli(&["topology", "apply", "more.yaml"]).await;
    assert_eq!(code, 0, "{err}");
    newcomer.until("news from etcd", |proxy| proxy.by_zone()["order-svc"]["az-b"].1 == 2).await;
    let log = world.plane.process().log();
    assert!(
        log.contains("\"action\":\"source_lost\"") && log.contains("\"action\":\"source_restored\""),
        "{log}"
    );
    assert!(!follower.is_finished(), "its stream never broke");
    follower.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_value_in_etcd_is_refused_alone() {
    let world = World::new().await;
    let mut etcd = etcd_client::Client::connect([world.etcd.url()], None).await.unwrap();
    etcd.put("/zonebreak/v1/services/order-svc", "{\n  \"mode\": \"fast\"}", None).await.unwrap();
    let problems =
        admin_says(&world.plane, "/problems", |seen| seen.as_array().is_some_and(|all| !all.is_empty()))
            .await;
    assert_eq!(
        (&problems[0]["key"], &problems[0]["line"]),
        (&json!("services/order-svc"), &json!(2)),
        "{problems}"
    );
    let status = admin_says(&world.plane, "/status", |_| true).await;
    assert_eq!(status["services"][0]["mode"], "eventual", "the last good value stays");
    let (_, out, _) = world.cli(&["status"]).await;
    assert!(out.contains("1 refused:") && out.contains("services/order-svc:2:"), "{out}");
    etcd.put("/zonebreak/v1/services/order-svc", "{\"mode\": \"strong\"}", None).await.unwrap();
    admin_says(&world.plane, "/status", |status| {
        status["problems"] == json!([]) && status["services"][0]["mode"] == "strong"
    })
    .await;
    until("the metric", LIMIT, async || {
        let (_, metrics) = health(&world.plane).get("/metrics").await.map_err(|error| error.to_string())?;
        if metrics.contains("zonebreak_topology_problems 0") { Ok(()) } else { Err(metrics) }
    })
    .await
    .unwrap();
}
