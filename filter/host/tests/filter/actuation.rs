//! What a policy makes of requests, in the real module: stickiness, drills, limits, and what the gauges say of them.

use std::time::Duration;

use serde_json::{Value, json};
use zonebreak_host::{
    abi::Call,
    mesh::{Effect, End, Fault, Mesh, Setup},
    proxy::{FilterStream, Opened, Place},
    vm::{Headers, StreamInfo, Verdict},
};

use crate::support::*;

fn keep(mesh: &Mesh, zone: &str) -> u64 {
    metric(mesh, "zone_keep_permille", &format!(";zone={zone}"))
}

fn request(extra: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::from([(":method", "GET"), (":path", "/")]);
    extra.iter().for_each(|(name, value)| headers.add(name, value));
    headers
}

/// What is decided for a user, on a worker.
fn decided_for(mesh: &mut Mesh, worker: usize, extra: &[(&str, &str)]) -> Decided {
    let (stream, decided) = ask(mesh, worker, &mut request(extra));
    stream.close().unwrap();
    decided
}

/// The same user goes to the same zone on every worker, by a header or by a cookie; whoever is nobody is drawn by chance.
#[test]
fn a_user_stays_in_his_zone_on_every_worker() {
    for (sticky, name, value) in [
        (json!({"header": "x-user-id"}), "x-user-id", "USER"),
        (json!({"cookie": "session"}), "cookie", "theme=dark; session=USER; lang=en"),
    ] {
        let mut policy = even();
        policy["sticky"] = sticky;
        let mut mesh = mesh(setup(3, 1), &policy);
        let mut zones = std::collections::BTreeMap::<_, usize>::new();
        for user in 0..150 {
            let value = value.replace("USER", &user.to_string());
            let first = decided_for(&mut mesh, 0, &[(name, &value)]);
            for worker in 0..3 {
                assert_eq!(decided_for(&mut mesh, worker, &[(name, &value)]), first, "{user} on {worker}");
            }
            *zones.entry(format!("{first:?}")).or_default() += 1;
        }
        assert_eq!(zones.len(), 3, "each by name: {zones:?}");
        assert!(zones.values().all(|users| (25..=75).contains(users)), "{zones:?}");
        let nobody: Vec<_> = (0..40).map(|_| format!("{:?}", decided_for(&mut mesh, 0, &[]))).collect();
        assert!(nobody.iter().any(|other| *other != nobody[0]), "without the value it is chance");
    }
}

/// Reading the value costs one host call that returns bytes, and only where it is asked for.
#[test]
fn stickiness_costs_nothing_when_not_asked_for() {
    let cost = |policy: &Value| {
        let mut mesh = mesh(setup(1, 2), policy);
        mesh.run(secs(1.0));
        let before = mesh.proxy().vm(0).unwrap().calls().clone();
        decided_for(&mut mesh, 0, &[("x-user-id", "7")]);
        let calls = mesh.proxy().vm(0).unwrap().calls().since(&before);
        (calls.returned_bytes(), calls.of(Call::GetHeader))
    };
    let mut sticky = even();
    sticky["sticky"] = json!({"header": "x-user-id"});
    let (plain, asked) = (cost(&even()), cost(&sticky));
    assert_eq!((plain.1, asked.1, asked.0), (0, 1, plain.0 + 1));
}

fn open(mesh: &mut Mesh, worker: usize) -> (FilterStream, Verdict, Headers) {
    let info = StreamInfo { cluster: Some("order-svc".into()), ..StreamInfo::default() };
    let Opened::Stream(stream) = mesh.proxy().open(worker, Place::Downstream, info) else { panic!() };
    let mut headers = request(&[]);
    let verdict = stream.request_headers(&mut headers, true).unwrap();
    (stream, verdict, headers)
}

/// A delay of 200 ms is one of 150 to 250 ms: ticks come every 100. What it decided stands before it is over.
#[test]
fn a_delayed_request_goes_on_by_itself() {
    let mut policy = json!({"mode": "strong", "abort": {"when": "always", "delay": "200ms"}});
    let mut mesh = mesh(setup(2, 3), &policy);
    mesh.set_rate(0.0);
    mesh.run(secs(1.0));
    let mut waits = Vec::new();
    for i in 0..40 {
        mesh.run(Duration::from_millis(7 * i % 100));
        let (stream, verdict, headers) = open(&mut mesh, i as usize % 2);
        assert_eq!((verdict, headers.get("x-zonebreak-serve")), (Verdict::Pause, None));
        let began = mesh.now();
        while !stream.is_resumed() {
            assert!(mesh.now() < began + secs(1.0), "held for ever");
            mesh.run(Duration::from_millis(1));
        }
        waits.push((mesh.now() - began).as_millis());
        stream.close().unwrap();
    }
    assert!(waits.iter().all(|wait| (149..=252).contains(wait)), "{waits:?}");
    // A client that leaves meanwhile is forgotten, and a worker's other requests are not.
    let (gone, _, _) = open(&mut mesh, 0);
    let (stays, _, _) = open(&mut mesh, 0);
    gone.close().unwrap();
    mesh.run(secs(0.3));
    assert!(stays.is_resumed());
    stays.close().unwrap();
    // Nor is a request that was held before the clock was set back.
    let (held, _, _) = open(&mut mesh, 0);
    mesh.process().set_clock_offset(-3_600.0);
    mesh.run(secs(0.3));
    assert!(held.is_resumed());
    held.close().unwrap();
    // Half of them, in a policy that says so.
    policy["abort"]["delay_percent"] = json!(50);
    configure(&mut mesh, &downstream(&Setup::default(), &policy)).unwrap();
    let held = (0..200).filter(|_| open(&mut mesh, 0).1 == Verdict::Pause).count();
    assert!((70..=130).contains(&held), "{held} of 200");
    assert_eq!(complaints(&mesh), [""; 0]);
}

/// az-b alone is aborted, with its status and for so long; the filter needs nobody to end it.
#[test]
fn a_drill_by_zone_ends_by_itself() {
    let mut mesh = mesh(setup(1, 4), &even());
    mesh.set_rate(0.0);
    let until = mesh.process().unix_ms() + 5_000;
    let mut policy = even();
    policy["abort"] =
        json!({"percent": 100, "status": 504, "when": "always", "zones": ["az-b"], "until": until});
    configure(&mut mesh, &downstream(&Setup::default(), &policy)).unwrap();
    let kinds = |mesh: &mut Mesh| {
        let mut kinds = std::collections::BTreeMap::<_, usize>::new();
        for _ in 0..300 {
            let kind = match decided(mesh, 0) {
                Decided::Refused { status, reason, .. } => format!("{status} {reason}"),
                Decided::Key(key) => key,
                Decided::Pass => "pass".to_owned(),
            };
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    };
    mesh.run(secs(4.5));
    let during = kinds(&mut mesh);
    assert_eq!(during.keys().collect::<Vec<_>>(), ["504 abort", "only-az-c", "pass"]);
    assert!((70..=130).contains(&during["504 abort"]), "{during:?}");
    mesh.run(secs(1.0));
    assert_eq!(kinds(&mut mesh).keys().collect::<Vec<_>>(), ["no-az-a", "pass"]);
}

/// 12 % of a zone fail: too little to leave it soon, and enough to send it less. The gauge says how much.
#[test]
fn a_gray_zone_sheds_and_the_gauge_tells() {
    let lowest = |shed: bool| {
        let mut policy = even();
        policy["breaker"] = json!({"shed": shed, "sensitivity": "safe"});
        let mut mesh = mesh(setup(2, 5), &policy);
        mesh.run(secs(30.0));
        mesh.break_zone(A, Fault::of(0.12, Effect::Status(503)));
        let mut lowest = 1_000;
        for _ in 0..100 {
            mesh.run(secs(0.1));
            if state(&mesh, "az-a") != CLOSED {
                break;
            }
            lowest = lowest.min(keep(&mesh, "az-a"));
        }
        lowest
    };
    let shed = lowest(true);
    assert!((250..1_000).contains(&shed), "{shed}");
    assert_eq!(lowest(false), 1_000);
}

#[test]
fn two_zones_are_left_where_the_policy_says_so_and_never_three() {
    for most in [1, 2, 3] {
        let mut policy = even();
        policy["breaker"] = json!({"max_open_zones": most});
        let mut mesh = mesh(setup(2, 6), &policy);
        mesh.run(secs(30.0));
        for zone in [A, B, C] {
            mesh.break_zone(zone, Fault::always(Effect::Status(503)));
            mesh.run(secs(0.6));
        }
        let open = ["az-a", "az-b", "az-c"].into_iter().filter(|zone| state(&mesh, zone) == OPEN).count();
        assert_eq!(open, most.min(2), "{:?}", transitions(&mesh));
    }
}

/// The own zone is gone and the others answer three of ten: what was moved is held back, and its callers are told to wait.
#[test]
fn moved_requests_are_throttled_while_the_others_drown() {
    let refused = |spill: Value| {
        let mut mesh = mesh(setup(1, 7), &json!({"mode": "strong", "spill": spill}));
        mesh.run(secs(30.0));
        mesh.break_zone(A, Fault::always(Effect::Status(503)));
        // Long enough for the breaker to have seen that the move helped.
        mesh.run(secs(12.0));
        assert_ne!(state(&mesh, "az-a"), CLOSED);
        [B, C].into_iter().for_each(|zone| mesh.break_zone(zone, Fault::of(0.7, Effect::Status(503))));
        mesh.run(secs(12.0));
        let ends = mesh.ends(mesh.last(secs(3.0)));
        let reasons: Vec<_> = (0..200)
            .filter_map(|_| match decided(&mut mesh, 0) {
                Decided::Refused { reason, retry_after, .. } => Some((reason, retry_after)),
                _ => None,
            })
            .collect();
        (ends.of(End::Refused), reasons)
    };
    let (ends, reasons) = refused(json!({}));
    assert!(ends > 100, "{ends} of about 600");
    assert!(reasons.len() > 40 && reasons.iter().all(|(reason, _)| reason == "overload"), "{reasons:?}");
    assert!(reasons.iter().all(|(_, wait)| (2..=7).contains(&wait.parse::<u32>().unwrap())), "{reasons:?}");
    assert_eq!(refused(json!({"adaptive": false})), (0, Vec::new()));
}

/// Every word of the operator's shows: forced open by tenths of a percent, held, turned off; and a shadow says what it would do.
#[test]
fn the_gauges_tell_what_is_forced_shadowed_and_disabled() {
    let mut mesh = mesh(setup(2, 8), &even());
    mesh.run(secs(10.0));
    let shifts = [("az-b", 33.3, 60), ("az-c", 100.0, 60)];
    let forced = drained(&mesh, &even(), &shifts);
    configure(&mut mesh, &forced).unwrap();
    mesh.run(secs(0.3));
    let told = |mesh: &Mesh| ["az-a", "az-b", "az-c"].map(|zone| (state(mesh, zone), keep(mesh, zone)));
    assert_eq!(told(&mesh), [(0, 1_000), (4, 333), (5, 1_000)]);
    let mut policy = even();
    policy["breaker"] = json!({"enforcement": "disabled"});
    configure(&mut mesh, &downstream(&Setup::default(), &policy)).unwrap();
    mesh.run(secs(0.3));
    assert_eq!(told(&mesh), [(6, 1_000); 3]);
    policy["breaker"] = json!({"enforcement": "shadow"});
    configure(&mut mesh, &downstream(&Setup::default(), &policy)).unwrap();
    mesh.run(secs(15.0));
    mesh.break_zone(A, Fault::always(Effect::Status(503)));
    mesh.run(secs(1.0));
    assert_eq!(told(&mesh), [(OPEN, 1_000), (CLOSED, 1_000), (CLOSED, 1_000)]);
    assert!(transitions(&mesh).last().unwrap().contains("shadow: not carried out"));
    assert!(mesh.attempts(A, mesh.last(secs(0.5))).begun > 10, "it still gets its share");
}
