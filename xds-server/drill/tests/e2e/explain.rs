//! `zonebreak explain` tells what happened: the counters of a real Envoy, recorded through a fault and the recovery from it, give
//! the transitions that the filter itself made and logged.

use std::time::Duration;

use serde_json::{Value, json};
use zonebreak_drill::{
    lab::Fault,
    world::{World, WorldOptions},
};

use crate::support::{Calm, cli, judged, steady};

const RATE: f64 = 200.0;

/// `zone from -> to (cause)` of each.
fn moves(rows: &Value) -> Vec<String> {
    let told = |row: &Value| {
        let [zone, from, to, cause] =
            ["zone", "from", "to", "cause"].map(|field| row[field].as_str().unwrap_or_default());
        format!("{zone} {from} -> {to} ({cause})")
    };
    rows.as_array().unwrap().iter().map(told).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_gives_the_transitions_that_the_filter_made() {
    judged(async || {
        let policy = json!({"mode": "eventual", "breaker": {"open": "2s", "ramp": "2s"}});
        let mut world = World::start(WorldOptions { policy, ..Default::default() }).await.unwrap();
        let load = world.load(RATE).unwrap();
        steady(&world, &load, RATE).await;

        // What a busy machine made of the start is not in the recording.
        let before = world.envoy.process().log().len();
        let calm = Calm::begin(&mut world);
        let admin = world.envoy.admin().base().to_owned();
        let record = ["explain", "record", "--envoy", &admin, "--for", "20s"];
        let (recorded, left) = tokio::join!(cli(&world.plane, &record), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            world.backends.zone("az-a").set_fault(Fault::HARD);
            let left = world.until_zone("az-a", Duration::from_secs(5), |seen| seen.state == 1).await;
            world.backends.zone("az-a").set_fault(Fault::None);
            left
        });
        assert!(recorded.err.contains("samples recorded"), "{}", recorded.err);
        calm.promise(left.is_ok(), || format!("{left:?}"))?;
        let series = world.lab.write("series.jsonl", &recorded.out).unwrap();
        let log = world.lab.write("filter.log", &world.envoy.process().log()[before..]).unwrap();

        let explain = async |file: &std::path::Path| -> Value {
            let words = cli(&world.plane, &["explain", &file.to_string_lossy(), "-o", "json"]).await;
            serde_json::from_str(&words.out).unwrap()
        };
        let (told, logged) = (explain(&series).await, explain(&log).await);
        let (replayed, filters) = (moves(&told["transitions"]), moves(&logged));
        for expected in ["az-a closed -> open (failures)", "az-a ramp -> closed (ramped)"] {
            calm.promise(filters.iter().any(|one| one == expected), || format!("{filters:?}"))?;
        }
        calm.promise(replayed == filters, || format!("{replayed:?}, and the filter {filters:?}: {told:#}"))?;

        // The policy is the filter's own, and each move is set beside the filter's.
        assert_eq!((&told["policy"]["source"], &told["own_zone"]), (&json!("recorded"), &json!("az-a")));
        let all = json!({"transitions": filters.len(), "explained": filters.len()});
        calm.promise(told["filter"] == all, || format!("{told:#}"))?;
        let first = told["transitions"][0]["words"][0].as_str().unwrap();
        let says = first.contains("requests to az-a failed in") && first.contains("in the other zones 0 of");
        calm.promise(says, || first.to_owned())
    })
    .await;
}
