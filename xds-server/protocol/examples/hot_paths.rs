//! What one stream executes for a change, so often that valgrind can count it: `scripts/bench-xds --instructions` subtracts the
//! instructions of a run of none from those of a run of many.
//!
//! ```text
//! hot_paths SERVICES CHANGES    a delta stream that has SERVICES is told of CHANGES, one at a time
//! ```
//!
//! Each time: one endpoint changed, the session's step, the response written to bytes, the client's ACK and the step after it.
//! Building the snapshots is the publisher's and comes before; it is the same in both runs.

mod services;

use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use services::{assignment, view};
use zonebreak_xds::{
    ChangeId, Effect, Event, Protocol, Request, Response, Scope, Session, SessionOptions, StreamId, TypeUrl,
};

/// As many as any run is told of, so that every run builds as many.
const SNAPSHOTS: usize = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|number| number.parse().ok()).collect();
    let [services, changes] = numbers[..] else { return Err("usage: hot_paths SERVICES CHANGES".into()) };
    let mut snapshots = vec![Arc::new(view(0, services)?)];
    for number in 1..=SNAPSHOTS {
        let mut next = snapshots[number - 1].edit(ChangeId(number as u64));
        next.put(assignment(0, number * 7919 % services, number))?;
        snapshots.push(Arc::new(next.build()));
    }

    let now = Instant::now();
    let options = Arc::new(SessionOptions::default());
    let mut session = Session::new(options, StreamId(1), Protocol::Delta, Scope::Aggregated);
    let mut waiting = session.step(now, Event::Request(first(&TypeUrl::CLUSTER, Vec::new())));
    waiting.extend(session.step(now, Event::Snapshot(snapshots[0].clone())));
    answer(&mut session, now, waiting);
    let names = snapshots[0].set(&TypeUrl::ENDPOINT).iter().map(|endpoints| endpoints.name().to_string());
    for (type_url, names) in [
        (TypeUrl::ENDPOINT, names.collect()),
        (TypeUrl::LISTENER, Vec::new()),
        (TypeUrl::ROUTE, vec!["routes".to_owned()]),
    ] {
        let effects = session.step(now, Event::Request(first(&type_url, names)));
        answer(&mut session, now, effects);
    }

    let mut bytes = 0;
    for change in 0..changes {
        let newest = snapshots[1 + change % SNAPSHOTS].clone();
        let effects = session.step(now, Event::Snapshot(newest));
        bytes += answer(&mut session, now, effects);
    }
    println!("{bytes} bytes");
    Ok(())
}

/// Writes what was sent and accepts it, until nothing is sent any more. How many bytes there were.
fn answer(session: &mut Session, now: Instant, mut effects: Vec<Effect>) -> usize {
    let mut bytes = 0;
    while let Some(effect) = effects.pop() {
        if let Effect::Send(response) = effect {
            let mut written = Vec::with_capacity(response.encoded_len());
            response.encode(&mut written);
            bytes += std::hint::black_box(written).len();
            effects.extend(session.step(now, Event::Request(accept(&response))));
        }
    }
    bytes
}

fn first(type_url: &TypeUrl, names: Vec<String>) -> Request {
    Request::Delta(Box::new(DeltaDiscoveryRequest {
        node: Some(Node { id: "front-1".into(), ..Default::default() }),
        type_url: type_url.to_string(),
        resource_names_subscribe: names,
        ..Default::default()
    }))
}

fn accept(response: &Response) -> Request {
    Request::Delta(Box::new(DeltaDiscoveryRequest {
        type_url: response.type_url.to_string(),
        response_nonce: response.nonce.to_string(),
        ..Default::default()
    }))
}
