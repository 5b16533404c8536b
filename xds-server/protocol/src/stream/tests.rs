//! A stream driven from both sides in virtual time, without a connection.

use std::pin::Pin;

use axum::body::Body;
use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use futures::StreamExt;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;
use crate::hub::Hub;
use crate::resource::Resource;
use crate::server::{Server, ServerOptions};
use crate::types::{ChangeId, Protocol, Scope, ViewKey};
use crate::{ChangeStatus, Node};

const EDS: TypeUrl = TypeUrl::ENDPOINT;
const MINUTE: Duration = Duration::from_secs(60);

/// A server of one view and an incremental client of its endpoints.
struct Driven {
    server: Server,
    requests: mpsc::UnboundedSender<Result<Bytes, Status>>,
    responses: Pin<Box<dyn Stream<Item = Result<Response, Status>>>>,
    changes: u64,
}

impl Driven {
    fn new() -> Self {
        let server = Server::new(Hub::new(), |_: &Node| ViewKey::new("v"), ServerOptions::default());
        let (requests, said) = mpsc::unbounded_channel();
        let said = Body::from_stream(UnboundedReceiverStream::new(said));
        let inbound = Inbound::new(Protocol::Delta, 1 << 20, said);
        let responses = server.shared().serve(Protocol::Delta, Scope::Aggregated, None, inbound);
        Self { server, requests, responses: Box::pin(responses), changes: 0 }
    }

    fn say(&self, names: &[&str], nonce: &str) {
        let request = DeltaDiscoveryRequest {
            node: Some(Node { id: "n".into(), ..Node::default() }),
            type_url: EDS.to_string(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            response_nonce: nonce.into(),
            ..DeltaDiscoveryRequest::default()
        };
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0], &length[..], &message].concat();
        self.requests.send(Ok(framed.into())).unwrap();
    }

    /// Changes the endpoints of this name; answers the change's number.
    fn change(&mut self, name: &str) -> ChangeId {
        self.changes += 1;
        let (view, change) = (ViewKey::new("v"), ChangeId(self.changes));
        let mut next = self.server.hub().snapshot(&view).unwrap_or_default().edit(change);
        next.put(Resource::from_value(name, EDS, self.changes.to_string())).unwrap();
        self.server.announce(change, [view.clone()]);
        self.server.hub().publish([(view, Arc::new(next.build()))]);
        change
    }

    /// Takes what is sent, and accepts it, until nothing is for this long. How much that was.
    async fn follow(&mut self, time: Duration) -> usize {
        let mut taken = 0;
        while let Ok(response) = tokio::time::timeout(time, self.responses.next()).await {
            let response = response.unwrap().unwrap();
            self.say(&[], &response.nonce);
            taken += 1;
        }
        taken
    }

    fn row(&self, change: ChangeId) -> ChangeStatus {
        self.server.changes().into_iter().find(|row| row.change == change).unwrap()
    }
}

/// Driven to where it has its endpoints and minds no others.
async fn started() -> Driven {
    let mut driven = Driven::new();
    driven.change("mine");
    driven.say(&["mine"], "");
    assert_eq!(driven.follow(MINUTE).await, 1);
    driven
}

#[tokio::test(start_paused = true)]
async fn a_change_that_passes_a_stream_over_is_had_at_once_and_in_no_time_that_is_told() {
    for read_first in [false, true] {
        let mut driven = started().await;
        let foreign = driven.change("else");
        assert_eq!(driven.follow(10 * MINUTE).await, 0);
        if read_first {
            assert_eq!(driven.row(foreign).acked, 1);
        }
        driven.say(&["more"], "");
        assert_eq!(driven.follow(MINUTE).await, 1);
        let row = driven.row(foreign);
        assert_eq!((row.streams, row.acked, row.p50, row.p99, row.last), (1, 1, None, None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn what_passed_a_stream_over_is_not_counted_from_when_it_is_woken_for_something_else() {
    let mut driven = started().await;
    let foreign = driven.change("else");
    assert_eq!(driven.follow(10 * MINUTE).await, 0);
    let own = driven.change("mine");
    assert_eq!(driven.follow(MINUTE).await, 1);
    assert_eq!((driven.row(foreign).acked, driven.row(foreign).last), (1, None));
    assert_eq!((driven.row(own).acked, driven.row(own).last), (1, Some(Duration::ZERO)));
    // The same when the client speaks before the stream comes to hear the bell.
    let foreign = driven.change("else");
    assert_eq!(driven.follow(10 * MINUTE).await, 0);
    let own = driven.change("mine");
    driven.say(&["more"], "");
    assert!(driven.follow(MINUTE).await > 0);
    assert_eq!((driven.row(foreign).acked, driven.row(foreign).last), (1, None));
    assert_eq!((driven.row(own).acked, driven.row(own).last), (1, Some(Duration::ZERO)));
}

#[tokio::test(start_paused = true)]
async fn being_brought_along_now_and_then_is_not_being_concerned() {
    let mut driven = started().await;
    for _ in 0..200 {
        driven.change("else");
        assert_eq!(driven.follow(MINUTE).await, 0);
    }
    let rows = driven.server.changes();
    assert!(rows.iter().rev().skip(1).all(|row| (row.acked, row.last) == (1, None)));
}
