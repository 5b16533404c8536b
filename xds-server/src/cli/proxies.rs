//! `zonebreak proxies`: which proxy has what, and what it refused.

use jiff::Timestamp;

use super::{connect::ServerArgs, output::OutputArgs, tables};
use crate::{
    client::AdminClient,
    exit::{Exit, Failure, Outcome},
    model::{Proxy, QuarantineRow},
};

/// Lists the connected proxies and whether they have what they should have.
///
/// SYNCED: acknowledged. STALE: sent, or about to be, and not acknowledged. NACKED: refused; `zonebreak proxies NODE` says why.
/// Below them stand resources in quarantine: refused by the first proxies that got them, and given to nobody until they change.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  zonebreak proxies\n  zonebreak proxies sidecar-7f9c\n  zonebreak proxies -o json"
)]
pub struct ProxiesArgs {
    /// Show this proxy alone, with versions and refusals (`node.id`).
    #[arg(value_name = "NODE")]
    id: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
pub async fn run(args: ProxiesArgs) -> Outcome {
    let client = AdminClient::new(&args.server.server)?;
    let proxies: Vec<Proxy> = client.get("/proxies").await?;
    let quarantine: Vec<QuarantineRow> = client.get("/quarantine").await?;
    let now = Timestamp::now();
    let Some(id) = args.id else {
        args.output.print(&proxies, |wide| {
            tables::proxies(&proxies, now, wide) + &tables::quarantine(&quarantine, now)
        })?;
        return Ok(Exit::Ok);
    };
    let found: Vec<&Proxy> = proxies.iter().filter(|proxy| proxy.id == id).collect();
    if found.is_empty() {
        return Err(Failure::new(
            Exit::CheckFailed,
            format_args!("no proxy with node.id {id:?} is connected"),
        )
        .hint("`zonebreak proxies` lists those that are"));
    }
    args.output.print(&found, |_| {
        let each = found.iter().map(|proxy| tables::proxy(proxy, now)).collect::<Vec<_>>().join("\n");
        each + &tables::quarantine(&quarantine, now)
    })?;
    Ok(Exit::Ok)
}
