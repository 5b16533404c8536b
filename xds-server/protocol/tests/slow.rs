//! Clients that do not keep up: one that stops reading, and more than can be brought up at once.

mod support;

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use futures::future::join_all;
use support::{PATIENCE, Running, eventually, node, start};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use zonebreak_xds::{Resource, ServerOptions, TypeUrl};

struct Client {
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    /// Connects and subscribes to all secrets: opaque bytes, which nothing leads on from.
    async fn connect(running: &Running) -> Self {
        Self::connect_to(running, "front").await
    }

    /// The same as a client of another view.
    async fn connect_to(running: &Running, view: &str) -> Self {
        let mut client = AggregatedDiscoveryServiceClient::connect(running.url()).await.unwrap();
        let (requests, outgoing) = mpsc::unbounded_channel();
        requests
            .send(DeltaDiscoveryRequest {
                node: node(view),
                type_url: TypeUrl::SECRET.to_string(),
                resource_names_subscribe: vec!["*".into()],
                ..Default::default()
            })
            .unwrap();
        let responses =
            client.delta_aggregated_resources(UnboundedReceiverStream::new(outgoing)).await.unwrap();
        Self { requests, responses: responses.into_inner() }
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        response.expect("no answer").unwrap().expect("the stream ended")
    }

    fn ack(&self, response: &DeltaDiscoveryResponse) {
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        self.requests.send(DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() }).unwrap();
    }
}

/// A megabyte that is another one each time.
fn secret(content: u64) -> Resource {
    large(content, 1 << 20)
}

fn large(content: u64, bytes: usize) -> Resource {
    let mut value = vec![0; bytes];
    value[..8].copy_from_slice(&content.to_le_bytes());
    Resource::from_value("s", TypeUrl::SECRET, value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_costs_one_response_and_gets_the_newest_when_it_goes_on() {
    const CHANGES: u64 = 200;
    let running = start(ServerOptions::default()).await;
    running.publish("front", 1, vec![secret(1)]);
    let mut client = Client::connect(&running).await;
    let first = client.next().await;
    client.ack(&first);
    eventually("the first is acknowledged", || running.server.convergence().converged == 1).await;
    running.publish("front", 2, vec![secret(2)]);
    eventually("the second is sent", || sent(&running) >= 2).await;
    for change in 3..=CHANGES {
        running.publish("front", change, vec![secret(change)]);
        if change % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(sent(&running), 2, "200 MB of changes, and one response under way");
    let second = client.next().await;
    client.ack(&second);
    let last = client.next().await;
    client.ack(&last);
    let value = &last.resources[0].resource.as_ref().unwrap().value;
    assert_eq!(value[..8], CHANGES.to_le_bytes(), "what lay between is skipped");
    eventually("all is acknowledged", || running.server.convergence().converged == 1).await;
    assert_eq!(sent(&running), 3);
}

fn sent(running: &Running) -> u64 {
    running.server.metrics().types().iter().map(|of_type| of_type.responses).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_is_let_in_a_few_at_a_time_and_deaf_clients_hold_up_nobody_for_ever() {
    let running = start(ServerOptions { max_initial_syncs: 2, ..ServerOptions::default() }).await;
    running.publish("front", 1, vec![secret(1)]);
    // They take their places and never acknowledge anything.
    let deaf = [Client::connect(&running).await, Client::connect(&running).await];
    eventually("both are inside", || running.server.initial_syncs() == (2, 0)).await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(Client::connect(&running).await);
    }
    eventually("the others wait", || running.server.initial_syncs().1 >= 1).await;
    // In whatever order they came to be in the queue.
    join_all(waiting.iter_mut().map(async |client| {
        let first = client.next().await;
        client.ack(&first);
    }))
    .await;
    eventually("ten of twelve have it", || running.server.convergence().converged == 10).await;
    eventually("nobody is left in the queue", || running.server.initial_syncs() == (0, 0)).await;
    // Whoever is in gets changes at once, however many are deaf.
    running.publish("front", 2, vec![secret(2)]);
    for client in &mut waiting {
        let change = client.next().await;
        client.ack(&change);
    }
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_whose_view_is_not_there_take_no_places() {
    let running = start(ServerOptions { max_initial_syncs: 1, ..ServerOptions::default() }).await;
    running.publish("front", 1, vec![secret(1)]);
    let mut early = Vec::new();
    for _ in 0..40 {
        early.push(Client::connect_to(&running, "later").await);
    }
    eventually("all have said who they are", || {
        running.server.proxies().iter().filter(|proxy| proxy.view.is_some()).count() == early.len()
    })
    .await;
    assert_eq!(running.server.initial_syncs(), (0, 0));
    let mut client = Client::connect(&running).await;
    let first = client.next().await;
    assert_eq!(running.server.initial_syncs().1, 0, "nobody else asks for the only place");
    client.ack(&first);
    eventually("it is done", || running.server.initial_syncs() == (0, 0)).await;
    // They are let in once there is something to give them, one at a time, and in whatever order they hear of it.
    running.publish("later", 2, vec![secret(2)]);
    eventually("they wait", || running.server.initial_syncs().1 > 0).await;
    join_all(early.iter_mut().map(async |client| {
        let first = client.next().await;
        client.ack(&first);
    }))
    .await;
    eventually("all have it", || running.server.convergence().converged == 41).await;
    eventually("nobody is left in the queue", || running.server.initial_syncs() == (0, 0)).await;
}

/// More than a client's window takes: the server cannot write the rest before it reads, and so does not look after its stream.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_read_nothing_give_their_places_back_though_their_streams_stand_still() {
    let running = start(ServerOptions { max_initial_syncs: 2, ..ServerOptions::default() }).await;
    running.publish("front", 1, vec![large(1, 3 << 20)]);
    let mut deaf = Vec::new();
    for _ in 0..4 {
        deaf.push(Client::connect(&running).await);
    }
    let mut client = Client::connect(&running).await;
    let first = client.next().await;
    client.ack(&first);
    eventually("one has it", || running.server.convergence().converged == 1).await;
    eventually("every place is free", || running.server.initial_syncs() == (0, 0)).await;
    drop(deaf);
}
