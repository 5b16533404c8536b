//! The sections of the page: which measurements make a table, and who takes part in each. Runs them in turn; formats nothing
//! itself.

use super::{
    contender::Contender,
    kills::kill_loop,
    reads::reads,
    restore::restores,
    scenario::{Effort, Scenario},
    server::Server,
    table::{Row, table},
};

/// One table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Section {
    /// Copies of everything, comparisons, and what a resync takes.
    Baseline,
    /// How far behind the destination is under load, near and over 80 ms.
    Lag,
    /// Catching up with what was written while the replicator was down.
    Backlog,
    /// Snapshots saved and brought back.
    Restore,
    /// The kill loop.
    Kills,
    /// Reads of the server's own topology snapshot while it is replaced.
    Reads,
}

// === impl Section ===

impl Section {
    /// For the page.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Baseline => "Copies and comparisons",
            Self::Lag => "Lag under load: p50 / p99 / max",
            Self::Backlog => "A backlog",
            Self::Restore => "Bringing a state back",
            Self::Kills => "Killed again and again",
            Self::Reads => "The server's own snapshot, read while it is replaced",
        }
    }

    fn scenarios(self, quick: bool) -> Vec<Scenario> {
        use Scenario::{
            Backlog, Baseline, BaselineAtDestination, BaselineAtSource, Batched, Compacted, Full, Steady,
            SteadyAtDestination, SteadyAtSource, Verify,
        };
        match self {
            Self::Baseline if quick => vec![Baseline, Verify, Compacted],
            Self::Baseline => vec![Baseline, BaselineAtDestination, BaselineAtSource, Verify, Compacted],
            Self::Lag if quick => vec![Steady(500), SteadyAtDestination(2_000)],
            Self::Lag => vec![
                Steady(500),
                Steady(2_000),
                Batched(500),
                Full,
                SteadyAtDestination(2_000),
                SteadyAtSource(500),
                SteadyAtSource(2_000),
            ],
            Self::Backlog => vec![Backlog],
            Self::Restore | Self::Kills | Self::Reads => Vec::new(),
        }
    }

    /// Measures it on each of these etcds: Markdown without its heading, and whether replication was found to be exact.
    ///
    /// # Errors
    /// When a process does not start, etcd fails, or something that must hold does not.
    pub async fn run(
        self,
        servers: &[Server],
        effort: &Effort,
        say: &impl Fn(String),
    ) -> anyhow::Result<(String, bool)> {
        let versions: Vec<&str> = servers.iter().map(|server| server.version.as_str()).collect();
        let rows = match self {
            Self::Reads => return Ok((reads(effort, say).await?, true)),
            Self::Kills => return kills(servers, effort, say).await,
            Self::Restore => {
                let mut rows: Vec<Row> = Vec::new();
                for (at, server) in servers.iter().enumerate() {
                    say(format!("restores, etcd {}", server.version));
                    let more = restores(server, effort, at == 0, say).await?;
                    if at == 0 {
                        rows = more;
                    } else {
                        rows.iter_mut().zip(more).for_each(|(row, more)| row.ours.extend(more.ours));
                    }
                }
                rows
            }
            Self::Baseline | Self::Lag | Self::Backlog => {
                let mut rows = Vec::new();
                for scenario in self.scenarios(effort.quick) {
                    rows.push(row(scenario, servers, effort, say).await?);
                }
                rows
            }
        };
        let peer = if self == Self::Restore { "etcdctl and etcdutl" } else { "make-mirror" };
        Ok((table(peer, &versions, !effort.quick, &rows), true))
    }
}

async fn row(
    scenario: Scenario,
    servers: &[Server],
    effort: &Effort,
    say: &impl Fn(String),
) -> anyhow::Result<Row> {
    let title = scenario.title(effort);
    let mut row = Row { title, limits: scenario.limits(), peers: Vec::new(), ours: Vec::new() };
    for server in servers {
        for contender in [Contender::MakeMirror, Contender::Zonebreak] {
            if contender == Contender::MakeMirror && !scenario.is_for_mirror() {
                continue;
            }
            let cell = scenario.measure(server, contender, effort).await?;
            say(format!("{}, {}, etcd {}: {}", row.title, contender.title(), server.version, cell.words));
            match contender {
                Contender::MakeMirror => row.peers.push(cell),
                Contender::Zonebreak => row.ours.push(cell),
            }
        }
    }
    Ok(row)
}

async fn kills(servers: &[Server], effort: &Effort, say: &impl Fn(String)) -> anyhow::Result<(String, bool)> {
    let (mut text, mut clean) = (String::from("```\n"), true);
    for server in servers {
        let found =
            kill_loop(server, effort.kills, |words| say(format!("{words}, etcd {}", server.version))).await?;
        clean &= found.is_clean();
        text += &format!(
            "etcd {}: killed {} times under {} changes: {} lost, {} doubled, {} resurrected, {} gone back, {} torn\n",
            server.version,
            found.kills,
            found.changes,
            found.lost,
            found.doubled,
            found.resurrected,
            found.back,
            found.torn
        );
    }
    Ok((text + "```\n", clean))
}
