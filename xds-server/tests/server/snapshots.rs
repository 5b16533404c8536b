//! `zonebreak snapshot` as operators use it: the real program, real etcds, a real replicator beside it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use etcd_client::{Client, DeleteOptions, GetOptions, Txn, TxnOp};
use serde_json::Value;
use zonebreak_drill::lab::{Etcd, Lab, Replicator, ReplicatorOptions, until};

use super::{LIMIT, told};

const PREFIX: &str = "/zonebreak/v1/";

/// An etcd, and where snapshots of it go.
struct Place {
    etcd: Etcd,
    client: Client,
    lab: Lab,
}

type State = Vec<(String, String)>;

// === impl Place ===

impl Place {
    async fn new() -> Self {
        let lab = Lab::new().unwrap();
        let etcd = Etcd::start(&lab).await.unwrap();
        let client = Client::connect([etcd.url()], None).await.unwrap();
        Self { etcd, client, lab }
    }

    /// A command in the lab's directory, which finds etcd, log and snapshots by its environment.
    fn command(&self, program: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program);
        let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ZONEBREAK_"));
        for (name, _) in ours {
            command.env_remove(name);
        }
        command
            .env("ZONEBREAK_REPLICATE__SOURCE", self.etcd.url())
            .env("ZONEBREAK_SNAPSHOTS__DIRECTORY", self.snapshots())
            .env("ZONEBREAK_REPLICATE__SPOOL_DIR", self.lab.path().join("replicator.spool"))
            .current_dir(self.lab.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn cli(&self, args: &[&str]) -> (i32, String, String) {
        told(
            &self.command(env!("CARGO_BIN_EXE_zonebreak")).arg("snapshot").args(args).output().await.unwrap(),
        )
    }

    /// The JSON of a command that must succeed.
    async fn json(&self, args: &[&str]) -> Value {
        let (code, out, err) = self.cli(&[args, &["-o", "json"]].concat()).await;
        assert_eq!(code, 0, "{args:?}: {err}");
        serde_json::from_str(&out).unwrap()
    }

    fn snapshots(&self) -> PathBuf {
        self.lab.path().join("snapshots")
    }

    async fn put(&mut self, key: &str, value: &str) -> i64 {
        let done = self.client.put(format!("{PREFIX}{key}"), value, None).await.unwrap();
        done.header().unwrap().revision()
    }

    async fn fill(&mut self, keys: usize) {
        for chunk in (0..keys).collect::<Vec<_>>().chunks(100) {
            let put = |at: &usize| TxnOp::put(format!("{PREFIX}k{at:05}"), format!("value {at}"), None);
            self.client.txn(Txn::new().and_then(chunk.iter().map(put).collect::<Vec<_>>())).await.unwrap();
        }
    }

    async fn wipe(&mut self) {
        self.client.delete(PREFIX, Some(DeleteOptions::new().with_prefix())).await.unwrap();
    }

    async fn state(&mut self) -> State {
        state(&mut self.client).await
    }
}

async fn state(client: &mut Client) -> State {
    let found = client.get(PREFIX, Some(GetOptions::new().with_prefix())).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ours = found.kvs().iter().filter(|kv| !kv.key().starts_with(b"/zonebreak/v1/replication/"));
    ours.map(|kv| (text(kv.key()), text(kv.value()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_killed_is_finished_by_the_same_command() {
    let mut place = Place::new().await;
    place.fill(6_000).await;
    let wanted = place.state().await;
    let name = place.json(&["save"]).await["name"].as_str().unwrap().to_owned();
    place.wipe().await;
    // One key at a time, so that there is a middle.
    let mut slow = place.command(env!("CARGO_BIN_EXE_zonebreak"));
    let mut slow = slow
        .args(["snapshot", "restore", &name, "--yes"])
        .env("ZONEBREAK_REPLICATE__MAX_OPERATIONS", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut client = place.client.clone();
    until("the restore to have begun", LIMIT, async || {
        let keys = state(&mut client.clone()).await.len();
        if keys > 50 { Ok(()) } else { Err(format!("{keys} keys")) }
    })
    .await
    .unwrap();
    slow.kill().await.unwrap();
    // What it had sent may still be on its way through etcd.
    let mut middle = 0;
    until("nothing more to come", LIMIT, async || {
        let before = std::mem::replace(&mut middle, state(&mut client.clone()).await.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
        if before == middle { Ok(()) } else { Err(format!("{middle} keys")) }
    })
    .await
    .unwrap();
    assert!(middle < 6_000, "it was done before it was killed");
    let mark = client.get("/zonebreak/v1/replication/restore:mark", None).await.unwrap();
    assert_eq!(mark.kvs().len(), 1, "readers can tell that it is not whole");
    let report = place.json(&["restore", &name, "--yes"]).await;
    assert_eq!(report["resumed"], true, "{report}");
    assert_eq!(report["written"], 6_000 - middle, "{report}");
    assert_eq!(place.state().await, wanted);
    let mark = client.get("/zonebreak/v1/replication/restore:mark", None).await.unwrap();
    assert!(mark.kvs().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_refused_by_name_and_the_others_serve() {
    let mut place = Place::new().await;
    place.fill(100).await;
    let good = place.json(&["save"]).await["name"].as_str().unwrap().to_owned();
    place.put("later", "1").await;
    let bad = place.json(&["save"]).await["name"].as_str().unwrap().to_owned();
    let path = place.snapshots().join(format!("{bad}.snap"));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (code, out, _) = place.cli(&["verify", "--all"]).await;
    assert_eq!(code, 3, "{out}");
    assert!(out.contains("whole") && out.contains("DAMAGED") && out.contains("SHA-256"), "{out}");
    let (code, _, err) = place.cli(&["restore", &bad, "--dry-run"]).await;
    assert_eq!(code, 3, "{err}");
    assert!(err.contains(&bad) && err.contains("Nothing of it was used"), "{err}");
    let (code, _, err) = place.cli(&["restore", &good]).await;
    assert_eq!(code, 5, "{err}");
    assert!(err.contains("0 added, 0 changed, 1 deleted, 100 equal") && err.contains("--yes"), "{err}");
    assert_eq!(place.state().await.len(), 101, "nobody said yes");
    assert_eq!(place.json(&["restore", &good, "--yes"]).await["written"], 1);
    // Cut off, it still is in the list, and says so.
    std::fs::write(&path, &bytes[..middle]).unwrap();
    let all = place.json(&["ls"]).await;
    let errors: Vec<&Value> = all["snapshots"].as_array().unwrap().iter().map(|row| &row["error"]).collect();
    assert!(errors.iter().any(|error| error.to_string().contains("cut off")), "{all}");
    assert_eq!(errors.iter().filter(|error| error.is_null()).count(), 1);
    let (code, _, err) = place.cli(&["restore", "r1", "--dry-run"]).await;
    assert_eq!(code, 2, "{err}");
    assert!(err.contains(&good), "what there is instead: {err}");
    let (code, _, err) = place.cli(&["restore", "--revision", "99999", "--dry-run"]).await;
    assert_eq!(code, 5, "{err}");
    assert!(err.contains("What can be restored: revision "), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_nothing_is_said_to_be_one_and_an_import_is_no_restore() {
    let mut place = Place::new().await;
    place.put("services/a", "{}").await;
    let (code, out, err) = place.cli(&["export", "--prefix", "/zonebreak/v1/policies/"]).await;
    assert!(code == 0 && out.contains("keys: []"), "{out}{err}");
    assert!(err.contains("no key under \"/zonebreak/v1/policies/\""), "{err}");
    let (_, out, err) = place.cli(&["export"]).await;
    assert_eq!(err, "");
    place.lab.write("state.yaml", &out).unwrap();
    place.wipe().await;
    let (code, out, err) = place.cli(&["import", "state.yaml", "--yes"]).await;
    assert!(code == 0 && out.starts_with("imported: 1 key written in 1 transaction, 0 equal"), "{out}{err}");
}

/// Every command of the runbook, in its order, with this lab's addresses in the place of the page's.
#[tokio::test(flavor = "multi_thread")]
async fn the_runbook_works_as_it_is_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = std::fs::read_to_string(root.join("docs/snapshots.md")).unwrap();
    let blocks: Vec<(&str, &str)> =
        page.split("\n```").skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect();
    let mut place = Place::new().await;
    let (replica_lab, empty_lab) = (Lab::new().unwrap(), Lab::new().unwrap());
    let (replica, empty) = (Etcd::start(&replica_lab).await.unwrap(), Etcd::start(&empty_lab).await.unwrap());
    let lab = place.lab.path().to_str().unwrap().to_owned();
    let at_home = |text: &str| {
        text.replace("http://10.1.0.1:2379", &place.etcd.url())
            .replace("http://10.2.0.1:2379", &replica.url())
            .replace("http://10.9.0.1:2379", &empty.url())
            .replace("/var/lib/zonebreak/spool", &format!("{lab}/replicator.spool"))
            .replace("/var/lib/zonebreak", &lab)
    };
    let (_, yaml) = blocks.iter().find(|(kind, _)| *kind == "yaml").unwrap();
    let config = place.lab.write("zonebreak.yaml", &at_home(yaml).replace("1h", "100ms")).unwrap();
    // A replicator on the page's configuration, and some life.
    let options = ReplicatorOptions {
        source: place.etcd.url(),
        destination: replica.url(),
        prefix: PREFIX.to_owned(),
        environment: vec![("ZONEBREAK_CONFIG", config.display().to_string())],
    };
    let script = at_home(
        &blocks
            .iter()
            .filter(|(kind, _)| kind.is_empty())
            .map(|(_, text)| format!("{text}\n"))
            .collect::<String>(),
    );
    place.fill(300).await;
    place.put("services/a", r#"{"port":80}"#).await;
    let mut replicator = Replicator::start(&place.lab, "replicator", &options).unwrap();
    replicator.ready().await.unwrap();
    until("a snapshot beside the replicator", LIMIT, async || {
        let there = std::fs::read_dir(place.snapshots()).map_or(0, |all| {
            all.flatten().filter(|it| it.path().extension().is_some_and(|it| it == "snap")).count()
        });
        if there > 0 { Ok(()) } else { Err("none".to_owned()) }
    })
    .await
    .unwrap();
    let good = place.put("good", "1").await;
    let spool = place.lab.path().join("replicator.spool");
    let in_log = async |revision: i64| {
        until("the log to have it", LIMIT, async || {
            let log = zonebreak_replication::spool::History::open(&spool).unwrap();
            let through = log.map_or(0, |log| log.through().0);
            if through >= revision { Ok(()) } else { Err(format!("it ends at {through}")) }
        })
        .await
        .unwrap();
    };
    in_log(good).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let before = zonebreak_replication::snapshot::moment::time(
        u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap(),
    );
    tokio::time::sleep(Duration::from_millis(10)).await;
    let wanted = place.state().await;
    let keys = Some(DeleteOptions::new().with_prefix());
    place.client.delete(format!("{PREFIX}k0000"), keys).await.unwrap();
    let worse = place.put("good", "2").await;
    in_log(worse).await;

    let script = script.replace("2026-11-26T10:14:30Z", &before).replace("80204", &good.to_string());
    let lines: Vec<&str> = script.lines().filter(|line| line.starts_with("zonebreak snapshot")).collect();
    assert!(lines.len() >= 11, "{script}");
    let bin = Path::new(env!("CARGO_BIN_EXE_zonebreak")).parent().unwrap().display().to_string();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
    let (mut name, mut outputs) = (String::new(), Vec::new());
    for line in lines {
        let line = line.replace("r0000080211-20261126T101500Z", &name);
        let run = place.command("sh").args(["-c", &line]).env("PATH", &path).output().await.unwrap();
        let (code, out, err) = told(&run);
        assert_eq!(code, 0, "{line}\n{out}{err}");
        if line.starts_with("zonebreak snapshot save") {
            name = out.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        }
        if line.contains("--time") && line.contains("--yes") {
            assert_eq!(place.state().await, wanted, "{line}\n{out}");
        }
        outputs.push((line, out));
    }
    let out = |part: &str| outputs.iter().find(|(line, _)| line.contains(part)).unwrap().1.as_str();
    assert!(out("ls").contains("Can be restored:"), "{}", out("ls"));
    assert!(out("--dry-run").contains("10 added, 1 changed, 0 deleted"), "{}", out("--dry-run"));
    assert!(out("--live").contains("equal"), "{}", out("--live"));
    assert_eq!(place.state().await, wanted);
    assert_eq!(state(&mut Client::connect([empty.url()], None).await.unwrap()).await, wanted);
    let metrics = replicator.metrics().await.unwrap();
    assert!(metrics.contains("zonebreak_snapshot_failures_total 0"), "{metrics}");
    assert!(metrics.contains("zonebreak_snapshot_taken_total{from=\"source\"} 1"), "{metrics}");
}
