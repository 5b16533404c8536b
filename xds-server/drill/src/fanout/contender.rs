//! The servers that are compared, each a child process that is told what to do by lines on its standard input.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Which server, with which cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Cache {
    /// Ours.
    Ours,
    /// go-control-plane, one linear cache a type.
    Linear,
    /// go-control-plane, the snapshot cache.
    Snapshot,
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Servers {
    /// `bench_server` of `zonebreak-xds`.
    pub ours: PathBuf,
    /// `bench/go-control-plane`, if it could be built.
    pub peer: Option<PathBuf>,
}

/// A running server. It ends with its owner: its input does.
#[derive(Debug)]
pub(super) struct Contender {
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

// === impl Cache ===

impl Cache {
    /// As in tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Ours => "**Zonebreak**",
            Self::Linear => "go-control-plane, linear",
            Self::Snapshot => "go-control-plane, snapshot",
        }
    }
}

// === impl Contender ===

impl Contender {
    pub(super) async fn start(servers: &Servers, cache: Cache, services: usize) -> anyhow::Result<Self> {
        let services = services.to_string();
        match (cache, &servers.peer) {
            (Cache::Ours, _) => Self::run(&servers.ours, &[&services]).await,
            (Cache::Linear, Some(peer)) => Self::run(peer, &["linear", &services]).await,
            (Cache::Snapshot, Some(peer)) => Self::run(peer, &["snapshot", &services]).await,
            (_, None) => anyhow::bail!("go-control-plane was not built"),
        }
    }

    /// Our server without its engine: HTTP/2 that answers with nothing.
    pub(super) async fn bare(servers: &Servers) -> anyhow::Result<Self> {
        Self::run(&servers.ours, &["bare"]).await
    }

    async fn run(program: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start {}", program.display()))?;
        let pid = child.id().context("the server ended at once")?;
        let commands = child.stdin.take().context("the server has no input")?;
        let output = child.stdout.take().context("the server has no output")?;
        let mut started = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            pid,
            commands,
            answers: BufReader::new(output).lines(),
            _child: child,
        };
        let line = started.answer().await?;
        started.address = line
            .strip_prefix("listening ")
            .and_then(|address| address.parse().ok())
            .with_context(|| format!("the server said {line:?} and not where it listens"))?;
        Ok(started)
    }

    /// Lets it tidy up its memory, if it has a way to.
    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        self.say("settle\n").await?;
        self.answer().await.map(drop)
    }

    /// Tells it to make a change; [`Contender::changed`] says when the call came back.
    pub(super) async fn change(&mut self, number: u64) -> anyhow::Result<()> {
        self.say(&format!("change {number}\n")).await
    }

    pub(super) async fn changed(&mut self, number: u64) -> anyhow::Result<()> {
        let line = self.answer().await?;
        anyhow::ensure!(line == format!("changed {number}"), "the server said {line:?} to change {number}");
        Ok(())
    }

    async fn say(&mut self, line: &str) -> anyhow::Result<()> {
        self.commands.write_all(line.as_bytes()).await.context("failed to reach the server: it has ended")
    }

    async fn answer(&mut self) -> anyhow::Result<String> {
        self.answers.next_line().await?.context("the server has ended; its last words are above")
    }
}
