//! How a request can end, row by row as it was measured on a real Envoy 1.40: what each of the two filters gets to see, and what
//! they count of it. Flags and status tell all rows apart; `response.code_details` says nothing more, and is not asked for.

use zonebreak_host::{
    mesh::{Mesh, Setup},
    proxy::{Opened, Place},
    vm::{Headers, Host, StreamInfo},
};

use crate::support::*;

/// What the filter beside an attempt sees. A failed attempt ends there without an answer, and with hardly a flag.
#[derive(Clone, Copy)]
enum Attempt {
    /// An answer, to its end.
    Answer(&'static str),
    /// An answer whose body breaks off, with these flags.
    Cut(&'static str, u64),
    /// The end, with these flags, and why there was no connection if there was none.
    Nothing(u64, Option<&'static str>),
    /// The end of an attempt that nobody took up in time.
    TimedOut,
}

/// What the filter beside the client sees: status, unless none was ever sent, and flags.
type Client = (Option<&'static str>, u64);

/// Charged to the zone: answered, failed, of these without a connection.
type Charged = (u64, u64, u64);

struct Ending {
    what: &'static str,
    attempts: &'static [Attempt],
    client: Client,
    charged: Charged,
    outcome: Option<&'static str>,
}

const fn ending(
    what: &'static str,
    attempts: &'static [Attempt],
    client: Client,
    charged: Charged,
    outcome: Option<&'static str>,
) -> Ending {
    Ending { what, attempts, client, charged, outcome }
}

const FAILED: Option<&str> = Some("failed");
const ANSWERED: Option<&str> = Some("answered");
const REFUSED: Attempt = Attempt::Nothing(0, Some("delayed_connect_error:111"));
const RESET: Attempt = Attempt::Nothing(0, None);
const GONE: u64 = 1 << 14;
const CANCELLED: u64 = 1 << 28;

const ENDINGS: [Ending; 20] = [
    ending("an answer", &[Attempt::Answer("200")], (Some("200"), 0), (1, 0, 0), ANSWERED),
    ending("not found", &[Attempt::Answer("404")], (Some("404"), 0), (1, 0, 0), ANSWERED),
    ending("asked for less", &[Attempt::Answer("429")], (Some("429"), 0), (0, 0, 0), ANSWERED),
    ending("upstream 503", &[Attempt::Answer("503")], (Some("503"), 0), (0, 1, 0), FAILED),
    ending("connect refused (UF)", &[REFUSED], (Some("503"), 32), (0, 1, 1), FAILED),
    ending("connect timed out (UF)", &[Attempt::TimedOut], (Some("503"), 32), (0, 1, 1), FAILED),
    ending("closed or reset before headers (UC)", &[RESET], (Some("503"), 64), (0, 1, 0), FAILED),
    ending("garbage (UPE)", &[RESET], (Some("502"), 8_388_608), (0, 1, 0), FAILED),
    ending("route timeout (UT)", &[RESET], (Some("504"), 4), (0, 1, 0), FAILED),
    // The flag comes after the status went out: to the client's filter it was an answer.
    ending("body cut midway", &[Attempt::Cut("200", 0)], (Some("200"), 0), (0, 1, 0), ANSWERED),
    // No attempt: the zone that was chosen is charged.
    ending("no host (UH)", &[], (Some("503"), 2), (0, 1, 0), FAILED),
    ending("pool overflow (UO)", &[], (Some("503"), 128), (0, 1, 0), FAILED),
    // The same flag where the budget denies a retry: the attempt has been charged.
    ending("no retry to be had (UO)", &[Attempt::Answer("503")], (Some("503"), 128), (0, 1, 0), FAILED),
    ending("no route (NR)", &[], (Some("404"), 256), (0, 0, 0), ANSWERED),
    ending("retries exhausted (UF, URX)", &[REFUSED, REFUSED], (Some("503"), 32 + 32_768), (0, 2, 2), FAILED),
    ending("client gone (DC)", &[Attempt::Nothing(GONE, None)], (None, GONE), (0, 0, 0), None),
    ending("cancelled (DR)", &[Attempt::Nothing(CANCELLED, None)], (None, CANCELLED), (0, 0, 0), None),
    ending("cancelled midway (DR)", &[Attempt::Cut("200", CANCELLED)], (Some("200"), 0), (0, 0, 0), ANSWERED),
    ending("fault abort (FI)", &[], (Some("503"), 1_024), (0, 0, 0), FAILED),
    ending("fault delay (DI)", &[Attempt::Answer("200")], (Some("200"), 512), (1, 0, 0), ANSWERED),
];

#[test]
fn each_ending_counts_once_and_for_the_zone_that_it_says_something_about() {
    // All requests are for the proxy's own zone.
    let mut mesh = mesh(Setup { rate: 0.0, ..setup(1, 9) }, &serde_json::json!({"mode": "strong"}));
    let mut outcomes = std::collections::BTreeMap::from([("answered", 0), ("failed", 0), ("refused", 0)]);
    for Ending { what, attempts, client, charged, outcome } in ENDINGS {
        let before = of_own_zone(&mesh);
        carry_out(&mut mesh, attempts, client);
        let after = of_own_zone(&mesh);
        assert_eq!((after.0 - before.0, after.1 - before.1, after.2 - before.2), charged, "{what}");
        if let Some(outcome) = outcome {
            *outcomes.get_mut(outcome).unwrap() += 1;
        }
        for (outcome, count) in &outcomes {
            assert_eq!(metric(&mesh, "requests_total", &format!(";outcome={outcome}")), *count, "{what}");
        }
        for other in ["az-b", "az-c"] {
            assert_eq!(of_zone(&mesh, other), (0, 0, 0), "{what}: {other} had nothing to do with it");
        }
    }
    assert_eq!(transitions(&mesh), [""; 0]);
}

/// A watch has no end that says anything: it counts when it has lasted, on whichever worker it is, and not again.
#[test]
fn an_answer_that_goes_on_counts_after_three_seconds() {
    let mut mesh = mesh(Setup { rate: 0.0, ..setup(2, 9) }, &serde_json::json!({"mode": "strong"}));
    let host = Host { address: "10.0.0.1:80".into(), zone: "az-a".into(), id: Some("order-svc/az-a".into()) };
    let mut open = |worker: usize| {
        let (cluster, host) = (Some("order-svc".into()), Some(host.clone().into()));
        let info = StreamInfo { cluster, host, attempt: 1, ..StreamInfo::default() };
        let Opened::Stream(stream) = mesh.proxy().open(worker, Place::Upstream, info) else {
            panic!("no filter")
        };
        let mut headers = Headers::from([(":method", "GET"), (":path", "/")]);
        stream.request_headers(&mut headers, true).unwrap();
        stream.response_headers(&mut Headers::from([(":status", "200")]), false).unwrap();
        stream.response_body(100, false).unwrap();
        stream
    };
    let streams = [open(0), open(1), open(1)];
    mesh.run(secs(2.9));
    assert_eq!(of_own_zone(&mesh), (0, 0, 0));
    mesh.run(secs(0.7));
    assert_eq!(of_own_zone(&mesh), (3, 0, 0));
    for (stream, flags) in streams.into_iter().zip([0, GONE, CANCELLED]) {
        stream.update(|info| info.flags = flags);
        stream.close().unwrap();
    }
    mesh.run(secs(10.0));
    assert_eq!(of_own_zone(&mesh), (3, 0, 0));
    assert_eq!(metric(&mesh, "attempts_total", ";zone=az-a;result=late"), 0);
}

/// To a gRPC request Envoy says its own 503 as 200 with a `grpc-status`, all in the headers; a service says its failures in trailers.
#[test]
fn a_grpc_request_is_counted_by_its_grpc_status() {
    let mut mesh = mesh(Setup { rate: 0.0, ..setup(1, 9) }, &serde_json::json!({"mode": "strong"}));
    let ask = |mesh: &mut Mesh, flags: u64, in_trailers: bool, code: &'static str| {
        let mut headers = Headers::from([(":method", "POST"), (":path", "/order.Orders/Get")]);
        let (client, _) = ask(mesh, 0, &mut headers);
        client.update(|info| (info.flags, info.attempt) = (flags, 1));
        if in_trailers {
            client.response_headers(&mut Headers::from([(":status", "200")]), false).unwrap();
            client.response_trailers(&mut Headers::from([("grpc-status", code)])).unwrap();
        } else {
            let mut headers = Headers::from([(":status", "200"), ("grpc-status", code)]);
            client.response_headers(&mut headers, true).unwrap();
        }
        client.close().unwrap();
    };
    for (what, flags, in_trailers, code, charged, outcome) in [
        ("no host (UH)", 2, false, "14", (0, 1, 0), "failed"),
        ("pool overflow (UO)", 128, false, "14", (0, 1, 0), "failed"),
        ("unavailable, says the service", 0, false, "14", (0, 0, 0), "failed"),
        ("internal, says the service", 0, true, "13", (0, 0, 0), "failed"),
        ("not found", 0, true, "5", (0, 0, 0), "answered"),
        ("ok", 0, true, "0", (0, 0, 0), "answered"),
    ] {
        let label = format!(";outcome={outcome}");
        let (before, counted) = (of_own_zone(&mesh), metric(&mesh, "requests_total", &label));
        ask(&mut mesh, flags, in_trailers, code);
        let after = of_own_zone(&mesh);
        assert_eq!((after.0 - before.0, after.1 - before.1, after.2 - before.2), charged, "{what}");
        assert_eq!(metric(&mesh, "requests_total", &label) - counted, 1, "{what}");
    }
}

/// The last row: what the filter itself answers with has no flag, no details and no attempt.
#[test]
fn the_filter_s_own_refusal_is_no_failure_of_a_zone() {
    let abort =
        serde_json::json!({"mode": "strong", "abort": {"percent": 100, "status": 503, "when": "always"}});
    let mut mesh = mesh(Setup { rate: 0.0, ..setup(1, 9) }, &abort);
    let mut headers = Headers::from([(":method", "GET"), (":path", "/")]);
    let (stream, decided) = ask(&mut mesh, 0, &mut headers);
    assert!(matches!(decided, Decided::Refused { status: 503, .. }), "{decided:?}");
    stream.response_headers(&mut Headers::from([(":status", "503")]), true).unwrap();
    stream.close().unwrap();
    assert_eq!(of_own_zone(&mesh), (0, 0, 0));
    assert_eq!(metric(&mesh, "requests_total", ";outcome=refused"), 1);
    assert_eq!(metric(&mesh, "requests_total", ";outcome=failed"), 0);
}

/// One request with its attempts, in the order in which Envoy calls the filters.
fn carry_out(mesh: &mut Mesh, attempts: &[Attempt], (code, flags): Client) {
    let mut headers = Headers::from([(":method", "GET"), (":path", "/")]);
    let (client, _) = ask(mesh, 0, &mut headers);
    let host = Host { address: "10.0.0.1:80".into(), zone: "az-a".into(), id: Some("order-svc/az-a".into()) };
    for (number, attempt) in (1..).zip(attempts) {
        let info = StreamInfo {
            cluster: Some("order-svc".into()),
            host: Some(host.clone().into()),
            attempt: number,
            ..StreamInfo::default()
        };
        let Opened::Stream(stream) = mesh.proxy().open(0, Place::Upstream, info) else { panic!("no filter") };
        stream.request_headers(&mut headers, true).unwrap();
        match *attempt {
            Attempt::Answer(status) => {
                stream.response_headers(&mut Headers::from([(":status", status)]), false).unwrap();
                stream.response_body(100, true).unwrap();
            }
            Attempt::Cut(status, flags) => {
                stream.response_headers(&mut Headers::from([(":status", status)]), false).unwrap();
                stream.response_body(100, false).unwrap();
                stream.update(|info| info.flags = flags);
            }
            Attempt::TimedOut => stream.update(|info| info.connect_timeout = true),
            Attempt::Nothing(flags, why) => {
                stream.update(|info| (info.flags, info.transport_failure) = (flags, why));
            }
        }
        stream.close().unwrap();
    }
    client.update(|info| {
        (info.flags, info.attempt) = (flags, (attempts.len() as u64).max(1));
        info.host = (!attempts.is_empty()).then(|| host.into());
    });
    if let Some(status) = code {
        client.response_headers(&mut Headers::from([(":status", status)]), false).unwrap();
        client.response_body(100, true).unwrap();
    }
    client.close().unwrap();
}

fn of_own_zone(mesh: &Mesh) -> Charged {
    of_zone(mesh, "az-a")
}

fn of_zone(mesh: &Mesh, zone: &str) -> Charged {
    let count = |name, labels: &str| metric(mesh, name, &format!(";zone={zone}{labels}"));
    (
        count("attempts_total", ";result=ok"),
        count("attempts_total", ";result=fail"),
        count("connect_failures_total", ""),
    )
}
