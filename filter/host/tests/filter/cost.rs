//! What the filter costs: memory over a million requests, and host calls a request.

use zonebreak_host::{
    abi::Call,
    mesh::{Effect, Fault, Setup},
    proxy::{Opened, Place},
    vm::{Headers, Host, StreamInfo, Verdict},
};

use crate::support::*;

/// V8 compiles it in each proxy, which takes 0.07 MB for each KB (docs/bench-breaker.md).
#[test]
fn the_module_is_small() {
    let size = filter().size();
    assert!(size <= 250_000, "{size} bytes");
}

#[test]
fn memory_does_not_grow_over_a_million_requests() {
    let mut mesh = mesh(Setup { rate: 2000.0, ..setup(1, 1) }, &even());
    mesh.run(secs(50.0));
    let size = mesh.proxy().vm(0).unwrap().memory_size();
    mesh.run(secs(500.0));
    mesh.drain();
    let vm = mesh.proxy().vm(0).unwrap();
    assert_eq!(vm.memory_size(), size, "the first is the size after 100 000 requests");
    assert_eq!(vm.open_streams(), 0);
    // Empty wasm modules begin with a page or two more than 1 MB: stack and statics.
    assert!(size < 2 << 20, "{size} bytes");
}

/// Through faults, and a new policy every second.
#[test]
fn memory_does_not_grow_with_new_policies_either() {
    let mut mesh = mesh(setup(2, 2), &even());
    let policy = |i: u64| {
        let mut policy = even();
        policy["retry"] = serde_json::json!({"budget_percent": i % 90});
        downstream(&Setup::default(), &policy)
    };
    let mut size = 0;
    for i in 0..600 {
        if i % 20 == 5 {
            mesh.break_zone(A, Fault::always(Effect::Status(503)));
        }
        if i % 20 == 10 {
            mesh.heal_zone(A);
        }
        configure(&mut mesh, &policy(i)).unwrap();
        mesh.run(secs(1.0));
        if i == 200 {
            size = mesh.proxy().vm(0).unwrap().memory_size();
        }
    }
    assert_eq!(mesh.proxy().vm(0).unwrap().memory_size(), size);
}

/// 256 services in 8 zones each, the most that a configuration may have, and every one in use.
#[test]
fn the_largest_configuration_fits_in_little_memory() {
    let mut mesh = mesh(setup(1, 3), &even());
    mesh.set_rate(0.0);
    let before = mesh.proxy().vm(0).unwrap().memory_size();
    let zones: serde_json::Map<_, _> = (0..8).map(|i| (format!("az-{i}"), 1.into())).collect();
    let service = serde_json::json!({"zones": zones, "policy": {"mode": "eventual"}});
    let services: serde_json::Map<_, _> = (0..256).map(|i| (format!("svc-{i}"), service.clone())).collect();
    let most = serde_json::json!({"version": 1, "role": "downstream", "zone": "az-0", "services": services});
    configure(&mut mesh, &most).unwrap();
    mesh.run(secs(60.0));
    let grown = mesh.proxy().vm(0).unwrap().memory_size() - before;
    // 1 MB for the engines, as core's own test holds; the rest for the handles of twenty-five thousand metrics.
    assert!(grown <= 3 << 19, "{grown} bytes");
    assert_eq!(complaints(&mesh), [""; 0]);
}

/// One request from end to end on the success path: four values are read, and nothing is shared.
#[test]
fn at_most_four_host_calls_return_bytes() {
    let mut mesh = mesh(setup(1, 4), &even());
    mesh.run(secs(10.0));
    mesh.drain();
    for _ in 0..20 {
        let before = mesh.proxy().vm(0).unwrap().calls().clone();
        let info = StreamInfo { cluster: Some("order-svc".into()), ..StreamInfo::default() };
        let host =
            Host { address: "10.0.0.1:80".into(), zone: "az-a".into(), id: Some("order-svc/az-a".into()) };
        let Opened::Stream(downstream) = mesh.proxy().open(0, Place::Downstream, info.clone()) else {
            panic!()
        };
        let mut headers = Headers::from([(":method", "GET"), (":path", "/"), (":authority", "order-svc")]);
        assert_eq!(downstream.request_headers(&mut headers, true).unwrap(), Verdict::Continue);
        let info = StreamInfo { host: Some(host.into()), attempt: 1, ..info };
        let Opened::Stream(upstream) = mesh.proxy().open(0, Place::Upstream, info) else { panic!() };
        upstream.request_headers(&mut headers, true).unwrap();
        for stream in [upstream, downstream] {
            stream.response_headers(&mut Headers::from([(":status", "200")]), false).unwrap();
            stream.response_body(100, true).unwrap();
            stream.close().unwrap();
        }
        let calls = mesh.proxy().vm(0).unwrap().calls().since(&before);
        assert!(calls.returned_bytes() <= 4, "{calls:?}");
        assert!(calls.all() <= 12, "{calls:?}");
        assert_eq!(
            (calls.of(Call::GetShared), calls.of(Call::SetShared), calls.of(Call::GetMetric)),
            (0, 0, 0)
        );
        assert_eq!(
            calls.of(Call::IncrementMetric),
            2 + calls.of(Call::IncrementMetric).saturating_sub(2).min(1)
        );
    }
}
