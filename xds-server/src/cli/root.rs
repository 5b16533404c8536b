//! The root of the command line: which verbs there are, and what ends the process.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use super::{
    completions::{self, CompletionsArgs},
    config::{self, ConfigCommand},
    explain::{self, ExplainArgs},
    proxies::{self, ProxiesArgs},
    register::{self, RegisterArgs},
    replicate::{self, ReplicateCommand},
    serve::{self, ServeArgs},
    snapshot::{self, SnapshotCommand},
    status::{self, StatusArgs},
    topology::{self, TopologyCommand},
    zone::{self, ZoneCommand},
};
use crate::exit::{EXIT_CODES, Exit, Failure, Outcome};

/// Bytes of a worker's stack. A replicator that runs in one takes over half of the usual 2 MiB in a build without optimisations;
/// what is not touched costs nothing.
const STACK: usize = 8 << 20;

const EXAMPLES: &str = "Examples:
  zonebreak serve --topology topology.yaml
  zonebreak serve --etcd http://127.0.0.1:2379 --filter zonebreak_filter.wasm
  zonebreak register --service order-svc --zone az-a --region eu-1 --address 10.0.0.7:8080
  zonebreak zone drain az-b --for 30m --reason \"packet loss on the az-b uplink\"
  zonebreak status";

/// Keeps services answering when an availability zone fails.
///
/// One program for both sides of the control plane: `serve` tells Envoy proxies over xDS which zones serve which service,
/// `register` keeps an endpoint known in etcd, and the rest lets operators look and drain zones. Data goes to standard
/// output, messages to standard error.
#[derive(Debug, Parser)]
#[command(name = "zonebreak", version, max_term_width = 100, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(ServeArgs),
    Register(RegisterArgs),
    /// Reads and writes the topology in etcd: zones, services, endpoints.
    #[command(subcommand)]
    Topology(TopologyCommand),
    /// Shows zones, and moves traffic out of them for a time.
    #[command(subcommand)]
    Zone(ZoneCommand),
    /// Replicates etcd's state into another etcd, and proves that both are equal.
    #[command(subcommand)]
    Replicate(ReplicateCommand),
    /// Saves etcd's state, and brings any moment of it back.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    Status(StatusArgs),
    Proxies(ProxiesArgs),
    Explain(ExplainArgs),
    /// Shows and checks the server's configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Prints a completion script for a shell.
    #[command(after_help = "Example:\n  zonebreak completions bash > /etc/bash_completion.d/zonebreak")]
    Completions(CompletionsArgs),
}

/// Reads the arguments of the process, runs what they ask for and says how it ended.
pub fn main() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => cli.run(),
        // Prints help and versions to standard output with code 0, usage errors to standard error with code 2.
        Err(error) => error.exit(),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit.into()
        }
    }
}

// === impl Cli ===

impl Cli {
    fn run(self) -> Outcome {
        match self.command {
            Command::Config(command) => config::run(&command),
            Command::Completions(args) => completions::run(&args),
            Command::Serve(args) => block_on(serve::run(args)),
            Command::Register(args) => block_on(register::run(args)),
            Command::Topology(command) => block_on(topology::run(command)),
            Command::Zone(command) => block_on(zone::run(command)),
            Command::Replicate(command) => block_on(replicate::run(command)),
            Command::Snapshot(command) => block_on(snapshot::run(command)),
            Command::Status(args) => block_on(status::run(args)),
            Command::Proxies(args) => block_on(proxies::run(args)),
            Command::Explain(args) => block_on(explain::run(args)),
        }
    }

    /// The definition of the whole command line, for completions and for tests of the help texts.
    pub fn definition() -> clap::Command {
        Self::command()
    }
}

fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().thread_stack_size(STACK).build();
    let runtime = runtime.map_err(|error| {
        Failure::new(Exit::Unexpected, format_args!("failed to start the runtime: {error}"))
    })?;
    runtime.block_on(work)
}
