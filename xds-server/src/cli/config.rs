//! `zonebreak config defaults | show | validate`: the server's configuration before it runs. Changes nothing.

use std::path::PathBuf;

use clap::Subcommand;

use super::{failures, output::print, topology::FileFormat};
use crate::{
    config::{self, Layers, Requirement},
    exit::{Exit, Failure, Outcome},
    serve::{module::Module, tls::Tls},
};

/// What can be asked of a configuration.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Prints every setting with its default and its meaning: a file to start from.
    ///
    /// Each setting can also come from the environment: ZONEBREAK_SECTION__KEY, such as ZONEBREAK_ETCD__ENDPOINTS.
    #[command(after_help = "Example:\n  zonebreak config defaults > zonebreak.yaml")]
    Defaults,
    /// Prints the configuration in force and where each value comes from.
    #[command(after_help = "Examples:
  zonebreak config show --config zonebreak.yaml
  zonebreak config show -o json | jq '.\"etcd.endpoints\"'")]
    Show(ShowArgs),
    /// Checks a configuration, its environment overrides, and the filter module and the certificates it names. Ends with 0 or 2.
    #[command(
        after_help = "Example:\n  zonebreak config validate --config zonebreak.yaml && systemctl reload zonebreak"
    )]
    Validate(FileArgs),
}

/// Which configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct FileArgs {
    /// Configuration file; environment overrides alone when absent.
    #[arg(long, value_name = "FILE", env = "ZONEBREAK_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
}

/// `config show`.
#[derive(Debug, Clone, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Form of the data on standard output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: FileFormat,
}

/// Runs the command.
pub fn run(command: &ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Defaults => print(&config::defaults())?,
        ConfigCommand::Show(args) => {
            let layers = Layers::of_process(args.file.config.clone(), Vec::new());
            let effective = layers.load(Requirement::Nothing).map_err(Failure::usage)?;
            print(&match args.output {
                FileFormat::Yaml => config::effective(&effective),
                FileFormat::Json => format!("{:#}", config::settings(&effective)),
            })?;
        }
        ConfigCommand::Validate(args) => {
            let layers = Layers::of_process(args.config.clone(), Vec::new());
            let effective = layers.load(Requirement::SourceIfServed).map_err(Failure::usage)?;
            Module::load(&effective.config.filter).map_err(Failure::usage)?;
            Tls::open(&effective.config.xds).map_err(Failure::usage)?;
            let etcd = effective.config.etcd.options().map_err(Failure::usage)?;
            if !etcd.endpoints.is_empty() {
                etcd.validate().map_err(failures::etcd)?;
            }
            eprintln!("the configuration is valid");
        }
    }
    Ok(Exit::Ok)
}
