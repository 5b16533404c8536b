//! The replicator as a process, killed again and again: what the library's own tests cannot do to it.

use zonebreak_drill::replication::{Server, kill_loop};

/// Ten in the gate, hundreds in `scripts/bench-replication`.
#[tokio::test(flavor = "multi_thread")]
async fn a_replicator_killed_ten_times_under_load_loses_doubles_and_resurrects_nothing() {
    let found = kill_loop(&Server::pinned().unwrap(), 10, |text| eprintln!("{text}")).await.unwrap();
    assert!(found.is_clean(), "{found:?}");
    assert!(found.changes > 500 && found.revisions > 50, "{found:?}");
}
