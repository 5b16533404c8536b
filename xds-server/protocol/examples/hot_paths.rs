//! What one stream executes on the paths that all proxies take at once, so often that valgrind can count it: `scripts/bench-xds
//! --instructions` subtracts the instructions of a run of none from those of a run of many.
//!
//! ```text
//! hot_paths delta|sotw PATH SERVICES TIMES
//!
//! change   a client that has everything is told of a change of one service's endpoints, and accepts it
//! refuse   the same, and refuses it
//! begin    a client comes with nothing, and is given clusters, endpoints, a listener and routes as Envoy asks for them
//! return   a client comes back with all of these: in incremental it says so, and in state of the world their versions
//! ```
//!
//! Counted are reading the requests from their bytes, the session's steps, and writing the responses to bytes; of the client's part
//! what a few bytes of an answer take. Building the snapshots is the publisher's and comes before; it is the same in both runs.

mod services;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status;
use prost::Message;
use services::{assignment, view};
use zonebreak_xds::{
    ChangeId, Effect, Event, Heard, Protocol, Response, Scope, Session, SessionOptions, Snapshot, StreamId,
    TypeUrl,
};

/// As the `zonebreak` program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "usage: hot_paths delta|sotw change|refuse|begin|return SERVICES TIMES";

/// As many as any run is told of, so that every run builds as many.
const SNAPSHOTS: usize = 100;

/// What Envoy asks for, in its order, and whether by names.
const TYPES: [(TypeUrl, bool); 4] = [
    (TypeUrl::CLUSTER, false),
    (TypeUrl::ENDPOINT, true),
    (TypeUrl::LISTENER, false),
    (TypeUrl::ROUTE, true),
];

/// What a client says of one type, in bytes; a message may be put together from parts.
struct Words {
    type_url: TypeUrl,
    /// The first time, with nothing.
    first: Bytes,
    /// The first time, with all that there is.
    back: Bytes,
    /// Whenever it answers: the names, in state of the world.
    again: Vec<u8>,
}

struct Client {
    protocol: Protocol,
    words: Vec<Words>,
    session: Session,
    now: Instant,
    refuses: bool,
    written: usize,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, path, services, times] = &arguments[..] else { return Err(USAGE.into()) };
    let protocol = match protocol.as_str() {
        "delta" => Protocol::Delta,
        "sotw" => Protocol::Sotw,
        _ => return Err(USAGE.into()),
    };
    let (services, times): (usize, usize) = (services.parse()?, times.parse()?);
    let first = Arc::new(view(0, services)?);
    let mut client = Client::new(protocol, &first);
    match path.as_str() {
        "begin" | "return" => {
            for _ in 0..times {
                client.comes(&first, path == "return")?;
            }
        }
        "change" | "refuse" => {
            client.comes(&first, false)?;
            client.refuses = path == "refuse";
            // Who refuses all refuses one thing again and again, or it would have ever more to remember.
            let spread = if client.refuses { 0 } else { 7919 };
            let mut snapshots: Vec<Arc<Snapshot>> = Vec::new();
            for number in 1..=SNAPSHOTS {
                let mut next = snapshots.last().unwrap_or(&first).edit(ChangeId(number as u64));
                next.put(assignment(0, number * spread % services, number))?;
                snapshots.push(Arc::new(next.build()));
            }
            for snapshot in snapshots.into_iter().cycle().take(times) {
                client.hears(Event::Snapshot(snapshot))?;
            }
        }
        _ => return Err(USAGE.into()),
    }
    println!("{} bytes", client.written);
    Ok(())
}

// === impl Client ===

impl Client {
    fn new(protocol: Protocol, view: &Snapshot) -> Self {
        let words = TYPES.iter().map(|(type_url, named)| Words::of(protocol, type_url, *named, view));
        let (words, session) = (words.collect(), session(protocol));
        Self { protocol, words, session, now: Instant::now(), refuses: false, written: 0 }
    }

    /// A stream of its own, until it has what there is.
    fn comes(&mut self, view: &Arc<Snapshot>, back: bool) -> Result<(), Failure> {
        self.session = session(self.protocol);
        self.session.recognise(view.clone());
        let said = |words: &Words| if back { words.back.clone() } else { words.first.clone() };
        let requests: Vec<Bytes> = self.words.iter().map(said).collect();
        let mut view = Some(view.clone());
        for request in requests {
            self.hears(Event::Heard(Heard::read(self.protocol, request)?))?;
            if let Some(view) = view.take() {
                self.hears(Event::Snapshot(view))?;
            }
        }
        Ok(())
    }

    /// The stream's next event, and all that follows from it.
    fn hears(&mut self, event: Event) -> Result<(), Failure> {
        let mut effects = VecDeque::from(self.session.step(self.now, event));
        while let Some(effect) = effects.pop_front() {
            if let Effect::Send(response) = effect {
                let mut written = Vec::with_capacity(response.encoded_len());
                response.encode(&mut written);
                self.written += std::hint::black_box(written).len();
                let answer = Heard::read(self.protocol, self.answer(&response))?;
                effects.extend(self.session.step(self.now, Event::Heard(answer)));
            }
        }
        Ok(())
    }

    fn answer(&self, response: &Response) -> Bytes {
        let words = self.words.iter().find(|words| words.type_url == response.type_url);
        let mut message = words.map_or_else(Vec::new, |words| words.again.clone());
        let (type_url, response_nonce) = (response.type_url.to_string(), response.nonce.to_string());
        let refusal = || Status { code: 3, message: "not to my taste".into(), ..Status::default() };
        let error_detail = self.refuses.then(refusal);
        // Neither fails: there is room.
        let _ = match self.protocol {
            Protocol::Delta => {
                DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..Default::default() }
                    .encode(&mut message)
            }
            Protocol::Sotw => {
                let version_info = response.version.to_string();
                DiscoveryRequest {
                    type_url,
                    response_nonce,
                    error_detail,
                    version_info,
                    ..Default::default()
                }
                .encode(&mut message)
            }
        };
        message.into()
    }
}

fn session(protocol: Protocol) -> Session {
    Session::new(Arc::new(SessionOptions::default()), StreamId(1), protocol, Scope::Aggregated)
}

// === impl Words ===

impl Words {
    fn of(protocol: Protocol, type_url: &TypeUrl, named: bool, view: &Snapshot) -> Self {
        let set = view.set(type_url);
        let all = || set.iter().map(|resource| resource.name().to_string());
        let names: Vec<String> = if named { all().collect() } else { Vec::new() };
        let node = Some(Node { id: "front-1".into(), ..Default::default() });
        let (first, back, again) = match protocol {
            Protocol::Delta => {
                let versions = set.iter().map(|resource| resource.version().to_string());
                let first = DeltaDiscoveryRequest {
                    node,
                    type_url: type_url.to_string(),
                    resource_names_subscribe: names,
                    ..Default::default()
                };
                let initial_resource_versions = all().zip(versions).collect();
                let back = DeltaDiscoveryRequest { initial_resource_versions, ..first.clone() };
                (first.encode_to_vec(), back.encode_to_vec(), Vec::new())
            }
            Protocol::Sotw => {
                let again = DiscoveryRequest { resource_names: names.clone(), ..Default::default() };
                let first = DiscoveryRequest {
                    node,
                    type_url: type_url.to_string(),
                    resource_names: names,
                    ..Default::default()
                };
                let back = DiscoveryRequest { version_info: set.version().to_string(), ..first.clone() };
                (first.encode_to_vec(), back.encode_to_vec(), again.encode_to_vec())
            }
        };
        Self { type_url: type_url.clone(), first: first.into(), back: back.into(), again }
    }
}
