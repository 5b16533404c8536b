//! What a policy makes of requests, on a real Envoy: users stay in their zone, drills hit what they are aimed at and end by
//! themselves, and the other zones are not given more than their headroom.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use zonebreak_drill::{
    lab::until,
    world::{SERVICE, SOON, World, WorldOptions},
};

use crate::support::{cli, turn};

/// A client that keeps its connections.
struct Caller {
    client: reqwest::Client,
    url: String,
}

/// What a request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    zone: String,
    reason: String,
    retry_after: String,
}

impl Caller {
    fn new(world: &World) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { client, url: format!("http://{}/", world.listener) }
    }

    async fn ask(&self, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.client.get(&self.url).header("host", SERVICE);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let header =
            |name| response.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        Answer {
            status: response.status().as_u16(),
            zone: header("x-backend-zone"),
            reason: header("x-zonebreak-reason"),
            retry_after: header("retry-after"),
        }
    }

    /// Answers of `n` requests of nobody in particular.
    async fn many(&self, n: usize) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(n);
        for _ in 0..n {
            answers.push(self.ask(&[]).await);
        }
        answers
    }

    /// Waits until a request of nobody in particular is answered as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        until(what, SOON, async || {
            let answer = self.ask(&[]).await;
            if wanted(&answer) { Ok(answer) } else { Err(format!("{answer:?}")) }
        })
        .await
        .unwrap()
    }
}

fn even() -> Value {
    json!({"mode": "eventual", "weights": {"az-a": 1, "az-b": 1, "az-c": 1}})
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

/// The zone of each user, who asks three times.
async fn zones_of(caller: &Caller, users: usize) -> Vec<String> {
    let mut zones = Vec::new();
    for user in 0..users {
        let cookie = format!("theme=dark; session=user-{user}");
        let first = caller.ask(&[("cookie", &cookie)]).await;
        for _ in 0..2 {
            assert_eq!(caller.ask(&[("cookie", &cookie)]).await, first, "user {user} flaps");
        }
        assert_eq!(first.status, 200);
        zones.push(first.zone);
    }
    zones
}

/// Through a drain of az-a and its end, only the users of az-a move: once out, and once back to where they were. The retry budget
/// that the policy has is the one that Envoy runs with.
#[tokio::test(flavor = "multi_thread")]
async fn sticky_users_move_with_their_zone_and_come_back() {
    let _turn = turn().await;
    let mut policy = even();
    policy["sticky"] = json!({"cookie": "session"});
    policy["retry"] = json!({"attempts": 1, "budget_percent": 37});
    // Two workers, which draw alike.
    let world = World::start(WorldOptions { policy, concurrency: 2, ..Default::default() }).await.unwrap();
    let caller = Caller::new(&world);
    let before = zones_of(&caller, 60).await;
    for zone in ["az-a", "az-b", "az-c"] {
        let users = before.iter().filter(|of| *of == zone).count();
        assert!((6..=36).contains(&users), "{users} of 60 users in {zone}");
    }
    cli(&world.plane, &["zone", "drain", "az-a", "--for", "5m", "--reason", "e2e"]).await;
    world.until_zone("az-a", SOON, |zone| zone.state == 4 && zone.keep == 0).await.unwrap();
    let during = zones_of(&caller, 60).await;
    for (was, is) in before.iter().zip(&during) {
        assert!(is != "az-a" && (was == is || was == "az-a"), "from {was} to {is}");
    }
    cli(&world.plane, &["zone", "restore", "az-a"]).await;
    world.until_zone("az-a", SOON, |zone| zone.state == 0 && zone.keep == 1_000).await.unwrap();
    assert_eq!(zones_of(&caller, 60).await, before);

    let dump = world.envoy.config_dump().await.unwrap().to_string();
    for emitted in [
        r#""retry_budget":{"budget_percent":{"value":37},"min_retry_concurrency":64}"#,
        r#""num_retries":1"#,
        "envoy.retry_priorities.previous_priorities",
    ] {
        assert!(dump.contains(emitted), "no {emitted} in Envoy's configuration");
    }
}

/// az-b fails on purpose for some seconds, and nothing else does; then requests are held back, and none of it makes a zone look bad.
#[tokio::test(flavor = "multi_thread")]
async fn drills_hit_their_zone_end_by_themselves_and_count_for_nothing() {
    let _turn = turn().await;
    let mut world = World::start(WorldOptions { policy: even(), ..Default::default() }).await.unwrap();
    let caller = Caller::new(&world);
    let ends = unix_ms() + 10_000;
    let abort = json!({"percent": 100, "status": 504, "when": "always", "zones": ["az-b"], "until": ends});
    world.change_policy(json!({"abort": abort})).await.unwrap();
    let first = caller.until("an abort", |answer| answer.status == 504).await;
    assert_eq!((first.reason.as_str(), first.retry_after.as_str()), ("abort", "1"));
    let reached = world.backends.zone("az-b").requests();
    let mut kinds = BTreeMap::<_, usize>::new();
    let mut asked = 0;
    while unix_ms() + 300 < ends {
        let answer = caller.ask(&[]).await;
        *kinds.entry((answer.status, answer.zone)).or_default() += 1;
        asked += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if asked >= 100 {
        let aborted = kinds.get(&(504, String::new())).copied().unwrap_or_default();
        assert!((asked / 6..=asked / 2).contains(&aborted), "{kinds:?}");
        assert_eq!(
            kinds.keys().map(|(status, _)| *status).collect::<std::collections::BTreeSet<_>>().len(),
            2
        );
        assert_eq!(world.backends.zone("az-b").requests(), reached, "a request got through to az-b");
    } else {
        eprintln!("the machine was too busy to judge the abort: {asked} requests in its time");
    }
    // Nobody ends it but the filter's own clock.
    while unix_ms() < ends + 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(caller.many(60).await.iter().all(|answer| answer.status == 200));

    let delay = json!({"when": "always", "delay": "200ms"});
    world.change_policy(json!({"abort": delay})).await.unwrap();
    let timed = async || {
        let began = Instant::now();
        let answer = caller.ask(&[]).await;
        assert_eq!(answer.status, 200);
        began.elapsed()
    };
    until("a delay", SOON, async || {
        let took = timed().await;
        if took >= Duration::from_millis(140) { Ok(()) } else { Err(format!("{took:?}")) }
    })
    .await
    .unwrap();
    let mut took = Vec::new();
    for _ in 0..25 {
        took.push(timed().await);
    }
    took.sort();
    eprintln!(
        "held back for 200 ms, to the nearest 100 ms: {:?} to {:?}, median {:?}",
        took[0], took[24], took[12]
    );
    assert!(took[0] >= Duration::from_millis(140), "{took:?}");
    assert!(took[12] <= Duration::from_millis(500), "{took:?}");
    // Twenty at once are held side by side, not one after the other.
    let began = Instant::now();
    let all = futures::future::join_all((0..20).map(|_| caller.ask(&[]))).await;
    assert!(all.iter().all(|answer| answer.status == 200));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(world.transitions("open").await.unwrap(), 0);
}

/// Three equal zones and a headroom of a quarter: the two that are left take half of what the third had, and the rest is told when
/// to come again.
#[tokio::test(flavor = "multi_thread")]
async fn survivors_take_their_headroom_and_no_more() {
    let _turn = turn().await;
    let policy = json!({"mode": "strong", "spill": {"headroom": 0.25}});
    let world = World::start(WorldOptions { policy, ..Default::default() }).await.unwrap();
    let caller = Caller::new(&world);
    assert!(caller.many(50).await.iter().all(|answer| answer.zone == "az-a"));
    cli(&world.plane, &["zone", "drain", "az-a", "--for", "5m", "--reason", "e2e", "--force"]).await;
    world.until_zone("az-a", SOON, |zone| zone.state == 4).await.unwrap();
    let refused = caller.until("a refusal", |answer| answer.status == 503).await;
    assert_eq!((refused.reason.as_str(), refused.retry_after.as_str()), ("spill", "6"));
    let answers = caller.many(400).await;
    let part = |of: &dyn Fn(&&Answer) -> bool| answers.iter().filter(of).count();
    let spilled = part(&|answer| answer.reason == "spill");
    assert!((140..=260).contains(&spilled), "{spilled} of 400 refused, half was expected");
    for zone in ["az-b", "az-c"] {
        let served = part(&|answer| answer.zone == zone);
        assert!((50..=150).contains(&served), "{served} of 400 in {zone}, a quarter was expected");
    }
}
