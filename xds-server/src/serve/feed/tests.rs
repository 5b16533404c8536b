//! When the feed ends, and what it hands to whoever keeps it on disk.

use zonebreak_topology::{
    Source,
    registry::{self, Registry},
};
use zonebreak_xds::{Server, ServerOptions, ViewKey};

use super::*;
use crate::{
    config::{Layers, Requirement},
    serve::apply,
    telemetry::metrics::Metrics,
};

/// How often what is kept is said to be true still, here.
const SOON: Duration = Duration::from_millis(40);

/// A feed that runs, and what it listens to.
struct Running {
    topology: watch::Sender<Option<Arc<Topology>>>,
    status: watch::Sender<SourceStatus>,
    kept: watch::Receiver<Option<Kept>>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<anyhow::Result<()>>,
    _others: Box<dyn std::any::Any>,
}

fn start(first: Topology) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("zonebreak.yaml");
    std::fs::write(&file, "topology: {file: t.yaml}\n").unwrap();
    let layers = Layers { file: Some(file), ..Layers::default() };
    let effective = layers.load(Requirement::Source).unwrap();
    let (topology, topologies) = watch::channel(None);
    let status = SourceStatus { connected: true, revision: 1, ..SourceStatus::unconnected(Timestamp::now()) };
    let (status, statuses) = watch::channel(status);
    let (options_sent, options) = watch::channel(Arc::new(apply::options(&effective.config, None)));
    let (news, asked) = mpsc::unbounded_channel();
    let (said, words) = mpsc::unbounded_channel();
    let (keep, kept) = watch::channel(None);
    let (limits_sent, limits) = watch::channel(Limits::default());
    let inputs = Inputs {
        topology: topologies.clone(),
        status: statuses.clone(),
        options,
        nodes: Arc::new(Nodes::new(news)),
        asked,
        limits,
        words,
        keep: Some((keep, "/p/".to_owned())),
        still_true: SOON,
        withheld: Quarantine::default(),
    };
    let hub = Hub::new();
    let xds = Server::new(hub.clone(), |_: &_| ViewKey::new(""), ServerOptions::default());
    let metrics = Metrics::new(&xds, false).unwrap();
    let running = super::super::state::Running { effective, module: None, read_at: Timestamp::now() };
    let source = Source { topology: topologies, status: statuses };
    let state = State::new(source, xds, metrics, running, None, said);
    let stop = CancellationToken::new();
    let ended = tokio::spawn(run(state, hub, inputs, Gate::new(Limits::default()), stop.clone()));
    topology.send_replace(Some(Arc::new(first)));
    Running { topology, status, kept, stop, ended, _others: Box::new((options_sent, limits_sent)) }
}

async fn ended(feed: tokio::task::JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::time::timeout(LONGEST_SLEEP, feed).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_source_that_ends_ends_the_server_and_one_that_is_told_to_does_not() {
    for told in [false, true] {
        let feed = start(Topology::default());
        if told {
            feed.stop.cancel();
        }
        drop((feed.topology, feed.status));
        let ended = ended(feed.ended).await;
        assert_eq!(ended.is_ok(), told, "{ended:?}");
    }
}

/// The guard measures the first listing against what was saved, as long as that is fresh: a topology that nobody touches for
/// days has to stay so.
#[tokio::test]
async fn what_is_kept_is_said_to_be_true_again_while_it_is_and_at_the_end() {
    let mut registry = Registry::default();
    let (key, value) = ("zones/az-a".to_owned(), b"{}".to_vec());
    registry.apply(registry::Event::Put { key, value, mod_revision: 1 });
    let mut feed = start(Topology::clone(&registry.topology()));
    feed.kept.changed().await.unwrap();
    let first = feed.kept.borrow_and_update().clone().unwrap();
    for _ in 0..3 {
        feed.kept.changed().await.unwrap();
        let again = feed.kept.borrow_and_update().clone().unwrap();
        assert!(again.saved.saved_at > first.saved.saved_at);
        assert_eq!(again.saved.topology, first.saved.topology);
    }

    // Without an answer from etcd nobody knows.
    feed.status.send_modify(|status| status.connected = false);
    // What was said just before is heard by now.
    tokio::time::sleep(SOON).await;
    feed.kept.borrow_and_update();
    let silent = tokio::time::timeout(SOON * 5, feed.kept.changed()).await;
    assert!(silent.is_err(), "nothing is said");
    feed.status.send_modify(|status| status.connected = true);
    feed.kept.changed().await.unwrap();
    let stopped_at = Timestamp::now();
    feed.stop.cancel();
    ended(feed.ended).await.unwrap();
    let last = feed.kept.borrow().clone().unwrap();
    assert!(last.saved.saved_at > stopped_at, "at the end as well");
}
