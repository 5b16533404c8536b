//! `zonebreak topology why`: what made each weight and priority that a proxy has. The explanation is the server's; this asks for
//! it and prints it.

use zonebreak_core::names::{ServiceName, Zone};

use super::{connect::ServerArgs, output::OutputArgs, tables};
use crate::{
    client::AdminClient,
    exit::{Exit, Outcome},
    model::Why,
};

/// `topology why`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("whom").required(true).args(["proxy", "zone"]))]
pub struct WhyArgs {
    /// The service.
    service: ServiceName,
    /// Explain what this proxy has (`node.id`).
    #[arg(long, value_name = "NODE")]
    proxy: Option<String>,
    /// Explain what a proxy in this zone gets.
    #[arg(long, value_name = "ZONE")]
    zone: Option<Zone>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
pub async fn run(args: &WhyArgs) -> Outcome {
    let client = AdminClient::new(&args.server.server)?;
    let asked = [
        ("service", Some(args.service.as_str())),
        ("proxy", args.proxy.as_deref()),
        ("zone", args.zone.as_ref().map(Zone::as_str)),
    ];
    let asked: Vec<(&str, &str)> =
        asked.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let why: Why = client.get_with("/why", &asked).await?;
    args.output.print(&why, |_| tables::why(&why))?;
    Ok(Exit::Ok)
}
