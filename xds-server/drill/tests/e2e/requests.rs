//! What a client can and cannot do, and what it is told when there is nowhere to go.

use serde_json::json;
use zonebreak_drill::{
    lab::until,
    world::{SERVICE, SOON, World, WorldOptions},
};

use crate::support::{cli, ran, turn};

/// What a request came to.
#[derive(Debug)]
struct Answer {
    status: u16,
    zone: Option<String>,
    headers: reqwest::header::HeaderMap,
}

/// One request with these headers through the proxy.
async fn ask(world: &World, headers: &[(&'static str, &str)]) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.get(format!("http://{}/", world.listener)).header("host", SERVICE);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let zone = response.headers().get("x-backend-zone").map(|zone| zone.to_str().unwrap().to_owned());
    Answer { status: response.status().as_u16(), zone, headers: response.headers().clone() }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Whoever could set the header could send all of a service's load into one zone. In strong mode nothing leaves az-a, so that
/// one answer from elsewhere shows that the header had an effect.
#[tokio::test(flavor = "multi_thread")]
async fn client_supplied_internal_header_is_stripped() {
    let _turn = turn().await;
    let world =
        World::start(WorldOptions { policy: json!({"mode": "strong"}), ..Default::default() }).await.unwrap();
    // Each as a client could write it; the list for those who hope that only one of two is looked at.
    let forged: [&[(&str, &str)]; 5] = [
        &[("x-zonebreak-serve", "only-az-c")],
        &[("X-Zonebreak-Serve", "only-az-c")],
        &[("x-zonebreak-serve", "only-az-c"), ("x-zonebreak-serve", "only-az-b")],
        &[("x-zonebreak-serve", "no-az-a")],
        &[("x-zonebreak-serve", "")],
    ];
    for headers in forged {
        for _ in 0..20 {
            let answer = ask(&world, headers).await;
            assert_eq!((answer.status, answer.zone.as_deref()), (200, Some("az-a")), "{headers:?}");
        }
    }
    assert!(
        world.backends.leaked_headers().is_empty(),
        "a backend saw {:?}",
        world.backends.leaked_headers()
    );

    // The same while the filter sets the header itself: the client's must not win.
    cli(&world.plane, &["zone", "drain", "az-a", "--for", "5m", "--reason", "e2e"]).await;
    for headers in [&[("x-zonebreak-serve", "only-az-a")], &[("x-zonebreak-serve", "no-az-b")]] {
        for _ in 0..50 {
            let answer = ask(&world, headers).await;
            assert_eq!(answer.status, 200);
            assert_ne!(answer.zone.as_deref(), Some("az-a"), "{headers:?} led into a drained zone");
        }
    }
    assert!(
        world.backends.leaked_headers().is_empty(),
        "a backend saw {:?}",
        world.backends.leaked_headers()
    );
    // Who looks sees what the filter does; who does not ask for it sees nothing.
    assert_eq!(ask(&world, &[]).await.header("x-zonebreak-decision"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_zone_left() {
    let _turn = turn().await;
    let world = World::start(WorldOptions::default()).await.unwrap();
    for zone in ["az-a", "az-b", "az-c"] {
        cli(&world.plane, &["zone", "drain", zone, "--for", "5m", "--reason", "e2e", "--force"]).await;
    }
    let refused = until("a refusal", SOON, async || match ask(&world, &[]).await {
        answer if answer.status == 503 => Ok(answer),
        answer => Err(format!("{answer:?}")),
    })
    .await
    .unwrap();
    assert_eq!(refused.header("x-zonebreak-reason"), Some("no-zone"), "{refused:?}");
    let retry_after: u64 = refused.header("retry-after").expect("retry-after").parse().expect("seconds");
    assert!((1..=300).contains(&retry_after), "{retry_after}");
    assert_eq!(refused.zone, None, "a backend answered");

    // gRPC clients read their own status; HTTP's is 200 for them.
    let grpc = ask(&world, &[("content-type", "application/grpc")]).await;
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("14")), "{grpc:?}");
    assert_eq!(grpc.header("x-zonebreak-reason"), Some("no-zone"), "{grpc:?}");

    // One zone back is enough.
    cli(&world.plane, &["zone", "restore", "az-c"]).await;
    for _ in 0..20 {
        let answer = ask(&world, &[]).await;
        assert_eq!((answer.status, answer.zone.as_deref()), (200, Some("az-c")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_abort_percent() {
    let _turn = turn().await;
    let abort = json!({"percent": 20, "status": 503, "when": "always"});
    let policy = json!({"mode": "eventual", "abort": abort});
    let mut world = World::start(WorldOptions { policy, ..Default::default() }).await.unwrap();
    let load = world.load(400.0).unwrap();
    let aborted = |samples: &[zonebreak_drill::lab::Sample]| {
        100.0 * samples.iter().filter(|s| s.outcome.failed()).count() as f64 / samples.len() as f64
    };

    // Five standard deviations of 3,000 draws are 3.7 percentage points.
    let percent = aborted(&ran(&load, std::time::Instant::now(), 3_000).await);
    assert!((16.3..23.7).contains(&percent), "{percent:.1} % were failed, 20 % asked for");
    let answer = until("an aborted request", SOON, async || match ask(&world, &[]).await {
        answer if answer.status == 503 => Ok(answer),
        answer => Err(format!("{answer:?}")),
    })
    .await
    .unwrap();
    assert_eq!(answer.header("x-zonebreak-reason"), Some("abort"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    // Aborts of our own say nothing about a zone.
    assert_eq!(world.transitions("open").await.unwrap(), 0);

    // Now only while a zone is degraded: not at first, and then.
    world.change_policy(json!({"abort": {"percent": 20, "status": 503}})).await.unwrap();
    let calm = async || aborted(&ran(&load, std::time::Instant::now(), 200).await);
    until("an end of the aborts", SOON, async || match calm().await {
        0.0 => Ok(()),
        percent => Err(format!("{percent:.1} %")),
    })
    .await
    .unwrap();
    assert_eq!(
        aborted(&ran(&load, std::time::Instant::now(), 1_000).await),
        0.0,
        "aborts with all zones well"
    );
    cli(&world.plane, &["zone", "drain", "az-b", "--for", "5m", "--reason", "e2e"]).await;
    let percent = aborted(&ran(&load, std::time::Instant::now(), 3_000).await);
    assert!(
        (16.3..23.7).contains(&percent),
        "{percent:.1} % were failed while a zone is drained, 20 % asked for"
    );
}
