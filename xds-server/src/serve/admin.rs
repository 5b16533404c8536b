//! The admin port: what the server has loaded and what the proxies have of it, as JSON; bound to loopback unless an operator
//! says otherwise. Read only, with one exception: an operator without an etcd to write to confirms held changes here, from the
//! server's own machine. With an etcd the word goes there, so that every replica hears it.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path, Query, State as Extract, rejection::JsonRejection},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use jiff::Timestamp;
use serde::Deserialize;
use zonebreak_core::{
    names::{ServiceName, Zone},
    policy::ServicePolicy,
};
use zonebreak_topology::{HeldId, confirm};

use super::{
    http::{index, pretty, problem},
    state::State,
};
use crate::{
    model::{
        self, ConfirmRequest, Confirmed, Convergence, Proxy, QuarantineRow, Standing, TypeState, Why,
        WhyProxy,
    },
    resources,
};

const PATHS: &[(&str, &str)] = &[
    ("/status", "source, filter, proxies, zones, services, refused values"),
    ("/proxies", "every connected proxy and how it stands"),
    ("/proxies/{id}", "one of them, by node.id"),
    ("/topology", "zones, services, endpoints and drains as loaded"),
    ("/problems", "values that were refused"),
    ("/load", "requests and errors of the last minute, from zone to zone, as the proxies report them"),
    ("/changes", "the last changes, their causes, and what became of them with the proxies"),
    ("/why?service=S&proxy=ID", "what made each weight and priority that the proxy has (or &zone=Z)"),
    ("/quarantine", "resources that a proxy refused and nobody gets until they change"),
    ("/held", "changes that are held back"),
    (
        "POST /held/confirm",
        "with a topology file: {\"id\", \"endpoints\", \"reason\", \"actor\"} lets one through",
    ),
    ("/convergence?revision=R", "how many proxies have acknowledged revision R or later"),
];

/// `?revision=R`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    revision: i64,
}

/// `?service=S&proxy=ID` or `?service=S&zone=Z`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WhyAsked {
    service: ServiceName,
    proxy: Option<String>,
    zone: Option<Zone>,
}

/// The routes.
pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(|| async { index("zonebreak admin", PATHS) }))
        .route("/status", get(|Extract(state): Extract<Arc<State>>| async move { pretty(&state.status()) }))
        .route("/proxies", get(|Extract(state): Extract<Arc<State>>| async move { pretty(&state.proxies()) }))
        .route("/proxies/{id}", get(proxy))
        .route("/topology", get(topology))
        .route(
            "/problems",
            get(|Extract(state): Extract<Arc<State>>| async move { pretty(&state.problems()) }),
        )
        .route(
            "/changes",
            get(|Extract(state): Extract<Arc<State>>| async move { pretty(&state.changes(usize::MAX)) }),
        )
        .route(
            "/load",
            get(|Extract(state): Extract<Arc<State>>| async move { pretty(&state.load(usize::MAX)) }),
        )
        .route(
            "/quarantine",
            get(|Extract(state): Extract<Arc<State>>| async move { pretty(&*state.quarantine()) }),
        )
        .route("/why", get(why))
        .route("/held", get(|Extract(state): Extract<Arc<State>>| async move { pretty(&state.held()) }))
        .route("/held/confirm", post(confirm))
        .route("/convergence", get(convergence))
        .fallback(|| async { (StatusCode::NOT_FOUND, index("there is nothing here; there is", PATHS)) })
        .with_state(state)
}

async fn proxy(Extract(state): Extract<Arc<State>>, Path(id): Path<String>) -> Response {
    match state.proxies().into_iter().find(|proxy| proxy.id == id) {
        Some(proxy) => pretty(&proxy),
        None => problem(
            StatusCode::NOT_FOUND,
            &format!("no proxy with node.id {id:?} is connected; `zonebreak proxies` lists them"),
        ),
    }
}

async fn topology(Extract(state): Extract<Arc<State>>) -> Response {
    match state.applied() {
        Some(applied) => pretty(&super::state::document(&applied.topology)),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "no topology was loaded yet; /status says why"),
    }
}

async fn why(
    Extract(state): Extract<Arc<State>>,
    asked: Result<Query<WhyAsked>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let asked = match asked {
        Ok(Query(asked)) => asked,
        Err(error) => {
            let message = format!("ask as /why?service=order-svc&proxy=sidecar-1, or &zone=az-a: {error}");
            return problem(StatusCode::BAD_REQUEST, &message);
        }
    };
    let Some(applied) = state.applied() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no topology was loaded yet; /status says why");
    };
    let proxy = match &asked.proxy {
        None => None,
        Some(id) => match state.proxies().into_iter().find(|proxy| proxy.id == *id) {
            Some(proxy) => Some(proxy),
            None => {
                let message =
                    format!("no proxy with node.id {id:?} is connected; `zonebreak proxies` lists them");
                return problem(StatusCode::NOT_FOUND, &message);
            }
        },
    };
    // What the proxy calls its zone may be none; it is served as nobody's then.
    let named = proxy.as_ref().map_or(asked.zone, |proxy| Zone::new(&proxy.view).ok());
    let found =
        model::why(&applied.topology, &applied.held, &asked.service, named.as_ref(), Timestamp::now());
    match found {
        Some(mut why) => {
            let policy = applied.topology.services.get(&why.service);
            let port = policy.map_or_else(|| ServicePolicy::default().port, |policy| policy.port);
            let quarantine = state.quarantine();
            let withheld = quarantine.iter().filter(|row| shapes(row, &why.service, port));
            why.notes.extend(withheld.map(|row| {
                let QuarantineRow { kind, name, node, message, change, .. } = row;
                format!("in quarantine: {kind} {name} of change {change} was refused by {node}, so the last good one is served: {message}")
            }));
            pretty(&Why { proxy: proxy.as_ref().map(has), ..why })
        }
        None => {
            let message =
                format!("there is no service {:?}; `zonebreak status` lists them", asked.service.as_str());
            problem(StatusCode::NOT_FOUND, &message)
        }
    }
}

/// Whether a withheld resource has a part in what proxies are told of a service on this port.
fn shapes(row: &QuarantineRow, service: &ServiceName, port: u16) -> bool {
    match row.kind.as_str() {
        // The filter's configuration holds every service.
        "ECDS" => true,
        "LDS" | "RDS" => row.name == resources::listener_name(port),
        // Clusters and endpoints are named like their service.
        _ => row.name == service.as_str(),
    }
}

fn has(proxy: &Proxy) -> WhyProxy {
    let [endpoints, filter] = ["EDS", "ECDS"].map(|kind| proxy.types.get(kind));
    let synced = |state: &TypeState| state.state == Standing::Synced;
    let refused = proxy.types.iter().filter_map(|(kind, state)| Some((kind.clone(), state.nack.clone()?)));
    WhyProxy {
        id: proxy.id.clone(),
        in_sync: endpoints.is_some_and(synced) && filter.is_none_or(synced),
        sent: endpoints.and_then(|state| state.sent.clone()),
        acked: endpoints.and_then(|state| state.acked.clone()),
        filter_sent: filter.and_then(|state| state.sent.clone()),
        filter_acked: filter.and_then(|state| state.acked.clone()),
        refused: refused.collect(),
    }
}

async fn confirm(
    Extract(state): Extract<Arc<State>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    word: Result<Json<ConfirmRequest>, JsonRejection>,
) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        return problem(
            StatusCode::FORBIDDEN,
            "confirm from the server's own machine: this port asks nobody for a password",
        );
    }
    let Json(word) = match word {
        Ok(word) => word,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    if state.source_kind() == "etcd" {
        let message = "the topology is in etcd: confirm there, with `zonebreak topology confirm`, for every replica to hear it";
        return problem(StatusCode::CONFLICT, message);
    }
    let Some(row) = state.held().into_iter().find(|row| row.id == word.id) else {
        return problem(StatusCode::NOT_FOUND, &format!("{:?} is not held; /held lists what is", word.id));
    };
    let confirmation = confirm::given(word.endpoints, &word.reason, &word.actor, Timestamp::now());
    // It is one of ours.
    let Some(id) = HeldId::parse(&row.id) else {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, &format!("nothing like {:?} can be held", row.id));
    };
    if let Err(invalid) = confirmation.validate() {
        return problem(StatusCode::BAD_REQUEST, &invalid.to_string());
    }
    match state.confirm(id, confirmation).await {
        Ok(()) => pretty(&Confirmed { revision: state.applied().map_or(0, |applied| applied.said.revision) }),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &format!("failed to confirm it: {error}")),
    }
}

async fn convergence(
    Extract(state): Extract<Arc<State>>,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Response {
    match asked {
        Ok(Query(Asked { revision })) => pretty::<Convergence>(&state.convergence(revision)),
        Err(error) => problem(StatusCode::BAD_REQUEST, &format!("ask as /convergence?revision=42: {error}")),
    }
}
