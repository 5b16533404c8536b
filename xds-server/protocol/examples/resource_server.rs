//! The engine with nothing around it: views are set over HTTP, one for each node id, and served over xDS. For clients and
//! conformance suites that want to drive a server; it keeps nothing and checks nobody's identity.
//!
//! ```text
//! cargo run -p zonebreak-xds --example resource_server -- [XDS_ADDRESS [HTTP_ADDRESS]]
//!
//! POST /views/{node_id}   {"version": "1", "replace": false,
//!                          "set": [{"type_url": "...", "name": "...", "value": "<base64 of the serialized resource>"}],
//!                          "remove": [{"type_url": "...", "name": "..."}]}
//! DELETE /views/{node_id}
//! ```
//!
//! A request is one change, and published when it is answered. `version` is told to clients as it is (`version_info`,
//! `system_version_info`) for the types the request names; the others keep theirs and send nothing. Whether anything is sent is
//! decided by content, also when `version` did not move. With `replace`, the named types hold exactly what is set. A deleted
//! view's clients keep what they have and are told nothing until it is set again. Port 0 asks the system for one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::net::TcpListener;
use zonebreak_xds::{
    ChangeId, Hub, Resource, Server, ServerOptions, Snapshot, TransportOptions, TypeUrl, Version, ViewKey,
};

/// The largest request that is read, in bytes.
const BODY: usize = 256 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    version: String,
    #[serde(default)]
    replace: bool,
    #[serde(default)]
    set: Vec<Set>,
    #[serde(default)]
    remove: Vec<Remove>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    type_url: String,
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    type_url: String,
    name: String,
}

/// The hub, and the number of the last change; its lock puts changes in a row.
struct Views {
    hub: Arc<Hub>,
    changes: Mutex<u64>,
}

type Answer = Result<StatusCode, (StatusCode, String)>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let xds: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:18000").parse()?;
    let http: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:18001").parse()?;
    let (xds, http) = (TcpListener::bind(xds).await?, TcpListener::bind(http).await?);
    println!("xDS on {}, views on http://{}/views/<node id>", xds.local_addr()?, http.local_addr()?);
    serve(xds, http).await
}

/// Serves xDS and the views until either fails.
pub async fn serve(xds: TcpListener, http: TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    let hub = Hub::new();
    let server = Server::new(hub.clone(), |node| ViewKey::new(&node.id), ServerOptions::default());
    let views = Arc::new(Views { hub, changes: Mutex::new(0) });
    let api = Router::new()
        .route("/views/{node_id}", post(change).delete(delete))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(views);
    let transport = TransportOptions::default();
    let incoming = transport.incoming(xds);
    let serving = transport.server().add_routes(server.routes()).serve_with_incoming(incoming);
    tokio::select! {
        ended = serving => ended?,
        ended = axum::serve(http, api).into_future() => ended?,
    }
    Ok(())
}

async fn change(
    State(views): State<Arc<Views>>,
    Path(node_id): Path<String>,
    Json(change): Json<Change>,
) -> Answer {
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    let view = ViewKey::new(&node_id);
    let mut changes = views.changes.lock().unwrap_or_else(PoisonError::into_inner);
    let previous = views.hub.snapshot(&view).unwrap_or_default();
    let mut next = previous.edit(ChangeId(*changes + 1));

    let named = change.set.iter().map(|set| &set.type_url).chain(change.remove.iter().map(|r| &r.type_url));
    let mut named: BTreeSet<TypeUrl> = named.map(|url| TypeUrl::new(url)).collect();
    if change.replace && named.is_empty() {
        // Nothing in the place of everything.
        named.extend(previous.types().map(|(type_url, _)| type_url.clone()));
    }
    for type_url in &named {
        next.version(type_url, Version::new(&change.version));
        if change.replace {
            for resource in previous.set(type_url).iter() {
                next.remove(type_url, resource.name());
            }
        }
    }
    for Remove { type_url, name } in &change.remove {
        next.remove(&TypeUrl::new(type_url), name);
    }
    for Set { type_url, name, value } in &change.set {
        let value =
            STANDARD.decode(value).map_err(|error| bad(format!("{name}: value is not base64: {error}")))?;
        let resource = Resource::from_value(name, TypeUrl::new(type_url), value);
        next.put(resource).map_err(|error| bad(error.to_string()))?;
    }
    let next: Arc<Snapshot> = Arc::new(next.build());
    *changes += 1;
    views.hub.publish([(view, next)]);
    Ok(StatusCode::NO_CONTENT)
}

async fn delete(State(views): State<Arc<Views>>, Path(node_id): Path<String>) -> Answer {
    let _in_a_row = views.changes.lock().unwrap_or_else(PoisonError::into_inner);
    views.hub.remove([&ViewKey::new(&node_id)]);
    Ok(StatusCode::NO_CONTENT)
}
