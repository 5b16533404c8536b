//! Clients that do what no client should, and what becomes of them: as it stands in the table of `docs/xds.md`.
//!
//! Every case runs on every kind of stream it applies to, and those before the dead connections beside a well-behaved client that must
//! not notice.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use http_body_util::{BodyExt, Full};
use support::peer::{Peer, STREAMS, path};
use support::{PATIENCE, Running, eventually, start, start_with};
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;
use tonic::transport::Channel;
use zonebreak_xds::{Protocol, Resource, ServerOptions, TransportOptions, TypeUrl};

const EDS: TypeUrl = TypeUrl::ENDPOINT;
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Long enough for a response that is on its way to arrive.
const QUIET: Duration = Duration::from_millis(200);

/// The table of the page, row by row: who, and what happens.
fn table() -> BTreeSet<(String, String)> {
    let page = include_str!("../../../docs/xds.md");
    let (_, after) = page.split_once("<!-- hostile clients -->\n").expect("the page has the table");
    let rows = after.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cell = |text: Option<&str>| text.unwrap_or_default().trim().to_owned();
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split(" | ");
        (cell(cells.next()), cell(cells.next()))
    })
    .collect()
}

fn eds(name: &str, content: &str) -> Resource {
    Resource::from_value(name, EDS, content.as_bytes().to_vec())
}

fn node() -> Node {
    Node { id: "hostile".into(), cluster: "front".into(), ..Node::default() }
}

async fn channel(at: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{at}")).unwrap().connect().await.unwrap()
}

async fn peer(running: &Running, stream: (Protocol, bool)) -> Peer {
    Peer::of(channel(running.address).await, node(), stream, &EDS).await.unwrap()
}

/// What happened on each kind of stream; one text where all agree.
fn agreed(outcomes: Vec<((Protocol, bool), String)>) -> String {
    let of = |protocol: Protocol| {
        let texts: BTreeSet<&str> =
            outcomes.iter().filter(|((p, _), _)| *p == protocol).map(|(_, text)| text.as_str()).collect();
        assert!(texts.len() <= 1, "the aggregated and the type's own service differ: {texts:?}");
        texts.into_iter().next().unwrap_or_default().to_owned()
    };
    let (sotw, delta) = (of(Protocol::Sotw), of(Protocol::Delta));
    if sotw == delta { sotw } else { format!("state of the world: {sotw}; incremental: {delta}") }
}

async fn refuses_everything(running: &Running) -> String {
    let mut outcomes = Vec::new();
    for (n, stream) in STREAMS.into_iter().enumerate() {
        let mut peer = peer(running, stream).await;
        peer.ask(&EDS, &["a", "b"]).await;
        let first = peer.expect().await;
        peer.nack(&first, &["a", "b"], "never").await;
        let mut sent = 0;
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(500) {
            let Ok(said) = tokio::time::timeout(QUIET, peer.next()).await else { continue };
            sent += 1;
            peer.nack(&said.unwrap(), &["a", "b"], "never").await;
        }
        running.publish("front", 100 + n as u64, vec![eds("a", &format!("new {n}")), eds("b", "1")]);
        let said = peer.expect().await;
        peer.nack(&said, &["a", "b"], "never").await;
        outcomes.push((stream, format!("{sent} sent again until something changes, then 1")));
        assert!(peer.is_silent(QUIET).await);
    }
    agreed(outcomes)
}

async fn asks_for_what_is_not_there(running: &Running) -> String {
    let mut outcomes = Vec::new();
    for (n, stream) in STREAMS.into_iter().enumerate() {
        let (mut peer, late) = (peer(running, stream).await, format!("late {n}"));
        peer.ask(&EDS, &[&late]).await;
        let words = match stream.0 {
            Protocol::Delta => {
                let said = peer.expect().await;
                assert_eq!((said.values.len(), said.removed.as_slice()), (0, &[late.clone()][..]));
                peer.ack(&said, &[&late]).await;
                "told so at once"
            }
            Protocol::Sotw => {
                assert!(peer.is_silent(QUIET).await);
                "told nothing"
            }
        };
        running.publish("front", 200 + n as u64, vec![eds("a", "1"), eds(&late, "1")]);
        assert_eq!(peer.expect().await.values.len(), 1);
        outcomes.push((stream, format!("{words}, sent when it comes to be")));
    }
    agreed(outcomes)
}

async fn asks_again_and_again(running: &Running) -> String {
    let mut outcomes = Vec::new();
    running.publish("front", 240, vec![eds("a", "1"), eds("b", "another")]);
    for stream in STREAMS {
        let mut peer = peer(running, stream).await;
        peer.ask(&EDS, &["a"]).await;
        let mut said = peer.expect().await;
        for _ in 0..100 {
            match stream.0 {
                Protocol::Sotw => peer.ack(&said, &["a"]).await,
                Protocol::Delta => peer.ask(&EDS, &["a"]).await,
            }
        }
        peer.ack(&said, &["a"]).await;
        // The server reads in order: when it answers this, it has answered all of the others.
        peer.ask_more(&EDS, &["a", "b"], &said).await;
        let (mut sent, mut last) = (0, false);
        while !last {
            said = peer.expect().await;
            last = said.values.contains(&b"another".to_vec());
            sent += said.values.len() - usize::from(last);
            peer.ack(&said, &["a", "b"]).await;
        }
        outcomes.push((stream, format!("{sent} more for 100 requests")));
    }
    agreed(outcomes)
}

async fn uses_stale_and_garbage_nonces(running: &Running) -> String {
    let mut outcomes = Vec::new();
    running.publish("front", 250, vec![eds("a", "1"), eds("b", "1")]);
    for stream in STREAMS {
        let mut peer = peer(running, stream).await;
        peer.ask(&EDS, &["a"]).await;
        let said = peer.expect().await;
        for nonce in ["garbage", "", "ffff-1", &"x".repeat(100_000)] {
            let mut wrong = said.clone();
            wrong.nonce = nonce.into();
            if nonce.is_empty() && stream.0 == Protocol::Sotw {
                continue;
            }
            peer.nack(&wrong, &["a"], "not about anything").await;
        }
        peer.ack(&said, &["a"]).await;
        assert!(peer.is_silent(QUIET).await);
        // By now the server has read all of it: it reads in order, and this is answered.
        peer.ask_more(&EDS, &["a", "b"], &said).await;
        assert_eq!(peer.expect().await.values, [b"1"]);
        assert_eq!(running.server.convergence().refusing, 0, "no refusal was counted");
        outcomes.push((stream, "answers nothing, refuses nothing; the stream goes on".to_owned()));
    }
    agreed(outcomes)
}

async fn says_no_node(running: &Running) -> String {
    let mut outcomes = Vec::new();
    for stream in STREAMS {
        let mut peer = peer(running, stream).await;
        peer.forget_node();
        peer.ask(&EDS, &["a"]).await;
        let status = peer.end().await;
        assert!(status.message().contains("node.id"), "{status}");
        outcomes.push((stream, ended(status.code())));
    }
    agreed(outcomes)
}

async fn asks_for_an_unknown_type(running: &Running) -> String {
    let unknown = TypeUrl::new("type.googleapis.com/no.such.Thing");
    let mut outcomes = Vec::new();
    for stream in STREAMS.into_iter().filter(|(_, aggregated)| *aggregated) {
        let mut peer = peer(running, stream).await;
        peer.ask(&unknown, &["x"]).await;
        let told = match stream.0 {
            Protocol::Delta => {
                assert_eq!(peer.expect().await.removed, ["x"]);
                "told that it is absent"
            }
            Protocol::Sotw => {
                assert!(peer.is_silent(QUIET).await);
                "told nothing"
            }
        };
        peer.ask(&EDS, &["a"]).await;
        assert_eq!(peer.expect().await.type_url, EDS.as_str());
        outcomes.push((stream, format!("{told}, its other types go on")));
    }
    agreed(outcomes)
}

async fn asks_a_service_for_another_type(running: &Running) -> String {
    let mut outcomes = Vec::new();
    for stream in STREAMS.into_iter().filter(|(_, aggregated)| !*aggregated) {
        let mut peer = peer(running, stream).await;
        peer.ask(&TypeUrl::CLUSTER, &[]).await;
        outcomes.push((stream, ended(peer.end().await.code())));
    }
    agreed(outcomes)
}

async fn says_five_megabytes(running: &Running) -> String {
    let huge = "x".repeat(5 << 20);
    ends_by_asking(running, &[&huge]).await
}

async fn asks_for_a_hundred_thousand_names(running: &Running) -> String {
    let names: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    ends_by_asking(running, &names).await
}

async fn ends_by_asking(running: &Running, names: &[&str]) -> String {
    let mut outcomes = Vec::new();
    for stream in STREAMS {
        let mut peer = peer(running, stream).await;
        peer.ask(&EDS, names).await;
        outcomes.push((stream, ended(peer.end().await.code())));
    }
    agreed(outcomes)
}

async fn asks_for_too_many_types(running: &Running) -> String {
    let mut outcomes = Vec::new();
    for stream in STREAMS.into_iter().filter(|(_, aggregated)| *aggregated) {
        let mut peer = peer(running, stream).await;
        for n in 0..65 {
            peer.ask(&TypeUrl::new(&format!("type.googleapis.com/no.such.Thing{n}")), &[]).await;
        }
        outcomes.push((stream, ended(peer.end().await.code())));
    }
    agreed(outcomes)
}

async fn asks_for_long_names_without_end(running: &Running) -> String {
    let mut outcomes = Vec::new();
    // In state of the world the names of a type are all in one request.
    let streams = STREAMS.into_iter().filter(|stream| *stream != (Protocol::Sotw, false));
    for stream in streams {
        let mut peer = peer(running, stream).await;
        for n in 0..12 {
            let name = format!("{n}").repeat(3 << 20);
            let kind = TypeUrl::new(&format!("type.googleapis.com/no.such.Thing{n}"));
            let kind = if stream.0 == Protocol::Sotw { &kind } else { &EDS };
            peer.ask(kind, &[&name[..3 << 20]]).await;
        }
        outcomes.push((stream, ended(peer.end().await.code())));
    }
    agreed(outcomes)
}

async fn sends_bytes_that_are_no_message(running: &Running) -> String {
    let body: Vec<u8> = [&[0u8, 0, 0, 0, 4][..], &[0xff; 4]].concat();
    let mut outcomes = Vec::new();
    for stream in STREAMS {
        let request = http::Request::post(format!("{}{}", running.url(), path(stream, &EDS)))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(Full::new(bytes::Bytes::from(body.clone()))))
            .unwrap();
        let mut channel = channel(running.address).await;
        let ready = tower::ServiceExt::ready(&mut channel).await.unwrap();
        let response = tower::Service::call(ready, request).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        let code = trailers.get("grpc-status").expect("a status").to_str().unwrap().parse::<i32>().unwrap();
        outcomes.push((stream, ended(Code::from_i32(code))));
    }
    agreed(outcomes)
}

async fn goes_half_open(running: &Running) -> String {
    let mut outcomes = Vec::new();
    futures::future::join_all(STREAMS.map(|stream| link_goes_dead(running, stream))).await;
    for stream in STREAMS {
        let TransportOptions { keepalive, keepalive_timeout, .. } = TransportOptions::default();
        let said = format!(
            "closed after the keepalive's interval and timeout ({} s + {} s)",
            keepalive.as_secs(),
            keepalive_timeout.as_secs()
        );
        outcomes.push((stream, said));
    }
    agreed(outcomes)
}

/// A connection through a link that goes dead without a word.
async fn link_goes_dead(running: &Running, stream: (Protocol, bool)) {
    let link = TcpListener::bind(LOOPBACK).await.unwrap();
    let (at, server) = (link.local_addr().unwrap(), running.address);
    let (cut, dead) = tokio::sync::oneshot::channel::<()>();
    let wire = tokio::spawn(async move {
        let (mut near, _) = link.accept().await.unwrap();
        let mut far = TcpStream::connect(server).await.unwrap();
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => {}
            _ = dead => {}
        }
        // Both ends stay open, and nothing passes.
        let mut sink = [0; 1024];
        let started = Instant::now();
        while far.read(&mut sink).await.is_ok_and(|read| read > 0) {}
        started.elapsed()
    });
    let mut peer = Peer::of(channel(at).await, node(), stream, &EDS).await.unwrap();
    peer.ask(&EDS, &["a"]).await;
    peer.expect().await;
    cut.send(()).unwrap();
    let closed = tokio::time::timeout(PATIENCE, wire).await.expect("it was never closed").unwrap();
    // Interval and timeout of the test's server are three seconds; a busy machine may take longer.
    assert!(closed < Duration::from_secs(30), "{closed:?}");
    eventually("its row is gone", || running.server.convergence().streams == 0).await;
}

async fn connects_and_says_nothing(running: &Running) -> String {
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let mut heard = Vec::new();
    // What the server says first, if anything, and then its end.
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard)).await;
    let _ = closed.expect("it was never closed");
    format!(
        "closed after the handshake's timeout ({} s)",
        TransportOptions::default().handshake_timeout.as_secs()
    )
}

async fn never_reads(running: &Running) -> String {
    let mut outcomes = Vec::new();
    for (n, stream) in STREAMS.into_iter().enumerate() {
        twenty_that_never_read(running, stream, 300 + 100 * n as u64).await;
        let said = "one response waits for it and the newest state follows: no memory beyond that";
        outcomes.push((stream, said.to_owned()));
    }
    agreed(outcomes)
}

/// Twenty clients that take nothing off their connections, and fifty changes of a megabyte.
async fn twenty_that_never_read(running: &Running, stream: (Protocol, bool), change: u64) {
    const CLIENTS: usize = 20;
    let sent = || running.server.metrics().types()[EDS.position()].responses;
    let megabyte = |n: u64| eds("big", &format!("{n}").repeat(1 << 20)[..1 << 20]);
    let others = running.server.convergence().streams;
    let before = sent();
    let mut peers = Vec::new();
    for _ in 0..CLIENTS {
        let mut peer = peer(running, stream).await;
        peer.ask(&EDS, &["big"]).await;
        peers.push(peer);
    }
    running.publish("front", change, vec![eds("a", "1"), megabyte(change)]);
    eventually("each has its first response", || sent() >= before + CLIENTS as u64).await;
    let start = resident();
    for n in change + 1..change + 50 {
        running.publish("front", n, vec![eds("a", "1"), megabyte(n)]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let grown = resident().saturating_sub(start);
    assert!(sent() - before <= 2 * CLIENTS as u64, "{stream:?}: responses are merged, not queued");
    assert!(
        grown < (2 * CLIENTS) << 20,
        "{stream:?}: {grown} bytes for {CLIENTS} clients and 50 changes of 1 MiB"
    );
    drop(peers);
    // What they had asked for is no matter to those who come after them.
    running.publish("front", change + 50, vec![eds("a", "1")]);
    eventually("they are gone", || running.server.convergence().streams <= others).await;
}

/// The process's resident memory in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

fn ended(code: Code) -> String {
    let name = match code {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        other => panic!("an unexpected status: {other:?}"),
    };
    format!("its stream ends with {name}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_get_what_the_table_says_and_others_notice_nothing() {
    let running = start(ServerOptions::default()).await;
    running.publish("front", 1, vec![eds("a", "1"), eds("b", "1")]);
    let mut good =
        Peer::of(channel(running.address).await, node(), (Protocol::Delta, true), &EDS).await.unwrap();
    good.ask(&EDS, &["good"]).await;
    let absent = good.expect().await;
    good.ack(&absent, &[]).await;

    let mut rows = BTreeSet::new();
    let mut row = |who: &str, what: String| {
        rows.insert((who.to_owned(), what));
    };
    row("refuses every answer", refuses_everything(&running).await);
    row("asks for a name that does not exist", asks_for_what_is_not_there(&running).await);
    row("asks for what it has, 100 times", asks_again_and_again(&running).await);
    row("refuses with a stale or made-up nonce", uses_stale_and_garbage_nonces(&running).await);
    row("does not say its node", says_no_node(&running).await);
    row("asks for a type nobody knows", asks_for_an_unknown_type(&running).await);
    row("asks a type's own service for another type", asks_a_service_for_another_type(&running).await);
    row("sends a message of 5 MB", says_five_megabytes(&running).await);
    row("subscribes to 100,000 names", asks_for_a_hundred_thousand_names(&running).await);
    row("subscribes to 36 MB of names, 3 MB at a time", asks_for_long_names_without_end(&running).await);
    row("subscribes to 65 types", asks_for_too_many_types(&running).await);
    row("sends bytes that are no message", sends_bytes_that_are_no_message(&running).await);
    row("never reads", never_reads(&running).await);

    running.publish("front", 1000, vec![eds("good", "1")]);
    assert_eq!(good.expect().await.values.len(), 1, "the well-behaved client is served as ever");

    // And not so quick that a client which is kept waiting for a core is taken for one that is gone.
    let quick = TransportOptions {
        keepalive: Duration::from_millis(500),
        keepalive_timeout: Duration::from_millis(2_500),
        handshake_timeout: Duration::from_millis(2_500),
        ..TransportOptions::default()
    };
    let running = start_with(LOOPBACK, ServerOptions::default(), quick).await;
    running.publish("front", 1, vec![eds("a", "1")]);
    row("stays connected and is gone (half-open)", goes_half_open(&running).await);
    row("connects and says nothing", connects_and_says_nothing(&running).await);

    let table = table();
    let (missing, stale): (Vec<_>, Vec<_>) =
        (rows.difference(&table).collect(), table.difference(&rows).collect());
    assert!(missing.is_empty() && stale.is_empty(), "docs/xds.md lacks {missing:#?}\nand has {stale:#?}");
}
