//! All resources of one zone's view.

use std::{collections::BTreeSet, sync::Arc};

use zonebreak_core::names::ServiceName;
use zonebreak_topology::view::ZoneView;
use zonebreak_xds::{ChangeId, Resource, Snapshot, SnapshotError, TypeUrl};

use super::{cluster, endpoint, filter, listener, route};

/// What operators choose for all services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Address that the proxies' listeners bind to.
    pub listener_address: String,
    /// The filter; without one, proxies get zones and retries but no breaker.
    pub module: Option<filter::Module>,
    /// Have proxies name each decision in a response header.
    pub debug_header: bool,
}

/// A host name that two services of one port claim. The first by name has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clash {
    /// The service that did not get it.
    pub service: ServiceName,
    /// The host name.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The snapshot of a view, and the host names in it that two services claim. `previous` is what it replaces: content that
/// stays is shared.
///
/// # Errors
/// When two resources would have the same name, which service names being keys of a map rules out.
pub fn snapshot(
    view: &ZoneView,
    options: &Options,
    change: ChangeId,
    previous: Option<&Arc<Snapshot>>,
) -> Result<(Snapshot, BTreeSet<Clash>), SnapshotError> {
    let mut builder = Snapshot::builder(change);
    if let Some(previous) = previous {
        builder = builder.based_on(previous);
    }
    let mut clashes = BTreeSet::new();
    for (service, view) in &view.services {
        let cluster =
            Resource::encode(service, &cluster::cluster(service, &view.policy, options.module.is_some()));
        builder.put(asking_for(cluster, options, filter::UPSTREAM))?;
        builder.put(Resource::encode(service, &endpoint::assignment(service, view)))?;
    }
    let ports: BTreeSet<u16> = view.services.values().map(|service| service.policy.port).collect();
    for port in ports {
        let listener = listener::listener(&options.listener_address, port, options.module.is_some());
        let listener = Resource::encode(&listener::name(port), &listener)
            .with_child(TypeUrl::ROUTE, &listener::name(port));
        builder.put(asking_for(listener, options, filter::DOWNSTREAM))?;
        let services = view.services.iter().map(|(name, service)| (name, &**service));
        let services = services.filter(|(_, service)| service.policy.port == port);
        let routes = route::routes(port, services, |service, host| {
            clashes.insert(Clash { service: service.clone(), host: host.to_owned(), port });
        });
        builder.put(Resource::encode(&listener::name(port), &routes))?;
    }
    if let Some(module) = &options.module {
        for config in filter::resources(module, view, options.debug_header) {
            builder.put(Resource::encode(&config.name, &config))?;
        }
    }
    Ok((builder.build(), clashes))
}

/// Notes that a resource waits for the filter before the proxy uses it.
fn asking_for(resource: Resource, options: &Options, filter: &str) -> Resource {
    match options.module {
        Some(_) => resource.with_child(TypeUrl::EXTENSION_CONFIG, filter),
        None => resource,
    }
}
