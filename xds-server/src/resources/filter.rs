//! ECDS: the filter's module and configuration, for both of its roles.
//!
//! A policy change is a new configuration under the same name: Envoy gives it to the running VMs without draining a listener.
//! Only the downstream role carries policy, so the upstream one is sent once and stays.

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::common::mutation_rules::v3::{HeaderMutation as Mutation, header_mutation},
        config::core::v3::{
            AsyncDataSource, BackoffStrategy, DataSource, ExtensionConfigSource, TypedExtensionConfig,
            async_data_source, data_source,
        },
        extensions::{
            filters::{
                http::{
                    header_mutation::v3::{HeaderMutation, Mutations},
                    wasm::v3::Wasm,
                },
                network::http_connection_manager::v3::{HttpFilter, http_filter},
            },
            wasm::v3::{FailurePolicy, PluginConfig, ReloadConfig, VmConfig, plugin_config},
        },
    },
    google::protobuf::StringValue,
};
use prost::Name;
use zonebreak_core::{
    config::{CONFIG_VERSION, FilterConfig, MAX_SERVICES, Role, ServiceConfig},
    units::Millis,
};
use zonebreak_topology::view::{ServiceView, ZoneView};

use super::{listener::SERVE_HEADER, packed, sources};

/// The filter in the listener, by its ECDS name.
pub(super) const DOWNSTREAM: &str = "zonebreak";
/// The filter in the clusters, by its ECDS name.
pub(super) const UPSTREAM: &str = "zonebreak-upstream";

/// One VM a worker for both roles: they share what they know.
const VM_ID: &str = "zonebreak";

/// How the module reaches the proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Module {
    /// In the resource itself.
    Inline(Bytes),
    /// A file on the proxy's own disk.
    Path {
        /// Where.
        path: String,
        /// The hash it should have. Envoy checks none of a local file; told to the VM, it makes a replaced file be loaded
        /// again.
        sha256: String,
    },
}

/// A place in a filter chain that is filled by ECDS. Until the module arrives, and where it cannot be loaded, requests pass
/// with the internal header taken off: the data plane fails open.
pub(super) fn discovered(name: &str) -> HttpFilter {
    let strip = HeaderMutation {
        mutations: Some(Mutations {
            request_mutations: vec![Mutation {
                action: Some(header_mutation::Action::Remove(SERVE_HEADER.to_owned())),
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let source = ExtensionConfigSource {
        config_source: Some(sources::ads()),
        default_config: Some(packed(&strip)),
        type_urls: vec![Wasm::type_url(), HeaderMutation::type_url()],
        ..Default::default()
    };
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::ConfigDiscovery(source)),
        ..Default::default()
    }
}

/// Both roles' configurations.
pub(super) fn resources(module: &Module, view: &ZoneView, debug_header: bool) -> [TypedExtensionConfig; 2] {
    // The filter refuses more than it has room for, whole; what is beyond goes without a breaker, and the topology names it.
    let services = view
        .services
        .iter()
        .filter(|(_, view)| !view.zones.is_empty())
        .take(MAX_SERVICES)
        .map(|(name, view)| (name.clone(), service(view)))
        .collect();
    let downstream = FilterConfig {
        version: CONFIG_VERSION,
        role: Role::Downstream,
        zone: view.client_zone.clone(),
        services,
        debug_header,
    };
    let upstream = FilterConfig {
        version: CONFIG_VERSION,
        role: Role::Upstream,
        zone: None,
        services: Default::default(),
        debug_header: false,
    };
    [(DOWNSTREAM, downstream), (UPSTREAM, upstream)].map(|(name, config)| resource(name, module, &config))
}

/// Capacities are told as whole percents of the service: the filter needs proportions, and a configuration that stays the
/// same when one endpoint of thirty comes or goes is one that need not be sent. A zone that has any has at least one: with none it
/// would be one without endpoints, which is never left and takes no load.
fn service(view: &ServiceView) -> ServiceConfig {
    let total: u64 = view.zones.values().map(|capacity| u64::from(*capacity)).sum();
    let percent = |capacity: u32| {
        let share = (u64::from(capacity) * 100 + total / 2).checked_div(total).unwrap_or(0);
        share.max(u64::from(capacity > 0))
    };
    ServiceConfig {
        zones: view
            .zones
            .iter()
            .map(|(zone, capacity)| (zone.clone(), u32::try_from(percent(*capacity)).unwrap_or(100)))
            .collect(),
        policy: view.policy.clone(),
        shifts: view.shifts.clone(),
    }
}

fn resource(name: &str, module: &Module, config: &FilterConfig) -> TypedExtensionConfig {
    let (specifier, hash) = match module {
        Module::Inline(bytes) => (data_source::Specifier::InlineBytes(bytes.to_vec()), None),
        Module::Path { path, sha256 } => (data_source::Specifier::Filename(path.clone()), Some(sha256)),
    };
    let code = DataSource { specifier: Some(specifier), ..Default::default() };
    // Serializing plain structs to a string cannot fail; an empty configuration would be refused by the filter, loudly.
    let json = serde_json::to_string(config).unwrap_or_default();
    let wasm = Wasm {
        config: Some(PluginConfig {
            name: name.to_owned(),
            root_id: name.to_owned(),
            vm: Some(plugin_config::Vm::VmConfig(VmConfig {
                vm_id: VM_ID.to_owned(),
                runtime: "envoy.wasm.runtime.v8".to_owned(),
                code: Some(AsyncDataSource { specifier: Some(async_data_source::Specifier::Local(code)) }),
                configuration: hash.map(|hash| packed(&StringValue { value: hash.clone() })),
                ..Default::default()
            })),
            configuration: Some(packed(&StringValue { value: json })),
            // The default would answer 503 for ever after one crash. A reload takes some ms.
            failure_policy: FailurePolicy::FailReload.into(),
            reload_config: Some(ReloadConfig {
                backoff: Some(BackoffStrategy {
                    base_interval: Some(sources::duration(Millis(200))),
                    max_interval: Some(sources::duration(Millis::secs(2))),
                }),
            }),
            ..Default::default()
        }),
    };
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(packed(&wasm)) }
}
