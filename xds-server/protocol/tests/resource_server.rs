//! The example `resource_server`, driven over HTTP and every kind of stream.

#[path = "../examples/resource_server.rs"]
#[expect(dead_code, reason = "the example's own main")]
mod resource_server;
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::config::core::v3::Node;
use serde_json::{Value, json};
use support::peer::{Peer, STREAMS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Channel;
use zonebreak_xds::{Protocol, TypeUrl};

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;

/// Long enough for a response that is on its way to arrive.
const QUIET: Duration = Duration::from_millis(300);

struct Example {
    xds: SocketAddr,
    http: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Example {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn start() -> Example {
    let bind = || TcpListener::bind("127.0.0.1:0");
    let (xds, http) = (bind().await.unwrap(), bind().await.unwrap());
    let (xds_at, http_at) = (xds.local_addr().unwrap(), http.local_addr().unwrap());
    let task = tokio::spawn(async move { resource_server::serve(xds, http).await.unwrap() });
    Example { xds: xds_at, http: http_at, task }
}

impl Example {
    async fn request(&self, method: &str, node: &str, body: &Value) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let body = body.to_string();
        let head = format!(
            "{method} /views/{node} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    async fn post(&self, node: &str, body: Value) {
        let (status, why) = self.request("POST", node, &body).await;
        assert_eq!(status, 204, "{why}");
    }

    async fn peer(&self, node: &str, stream: (Protocol, bool), kind: &TypeUrl) -> Peer {
        let channel = Channel::from_shared(format!("http://{}", self.xds)).unwrap().connect().await.unwrap();
        let node = Node { id: node.into(), ..Node::default() };
        Peer::of(channel, node, stream, kind).await.unwrap()
    }
}

fn set(kind: &TypeUrl, name: &str, value: &str) -> Value {
    json!({"type_url": kind.as_str(), "name": name, "value": STANDARD.encode(value)})
}

fn texts(values: &[Vec<u8>]) -> Vec<String> {
    values.iter().map(|value| String::from_utf8(value.clone()).unwrap()).collect()
}

#[tokio::test]
async fn a_view_is_served_as_it_was_set_on_every_kind_of_stream() {
    let example = start().await;
    for (n, stream) in STREAMS.into_iter().enumerate() {
        let node = format!("node-{n}");
        let mut peer = example.peer(&node, stream, &CDS).await;
        peer.ask(&CDS, &[]).await;
        assert!(peer.is_silent(QUIET).await, "a view that was never set is not an empty one");

        example
            .post(&node, json!({"version": "one", "replace": false, "set": [set(&CDS, "a", "A"), set(&CDS, "b", "B")], "remove": []}))
            .await;
        let first = peer.expect().await;
        assert_eq!((first.version.as_str(), texts(&first.values)), ("one", vec!["A".into(), "B".into()]));
        assert_eq!(first.type_url, CDS.as_str());
        peer.ack(&first, &[]).await;

        // Content decides: the version moved, the content did not.
        example.post(&node, json!({"version": "two", "set": [set(&CDS, "a", "A")]})).await;
        assert!(peer.is_silent(QUIET).await, "{stream:?}");
        // And the other way round.
        example.post(&node, json!({"version": "two", "set": [set(&CDS, "a", "A2")]})).await;
        let second = peer.expect().await;
        let all = if stream.0 == Protocol::Sotw { vec!["A2".into(), "B".into()] } else { vec!["A2".into()] };
        assert_eq!((second.version.as_str(), texts(&second.values)), ("two", all), "{stream:?}");
        peer.ack(&second, &[]).await;

        example
            .post(
                &node,
                json!({"version": "three", "set": [], "remove": [{"type_url": CDS.as_str(), "name": "b"}]}),
            )
            .await;
        let third = peer.expect().await;
        assert_eq!(third.version, "three");
        match stream.0 {
            Protocol::Sotw => assert_eq!(texts(&third.values), ["A2"]),
            Protocol::Delta => {
                assert_eq!((third.values.len(), third.removed.as_slice()), (0, &["b".to_owned()][..]))
            }
        }
        peer.ack(&third, &[]).await;

        example.post(&node, json!({"version": "four", "replace": true, "set": [set(&CDS, "c", "C")]})).await;
        let fourth = peer.expect().await;
        assert_eq!((fourth.version.as_str(), texts(&fourth.values)), ("four", vec!["C".into()]));
        assert_eq!(fourth.removed, if stream.0 == Protocol::Delta { vec!["a"] } else { vec![] });
        peer.ack(&fourth, &[]).await;
    }
}

#[tokio::test]
async fn nothing_in_the_place_of_everything_clears_the_view() {
    let example = start().await;
    for (n, stream) in STREAMS.into_iter().enumerate() {
        let node = format!("node-{n}");
        example.post(&node, json!({"version": "1", "set": [set(&CDS, "a", "A"), set(&EDS, "e", "E")]})).await;
        let mut peer = example.peer(&node, stream, &CDS).await;
        peer.ask(&CDS, &[]).await;
        let first = peer.expect().await;
        peer.ack(&first, &[]).await;
        example.post(&node, json!({"version": "2", "replace": true})).await;
        let cleared = peer.expect().await;
        assert_eq!((cleared.version.as_str(), cleared.values.len()), ("2", 0), "{stream:?}");
        assert_eq!(cleared.removed, if stream.0 == Protocol::Delta { vec!["a"] } else { vec![] });
        peer.ack(&cleared, &[]).await;
    }
}

#[tokio::test]
async fn types_that_a_change_does_not_name_keep_their_version_and_are_silent() {
    let example = start().await;
    for (n, stream) in STREAMS.into_iter().enumerate() {
        let node = format!("node-{n}");
        example
            .post(&node, json!({"version": "1", "set": [set(&CDS, "a", "A"), set(&EDS, "e", "E"), set(&EDS, "f", "F")]}))
            .await;
        let mut peer = example.peer(&node, stream, &EDS).await;
        peer.ask(&EDS, &["e"]).await;
        let first = peer.expect().await;
        assert_eq!((first.version.as_str(), texts(&first.values)), ("1", vec!["E".into()]));
        peer.ack(&first, &["e"]).await;
        example.post(&node, json!({"version": "2", "set": [set(&CDS, "a", "A2")]})).await;
        assert!(peer.is_silent(QUIET).await);
        let replaced = json!({"version": "3", "replace": true, "set": [set(&CDS, "b", "B")]});
        example.post(&node, replaced).await;
        assert!(peer.is_silent(QUIET).await, "only types that are named are replaced");
        peer.ask_more(&EDS, &["e", "f"], &first).await;
        let more = peer.expect().await;
        assert_eq!((more.version.as_str(), texts(&more.values)), ("1", vec!["F".into()]), "{stream:?}");
        peer.ack(&more, &["e", "f"]).await;
    }
}

/// Content decides whether something is sent; what is sent carries the version of now, on old streams as on new ones.
#[tokio::test]
async fn a_version_that_moved_alone_is_the_one_that_is_told_next() {
    let example = start().await;
    for (n, stream) in STREAMS.into_iter().enumerate() {
        let node = format!("node-{n}");
        let both = [set(&EDS, "e", "E"), set(&EDS, "f", "F")];
        example.post(&node, json!({"version": "1", "set": both})).await;
        let mut peer = example.peer(&node, stream, &EDS).await;
        peer.ask(&EDS, &["e"]).await;
        let first = peer.expect().await;
        assert_eq!(first.version, "1");
        peer.ack(&first, &["e"]).await;
        example.post(&node, json!({"version": "2", "set": both})).await;
        assert!(peer.is_silent(QUIET).await, "{stream:?}");
        peer.ask_more(&EDS, &["e", "f"], &first).await;
        let more = peer.expect().await;
        assert_eq!((more.version.as_str(), texts(&more.values)), ("2", vec!["F".into()]), "{stream:?}");
    }
}

#[tokio::test]
async fn what_was_set_is_published_when_it_is_answered() {
    let example = start().await;
    for n in 0..20 {
        let version = format!("v{n}");
        example.post("n", json!({"version": version, "set": [set(&CDS, "a", &version)]})).await;
        let mut peer = example.peer("n", STREAMS[n % 4], &CDS).await;
        peer.ask(&CDS, &[]).await;
        let first = peer.expect().await;
        assert_eq!((&first.version, texts(&first.values)), (&version, vec![version.clone()]));
    }
}

#[tokio::test]
async fn changes_at_once_are_made_one_after_the_other_and_each_at_a_stroke() {
    let example = start().await;
    let mut watching = example.peer("n", (Protocol::Delta, true), &CDS).await;
    watching.ask(&CDS, &[]).await;
    let names: Vec<String> = (0..16).map(|n| format!("c{n:02}")).collect();
    let posts = names.iter().map(|name| {
        let both = [set(&CDS, name, "1"), set(&CDS, &format!("{name}-twin"), "1")];
        example.post("n", json!({"version": name, "set": both}))
    });
    futures::future::join_all(posts).await;
    // Whatever moments the client is shown, a change is in them whole or not at all.
    let mut seen = 0;
    while seen < 32 {
        let said = watching.expect().await;
        seen += said.values.len();
        assert_eq!(seen % 2, 0, "half of a change");
        watching.ack(&said, &[]).await;
    }
    let mut peer = example.peer("n", (Protocol::Sotw, true), &CDS).await;
    peer.ask(&CDS, &[]).await;
    assert_eq!(peer.expect().await.values.len(), 32, "none was lost to another");
}

#[tokio::test]
async fn any_number_of_streams_of_a_node_get_the_same() {
    let example = start().await;
    let mut peers = Vec::new();
    for n in 0..12 {
        let mut peer = example.peer("shared", STREAMS[n % 4], &CDS).await;
        peer.ask(&CDS, &[]).await;
        peers.push(peer);
    }
    example.post("shared", json!({"version": "v", "set": [set(&CDS, "a", "A")]})).await;
    for peer in &mut peers {
        let said = peer.expect().await;
        assert_eq!((said.version.as_str(), texts(&said.values)), ("v", vec!["A".into()]));
    }
}

#[tokio::test]
async fn a_deleted_view_takes_nothing_from_its_clients_and_gives_nothing_to_new_ones() {
    let example = start().await;
    example.post("n", json!({"version": "1", "set": [set(&CDS, "a", "A")]})).await;
    let mut old = example.peer("n", (Protocol::Delta, true), &CDS).await;
    old.ask(&CDS, &[]).await;
    let first = old.expect().await;
    old.ack(&first, &[]).await;
    assert_eq!(example.request("DELETE", "n", &json!({})).await.0, 204);
    let mut new = example.peer("n", (Protocol::Sotw, true), &CDS).await;
    new.ask(&CDS, &[]).await;
    assert!(new.is_silent(QUIET).await && old.is_silent(QUIET).await);
    example.post("n", json!({"version": "2", "set": [set(&CDS, "b", "B")]})).await;
    assert_eq!(texts(&new.expect().await.values), ["B"]);
    let change = old.expect().await;
    assert_eq!((texts(&change.values), change.removed), (vec!["B".into()], vec!["a".into()]));
}

#[tokio::test]
async fn a_bad_change_changes_nothing_and_says_why() {
    let example = start().await;
    example.post("n", json!({"version": "1", "set": [set(&CDS, "a", "A")]})).await;
    let bad = [
        (
            json!({"version": "2", "set": [set(&CDS, "b", "B"), {"type_url": CDS.as_str(), "name": "c", "value": "?"}]}),
            "base64",
        ),
        (
            json!({"version": "2", "set": [set(&CDS, "b", "B"), set(&CDS, "b", "C")]}),
            "two different resources",
        ),
        (json!({"version": "2", "set": [set(&CDS, "", "B")]}), "empty name"),
        (json!({"version": "2", "sets": []}), "sets"),
        (json!({"set": []}), "version"),
    ];
    for (body, why) in bad {
        let (status, said) = example.request("POST", "n", &body).await;
        assert!((400..500).contains(&status) && said.contains(why), "{status} {said}");
    }
    let mut peer = example.peer("n", (Protocol::Sotw, true), &CDS).await;
    peer.ask(&CDS, &[]).await;
    let said = peer.expect().await;
    assert_eq!((said.version.as_str(), texts(&said.values)), ("1", vec!["A".into()]));
}
