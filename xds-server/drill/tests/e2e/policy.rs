//! What an operator writes about a service, and that the running filter does it: changed under load, wrong, or in another
//! mode.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zonebreak_drill::{
    lab::{Fault, until},
    world::{SOON, World, WorldOptions},
};

use crate::support::{Calm, cli, judged, left_after, no_failure, put, ran, steady, turn};

const RATE: f64 = 200.0;

/// Stats of Envoy that move when a listener is drained, replaced or updated, or a client's connection is closed for it.
const LISTENER: &str = "^listener_manager\\.(listener_(added|modified|removed|stopped|in_place_updated)|\
                        total_listeners_draining)$|downstream_cx_(destroy|drain_close)$";

/// A policy changes in etcd; the running filter takes it, no listener is drained, no connection closed, no request lost.
#[tokio::test(flavor = "multi_thread")]
async fn policy_change_under_load() {
    let _turn = turn().await;
    let mut world = World::start(WorldOptions::default()).await.unwrap();
    let load = world.load(RATE).unwrap();
    steady(&world, &load, RATE).await;
    let port = world.listener.port();
    let only_ours = |stats: std::collections::BTreeMap<String, u64>| -> Vec<_> {
        let ours =
            |name: &str| name.starts_with("listener_manager") || name.contains(&format!("zonebreak_{port}."));
        stats.into_iter().filter(|(name, _)| ours(name)).collect()
    };
    let before = only_ours(world.envoy.stats(LISTENER).await.unwrap());
    assert!(before.len() >= 8, "these stats are not what they used to be: {before:?}");
    let began = Instant::now();
    for (home, limit) in [(10, 0.0..25.0), (80, 70.0..90.0), (34, 25.0..45.0), (80, 70.0..90.0)] {
        let weights = json!({"az-a": home, "az-b": 100 - home, "az-c": 100 - home});
        let weights = if home == 34 { json!({"az-a": 1, "az-b": 1, "az-c": 1}) } else { halved(weights) };
        world.change_policy(json!({"weights": weights})).await.unwrap();
        until(&format!("{home} % at home"), SOON, async || {
            let share = load.recent(Duration::from_secs(1)).share_percent("az-a");
            if limit.contains(&share) { Ok(()) } else { Err(format!("{share:.0} %")) }
        })
        .await
        .unwrap();
    }
    // A change of another kind: what counts as broken.
    world.change_policy(json!({"breaker": {"enforcement": "disabled"}})).await.unwrap();
    world.until_zone("az-a", SOON, |zone| zone.state == 6).await.unwrap();
    no_failure(&load, began, "five changes of the policy");
    assert_eq!(only_ours(world.envoy.stats(LISTENER).await.unwrap()), before, "a listener was touched");
}

/// Remote weights that share what home leaves.
fn halved(mut weights: Value) -> Value {
    for zone in ["az-b", "az-c"] {
        weights[zone] = json!(weights[zone].as_u64().unwrap() / 2);
    }
    weights
}

/// Somebody writes nonsense straight into etcd: the old policy stays in force, and whoever asks is told where the error is.
#[tokio::test(flavor = "multi_thread")]
async fn bad_policy_in_etcd() {
    let _turn = turn().await;
    let world = World::start(WorldOptions::default()).await.unwrap();
    let load = world.load(RATE).unwrap();
    steady(&world, &load, RATE).await;
    let began = Instant::now();
    let port = world.listener.port();
    // Not JSON; not a policy; a policy that cannot be meant.
    let bad = [
        ("{\n  \"mode\": \"eventual\",\n  \"port\": }".to_owned(), Some(3), "port"),
        (format!("{{\n  \"port\": {port},\n  \"mode\": \"sometimes\"\n}}"), Some(3), "sometimes"),
        (format!("{{\n  \"port\": {port},\n  \"wieghts\": {{}}\n}}"), Some(3), "wieghts"),
        (format!("{{\n  \"port\": {port},\n  \"retry\": {{\"attempts\": 9}}\n}}"), None, "retry.attempts"),
    ];
    for (value, line, says) in bad {
        put(&world, "services/order-svc", &value).await;
        let problem = until("the problem told", SOON, async || {
            let problems: Value = world.plane.admin().json("/problems").await.map_err(|e| e.to_string())?;
            let found =
                problems.as_array().and_then(|all| all.iter().find(|p| p["key"] == "services/order-svc"));
            match found {
                Some(problem) if says == "port" || problem.to_string().contains(says) => Ok(problem.clone()),
                _ => Err(problems.to_string()),
            }
        })
        .await
        .unwrap();
        assert_eq!(problem["kept"], true, "the old one stays: {problem}");
        assert!(problem["revision"].as_i64().unwrap() > 0, "{problem}");
        if line.is_some() {
            assert_eq!(problem["line"].as_u64(), line, "{problem}");
            assert!(problem["column"].as_u64().is_some_and(|column| column > 0), "{problem}");
        }
        let status = cli(&world.plane, &["status"]).await;
        assert!(status.out.contains("services/order-svc"), "{status:?}");
        let ready: (u16, String) = zonebreak_drill::lab::Http::new(world.plane.health_url())
            .unwrap()
            .get("/readyz?verbose")
            .await
            .unwrap();
        assert!(
            ready.0 == 200 && ready.1.contains("services/order-svc"),
            "named, and no reason to stop: {ready:?}"
        );
    }
    // The old one is in force: shares, and everything else.
    ran(&load, Instant::now(), RATE as usize * 2).await;
    let share = load.recent(Duration::from_secs(2)).share_percent("az-a");
    assert!((70.0..90.0).contains(&share), "{share:.0} % at home");
    no_failure(&load, began, "four bad policies");

    // A good one heals it.
    let good = json!({"mode": "strong", "port": port}).to_string();
    put(&world, "services/order-svc", &good).await;
    until("everything at home", SOON, async || {
        let share = load.recent(Duration::from_secs(1)).share_percent("az-a");
        if share == 100.0 { Ok(()) } else { Err(format!("{share:.0} %")) }
    })
    .await
    .unwrap();
    let problems: Value = world.plane.admin().json("/problems").await.unwrap();
    assert_eq!(problems, json!([]));
}

/// Everything at home, and nothing to compare with: the zone is still left when it breaks, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn strong_mode() {
    judged(async || {
        let mut world =
            World::start(WorldOptions { policy: json!({"mode": "strong"}), ..Default::default() })
                .await
                .unwrap();
        let load = world.load(RATE).unwrap();
        let calm = Calm::begin(&mut world);
        steady(&world, &load, RATE).await;
        let [b, c] = ["az-b", "az-c"].map(|zone| world.backends.zone(zone).requests());
        let log = world.envoy.process().log();
        calm.promise((b, c) == (0, 0), || {
            format!("{b} and {c} requests left the zone while it was well: {log}")
        })?;

        let calm = Calm::begin(&mut world);
        let onset = Instant::now();
        world.backends.zone("az-a").set_fault(Fault::HARD);
        let left = left_after(&world, "az-a", onset, SOON).await;
        calm.left_within(Duration::from_millis(500), left)?;
        let after = Instant::now();
        ran(&load, after, RATE as usize).await;
        for zone in ["az-b", "az-c"] {
            let share = load.summary(after, Instant::now()).share_percent(zone);
            assert!((30.0..70.0).contains(&share), "{zone} takes over {share:.0} %, half was expected");
        }
        let lost = load.summary(onset, Instant::now()).total.failed;
        calm.lost_at_most(3, lost)
    })
    .await;
}

/// What gobreaker's users know: five in a row open it, whatever the others do; trials after `open`; back in a ramp.
#[tokio::test(flavor = "multi_thread")]
async fn consecutive_detector() {
    judged(async || {
        let breaker =
            json!({"detector": "consecutive", "consecutive_failures": 5, "open": "3s", "ramp": "3s"});
        let policy = json!({"mode": "eventual", "breaker": breaker});
        let mut world = World::start(WorldOptions { policy, ..Default::default() }).await.unwrap();
        let load = world.load(RATE).unwrap();
        Calm::untouched(steady(&world, &load, RATE).await)?;

        let calm = Calm::begin(&mut world);
        let onset = Instant::now();
        world.backends.zone("az-a").set_fault(Fault::HARD);
        let left = left_after(&world, "az-a", onset, SOON).await;
        // Five failures at 160 requests a second in that zone come in 31 ms; it does not wait for a tick.
        calm.left_within(Duration::from_millis(250), left)?;
        let failures = "wasmcustom.zonebreak_attempts_total;service=order-svc;zone=az-a;result=fail";
        let failed = world.envoy.stat(failures).await.unwrap().unwrap_or_default();
        // The run itself, and what was under way when it was complete: no more than came before the zone was left.
        let under_way = (0.8 * RATE * left.unwrap_or_default().as_secs_f64()).ceil() as u64;
        calm.promise((5..=5 + under_way).contains(&failed), || {
            format!(
                "{failed} attempts failed, a run of 5 was to open it and {under_way} may have been under way"
            )
        })?;
        let log = world.envoy.process().log();
        assert!(log.contains("closed -> open (consecutive)"), "{log}");

        // Three seconds later (and 10 % of jitter) it is tried, and fails again.
        until("a trial that failed", SOON, async || match world.transitions("open").await.unwrap() {
            2.. => Ok(()),
            n => Err(format!("opened {n} times")),
        })
        .await
        .unwrap();
        let again = onset.elapsed();
        calm.promise((2.7..5.0).contains(&again.as_secs_f64()), || {
            format!("tried and left again after {again:?}")
        })?;
        world.backends.zone("az-a").set_fault(Fault::None);
        world.until_zone("az-a", 2 * SOON, |zone| zone.state == 0 && zone.keep == 1_000).await.unwrap();
        Ok(())
    })
    .await;
}
