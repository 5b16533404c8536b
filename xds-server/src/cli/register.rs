//! `zonebreak register`: keeps one endpoint known in etcd for as long as it runs.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use tokio_util::sync::CancellationToken;
use zonebreak_core::{
    names::{ServiceName, Zone},
    units::Millis,
};
use zonebreak_topology::{
    EtcdOptions, InstanceId,
    register::{self, RegisterError, RegisterEvent, RegisterOptions},
};

use super::{by_file, connect::EtcdArgs, failures, signal};
use crate::{
    exit::{Exit, Failure, Outcome},
    telemetry::log,
};

/// Registers an endpoint in etcd and keeps it registered.
///
/// The registration lives by a lease: it is renewed while this runs, put again when etcd lost it, and gone within the TTL when
/// this dies. SIGTERM or SIGINT deregister at once. Run it beside the service, once the service takes requests.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  export ZONEBREAK_ETCD__ENDPOINTS=http://10.0.0.1:2379
  zonebreak register --service order-svc --zone az-a --region eu-1 --address 10.0.0.7:8080
  zonebreak register --service order-svc --zone az-a --address 10.0.0.7:8080 --label version=1.4")]
pub struct RegisterArgs {
    /// The service it is an instance of.
    #[arg(long, value_name = "SERVICE")]
    service: ServiceName,
    /// Its name within the service [default: the address].
    #[arg(long, value_name = "NAME")]
    instance: Option<InstanceId>,
    /// The availability zone it runs in.
    #[arg(long, value_name = "ZONE")]
    zone: Zone,
    /// The region of that zone.
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Where it is reached; IPv6 in brackets.
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// Share of its zone's load relative to the other endpoints, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 1)]
    weight: u32,
    /// Free text for people and tools; may be given more than once.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// How long the registration outlives this process when it is killed, 2s to 10m.
    #[arg(long, value_name = "DURATION", default_value_t = RegisterOptions::DEFAULT_TTL)]
    ttl: Millis,
    #[command(flatten)]
    etcd: EtcdArgs,
}

/// Runs the command.
pub async fn run(args: RegisterArgs) -> Outcome {
    let options = RegisterOptions {
        service: args.service,
        instance: args.instance,
        zone: args.zone,
        region: args.region.unwrap_or_default(),
        address: args.address,
        weight: args.weight,
        labels: args.labels.into_iter().collect::<BTreeMap<_, _>>(),
        ttl: args.ttl,
    };
    options
        .endpoint()
        .and_then(|_| options.lease())
        .map_err(|invalid| Failure::usage(format_args!("failed to {}", RegisterError::Invalid(invalid))))?;
    let config = args.etcd.load(|| by_file::endpoint(&options))?;
    let etcd = config.etcd.options().map_err(Failure::usage)?;
    log::start(&config.log);
    let stop = CancellationToken::new();
    tokio::spawn(signal::stop(stop.clone()));
    let doubted = AtomicBool::new(false);
    let hear = |event: RegisterEvent| {
        if matches!(event, RegisterEvent::Registered { .. }) && !doubted.swap(true, Ordering::Relaxed) {
            tokio::spawn(doubt(options.clone(), etcd.clone()));
        }
        tell(&event);
    };
    register::run(&options, &etcd, stop, hear).await.map_err(|error| match error {
        RegisterError::Invalid(_) => Failure::usage(format_args!("failed to {error}")),
        RegisterError::Etcd(error) => failures::etcd(error),
    })?;
    Ok(Exit::Ok)
}

/// Tells whether the zone looks like a typing error. Whether it can be told is nothing that a registration depends on.
async fn doubt(options: RegisterOptions, etcd: EtcdOptions) {
    for stranger in register::strangers(&options, &etcd).await.unwrap_or_default() {
        tracing::warn!("{stranger}");
    }
}

fn tell(event: &RegisterEvent) {
    match event {
        RegisterEvent::Registered { .. } | RegisterEvent::Deregistered => tracing::info!("{event}"),
        RegisterEvent::Lost { .. }
        | RegisterEvent::Deleted
        | RegisterEvent::Superseded { .. }
        | RegisterEvent::Abandoned { .. } => tracing::warn!("{event}"),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("a label is written KEY=VALUE, not {text:?}")),
    }
}
