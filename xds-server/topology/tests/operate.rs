//! Drains and topology files against a real etcd: guards, races, leases, and files that come back as they went in.

mod support;

use jiff::Timestamp;
use support::{Etcd, endpoint, until};
use zonebreak_core::{
    names::Zone,
    units::{Millis, Percent},
};
use zonebreak_topology::{
    EtcdOptions, ShiftTarget,
    edit::{self, ChangeKind, EditError, File},
    shift::{self, Drain, Extension, ShiftErrorKind},
};

fn drain(zone: &str) -> Drain {
    Drain {
        zone: Zone::new(zone).unwrap(),
        service: None,
        keep_percent: Percent::ZERO,
        duration: Millis::secs(300),
        reason: "demo".into(),
        actor: "alice".into(),
        force: false,
    }
}

fn target(zone: &str) -> ShiftTarget {
    ShiftTarget { zone: Zone::new(zone).unwrap(), service: None }
}

/// An etcd with a service in three zones.
async fn three_zones() -> Etcd {
    let etcd = Etcd::start().await;
    for zone in ["az-a", "az-b", "az-c"] {
        etcd.put(&format!("endpoints/s/{zone}"), &endpoint(zone)).await;
    }
    etcd
}

#[tokio::test]
async fn a_drain_is_made_extended_and_ended() {
    let etcd = three_zones().await;
    let options = etcd.options();
    let made = shift::drain(&options, &drain("az-b")).await.unwrap();
    assert_eq!(made.shift.expires_at.duration_since(made.shift.started_at).as_secs(), 300);
    let (value, lease) = etcd.get("shifts/az-b").await.unwrap();
    assert_eq!(serde_json::from_str::<zonebreak_topology::Shift>(&value).unwrap(), made.shift);
    let ttl = etcd.client().await.lease_time_to_live(lease, None).await.unwrap().granted_ttl();
    assert!((359..=361).contains(&ttl), "{ttl}: until a minute after its end");
    let seen = options.topology().await.unwrap();
    assert_eq!((seen.shifts.len(), seen.revision), (1, made.revision));

    let second = shift::drain(&options, &drain("az-c")).await.unwrap_err();
    assert_eq!(second.kind(), ShiftErrorKind::Refused);
    assert!(second.to_string().contains("az-b keeps 0 %, by alice until"), "{second}");
    let forced = shift::drain(&options, &Drain { force: true, ..drain("az-c") }).await.unwrap();
    assert!(forced.revision > made.revision);
    assert_eq!(shift::list(&options).await.unwrap().len(), 2);
    shift::restore(&options, &target("az-c")).await.unwrap();

    let longer = shift::extend(&options, &target("az-b"), Extension::By(Millis::secs(600))).await.unwrap();
    assert_eq!(longer.shift.expires_at.duration_since(made.shift.expires_at).as_secs(), 600);
    assert_eq!((longer.shift.started_at, &longer.shift.reason), (made.shift.started_at, &made.shift.reason));
    let shorter = shift::extend(&options, &target("az-b"), Extension::For(Millis::secs(60))).await.unwrap();
    assert!(shorter.shift.expires_at < made.shift.expires_at);
    let (_, lease) = etcd.get("shifts/az-b").await.unwrap();
    let ttl = etcd.client().await.lease_time_to_live(lease, None).await.unwrap().granted_ttl();
    assert!((119..=121).contains(&ttl), "{ttl}");

    let ended = shift::restore(&options, &target("az-b")).await.unwrap();
    assert_eq!(ended.shift, shorter.shift);
    assert!(ended.revision > shorter.revision);
    assert_eq!(etcd.get("shifts/az-b").await, None);
    let nothing = shift::restore(&options, &target("az-b")).await.unwrap_err();
    assert_eq!(
        (nothing.kind(), nothing.to_string().as_str()),
        (ShiftErrorKind::Refused, "find a drain of az-b: nothing is drained")
    );
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_writes_nothing() {
    let etcd = three_zones().await;
    let options = etcd.options();
    etcd.put("endpoints/lonely/b", &endpoint("az-b")).await;
    let before = options.topology().await.unwrap();
    let no_etcd = EtcdOptions { endpoints: vec!["127.0.0.1:1".to_owned()], ..options.clone() };
    use ShiftErrorKind::{Refused, Unreachable, Usage};
    for (drain, options, kind, says) in [
        (drain("az-x"), &options, Refused, "no such zone; known are az-a, az-b, az-c"),
        (drain("az-b"), &options, Refused, "no other zone has a healthy endpoint of 1 service (lonely)"),
        (Drain { reason: " ".into(), ..drain("az-a") }, &options, Usage, "without a reason"),
        (Drain { keep_percent: Percent::FULL, ..drain("az-a") }, &options, Usage, "which is no drain"),
        (Drain { duration: Millis(0), ..drain("az-a") }, &options, Usage, "a drain lasts 1s to 72h"),
        (
            Drain { duration: Millis::secs(80 * 3600), ..drain("az-a") },
            &options,
            Usage,
            "a drain lasts 1s to 72h",
        ),
        (drain("az-a"), &no_etcd, Unreachable, "reach etcd at 127.0.0.1:1"),
    ] {
        let error = shift::drain(options, &drain).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(options.topology().await.unwrap(), before);
    let leases = etcd.client().await.leases().await.unwrap();
    assert_eq!(leases.leases().len(), 0, "nor leaves leases about");
    shift::drain(&options, &drain("az-a")).await.unwrap();
    let error =
        shift::extend(&options, &target("az-a"), Extension::By(Millis(72 * 3_600_000))).await.unwrap_err();
    assert_eq!(error.kind(), Usage, "{error}");
}

#[tokio::test]
async fn of_drains_at_the_same_moment_exactly_one_is_made() {
    let etcd = three_zones().await;
    for round in 0..5 {
        let race = (0..6).map(|n| {
            let options = etcd.options();
            tokio::spawn(async move {
                let drain = Drain { actor: format!("racer {n}"), ..drain(["az-a", "az-b", "az-c"][n % 3]) };
                shift::drain(&options, &drain).await
            })
        });
        let mut made = Vec::new();
        for racer in race.collect::<Vec<_>>() {
            match racer.await.unwrap() {
                Ok(applied) => made.push(applied),
                Err(error) => {
                    let kind = error.kind();
                    assert!(matches!(kind, ShiftErrorKind::Conflict | ShiftErrorKind::Refused), "{error}");
                    assert!(error.to_string().contains("by racer"), "it names the winner: {error}");
                }
            }
        }
        assert_eq!(made.len(), 1, "round {round}: {made:#?}");
        let there = shift::list(&etcd.options()).await.unwrap();
        assert_eq!(there, [(made[0].target.clone(), made[0].shift.clone())]);
        shift::restore(&etcd.options(), &made[0].target).await.unwrap();
        let leases = etcd.client().await.leases().await.unwrap();
        assert_eq!(leases.leases().len(), round + 1, "one a drain made; those of the losers are revoked");
    }
}

#[tokio::test]
async fn a_drain_that_is_over_is_no_obstacle_and_none_to_be_extended() {
    let etcd = three_zones().await;
    let past = Timestamp::now().as_second();
    let time = |offset: i64| Timestamp::from_second(past + offset).unwrap();
    let value = format!(
        r#"{{"keep_percent": 0, "reason": "r", "actor": "a", "started_at": "{}", "expires_at": "{}"}}"#,
        time(-60),
        time(-1)
    );
    etcd.put("shifts/az-a", &value).await;
    let error =
        shift::extend(&etcd.options(), &target("az-a"), Extension::For(Millis::secs(60))).await.unwrap_err();
    assert_eq!(error.kind(), ShiftErrorKind::Refused);
    assert!(shift::list(&etcd.options()).await.unwrap().is_empty());
    shift::drain(&etcd.options(), &drain("az-a")).await.unwrap();
}

const FILE: &str = "\
zones:
  az-a: {region: eu, aliases: [use1-az1]}
  az-b:
services:
  s: {mode: eventual, weights: {az-a: 80, az-b: 20}}
endpoints:
  s:
    static: {address: 10.0.0.7, port: 80, zone: az-a, labels: {kind: vm}}
shifts:
  az-b/s:
    keep_percent: 30
    reason: \"demo: 100 # of them\"
    actor: alice
    started_at: 2026-01-01T00:00:00Z
    expires_at: 2026-01-01T01:00:00Z
";

#[tokio::test]
async fn a_file_goes_in_and_comes_back() {
    let etcd = Etcd::start().await;
    let options = etcd.options();
    let file = File::parse("topology.yaml", FILE).unwrap();
    let planned = edit::diff(&options, &file, false).await.unwrap().changes;
    assert_eq!(planned.len(), 5);
    assert!(planned.iter().all(|change| change.change == ChangeKind::Added));
    let applied = edit::apply(&options, &file, false).await.unwrap();
    assert_eq!(applied.changes, planned);
    let seen = options.topology().await.unwrap();
    assert_eq!(seen.revision, applied.revision);
    assert!(seen.problems.is_empty());
    assert_eq!(
        etcd.get("services/s").await.unwrap().0,
        r#"{"mode":"eventual","weights":{"az-a":80,"az-b":20}}"#
    );

    assert_eq!(edit::diff(&options, &file, true).await.unwrap().changes, [], "all of it is there");
    let again = edit::apply(&options, &file, true).await.unwrap();
    assert_eq!((again.changes.len(), again.revision), (0, applied.revision), "nothing is written twice");

    let back = edit::get(&options, true).await.unwrap();
    let back = File::parse("get", &back).unwrap();
    assert_eq!(edit::diff(&options, &back, true).await.unwrap().changes, []);
    let without = edit::get(&options, false).await.unwrap();
    assert!(!without.contains("endpoints:") && without.contains("services:"), "{without}");
}

#[tokio::test]
async fn changes_keep_leases_and_pruning_keeps_registrations() {
    let etcd = Etcd::start().await;
    let options = etcd.options();
    edit::apply(&options, &File::parse("f", FILE).unwrap(), false).await.unwrap();
    let mut client = etcd.client().await;
    let lease = client.lease_grant(60, None).await.unwrap().id();
    for key in ["endpoints/s/static", "endpoints/s/registered"] {
        let leased = etcd_client::PutOptions::new().with_lease(lease);
        client.put(options.key(key), endpoint("az-b"), Some(leased)).await.unwrap();
    }
    etcd.put("services/bad", "{").await;
    let got = edit::get(&options, false).await.unwrap();
    assert!(got.starts_with("# refused: services/bad line 1 column 1: EOF"), "{got}");

    let applied = edit::apply(&options, &File::parse("f", FILE).unwrap(), true).await.unwrap();
    let changes: Vec<(ChangeKind, &str)> =
        applied.changes.iter().map(|c| (c.change, c.key.as_str())).collect();
    assert_eq!(changes, [(ChangeKind::Changed, "endpoints/s/static"), (ChangeKind::Removed, "services/bad")]);
    assert_eq!(etcd.get("endpoints/s/static").await.unwrap().1, lease, "it goes on living by it");
    assert!(etcd.get("endpoints/s/registered").await.is_some());
}

#[tokio::test]
async fn a_zone_that_is_nowhere_is_told_and_what_etcd_has_counts() {
    let etcd = Etcd::start().await;
    let options = etcd.options();
    edit::apply(&options, &File::parse("f", FILE).unwrap(), false).await.unwrap();
    let typed = File::parse("f", "services: {t: {weights: {az-a: 60, az-b: 20, az-x: 20}}}").unwrap();
    assert_eq!(typed.strangers(), [], "by itself it knows no zone at all");
    let said = "zone \"az-x\" named by policy t (weights) has no endpoints and is not declared; did you mean \"az-a\" or \
                \"az-b\"?";
    let compared = edit::diff(&options, &typed, false).await.unwrap().strangers;
    assert_eq!(compared.iter().map(ToString::to_string).collect::<Vec<_>>(), [said]);
    assert_eq!(edit::apply(&options, &typed, false).await.unwrap().strangers, compared);
    // Pruned, its zone is gone from what is declared; and what the file brings along is there.
    let gone = File::parse("f", "zones: {az-b: {}}\nservices: {t: {weights: {az-b: 1}}}").unwrap();
    let left = edit::diff(&options, &gone, true).await.unwrap().strangers;
    assert_eq!(
        left.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["zone \"az-a\" named by endpoint s/static is not declared; did you mean \"az-b\"?"]
    );
}

#[tokio::test]
async fn a_file_of_many_batches_is_written_whole() {
    let etcd = Etcd::start().await;
    let services: String = (0..400).map(|n| format!("  s{n}: {{port: {}}}\n", n + 1)).collect();
    let file = File::parse("f", &format!("services:\n{services}")).unwrap();
    let applied = edit::apply(&etcd.options(), &file, false).await.unwrap();
    let seen = etcd.options().topology().await.unwrap();
    assert_eq!((seen.services.len(), seen.revision), (400, applied.revision));
    let none = File::parse("f", "services: {}").unwrap();
    let applied = edit::apply(&etcd.options(), &none, true).await.unwrap();
    assert_eq!(applied.changes.len(), 400);
    assert!(etcd.options().topology().await.unwrap().is_empty());
}

/// Somebody writes to a key again and again while a file wants another value for it: the file either wins whole or is told.
#[tokio::test]
async fn a_key_that_changes_meanwhile_is_not_overwritten_unseen() {
    let etcd = Etcd::start().await;
    etcd.put("services/s", "{\"port\": 1}").await;
    let url = etcd.options();
    let busy = tokio::spawn(async move {
        let mut client = url.connect().await.unwrap();
        for port in (2..20_000).cycle() {
            client.put(url.key("services/s"), format!("{{\"port\": {port}}}"), None).await.unwrap();
        }
    });
    let file = File::parse("f", "services: {s: {port: 30000}, t: {}}").unwrap();
    let conflict = until("a conflict", async || match edit::apply(&etcd.options(), &file, false).await {
        Err(error @ EditError::Conflict { .. }) => Some(error),
        Err(other) => panic!("{other}"),
        Ok(_) => {
            etcd.delete("services/t").await;
            None
        }
    });
    let conflict = conflict.await;
    assert!(conflict.to_string().contains("Of 2 changes, 0 are written"), "{conflict}");
    assert_eq!(etcd.get("services/t").await, None, "all or nothing");
    busy.abort();
}
