//! The running server, as proxies, operators and probes meet it: real processes, a real etcd, a real gRPC client.

mod etcd;
mod file;
mod guard;
mod ledger;
mod proxy;
mod reload;
mod snapshots;
mod trial;
mod waves;

use std::{process::Output, time::Duration};

use zonebreak_drill::lab::{Http, Lab, Plane, PlaneOptions, until};

/// Longer than anything here takes on a busy machine; a test that passes never waits for it.
const LIMIT: Duration = Duration::from_secs(60);

/// A server on a topology file, without a filter.
async fn on_file(lab: &Lab, topology: &str) -> Plane {
    let options =
        PlaneOptions { topology: Some(topology.to_owned()), filter: false, ..PlaneOptions::default() };
    Plane::start(lab, options).await.unwrap()
}

/// The health port.
fn health(plane: &Plane) -> Http {
    Http::new(plane.health_url()).unwrap()
}

/// Waits until the JSON at `path` of the admin port satisfies `check`.
async fn admin_says(
    plane: &Plane,
    path: &str,
    check: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    until(path, LIMIT, async || {
        let seen: serde_json::Value = plane.admin().json(path).await.map_err(|error| error.to_string())?;
        if check(&seen) { Ok(seen) } else { Err(seen.to_string()) }
    })
    .await
    .unwrap()
}

/// Exit code, standard output and standard error of a command.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}
