//! Bringing a state back, measured beside etcd's own way: `etcdutl snapshot restore` and the start of an etcd on what it made. The
//! same keys, one machine, one run.

use std::{process::Stdio, time::Instant};

use anyhow::{Context as _, ensure};
use etcd_client::{Client, DeleteOptions, GetOptions, Txn, TxnOp};
use serde_json::Value;

use super::{
    PREFIX,
    scenario::Effort,
    server::Server,
    table::{Cell, Row},
    targets::{Figure, Limit, Quantity},
};
use crate::lab::{Etcd, Lab, Tool};

/// Bytes of a value.
const VALUE: usize = 200;

/// Measures every way with this many keys on one etcd: a row each, with `etcdutl` beside it where it is of that etcd's version.
pub(super) async fn restores(
    server: &Server,
    effort: &Effort,
    with_peer: bool,
    say: &impl Fn(String),
) -> anyhow::Result<Vec<Row>> {
    let keys = effort.keys;
    let lab = server.lab()?;
    let etcd = Etcd::start(&lab).await?;
    let mut client = Client::connect([etcd.url()], None).await?;
    fill(&mut client, keys).await?;
    let theirs = if with_peer { Some(theirs(&lab, &etcd, keys).await?) } else { None };
    let directory = lab.path().join("snapshots").display().to_string();
    let begun = Instant::now();
    let saved = ours(&lab, &["save", "--etcd", &etcd.url(), "--dir", &directory]).await?;
    let bytes = saved.get("bytes").and_then(Value::as_u64).unwrap_or(0);
    let name =
        saved.get("name").and_then(Value::as_str).context("failed to read the snapshot's name")?.to_owned();
    let (saved_by_peer, restored_by_peer) = theirs.unzip();
    let title = format!("save {keys} keys");
    let mut rows = vec![row(title, 2.0, saved_by_peer, cell(begun, Some(bytes)))];
    let restore = ["restore", &name, "--dir", &directory, "--yes"];
    for (way, share) in
        [("in place, everything deleted", keys), ("in place, one key in a hundred changed", keys / 100)]
    {
        spoil(&mut client, keys, share).await?;
        let begun = Instant::now();
        let report = ours(&lab, &[&restore[..], &["--etcd", &etcd.url()]].concat()).await?;
        let cell = cell(begun, None);
        ensure!(report.get("written").and_then(Value::as_u64) == Some(share as u64), "{report}");
        ensure!(count(&mut client).await? == keys, "{way}: keys are missing");
        say(format!("restore {way}: {}", cell.words));
        rows.push(row(format!("restore {way}"), 3.0, None, cell));
    }
    let begun = Instant::now();
    let other = server.lab()?;
    let empty = Etcd::start(&other).await?;
    ours(&lab, &[&restore[..], &["--into", &empty.url()]].concat()).await?;
    let cell = cell(begun, None);
    let mut client = Client::connect([empty.url()], None).await?;
    ensure!(count(&mut client).await? == keys, "the new etcd lacks keys");
    say(format!("restore into an etcd that is started for it: {}", cell.words));
    let title = "restore into an etcd that is started for it".to_owned();
    rows.push(row(title, 3.0, restored_by_peer, cell));
    Ok(rows)
}

fn row(title: String, seconds: f64, peer: Option<Cell>, ours: Cell) -> Row {
    let limits = vec![Limit::new(Quantity::Seconds, seconds)];
    Row { title, limits, peers: peer.into_iter().collect(), ours: vec![ours] }
}

/// From `begun` until now, with the size of the file where there is one.
fn cell(begun: Instant, bytes: Option<u64>) -> Cell {
    let seconds = begun.elapsed().as_secs_f64();
    let size = bytes.map(|bytes| format!(", {:.1} MB", bytes as f64 / 1e6)).unwrap_or_default();
    let figures = vec![Figure::new(Quantity::Seconds, seconds)];
    Cell { value: seconds, words: format!("{seconds:.2} s{size}"), figures }
}

/// Theirs: save, and restore.
async fn theirs(lab: &Lab, etcd: &Etcd, keys: usize) -> anyhow::Result<(Cell, Cell)> {
    let file = lab.path().join("theirs.db");
    let begun = Instant::now();
    let mut command = tokio::process::Command::new(lab.programs().path(Tool::Etcdctl)?);
    run(command.args(["--endpoints", &etcd.url(), "snapshot", "save"]).arg(&file)).await?;
    let save = cell(begun, Some(file.metadata()?.len()));
    let begun = Instant::now();
    let mut restore = tokio::process::Command::new(lab.programs().path(Tool::Etcdutl)?);
    restore.args(["snapshot", "restore"]).arg(&file).arg("--data-dir").arg(lab.path().join("restored.data"));
    run(restore.args(["--name", "restored", "--initial-cluster", "restored=http://localhost:2380"])).await?;
    let restored = Etcd::start_named(lab, "restored").await?;
    let restore = cell(begun, None);
    let mut client = Client::connect([restored.url()], None).await?;
    ensure!(count(&mut client).await? == keys, "etcdutl: keys are missing");
    Ok((save, restore))
}

/// A verb of ours, with its JSON.
async fn ours(lab: &Lab, args: &[&str]) -> anyhow::Result<Value> {
    let mut command = tokio::process::Command::new(lab.programs().path(Tool::Zonebreak)?);
    let out = run(command.arg("snapshot").args(args).args(["--prefix", PREFIX, "-o", "json"])).await?;
    Ok(serde_json::from_slice(&out)?)
}

async fn run(command: &mut tokio::process::Command) -> anyhow::Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "failed to run {:?}: {told}", command.as_std());
    Ok(output.stdout)
}

async fn fill(client: &mut Client, keys: usize) -> anyhow::Result<()> {
    for chunk in (0..keys).collect::<Vec<_>>().chunks(100) {
        // Not all alike: packing them must cost something.
        let value = || std::iter::repeat_with(fastrand::alphanumeric).take(VALUE).collect::<String>();
        let puts: Vec<TxnOp> =
            chunk.iter().map(|at| TxnOp::put(format!("{PREFIX}{at:07}"), value(), None)).collect();
        client.txn(Txn::new().and_then(puts)).await?;
    }
    Ok(())
}

/// Deletes everything, or changes `share` keys.
async fn spoil(client: &mut Client, keys: usize, share: usize) -> anyhow::Result<()> {
    if share == keys {
        client.delete(PREFIX, Some(DeleteOptions::new().with_prefix())).await?;
    } else {
        for at in (0..keys).step_by(keys / share.max(1)) {
            client.put(format!("{PREFIX}{at:07}"), "spoiled", None).await?;
        }
    }
    Ok(())
}

async fn count(client: &mut Client) -> anyhow::Result<usize> {
    let options = GetOptions::new().with_prefix().with_count_only();
    Ok(usize::try_from(client.get(PREFIX, Some(options)).await?.count())?)
}
