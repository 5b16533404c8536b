//! `zonebreak snapshot save`: one file of everything under a prefix, now.

use std::sync::Arc;

use zonebreak_replication::snapshot::{Progress, save};

use super::{Bar, PlaceArgs, catalog, etcd, failure, ls::Row};
use crate::exit::{Exit, Outcome};

/// The flags of `zonebreak snapshot save`.
#[derive(Debug, Clone, clap::Args)]
pub struct SaveArgs {
    #[command(flatten)]
    place: PlaceArgs,
}

/// Runs the command.
pub async fn run(args: SaveArgs) -> Outcome {
    let config = args.place.load(None)?;
    let progress = Arc::new(Progress::default());
    let bar = Bar::new("saving", &progress);
    let saved = save::save(&etcd(&config)?, &config.replicate.prefix, &catalog(&config), progress).await;
    drop(bar);
    let row = Row::of(&saved.map_err(failure)?);
    args.place.output.print(&row, |wide| Row::table(std::slice::from_ref(&row), wide))?;
    Ok(Exit::Ok)
}
