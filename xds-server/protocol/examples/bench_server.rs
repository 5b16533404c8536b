//! What `scripts/bench-xds` measures: the engine with made-up services, served as `zonebreak serve` does, and changed on command.
//! The peer beside it is `bench/go-control-plane`, which holds the same resources and obeys the same lines.
//!
//! ```text
//! bench_server SERVICES
//! bench_server bare
//! ```
//!
//! It says `listening ADDRESS`, and answers `change N` with `changed N` and `settle` with `settled`. It ends with its input.
//!
//! What it holds, and what a change is, is in `services`. The second is the same without the engine, for what HTTP/2 costs alone.

#[path = "services/bare.rs"]
mod bare;
mod services;

use std::net::SocketAddr;
use std::sync::Arc;

use services::{ZONES, assignment, view, zone_name};
use zonebreak_xds::{ChangeId, Hub, Server, ServerOptions, TransportOptions, ViewKey};

/// As the `zonebreak` program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let services = std::env::args().nth(1);
    let bare = services.as_deref() == Some("bare");
    let services = if bare { Some(1) } else { services.and_then(|services| services.parse().ok()) };
    let services: usize = services.filter(|services| *services > 0).ok_or("usage: bench_server SERVICES")?;
    let hub = Hub::new();
    for zone in 0..ZONES {
        hub.publish([(ViewKey::new(&zone_name(zone)), Arc::new(view(zone, services)?))]);
    }
    let view_of = |node: &zonebreak_xds::Node| {
        ViewKey::new(node.locality.as_ref().map_or("", |locality| &locality.zone))
    };
    let server = Server::new(hub.clone(), view_of, ServerOptions::default());

    let listener = zonebreak_xds::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    println!("listening {}", listener.local_addr()?);
    let transport = TransportOptions::default();
    let incoming = transport.incoming(listener);
    let routes = if bare { bare::routes() } else { server.routes() };
    let serving = transport.server().add_routes(routes).serve_with_incoming(incoming);
    // On a thread of its own, as a publisher is.
    let obeying =
        tokio::task::spawn_blocking(move || obey(&hub, services).map_err(|error| error.to_string()));
    tokio::select! {
        ended = serving => Ok(ended?),
        ended = obeying => Ok(ended??),
    }
}

/// Does what the lines of standard input say, until they end.
fn obey(hub: &Arc<Hub>, services: usize) -> Result<(), Failure> {
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split_once(' ') {
            None if line == "settle" => println!("settled"),
            Some(("change", number)) => {
                change(hub, services, number.parse()?)?;
                println!("changed {number}");
            }
            _ => return Err(format!("not a command: {line:?}").into()),
        }
    }
    Ok(())
}

fn change(hub: &Arc<Hub>, services: usize, number: usize) -> Result<(), Failure> {
    let service = number * 7919 % services;
    let mut views = Vec::with_capacity(ZONES);
    for zone in 0..ZONES {
        let key = ViewKey::new(&zone_name(zone));
        let previous = hub.snapshot(&key).unwrap_or_default();
        let mut next = previous.edit(ChangeId(number as u64));
        next.put(assignment(zone, service, number))?;
        views.push((key, Arc::new(next.build())));
    }
    hub.publish(views);
    Ok(())
}
