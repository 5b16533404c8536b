//! The engine's streams as the proxies that operators know: one row a proxy, whether it asks on one stream or on one a type.

use std::{collections::BTreeMap, net::SocketAddr, time::SystemTime};

use jiff::{SignedDuration, Timestamp};
use zonebreak_xds::{ProxyStatus, Server, TypeStatus};

use crate::model::{Nack, Proxy, Standing, TypeState};

/// Every connected proxy, by id. Streams that have not said who they are yet are left out.
pub fn proxies(server: &Server) -> Vec<Proxy> {
    rows(server.proxies(), Timestamp::now())
}

fn rows(streams: Vec<ProxyStatus>, now: Timestamp) -> Vec<Proxy> {
    // One proxy's per-type streams share its connection, and two proxies that were given the same id do not.
    let mut proxies: BTreeMap<(String, Option<SocketAddr>), Proxy> = BTreeMap::new();
    for stream in streams.into_iter().filter(|stream| stream.view.is_some()) {
        let standing = if stream.converged { Standing::Synced } else { Standing::Stale };
        let types: Vec<(String, TypeState)> = stream
            .types
            .iter()
            .map(|kind| (kind.type_url.short().to_uppercase(), state(kind, now)))
            .collect();
        let worst = types.iter().map(|(_, state)| state.state).max().unwrap_or(standing).max(standing);
        let proxy = proxies.entry((stream.node_id.clone(), stream.peer)).or_insert_with(|| row(&stream));
        proxy.state = proxy.state.max(worst);
        proxy.types.extend(types);
    }
    proxies.into_values().collect()
}

fn row(stream: &ProxyStatus) -> Proxy {
    Proxy {
        id: stream.node_id.clone(),
        cluster: stream.cluster.clone(),
        zone: stream.locality.zone.clone(),
        view: stream.view.as_ref().map_or_else(String::new, ToString::to_string),
        peer: stream.peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string()),
        protocol: stream.protocol.to_string(),
        version: stream.user_agent.clone(),
        connected_since: timestamp(stream.connected_since),
        state: Standing::Synced,
        types: BTreeMap::new(),
        passed_over: None,
    }
}

fn state(kind: &TypeStatus, now: Timestamp) -> TypeState {
    let nack = kind.nack.as_ref().map(|nack| Nack {
        version: nack.version.to_string(),
        message: nack.message.clone(),
        at: SignedDuration::try_from(nack.ago).ok().and_then(|ago| now.checked_sub(ago).ok()).unwrap_or(now),
    });
    let state = match (&nack, kind.converged) {
        (Some(_), _) => Standing::Nacked,
        (None, true) => Standing::Synced,
        (None, false) => Standing::Stale,
    };
    TypeState {
        state,
        subscribed: (!kind.wildcard).then_some(kind.names),
        sent: kind.sent.as_ref().map(ToString::to_string),
        acked: kind.acked.as_ref().map(ToString::to_string),
        nack,
    }
}

/// A clock far outside of every calendar counts as the epoch.
fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH)
}
