//! Screens as operators see them.

use std::collections::BTreeMap;

use crate::model::{
    ChangeRow, DiskRow, FilterRow, HeldRow, LoadRow, Nack, QuarantineRow, RefusalRow, SourceRow, WhyProxy,
};

use super::*;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

fn zone(name: &str, state: ZoneState) -> ZoneRow {
    ZoneRow {
        zone: name.parse().unwrap(),
        region: "eu-1".to_owned(),
        aliases: vec![format!("{name}-id").parse().unwrap()],
        capacity: (name == "az-a").then_some(500),
        endpoints: 2,
        serving: if state == ZoneState::Empty { 0 } else { 2 },
        state,
        keep_percent: (state == ZoneState::Drained).then_some(Percent::ZERO),
        reason: (state == ZoneState::Drained).then(|| "switch maintenance".to_owned()),
        actor: (state == ZoneState::Drained).then(|| "eve@ops".to_owned()),
        until: (state == ZoneState::Drained).then(|| later(1740)),
    }
}

fn shift() -> ShiftRow {
    ShiftRow {
        zone: "az-a".parse().unwrap(),
        service: Some("pay-svc".parse().unwrap()),
        keep_percent: Percent::new(12.5).unwrap(),
        reason: "bad release".to_owned(),
        actor: "bob".to_owned(),
        started_at: now(),
        expires_at: later(100_000),
    }
}

fn proxy_row(id: &str, state: Standing) -> Proxy {
    let nack = Nack {
        version: "c0ffee".to_owned(),
        message: "Proto constraint validation failed".to_owned(),
        at: later(-30),
    };
    let of = |state: Standing| TypeState {
        state,
        subscribed: Some(2),
        sent: Some("c0ffee".to_owned()),
        acked: Some("beef".to_owned()),
        nack: (state == Standing::Nacked).then(|| nack.clone()),
    };
    Proxy {
        id: id.to_owned(),
        cluster: "shop".to_owned(),
        zone: "az-a".to_owned(),
        view: "az-a".to_owned(),
        peer: "10.0.0.9:41000".to_owned(),
        protocol: "delta".to_owned(),
        version: "envoy 1.40.0".to_owned(),
        connected_since: later(-7200),
        state,
        types: BTreeMap::from([("CDS".to_owned(), of(Standing::Synced)), ("ECDS".to_owned(), of(state))]),
        passed_over: None,
    }
}

fn change(id: u64, cause: &str, ago: i64) -> ChangeRow {
    ChangeRow {
        id,
        cause: cause.to_owned(),
        revision: 40,
        seen_at: later(-ago),
        published_at: later(-ago),
        views: vec!["az-a".to_owned(), "(no zone)".to_owned()],
        proxies: 3,
        sent: 3,
        acked: 3,
        nacked: 0,
        gone: 0,
        p50_ms: Some(2.345),
        p99_ms: Some(11.1),
        last_ms: Some(11.2),
        nacks: Vec::new(),
    }
}

fn sample() -> Status {
    let endpoints = BTreeMap::from([("az-a".parse().unwrap(), 2), ("az-b".parse().unwrap(), 2)]);
    Status {
        version: "0.1.0".to_owned(),
        started_at: later(-86_400),
        config_reload_ts: later(-60),
        source: SourceRow {
            kind: "etcd".to_owned(),
            location: "http://10.0.0.1:2379".to_owned(),
            connected: false,
            since: later(-90),
            revision: 42,
            applied_revision: Some(42),
            error: Some("reach etcd at http://10.0.0.1:2379: connection refused".to_owned()),
            held: None,
            saved_at: Some(later(-600)),
        },
        filter: Some(FilterRow {
            file: "/opt/filter.wasm".to_owned(),
            sha256: "93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476".to_owned(),
            delivery: "bytes".to_owned(),
        }),
        zones: vec![
            zone("az-a", ZoneState::Serving),
            zone("az-b", ZoneState::Drained),
            zone("az-c", ZoneState::Empty),
        ],
        shifts: vec![shift()],
        services: vec![ServiceRow {
            service: "order-svc".parse().unwrap(),
            mode: zonebreak_core::policy::Mode::Eventual,
            endpoints,
            out_of_service: 1,
        }],
        proxies: Fleet { connected: 3, synced: 1, stale: 1, nacked: 1 },
        gates_expired: 2,
        problems: vec![ProblemRow {
            key: "services/pay-svc".to_owned(),
            revision: 41,
            line: Some(2),
            column: Some(11),
            message: "unknown variant `fast`, expected one of strong, eventual".to_owned(),
            kept: true,
        }],
        strangers: Vec::new(),
        held: vec![HeldRow {
            id: "endpoints/order-svc".to_owned(),
            reason: "order-svc would go from 10 endpoints to 2 within 10s; at most 50 % may go at once"
                .to_owned(),
            before: 10,
            after: 2,
            served: 10,
            since: Some(later(-30)),
            revision: 41,
        }],
        quarantine: vec![QuarantineRow {
            kind: "CDS".to_owned(),
            name: "pay-svc".to_owned(),
            since: later(-45),
            change: 9,
            node: "one".to_owned(),
            message: "pay-svc: unknown cluster type".to_owned(),
        }],
        trial: Some(TrialRow {
            change: 10,
            cause: "services/order-svc".to_owned(),
            since: later(-3),
            wave: 1,
            streams: 1,
            waiting_for: vec!["two".to_owned()],
            gone: vec!["three".to_owned()],
        }),
        load: vec![LoadRow {
            service: "order-svc".parse().unwrap(),
            client_zone: Some("az-a".parse().unwrap()),
            target_zone: "az-b".parse().unwrap(),
            requests: 1200,
            errors: 36,
            error_rate: 0.03,
            error_lower: 0.0217,
            error_upper: 0.0413,
        }],
        changes: vec![
            ChangeRow {
                acked: 1,
                nacked: 1,
                nacks: vec![RefusalRow {
                    node: "one".to_owned(),
                    kind: "ECDS".to_owned(),
                    message: "weights: must not all be 0".to_owned(),
                    resources: vec!["zonebreak".to_owned()],
                }],
                ..change(8, "services/order-svc", 60)
            },
            change(7, "first topology", 600),
        ],
        disk: Some(DiskRow {
            file: "/var/lib/zonebreak/topology.state".to_owned(),
            saved_at: Some(later(-600)),
            error: None,
        }),
    }
}

#[test]
fn screens_are_as_reviewed() {
    insta::assert_snapshot!("status", status(&sample(), now(), false));
    insta::assert_snapshot!("load", load(&sample().load));
    insta::assert_snapshot!("changes_wide", changes(&sample().changes, now(), true));
    insta::assert_snapshot!("zones_wide", zones(&sample().zones, &sample().shifts, now(), true));
    let rows = [proxy_row("one", Standing::Synced), proxy_row("two", Standing::Stale)];
    insta::assert_snapshot!("proxies", proxies(&rows, now(), false));
    insta::assert_snapshot!("proxies_wide", proxies(&rows, now(), true));
    insta::assert_snapshot!("proxy", proxy(&proxy_row("three", Standing::Nacked), now()));
}

#[test]
fn an_explanation_is_as_reviewed() {
    let zone = |name: &str, priority, because: &str| WhyZone {
        zone: name.parse().unwrap(),
        priority,
        priority_because: because.to_owned(),
        weight: 2,
        weight_because: "sum of the weights of the 2 of 2 endpoints that take requests".to_owned(),
        share_percent: 84.2,
        serving: 2,
        endpoints: 2,
    };
    let refused =
        Nack { version: "c1".to_owned(), message: "weights: must not all be 0".to_owned(), at: now() };
    let sample = Why {
        service: "order-svc".parse().unwrap(),
        zone: Some("az-a".parse().unwrap()),
        mode: zonebreak_core::policy::Mode::Eventual,
        weights: BTreeMap::new(),
        zones: vec![
            zone("az-a", 0, "the client's own zone"),
            zone("az-b", 1, "another zone, after the client's own"),
        ],
        out: vec![WhyEndpoint {
            instance: "a3".parse().unwrap(),
            zone: "az-a".parse().unwrap(),
            state: zonebreak_topology::HealthState::Unhealthy,
            because: "forced by bob until 2026-01-01T01:00:00Z: leaks".to_owned(),
        }],
        notes: vec!["it has no policy of its own: the defaults count".to_owned()],
        proxy: Some(WhyProxy {
            id: "one".to_owned(),
            in_sync: false,
            sent: Some("5f".to_owned()),
            acked: Some("5f".to_owned()),
            filter_sent: Some("c1".to_owned()),
            filter_acked: Some("c0".to_owned()),
            refused: [("ECDS".to_owned(), refused)].into(),
        }),
    };
    insta::assert_snapshot!("why", why(&sample));
}

#[test]
fn nothing_is_said_in_words() {
    assert_eq!(proxies(&[], now(), false), "no proxy is connected");
    assert_eq!(zones(&[], &[], now(), false), "no zone is known");
    assert_eq!(fleet(&Fleet::default()), "none connected");
}

#[test]
fn spans_are_short_and_ends_far_away_have_a_date() {
    let ages = [5, 119, 120, 7199, 7200, 172_799, 172_800].map(|s| age(SignedDuration::from_secs(s)));
    assert_eq!(ages, ["5s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    assert_eq!(until(Some(later(60)), now()), "12:01:00Z (60s)");
    assert_eq!(until(Some(later(100_000)), now()), "2026-01-02T15:46Z (27h)");
}
