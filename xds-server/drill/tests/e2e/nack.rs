//! What a proxy refuses: it goes on with what it has, and the control plane says who refused what and why.

use std::time::Instant;

use serde_json::{Value, json};
use zonebreak_drill::{
    lab::until,
    world::{Protocol, SERVICE, SOON, World, WorldOptions},
};

use crate::support::{cli, etcd, in_sync, no_failure, put, ran, steady, turn, words};

const RATE: f64 = 200.0;

/// The one proxy as the admin interface shows it.
async fn proxy(world: &World) -> Value {
    let proxies: Value = world.plane.admin().json("/proxies").await.unwrap();
    proxies[0].clone()
}

async fn until_state(world: &World, state: &str) -> Value {
    until(&format!("the proxy {state}"), SOON, async || match proxy(world).await {
        proxy if proxy["state"] == state => Ok(proxy),
        other => Err(other.to_string()),
    })
    .await
    .unwrap()
}

/// A module that is not where the proxy looks for it. The server cannot know that; the proxy says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_the_proxy_cannot_load_is_a_nack_and_the_old_one_goes_on() {
    let _turn = turn().await;
    let config = "filter: { deliver: bytes }\n";
    let world =
        World::start(WorldOptions { config: Some(config.to_owned()), ..Default::default() }).await.unwrap();
    let load = world.load(RATE).unwrap();
    steady(&world, &load, RATE).await;
    let began = Instant::now();
    let missing = world.lab.path().join("nobody-put-it-here.wasm");
    world.plane.write_config(&format!("filter: {{ deliver: path, path: {} }}\n", missing.display())).unwrap();

    let proxy = until_state(&world, "nacked").await;
    let nack = &proxy["types"]["ECDS"]["nack"];
    assert!(nack["message"].as_str().is_some_and(|m| m.contains("nobody-put-it-here.wasm")), "{proxy}");
    let table = cli(&world.plane, &["proxies"]).await;
    assert!(table.out.contains("NACKED") && table.out.contains("envoy-az-a"), "{table:?}");
    let why = cli(&world.plane, &["topology", "why", SERVICE, "--proxy", "envoy-az-a"]).await;
    assert!(why.out.contains("has NOT acknowledged") && why.out.contains("REFUSED ECDS"), "{why:?}");
    let told = cli(&world.plane, &["proxies", "envoy-az-a"]).await;
    assert!(told.out.contains("nobody-put-it-here.wasm"), "the proxy's own words: {told:?}");

    // It is not sent again and again, and the old module works on.
    let rejected = async || {
        let stats = world
            .envoy
            .stats("extension_config_discovery.*zonebreak\\..*(config_fail|update_rejected)$")
            .await;
        stats.unwrap().values().sum::<u64>()
    };
    let once = rejected().await;
    assert!(once > 0, "Envoy counts no refusal");
    ran(&load, Instant::now(), RATE as usize * 3).await;
    assert_eq!(rejected().await, once, "the same thing was sent again");
    let counts = |stats: std::collections::BTreeMap<String, u64>| stats.values().sum::<u64>();
    let attempts = counts(world.envoy.stats("zonebreak_attempts_total;").await.unwrap());
    ran(&load, Instant::now(), RATE as usize).await;
    assert!(
        counts(world.envoy.stats("zonebreak_attempts_total;").await.unwrap()) > attempts,
        "the old module is gone"
    );
    // Drains travel with the module, so the command says that this proxy has not taken it.
    let drain = ["zone", "drain", "az-b", "--for", "5m", "--reason", "e2e", "--timeout", "5m"];
    let said = words(&world.plane, &drain).await;
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("1 proxy rejected it"), "{said:?}");

    // The mistake undone, all is well, the drain included.
    world.plane.write_config(config).unwrap();
    until_state(&world, "synced").await;
    world.until_zone("az-b", SOON, |zone| zone.state == 4).await.unwrap();
    no_failure(&load, began, "a module that is not there");
}

/// More services than the filter has room for, which it would refuse whole: those it has room for are sent, the rest is named.
#[tokio::test(flavor = "multi_thread")]
async fn more_services_than_the_filter_has_room_for_cost_no_other_its_breaker() {
    const ROOM: usize = 256;
    let _turn = turn().await;
    let world = World::start(WorldOptions::default()).await.unwrap();
    let load = world.load(RATE).unwrap();
    steady(&world, &load, RATE).await;
    let began = Instant::now();
    let backend = world.backends.zone("az-a").backends()[0].address();
    let port = world.listener.port();
    let mut client = etcd(&world).await;
    let mut puts = Vec::new();
    for n in 0..ROOM {
        let service = format!("svc-{n:03}");
        let endpoint =
            json!({"address": backend.ip().to_string(), "port": backend.port(), "zone": "az-a"}).to_string();
        let policy = json!({"port": port}).to_string();
        puts.push(etcd_client::TxnOp::put(format!("/zonebreak/v1/services/{service}"), policy, None));
        puts.push(etcd_client::TxnOp::put(format!("/zonebreak/v1/endpoints/{service}/one"), endpoint, None));
    }
    // etcd takes 128 operations in one transaction.
    for batch in puts.chunks(128) {
        client.txn(etcd_client::Txn::new().and_then(batch.to_vec())).await.unwrap();
    }

    until("the problem named", SOON, async || {
        let status = words(&world.plane, &["status"]).await;
        if status.out.contains("257 services have endpoints") { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await
    .unwrap();
    // All of it arrives, the breaker of the first service included.
    let proxy = until_state(&world, "synced").await;
    assert!(proxy["types"]["ECDS"]["nack"].is_null(), "{proxy}");
    world.zone("az-a").await.unwrap();
    ran(&load, Instant::now(), RATE as usize).await;

    let end = etcd_client::DeleteOptions::new().with_prefix();
    client.delete("/zonebreak/v1/services/svc-255", None).await.unwrap();
    client.delete("/zonebreak/v1/endpoints/svc-255/", Some(end)).await.unwrap();
    until("the problem gone", SOON, async || {
        let status = words(&world.plane, &["status"]).await;
        let gone = status.code == 0 && !status.out.contains("services have endpoints");
        if gone { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await
    .unwrap();
    no_failure(&load, began, "more services than there is room for");
}

/// Three proxies, and a module that none could load: the first that gets it refuses it, another of its zone is asked and refuses it
/// as well, and the third is never given it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_first_two_proxies_refuse_the_third_never_sees() {
    let _turn = turn().await;
    let config = "filter: { deliver: bytes }\n";
    let world =
        World::start(WorldOptions { config: Some(config.to_owned()), ..Default::default() }).await.unwrap();
    let _second = world.another_envoy("second", "az-a", Protocol::Delta).await.unwrap();
    in_sync(&world.plane, 2).await;
    let third = world.another_envoy("third", "az-b", Protocol::Delta).await.unwrap();
    in_sync(&world.plane, 3).await;
    let missing = world.lab.path().join("nobody-put-it-here.wasm");
    world.plane.write_config(&format!("filter: {{ deliver: path, path: {} }}\n", missing.display())).unwrap();

    let quarantine = async || -> Value { world.plane.admin().json("/quarantine").await.unwrap() };
    let withheld = until("the module in quarantine", SOON, async || match quarantine().await {
        rows if rows[0]["type"] == "ECDS" => Ok(rows),
        other => Err(other.to_string()),
    })
    .await
    .unwrap();
    assert_eq!(withheld[0]["node"], "envoy-az-a", "{withheld}");
    assert!(withheld[0]["message"].as_str().unwrap().contains("nobody-put-it-here.wasm"), "{withheld}");
    // Everybody has the last good one, which is what they should have.
    in_sync(&world.plane, 3).await;
    let third_refused_nothing = async || {
        let refused = "extension_config_discovery.*(config_fail|update_rejected)$";
        let refused = third.stats(refused).await.unwrap();
        assert!(!refused.is_empty() && refused.values().all(|count| *count == 0), "{refused:?}");
    };
    third_refused_nothing().await;

    let why = cli(&world.plane, &["topology", "why", SERVICE, "--proxy", "third-az-b"]).await;
    assert!(why.out.contains("in quarantine: ECDS zonebreak of change"), "{why:?}");

    // An instance that turns unhealthy and a drain are in the same configuration. They reach the filters in the last good one, and
    // let nothing out.
    let before = filter_of(&world, "third-az-b").await;
    let topology: Value = world.plane.admin().json("/topology").await.unwrap();
    let instance = topology["endpoints"][SERVICE].as_object().unwrap().keys().next().unwrap().clone();
    let health = json!({"state": "unhealthy", "since": "2026-01-01T00:00:00Z", "evidence": "e2e"});
    put(&world, &format!("health/{SERVICE}/{instance}"), &health.to_string()).await;
    until("the capacities in the third filter", SOON, async || match filter_of(&world, "third-az-b").await {
        now if now != before && now.is_string() => Ok(()),
        other => Err(other.to_string()),
    })
    .await
    .unwrap();
    in_sync(&world.plane, 3).await;
    let drain = ["zone", "drain", "az-c", "--for", "5m", "--reason", "e2e"];
    assert_eq!(cli(&world.plane, &drain).await.code, 0, "every proxy takes it");
    world.until_zone("az-c", SOON, |zone| zone.state == 4).await.unwrap();
    cli(&world.plane, &["zone", "restore", "az-c"]).await;
    world.until_zone("az-c", SOON, |zone| zone.state != 4).await.unwrap();
    assert_eq!(quarantine().await, withheld);
    third_refused_nothing().await;
    let told = cli(&world.plane, &["proxies"]).await;
    assert!(told.out.contains("QUARANTINE") && told.out.contains("nobody-put-it-here.wasm"), "{told:?}");

    // Mended, it is tried anew.
    world.plane.write_config(config).unwrap();
    until("nothing in quarantine", SOON, async || match quarantine().await {
        rows if rows == json!([]) => Ok(()),
        other => Err(other.to_string()),
    })
    .await
    .unwrap();
    in_sync(&world.plane, 3).await;
}

/// The version of the filter's configuration that a proxy has acknowledged.
async fn filter_of(world: &World, proxy: &str) -> Value {
    let proxies: Value = world.plane.admin().json("/proxies").await.unwrap();
    let mut found = proxies.as_array().into_iter().flatten().filter(|row| row["id"] == proxy);
    found.next().map_or(Value::Null, |row| row["types"]["ECDS"]["acked"].clone())
}

/// Three proxies, and a change over which those die that are given it: the first, the one of its zone that is asked next, and
/// never the third.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_two_proxies_die_over_the_third_never_sees() {
    let _turn = turn().await;
    // In that time each must be seen to be waited for and die, after which it is waited for until the time is over.
    let config = "waves: { timeout: 8s }\n".to_owned();
    let mut world = World::start(WorldOptions { config: Some(config), ..Default::default() }).await.unwrap();
    let mut second = world.another_envoy("second", "az-a", Protocol::Delta).await.unwrap();
    in_sync(&world.plane, 2).await;
    let _third = world.another_envoy("third", "az-b", Protocol::Delta).await.unwrap();
    in_sync(&world.plane, 3).await;
    let before = filter_of(&world, "third-az-b").await;
    // They do not get to answer what they are given.
    for process in [world.envoy.process(), second.process()] {
        process.signal(libc::SIGSTOP).unwrap();
    }
    let topology: Value = world.plane.admin().json("/topology").await.unwrap();
    let mut policy = topology["services"][SERVICE].clone();
    policy["timeout"] = json!("7s");
    put(&world, &format!("services/{SERVICE}"), &policy.to_string()).await;
    let admin = world.plane.admin().clone();
    let asked = async |who: &str| {
        until(&format!("the change with {who}"), SOON, async || {
            let status: Value = admin.json("/status").await.map_err(|e| e.to_string())?;
            if status["trial"]["waiting_for"] == json!([who]) {
                Ok(())
            } else {
                Err(status["trial"].to_string())
            }
        })
        .await
        .unwrap();
    };
    asked("envoy-az-a").await;
    world.envoy.process().kill();
    asked("second-az-a").await;
    second.process().kill();
    let withheld = until("the change in quarantine", SOON, async || {
        let rows: Value = world.plane.admin().json("/quarantine").await.map_err(|e| e.to_string())?;
        if rows[0].is_object() { Ok(rows) } else { Err(rows.to_string()) }
    })
    .await
    .unwrap();
    let rows = withheld.as_array().unwrap();
    let kinds: Vec<&str> = rows.iter().filter_map(|row| row["type"].as_str()).collect();
    assert!(kinds.contains(&"RDS") && kinds.contains(&"ECDS"), "{withheld}");
    for row in rows {
        assert_eq!(row["node"], "envoy-az-a, second-az-a", "{withheld}");
        assert_eq!(row["message"], "2 of 2 proxies went away after it was sent", "{withheld}");
    }
    in_sync(&world.plane, 1).await;
    assert_eq!(filter_of(&world, "third-az-b").await, before);
}
