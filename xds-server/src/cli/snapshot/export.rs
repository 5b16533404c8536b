//! `zonebreak snapshot export` and `import`: a prefix as a file that people read and edit.

use std::{fs, path::PathBuf};

use zonebreak_replication::snapshot::{moment::Moment, restore::Place, save};

use super::{
    EtcdArgs, document, etcd, failure,
    restore::{Consent, Verb, carry_out},
};
use crate::{
    cli::output::{self, OutputArgs},
    exit::{Exit, Failure, Outcome},
};

/// The flags of `zonebreak snapshot export`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArgs {
    #[command(flatten)]
    etcd: EtcdArgs,
}

/// The flags of `zonebreak snapshot import`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// The file that `export` wrote.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Delete keys under the file's prefix that the file does not have.
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
}

const IMPORT: Verb = Verb { does: "import", doing: "importing", done: "imported" };

/// Runs `export`.
pub async fn export(args: ExportArgs) -> Outcome {
    let config = args.etcd.load(Vec::new())?;
    let prefix = config.replicate.prefix.as_str();
    let contents = save::read(&etcd(&config)?, prefix).await.map_err(failure)?;
    if contents.items.is_empty() {
        eprintln!("no key under {prefix:?}: check --prefix, and which etcd was asked");
    }
    output::print(&document::write(prefix, &contents))?;
    Ok(Exit::Ok)
}

/// Runs `import`.
pub async fn import(args: ImportArgs) -> Outcome {
    let config = args.etcd.load(Vec::new())?;
    let text = fs::read_to_string(&args.file)
        .map_err(|error| Failure::usage(format_args!("failed to read {}: {error}", args.file.display())))?;
    let read = document::read(&text)
        .map_err(|error| Failure::usage(format_args!("failed to use {}:{error}", args.file.display())))?;
    let moment = Moment::of_items(&read.prefix, read.items, read.leases);
    carry_out(&IMPORT, moment, Place::Anywhere, args.prune, &config, &args.consent, &args.output).await
}
