//! An operator's word about a zone: exact, guarded, confirmed, and ended by its own clock.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zonebreak_drill::{
    lab::{Load, Registration, RegistrationOptions, Sample, until},
    world::{Protocol, REGION, SOON, World, WorldOptions, zone_gauges},
};

use crate::support::{Busy, Calm, cli, in_sync, judged, no_failure, ran, steady, turn, words};

/// Requests a second: many, so that shares are known soon.
const RATE: f64 = 400.0;

/// Requests that a share is measured over.
const COUNTED: usize = 3_000;

/// How far the share of a drained zone may be off, in percentage points. At a tenth of 3,000 requests that is more than five
/// standard deviations.
const OFF: f64 = 3.0;

/// The same for the other zones, whose shares are larger and vary more: five standard deviations again.
const OFF_ELSEWHERE: f64 = 5.0;

/// Even shares, so that what a zone gives away shows.
fn even() -> WorldOptions {
    let policy = json!({"mode": "eventual", "weights": {"az-a": 1, "az-b": 1, "az-c": 1}});
    WorldOptions { policy, ..Default::default() }
}

fn share(samples: &[Sample], zone: &str) -> f64 {
    100.0 * samples.iter().filter(|s| s.zone.as_deref() == Some(zone)).count() as f64 / samples.len() as f64
}

/// The shares of requests from now on, which no breaker may have had a hand in, now or shortly before: only a machine that is too
/// busy makes one leave a healthy zone.
async fn shares(world: &mut World, load: &Load, calm: &Calm, zones: [&str; 3]) -> Result<[f64; 3], Busy> {
    let samples = ran(load, Instant::now(), COUNTED).await;
    let (left, log) = (world.transitions("open").await.unwrap(), world.envoy.process().log());
    calm.promise(left == 0, || format!("a healthy zone was left: {log}"))?;
    Ok(zones.map(|zone| share(&samples, zone)))
}

fn close(calm: &Calm, found: f64, wanted: f64, off: f64, what: &str) -> Result<(), Busy> {
    calm.promise((found - wanted).abs() <= off, || {
        format!("{what}: {found:.1} % of the requests, {wanted:.1} % wanted")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_100_and_30_percent() {
    judged(async || {
        let mut world = World::start(even()).await.unwrap();
        let load = world.load(RATE).unwrap();
        Calm::untouched(steady(&world, &load, RATE).await)?;
        let calm = Calm::begin(&mut world);
        let began = Instant::now();
        // The zone of somebody else, and the proxy's own: they leave by different means (weights, priorities).
        for (zone, others) in [("az-b", ["az-a", "az-c"]), ("az-a", ["az-b", "az-c"])] {
            let zones = [zone, others[0], others[1]];
            for (keep, wanted) in [("0", 0.0), ("30", 10.0)] {
                let said = cli(
                    &world.plane,
                    &[
                        "zone",
                        "drain",
                        zone,
                        "--for",
                        "5m",
                        "--keep",
                        keep,
                        "--reason",
                        "e2e: a drain in part",
                    ],
                )
                .await;
                assert!(
                    said.err.contains("1 of 1 proxy"),
                    "the command does not say who confirmed: {said:?}"
                );
                let reached = world.backends.zone(zone).requests();
                let [drained, one, another] = shares(&mut world, &load, &calm, zones).await?;
                if keep == "0" {
                    let more = world.backends.zone(zone).requests() - reached;
                    // Confirmed means in force: only what was under way at that moment may still arrive.
                    calm.promise(more <= 5, || {
                        format!("{more} requests reached {zone} after its drain was confirmed")
                    })?;
                }
                close(&calm, drained, wanted, OFF, &format!("{zone}, which keeps {keep} % of a third"))?;
                for (other, share) in others.iter().zip([one, another]) {
                    let whose = format!("{other}, while {zone} keeps {keep} %");
                    close(&calm, share, (100.0 - wanted) / 2.0, OFF_ELSEWHERE, &whose)?;
                }
                let gauges = world.zone(zone).await.unwrap();
                assert_eq!(
                    (gauges.state, gauges.keep),
                    (4, keep.parse::<u64>().unwrap() * 10),
                    "{zone}: the gauges"
                );
                cli(&world.plane, &["zone", "restore", zone]).await;
            }
            let [restored, ..] = shares(&mut world, &load, &calm, zones).await?;
            close(&calm, restored, 100.0 / 3.0, OFF_ELSEWHERE, &format!("{zone}, restored"))?;
        }
        no_failure(&load, began, "eight changes of shares");
        Ok(())
    })
    .await;
}

/// "Done" means that every proxy has it: one that does not answer keeps the command waiting, and it goes on when that one does.
#[tokio::test(flavor = "multi_thread")]
async fn the_drain_command_waits_for_every_proxy() {
    let _turn = turn().await;
    let world = World::start(WorldOptions::default()).await.unwrap();
    let mut slow = world.another_envoy("slow", "az-b", Protocol::Delta).await.unwrap();
    in_sync(&world.plane, 2).await;

    slow.process().signal(libc::SIGSTOP).unwrap();
    let drain = ["zone", "drain", "az-b", "--for", "5m", "--reason", "e2e", "--timeout", "2s"];
    let said = words(&world.plane, &drain).await;
    assert_eq!(said.code, 4, "written, not confirmed by all: {said:?}");
    assert!(said.err.contains("1 of 2 proxies") && said.took >= Duration::from_secs(2), "{said:?}");
    // The one that answers has it.
    assert_eq!(world.zone("az-b").await.unwrap().state, 4);

    let restore = async {
        let said = words(&world.plane, &["zone", "restore", "az-b"]).await;
        (said, Instant::now())
    };
    let wake = async {
        world.until_zone("az-b", SOON, |zone| zone.state == 0).await.unwrap();
        let woken = Instant::now();
        slow.process().signal(libc::SIGCONT).unwrap();
        woken
    };
    let ((said, ended), woken) = tokio::join!(restore, wake);
    assert!(ended > woken, "the command ended before the second proxy could answer");
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("2 of 2 proxies"), "{said:?}");
    // Confirmed, so in force; gauges follow on the filter's next tick.
    until("the end of the drain in the second proxy", SOON, async || {
        let gauges = zone_gauges(&slow, "az-b").await.map_err(|e| e.to_string())?;
        if gauges.state == 0 { Ok(()) } else { Err(format!("{gauges:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_guards() {
    let _turn = turn().await;
    let world = World::start(WorldOptions::default()).await.unwrap();
    let drain = async |zone: &str, reason: &str| {
        words(&world.plane, &["zone", "drain", zone, "--for", "5m", "--reason", reason]).await
    };
    let drained = async || {
        let zones: Value =
            serde_json::from_str(&cli(&world.plane, &["zone", "ls", "-o", "json"]).await.out).unwrap();
        let zones = zones["zones"].as_array().unwrap().clone();
        zones
            .iter()
            .filter(|z| z["state"] == "drained")
            .map(|z| z["zone"].as_str().unwrap().to_owned())
            .collect()
    };
    let drained = async || -> Vec<String> { drained().await };

    let said = drain("az-z", "e2e").await;
    assert_eq!(said.code, 5, "an unknown zone: {said:?}");
    assert!(
        ["az-z", "az-a", "az-b", "az-c"].iter().all(|zone| said.err.contains(zone)),
        "which there are: {said:?}"
    );

    // A service that lives in one zone only: without that zone it is gone.
    let ledger = RegistrationOptions {
        service: "ledger-svc".to_owned(),
        zone: "az-c".to_owned(),
        region: REGION.to_owned(),
        address: world.backends.zone("az-c").backends()[0].address(),
        etcd: world.etcd.url(),
        args: Vec::new(),
    };
    let _ledger = Registration::start(&world.lab, &ledger).unwrap();
    until("the second service", SOON, async || {
        let topology: Value = world.plane.admin().json("/topology").await.map_err(|e| e.to_string())?;
        if topology["endpoints"]["ledger-svc"].is_object() { Ok(()) } else { Err(topology.to_string()) }
    })
    .await
    .unwrap();
    let said = drain("az-c", "e2e").await;
    assert_eq!(said.code, 5, "the last zone of a service: {said:?}");
    assert!(said.err.contains("ledger-svc") && said.err.contains("force"), "why, and what to do: {said:?}");

    assert_eq!(drained().await, Vec::<String>::new(), "a refused drain has changed something");
    assert_eq!(drain("az-a", "maintenance of the uplink").await.code, 0);
    let said = drain("az-b", "e2e").await;
    assert_eq!(said.code, 5, "a second drain: {said:?}");
    assert!(
        said.err.contains("az-a") && said.err.contains("maintenance of the uplink"),
        "which and why: {said:?}"
    );
    assert_eq!(drained().await, ["az-a"]);

    // Two operators at the same moment: one of them wins.
    cli(&world.plane, &["zone", "restore", "az-a"]).await;
    let (one, other) = tokio::join!(drain("az-a", "one"), drain("az-b", "other"));
    let mut codes = [one.code, other.code];
    codes.sort_unstable();
    assert!(codes[0] == 0 && [5, 6].contains(&codes[1]), "{one:?} {other:?}");
    assert_eq!(drained().await.len(), 1);
}

/// A drain ends when its time is over, control plane or not.
#[tokio::test(flavor = "multi_thread")]
async fn drain_expiry() {
    judged(async || {
        let mut world = World::start(even()).await.unwrap();
        let load = world.load(RATE).unwrap();
        Calm::untouched(steady(&world, &load, RATE).await)?;
        let calm = Calm::begin(&mut world);
        let began = Instant::now();
        // The proxy's own zone last, with nobody to change the priorities back.
        for (zone, alone) in [("az-b", false), ("az-b", true), ("az-a", true)] {
            let what = format!("{zone}, control plane {}", if alone { "killed" } else { "running" });
            let asked = Instant::now();
            cli(&world.plane, &["zone", "drain", zone, "--for", "6s", "--reason", "e2e"]).await;
            let confirmed = Instant::now();
            if alone {
                world.plane.kill();
            }
            // Gauges are set on the filter's next tick.
            world.until_zone(zone, SOON, |zone| zone.state == 4).await.unwrap();
            until(&format!("the end of the drain of {what}"), SOON, async || {
                let gauges = world.zone(zone).await.map_err(|e| e.to_string())?;
                if gauges.state == 0 { Ok(()) } else { Err(format!("{gauges:?}")) }
            })
            .await
            .unwrap();
            let took = asked.elapsed();
            // The time counts from when it was written, somewhere between the call and its confirmation.
            let written = confirmed - asked;
            assert!(took >= Duration::from_secs(6), "{what}: 6 s took {took:?}");
            let late = Duration::from_secs(10) + written;
            calm.promise(took < late, || format!("{what}: 6 s took {took:?}"))?;

            let mut during =
                load.samples(confirmed + Duration::from_millis(200), asked + Duration::from_millis(5_500));
            // What this process sent later than it was due may have come after the end.
            during.retain(|sample| sample.late < Duration::from_millis(200));
            assert_eq!(
                share(&during, zone),
                0.0,
                "{what}: requests during its drain, {} in all",
                during.len()
            );
            let zones = ["az-a", "az-b", "az-c"];
            for (zone, found) in zones.iter().zip(shares(&mut world, &load, &calm, zones).await?) {
                close(
                    &calm,
                    found,
                    100.0 / 3.0,
                    OFF_ELSEWHERE,
                    &format!("{zone} after the drain of {what}"),
                )?;
            }
            if alone {
                world.plane.restart().await.unwrap();
                // With nobody connected, the next drain would be confirmed by nobody.
                in_sync(&world.plane, 1).await;
                let zones = cli(&world.plane, &["zone", "ls", "-o", "json"]).await.out;
                assert!(!zones.contains("drained"), "a drain that is over is listed: {zones}");
            }
        }
        no_failure(&load, began, "three drains that ended by themselves");
        Ok(())
    })
    .await;
}
