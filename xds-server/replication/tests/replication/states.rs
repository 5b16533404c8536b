//! What an operator sees of a replicator: a line for every change of its state, with its cause, and figures that say what is
//! missing while it is missing.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use zonebreak_replication::{
    RESERVED, ReplicationOptions,
    overlap::{Overlap, Policy},
    region,
    rules::Rules,
};

use crate::support::{Pair, Running, put, until};

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The states that a stream entered so far, and why.
    fn states(&self, stream: &str) -> Vec<(String, String)> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].clone());
        let changes = lines
            .filter(|fields| fields["message"] == "the replicator changes its state")
            .filter(|fields| fields["stream"] == stream);
        let field = |fields: &Value, name: &str| fields[name].as_str().unwrap().to_owned();
        changes.map(|fields| (field(&fields, "state"), field(&fields, "cause"))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_state_is_one_line_with_its_cause() {
    let log = Log::default();
    let writer = log.clone();
    // The whole process logs there: the other tests' streams have other names.
    tracing_subscriber::fmt().json().with_writer(move || writer.clone()).init();
    let pair = Pair::start().await;
    let options = ReplicationOptions { stream: "told".to_owned(), ..pair.options() };
    put(&mut pair.from().await, "/app/a", "1").await;
    let replicator = Running::start(options.clone());
    let metrics = replicator.metrics.clone();
    let role = |role: &str| metrics.role.with_label_values(&[role]).get();
    replicator.streams().await;
    pair.equal().await;
    put(&mut pair.to().await, "/app/a", "stranger").await;
    until("the stranger's write to be put back", async || metrics.repaired.get() > 1).await;
    replicator.streams().await;
    assert_eq!((role("replica"), role("primary")), (1, 0));
    region::promote(options, "eve", false, false).await.unwrap();
    replicator.gives_up().await;
    assert_eq!((role("replica"), role("primary")), (0, 1));
    let mut states = log.states("told");
    // Whoever promotes takes the destination over first. A replicator that writes in between begins anew, and says so.
    states.retain(|(state, cause)| state != "starting" || !cause.contains("has taken this destination over"));
    let wanted = [
        ("aligning", "genesis"),
        ("streaming", "both sides are equal at revision"),
        ("starting", "both sides must be compared: stranger"),
        ("aligning", "stranger"),
        ("streaming", "both sides are equal at revision"),
        ("stopped", "failed to go on: the destination was promoted (epoch 2)"),
    ];
    assert_eq!(states.len(), wanted.len(), "{states:?}");
    for ((state, cause), wanted) in states.iter().zip(wanted) {
        assert!(state == wanted.0 && cause.starts_with(wanted.1), "{state} {cause}, not {wanted:?}");
    }
    // Where both regions write, too.
    let shared = ReplicationOptions {
        stream: "shared".to_owned(),
        rules: Rules::new("/both/", "/both/", RESERVED),
        overlap: Some(Overlap::new(Policy::LwwHlc)),
        ..pair.options_with_spool("shared")
    };
    let replicator = Running::start(shared);
    replicator.streams().await;
    replicator.stop().await;
    let states = log.states("shared");
    let told: Vec<(&str, &str)> = states.iter().map(|(state, cause)| (&**state, &**cause)).collect();
    let ours = "the destination is ours; both regions write here";
    assert_eq!(told, [("streaming", ours), ("stopped", "it was told to")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_destination_lacks_is_told_while_it_is_dead() {
    let mut pair = Pair::start().await;
    let mut source = pair.from().await;
    let before = jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
    put(&mut source, "/app/a", "1").await;
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    put(&mut source, "/app/a", "2").await;
    pair.equal().await;
    let metrics = &replicator.metrics;
    until("nothing to be missing", async || metrics.offset.get() == 0 && metrics.behind.get() == 0).await;
    pair.destination.kill();
    for round in 0..10 {
        put(&mut source, "/app/a", &round.to_string()).await;
    }
    until("what is missing to be told", async || metrics.offset.get() == 10).await;
    assert_eq!(metrics.behind.get(), 10);
    pair.destination.restart().await.unwrap();
    pair.equal().await;
    until("nothing to be missing any more", async || metrics.offset.get() == 0 && metrics.behind.get() == 0)
        .await;
    assert_eq!(metrics.mismatches.get(), 0);
    let oldest = metrics.spool_oldest.get();
    assert!(oldest >= before && oldest <= metrics.safe_time.get(), "{before} {oldest}");
    replicator.stop().await;
    // A restart reads from the disk how old it is.
    let replicator = Running::start(pair.options());
    replicator.streams().await;
    assert_eq!(replicator.metrics.spool_oldest.get().to_bits(), oldest.to_bits());
    replicator.stop().await;
}
