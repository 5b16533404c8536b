//! What a publication does to those who follow its view.

use super::*;
use crate::interest::Interest;
use crate::resource::{Resource, ResourceError};
use crate::types::{ChangeId, TypeUrl, Version};

/// As a stream does that watches all clusters.
fn follow(hub: &Arc<Hub>, stream: StreamId, view: ViewKey) -> Subscription {
    let mut subscription = hub.subscribe(stream, view);
    subscription.listen(interests(Interest::Any));
    subscription
}

fn interests(interest: Interest) -> Interests {
    let mut interests = Interests::default();
    interests.insert(TypeUrl::CLUSTER, interest);
    interests
}

fn names(names: &[&str]) -> Interests {
    interests(Interest::Names(names.iter().map(|name| Arc::from(*name)).collect()))
}

impl Subscription {
    async fn published(&self) {
        std::future::poll_fn(|context| self.poll_published(context)).await;
    }
}

/// What the stream is woken with at this moment.
fn woken(stream: &mut Subscription) -> Option<ChangeId> {
    match stream.poll_next(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(snapshot) => Some(snapshot.change()),
        Poll::Pending => None,
    }
}

fn snapshot(change: u64, content: &'static [u8]) -> Arc<Snapshot> {
    let mut builder = Snapshot::builder(ChangeId(change));
    builder.put(Resource::from_value("a", TypeUrl::CLUSTER, content)).unwrap();
    Arc::new(builder.build())
}

#[tokio::test]
async fn a_stream_waits_for_its_view_and_then_sees_only_the_newest() {
    let hub = Hub::new();
    let view = ViewKey::new("az-a");
    let mut stream = follow(&hub, StreamId(1), view.clone());
    hub.publish([(ViewKey::new("az-b"), snapshot(1, b"b"))]);
    assert!(futures::poll!(Box::pin(stream.next())).is_pending(), "another view is nothing to it");

    hub.publish([(view.clone(), snapshot(2, b"x"))]);
    hub.publish([(view.clone(), snapshot(3, b"y"))]);
    assert_eq!(stream.next().await.change(), ChangeId(3));

    hub.publish([(view.clone(), snapshot(4, b"y"))]);
    assert!(futures::poll!(Box::pin(stream.next())).is_pending(), "equal content wakes nobody");
    assert_eq!(hub.snapshot(&view).unwrap().change(), ChangeId(4), "but is what a reader gets");

    let mut late = follow(&hub, StreamId(2), view);
    assert_eq!(late.next().await.change(), ChangeId(4));
}

#[test]
fn a_version_that_moved_alone_wakes_nobody_and_is_what_who_looks_is_given() {
    let made = |change, version: &str| {
        let mut builder = Snapshot::builder(ChangeId(change));
        builder.put(cluster("a", "1")).unwrap().version(&TypeUrl::CLUSTER, Version::new(version));
        Arc::new(builder.build())
    };
    let hub = Hub::new();
    let mut streams = streams(&hub, &made(1, "one"), [interests(Interest::Any), names(&["a"])]);
    hub.publish([(ViewKey::new("az-a"), made(2, "two"))]);
    assert_eq!(all_woken(&mut streams), [0usize; 0]);
    assert_eq!(streams[1].newer().map(|it| it.change()), Some(ChangeId(2)));
    hub.publish([(ViewKey::new("az-a"), made(3, "two"))]);
    assert!(streams[1].newer().is_none(), "nothing moved");
    // Such publications keep old snapshots alive as any others do.
    let woken: Vec<_> = (4..4 + u64::from(TOGETHER))
        .flat_map(|n| {
            hub.publish([(ViewKey::new("az-a"), made(n, &n.to_string()))]);
            all_woken(&mut streams)
        })
        .collect();
    assert_eq!(woken, [0, 1]);
}

#[tokio::test]
async fn to_wait_for_a_view_takes_nothing_of_it() {
    let hub = Hub::new();
    let view = ViewKey::new("az-a");
    let mut stream = follow(&hub, StreamId(1), view.clone());
    for change in 1..=2 {
        assert!(futures::poll!(Box::pin(stream.published())).is_pending());
        hub.publish([(ViewKey::new(&format!("az-{change}")), snapshot(change, b"other"))]);
    }
    let publish = async { hub.publish([(view.clone(), snapshot(3, b"x"))]) };
    // It is woken: the publication comes after it was found waiting.
    tokio::join!(biased; stream.published(), publish);
    stream.published().await;
    assert_eq!(woken(&mut stream), Some(ChangeId(3)));
    stream.published().await;
    assert_eq!(woken(&mut stream), None, "once");
}

#[tokio::test]
async fn a_trial_reaches_those_who_take_part_and_a_publication_ends_it() {
    let hub = Hub::new();
    let view = ViewKey::new("az-a");
    hub.publish([(view.clone(), snapshot(1, b"old"))]);
    let (mut one, mut two) =
        (follow(&hub, StreamId(1), view.clone()), follow(&hub, StreamId(2), view.clone()));
    assert_eq!((one.next().await.change(), two.next().await.change()), (ChangeId(1), ChangeId(1)));
    hub.try_out([(view.clone(), snapshot(2, b"new"))], [StreamId(1)]);
    assert_eq!(one.next().await.change(), ChangeId(2));
    assert!(futures::poll!(Box::pin(two.next())).is_pending());
    assert_eq!(hub.snapshot(&view).unwrap().change(), ChangeId(1), "nobody else sees it");
    let mut late = follow(&hub, StreamId(3), view.clone());
    assert_eq!(late.next().await.change(), ChangeId(1));

    hub.try_out([(view.clone(), snapshot(2, b"new"))], [StreamId(1), StreamId(2)]);
    assert!(futures::poll!(Box::pin(one.next())).is_pending(), "it has it already");
    assert_eq!(two.next().await.change(), ChangeId(2));
    // Taken back: to those who did not take part nothing happened.
    hub.publish([(view.clone(), snapshot(3, b"old"))]);
    assert_eq!((one.next().await.change(), two.next().await.change()), (ChangeId(3), ChangeId(3)));
    assert!(futures::poll!(Box::pin(late.next())).is_pending());
}

#[tokio::test]
async fn views_nobody_follows_are_dropped() {
    let hub = Hub::new();
    let streams: Vec<_> =
        (0..10).map(|n| follow(&hub, StreamId(n), ViewKey::new(&format!("node-{}", n / 2)))).collect();
    assert_eq!(hub.followers().len(), 5);
    drop(streams);
    assert!(hub.followers().is_empty());
}

#[tokio::test]
async fn a_removed_view_leaves_its_streams_alone() {
    let hub = Hub::new();
    let view = ViewKey::new("az-a");
    hub.publish([(view.clone(), snapshot(1, b"x"))]);
    let mut stream = follow(&hub, StreamId(1), view.clone());
    stream.next().await;
    hub.remove([&view]);
    assert!(hub.snapshot(&view).is_none());
    assert!(futures::poll!(Box::pin(stream.next())).is_pending());
    hub.publish([(view.clone(), snapshot(2, b"x"))]);
    assert!(futures::poll!(Box::pin(stream.next())).is_pending(), "it has this");
    hub.publish([(view, snapshot(3, b"y"))]);
    assert_eq!(stream.next().await.change(), ChangeId(3));
}

/// A hub with one view and a stream for each of these interests, which has what there is.
fn streams(
    hub: &Arc<Hub>,
    first: &Arc<Snapshot>,
    of: impl IntoIterator<Item = Interests>,
) -> Vec<Subscription> {
    let view = ViewKey::new("az-a");
    hub.publish([(view.clone(), first.clone())]);
    let streams = of.into_iter().enumerate().map(|(n, interests)| {
        let mut stream = hub.subscribe(StreamId(n as u64 + 1), view.clone());
        stream.listen(interests);
        assert_eq!(woken(&mut stream), Some(first.change()));
        stream
    });
    streams.collect()
}

fn all_woken(streams: &mut [Subscription]) -> Vec<usize> {
    let woken = streams.iter_mut().enumerate().filter_map(|(at, stream)| woken(stream).map(|_| at));
    woken.collect()
}

fn cluster(name: &str, content: &'static str) -> Resource {
    Resource::from_value(name, TypeUrl::CLUSTER, content)
}

#[test]
fn of_a_thousand_streams_with_a_name_each_a_change_wakes_one() {
    let name = |n: usize| format!("cluster-{n:03}");
    let mut first = Snapshot::builder(ChangeId(1));
    for n in 0..1000 {
        first.put(cluster(&name(n), "old")).unwrap();
    }
    let (hub, mut last) = (Hub::new(), Arc::new(first.build()));
    let mut streams = streams(&hub, &last, (0..1000).map(|n| names(&[&name(n)])));
    for n in [500, 0, 999] {
        let mut next = last.edit(ChangeId(n as u64 + 2));
        next.put(cluster(&name(n), "new")).unwrap();
        last = Arc::new(next.build());
        hub.publish([(ViewKey::new("az-a"), last.clone())]);
        assert_eq!(all_woken(&mut streams), [n]);
    }
    assert_eq!(streams[7].newer().unwrap().change(), last.change(), "whoever looks gets the newest");
    assert!(streams[7].newer().is_none());
}

#[test]
fn what_a_resource_goes_by_and_all_there_is_of_it_wakes_too() {
    const MEMBER: &str = "xdstp://x/envoy.config.cluster.v3.Cluster/set/a";
    const COLLECTION: &str = "xdstp://x/envoy.config.cluster.v3.Cluster/set/*";
    let made = |member: &'static str, named: &'static str, failed: bool| {
        let mut builder = Snapshot::builder(ChangeId(1));
        builder.put(cluster(MEMBER, member)).unwrap();
        builder.put(cluster("a", named).with_aliases(["alias"])).unwrap();
        builder.put(Resource::from_value("else", TypeUrl::LISTENER, member)).unwrap();
        if failed {
            let error = ResourceError { code: tonic::Code::NotFound, message: "gone".into() };
            builder.fail(&TypeUrl::CLUSTER, "b", error);
        }
        Arc::new(builder.build())
    };
    let hub = Hub::new();
    let of = [
        names(&["a"]),
        names(&["alias"]),
        names(&[COLLECTION]),
        names(&["b"]),
        interests(Interest::Any),
        Interests::default(),
    ];
    let mut streams = streams(&hub, &made("1", "1", false), of);
    let mut publish = |member, named, failed| {
        hub.publish([(ViewKey::new("az-a"), made(member, named, failed))]);
        all_woken(&mut streams)
    };
    assert_eq!(publish("1", "2", false), [0, 1, 4], "a name, an alias, a wildcard");
    assert_eq!(publish("2", "2", false), [2, 4], "a collection, a wildcard");
    assert_eq!(publish("2", "2", true), [0, 1, 2, 3, 4], "an error is nobody's content: everybody looks");
    assert_eq!(publish("2", "2", true), [0usize; 0]);
}

#[test]
fn what_is_published_while_a_stream_turns_to_another_name_is_not_lost() {
    let hub = Hub::new();
    let made = |change, content| {
        let mut builder = Snapshot::builder(ChangeId(change));
        builder.put(cluster("a", "1")).unwrap();
        builder.put(cluster("b", content)).unwrap();
        Arc::new(builder.build())
    };
    let mut streams = streams(&hub, &made(1, "1"), [names(&["a"])]);
    hub.publish([(ViewKey::new("az-a"), made(2, "2"))]);
    assert_eq!(woken(&mut streams[0]), None);
    streams[0].listen(names(&["b"]));
    assert_eq!(woken(&mut streams[0]), Some(ChangeId(2)));
    streams[0].listen(names(&["b", "c"]));
    assert_eq!(woken(&mut streams[0]), None, "it has that");
}

#[test]
fn nobody_stays_behind_for_long() {
    let hub = Hub::new();
    let made = |change| {
        let mut builder = Snapshot::builder(ChangeId(change));
        builder.put(Resource::from_value("a", TypeUrl::CLUSTER, change.to_string())).unwrap();
        Arc::new(builder.build())
    };
    let mut streams = streams(&hub, &made(1), [names(&["else"])]);
    let woken: Vec<u64> = (2..=200)
        .filter(|change| {
            hub.publish([(ViewKey::new("az-a"), made(*change))]);
            woken(&mut streams[0]).is_some()
        })
        .collect();
    assert_eq!(woken.len(), 199 / TOGETHER as usize, "{woken:?}");
}

#[test]
fn nothing_is_left_of_streams_that_went() {
    let hub = Hub::new();
    let first = snapshot(1, b"x");
    let mut streams = streams(&hub, &first, [names(&["a", "b"]), interests(Interest::Any), names(&["b"])]);
    streams[0].listen(names(&["b"]));
    streams.truncate(1);
    {
        let followers = hub.followers();
        let of_view = followers.get(&ViewKey::new("az-a")).unwrap();
        assert!(!of_view.index.is_empty());
    }
    streams[0].listen(Interests::default());
    assert!(hub.followers().values().all(|of_view| of_view.index.is_empty()));
    streams.clear();
    assert!(hub.followers().is_empty());
}
