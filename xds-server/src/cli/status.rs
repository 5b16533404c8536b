//! `zonebreak status`: one screen of what a server serves.

use jiff::Timestamp;

use super::{
    connect::ServerArgs,
    output::{OutputArgs, warn},
    tables,
};
use crate::{
    client::AdminClient,
    exit::{Exit, Outcome},
    model::Status,
};

/// Shows one screen: source, filter, proxies in sync, zones, services, refused values.
///
/// Asks the server's admin port.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  zonebreak status\n  zonebreak status --server http://10.0.0.9:19000 -o json"
)]
pub struct StatusArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
pub async fn run(args: StatusArgs) -> Outcome {
    let status: Status = AdminClient::new(&args.server.server)?.get("/status").await?;
    warn(&status.strangers);
    args.output.print(&status, |wide| tables::status(&status, Timestamp::now(), wide))?;
    Ok(Exit::Ok)
}
