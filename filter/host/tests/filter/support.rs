//! What the tests share: configurations, a mesh that is ready to run, and what the filter says of itself.

use std::time::Duration;

use serde_json::{Value, json};
use zonebreak_host::{
    HostError,
    mesh::{Mesh, Setup},
    process::Level,
    proxy::{FilterStream, Opened, Place, Settings},
    vm::{Headers, Module, StreamInfo, Verdict},
};

/// Index of the proxy's own zone, `az-a`, in the default setup.
pub const A: usize = 0;
pub const B: usize = 1;
pub const C: usize = 2;

pub fn filter() -> Module {
    Module::filter().unwrap_or_else(|error| panic!("failed to {error}"))
}

pub fn secs(secs: f64) -> Duration {
    Duration::from_secs_f64(secs)
}

/// Every zone gets the same share.
pub fn even() -> Value {
    json!({"mode": "eventual", "weights": {"az-a": 1, "az-b": 1, "az-c": 1}})
}

/// The proxy's own zone gets 80 %.
pub fn local_first() -> Value {
    json!({"mode": "eventual", "weights": {"az-a": 80, "az-b": 10, "az-c": 10}})
}

/// The default setup with this many workers.
pub fn setup(workers: usize, seed: u64) -> Setup {
    Setup { proxy: Settings { workers, seed, ..Settings::default() }, seed, ..Setup::default() }
}

/// The downstream configuration for a setup: its service and zones, with this policy.
pub fn downstream(setup: &Setup, policy: &Value) -> Value {
    let zones: serde_json::Map<_, _> =
        setup.zones.iter().map(|zone| (zone.name.clone(), zone.weight.into())).collect();
    let service = setup.service.as_str();
    json!({"version": 1, "role": "downstream", "services": {service: {"zones": zones, "policy": policy}}})
}

/// The same for the default setup, with drains: zone, percent that it keeps, seconds from now until it ends.
pub fn drained(mesh: &Mesh, policy: &Value, shifts: &[(&str, f64, u64)]) -> Value {
    let mut configuration = downstream(&Setup::default(), policy);
    let now = mesh.process().unix_ms();
    let shift = |(zone, keep, secs): &(&str, f64, u64)| json!({"zone": zone, "keep_percent": keep, "expires_at_ms": now + secs * 1000});
    configuration["services"]["order-svc"]["shifts"] = shifts.iter().map(shift).collect();
    configuration
}

pub fn configure(mesh: &mut Mesh, downstream: &Value) -> Result<(), HostError> {
    mesh.proxy().configure(Place::Downstream, &downstream.to_string())
}

/// A mesh with both roles configured.
pub fn mesh(setup: Setup, policy: &Value) -> Mesh {
    let configuration = downstream(&setup, policy);
    let mut mesh = Mesh::new(filter(), setup).unwrap();
    configure(&mut mesh, &configuration).unwrap();
    mesh.proxy().configure(Place::Upstream, r#"{"version": 1, "role": "upstream"}"#).unwrap();
    mesh
}

/// Transitions that the filter told of, in their order.
pub fn transitions(mesh: &Mesh) -> Vec<String> {
    mesh.process().logged().iter().filter(|line| line.text.contains(" -> ")).map(|l| l.text.clone()).collect()
}

/// Lines in the log that say something went wrong.
pub fn complaints(mesh: &Mesh) -> Vec<String> {
    mesh.process().logged().iter().filter(|line| line.level >= Level::Error).map(|l| l.text.clone()).collect()
}

/// A metric of the default service.
pub fn metric(mesh: &Mesh, name: &str, labels: &str) -> u64 {
    let full = format!("zonebreak_{name};service=order-svc{labels}");
    mesh.process().metrics().named(&full).unwrap_or_else(|| panic!("no metric {full}"))
}

/// The number that the gauge shows for a zone's state.
pub fn state(mesh: &Mesh, zone: &str) -> u64 {
    metric(mesh, "zone_state", &format!(";zone={zone}"))
}

pub const CLOSED: u64 = 0;
pub const OPEN: u64 = 1;

/// What the filter decides for a request, asked without sending it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// No key: Envoy's own priorities.
    Pass,
    Key(String),
    Refused {
        status: u32,
        reason: String,
        retry_after: String,
    },
}

/// Begins a request on a worker, and gives its stream and what was decided.
pub fn ask(mesh: &mut Mesh, worker: usize, headers: &mut Headers) -> (FilterStream, Decided) {
    let info = StreamInfo { cluster: Some("order-svc".into()), ..StreamInfo::default() };
    let Opened::Stream(stream) = mesh.proxy().open(worker, Place::Downstream, info) else {
        panic!("no filter on worker {worker}");
    };
    let decided = match stream.request_headers(headers, true).unwrap() {
        Verdict::Continue => match headers.get("x-zonebreak-serve") {
            Some(key) => Decided::Key(key.to_owned()),
            None => Decided::Pass,
        },
        Verdict::Respond(response) => Decided::Refused {
            status: response.status,
            reason: response.headers.get("x-zonebreak-reason").unwrap_or_default().to_owned(),
            retry_after: response.headers.get("retry-after").unwrap_or_default().to_owned(),
        },
        Verdict::Pause => panic!("the filter paused a request"),
    };
    (stream, decided)
}

/// What a worker decides for a request that then goes no further: its client leaves, which counts for nothing.
pub fn decided(mesh: &mut Mesh, worker: usize) -> Decided {
    let mut headers = Headers::from([(":method", "GET"), (":path", "/")]);
    let (stream, decided) = ask(mesh, worker, &mut headers);
    stream.close().unwrap();
    decided
}

/// How many of `n` requests on a worker may reach the proxy's own zone: no key at all, or one that its endpoints carry.
pub fn reaching_own(mesh: &mut Mesh, worker: usize, n: usize) -> usize {
    let reaches = |decided: &Decided| match decided {
        Decided::Pass => true,
        Decided::Key(key) => !key.contains("no-az-a") && key != "only-az-b" && key != "only-az-c",
        Decided::Refused { .. } => false,
    };
    (0..n).filter(|_| reaches(&decided(mesh, worker))).count()
}

/// Runs until the filter has told of a transition more than now, at most `span`; in steps of 1 ms. True when it has.
pub fn run_to_transition(mesh: &mut Mesh, span: Duration) -> bool {
    let (known, end) = (transitions(mesh).len(), mesh.now() + span);
    while transitions(mesh).len() == known && mesh.now() < end {
        mesh.run(Duration::from_millis(1));
    }
    transitions(mesh).len() > known
}
