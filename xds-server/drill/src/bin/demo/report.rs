//! What the demo leaves behind: its summary as JSON, and the addresses of what goes on running. Formats; measures nothing.

use std::{fs::File, io::Write};

use anyhow::{Context, Result};
use serde::Serialize;
use zonebreak_drill::{
    lab::Tool,
    world::{SERVICE, World},
};

use super::{
    promises::Promise,
    table::Row,
    text::{Line, Tone},
};

/// The summary for programs. Field names are stable.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// Whether every promise was kept.
    pub kept: bool,
    /// How long the phases took, without the start.
    pub seconds: f64,
    /// The worst lateness of the load generator itself, in seconds: figures mean little where this is not small.
    pub load_late: f64,
    /// What the table showed.
    pub phases: &'a [Row],
    /// What was promised and what was found.
    pub promises: &'a [Promise],
}

// === impl Report ===

impl Report<'_> {
    /// Writes it to a file that is open already, so that a wrong path is found out before anything runs.
    pub fn write(&self, file: &mut File) -> Result<()> {
        serde_json::to_writer_pretty(&mut *file, self).context("failed to write the summary")?;
        file.write_all(b"\n").context("failed to write the summary")
    }
}

/// Where everything is.
pub fn addresses(world: &World) -> Result<Vec<Line>> {
    let zonebreak = world.lab.programs().path(Tool::Zonebreak)?;
    let entry =
        |name: &str, text: String| Line::new(Tone::Strong, format!("  {name:<16}")).with(Tone::Plain, text);
    Ok(vec![
        Line::new(Tone::Strong, "everything goes on running, with 200 requests a second, until Ctrl-C:"),
        entry("the service", format!("curl -i -H 'host: {SERVICE}' http://{}/", world.listener)),
        entry("Envoy's admin", format!("{}/stats?filter=zonebreak", world.envoy.admin().base())),
        entry("xDS", world.plane.xds().to_string()),
        entry("admin", format!("{}/status", world.plane.admin().base())),
        entry("health", format!("{}/readyz?verbose", world.plane.health_url())),
        entry("metrics", format!("{}/metrics", world.plane.health_url())),
        entry("etcd", world.etcd.url()),
        entry("files and logs", world.lab.path().display().to_string()),
        Line::new(Tone::Strong, "to drain a zone yourself:"),
        Line::new(Tone::Plain, format!("  export ZONEBREAK_SERVER={}", world.plane.admin().base())),
        Line::new(Tone::Plain, format!("  export ZONEBREAK_ETCD__ENDPOINTS={}", world.etcd.url())),
        Line::new(Tone::Plain, format!("  {} zone drain az-b --for 5m --reason test", zonebreak.display())),
    ])
}
