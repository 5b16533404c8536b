//! `zonebreak completions SHELL`: the script that teaches a shell the commands and flags.

use clap_complete::Shell;

use super::{output::print, root::Cli};
use crate::exit::{Exit, Outcome};

/// Which shell.
#[derive(Debug, Clone, clap::Args)]
pub struct CompletionsArgs {
    /// The shell to complete for.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Runs the command.
pub fn run(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::definition(), "zonebreak", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
